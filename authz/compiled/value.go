package compiled

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// same reports whether a and b are the same value.
func same(a, b *ast.Term) bool {
	if a == b {
		return true
	}
	switch v := a.Value.(type) {
	case ast.String:
		w, ok := b.Value.(ast.String)
		return ok && v == w
	case ast.Boolean:
		w, ok := b.Value.(ast.Boolean)
		return ok && v == w
	}
	return a.Value.Compare(b.Value) == 0
}

func isFalse(v ast.Value) bool {
	b, ok := v.(ast.Boolean)
	return ok && !bool(b)
}

// conflict is what topdown says of a rule with two values; where the rule is,
// the plan does not tell.
func conflict(function string, args bool) error {
	_, name, _ := strings.Cut(function, ".")
	if args {
		return &topdown.Error{Code: topdown.ConflictErr, Message: "function " + name + " produced conflicting values for the same inputs"}
	}
	return &topdown.Error{Code: topdown.ConflictErr, Message: "rule " + name + " produced conflicting values"}
}

func keyConflict() error {
	return &topdown.Error{Code: topdown.ConflictErr, Message: "object keys must be unique"}
}

// lookUp returns t[key], nil if it is undefined. data says that a reference into
// data is followed: OPA looks these up by path, in which a key is text, so that
// what an array or an object has at a key of another type is for topdown to say.
func lookUp(t, key *ast.Term, data bool) (found *ast.Term, sure bool) {
	if !data {
		return t.Get(key), true
	}
	switch v := t.Value.(type) {
	case ast.Object:
		_, text := key.Value.(ast.String)
		return v.Get(key), text
	case *ast.Array:
		number, ok := key.Value.(ast.Number)
		return v.Get(key), ok && plain(string(number))
	case ast.Set: // put there by a with
		return t.Get(key), true
	}
	return nil, true
}

// plain reports whether s is a number as an index is written.
func plain(s string) bool {
	if s == "" || len(s) > 1 && s[0] == '0' {
		return false
	}
	return strings.Trim(s, "0123456789") == ""
}

// dot compiles a look-up.
func (b *body) dot(s *ir.DotStmt, list []ir.Stmt, e env) (int, []step) {
	from, key, l := b.about(e, s.Source), b.about(e, s.Key), s.Target
	if name, ok := text(key); ok && (from.kind == part || s.Source.Value == ir.Val(ir.Input)) {
		parent := -1
		if from.kind == part {
			parent = from.slot
		}
		return b.dotInput(b.slot(parent, name), l, list, e)
	}
	if from.kind == constant && key.kind == constant {
		t, sure := lookUp(from.term, key.term, from.data)
		if !sure {
			return 1, []step{unsure}
		}
		if t == nil {
			delete(e, l)
			return 1, []step{func(_ *machine, f []*ast.Term) code {
				f[l] = nil
				return undefined
			}}
		}
		steps := b.constant(l, t, e)
		e[l] = known{kind: constant, term: t, data: from.data}
		return 1, steps
	}
	source, k, data := b.operand(e, s.Source), b.operand(e, s.Key), from.data
	delete(e, l)
	if data {
		e[l] = known{data: true}
	}
	return 1, []step{func(m *machine, f []*ast.Term) code {
		t, key := source.value(m, f), k.value(m, f)
		if key == nil {
			return m.fail(ErrUnsure)
		}
		if t == nil { // an input that there is not
			f[l] = nil
			return undefined
		}
		found, sure := lookUp(t, key, data)
		if !sure {
			return m.fail(ErrUnsure)
		}
		f[l] = found
		if found == nil {
			return undefined
		}
		return next
	}}
}

// text returns the string that k is known to be.
func text(k known) (string, bool) {
	if k.kind != constant {
		return "", false
	}
	s, ok := k.term.Value.(ast.String)
	return string(s), ok
}

// dotInput compiles the look-up of a part of the input.
func (b *body) dotInput(slot int, l ir.Local, list []ir.Stmt, e env) (int, []step) {
	e[l] = known{kind: part, slot: slot}
	if b.keeps(l) {
		b.reading(slot)
		return 1, []step{func(m *machine, f []*ast.Term) code {
			t := m.slot(slot)
			f[l] = t
			if t == nil {
				return undefined
			}
			return next
		}}
	}
	if len(list) > 1 {
		switch s := list[1].(type) {
		case *ir.DotStmt:
			if _, ok := text(b.about(e, s.Key)); ok && s.Source.Value == ir.Val(l) {
				return 1, nil // what is below is only there if this is
			}
		case *ir.EqualStmt:
			if t := b.compared(s.A, s.B, l, e); t != nil {
				b.reading(slot)
				return 2, []step{partEquals(slot, t)}
			}
		}
	}
	slot = b.glanced(slot)
	return 1, []step{func(m *machine, _ []*ast.Term) code {
		if m.slot(slot) == nil {
			return undefined
		}
		return next
	}}
}

// compared returns the constant that x and y compare l with, or nil.
func (b *body) compared(x, y ir.Operand, l ir.Local, e env) *ast.Term {
	if y.Value == ir.Val(l) {
		x, y = y, x
	}
	if k := b.about(e, y); x.Value == ir.Val(l) && k.kind == constant {
		return k.term
	}
	return nil
}

// partEquals is the commonest of conditions: input.resource.type == "user".
func partEquals(slot int, t *ast.Term) step {
	if want, ok := t.Value.(ast.String); ok {
		return func(m *machine, _ []*ast.Term) code {
			if found := m.slot(slot); found != nil {
				if s, ok := found.Value.(ast.String); ok && s == want {
					return next
				}
			}
			return undefined
		}
	}
	return func(m *machine, _ []*ast.Term) code {
		if found := m.slot(slot); found != nil && same(found, t) {
			return next
		}
		return undefined
	}
}

func (b *body) length(s *ir.LenStmt, e env) step {
	o, l := b.operand(e, s.Source), s.Target
	delete(e, l)
	return func(m *machine, f []*ast.Term) code {
		t := o.value(m, f)
		if t == nil {
			return m.fail(ErrUnsure)
		}
		switch v := t.Value.(type) {
		case *ast.Array:
			f[l] = ast.InternedTerm(v.Len())
		case ast.Object:
			f[l] = ast.InternedTerm(v.Len())
		case ast.Set:
			f[l] = ast.InternedTerm(v.Len())
		default:
			return m.fail(ErrUnsure)
		}
		return next
	}
}

// merge compiles the union of what data has and what rules say at one path.
func (b *body) merge(s *ir.ObjectMergeStmt, e env) step {
	x, y, l := b.local(e, s.A), b.local(e, s.B), s.Target
	delete(e, l)
	return func(m *machine, f []*ast.Term) code {
		s, t := x.value(m, f), y.value(m, f)
		if s == nil || t == nil {
			return m.fail(ErrUnsure)
		}
		merged := union(s, t)
		if merged == nil {
			return m.fail(ErrUnsure)
		}
		f[l] = merged
		return next
	}
}

// union merges objects, and objects in them. It returns nil if anything else is
// at the same place.
func union(s, t *ast.Term) *ast.Term {
	x, ok := s.Value.(ast.Object)
	y, also := t.Value.(ast.Object)
	if !ok || !also {
		return nil
	}
	clash := false
	merged, _ := x.MergeWith(y, func(v, w *ast.Term) (*ast.Term, bool) {
		u := union(v, w)
		clash = clash || u == nil
		return u, clash
	})
	if clash {
		return nil
	}
	return ast.NewTerm(merged)
}
