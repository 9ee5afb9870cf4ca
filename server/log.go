package server

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

const (
	defaultPage = 50
	maxPage     = 500
)

// decisions lists what was decided, newest first. Pages are told apart by the
// last id of the one before, so none is seen twice while more are written.
func (s *server) decisions(c *call) error {
	if err := s.ask(c, "read", authz.Resource{Type: "decision"}); err != nil {
		return err
	}
	in := queryOf(c.r, "principal", "key", "action", "resourceType", "resourceId", "allow", "code", "revision", "since", "until", "before", "limit")
	q := audit.Query{
		PrincipalID: in.text("principal"), KeyID: in.text("key"), Action: in.text("action"),
		ResourceType: in.text("resourceType"), ResourceID: in.text("resourceId"), Allow: in.boolean("allow"),
		Code: in.text("code"), Revision: in.text("revision"), Since: in.time("since"), Until: in.time("until"),
		Before: in.text("before"), Limit: in.number("limit", 1, maxPage, defaultPage),
	}
	if err := in.err(); err != nil {
		return err
	}
	records, err := s.Audit.Records(c.ctx, q)
	if err != nil {
		return err
	}
	page := struct {
		Decisions []audit.Document `json:"decisions"`
		Next      *string          `json:"next"` // before of the next page; null: this is the last
	}{Decisions: make([]audit.Document, len(records))}
	for i := range records {
		// What the policy saw is told with one decision only.
		page.Decisions[i] = records[i].Document()
		page.Decisions[i].Input, page.Decisions[i].NDBuiltinCache = nil, nil
	}
	if len(records) == q.Limit {
		page.Next = &records[len(records)-1].ID
	}
	return answer(c.w, http.StatusOK, page)
}

// decision tells one decision with all that it was made of.
func (s *server) decision(c *call) error {
	id := chi.URLParam(c.r, "id")
	if err := s.ask(c, "read", authz.Resource{Type: "decision", ID: id}); err != nil {
		return err
	}
	record, err := s.Audit.Record(c.ctx, id)
	if err != nil {
		return err
	}
	return answer(c.w, http.StatusOK, record.Document())
}

type eventDocument struct {
	ID         string                 `json:"id"`
	Time       stamp                  `json:"time"`
	Kind       string                 `json:"kind"`
	Principal  audit.ActorDocument    `json:"principal"`
	Target     audit.ResourceDocument `json:"target"`
	DecisionID string                 `json:"decisionId,omitempty"`
	Details    map[string]any         `json:"details,omitempty"`
}

// events lists what was changed, newest first.
func (s *server) events(c *call) error {
	if err := s.ask(c, "read", authz.Resource{Type: "event"}); err != nil {
		return err
	}
	in := queryOf(c.r, "limit")
	limit := in.number("limit", 1, maxPage, defaultPage)
	if err := in.err(); err != nil {
		return err
	}
	events, err := s.Audit.Events(c.ctx, limit)
	if err != nil {
		return err
	}
	out := make([]eventDocument, len(events))
	for i, e := range events {
		out[i] = eventDocument{e.ID, stamp(e.At), e.Kind, audit.ActorDocument(e.Actor), audit.ResourceDocument{Type: e.TargetType, ID: e.TargetID}, e.DecisionID, e.Details}
	}
	return answer(c.w, http.StatusOK, struct {
		Events []eventDocument `json:"events"`
	}{out})
}
