package authz

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/authz/compiled"
)

// ErrChance reports that a decision depends on what the record does not have: the
// answer of a built-in function that is not always the same, other than the clock.
var ErrChance = errors.New("the policy's answer depends on chance")

// Recorded is what a decision was about, as it is kept.
type Recorded struct {
	Document       map[string]any // the input document
	Mapped         string         // as in the [Request]
	At             time.Time      // what the policy saw as now
	Nondeterminism Nondeterminism
}

// Replay decides again what r is about, as if it were then, with the answers of
// built-ins that are on record, and narrows by the grants of the key in it: what
// an engine with this policy would have answered. A policy that fails or takes
// longer than deadline denies as it would there. What cannot be decided again is
// an error: [ErrChance], or a document that is none.
func (p *Policy) Replay(ctx context.Context, r Recorded, deadline time.Duration) (Decision, error) {
	q, err := questionIn(r.Document)
	if err != nil {
		return Decision{}, err
	}
	q.Mapped = r.Mapped
	value, err := ast.InterfaceToValue(r.Document)
	if err != nil {
		return Decision{}, fmt.Errorf("input: %w", err)
	}
	return p.again(ctx, q, compiled.Document{Term: ast.NewTerm(value)}, r.At, r.Nondeterminism, deadline)
}

// Retry is Replay of a decision that was just made, as [Engine.Watch] tells it. It
// may add to what is in o.Nondeterminism.
func (p *Policy) Retry(ctx context.Context, o Outcome, deadline time.Duration) (Decision, error) {
	in, err := ask(o.Request, o.Facts, o.Decision.Time)
	if err != nil {
		return Decision{}, err
	}
	return p.again(ctx, o.Request, in, o.Decision.Time, o.Nondeterminism, deadline)
}

// again decides q, which is in. It may add to nd.
func (p *Policy) again(ctx context.Context, q Request, in compiled.Input, at time.Time, nd Nondeterminism, deadline time.Duration) (Decision, error) {
	d := Decision{Time: at, Revision: p.revision}
	known := map[string]int{}
	if !p.nondeterministic {
		nd.cache = nil
	} else if nd.cache == nil {
		nd.cache = builtins.NDBCache{}
	}
	for name, answers := range nd.cache {
		known[name] = answers.Len()
	}
	answer, _, err := p.evaluate(ctx, decisionRule, in, at, time.Now().Add(deadline), nd.cache)
	for name, answers := range nd.cache {
		if name != ast.NowNanos.Name && answers.Len() > known[name] {
			return Decision{}, fmt.Errorf("%w: %s", ErrChance, name)
		}
	}
	if err == nil {
		err = read(&d, answer)
	}
	switch {
	case ctx.Err() != nil:
		return Decision{}, ctx.Err()
	case errors.Is(err, errDeadline):
		return refuse(d, CodeDeadline, deadlineMessage), nil
	case err != nil:
		return refuse(d, CodePolicyError, failedMessage), nil
	}
	return narrow(d, q), nil
}

// questionIn makes of a document the request that it was built from, as far as
// narrowing looks at it.
func questionIn(document map[string]any) (Request, error) {
	var r Request
	principal, ok1 := document["principal"].(map[string]any)
	action, ok2 := document["action"].(map[string]any)
	resource, ok3 := document["resource"].(map[string]any)
	name, ok4 := action["name"].(string)
	kind, ok5 := resource["type"].(string)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 {
		return r, errors.New("the input is not that of a decision")
	}
	r.Action.Name, r.Resource.Type = name, kind
	key, keyed := principal["key"]
	if !keyed {
		return r, nil
	}
	facts := &KeyFacts{Permissions: Permissions{}}
	of, ok := key.(map[string]any)
	if !ok {
		return r, errors.New("the key in the input is not an object")
	}
	facts.Name, _ = of["name"].(string)
	grants, ok := of["permissions"].(map[string]any)
	if !ok {
		return r, errors.New("the grants of the key are not in the input")
	}
	for t, list := range grants {
		actions, ok := list.([]any)
		if !ok {
			return r, errors.New("the grants of the key are not lists")
		}
		for _, a := range actions {
			action, ok := a.(string)
			if !ok {
				return r, errors.New("the grants of the key are not names")
			}
			facts.Permissions[t] = append(facts.Permissions[t], action)
		}
	}
	r.Subject = access.NewSubject(Identity{Key: facts}, nil)
	return r, nil
}
