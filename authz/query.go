package authz

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go.yaml.in/yaml/v3"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/lineage"
	"github.com/open-policy-agent/opa/v1/util"
)

// Query asks for a document under data over an input of the caller's choice.
//
// Only what is declared is answered: entrypoints that the policy annotates
// (entrypoint: true), those listed here, and what lies below either. Nothing
// under data.ostiary ever is: it believes the principal in its input.
type Query struct {
	Path        Path
	Entrypoints []Path
	Options     QueryOptions
}

// QueryOptions are what questions of both kinds have in common.
type QueryOptions struct {
	Input        *any // JSON values; a json.Number keeps its digits. nil: input is undefined
	StrictErrors bool // a built-in that fails fails the evaluation; otherwise it is undefined
	Explain      Explain
	Pretty       bool // the explanation as lines of text
	Metrics      bool
	Instrument   bool // more metrics, and slower
}

// Explain says how much of an evaluation is told.
type Explain string

const (
	ExplainOff   Explain = ""
	ExplainNotes Explain = "notes" // trace(…) and what led to it
	ExplainFails Explain = "fails" // what did not hold, and what led to it
	ExplainFull  Explain = "full"
	ExplainDebug Explain = "debug" // full, and every comparison
)

// Answer is what an evaluation came to.
type Answer struct {
	Defined     bool
	Value       any              // of a Query: JSON values
	Bindings    []map[string]any // of EvaluateText: one for each way in which it holds
	Revision    string           // of the policy
	Explanation json.RawMessage
	Metrics     map[string]any // by OPA's names
	RuleLabels  []map[string]any
}

// maxEvents bounds what an explanation holds in memory.
const maxEvents = 10_000

// ErrExplanationTooLong reports an evaluation with more steps than are kept.
var ErrExplanationTooLong = fmt.Errorf("the explanation has more than %d events", maxEvents)

// ErrNoPolicy reports that no policy is in force.
var ErrNoPolicy = errors.New("no policy is in force")

// A RegoError is what OPA says about a query that it cannot parse, compile or
// evaluate.
type RegoError struct {
	Stage   Stage
	Details []json.RawMessage // with code, message and location, as OPA words them
	err     error
}

// Stage is where a query failed.
type Stage string

const (
	Parsing    Stage = "parsing"
	Compiling  Stage = "compiling"
	Evaluating Stage = "evaluating"
)

func (e *RegoError) Error() string { return string(e.Stage) + " query: " + e.err.Error() }
func (e *RegoError) Unwrap() error { return e.err }

// Translation reports whether the query is sound, but cannot be put into the
// language that was asked for.
func (e *RegoError) Translation() bool {
	_, ok := errors.AsType[ast.Errors](e.err)
	return ok && e.Stage == Evaluating
}

// regoError takes err apart. What OPA does not call a mistake stays as it is.
func regoError(stage Stage, err error) error {
	var list []error
	if mistakes, ok := errors.AsType[ast.Errors](err); ok {
		for _, m := range mistakes {
			list = append(list, m)
		}
	} else if e, ok := errors.AsType[*topdown.Error](err); ok {
		list = append(list, e)
	} else {
		return err
	}
	e := &RegoError{Stage: stage, err: err}
	for _, item := range list {
		detail, err := json.Marshal(item)
		if err != nil {
			return err
		}
		e.Details = append(e.Details, detail)
	}
	return e
}

// Declares reports whether path is answered, by p itself or because it is or
// lies below one of also.
func (p *Policy) Declares(path Path, also []Path) bool {
	if path.reserved() {
		return false
	}
	for _, list := range [][]Path{p.entrypoints, also} {
		for _, entrypoint := range list {
			if entrypoint.reserved() {
				continue
			}
			if _, ok := path.Below(entrypoint); ok {
				return true
			}
		}
	}
	return false
}

// Rules reports whether p has rules at path.
func (p *Policy) Rules(path Path) bool {
	return len(p.topdown.compiler.GetRulesForVirtualDocument(path.data())) > 0
}

// entrypoints lists what authors annotate as such.
func entrypoints(compiler *ast.Compiler) []Path {
	var list []Path
	for _, a := range compiler.GetAnnotationSet().Flatten() {
		if a.Annotations != nil && a.Annotations.Entrypoint && a.Path.HasPrefix(ast.DefaultRootRef) {
			list = append(list, Path{a.Path[1:]})
		}
	}
	return list
}

// Evaluate answers q by the policy in force, within the engine's deadline. It
// is no decision: nothing is narrowed and nothing recorded. Whether the caller
// may ask is to be decided before.
//
// What fails in the policy, the deadline included, is a *[RegoError].
func (e *Engine) Evaluate(ctx context.Context, q Query) (Answer, error) {
	p := e.policy.Load()
	if p == nil {
		return Answer{}, ErrNoPolicy
	}
	if !p.Declares(q.Path, q.Entrypoints) {
		return Answer{Revision: p.revision}, nil
	}
	v := e.evaluation(ctx, p, q.Options)
	prepared, err := p.topdown.prepare(ctx, q.Path, q.Options.StrictErrors, v.metrics)
	if e, ok := errors.AsType[*RegoError](err); ok && e.Stage == Compiling {
		// The compiler knows that there can be nothing at this path.
		return Answer{Revision: p.revision}, nil
	}
	if err != nil {
		return Answer{}, err
	}
	return v.run(func(input ast.Value) (rego.ResultSet, error) {
		return prepared.Eval(ctx, v.options(input)...)
	}, func(a *Answer, rs rego.ResultSet) {
		a.Value = rs[0].Expressions[0].Value
	})
}

// EvaluateText answers a query that the caller wrote, over everything under
// data: rules, tables and the author's data alike.
func (e *Engine) EvaluateText(ctx context.Context, text string, o QueryOptions) (Answer, error) {
	p := e.policy.Load()
	if p == nil {
		return Answer{}, ErrNoPolicy
	}
	body, err := parse(text)
	if err != nil {
		return Answer{}, err
	}
	return e.evaluation(ctx, p, o).body(ctx, body, func(a *Answer, rs rego.ResultSet) {
		for _, r := range rs {
			a.Bindings = append(a.Bindings, r.Bindings.WithoutWildcards())
		}
	})
}

// A Solution is one way in which a query holds.
type Solution struct {
	Expressions []Expression   `json:"expressions"`
	Bindings    map[string]any `json:"bindings,omitempty"` // of the variables in it
}

// Expression is a part of a query with its value.
type Expression struct {
	Value any    `json:"value"`
	Text  string `json:"text"`
}

// Query answers a query that somebody wrote, over everything under data and an
// input document, nil for none, as of now. It is for whoever holds the policy;
// others ask an [Engine]. What fails is a *[RegoError].
func (p *Policy) Query(ctx context.Context, text string, document map[string]any, now time.Time) ([]Solution, error) {
	body, err := parse(text)
	if err == nil && len(body) == 0 {
		err = errors.New("there is no query")
	}
	if err != nil {
		if _, ok := errors.AsType[*RegoError](err); !ok {
			err = &RegoError{Stage: Parsing, err: err} // of text that is no query at all
		}
		return nil, err
	}
	v := &evaluation{policy: p, now: now, limit: &limit{ctx: ctx, deadline: time.Now().Add(10 * time.Second)}, metrics: metrics.NoOp(), labels: &topdown.EvaluatedRuleTracker{}}
	v.o.StrictErrors = true // as decisions have it
	if document != nil {
		var in any = document
		v.o.Input = &in
	}
	var solutions []Solution
	_, err = v.body(ctx, body, func(_ *Answer, rs rego.ResultSet) {
		for _, r := range rs {
			s := Solution{Bindings: r.Bindings.WithoutWildcards()}
			for _, e := range r.Expressions {
				s.Expressions = append(s.Expressions, Expression{e.Value, e.Text})
			}
			solutions = append(solutions, s)
		}
	})
	return solutions, err
}

// evaluation is one run of a query.
type evaluation struct {
	policy  *Policy
	o       QueryOptions
	now     time.Time
	limit   *limit
	metrics metrics.Metrics
	trace   *trace // nil: none
	labels  *topdown.EvaluatedRuleTracker
}

func (e *Engine) evaluation(ctx context.Context, p *Policy, o QueryOptions) *evaluation {
	v := &evaluation{
		policy:  p,
		o:       o,
		now:     e.clock(),
		limit:   &limit{ctx: ctx, deadline: time.Now().Add(e.deadline)},
		metrics: metrics.NoOp(),
		labels:  &topdown.EvaluatedRuleTracker{},
	}
	if o.Metrics || o.Instrument {
		v.metrics = metrics.New()
	}
	if o.Explain != ExplainOff {
		v.trace = &trace{events: topdown.NewBufferTracer(), limit: v.limit, most: maxEvents}
	}
	return v
}

// parse reads a query that somebody wrote.
func parse(text string) (ast.Body, error) {
	body, err := ast.ParseBodyWithOpts(text, ast.ParserOptions{Capabilities: capabilities})
	if err != nil {
		return nil, regoError(Parsing, err)
	}
	return body, nil
}

// body runs a query that somebody wrote.
func (v *evaluation) body(ctx context.Context, body ast.Body, read func(*Answer, rego.ResultSet)) (Answer, error) {
	prepared, err := v.policy.topdown.rego(body, v.o.StrictErrors, v.metrics).PrepareForEval(ctx)
	if err != nil {
		return Answer{}, regoError(Compiling, err)
	}
	return v.run(func(input ast.Value) (rego.ResultSet, error) {
		return prepared.Eval(ctx, v.options(input)...)
	}, read)
}

func (v *evaluation) options(input ast.Value) []rego.EvalOption {
	t := v.policy.topdown
	o := []rego.EvalOption{
		rego.EvalTransaction(t.txn),
		rego.EvalBaseCache(t.base),
		rego.EvalParsedInput(input),
		rego.EvalTime(v.now),
		rego.EvalMetrics(v.metrics),
		rego.EvalInstrument(v.o.Instrument),
		rego.EvalExternalCancel(v.limit),
		rego.EvalEvaluatedRuleTracker(v.labels),
	}
	if v.trace != nil {
		o = append(o, rego.EvalQueryTracer(v.trace))
	}
	return o
}

func (v *evaluation) run(eval func(ast.Value) (rego.ResultSet, error), read func(*Answer, rego.ResultSet)) (Answer, error) {
	input, err := v.o.input()
	if err != nil {
		return Answer{}, err
	}
	rs, err := eval(input)
	if err := v.limit.ctx.Err(); err != nil {
		return Answer{}, err
	}
	if err != nil && v.trace != nil && v.trace.over {
		return Answer{}, ErrExplanationTooLong
	}
	if err != nil {
		return Answer{}, regoError(Evaluating, err)
	}
	a := Answer{Defined: len(rs) > 0, Revision: v.policy.revision}
	if a.Defined {
		read(&a, rs)
		a.RuleLabels = v.labels.Labels
	}
	if v.o.Metrics || v.o.Instrument {
		a.Metrics = v.metrics.All()
	}
	// What was undefined is explained in full or not at all, as OPA has it.
	if v.trace != nil && (a.Defined || v.o.Explain == ExplainFull) {
		a.Explanation, err = v.trace.explanation(v.o.Explain, v.o.Pretty)
	}
	return a, err
}

func (o *QueryOptions) input() (ast.Value, error) {
	if o.Input == nil {
		return nil, nil
	}
	return ast.InterfaceToValue(*o.Input)
}

// rego prepares body for evaluation by OPA's own library, which words
// results, errors and traces as OPA's clients know them.
func (t *interpreter) rego(body ast.Body, strict bool, m metrics.Metrics) *rego.Rego {
	return rego.New(
		rego.Compiler(t.compiler),
		rego.Store(t.store),
		rego.Transaction(t.txn),
		rego.ParsedQuery(body),
		rego.Metrics(m),
		rego.StrictBuiltinErrors(strict),
		rego.StackTraces(true),
	)
}

// maxPrepared bounds the queries that are kept compiled: callers choose paths
// below an entrypoint freely.
const maxPrepared = 256

// preparedQueries are compiled queries by path.
type preparedQueries struct {
	mu   sync.Mutex
	kept map[preparedQuery]*rego.PreparedEvalQuery
}

type preparedQuery struct {
	path   string
	strict bool
}

func (t *interpreter) prepare(ctx context.Context, path Path, strict bool, m metrics.Metrics) (*rego.PreparedEvalQuery, error) {
	key := preparedQuery{path.String(), strict}
	hit := m.Counter(metrics.ServerQueryCacheHit)
	t.prepared.mu.Lock()
	q, ok := t.prepared.kept[key]
	t.prepared.mu.Unlock()
	if ok {
		hit.Incr()
		return q, nil
	}
	body, err := ast.ParseBody(path.data().String())
	if err != nil {
		return nil, regoError(Parsing, err)
	}
	made, err := t.rego(body, strict, m).PrepareForEval(ctx)
	if err != nil {
		return nil, regoError(Compiling, err)
	}
	t.prepared.mu.Lock()
	defer t.prepared.mu.Unlock()
	if t.prepared.kept == nil || len(t.prepared.kept) >= maxPrepared {
		t.prepared.kept = map[preparedQuery]*rego.PreparedEvalQuery{}
	}
	t.prepared.kept[key] = &made
	return &made, nil
}

// trace keeps the events of an evaluation, and ends it when there are too many.
type trace struct {
	events *topdown.BufferTracer
	limit  *limit
	most   int
	over   bool
}

func (t *trace) Enabled() bool               { return true }
func (t *trace) Config() topdown.TraceConfig { return t.events.Config() }

func (t *trace) TraceEvent(e topdown.Event) {
	if len(*t.events) >= t.most {
		t.over = true
		t.limit.Cancel()
		return
	}
	t.events.TraceEvent(e)
}

// event is a step of an evaluation in the form of OPA's API.
type event struct {
	Op       string    `json:"op"`
	QueryID  uint64    `json:"query_id"`
	ParentID uint64    `json:"parent_id"`
	Type     string    `json:"type"`
	Node     any       `json:"node"`
	Locals   []binding `json:"locals"`
	Message  string    `json:"message,omitempty"`
}

type binding struct {
	Key   *ast.Term `json:"key"`
	Value *ast.Term `json:"value"`
}

func (t *trace) explanation(mode Explain, pretty bool) (json.RawMessage, error) {
	events := []*topdown.Event(*t.events)
	switch mode {
	case ExplainNotes:
		events = lineage.Notes(events)
	case ExplainFails:
		events = lineage.Fails(events)
	case ExplainFull:
		events = lineage.Full(events)
	}
	if pretty {
		var lines bytes.Buffer
		topdown.PrettyTraceWithLocation(&lines, events)
		return json.Marshal(strings.Split(strings.Trim(lines.String(), "\n"), "\n"))
	}
	list := make([]event, len(events))
	for i, e := range events {
		list[i] = event{Op: strings.ToLower(string(e.Op)), QueryID: e.QueryID, ParentID: e.ParentID, Locals: []binding{}, Message: e.Message}
		e.Locals.Iter(func(key, value ast.Value) bool {
			list[i].Locals = append(list[i].Locals, binding{ast.NewTerm(key), ast.NewTerm(value)})
			return false
		})
		if e.Node != nil {
			list[i].Type, list[i].Node = ast.TypeName(e.Node), e.Node
		}
	}
	return json.Marshal(list)
}

// ModuleAST parses a module and returns it in OPA's JSON form.
func ModuleAST(name, text string) (json.RawMessage, error) {
	m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{Capabilities: capabilities, ProcessAnnotation: true})
	if err != nil {
		return nil, regoError(Parsing, err)
	}
	return json.Marshal(m)
}

// ReadYAML reads a YAML document as the JSON values that it stands for. Aliases are
// refused: a few of them stand for more than any memory holds.
func ReadYAML(text []byte) (any, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if aliased(&doc) {
		return nil, errors.New("aliases are not read")
	}
	var v any
	err := util.Unmarshal(text, &v)
	return v, err
}

func aliased(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || slices.ContainsFunc(n.Content, aliased)
}
