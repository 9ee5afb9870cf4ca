package opa

import (
	"maps"
	"time"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
)

// decide answers data.ostiary.decision, or what is below it, about the subject
// that the input names. permit is the decision that let the caller ask.
func (c *call) decide(rest authz.Path, o authz.QueryOptions, permit authz.Decision) (authz.Answer, string, error) {
	if o.Input == nil {
		return authz.Answer{Revision: permit.Revision}, permit.ID, nil
	}
	q, err := c.question(*o.Input)
	if err != nil {
		return authz.Answer{}, "", err
	}
	began := time.Now()
	d, err := c.Engine.Decide(c.ctx, q)
	if err != nil {
		return authz.Answer{}, "", err
	}
	a := authz.Answer{Revision: d.Revision}
	a.Value, a.Defined = rest.In(document(d))
	if o.Metrics || o.Instrument {
		a.Metrics = map[string]any{"timer_rego_query_eval_ns": time.Since(began).Nanoseconds()}
	}
	return a, d.ID, nil
}

// question reads an input document. Of its principal only type, id and
// properties count: what else there is to know is the store's to say.
func (c *call) question(in any) (authz.Request, error) {
	var q authz.Request
	doc, ok := in.(map[string]any)
	if !ok {
		return q, invalid("input is not an object")
	}
	name := "principal"
	if _, ok := doc[name]; !ok {
		name = "subject"
	}
	subject, err := entity(doc, name)
	if err != nil {
		return q, err
	}
	if subject.ID == "" {
		return q, invalid("input." + name + ".id is missing")
	}
	action, err := object(doc, "action")
	if err != nil {
		return q, err
	}
	if q.Action.Name, err = text(action, "name"); err != nil {
		return q, err
	}
	if q.Action.Name == "" {
		return q, invalid("input.action.name is missing")
	}
	if q.Action.Properties, err = object(action, "properties"); err != nil {
		return q, err
	}
	if q.Resource, err = entity(doc, "resource"); err != nil {
		return q, err
	}
	if q.Context, err = object(doc, "context"); err != nil {
		return q, err
	}
	q.Subject, err = c.Directory.Assert(c.ctx, c.caller, "evaluate", directory.Ref{Type: subject.Type, ID: subject.ID, Properties: subject.Properties})
	return q, err
}

// entity reads a member with type, id and properties.
func entity(doc map[string]any, name string) (authz.Resource, error) {
	var e authz.Resource
	m, err := object(doc, name)
	if err != nil {
		return e, err
	}
	if e.Type, err = text(m, "type"); err != nil {
		return e, err
	}
	if e.Type == "" {
		return e, invalid("input." + name + ".type is missing")
	}
	if e.ID, err = text(m, "id"); err != nil {
		return e, err
	}
	if v, there := m["id"]; there && v == "" {
		// Not the same as no id: that asks about the type as a whole.
		return e, invalid("input." + name + ".id is empty")
	}
	e.Properties, err = object(m, "properties")
	return e, err
}

// document is d as the rule would give it.
func document(d authz.Decision) map[string]any {
	reasons := make([]any, len(d.Reasons))
	for i, r := range d.Reasons {
		m := map[string]any{}
		maps.Copy(m, r.Details)
		m["code"], m["message"] = r.Code, r.Message
		if r.Permission != "" {
			m["permission"] = r.Permission
		}
		reasons[i] = m
	}
	about := d.Context
	if about == nil {
		about = map[string]any{}
	}
	return map[string]any{"allow": d.Allow, "reasons": reasons, "context": about}
}
