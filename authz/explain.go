package authz

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/ostiary/ostiary/authz/compiled"
)

// Explanation is a decision with the rules that led to it.
type Explanation struct {
	Decision Decision
	Fired    []Rule // rules that held, in the order in which they were tried
	Failed   []Rule // rules that were tried and did not hold
	// Unmet is where the rules in Failed ended, in the same order: of one
	// that was tried for several values, where the last try ended.
	Unmet []Unmet
	// Failure is why the policy gave no answer, with the place, or empty. The
	// Decision is then the denial that follows. It can quote what the policy saw.
	// It also says that there were too many steps to tell.
	Failure string
}

// Unmet is a condition of a rule that was not met: an expression that did not hold.
type Unmet struct {
	Rule   string  `json:"rule"`
	File   string  `json:"file"`
	Line   int     `json:"line"`
	Column int     `json:"column"`
	Text   string  `json:"text"` // as it is written
	Values []Value `json:"values"`
}

// Value is what an expression read from the input.
type Value struct {
	Path    string `json:"path"` // input.principal.id
	Missing bool   `json:"missing,omitzero"`
	Value   any    `json:"value"`
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
	in, err := ask(r, facts, now)
	if err != nil {
		return Explanation{}, err
	}
	x, err := p.explain(ctx, in.Document(), now, e.deadline, Nondeterminism{})
	if err != nil {
		return Explanation{}, err
	}
	x.Decision = narrow(x.Decision, r)
	return x, nil
}

// Explain decides an input document, JSON values, as it stands, as of now, and
// says which rules held. It is for documents that somebody wrote or that were
// recorded, then with the answers nd of built-ins that are on record: unlike an
// [Engine] it believes what the document says of the principal.
func (p *Policy) Explain(ctx context.Context, document map[string]any, now time.Time, nd Nondeterminism) (Explanation, error) {
	in, err := ast.InterfaceToValue(document)
	if err != nil {
		return Explanation{}, fmt.Errorf("input: %w", err)
	}
	x, err := p.explain(ctx, ast.NewTerm(in), now, time.Second, nd)
	if r, malformed := questionIn(document); err == nil && malformed == nil {
		x.Decision = narrow(x.Decision, r)
	}
	return x, err
}

// TimeOf is the time that an input document says it is, or else the present.
func TimeOf(document map[string]any) time.Time {
	about, _ := document["context"].(map[string]any)
	text, _ := about["time"].(string)
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t
	}
	return time.Now()
}

// Judge returns a function that decides an input document, JSON values, as it
// stands, and forgets the answer: for measuring. It fails where a decision would.
func (p *Policy) Judge(document any) (func(ctx context.Context, now time.Time) error, error) {
	in, err := ast.InterfaceToValue(document)
	if err != nil {
		return nil, fmt.Errorf("input: %w", err)
	}
	input := compiled.Document{Term: ast.NewTerm(in)}
	return func(ctx context.Context, now time.Time) error {
		v, _, err := p.evaluate(ctx, decisionRule, input, now, time.Now().Add(10*time.Second), nil)
		if err != nil {
			return err
		}
		var d Decision
		return read(&d, v)
	}, nil
}

// maxSteps bounds the trace of an explanation: anybody may ask for one.
const maxSteps = 20_000

func (p *Policy) explain(ctx context.Context, in *ast.Term, now time.Time, within time.Duration, nd Nondeterminism) (Explanation, error) {
	limited := &limit{ctx: ctx, deadline: time.Now().Add(10 * within)} // a trace is slow
	steps := &trace{events: topdown.NewBufferTracer(), limit: limited, most: maxSteps}
	query := func(l *limit) *topdown.Query {
		q := p.topdown.query(decisionRule, in, now).WithCancel(l)
		if nd.cache != nil {
			q = q.WithNDBuiltinCache(nd.cache)
		}
		return q
	}
	v, err := result(ctx, query(limited).WithQueryTracer(steps).WithIndexing(false).WithEarlyExit(false))
	if steps.over {
		// The answer is then what it is without a trace.
		limited = &limit{ctx: ctx, deadline: time.Now().Add(within)}
		v, err = result(ctx, query(limited))
	}
	if topdown.IsCancel(err) {
		err = limited.cause()
	}
	if ctx.Err() != nil {
		return Explanation{}, fmt.Errorf("explain: %w", ctx.Err())
	}
	x := Explanation{Decision: Decision{Time: now, Revision: p.revision}}
	if err == nil {
		err = read(&x.Decision, v)
	}
	switch {
	case errors.Is(err, errDeadline):
		x.Decision, x.Failure = refuse(x.Decision, CodeDeadline, deadlineMessage), err.Error()
	case err != nil:
		x.Decision, x.Failure = refuse(x.Decision, CodePolicyError, failedMessage), err.Error()
	}
	if steps.over && err == nil {
		x.Failure = fmt.Sprintf("the evaluation has more than %d steps; only the first are told", maxSteps)
	}
	x.Fired, x.Failed = rules(*steps.events)
	x.Unmet = unmet(*steps.events, in)
	return x, nil
}

// unmet returns where rules ended that never held, in the order in which
// they were first tried.
func unmet(trace []*topdown.Event, in *ast.Term) []Unmet {
	held := map[*ast.Rule]bool{}
	entered := map[uint64]*ast.Rule{} // by query
	ended := map[*ast.Rule]*topdown.Event{}
	var tried []*ast.Rule
	for _, event := range trace {
		switch node := event.Node.(type) {
		case *ast.Rule:
			switch event.Op {
			case topdown.EnterOp:
				entered[event.QueryID] = node
				if _, seen := held[node]; !seen {
					held[node] = false
					tried = append(tried, node)
				}
			case topdown.ExitOp:
				held[node] = true
			}
		case *ast.Expr:
			if rule := entered[event.QueryID]; rule != nil && event.Op == topdown.FailOp && node.Location != nil {
				ended[rule] = event
			}
		}
	}
	var all []Unmet
	for _, rule := range tried {
		event := ended[rule]
		if held[rule] || event == nil {
			continue
		}
		at := written(rule, event.Node.(*ast.Expr).Location)
		all = append(all, Unmet{
			Rule:   rule.Ref().GroundPrefix().String(),
			File:   at.File,
			Line:   at.Row,
			Column: at.Col,
			Text:   strings.Join(strings.Fields(string(at.Text)), " "),
			Values: values(string(at.Text), in),
		})
	}
	return all
}

// written returns the place of the whole expression that one of the compiler's
// making comes from: the longest of the rule that contains it.
func written(rule *ast.Rule, at *ast.Location) *ast.Location {
	longest := at
	for _, e := range rule.Body {
		l := e.Location
		if l != nil && l.File == at.File && l.Offset <= at.Offset && l.Offset+len(l.Text) >= at.Offset+len(at.Text) && len(l.Text) > len(longest.Text) {
			longest = l
		}
	}
	return longest
}

// values returns what the input has where an expression reads it.
func values(text string, in *ast.Term) []Value {
	all := []Value{}
	body, err := ast.ParseBodyWithOpts(text, ast.ParserOptions{Capabilities: capabilities})
	if err != nil {
		return all // part of an expression; its text has to do
	}
	seen := map[string]bool{}
	ast.WalkRefs(body, func(ref ast.Ref) bool {
		if !ref.HasPrefix(ast.InputRootRef) {
			return false
		}
		ref = ref.GroundPrefix()
		path := ref.String()
		if seen[path] {
			return false
		}
		seen[path] = true
		v := Value{Path: path, Missing: true}
		if found, err := in.Value.Find(ref[1:]); err == nil {
			if plain, err := ast.JSON(found); err == nil {
				v.Missing, v.Value = false, plain
			}
		}
		all = append(all, v)
		return false
	})
	return all
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
