package authz

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

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
	equality := calls && ast.Equality.Ref().Equal(terms[0].Value)
	if term, ok := e.Terms.(*ast.Term); ok {
		terms = []*ast.Term{term}
		if call, ok := term.Value.(ast.Call); ok {
			// What a variable stood for: it was found before the negation.
			terms, calls = call, true
		}
	}
	switch {
	case calls && !equality:
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
		var each []trilean
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
			each = append(each, holds)
		}
		some = anyOf(each)
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

// kindRanks are the ranks of the values that a field has if it is there.
var kindRanks = map[FieldKind]int{Text: rankText, AlwaysText: rankText, Number: rankNumber, Boolean: rankBoolean}

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
		isText := Condition{Op: Defined, Field: f}
		text, null := never, never
		switch value, ok := scalar(v); {
		case rank(v) == rankText && !ok:
			return t.unsaid()
		case rank(v) == rankText:
			text = Condition{Op: op, Field: f, Value: value}
		case op.Holds(rankText - rank(v)):
			text = isText
		}
		if op.Holds(rankNull - rank(v)) {
			null = negate(isText)
		}
		return said(anyHolds(text, null))
	}
	if typed, ok := kindRanks[kind]; ok && rank(v) != typed {
		if op.Holds(typed - rank(v)) {
			return t.defined(f)
		}
		return said(never)
	}
	value, ok := scalar(v)
	if !ok {
		return t.unsaid()
	}
	holds := Condition{Op: op, Field: f, Value: value}
	if _, number := value.(json.Number); number && kind == AnyJSON {
		// Not every database keeps all digits of a number apart.
		long := Condition{Op: Long, Field: f}
		return trilean{all(holds, negate(long)), anyHolds(holds, long)}
	}
	return said(holds)
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
	if _, number := value.(json.Number); number || !ok {
		return t.unsaid()
	}
	return said(Condition{Op: Has, Field: f, Value: value})
}

// text is a search in a text. In anything else it fails, and with it the decision.
func (t *translator) text(op Op, f Field, s string) trilean {
	if _, ok := scalar(ast.String(s)); !ok {
		return t.unsaid()
	}
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
		return string(v), !strings.Contains(string(v), "\x00") // which no database has
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
