package authz

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/rego/compile"
	"github.com/open-policy-agent/opa/v1/server/failtracer"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// DataFilterQuery asks for the condition under which a rule holds for rows
// that are not known yet, in the language of a database. The rule has to be
// declared, as in a [Query].
type DataFilterQuery struct {
	Path            Path
	Entrypoints     []Path
	Input           *any     // what is known; nil: nothing is
	Unknowns        []string // references below input, as "input.records"; none: as the rule is annotated
	DisableInlining []string
	Mappings        map[string]any // names of tables and columns, as in OPA's targetSQLTableMappings
	MaskRule        string         // a declared rule, from data or of the rule's package; "": as annotated
	Targets         []DataFilterTarget
	Metrics         bool
	Instrument      bool
}

// DataFilterTarget is a language and its dialect: "sql" with "postgresql",
// "mysql", "sqlserver" or "sqlite"; "ucast" with "all", "minimal", "linq" or "prisma".
type DataFilterTarget struct{ Language, Dialect string }

// DataFilters are the conditions, one for each target, in order.
type DataFilters struct {
	Filters []DataFilter
	Hints   json.RawMessage // on references that look misspelt; nil: none
	Metrics map[string]any
}

// DataFilter is a condition.
type DataFilter struct {
	Never bool // it never holds
	Query any  // text for SQL ("": it always holds), JSON values for UCAST (empty: likewise)
	Masks map[string]any
}

// ErrDataFilter is wrapped by mistakes in a DataFilterQuery itself.
var ErrDataFilter = errors.New("invalid data filter query")

// DataFilter turns a declared rule into conditions. A condition that a target
// cannot express is a *[RegoError], never an approximation. SQL's NULL is
// stricter than Rego: rows can be missing, but none is too many.
func (e *Engine) DataFilter(ctx context.Context, q DataFilterQuery) (DataFilters, error) {
	p := e.policy.Load()
	if p == nil {
		return DataFilters{}, ErrNoPolicy
	}
	none := DataFilters{Filters: slices.Repeat([]DataFilter{{Never: true}}, len(q.Targets))}
	if !p.Declares(q.Path, q.Entrypoints) {
		return none, nil
	}
	t := p.topdown
	unknowns, err := t.unknowns(q)
	if err != nil {
		return DataFilters{}, err
	}
	mask, err := p.maskRule(q)
	if err != nil {
		return DataFilters{}, err
	}
	var input ast.Value
	if q.Input != nil {
		if input, err = ast.InterfaceToValue(*q.Input); err != nil {
			return DataFilters{}, fmt.Errorf("%w: input: %w", ErrDataFilter, err)
		}
	}
	var m metrics.Metrics = metrics.NoOp()
	if q.Metrics || q.Instrument {
		m = metrics.New()
	}
	options := []compile.CompileOption{
		compile.ParsedUnknowns(unknowns...),
		compile.ParsedQuery(ast.NewBody(ast.NewExpr(ast.NewTerm(q.Path.data())))),
		compile.Metrics(m),
		compile.Mappings(q.Mappings),
		compile.MaskRule(mask),
		compile.Rego(
			rego.Compiler(t.compiler),
			rego.Store(t.store),
			rego.Transaction(t.txn),
			rego.DisableInlining(q.DisableInlining),
			rego.Instrument(q.Instrument),
		),
	}
	for _, target := range q.Targets {
		options = append(options, compile.Target(target.Language, target.Dialect))
	}
	prepared, err := compile.New(options...).Prepare(ctx)
	if err != nil {
		if err := regoError(Compiling, err); errorIsRego(err) {
			return DataFilters{}, err
		}
		return DataFilters{}, fmt.Errorf("%w: %w", ErrDataFilter, err)
	}
	limit := &limit{ctx: ctx, deadline: time.Now().Add(e.deadline)}
	failed := failtracer.New()
	filters, err := prepared.Compile(ctx,
		rego.EvalTransaction(t.txn),
		rego.EvalParsedInput(input),
		rego.EvalTime(e.clock()),
		rego.EvalExternalCancel(limit),
		rego.EvalQueryTracer(failed),
	)
	if topdown.IsCancel(err) && ctx.Err() != nil {
		return DataFilters{}, ctx.Err()
	}
	switch {
	case errors.Is(err, compile.ErrInvalidMappings):
		return DataFilters{}, fmt.Errorf("%w: %w", ErrDataFilter, err)
	case err != nil:
		return DataFilters{}, regoError(Evaluating, err)
	}
	out := none
	for i, target := range q.Targets {
		if f := filters.For(target.Language, target.Dialect); f.Query != nil {
			out.Filters[i] = DataFilter{Query: f.Query, Masks: f.Masks}
		}
	}
	refs := make([]ast.Ref, len(unknowns))
	for i, u := range unknowns {
		refs[i] = u.Value.(ast.Ref)
	}
	if hints := failed.Hints(refs); len(hints) > 0 {
		if out.Hints, err = json.Marshal(hints); err != nil {
			return DataFilters{}, err
		}
	}
	if q.Metrics || q.Instrument {
		out.Metrics = m.All()
	}
	return out, nil
}

func errorIsRego(err error) bool {
	_, ok := errors.AsType[*RegoError](err)
	return ok
}

// unknowns are those that q names, or else those of the rule's annotations.
func (t *interpreter) unknowns(q DataFilterQuery) ([]*ast.Term, error) {
	var refs []ast.Ref
	for _, text := range q.Unknowns {
		ref, err := ast.ParseRef(text)
		if err != nil {
			return nil, fmt.Errorf("%w: unknowns: %w", ErrDataFilter, err)
		}
		refs = append(refs, ref)
	}
	if len(refs) == 0 {
		for _, a := range t.annotations(q.Path) {
			refs = append(refs, a.Compile.Unknowns...)
		}
	}
	terms := make([]*ast.Term, len(refs))
	for i, ref := range refs {
		if !ref.HasPrefix(ast.InputRootRef) {
			return nil, fmt.Errorf("%w: unknowns: %v is not below input", ErrDataFilter, ref)
		}
		for _, part := range ref[1:] {
			if _, ok := part.Value.(ast.String); !ok {
				return nil, fmt.Errorf("%w: unknowns: %v is not made of names", ErrDataFilter, ref)
			}
		}
		terms[i] = ast.NewTerm(ref)
	}
	return terms, nil
}

// maskRule is the one that q names, which has to be declared as any rule that
// a caller evaluates; or else that of the rule's annotations.
func (p *Policy) maskRule(q DataFilterQuery) (ast.Ref, error) {
	if q.MaskRule == "" {
		for _, a := range p.topdown.annotations(q.Path) {
			mask := a.Compile.MaskRule
			if mask == nil {
				continue
			}
			if !mask.HasPrefix(ast.DefaultRootRef) {
				mask = p.topdown.compiler.GetRulesExact(q.Path.data())[0].Module.Package.Path.Extend(mask)
			}
			return mask, nil
		}
		return nil, nil
	}
	name := q.MaskRule
	if !strings.HasPrefix(name, "data.") {
		name = q.Path.data()[:len(q.Path.ref)].String() + "." + name
	}
	ref, err := ast.ParseRef(name)
	if err != nil {
		return nil, fmt.Errorf("%w: maskRule: %w", ErrDataFilter, err)
	}
	// Without the rule nothing would be masked.
	if !ref.IsGround() || !p.Declares(Path{ref[1:]}, q.Entrypoints) {
		return nil, fmt.Errorf("%w: maskRule: %v is not declared", ErrDataFilter, ref)
	}
	return ref, nil
}

// annotations are those about compiling that concern the rule at path, the
// nearest first.
func (t *interpreter) annotations(path Path) []*ast.Annotations {
	rules := t.compiler.GetRulesExact(path.data())
	if len(rules) == 0 {
		return nil
	}
	var list []*ast.Annotations
	for _, a := range t.compiler.GetAnnotationSet().Chain(rules[0]) {
		if a.Annotations != nil && a.Annotations.Compile != nil {
			list = append(list, a.Annotations)
		}
	}
	return list
}
