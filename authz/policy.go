package authz

import (
	"context"
	"errors"
	"time"
)

// Source is what a policy is compiled from.
type Source struct {
	Modules  map[string]string // file name → Rego text
	Data     map[string]any    // JSON values; roles, self, settings and the author's own
	Revision string
}

// Policy is a compiled source: immutable, safe to share between goroutines.
type Policy struct {
	revision string
}

// Revision is that of the source.
func (p *Policy) Revision() string { return p.revision }

// Compile compiles src. The error lists every mistake with file, line and
// column.
func Compile(ctx context.Context, src Source) (*Policy, error) {
	return nil, errors.New("unimplemented")
}

// Options configures an Engine. The zero value works.
type Options struct {
	Deadline time.Duration    // for one evaluation; default 1s
	Recorder Recorder         // nil: nothing is kept
	Clock    func() time.Time // default time.Now
}

// Engine answers requests by the policy in force.
type Engine struct{}

// NewEngine returns an engine without a policy: it denies everything as
// unavailable until the first Swap.
func NewEngine(o Options) *Engine { return &Engine{} }

// Swap puts p in force for every decision that begins after it returns.
func (e *Engine) Swap(p *Policy) {}

// Policy returns the policy in force, or nil.
func (e *Engine) Policy() *Policy { return nil }

// Decide implements [Decider].
func (e *Engine) Decide(ctx context.Context, r Request) (Decision, error) { return Decision{}, nil }

// DecideAll decides each request under one and the same policy, in order.
func (e *Engine) DecideAll(ctx context.Context, rs []Request) ([]Decision, error) { return nil, nil }

// Permissions returns what s may do by its roles, narrowed by the grants of
// the key at work: the effective permissions as enforced.
func (e *Engine) Permissions(ctx context.Context, s *Subject) (Permissions, error) { return nil, nil }

// Explanation is a decision with the rules that led to it.
type Explanation struct {
	Decision Decision
	Fired    []Rule // rules that held, in order of evaluation
	Failed   []Rule // rules that were tried and did not hold
}

// Rule is a place in a policy.
type Rule struct {
	Name string `json:"rule"` // data.ostiary.owner_banned
	File string `json:"file"`
	Line int    `json:"line"`
}

// Explain decides r again with a tracer. Nothing is recorded.
func (e *Engine) Explain(ctx context.Context, r Request) (Explanation, error) {
	return Explanation{}, nil
}
