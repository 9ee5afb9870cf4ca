package authz

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Explanation is a decision with the rules that led to it.
type Explanation struct {
	Decision Decision
	Fired    []Rule // rules that held, in the order in which they were tried
	Failed   []Rule // rules that were tried and did not hold
}

// Rule is a place in a policy.
type Rule struct {
	Name string `json:"rule"` // data.ostiary.owner_banned
	File string `json:"file"`
	Line int    `json:"line"`
}

// Explain decides r again, with every rule tried instead of only those that
// matter, and says which held. It is much slower than Decide; nothing is
// recorded.
func (e *Engine) Explain(ctx context.Context, r Request) (Explanation, error) {
	p := e.policy.Load()
	if p == nil {
		return Explanation{}, errors.New("no policy is in force")
	}
	r, err := e.described(ctx, r)
	if err != nil {
		return Explanation{}, err
	}
	facts := FactsFrom(ctx)
	now := e.clock()
	in, err := input(r, facts, now)
	if err != nil {
		return Explanation{}, err
	}
	trace := topdown.NewBufferTracer()
	limit := &limit{ctx: ctx, deadline: time.Now().Add(10 * e.deadline)}
	q := p.topdown.query(decisionRule, in, now).
		WithCancel(limit).
		WithQueryTracer(trace).
		WithIndexing(false).
		WithEarlyExit(false)
	v, err := result(ctx, q)
	if topdown.IsCancel(err) {
		err = limit.cause()
	}
	if err != nil {
		return Explanation{}, fmt.Errorf("explain: %w", err)
	}
	d := Decision{Time: now, Revision: p.revision}
	if err := d.read(v); err != nil {
		return Explanation{}, fmt.Errorf("explain: %w", err)
	}
	x := Explanation{Decision: narrow(d, r)}
	x.Fired, x.Failed = rules(*trace)
	return x, nil
}

// rules sorts the rules that a trace entered into those that held at least
// once and those that never did.
func rules(trace []*topdown.Event) (fired, failed []Rule) {
	held := map[*ast.Rule]bool{}
	var tried []*ast.Rule
	for _, event := range trace {
		rule, ok := event.Node.(*ast.Rule)
		if !ok {
			continue
		}
		switch event.Op {
		case topdown.EnterOp:
			if _, seen := held[rule]; !seen {
				held[rule] = false
				tried = append(tried, rule)
			}
		case topdown.ExitOp:
			held[rule] = true
		}
	}
	for _, rule := range tried {
		place := Rule{Name: rule.Ref().GroundPrefix().String(), File: rule.Location.File, Line: rule.Location.Row}
		if held[rule] {
			fired = append(fired, place)
		} else {
			failed = append(failed, place)
		}
	}
	return fired, failed
}
