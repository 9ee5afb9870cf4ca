package authz

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Filter says for which things of a type a request would be allowed: a
// condition made from the policy by partial evaluation, with the thing unknown.
type Filter struct {
	// Sure holds only of things for which it would be allowed.
	Sure Condition
	// Maybe holds at least of those. Of a thing for which Maybe holds and Sure
	// does not, only a decision can tell.
	Maybe Condition
	// Unsaid are the expressions that could not be said, as text; at most ten.
	Unsaid   []string
	Revision string // of the policy
	Time     time.Time
}

// Exact reports whether the condition alone tells: Sure and Maybe are the same.
func (f Filter) Exact() bool { return f.Sure.key() == f.Maybe.key() }

// Unknown is the part of a request that a filter is about.
type Unknown int

const (
	UnknownResource Unknown = iota // the resource's id and properties
	UnknownSubject                 // an asserted subject's id and properties
)

// FieldKind is what is known beforehand of the values of a field.
type FieldKind int

const (
	Untold  FieldKind = iota // cannot be searched by
	AnyJSON                  // any JSON value, or absent
	Text                     // text, or absent
	Number                   // a number, or absent
	Boolean                  // true or false, or absent
	// AlwaysText is text that is never absent.
	AlwaysText
	// TextOrNull is text or null, and never absent. A condition that it is
	// Defined holds of text.
	TextOrNull
)

// maxConditions bounds how large a filter may become.
const maxConditions = 2000

// Filter turns r, with what u names left unknown, into a condition on the things
// asked about. Properties of the unknown part that r has are taken as those of
// every candidate. kind tells what fields there are; a part of the policy that
// reads others, or that cannot be said as a condition, makes the filter inexact.
func (e *Engine) Filter(ctx context.Context, r Request, u Unknown, kind func(Field) FieldKind) (Filter, error) {
	return e.Judge().Filter(ctx, r, u, kind)
}

// Filter is [Engine.Filter], under the judge's policy.
func (j Judge) Filter(ctx context.Context, r Request, u Unknown, kind func(Field) FieldKind) (Filter, error) {
	e, p := j.engine, j.policy
	if p == nil {
		return Filter{}, ErrNoPolicy
	}
	f := Filter{Revision: p.revision, Time: e.clock()}
	if !r.granted() {
		return f, nil
	}
	in, err := input(r, FactsFrom(ctx), f.Time)
	if err != nil {
		return Filter{}, err
	}
	if p.reflexive {
		f.Maybe = always
		f.Unsaid = []string{"a comparison of something with itself"}
		return f, nil
	}
	t := translator{lossy: p.lossy, kind: kind, rules: map[string][]*ast.Rule{}, done: map[string]trilean{}}
	prefix := resourceKey
	given := r.Resource.Properties
	if u == UnknownSubject {
		prefix, given = principalKey, r.subject().identity.Properties
	}
	t.prefix = ast.Ref{ast.InputRootDocument, prefix}
	if t.given, err = properties(given); err != nil {
		return Filter{}, err
	}
	queries, support, err := p.topdown.partial(ctx, passesRule, in, f.Time, time.Now().Add(e.deadline),
		[]*ast.Term{ast.NewTerm(t.prefix.Append(idKey)), ast.NewTerm(t.prefix.Append(propertiesKey))})
	switch {
	case ctx.Err() != nil:
		return Filter{}, ctx.Err()
	case err != nil:
		// No such rule, or a part that breaks whatever the thing is: decisions will say so.
		f.Maybe = always
		return f, nil
	}
	t.learn(support)
	result := t.bodies(queries)
	f.Unsaid = t.parts
	f.Sure, f.Maybe = all(result.sure, all(t.clean...)), result.maybe
	if t.lost > 0 || t.size > maxConditions {
		f.Sure = never
	}
	if t.size > maxConditions {
		f.Maybe = always
	}
	return f, nil
}

// trilean is a condition of which not everything can be said: sure implies it,
// and it implies maybe.
type trilean struct{ sure, maybe Condition }

var unsaid = trilean{never, always}

func said(c Condition) trilean { return trilean{c, c} }

func negated(t trilean) trilean { return trilean{negate(t.maybe), negate(t.sure)} }

func allOf(ts []trilean) trilean {
	sure, maybe := split(ts)
	return trilean{all(sure...), all(maybe...)}
}

func anyOf(ts []trilean) trilean {
	sure, maybe := split(ts)
	return trilean{anyHolds(sure...), anyHolds(maybe...)}
}

func split(ts []trilean) (sure, maybe []Condition) {
	for _, t := range ts {
		sure, maybe = append(sure, t.sure), append(maybe, t.maybe)
	}
	return sure, maybe
}

// translator turns what partial evaluation leaves into conditions.
//
// What it does not know it says nothing about (unsaid). Whatever it says must be
// so under every reading: a built-in that fails makes the decision a denial
// wherever it stands, so each field that a built-in could choke on has to be of the
// right type for anything to be sure.
type translator struct {
	prefix ast.Ref   // input.resource or input.principal
	given  *ast.Term // properties that every candidate has
	kind   func(Field) FieldKind
	rules  map[string][]*ast.Rule
	done   map[string]trilean // conditions of rules, by name; unsaid while being made
	clean  []Condition        // what has to hold for no built-in to fail
	lost   int                // how often something was left unsaid, which could fail
	parts  []string           // what it was
	lossy  bool               // of the policy; see careless
	size   int
}

// learn notes the rules that partial evaluation left over.
func (t *translator) learn(support []*ast.Module) {
	var composed []string
	for _, m := range support {
		for _, rule := range m.Rules {
			name := rule.Ref().GroundPrefix().String()
			if !rule.Ref().IsGround() {
				composed = append(composed, name) // an object, made of several rules
			}
			t.rules[name] = append(t.rules[name], rule)
		}
	}
	for _, name := range composed {
		delete(t.rules, name)
	}
}

func (t *translator) unsaid() trilean {
	t.lost++
	return unsaid
}

func (t *translator) bodies(bs []ast.Body) trilean {
	ts := make([]trilean, len(bs))
	for i, b := range bs {
		ts[i] = t.body(b)
	}
	return anyOf(ts)
}

func (t *translator) body(b ast.Body) trilean {
	uses := map[ast.Var]int{}
	ast.WalkVars(b, func(v ast.Var) bool { uses[v]++; return false })
	ts := make([]trilean, len(b))
	for i, e := range b {
		if t.size++; t.size > maxConditions {
			return unsaid
		}
		ts[i] = t.expr(e, uses)
	}
	return allOf(ts)
}

func (t *translator) expr(e *ast.Expr, uses map[ast.Var]int) trilean {
	lost, parts := t.lost, len(t.parts)
	result := t.literal(e, uses)
	if t.lost > lost && len(t.parts) == parts && parts < 10 { // and not further within
		if text := e.String(); !slices.Contains(t.parts, text) {
			t.parts = append(t.parts, text)
		}
	}
	return result
}

func (t *translator) literal(e *ast.Expr, uses map[ast.Var]int) trilean {
	if len(e.With) > 0 {
		return t.unsaid()
	}
	var result trilean
	switch terms := e.Terms.(type) {
	case *ast.Term:
		result = t.truth(terms)
	case []*ast.Term:
		result = t.call(terms, uses)
	default: // every, some
		return t.unsaid()
	}
	if !e.Negated {
		return result
	}
	result = negated(result)
	terms, calls := e.Terms.([]*ast.Term)
	if !calls {
		terms = []*ast.Term{e.Terms.(*ast.Term)}
	}
	switch {
	case calls && !ast.Equality.Ref().Equal(terms[0].Value):
		// As in a rule of Rego, what a function is called with is found before
		// the negation: if it is absent, nothing holds.
		result = allOf([]trilean{result, t.present(terms[1:])})
	case t.lossy:
		for _, term := range terms {
			if f, ok := t.fieldOf(term); ok {
				result.sure = all(result.sure, t.defined(f).sure)
			}
		}
	}
	return result
}

// truth is an expression that is a term alone: it is there and not false.
func (t *translator) truth(term *ast.Term) trilean {
	if ast.IsScalar(term.Value) {
		return saidIf(!term.Equal(ast.BooleanTerm(false)))
	}
	if call, ok := term.Value.(ast.Call); ok {
		return t.call(call, nil)
	}
	ref, ok := term.Value.(ast.Ref)
	if !ok {
		return t.unsaid()
	}
	if f, ok := t.field(ref); ok {
		there := t.defined(f)
		truth := allOf([]trilean{there, negated(t.compare(Eq, f, ast.Boolean(false)))})
		if t.lossy {
			truth.maybe = there.maybe // or that it is there was all that was asked
		}
		return truth
	}
	if rules, ok := t.rules[ref.String()]; ok {
		if multi(rules) {
			return said(always) // a set is there even if it is empty
		}
		return t.valued(ref.String(), rules, func(v ast.Value) bool { return v.Compare(ast.Boolean(false)) != 0 })
	}
	return t.unsaid()
}

var comparisons = map[string]Op{"eq": Eq, "equal": Eq, "neq": Ne, "lt": Lt, "lte": Lte, "gt": Gt, "gte": Gte}

// mirrored is the comparison with its sides exchanged.
var mirrored = map[Op]Op{Eq: Eq, Ne: Ne, Lt: Gt, Lte: Gte, Gt: Lt, Gte: Lte}

var searches = map[string]Op{"startswith": StartsWith, "endswith": EndsWith, "contains": Contains}

func (t *translator) call(terms []*ast.Term, uses map[ast.Var]int) trilean {
	operator, ok := terms[0].Value.(ast.Ref)
	if !ok {
		return t.unsaid()
	}
	name, args := operator.String(), terms[1:]
	op, compares := comparisons[name]
	search, searching := searches[name]
	switch {
	case compares && len(args) == 2:
		return t.comparison(op, args[0], args[1], uses)
	case name == "internal.member_2" && len(args) == 2:
		return t.member(args[0], args[1])
	case searching && len(args) == 2:
		if f, ok := t.fieldOf(args[0]); ok {
			if s, ok := args[1].Value.(ast.String); ok {
				return t.text(search, f, string(s))
			}
		}
	case name == "is_string" && len(args) == 1:
		if f, ok := t.fieldOf(args[0]); ok {
			return t.isText(f)
		}
	case name == "is_set" && len(args) == 1:
		if ref, ok := args[0].Value.(ast.Ref); ok {
			if rules, ok := t.rules[ref.String()]; ok && (multi(rules) || scalars(rules)) {
				return saidIf(multi(rules))
			}
		}
	case name == "sprintf" && len(args) == 3:
		// With a result that nobody looks at: it has to have one.
		if v, ok := args[2].Value.(ast.Var); ok && uses[v] == 1 {
			return t.present(args[:2])
		}
	}
	return t.unsaid()
}

// present is that everything that args read is there.
func (t *translator) present(args []*ast.Term) trilean {
	var ts []trilean
	known := true
	for _, arg := range args {
		ast.WalkTerms(arg, func(term *ast.Term) bool {
			switch v := term.Value.(type) {
			case ast.Ref:
				if f, ok := t.field(v); ok {
					ts = append(ts, t.defined(f))
				} else if !multi(t.rules[v.String()]) { // a set is always there
					known = false
				}
				return true
			case ast.Var, ast.Call:
				known = false
			}
			return false
		})
	}
	if !known {
		return t.unsaid()
	}
	return allOf(ts)
}

func (t *translator) comparison(op Op, a, b *ast.Term, uses map[ast.Var]int) trilean {
	if ground(a) && ground(b) {
		return saidIf(op.Holds(a.Value.Compare(b.Value)))
	}
	if ground(a) || isVar(a) {
		a, b, op = b, a, mirrored[op]
	}
	if f, ok := t.fieldOf(a); ok {
		if ground(b) {
			return t.compare(op, f, b.Value)
		}
		if v, ok := b.Value.(ast.Var); ok && op == Eq && uses[v] == 1 {
			return t.defined(f) // whatever it is
		}
		if g, ok := t.fieldOf(b); ok && (op == Eq || op == Ne) {
			return t.compareFields(op, f, g)
		}
		return t.unsaid()
	}
	if !ground(b) {
		return t.unsaid()
	}
	switch v := a.Value.(type) {
	case ast.Call: // count(rule) > 0
		if len(v) == 2 && v[0].Value.Compare(countRef) == 0 && op == Gt && b.Equal(ast.IntNumberTerm(0)) {
			if ref, ok := v[1].Value.(ast.Ref); ok && multi(t.rules[ref.String()]) {
				return t.valued(ref.String(), t.rules[ref.String()], func(ast.Value) bool { return true })
			}
		}
	case ast.Ref:
		if rules, ok := t.rules[v.String()]; ok {
			return t.compareRules(op, v.String(), rules, b.Value)
		}
		// "bob" = input.resource.properties.readers[_]
		if last, ok := v[len(v)-1].Value.(ast.Var); ok && op == Eq && uses[last] == 1 {
			if f, ok := t.field(v[:len(v)-1]); ok {
				return t.has(f, b.Value)
			}
		}
	}
	return t.unsaid()
}

var countRef = ast.Ref{ast.VarTerm("count")}

// compareRules compares what rules that were left over say with a constant.
func (t *translator) compareRules(op Op, name string, rules []*ast.Rule, v ast.Value) trilean {
	if !multi(rules) {
		return t.valued(name, rules, func(w ast.Value) bool { return op.Holds(w.Compare(v)) })
	}
	if op != Eq && op != Ne {
		return t.unsaid()
	}
	result := said(never) // a set is no constant of another type
	if set, ok := v.(ast.Set); ok {
		if set.Len() > 0 {
			return t.unsaid()
		}
		result = negated(t.valued(name, rules, func(ast.Value) bool { return true }))
	}
	if op == Ne {
		return negated(result)
	}
	return result
}

// valued is that the rules have a value for which want holds; for a set, that it
// has a member.
func (t *translator) valued(name string, rules []*ast.Rule, want func(ast.Value) bool) trilean {
	some, ok := t.done[name]
	if !ok {
		t.done[name] = unsaid // a rule that needs itself is not said
		var all []trilean
		for _, r := range rules {
			if r.Else != nil {
				return t.unsaid()
			}
			if r.Default {
				continue
			}
			holds := t.body(r.Body)
			if key := r.Head.Key; key != nil && !isVar(key) && !ground(key) {
				holds = allOf([]trilean{holds, t.present([]*ast.Term{key})})
			}
			all = append(all, holds)
		}
		some = anyOf(all)
		t.done[name] = some
	}
	if multi(rules) {
		return some
	}
	// Rules of one name with different values contradict each other.
	var value, otherwise ast.Value
	for _, r := range rules {
		switch {
		case !ground(r.Head.Value) || len(r.Head.Args) > 0:
			return t.unsaid()
		case r.Default:
			otherwise = r.Head.Value.Value
		case value != nil && value.Compare(r.Head.Value.Value) != 0:
			return t.unsaid()
		default:
			value = r.Head.Value.Value
		}
	}
	var ts []trilean
	if value != nil && want(value) {
		ts = append(ts, some)
	}
	if otherwise != nil && want(otherwise) {
		ts = append(ts, negated(some))
	}
	return anyOf(ts)
}

func (t *translator) member(element, collection *ast.Term) trilean {
	if f, ok := t.fieldOf(collection); ok {
		if ground(element) {
			return t.has(f, element.Value)
		}
		return t.unsaid()
	}
	f, ok := t.fieldOf(element)
	if !ok || !ground(collection) {
		return t.unsaid()
	}
	var ts []trilean
	each := func(v *ast.Term) { ts = append(ts, t.compare(Eq, f, v.Value)) }
	switch c := collection.Value.(type) {
	case *ast.Array:
		c.Foreach(each)
	case ast.Set:
		c.Foreach(each)
	case ast.Object:
		c.Foreach(func(_, v *ast.Term) { each(v) })
	}
	t.size += len(ts)
	return anyOf(ts)
}

// fieldOf is field, of a term.
func (t *translator) fieldOf(term *ast.Term) (Field, bool) {
	ref, ok := term.Value.(ast.Ref)
	if !ok {
		return nil, false
	}
	return t.field(ref)
}

// field returns the field of the searched thing that ref reads.
func (t *translator) field(ref ast.Ref) (Field, bool) {
	if !ref.HasPrefix(t.prefix) || len(ref) == len(t.prefix) {
		return nil, false
	}
	var f Field
	for _, step := range ref[len(t.prefix):] {
		name, ok := step.Value.(ast.String)
		if !ok {
			return nil, false
		}
		f = append(f, string(name))
	}
	if f[0] == "properties" && len(f) == 1 {
		return nil, false // all of them at once
	}
	if _, known := t.constant(f); !known && t.kind(f) == Untold {
		return nil, false
	}
	return f, true
}

// constant returns the value that f has in every candidate, if the asker says so:
// nil if it is absent from all.
func (t *translator) constant(f Field) (ast.Value, bool) {
	if f[0] != "properties" {
		return nil, false
	}
	given := t.given.Get(ast.StringTerm(f[1]))
	if given == nil {
		return nil, false
	}
	v := given.Value
	for _, step := range f[2:] {
		found, err := v.Find(ast.Ref{ast.StringTerm(step)})
		if err != nil {
			return nil, true
		}
		v = found
	}
	return v, true
}

func (t *translator) defined(f Field) trilean {
	if v, known := t.constant(f); known {
		return saidIf(v != nil)
	}
	if k := t.kind(f); k == AlwaysText || k == TextOrNull {
		return said(always)
	}
	return said(Condition{Op: Defined, Field: f})
}

func (t *translator) isText(f Field) trilean {
	if v, known := t.constant(f); known {
		_, text := v.(ast.String)
		return saidIf(text)
	}
	switch t.kind(f) {
	case AlwaysText:
		return said(always)
	case Text, TextOrNull:
		return said(Condition{Op: Defined, Field: f})
	case AnyJSON:
		return said(Condition{Op: IsText, Field: f})
	}
	return said(never)
}

// ranks of the types in Rego's order of values.
const (
	rankNull = iota
	rankBoolean
	rankNumber
	rankText
	rankList
	rankOther
)

func rank(v ast.Value) int {
	switch v.(type) {
	case ast.Null:
		return rankNull
	case ast.Boolean:
		return rankBoolean
	case ast.Number:
		return rankNumber
	case ast.String:
		return rankText
	case *ast.Array:
		return rankList
	}
	return rankOther
}

func (t *translator) compare(op Op, f Field, v ast.Value) trilean {
	if c, known := t.constant(f); known {
		return saidIf(c != nil && op.Holds(c.Compare(v)))
	}
	kind := t.kind(f)
	if kind == TextOrNull {
		text := said(never)
		switch s, ok := v.(ast.String); {
		case ok:
			text = said(Condition{Op: op, Field: f, Value: string(s)})
		case op.Holds(rankText - rank(v)):
			text = said(Condition{Op: Defined, Field: f})
		}
		null := negated(said(Condition{Op: Defined, Field: f}))
		if !op.Holds(rankNull - rank(v)) {
			null = said(never)
		}
		return anyOf([]trilean{text, null})
	}
	if typed, ok := map[FieldKind]int{Text: rankText, AlwaysText: rankText, Number: rankNumber, Boolean: rankBoolean}[kind]; ok {
		if r := rank(v); r != typed {
			if op.Holds(typed - r) {
				return t.defined(f)
			}
			return said(never)
		}
	}
	value, ok := scalar(v)
	if !ok {
		return t.unsaid()
	}
	return said(Condition{Op: op, Field: f, Value: value})
}

func (t *translator) compareFields(op Op, f, g Field) trilean {
	if v, known := t.constant(f); known {
		if v == nil {
			return said(never)
		}
		return t.compare(op, g, v)
	}
	if v, known := t.constant(g); known {
		if v == nil {
			return said(never)
		}
		return t.compare(op, f, v)
	}
	a, b := t.kind(f), t.kind(g)
	if a == AlwaysText {
		a = Text
	}
	if b == AlwaysText {
		b = Text
	}
	switch {
	case a == b && a != AnyJSON, a == AnyJSON && b == Text, a == Text && b == AnyJSON:
		return said(Condition{Op: op, Field: f, Other: g})
	case a == AnyJSON || b == AnyJSON || a == TextOrNull || b == TextOrNull:
		return t.unsaid()
	case op == Eq:
		return said(never) // of two types
	}
	return allOf([]trilean{t.defined(f), t.defined(g)})
}

func (t *translator) has(f Field, v ast.Value) trilean {
	if c, known := t.constant(f); known {
		found := false
		each := func(e *ast.Term) { found = found || e.Value.Compare(v) == 0 }
		switch c := c.(type) {
		case *ast.Array:
			c.Foreach(each)
		case ast.Object:
			c.Foreach(func(_, e *ast.Term) { each(e) })
		}
		return saidIf(found)
	}
	if t.kind(f) != AnyJSON {
		return said(never)
	}
	value, ok := scalar(v)
	if !ok {
		return t.unsaid()
	}
	return said(Condition{Op: Has, Field: f, Value: value})
}

// text is a search in a text. In anything else it fails, and with it the decision.
func (t *translator) text(op Op, f Field, s string) trilean {
	matches := Condition{Op: op, Field: f, Value: s}
	there := Condition{Op: Defined, Field: f}
	var wrong Condition
	if v, known := t.constant(f); known {
		text, ok := v.(ast.String)
		matches, wrong = saidIf(ok && searchText(op, string(text), s)).sure, saidIf(v != nil && !ok).sure
	} else {
		switch t.kind(f) {
		case Text, AlwaysText:
			wrong = never
		case TextOrNull:
			wrong = negate(there)
		case AnyJSON:
			wrong = all(there, negate(Condition{Op: IsText, Field: f}))
		default:
			matches, wrong = never, there
		}
	}
	t.clean = append(t.clean, negate(wrong))
	sure := all(t.isText(f).sure, matches)
	return trilean{sure, anyHolds(sure, wrong)}
}

func saidIf(b bool) trilean {
	if b {
		return said(always)
	}
	return said(never)
}

func multi(rules []*ast.Rule) bool {
	return len(rules) > 0 && rules[0].Head.RuleKind() == ast.MultiValue
}

// scalars reports whether no rule can have a set for its value.
func scalars(rules []*ast.Rule) bool {
	for _, r := range rules {
		if r.Else != nil || r.Head.Value == nil || !ast.IsScalar(r.Head.Value.Value) {
			return false
		}
	}
	return len(rules) > 0
}

func ground(term *ast.Term) bool {
	constant := true
	ast.WalkTerms(term, func(t *ast.Term) bool {
		switch t.Value.(type) {
		case ast.Ref, ast.Var, ast.Call, *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
			constant = false
		}
		return !constant
	})
	return constant
}

func isVar(term *ast.Term) bool {
	_, ok := term.Value.(ast.Var)
	return ok
}

// scalar returns v as a JSON value that databases compare as Rego does: numbers
// only as far as a double or a 64-bit integer is exact.
func scalar(v ast.Value) (any, bool) {
	switch v := v.(type) {
	case ast.Null:
		return nil, true
	case ast.Boolean:
		return bool(v), true
	case ast.String:
		return string(v), true
	case ast.Number:
		return json.Number(v), ExactNumber(json.Number(v))
	}
	return nil, false
}

// ExactNumber reports whether n is a 64-bit integer of at most 2^53, or the
// shortest spelling of a double: databases keep and compare such numbers without
// loss.
func ExactNumber(n json.Number) bool {
	if i, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return i <= 1<<53 && i >= -(1<<53)
	}
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil || math.IsInf(f, 0) {
		return false
	}
	shortest := ast.Number(strconv.FormatFloat(f, 'g', -1, 64))
	return shortest.Compare(ast.Number(n)) == 0
}

func (f Filter) String() string {
	if f.Exact() {
		return f.Sure.String()
	}
	return fmt.Sprintf("sure: %s; maybe: %s", f.Sure, f.Maybe)
}

// careless reports in which ways rules outside of data.ostiary are written so that
// partial evaluation loses something:
//
// reflexive: a rule may compare something with itself. x == x becomes x, and
// not x == x false: wrong if x is false, or absent.
//
// lossy: a rule finds a value, as a variable or as the argument of a function, and
// asks whether something is not so of it. Then it no longer matters whether there
// was a value.
func careless(modules map[string]*ast.Module) (reflexive, lossy bool) {
	for _, m := range modules {
		if m.Package.Path.Equal(ownPackage) {
			continue
		}
		ast.WalkRules(m, func(r *ast.Rule) bool {
			// What variables stand for; nil for arguments, which can be anything.
			values := map[ast.Var]ast.Value{}
			for _, arg := range r.Head.Args {
				ast.WalkVars(arg, func(v ast.Var) bool { values[v] = nil; return false })
			}
			ast.WalkExprs(r, func(e *ast.Expr) bool {
				terms, calls := e.Terms.([]*ast.Term)
				switch {
				case e.IsEquality() && !e.Negated:
					a, b := e.Operand(0).Value, e.Operand(1).Value
					if !defines(values, a, b) && !defines(values, b, a) && perhapsSame(resolved(values, a), resolved(values, b)) {
						reflexive = true
					}
				case e.IsEquality():
					if perhapsSame(resolved(values, e.Operand(0).Value), resolved(values, e.Operand(1).Value)) {
						reflexive = true
					}
					lossy = lossy || perhapsAbsent(values, terms)
				case calls && terms[0].Value.(ast.Ref).HasPrefix(ast.DefaultRootRef):
					lossy = lossy || perhapsAbsent(values, terms[1:])
				case e.Negated && !calls:
					if term, ok := e.Terms.(*ast.Term); ok {
						lossy = lossy || perhapsAbsent(values, []*ast.Term{term})
					}
				}
				return false
			})
			return false
		})
	}
	return reflexive, lossy
}

// perhapsAbsent reports whether a variable in terms may stand for something that is
// not there in every request.
func perhapsAbsent(values map[ast.Var]ast.Value, terms []*ast.Term) bool {
	absent := false
	for _, term := range terms {
		ast.WalkVars(term, func(v ast.Var) bool {
			value, known := values[v]
			if !known {
				return false
			}
			ref, ok := value.(ast.Ref)
			absent = absent || value == nil || ok && !alwaysThere(ref)
			return false
		})
	}
	return absent
}

// alwaysThere: the parts of the input document itself.
func alwaysThere(ref ast.Ref) bool {
	if !ref.HasPrefix(ast.InputRootRef) || len(ref) > 3 {
		return false
	}
	return len(ref) < 3 || ref[2].Equal(propertiesKey) || ref[2].Equal(typeKey) || ref[2].Equal(nameKey)
}

var ownPackage = ast.MustParseRef("data.ostiary")

// defines reports whether a = b is where the variable a gets its value.
func defines(values map[ast.Var]ast.Value, a, b ast.Value) bool {
	v, ok := a.(ast.Var)
	if !ok {
		return false
	}
	if _, known := values[v]; known {
		return false
	}
	values[v] = resolved(values, b)
	return true
}

func resolved(values map[ast.Var]ast.Value, v ast.Value) ast.Value {
	switch x := v.(type) {
	case ast.Var:
		return values[x]
	case ast.Ref:
		if head, ok := x[0].Value.(ast.Var); ok {
			if prefix, ok := values[head].(ast.Ref); ok {
				return prefix.Concat(x[1:])
			}
		}
	}
	return v
}

// perhapsSame reports whether a and b may be the same reference. nil is anything.
func perhapsSame(a, b ast.Value) bool {
	if a == nil || b == nil {
		return true
	}
	x, ok := a.(ast.Ref)
	if !ok {
		return false
	}
	y, ok := b.(ast.Ref)
	if !ok {
		return false
	}
	rooted := func(r ast.Ref) bool { return r.HasPrefix(ast.InputRootRef) || r.HasPrefix(ast.DefaultRootRef) }
	if rooted(x) && rooted(y) {
		for i := range min(len(x), len(y)) {
			if ast.IsConstant(x[i].Value) && ast.IsConstant(y[i].Value) && !x[i].Equal(y[i]) {
				return false
			}
		}
		return len(x) == len(y) && x[0].Equal(y[0])
	}
	last, other := x[len(x)-1].Value, y[len(y)-1].Value
	return !ast.IsConstant(last) || !ast.IsConstant(other) || last.Compare(other) == 0
}
