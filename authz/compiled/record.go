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

// record compiles the making of a container that is filled right there and
// nowhere else. It returns how many statements that takes, none if it is not
// such a place.
func (b *body) record(list []ir.Stmt, e env) (int, []step) {
	outer, _, _ := made(list[0])
	inside := map[ir.Local]int{} // containers made here: what is still to be put in
	uses := map[ir.Local]int{}   // of these, in here
	var of []ir.Operand
	part := func(o ir.Operand) {
		if l, ok := o.Value.(ir.Local); ok {
			if _, ok := inside[l]; ok {
				uses[l]++
				return
			}
		}
		if b.about(e, o).kind != constant {
			of = append(of, o)
		}
	}
	n := 0
	for n < len(list) {
		var into ir.Local
		switch s := list[n].(type) {
		case *ir.ArrayAppendStmt:
			into = s.Array
			part(s.Value)
		case *ir.SetAddStmt:
			into = s.Set
			part(s.Value)
		case *ir.ObjectInsertStmt:
			into = s.Object
			part(s.Key)
			part(s.Value)
		default:
			l, _, ok := made(list[n])
			if _, again := inside[l]; !ok || again {
				return 0, nil
			}
			inside[l] = b.fills[register{b.number, l}]
			n++
			continue
		}
		if inside[into]--; inside[into] < 0 {
			return 0, nil
		}
		n++
		full := true
		for _, left := range inside {
			full = full && left == 0
		}
		if full {
			break
		}
	}
	for l, left := range inside {
		// What is inside must not be wanted outside.
		if left != 0 || l != outer && uses[l]+b.fills[register{b.number, l}] != b.uses[register{b.number, l}] {
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
	var steps []step
	b.plainly = true
	for i := 0; i < n; {
		m, more := b.stmt(list[i:n], e, 1)
		steps = append(steps, more...)
		i += m
	}
	b.plainly = false
	build, r, last := sequence(steps), &record{}, &b.program.lasting
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
		if c := build(m, f); c != next {
			return c
		}
		for i := range operands {
			if !last.has(key[i]) {
				return next
			}
		}
		Seal(f[outer].Value)
		if r.keep(key, f[outer]) {
			last.add(f[outer])
		}
		return next
	}}
}
