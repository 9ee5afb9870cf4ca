package server

import (
	"net/http"
	"slices"
	"strings"

	"github.com/ostiary/ostiary/authz"
)

// maxFields bounds the columns that one request may name.
const maxFields = 100

type filterRequest struct {
	Action   action                   `json:"action"`
	Resource resource                 `json:"resource"`
	Context  object                   `json:"context"`
	Target   field[string]            `json:"target"`
	Fields   field[map[string]column] `json:"fields"`
}

// column is where an application keeps a field.
type column struct {
	Column field[string] `json:"column"`
	Type   field[string] `json:"type"`
}

type filterResponse struct {
	// Matches is "all", "none" or "some": the rows for which the condition holds.
	Matches        string         `json:"matches"`
	SQL            string         `json:"sql,omitempty"`
	Args           []any          `json:"args,omitempty"`
	UCAST          map[string]any `json:"ucast,omitempty"`
	PolicyRevision string         `json:"policyRevision"`
}

// Targets of filters.
const (
	targetUCAST = "ucast"
	targetSQL   = "sql+" // and one of dialects
)

var dialects = []string{"mysql", "postgresql", "sqlite"}

var fieldKinds = map[string]authz.FieldKind{"text": authz.Text, "number": authz.Number, "boolean": authz.Boolean}

// filter turns "on which of these may I?" into a condition on the rows of the
// application's own table: those for which the policy would permit the action.
func (s *server) filter(c *call) error {
	in, err := decode[filterRequest](s, c)
	if err != nil {
		return err
	}
	r := &in.Resource
	switch {
	case in.Action.name == "":
		return invalid("/action", "is required")
	case r.Type.value == "":
		return invalid("/resource/type", "is required")
	case r.ID.set:
		return invalid("/resource/id", "must not be there: the filter is about all of the type")
	case !in.Fields.set:
		return invalid("/fields", "is required")
	case len(in.Fields.value) > maxFields:
		return invalid("/fields", "has more than %d members", maxFields)
	}
	kinds, columns := authz.Fields{}, map[string]string{}
	for name, f := range in.Fields.value {
		kind, ok := fieldKinds[f.Type.value]
		switch {
		case name != "id" && !strings.HasPrefix(name, "properties."):
			return invalid("/fields", "names are id and properties.NAME, not %q", name)
		case !ok:
			return invalid("/fields", "%s: the type must be one of boolean, number and text", name)
		case name == "id" && kind != authz.Text:
			return invalid("/fields", "id: ids are text")
		case name == "id":
			kind = authz.AlwaysText
		}
		kinds[name] = kind
		if columns[name] = name; f.Column.set {
			columns[name] = f.Column.value
		}
	}
	dialect, sql := strings.CutPrefix(in.Target.value, targetSQL)
	if sql = sql && slices.Contains(dialects, dialect); !sql && in.Target.value != targetUCAST {
		return invalid("/target", "must be one of sql+mysql, sql+postgresql, sql+sqlite and ucast")
	}
	f, err := s.Engine.Filter(c.ctx, authz.Request{
		Subject:  c.caller.Subject(),
		Action:   authz.Action{Name: in.Action.name, Properties: in.Action.properties},
		Resource: authz.Resource{Type: r.Type.value, Properties: r.Properties},
		Context:  in.Context,
	}, authz.UnknownResource, kinds.Kind)
	if err != nil {
		return unavailable(err)
	}
	if !f.Exact() {
		p := problem(http.StatusUnprocessableEntity, CodeNotAFilter, "the policy cannot be said as a condition on these fields; ask about the things one by one")
		// They quote rules, with what they read in data.
		quoted, err := s.Engine.Judge().Decide(c.ctx, authz.Request{Subject: c.caller.Subject(), Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "policy"}})
		if err != nil {
			return unavailable(err)
		}
		for _, part := range f.Unsaid {
			if !quoted.Allow {
				break
			}
			p.Errors = append(p.Errors, FieldError{"", part})
		}
		return p
	}
	out := filterResponse{Matches: "some", PolicyRevision: f.Revision}
	switch f.Sure.Op {
	case authz.Always:
		out.Matches = "all"
	case authz.Never:
		out.Matches = "none"
	}
	if !sql {
		out.UCAST = f.Sure.UCAST()
		return answer(c.w, http.StatusOK, out)
	}
	if out.SQL, out.Args, err = s.FilterSQL(dialect, f.Sure, columns, kinds); err != nil {
		return err
	}
	return answer(c.w, http.StatusOK, out)
}
