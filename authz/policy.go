package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/ostiary/ostiary/authz/compiled"
)

// Source is what a policy is compiled from.
type Source struct {
	Modules  map[string]string // file name → Rego text
	Data     map[string]any    // JSON values; roles, self, settings and the author's own
	Revision string
}

// The rules that a policy answers by.
const (
	decisionRule       = "data.ostiary.decision"
	permissionsRule    = "data.ostiary.permissions"
	ownPermissionsRule = "data.ostiary.own_permissions"
	passesRule         = "data.ostiary.passes" // allow, as filters are made from it
)

// Policy is a compiled source: immutable, safe to share between goroutines.
type Policy struct {
	revision string
	// topdown is OPA's own evaluator: the reference, and the one that explains
	// and filters.
	topdown     *interpreter
	programs    programs // what decides, if they could be made
	entrypoints []Path   // as annotated

	reflexive, lossy bool // see careless
	disputable       bool // see there
	nondeterministic bool // uses built-ins whose answer is not always the same

	// answers are the decisions that objects were read as which the program keeps.
	answers sync.Map // ast.Object → Decision
}

// Revision is that of the source.
func (p *Policy) Revision() string { return p.revision }

// Compile compiles src. The error lists every mistake with file, line and
// column. Policies have no network and no environment: built-ins that reach
// either do not exist for them.
func Compile(ctx context.Context, src Source) (*Policy, error) {
	modules := make(map[string]*ast.Module, len(src.Modules))
	var mistakes []error
	for name, text := range src.Modules {
		// With annotations, so that one that is misspelt is a mistake and not an
		// entrypoint that quietly is none.
		m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{Capabilities: capabilities, ProcessAnnotation: true})
		if err != nil {
			mistakes = append(mistakes, unjoin(err)...)
			continue
		}
		modules[name] = m
	}
	if len(mistakes) > 0 {
		return nil, join(mistakes)
	}
	data := src.Data
	if data == nil {
		data = map[string]any{}
	}
	store := inmem.NewFromObjectWithOpts(data, inmem.OptRoundTripOnWrite(true), inmem.OptReturnASTValuesOnRead(true))
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return nil, fmt.Errorf("policy data: %w", err)
	}
	compiler := ast.NewCompiler().
		WithCapabilities(capabilities).
		WithPathConflictsCheck(storage.NonEmpty(ctx, store, txn))
	compiler.Compile(modules)
	if compiler.Failed() {
		return nil, join(unjoin(compiler.Errors))
	}
	base, err := term(data)
	if err != nil {
		return nil, fmt.Errorf("policy data: %w", err)
	}
	t := &interpreter{compiler: compiler, store: store, txn: txn, base: baseData{base.Value}, queries: map[string]ast.Body{}}
	for _, rule := range []string{decisionRule, permissionsRule, ownPermissionsRule, passesRule, maskRule, dropRule} {
		if len(compiler.GetRules(ast.MustParseRef(rule))) == 0 {
			switch rule {
			case passesRule, maskRule, dropRule:
				continue // then filters tell nothing, and records are kept whole
			}
			return nil, fmt.Errorf("no rule %s: the policy decides nothing", rule)
		}
		query := rule + " = result"
		if rule == passesRule {
			query = rule // partially evaluated; a variable would be in the way
		}
		if t.queries[rule], err = compiler.QueryCompiler().Compile(ast.MustParseBody(query)); err != nil {
			return nil, fmt.Errorf("query %s: %w", rule, err)
		}
	}
	if err := t.seal(ctx); err != nil {
		return nil, fmt.Errorf("policy data: %w", err)
	}
	p := &Policy{revision: src.Revision, topdown: t, entrypoints: entrypoints(compiler)}
	p.reflexive, p.lossy = careless(compiler.Modules)
	p.disputable = disputable(compiler.Modules)
	p.nondeterministic = nondeterministic(compiler.Modules)
	p.programs = t.programs(ctx)
	return p, nil
}

// capabilities are this version's of OPA without what reaches outside.
var capabilities = func() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion()
	outside := []string{"http.send", "net.lookup_ip_addr", "opa.runtime"}
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool { return slices.Contains(outside, b.Name) })
	c.AllowNet = []string{}
	return c
}()

// Capabilities returns what policies are compiled with: everything that this
// version of OPA has, without what reaches outside.
func Capabilities() *ast.Capabilities {
	c := *capabilities
	c.Builtins = slices.Clone(c.Builtins)
	return &c
}

// unjoin splits OPA's lists of mistakes.
func unjoin(err error) []error {
	if list, ok := errors.AsType[ast.Errors](err); ok {
		out := make([]error, len(list))
		for i, e := range list {
			out[i] = fmt.Errorf("%s:%d:%d: %s", e.Location.File, e.Location.Row, e.Location.Col, e.Message)
		}
		return out
	}
	return []error{err}
}

func join(mistakes []error) error {
	slices.SortFunc(mistakes, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(mistakes...)
}

// interpreter evaluates with OPA's topdown. What it holds is never written
// after Compile: the read transaction stays open for the life of the policy.
type interpreter struct {
	compiler *ast.Compiler
	store    storage.Store
	txn      storage.Transaction
	base     baseData
	queries  map[string]ast.Body // compiled, by rule
	prepared preparedQueries
}

// seal makes what evaluations share safe to share where they do not read
// through base: partial evaluation reads the store, and traces are written
// with the constants of rules in them.
func (t *interpreter) seal(ctx context.Context) error {
	data, err := t.store.Read(ctx, t.txn, storage.Path{})
	if err != nil {
		return err
	}
	if v, ok := data.(ast.Value); ok {
		compiled.Seal(v)
	}
	for _, m := range t.compiler.Modules {
		ast.WalkTerms(m, func(term *ast.Term) bool {
			compiled.Seal(term.Value)
			return false
		})
	}
	return nil
}

func (t *interpreter) query(rule string, input *ast.Term, now time.Time) *topdown.Query {
	return topdown.NewQuery(t.queries[rule]).
		WithCompiler(t.compiler).
		WithStore(t.store).
		WithTransaction(t.txn).
		WithBaseCache(t.base).
		WithMetrics(metrics.NoOp()).
		WithTime(now).
		// A built-in that fails would otherwise be undefined, and a rule that
		// forbids something would quietly not hold.
		WithStrictBuiltinErrors(true).
		WithInput(input)
}

func (t *interpreter) evaluate(ctx context.Context, rule string, in compiled.Input, now, deadline time.Time, nd builtins.NDBCache) (ast.Value, error) {
	limit := &limit{ctx: ctx, deadline: deadline}
	q := t.query(rule, in.Document(), now).WithCancel(limit)
	if nd != nil {
		q = q.WithNDBuiltinCache(nd)
	}
	value, err := result(ctx, q)
	if topdown.IsCancel(err) {
		return nil, limit.cause()
	}
	return value, err
}

// partial evaluates a rule as far as it can be without unknowns.
func (t *interpreter) partial(ctx context.Context, rule string, input *ast.Term, now, deadline time.Time, unknowns []*ast.Term) ([]ast.Body, []*ast.Module, error) {
	if t.queries[rule] == nil {
		return nil, nil, fmt.Errorf("no rule %s", rule)
	}
	limit := &limit{ctx: ctx, deadline: deadline}
	queries, support, err := t.query(rule, input, now).
		WithCancel(limit).
		WithUnknowns(unknowns).
		// What the clock says is known.
		WithNondeterministicBuiltins(true).
		PartialRun(ctx)
	if topdown.IsCancel(err) {
		return nil, nil, limit.cause()
	}
	return queries, support, err
}

const resultVar = ast.Var("result")

func result(ctx context.Context, q *topdown.Query) (ast.Value, error) {
	var value ast.Value
	err := q.Iter(ctx, func(r topdown.QueryResult) error {
		value = r[resultVar].Value
		return nil
	})
	return value, err
}

// limit ends an evaluation at a deadline or when its context ends. It reads
// the clock at every 16th step instead of arming a timer for each evaluation.
type limit struct {
	ctx      context.Context
	deadline time.Time
	steps    uint
	over     bool
}

var errDeadline = errors.New("evaluation took longer than it may")

func (l *limit) Cancel() { l.over = true }

func (l *limit) Cancelled() bool {
	if l.steps++; l.steps%16 == 0 && !l.over {
		l.over = l.ctx.Err() != nil || !time.Now().Before(l.deadline)
	}
	return l.over
}

func (l *limit) cause() error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	return errDeadline
}

// baseData answers topdown's reads of data from one shared, sealed value, so
// that no evaluation copies it. It never changes: Put is for caches that fill.
type baseData struct{ root ast.Value }

func (b baseData) Get(ref ast.Ref) ast.Value {
	v, err := b.root.Find(ref[1:])
	if err != nil {
		return nil
	}
	return v
}

func (baseData) Put(ast.Ref, ast.Value) {}
