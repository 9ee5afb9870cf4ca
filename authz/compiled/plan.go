package compiled

import (
	"context"
	"errors"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/rego"
)

// Plan has OPA's planner turn query into its intermediate representation. The
// compiler has to have compiled without mistakes; it is not changed.
func Plan(ctx context.Context, compiler *ast.Compiler, query ast.Body) (*ir.Policy, error) {
	var plan *ir.Policy
	_, err := rego.New(
		rego.Compiler(compiler),
		rego.ParsedQuery(query),
		rego.Target(planTarget),
		// Choosing a target changes the mode of the compiler, which topdown uses too.
		rego.EvalMode(ast.EvalModeTopdown),
	).PrepareForEval(context.WithValue(ctx, planKey{}, &plan))
	if err != nil {
		return nil, err
	}
	if plan == nil {
		return nil, errors.New("OPA's planner was not asked: its target plugins were reset")
	}
	return plan, nil
}

// planTarget is the name under which OPA hands out plans instead of evaluating
// them. Its planner has no other public door that takes a compiler as it is.
const planTarget = "ostiary-plan"

type planKey struct{}

type planner struct{}

func init() { rego.RegisterPlugin(planTarget, planner{}) }

func (planner) IsTarget(name string) bool { return name == planTarget }

func (planner) PrepareForEval(ctx context.Context, plan *ir.Policy, _ ...rego.PrepareOption) (rego.TargetPluginEval, error) {
	out, ok := ctx.Value(planKey{}).(**ir.Policy)
	if !ok {
		return nil, fmt.Errorf("the target %s is not for evaluating", planTarget)
	}
	*out = plan
	return nil, nil
}
