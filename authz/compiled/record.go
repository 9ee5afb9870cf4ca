package compiled

import (
	"sync"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// Most answers of a policy are the same few objects, made of constants over and
// over: {"allow": true, "reasons": [permit], "context": {}}. A record is the place
// where such a container is made; it keeps what was made there of values that
// last as long as the program, and hands it out again.

// maxKept bounds what one record keeps, and maxParts what it may be made of.
const (
	maxKept  = 16
	maxParts = 6
)

type parts [maxParts]*ast.Term

type record struct {
	kept atomic.Pointer[[]kept]
	mu   sync.Mutex
}

type kept struct {
	of parts
	t  *ast.Term
}

func (r *record) find(of *parts) *ast.Term {
	if list := r.kept.Load(); list != nil {
		for i := range *list {
			if (*list)[i].of == *of {
				return (*list)[i].t
			}
		}
	}
	return nil
}

// keep reports whether there was room.
func (r *record) keep(of parts, t *ast.Term) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []kept
	if before := r.kept.Load(); before != nil {
		list = *before
	}
	if len(list) == maxKept {
		return false
	}
	list = append(list[:len(list):len(list)], kept{of, t})
	r.kept.Store(&list)
	return true
}

// lasting are the terms that live as long as the program and never change.
type lasting struct {
	constants map[*ast.Term]struct{} // complete when the program is
	records   sync.Map               // *ast.Term
	objects   sync.Map               // the objects among records, for Lasts
}

func (l *lasting) has(t *ast.Term) bool {
	if _, ok := l.constants[t]; ok {
		return true
	}
	_, ok := l.records.Load(t)
	return ok
}

func (l *lasting) add(t *ast.Term) {
	l.records.Store(t, nil)
	if object, ok := t.Value.(ast.Object); ok {
		l.objects.Store(object, nil)
	}
}

// Lasts reports whether o, a result, is one that the program keeps: it will be
// the same object whenever it is the result again, and there are few of them.
func (p *Program) Lasts(o ast.Object) bool {
	_, ok := p.lasting.objects.Load(o)
	return ok
}

// shape is a container as it will be made: of constants, of operands, which are
// the parts of a record, and of other shapes.
type shape struct {
	empty  *ast.Term // what kind it is
	keys   []source  // of an object
	values []source
	fixed  bool // the keys are strings, no two the same
}

// source is one of a shape's.
type source struct {
	constant *ast.Term
	part     int
	inner    *shape
}

func (s *source) make(of *parts) *ast.Term {
	switch {
	case s.constant != nil:
		return s.constant
	case s.inner != nil:
		return s.inner.make(of)
	}
	return of[s.part]
}

func (s *shape) make(of *parts) *ast.Term {
	if len(s.values) == 0 {
		return s.empty
	}
	if s.empty == emptyObject {
		if !s.fixed {
			object := ast.NewObjectWithCapacity(len(s.values))
			for i := range s.values {
				object.Insert(s.keys[i].make(of), s.values[i].make(of))
			}
			return ast.NewTerm(object)
		}
		var few [maxParts][2]*ast.Term
		members := few[:0]
		for i := range s.values {
			members = append(members, [2]*ast.Term{s.keys[i].constant, s.values[i].make(of)})
		}
		return ast.ObjectTerm(members...)
	}
	if s.empty == emptySet {
		set := ast.NewSetWithCapacity(len(s.values))
		for i := range s.values {
			set.Add(s.values[i].make(of))
		}
		return ast.NewTerm(set)
	}
	elements := make([]*ast.Term, len(s.values)) // the array keeps them
	for i := range s.values {
		elements[i] = s.values[i].make(of)
	}
	return ast.ArrayTerm(elements...)
}

// unequal reports whether the keys are strings that are constants, no two the same.
func unequal(keys []source) bool {
	seen := map[ast.String]bool{}
	for _, k := range keys {
		if k.constant == nil {
			return false
		}
		s, ok := k.constant.Value.(ast.String)
		if !ok || seen[s] {
			return false
		}
		seen[s] = true
	}
	return true
}

// record compiles the making of a container that is filled right there and
// nowhere else. It returns how many statements that takes, none if it is not
// such a place.
func (b *body) record(list []ir.Stmt, e env) (int, []step) {
	outer, _, _ := made(list[0])
	inside := map[ir.Local]*shape{} // containers made here
	left := map[ir.Local]int{}      // what is still to be put in
	uses := map[ir.Local]int{}      // of these, in here
	var of []ir.Operand
	part := func(o ir.Operand) (s source, ok bool) {
		if l, ok := o.Value.(ir.Local); ok && inside[l] != nil {
			uses[l]++
			return source{inner: inside[l]}, left[l] == 0
		}
		if k := b.about(e, o); k.kind == constant {
			return source{constant: k.term}, true
		}
		of = append(of, o)
		return source{part: len(of) - 1}, true
	}
	n := 0
	for full := false; !full; n++ {
		if n == len(list) {
			return 0, nil
		}
		var into ir.Local
		var key, value source
		fits := true
		switch s := list[n].(type) {
		case *ir.ArrayAppendStmt:
			into = s.Array
			value, fits = part(s.Value)
		case *ir.SetAddStmt:
			into = s.Set
			value, fits = part(s.Value)
		case *ir.ObjectInsertStmt:
			into = s.Object
			if key, fits = part(s.Key); fits {
				value, fits = part(s.Value)
			}
		default:
			l, empty, ok := made(list[n])
			if !ok || inside[l] != nil {
				return 0, nil
			}
			inside[l], left[l] = &shape{empty: empty}, b.fills[register{b.number, l}]
			continue
		}
		at := inside[into]
		if at == nil || left[into] == 0 || !fits {
			return 0, nil
		}
		left[into]--
		at.values = append(at.values, value)
		if at.empty == emptyObject {
			at.keys = append(at.keys, key)
			at.fixed = left[into] == 0 && unequal(at.keys)
		}
		full = true
		for _, more := range left {
			full = full && more == 0
		}
	}
	for l := range inside {
		// What is inside must not be wanted outside.
		if l != outer && uses[l]+b.fills[register{b.number, l}] != b.uses[register{b.number, l}] {
			return 0, nil
		}
	}
	if len(of) == 0 || len(of) > maxParts {
		return 0, nil
	}
	operands := make([]operand, len(of))
	for i, o := range of {
		operands[i] = b.operand(e, o)
	}
	for l := range inside {
		delete(e, l)
	}
	b.register(outer)
	root, r, last := inside[outer], &record{}, &b.program.lasting
	return n, []step{func(m *machine, f []*ast.Term) code {
		var key parts
		for i := range operands {
			if key[i] = operands[i].value(m, f); key[i] == nil {
				return m.fail(ErrUnsure)
			}
		}
		if t := r.find(&key); t != nil {
			f[outer] = t
			return next
		}
		t := root.make(&key)
		f[outer] = t
		for i := range operands {
			if !last.has(key[i]) {
				return next
			}
		}
		Seal(t.Value)
		if r.keep(key, t) {
			last.add(t)
		}
		return next
	}}
}
