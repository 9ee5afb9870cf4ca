package authz

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2/stats"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"
	otel "go.opentelemetry.io/otel/trace"

	"github.com/ostiary/ostiary/authz/compiled"
)

// Options configures an Engine. The zero value works.
type Options struct {
	Deadline time.Duration    // for one evaluation; default 1s
	Recorder Recorder         // nil: nothing is kept
	Clock    func() time.Time // what policies see as now; default time.Now
	// Describe, if set, says what is known of a resource that a request names,
	// where the request does not say that it is [Request.Described]. It must not
	// change r's maps. While it fails there is no decision.
	Describe func(ctx context.Context, r Resource, action string) (Resource, error)
	// Topdown has OPA's own evaluator decide, although policies are compiled.
	Topdown bool
	// Recheck says of how many decisions of a compiled policy one is made by
	// OPA's evaluator as well. If they disagree, the stricter of the two is the
	// answer, and the policy is not trusted in its compiled form any more. The
	// default is 1000; a negative number is never.
	Recheck int
	// Memo is how many answers of the policy in force are remembered, so that a
	// question that is the same in all that the policy reads, about a subject that
	// is the very same, is answered again without it. Each decision has its own id,
	// time and record all the same. A policy that can answer differently from one
	// time to the next is not remembered (see [Analysis.Impure]), nor are failures.
	// The default is 50,000; a negative number is none.
	Memo int
	Log  *slog.Logger // default discards
	// Tracer, if set, makes a span of each decision. TraceIDs puts the ids of
	// principals and resources into it, which can be e-mail addresses.
	Tracer   otel.Tracer
	TraceIDs bool
}

// Engine answers requests by the policy in force.
type Engine struct {
	deadline time.Duration
	recorder Recorder
	clock    func() time.Time
	describe func(ctx context.Context, r Resource, action string) (Resource, error)
	tracer   otel.Tracer
	traceIDs bool
	policy   atomic.Pointer[Policy]
	watch    atomic.Pointer[func(Outcome)]

	swapping   sync.Mutex
	memo       atomic.Pointer[memo] // of the policy in force; nil: nothing is remembered
	memoSize   int
	remembered *stats.Counter

	topdown    bool
	due        func() bool // reports whether a decision is one of those that are made by both
	log        *slog.Logger
	rechecked  atomic.Uint64
	disagreed  atomic.Uint64
	distrusted atomic.Pointer[string] // the revision whose compiled form was wrong
}

// NewEngine returns an engine without a policy: it denies everything as
// unavailable until the first Swap.
func NewEngine(o Options) *Engine {
	e := &Engine{deadline: o.Deadline, recorder: o.Recorder, clock: o.Clock, describe: o.Describe, tracer: o.Tracer, traceIDs: o.TraceIDs}
	if e.deadline <= 0 {
		e.deadline = time.Second
	}
	if e.clock == nil {
		e.clock = time.Now
	}
	e.topdown, e.log = o.Topdown, o.Log
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	// By chance, so that cores need not count together.
	each := uint64(cmp.Or(max(o.Recheck, 0), 1000))
	e.due = func() bool { return o.Recheck >= 0 && rand.Uint64N(each) == 0 }
	e.memoSize, e.remembered = cmp.Or(o.Memo, 50_000), stats.NewCounter()
	return e
}

// MemoStats reports how many answers were remembered ones, and how many questions
// were put to the policy that could have been.
func (e *Engine) MemoStats() (hits, misses uint64) {
	n := e.remembered.Snapshot()
	return n.Hits, n.Misses
}

// Rechecks reports how many decisions of compiled policies OPA's evaluator made
// as well, and in how many of them the two disagreed.
func (e *Engine) Rechecks() (checked, disagreed uint64) {
	return e.rechecked.Load(), e.disagreed.Load()
}

// compiled reports whether p is, and may be trusted.
func (e *Engine) compiled(p *Policy) bool {
	return !e.topdown && p.programs.refused == nil && !e.distrusts(p)
}

// evaluate answers the rule by p: compiled, if p is and may be trusted.
func (e *Engine) evaluate(ctx context.Context, p *Policy, rule string, in compiled.Input, now time.Time) (ast.Value, error) {
	if !e.compiled(p) {
		return p.topdown.evaluate(ctx, rule, in, now, time.Now().Add(e.deadline), nil)
	}
	v, _, err := p.evaluate(ctx, rule, in, now, time.Now().Add(e.deadline), nil)
	return v, err
}

// compare decides by both evaluators.
func (e *Engine) compare(ctx context.Context, p *Policy, in compiled.Input, now time.Time, nd builtins.NDBCache) (ast.Value, error) {
	v, differs, err := p.compare(ctx, in, now, e.deadline, nd)
	e.rechecked.Add(1)
	if differs {
		e.disagreed.Add(1)
		e.distrusted.Store(&p.revision)
		// What was asked is in the record of the decision, not here.
		e.log.Error("the compiled policy and OPA's evaluator disagree; OPA's evaluator decides from now on", "policy", p.revision)
	}
	return v, err
}

func (e *Engine) distrusts(p *Policy) bool {
	revision := e.distrusted.Load()
	return revision != nil && *revision == p.revision
}

// Swap puts p in force for every decision that begins after it returns. What was
// remembered of the one before is forgotten.
func (e *Engine) Swap(p *Policy) {
	e.swapping.Lock()
	defer e.swapping.Unlock()
	e.policy.Store(p)
	var m *memo
	if e.memoSize > 0 && !e.topdown {
		m = newMemo(p, e.memoSize)
	}
	// Until it is there, the one before is found not to be of this policy.
	e.memo.Store(m)
}

// memoOf returns the memo of p, nil if there is none.
func (e *Engine) memoOf(p *Policy) *memo {
	if m := e.memo.Load(); m != nil && m.policy == p && p != nil {
		return m
	}
	return nil
}

// Policy returns the policy in force, or nil.
func (e *Engine) Policy() *Policy { return e.policy.Load() }

// Watch has f told of each decision, of which the caller is told too, until it is
// told of another f or of nil. f must not block, nor change anything but
// [Outcome.Nondeterminism], which is its own.
func (e *Engine) Watch(f func(Outcome)) {
	if f == nil {
		e.watch.Store(nil)
		return
	}
	e.watch.Store(&f)
}

// Decide implements [Decider]. The maps of r must not change afterwards: the
// record of the decision shares them.
func (e *Engine) Decide(ctx context.Context, r Request) (Decision, error) {
	r, err := e.described(ctx, r)
	if err != nil {
		return Decision{}, err
	}
	return e.decide(ctx, e.policy.Load(), r)
}

// DecideAll decides each request under one and the same policy and time, in order.
// Many are evaluated on several cores at once; whoever is told of decisions is told
// in order.
func (e *Engine) DecideAll(ctx context.Context, rs []Request) ([]Decision, error) {
	p := e.policy.Load()
	rs, err := e.describedAll(ctx, rs)
	if err != nil {
		return nil, err
	}
	ds, errs := make([]Decision, len(rs)), make([]error, len(rs))
	now := e.clock()
	spread(len(rs), func(i int) bool {
		ds[i], errs[i] = e.decideUntold(ctx, p, rs[i], now)
		return errs[i] == nil
	})
	for i := range ds {
		if errs[i] != nil {
			return nil, errs[i]
		}
		tell(ctx, ds[i])
	}
	return ds, nil
}

// describedAll is described for each of rs. What is asked twice in a row, of which
// only the context can differ, is looked up once.
func (e *Engine) describedAll(ctx context.Context, rs []Request) ([]Request, error) {
	all := make([]Request, len(rs))
	for i, r := range rs {
		if i > 0 && sameResource(&rs[i-1], &r) {
			r.Resource, r.Described = all[i-1].Resource, true
		} else if described, err := e.described(ctx, r); err != nil {
			return nil, err
		} else {
			r = described
		}
		all[i] = r
	}
	return all, nil
}

// sameResource reports whether a and b, which say nothing of a resource but its name,
// ask for the same action on the same.
func sameResource(a, b *Request) bool {
	return !a.Described && !b.Described && len(a.Resource.Properties)+len(b.Resource.Properties) == 0 &&
		a.Resource.Type == b.Resource.Type && a.Resource.ID == b.Resource.ID && a.Action.Name == b.Action.Name
}

// share is how many decisions are worth another core.
const share = 16

// spread calls f with each i below n, in order but on as many cores as there are
// shares of work, until it has been or a call answers false. A call that panics
// panics in the caller's goroutine, who can recover from it.
func spread(n int, f func(i int) bool) {
	var next atomic.Int64
	work := func() {
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			if !f(i) {
				next.Store(int64(n))
			}
		}
	}
	var others sync.WaitGroup
	var failure atomic.Pointer[string]
	for range min(runtime.GOMAXPROCS(0), n/share) - 1 {
		others.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					text := fmt.Sprintf("%v\n%s", v, debug.Stack()) // where it was, which the caller's stack does not tell
					failure.Store(&text)
				}
			}()
			work()
		})
	}
	func() {
		defer others.Wait()
		work()
	}()
	if text := failure.Load(); text != nil {
		panic(*text)
	}
}

// Now returns a Decider that answers by the policy that is in force now, however
// long it is used: questions that belong together are answered by one policy.
// Unlike a [Judge] it has each decision recorded.
func (e *Engine) Now() Decider { return e.Under(e.policy.Load()) }

// Under is Now by p, whether it is in force or not; by nil it denies everything.
func (e *Engine) Under(p *Policy) Decider { return underPolicy{e, p} }

type underPolicy struct {
	engine *Engine
	policy *Policy
}

func (u underPolicy) Decide(ctx context.Context, r Request) (Decision, error) {
	r, err := u.engine.described(ctx, r)
	if err != nil {
		return Decision{}, err
	}
	return u.engine.decide(ctx, u.policy, r)
}

// described returns r with all that is known of its resource.
func (e *Engine) described(ctx context.Context, r Request) (Request, error) {
	if r.Described {
		return r, nil
	}
	r.Described, r.Resource.Known = true, false
	if e.describe == nil || r.Resource.ID == "" {
		return r, nil
	}
	var err error
	if r.Resource, err = e.describe(ctx, r.Resource, r.Action.Name); err != nil {
		return r, fmt.Errorf("describe %s: %w", r.Resource.Type, err)
	}
	return r, nil
}

// A Judge answers under one policy, the one that was in force when it was
// made, and keeps no record of its decisions. It is for the many questions
// that are part of answering one, which is recorded.
type Judge struct {
	engine *Engine
	policy *Policy
}

// Judge returns a judge by the policy in force.
func (e *Engine) Judge() Judge { return Judge{e, e.policy.Load()} }

// Revision is that of the policy; empty if there is none.
func (j Judge) Revision() string {
	if j.policy == nil {
		return ""
	}
	return j.policy.revision
}

// Decide implements [Decider].
func (j Judge) Decide(ctx context.Context, r Request) (Decision, error) {
	r, err := j.engine.described(ctx, r)
	if err != nil {
		return Decision{}, err
	}
	// What is asked many times in a row for one answer is not asked again soon.
	d, _ := j.engine.judge(ctx, j.policy, r, FactsFrom(ctx), j.engine.clock(), nil, nil)
	if err := ctx.Err(); err != nil {
		return Decision{}, err
	}
	return d, nil
}

func (e *Engine) decide(ctx context.Context, p *Policy, r Request) (Decision, error) {
	d, err := e.decideUntold(ctx, p, r, e.clock())
	if err == nil {
		tell(ctx, d)
	}
	return d, err
}

// tell tells whoever the decision was made for.
func tell(ctx context.Context, d Decision) {
	if facts := FactsFrom(ctx); facts != nil && facts.Decided != nil {
		facts.Decided(d)
	}
}

func (e *Engine) decideUntold(ctx context.Context, p *Policy, r Request, now time.Time) (Decision, error) {
	if e.tracer != nil {
		return e.traced(ctx, p, r, now)
	}
	return e.decideAt(ctx, p, r, now)
}

func (e *Engine) decideAt(ctx context.Context, p *Policy, r Request, now time.Time) (Decision, error) {
	facts := FactsFrom(ctx)
	watch := e.watch.Load()
	var nd, again Nondeterminism
	if (e.recorder != nil || watch != nil) && p != nil {
		nd = p.nondeterminism()
	}
	d, failure := e.judge(ctx, p, r, facts, now, nd.cache, e.memoOf(p))
	if err := ctx.Err(); err != nil {
		// Whoever asked is gone; what was decided on the way out is no answer.
		return Decision{}, err
	}
	o := Outcome{Request: r, Decision: d, Facts: facts, Policy: p, Nondeterminism: nd, Failure: failure}
	if watch != nil {
		again = nd.clone() // before others have it
	}
	if e.recorder != nil {
		if err := e.recorder.Record(ctx, o); err != nil {
			d = refuse(d, CodeUnavailable, "the decision could not be recorded")
			watch = nil
		}
	}
	if watch != nil {
		o.Nondeterminism = again
		(*watch)(o)
	}
	return d, nil
}

// judge evaluates, or finds the answer in m if that is not nil, and narrows.
// failure is why no policy answered. nd, if it is not nil, gives and takes what
// nondeterministic built-ins answer.
func (e *Engine) judge(ctx context.Context, p *Policy, r Request, facts *Facts, now time.Time, nd builtins.NDBCache, m *memo) (d Decision, failure error) {
	d.ID, d.Time = newID(now), now
	if p == nil {
		return refuse(d, CodeUnavailable, "no policy is in force"), errors.New("no policy is in force")
	}
	d.Revision = p.revision
	fast := e.compiled(p)
	due := fast && e.due()
	var k asked
	var before *answer
	if m != nil && (!fast || !m.question(&k, &r, facts, d.Time)) {
		m = nil
	}
	if m != nil {
		if before = m.find(k); before != nil && !due {
			e.remembered.RecordHits(1)
			before.tell(&d)
			return narrow(d, r), nil
		}
		e.remembered.RecordMisses(1)
	}
	in, err := ask(r, facts, d.Time)
	if err != nil {
		return refuse(d, CodePolicyError, "the request cannot be put to the policy"), err
	}
	var v ast.Value
	sure := false
	switch {
	case due:
		v, err = e.compare(ctx, p, in, d.Time, nd)
	case fast:
		v, sure, err = p.evaluate(ctx, decisionRule, in, d.Time, time.Now().Add(e.deadline), nd)
	default:
		v, err = p.topdown.evaluate(ctx, decisionRule, in, d.Time, time.Now().Add(e.deadline), nd)
	}
	if err == nil {
		err = p.read(&d, v)
	}
	switch {
	case errors.Is(err, errDeadline):
		return refuse(d, CodeDeadline, deadlineMessage), err
	case err != nil:
		return refuse(d, CodePolicyError, failedMessage), err
	}
	switch {
	case before != nil && !e.distrusts(p) && !before.says(&d):
		e.mistaken(m, before, &d)
	case m != nil && sure:
		m.keep(k, &d)
	}
	return narrow(d, r), nil
}

// mistaken drops m, of which an answer is not what the policy says now, and has d
// say the stricter of the two.
func (e *Engine) mistaken(m *memo, before *answer, d *Decision) {
	e.disagreed.Add(1)
	if e.memo.CompareAndSwap(m, nil) {
		e.log.Error("an answer that was remembered is not what the policy says; none is remembered from now on", "policy", d.Revision)
	}
	if !before.allow {
		before.tell(d)
	}
}

// newID makes the id of a decision made at now: 48 bits of the time in milliseconds
// and 80 bits by chance, so that no two are the same wherever they are made, in base
// 32 (RFC 4648) with the digits in the order of their bytes. Ids of one time are
// neighbours, so that one is looked for where others of its time are kept. Nothing
// depends on their order. An id protects nothing, and so need not have a
// secret's kind of chance, which takes as long as the rest of a decision that was
// remembered.
func newID(now time.Time) string {
	const digits = "234567ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	var id [26]byte
	put := func(id []byte, bits uint64) {
		for i := range id {
			id[len(id)-1-i] = digits[bits&31]
			bits >>= 5
		}
	}
	put(id[:10], uint64(now.UnixMilli()))
	put(id[10:18], rand.Uint64())
	put(id[18:], rand.Uint64())
	return string(id[:])
}

const (
	deadlineMessage = "the policy took longer than it may"
	failedMessage   = "the policy failed"
)

// narrow denies what the key at work is not granted, whatever the policy said.
func narrow(d Decision, r Request) Decision {
	if !d.Allow || granted(r) {
		return d
	}
	permission := cmp.Or(r.Mapped, r.Resource.Permission(r.Action.Name))
	d = refuse(d, CodeGrantMissing, fmt.Sprintf("key %q is not granted %s", r.Who().Identity().Key.Name, permission))
	d.Reasons[0].Permission = permission
	return d
}

// granted reports whether the key at work, if there is one, is granted what r asks
// for.
func granted(r Request) bool {
	grants, keyed := grants(r.Who())
	if !keyed || grants.Allows(r.Resource.Type, r.Action.Name) {
		return true
	}
	mappedType, mappedAction, mapped := strings.Cut(r.Mapped, ":")
	return mapped && grants.Allows(mappedType, mappedAction)
}

func refuse(d Decision, code, message string) Decision {
	d.Allow, d.Context = false, nil
	d.Reasons = []Reason{{Code: code, Message: message}}
	return d
}

// read fills d from the policy's answer. Most answers are the same few objects.
func (p *Policy) read(d *Decision, v ast.Value) error {
	doc, ok := v.(ast.Object)
	if !ok {
		return read(d, v)
	}
	if before, ok := p.answers.Load(doc); ok {
		before := before.(*Decision)
		d.Allow, d.Reasons = before.Allow, slices.Clone(before.Reasons)
		return nil
	}
	if err := read(d, v); err != nil {
		return err
	}
	if program := p.programs.decision; program != nil && program.Lasts(doc) && fixed(d) {
		p.answers.Store(doc, &Decision{Allow: d.Allow, Reasons: slices.Clone(d.Reasons)})
	}
	return nil
}

// fixed reports whether d has no maps, which its readers could change.
func fixed(d *Decision) bool {
	return d.Context == nil && !slices.ContainsFunc(d.Reasons, func(r Reason) bool { return r.Details != nil })
}

// read fills d from the policy's answer, which must be exactly a decision.
func read(d *Decision, v ast.Value) error {
	doc, ok := v.(ast.Object)
	if !ok {
		return fmt.Errorf("%s is undefined or not an object", decisionRule)
	}
	allow := doc.Get(allowKey)
	if allow == nil {
		return fmt.Errorf("%s.allow is missing", decisionRule)
	}
	b, ok := allow.Value.(ast.Boolean)
	if !ok {
		return fmt.Errorf("%s.allow is not a boolean", decisionRule)
	}
	reasons, err := readReasons(doc.Get(reasonsKey))
	if err != nil {
		return err
	}
	if !b && len(reasons) == 0 {
		return fmt.Errorf("%s denies without a reason", decisionRule)
	}
	if c := doc.Get(contextKey); c != nil {
		about, ok := c.Value.(ast.Object)
		if !ok {
			return fmt.Errorf("%s.context is not an object", decisionRule)
		}
		if about.Len() > 0 {
			j, err := ast.JSON(about)
			if err != nil {
				return fmt.Errorf("%s.context: %w", decisionRule, err)
			}
			d.Context, _ = j.(map[string]any)
		}
	}
	d.Allow, d.Reasons = bool(b), reasons
	return nil
}

var (
	allowKey   = ast.StringTerm("allow")
	reasonsKey = ast.StringTerm("reasons")

	codeKey       = ast.StringTerm("code")
	messageKey    = ast.StringTerm("message")
	permissionKey = ast.StringTerm("permission")
)

func readReasons(t *ast.Term) ([]Reason, error) {
	if t == nil {
		return nil, nil
	}
	var list *ast.Array
	switch v := t.Value.(type) {
	case *ast.Array:
		list = v
	case ast.Set:
		list = v.Sorted()
	default:
		return nil, fmt.Errorf("%s.reasons is not a list", decisionRule)
	}
	if list.Len() == 0 {
		return nil, nil
	}
	reasons := make([]Reason, list.Len())
	for i := range reasons {
		if err := readReason(list.Elem(i), &reasons[i]); err != nil {
			return nil, err
		}
	}
	return reasons, nil
}

func readReason(t *ast.Term, r *Reason) error {
	doc, ok := t.Value.(ast.Object)
	if !ok {
		return fmt.Errorf("%s.reasons holds something that is not an object", decisionRule)
	}
	known := 0
	for _, m := range [...]struct {
		key  *ast.Term
		text *string
	}{{codeKey, &r.Code}, {messageKey, &r.Message}, {permissionKey, &r.Permission}} {
		if v := doc.Get(m.key); v != nil {
			text, _ := v.Value.(ast.String)
			*m.text = string(text)
			known++
		}
	}
	if r.Code == "" || r.Message == "" {
		return fmt.Errorf("%s.reasons holds a reason without code or message", decisionRule)
	}
	if doc.Len() == known {
		return nil
	}
	r.Details = make(map[string]any, doc.Len()-known)
	return doc.Iter(func(k, v *ast.Term) (err error) {
		name, ok := k.Value.(ast.String)
		if !ok {
			return fmt.Errorf("%s.reasons holds a member whose name is not a string", decisionRule)
		}
		switch name {
		case "code", "message", "permission":
		default:
			r.Details[string(name)], err = ast.JSON(v.Value)
		}
		return err
	})
}

// Permissions returns what s may do by its roles, narrowed by the grants of
// the key at work: the effective permissions as enforced, on anything.
func (e *Engine) Permissions(ctx context.Context, s *Subject) (Permissions, error) {
	return e.permissions(ctx, permissionsRule, s)
}

// OwnPermissions returns what s may do with its own account, sessions and
// keys whatever its roles, narrowed likewise.
func (e *Engine) OwnPermissions(ctx context.Context, s *Subject) (Permissions, error) {
	return e.permissions(ctx, ownPermissionsRule, s)
}

func (e *Engine) permissions(ctx context.Context, rule string, s *Subject) (Permissions, error) {
	p := e.policy.Load()
	if p == nil {
		return nil, errors.New("no policy is in force")
	}
	now := e.clock()
	q, err := ask(Request{Subject: s}, nil, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rule, err)
	}
	in := compiled.Document{Term: ast.ObjectTerm([2]*ast.Term{principalKey, q.principal()})}
	v, err := e.evaluate(ctx, p, rule, in, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rule, err)
	}
	if v == nil {
		return nil, fmt.Errorf("%s is undefined", rule)
	}
	permissions := Permissions{}
	if err := ast.As(v, &permissions); err != nil {
		return nil, fmt.Errorf("%s: %w", rule, err)
	}
	return permissions, nil
}
