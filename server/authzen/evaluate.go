package authzen

import (
	"context"
	"errors"
	"net/http"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/server/request"
)

// Decision is the answer to one evaluation. A policy's reasons are not in it
// unless they are asked for ([request.TellsReasons]): callers may take a permit
// with a context that they do not understand for a denial. They are in the record
// of the decision.
type Decision struct {
	Decision bool           `json:"decision"`
	Context  map[string]any `json:"context,omitempty"`

	Reasons  []authz.Reason `json:"reasons,omitempty"`
	Revision string         `json:"policyRevision,omitempty"`
}

// Evaluation answers whether one subject may do one thing to one resource.
func (s *Surface) Evaluation(r *http.Request, caller authn.Principal) (any, error) {
	body, err := s.decode(r)
	if err != nil {
		return nil, err
	}
	return s.single(r, caller, body)
}

func (s *Surface) single(r *http.Request, caller authn.Principal, body object) (any, error) {
	q, err := body.question()
	if err != nil {
		return nil, err
	}
	d, err := s.panel(caller).decide(r.Context(), q)
	answer := Decision{Decision: d.Allow, Context: d.Context}
	if request.TellsReasons(r) {
		answer.Reasons, answer.Revision = d.Reasons, d.Revision
	}
	return answer, err
}

// panel decides questions of one caller, all by the same policy.
type panel struct {
	decider  authz.Decider
	subjects *directory.Assertions
}

func (s *Surface) panel(caller authn.Principal) panel {
	return panel{s.engine.Now(), s.directory.Assertions(caller, "evaluate")}
}

// decide answers q. The error says that the caller may not ask, or that there is
// no answer.
func (p panel) decide(ctx context.Context, q question) (authz.Decision, error) {
	subject, err := p.subjects.Subject(ctx, q.subject)
	if err != nil || !q.named() {
		return authz.Decision{}, err
	}
	return p.decider.Decide(ctx, authz.Request{Subject: subject, Action: q.action, Resource: q.resource, Context: q.context})
}

// Batch is the answer to several evaluations.
type Batch struct {
	Evaluations []Decision `json:"evaluations"`
}

// When a batch ends before its end: behind the first evaluation that is decided so.
var semantics = map[string]struct{ stops, on bool }{
	"execute_all":            {},
	"deny_on_first_deny":     {true, false},
	"permit_on_first_permit": {true, true},
}

// Evaluations answers several questions, in order. Without any it answers as
// Evaluation does.
func (s *Surface) Evaluations(r *http.Request, caller authn.Principal) (any, error) {
	body, err := s.decode(r)
	if err != nil {
		return nil, err
	}
	b, err := body.batch(s.most)
	if err != nil {
		return nil, err
	}
	if len(b.items) == 0 {
		return s.single(r, caller, body)
	}
	return s.batch(r.Context(), caller, b)
}

// batch is what a batch asks: items that are whole, or the mistakes in them.
type batch struct {
	items     []item
	stops, on bool
}

type item struct {
	question
	err error // a question that is not as it must be
}

// batch reads a batch of at most this many. The error is about the payload as a
// whole.
func (o object) batch(most int) (b batch, err error) {
	options, err := o.member("options")
	if err != nil {
		return b, err
	}
	if v, there := options["evaluations_semantic"]; there {
		name, _ := v.(string)
		semantic, known := semantics[name]
		if !known {
			return b, bad("options.evaluations_semantic: must be execute_all, deny_on_first_deny or permit_on_first_permit")
		}
		b.stops, b.on = semantic.stops, semantic.on
	}
	v, there := o["evaluations"]
	if !there {
		return b, nil
	}
	evaluations, ok := v.([]any)
	switch {
	case !ok:
		return b, bad("evaluations: must be an array")
	case len(evaluations) > most:
		return b, bad("evaluations: more than %d", most)
	}
	// Whether a default is whole is of interest where it is used.
	for _, name := range []string{"subject", "action", "resource"} {
		if _, err := o.member(name); err != nil {
			return b, err
		}
	}
	if _, err := o.context(); err != nil {
		return b, err
	}
	b.items = make([]item, len(evaluations))
	for i, v := range evaluations {
		evaluation, ok := v.(map[string]any)
		if !ok {
			return b, bad("evaluations[%d]: must be an object", i)
		}
		b.items[i].question, b.items[i].err = object(evaluation).over(o).question()
	}
	return b, nil
}

// over returns the evaluation o with what it lacks from the defaults. A member
// that is there counts as it is: nothing is merged within one.
func (o object) over(defaults object) object {
	whole := object{}
	for _, name := range []string{"subject", "action", "resource", "context"} {
		v, there := o[name]
		if !there || name == "context" && v == nil {
			v, there = defaults[name]
		}
		if there {
			whole[name] = v
		}
	}
	return whole
}

func (s *Surface) batch(ctx context.Context, caller authn.Principal, b batch) (any, error) {
	p := s.panel(caller)
	answer := Batch{make([]Decision, 0, len(b.items))}
	// refused is why the caller may not ask: if it may ask nothing of what is
	// here, that is the answer, and otherwise a mistake of the items concerned.
	var refused error
	decided := false
	for _, it := range b.items {
		d, err := Decision{}, it.err
		if err == nil {
			var made authz.Decision
			made, err = p.decide(ctx, it.question)
			d = Decision{Decision: made.Allow, Context: made.Context}
			decided = decided || err == nil
		}
		mistake, isMistake := errors.AsType[*Error](err)
		switch {
		case err == nil:
		case isMistake:
			d = failed(mistake.Status, mistake.Message)
		case errors.Is(err, authz.ErrDenied):
			refused = err
			d = failed(http.StatusForbidden, "subject: the caller may not ask about it")
		default:
			return nil, err
		}
		answer.Evaluations = append(answer.Evaluations, d)
		if b.stops && d.Decision == b.on {
			break
		}
	}
	if refused != nil && !decided {
		return nil, refused
	}
	return answer, nil
}

// failed is the denial of an evaluation that could not be decided.
func failed(status int, message string) Decision {
	return Decision{Context: map[string]any{"error": map[string]any{"status": status, "message": message}}}
}
