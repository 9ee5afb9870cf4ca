package authz

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/ostiary/ostiary/access"
)

// ErrChance reports that a decision depends on what the record does not have: the
// answer of a built-in function that is not always the same, other than the clock.
var ErrChance = errors.New("the policy's answer depends on chance")

// Replay decides an input document that was recorded, as if it were at, with the
// answers nd of built-ins that are on record, and narrows by the grants of the key
// in it: what an engine with this policy would have answered then. A policy that
// fails or takes longer than deadline denies as it would there. What cannot be
// decided again is an error: [ErrChance], or a document that is none.
func (p *Policy) Replay(ctx context.Context, document map[string]any, at time.Time, nd Nondeterminism, deadline time.Duration) (Decision, error) {
	d := Decision{Time: at, Revision: p.revision}
	q, err := questionIn(document)
	if err != nil {
		return Decision{}, err
	}
	value, err := ast.InterfaceToValue(document)
	if err != nil {
		return Decision{}, fmt.Errorf("input: %w", err)
	}
	limit := &limit{ctx: ctx, deadline: time.Now().Add(deadline)}
	query := p.topdown.query(decisionRule, ast.NewTerm(value), at).WithCancel(limit)
	known := map[string]int{}
	if p.nondeterministic {
		for name, answers := range nd.cache {
			known[name] = answers.Len()
		}
		if nd.cache == nil {
			nd.cache = builtins.NDBCache{}
		}
		query = query.WithNDBuiltinCache(nd.cache)
	}
	answer, err := result(ctx, query)
	if topdown.IsCancel(err) {
		err = limit.cause()
	}
	for name, answers := range nd.cache {
		if p.nondeterministic && name != ast.NowNanos.Name && answers.Len() > known[name] {
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
		return refuse(d, CodeDeadline, "the policy took longer than it may"), nil
	case err != nil:
		return refuse(d, CodePolicyError, "the policy failed"), nil
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
	if kind == "route" {
		// Requests through a reverse proxy are mapped, by the tables of then.
		properties, _ := resource["properties"].(map[string]any)
		r.Mapped, _ = properties["permission"].(string)
	}
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
