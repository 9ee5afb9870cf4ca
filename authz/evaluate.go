package authz

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/ostiary/ostiary/authz/compiled"
)

// programs are the rules that answer requests, compiled. OPA's topdown stays
// the reference: it explains and filters, and it decides where there is no
// program, where a program is not sure, and whenever one fails. So a program
// can only ever answer what topdown would, or leave the answer to it.
type programs struct {
	decision, permissions, ownPermissions *compiled.Program
	refused                               error // why there are none; they come together or not at all
}

func (t *interpreter) programs(ctx context.Context) programs {
	var p programs
	for _, rule := range []struct {
		name string
		out  **compiled.Program
	}{{decisionRule, &p.decision}, {permissionsRule, &p.permissions}, {ownPermissionsRule, &p.ownPermissions}} {
		var err error
		if *rule.out, err = t.compile(ctx, rule.name); err != nil {
			return programs{refused: fmt.Errorf("%s: %w", rule.name, err)}
		}
	}
	return p
}

func (t *interpreter) compile(ctx context.Context, rule string) (*compiled.Program, error) {
	query := ast.NewBody(ast.Equality.Expr(ast.NewTerm(ast.MustParseRef(rule)), ast.NewTerm(resultVar)))
	plan, err := compiled.Plan(ctx, t.compiler, query)
	if err != nil {
		return nil, err
	}
	return compiled.Compile(plan, compiled.Options{
		Data:         ast.NewTerm(t.base.root),
		Capabilities: t.compiler.Capabilities(),
		Result:       string(resultVar),
	})
}

func (p *programs) of(rule string) *compiled.Program {
	switch rule {
	case decisionRule:
		return p.decision
	case permissionsRule:
		return p.permissions
	case ownPermissionsRule:
		return p.ownPermissions
	}
	return nil
}

// evaluate answers a rule, by its program if there is one. A rule that is
// undefined yields nil. sure says that the program answered.
func (p *Policy) evaluate(ctx context.Context, rule string, in compiled.Input, now, deadline time.Time, nd builtins.NDBCache) (v ast.Value, sure bool, err error) {
	if program := p.programs.of(rule); program != nil {
		if v, sure, err = run(ctx, program, in, now, deadline, nd); sure {
			return v, true, err
		}
	}
	v, err = p.topdown.evaluate(ctx, rule, in, now, deadline, nd)
	return v, false, err
}

// run evaluates a program. If it is not sure, topdown has to be asked: what
// fails here may be passed by there, and topdown says where it failed.
func run(ctx context.Context, program *compiled.Program, in compiled.Input, now, deadline time.Time, nd builtins.NDBCache) (v ast.Value, sure bool, err error) {
	limit := &limit{ctx: ctx, deadline: deadline}
	t, err := program.Value(compiled.Evaluation{
		Context:        ctx,
		Input:          in,
		Now:            now,
		Cancel:         limit,
		Nondeterminism: nd,
		Strict:         true, // as in query
	})
	switch {
	case topdown.IsCancel(err):
		return nil, true, limit.cause()
	case err != nil:
		return nil, false, nil
	case t == nil:
		return nil, true, nil
	}
	return t.Value, true, nil
}

// compare evaluates the decision both ways, and reports whether the ways
// disagree. If they do, the answer is the stricter of the two.
func (p *Policy) compare(ctx context.Context, in compiled.Input, now time.Time, within time.Duration, nd builtins.NDBCache) (v ast.Value, differs bool, err error) {
	if nd == nil && p.nondeterministic {
		nd = builtins.NDBCache{} // or chance would tell them apart
	}
	fast, sure, err := run(ctx, p.programs.decision, in, now, time.Now().Add(within), nd)
	if !sure || err != nil {
		if err == nil {
			fast, err = p.topdown.evaluate(ctx, decisionRule, in, now, time.Now().Add(within), nd)
		}
		return fast, false, err
	}
	reference, err := p.topdown.evaluate(ctx, decisionRule, in, now, time.Now().Add(within), nd)
	switch {
	case errors.Is(err, errDeadline) || ctx.Err() != nil:
		return fast, false, nil // too slow to be compared with
	case err != nil:
		return nil, true, err
	case fast == nil || reference == nil:
		return nil, fast != nil || reference != nil, nil
	case fast.Compare(reference) == 0:
		return reference, false, nil
	}
	var d Decision
	if err := read(&d, reference); err == nil && d.Allow {
		return fast, true, nil
	}
	return reference, true, nil
}

// Analysis says how a policy is evaluated, and on what its decisions depend.
type Analysis struct {
	// Refused is why the policy is evaluated by OPA's topdown alone; empty if it
	// is compiled.
	Refused string
	// Input has the paths of the input that decisions can depend on, as
	// "input.resource.type"; of a policy that is not compiled, all of it.
	Input []string
	// Changing names the built-ins that decisions can depend on whose answer
	// is not always the same.
	Changing []string
}

// Impure returns why two decisions about the same input may differ, so that
// none may be remembered; empty if they do not.
func (a Analysis) Impure() string {
	switch {
	case a.Refused != "":
		return "what it depends on is not known"
	case len(a.Changing) > 0:
		return "it calls " + a.Changing[0]
	}
	for _, path := range a.Input {
		switch path {
		case "input", "input.context", "input.context.time":
			return "it reads " + path + ", and with it the time"
		}
	}
	return ""
}

// Analysis returns what is known of p.
func (p *Policy) Analysis() Analysis {
	if p.programs.refused != nil {
		return Analysis{Refused: p.programs.refused.Error(), Input: []string{"input"}}
	}
	reads := p.programs.decision.Reads()
	a := Analysis{Changing: reads.Nondeterministic}
	for _, path := range reads.Input {
		ref := ast.InputRootRef
		for _, name := range path {
			ref = ref.Append(ast.StringTerm(name))
		}
		a.Input = append(a.Input, ref.String())
	}
	return a
}
