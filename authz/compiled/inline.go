package compiled

import (
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// The few built-ins that conditions and sentences are made of are not called but
// done in place, where they do nothing but look at a value: what is below says
// the same as OPA's functions of these names, and inline_test.go compares them.

// tests are the built-ins with one operand that fail on nothing.
var tests = map[string]func(ast.Value) bool{
	ast.IsArray.Name:   func(v ast.Value) bool { _, ok := v.(*ast.Array); return ok },
	ast.IsBoolean.Name: func(v ast.Value) bool { _, ok := v.(ast.Boolean); return ok },
	ast.IsNull.Name:    func(v ast.Value) bool { _, ok := v.(ast.Null); return ok },
	ast.IsNumber.Name:  func(v ast.Value) bool { _, ok := v.(ast.Number); return ok },
	ast.IsObject.Name:  func(v ast.Value) bool { _, ok := v.(ast.Object); return ok },
	ast.IsSet.Name:     func(v ast.Value) bool { _, ok := v.(ast.Set); return ok },
	ast.IsString.Name:  func(v ast.Value) bool { _, ok := v.(ast.String); return ok },
}

// comparisons are those with two.
var comparisons = map[string]func(a, b *ast.Term) bool{
	ast.Equal.Name:         (*ast.Term).Equal,
	ast.NotEqual.Name:      func(a, b *ast.Term) bool { return !a.Equal(b) },
	ast.GreaterThan.Name:   func(a, b *ast.Term) bool { return a.Value.Compare(b.Value) > 0 },
	ast.GreaterThanEq.Name: func(a, b *ast.Term) bool { return a.Value.Compare(b.Value) >= 0 },
	ast.LessThan.Name:      func(a, b *ast.Term) bool { return a.Value.Compare(b.Value) < 0 },
	ast.LessThanEq.Name:    func(a, b *ast.Term) bool { return a.Value.Compare(b.Value) <= 0 },
	ast.Member.Name:        member,
}

// member reports whether a is in b.
func member(a, b *ast.Term) bool {
	switch b := b.Value.(type) {
	case ast.Set:
		return b.Contains(a)
	case *ast.Array:
		return b.Until(a.Equal)
	case ast.Object:
		return b.Until(func(_, v *ast.Term) bool { return a.Equal(v) })
	}
	return false
}

// maxSpelt is how many words a set has at most to be searched one by one.
const maxSpelt = 6

// oneOf returns the test of being a member of t, if that is a small set of strings.
func oneOf(t *ast.Term) func(ast.Value) bool {
	set, ok := t.Value.(ast.Set)
	if !ok || set.Len() > maxSpelt {
		return nil
	}
	var words []ast.String
	for _, member := range set.Slice() {
		word, ok := member.Value.(ast.String)
		if !ok {
			return nil
		}
		words = append(words, word)
	}
	return func(v ast.Value) bool {
		s, ok := v.(ast.String)
		if !ok {
			return false
		}
		for _, word := range words {
			if s == word {
				return true
			}
		}
		return false
	}
}

// condition compiles the call of a built-in of which only matters, as the
// statement after it shows, that it says true. It returns nil for others.
func (b *body) condition(s *ir.CallStmt, list []ir.Stmt, e env) step {
	if len(list) < 2 || b.keepsCall(list, s.Result) {
		return nil
	}
	test, compare := tests[s.Func], comparisons[s.Func]
	switch {
	case test != nil && len(s.Args) == 1:
		if k := b.about(e, s.Args[0]); k.kind == part {
			delete(e, s.Result)
			return holds(operand{kind: inSlot, i: b.glanced(k.slot)}, test)
		}
	case compare != nil && len(s.Args) == 2:
		if k := b.about(e, s.Args[1]); k.kind == constant && s.Func == ast.Member.Name {
			test = oneOf(k.term)
		}
	default:
		return nil
	}
	x := b.operand(e, s.Args[0])
	if test != nil {
		delete(e, s.Result)
		return holds(x, test)
	}
	y := b.operand(e, s.Args[1])
	delete(e, s.Result)
	return func(m *machine, f []*ast.Term) code {
		t, u := x.value(m, f), y.value(m, f)
		if t == nil || u == nil {
			return m.fail(ErrUnsure)
		}
		if !compare(t, u) {
			return undefined
		}
		return next
	}
}

// holds compiles a test.
func holds(x operand, test func(ast.Value) bool) step {
	return func(m *machine, f []*ast.Term) code {
		t := x.value(m, f)
		if t == nil {
			return m.fail(ErrUnsure)
		}
		if !test(t.Value) {
			return undefined
		}
		return next
	}
}

// piece is a part of a sentence: an operand, or what stands between.
type piece struct {
	text    string
	operand int // -1: text
	quoted  bool
}

// sentence compiles sprintf and concat of an array that is made for them right
// there, without making it. It returns how many statements that takes, none if
// this is not such a place.
func (b *body) sentence(list []ir.Stmt, e env) (int, []step) {
	array, ok := list[0].(*ir.MakeArrayStmt)
	if !ok {
		return 0, nil
	}
	var of []ir.Operand
	n := 1
	for ; n < len(list); n++ {
		add, ok := list[n].(*ir.ArrayAppendStmt)
		if !ok || add.Array != array.Target || add.Value.Value == ir.Val(array.Target) {
			break
		}
		of = append(of, add.Value)
	}
	if n == len(list) || len(of) == 0 {
		return 0, nil
	}
	call, ok := list[n].(*ir.CallStmt)
	at := register{b.number, array.Target}
	if !ok || b.names[call.Func] != nil || len(call.Args) != 2 || call.Args[1].Value != ir.Val(array.Target) ||
		b.fills[at] != len(of) || b.uses[at] != len(of)+1 {
		return 0, nil
	}
	format, ok := text(b.about(e, call.Args[0]))
	if !ok {
		return 0, nil
	}
	var pieces []piece
	switch call.Func {
	case ast.Sprintf.Name:
		pieces = formatted(format, len(of))
	case ast.Concat.Name:
		pieces = separated(format, len(of))
	}
	if pieces == nil {
		return 0, nil
	}
	n++
	operands := make([]operand, len(of))
	for i, o := range of {
		operands[i] = b.operand(e, o)
	}
	// What is not text is for OPA's function.
	var steps []step
	b.plainly = true
	for i := 0; i < n; {
		m, more := b.stmt(list[i:n], e, 1)
		steps = append(steps, more...)
		i += m
	}
	b.plainly = false
	plain, l := sequence(steps), call.Result
	return n, []step{func(m *machine, f []*ast.Term) code {
		size := 0
		for i := range pieces {
			p := &pieces[i]
			if p.operand < 0 {
				size += len(p.text)
				continue
			}
			t := operands[p.operand].value(m, f)
			if t == nil {
				return m.fail(ErrUnsure)
			}
			s, ok := t.Value.(ast.String)
			if !ok {
				return plain(m, f)
			}
			size += len(s)
			if p.quoted {
				size += 2
			}
		}
		var out strings.Builder
		out.Grow(size)
		var quoted [64]byte
		for i := range pieces {
			p := &pieces[i]
			if p.operand < 0 {
				out.WriteString(p.text)
				continue
			}
			s, _ := operands[p.operand].value(m, f).Value.(ast.String)
			if p.quoted {
				out.Write(strconv.AppendQuote(quoted[:0], string(s)))
			} else {
				out.WriteString(string(s))
			}
		}
		f[l] = ast.StringTerm(out.String())
		return next
	}}
}

// separated are the pieces of concat of n strings; nil for one, which OPA returns
// as it is.
func separated(separator string, n int) []piece {
	if n < 2 {
		return nil
	}
	pieces := []piece{{operand: 0}}
	for i := 1; i < n; i++ {
		pieces = append(pieces, piece{text: separator, operand: -1}, piece{operand: i})
	}
	return pieces
}

// formatted are the pieces of a format with n verbs of which each is %s, %v or
// %q without flags; nil for any other.
func formatted(format string, n int) []piece {
	var pieces []piece
	next := 0
	for format != "" {
		before, after, found := strings.Cut(format, "%")
		if before != "" {
			pieces = append(pieces, piece{text: before, operand: -1})
		}
		if !found {
			break
		}
		if after == "" {
			return nil
		}
		switch after[0] {
		case '%':
			pieces = append(pieces, piece{text: "%", operand: -1})
		case 's', 'v', 'q':
			pieces = append(pieces, piece{operand: next, quoted: after[0] == 'q'})
			next++
		default:
			return nil
		}
		format = after[1:]
	}
	if next != n {
		return nil
	}
	return pieces
}
