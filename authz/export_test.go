package authz

import (
	"context"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/ostiary/ostiary/authz/compiled"
)

// Both answers a rule about an input document by its program and by topdown.
// sure is whether the program had an answer of its own.
func (p *Policy) Both(ctx context.Context, rule string, document any, now time.Time) (fast, reference ast.Value, sure bool, err error) {
	in := glancing{ast.NewTerm(ast.MustInterfaceToValue(document))}
	deadline := time.Now().Add(time.Minute)
	fast, sure, err = run(ctx, p.programs.of(rule), in, now, deadline, nil)
	if err != nil {
		return nil, nil, sure, err
	}
	reference, err = p.topdown.evaluate(ctx, rule, in, now, deadline, nil)
	return fast, reference, sure, err
}

// glancing shows an empty object to whoever glances at one.
type glancing struct{ document *ast.Term }

func (g glancing) Document() *ast.Term { return g.document }

func (g glancing) Find(path []*ast.Term, glance bool) (*ast.Term, bool) {
	t := g.document
	for _, key := range path {
		if t = t.Get(key); t == nil {
			return nil, true
		}
	}
	if _, ok := t.Value.(ast.Object); ok && glance {
		return noProperties, true
	}
	return t, true
}

// Input is what policies read of r.
func Input(r Request, facts *Facts, now time.Time) (compiled.Input, error) { return ask(r, facts, now) }

// InCommon is how many roles and grants are shared, or could be.
func InCommon() int {
	n := 0
	commons.Range(func(any, any) bool { n++; return true })
	return n
}

// DecideLike makes p's program that of another policy: a wrong one.
func (p *Policy) DecideLike(other *Policy) { p.programs = other.programs }

// Become makes p answer as another policy in every way.
func (p *Policy) Become(other *Policy) { p.programs, p.topdown = other.programs, other.topdown }

// RecheckEach has e make each nth decision by both evaluators, and not by chance.
func (e *Engine) RecheckEach(n int) {
	turn := 0
	e.due = func() bool { turn++; return turn%n == 0 }
}
