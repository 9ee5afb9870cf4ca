package server

import (
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

const (
	defaultPage = 50
	maxPage     = 500
)

// Who follows the log is told of decisions a moment after they are made: by
// then other instances have written those that came before.
const (
	followDelay = time.Second
	followEvery = 500 * time.Millisecond
	maxWait     = 30 // seconds
	maxFollow   = 64 // requests that wait at once; more are answered at once
)

// decisions lists what was decided, newest first. Pages are told apart by the
// last id of the one before, so none is seen twice while more are written. With
// after or wait the oldest come first.
func (s *server) decisions(c *call) error {
	if err := s.ask(c, "read", authz.Resource{Type: "decision"}); err != nil {
		return err
	}
	in := queryOf(c.r, "principal", "key", "assertedBy", "action", "resourceType", "resourceId", "allow", "code", "revision", "since", "until", "before", "after", "wait", "limit")
	q := audit.Query{
		PrincipalID: in.text("principal"), KeyID: in.text("key"), AssertedBy: in.text("assertedBy"), Action: in.text("action"),
		ResourceType: in.text("resourceType"), ResourceID: in.text("resourceId"), Allow: in.boolean("allow"),
		Code: in.text("code"), Revision: in.text("revision"), Since: in.time("since"), Until: in.time("until"),
		Before: in.text("before"), After: in.text("after"), Limit: in.number("limit", 1, maxPage, defaultPage),
	}
	wait := time.Duration(in.number("wait", 0, maxWait, 0)) * time.Second
	follow := c.r.URL.Query().Has("wait")
	q.OldestFirst = q.After != "" || follow
	if q.OldestFirst && q.Before != "" {
		in.wrong("before", "goes with neither after nor wait")
	}
	if follow && q.After == "" && q.Since.IsZero() {
		in.wrong("wait", "needs after or since")
	}
	if err := in.err(); err != nil {
		return err
	}
	records, err := s.records(c, q, follow, wait)
	if err != nil {
		return err
	}
	page := struct {
		Decisions []audit.Document `json:"decisions"`
		Next      *string          `json:"next"` // before, or after, of the next page; null: this is the last
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

// records reads a page. Who follows waits until there is something on it.
func (s *server) records(c *call, q audit.Query, follow bool, wait time.Duration) ([]audit.Record, error) {
	if !follow {
		return s.Audit.Records(c.ctx, q)
	}
	if s.following.Add(1) > maxFollow {
		wait = 0
	}
	defer s.following.Add(-1)
	end, until := time.After(wait), q.Until
	for {
		q.Until = s.Clock().Add(-followDelay)
		if !until.IsZero() && until.Before(q.Until) {
			q.Until = until
		}
		records, err := s.Audit.Records(c.ctx, q)
		if err != nil || len(records) > 0 || wait == 0 {
			return records, err
		}
		select {
		case <-end:
			return nil, nil
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		case <-time.After(followEvery):
		}
	}
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
