package compiled

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// Empty containers are shared until something is put into them: many stay empty.
var (
	emptyArray  = ast.ArrayTerm()
	emptyObject = ast.ObjectTerm()
	emptySet    = ast.SetTerm()
)

// made returns what stmt makes, if it makes a container.
func made(stmt ir.Stmt) (l ir.Local, empty *ast.Term, ok bool) {
	switch s := stmt.(type) {
	case *ir.MakeArrayStmt:
		return s.Target, emptyArray, true
	case *ir.MakeObjectStmt:
		return s.Target, emptyObject, true
	case *ir.MakeSetStmt:
		return s.Target, emptySet, true
	}
	return 0, nil, false
}

// make compiles the making of a container. One that is filled with constants,
// right there and nowhere else, is a constant itself.
func (b *body) make(list []ir.Stmt, e env) (int, []step) {
	l, empty, _ := made(list[0])
	if n, t := b.single(list, l, e); n > 0 {
		return n, t
	}
	if n, known := b.literal(list, e); n > 0 {
		var steps []step
		for _, item := range known {
			steps = append(steps, b.constant(item.l, item.t, e)...)
		}
		return n, steps
	}
	if !b.plainly {
		if n, steps := b.record(list, e); n > 0 {
			return n, steps
		}
	}
	delete(e, l)
	b.register(l)
	return 1, []step{func(_ *machine, f []*ast.Term) code {
		f[l] = empty
		return next
	}}
}

type named struct {
	l ir.Local
	t *ast.Term
}

// literal runs list from the making of a container until it is full. It returns
// how many statements that took, none if the container is not a constant, and
// what the registers hold then.
func (b *body) literal(list []ir.Stmt, e env) (int, []named) {
	outer, _, _ := made(list[0])
	values := map[ir.Local]*ast.Term{}
	left := map[ir.Local]int{}
	var order []ir.Local
	set := func(l ir.Local, t *ast.Term) bool {
		if _, again := values[l]; !again {
			order = append(order, l)
		}
		values[l] = t
		return true
	}
	value := func(o ir.Operand) *ast.Term {
		if l, ok := o.Value.(ir.Local); ok {
			if t, ok := values[l]; ok {
				if left[l] > 0 {
					return nil // not full yet
				}
				return t
			}
		}
		if k := b.about(e, o); k.kind == constant {
			return k.term
		}
		return nil
	}
	run := func(stmt ir.Stmt) bool {
		switch s := stmt.(type) {
		case *ir.MakeNullStmt:
			return set(s.Target, ast.InternedNullTerm)
		case *ir.MakeNumberIntStmt:
			return set(s.Target, ast.InternedTerm(int(s.Value)))
		case *ir.MakeNumberRefStmt:
			return set(s.Target, ast.NewTerm(ast.Number(b.strings[s.Index])))
		case *ir.SetAddStmt:
			t, into := value(s.Value), values[s.Set]
			if t == nil || into == nil {
				return false
			}
			left[s.Set]--
			return set(s.Set, ast.NewTerm(into.Value.(ast.Set).Union(ast.NewSet(t))))
		case *ir.ArrayAppendStmt:
			t, into := value(s.Value), values[s.Array]
			if t == nil || into == nil {
				return false
			}
			left[s.Array]--
			return set(s.Array, ast.NewTerm(into.Value.(*ast.Array).Append(t)))
		case *ir.ObjectInsertStmt:
			k, t, into := value(s.Key), value(s.Value), values[s.Object]
			if k == nil || t == nil || into == nil {
				return false
			}
			left[s.Object]--
			object := into.Value.(ast.Object).Copy()
			object.Insert(k, t)
			return set(s.Object, ast.NewTerm(object))
		}
		if l, empty, ok := made(stmt); ok {
			if values[l] != nil {
				return false
			}
			left[l] = b.fills[register{b.number, l}]
			return set(l, empty)
		}
		return false
	}
	for i, stmt := range list {
		if !run(stmt) {
			return 0, nil
		}
		full := true
		for _, n := range left {
			full = full && n == 0
		}
		if !full {
			continue
		}
		var all []named
		for _, l := range order {
			Seal(values[l].Value)
			all = append(all, named{l, values[l]})
		}
		if values[outer] == emptySet || values[outer] == emptyArray || values[outer] == emptyObject {
			b.register(outer) // nothing is gained by knowing it
		}
		return i + 1, all
	}
	return 0, nil
}

// Seal makes v safe to share: OPA sorts the keys of objects and sets in place
// when they are first walked in order, and not every reader of the sorted
// keys is guarded. Walking them once beforehand leaves nothing to sort.
func Seal(v ast.Value) {
	switch v := v.(type) {
	case ast.Object:
		v.Foreach(func(key, value *ast.Term) {
			Seal(key.Value)
			Seal(value.Value)
		})
	case ast.Set:
		v.Foreach(func(member *ast.Term) { Seal(member.Value) })
	case *ast.Array:
		v.Foreach(func(element *ast.Term) { Seal(element.Value) })
	}
}

// single compiles the end of a query for one variable: its value is the result,
// without an object around it.
func (b *body) single(list []ir.Stmt, l ir.Local, e env) (int, []step) {
	if b.options.Result == "" || len(list) < 3 {
		return 0, nil
	}
	insert, ok := list[1].(*ir.ObjectInsertStmt)
	if !ok || insert.Object != l {
		return 0, nil
	}
	add, ok := list[2].(*ir.ResultSetAddStmt)
	if !ok || add.Value != l {
		return 0, nil
	}
	if name, ok := text(b.about(e, insert.Key)); !ok || name != b.options.Result {
		return 0, nil
	}
	o := b.operand(e, insert.Value)
	return 3, []step{func(m *machine, f []*ast.Term) code {
		t := o.value(m, f)
		if t == nil {
			return m.fail(ErrUnsure)
		}
		m.results = append(m.results, t)
		return next
	}}
}

// fill compiles a statement that puts something into a container.
func (b *body) fill(stmt ir.Stmt, e env) step {
	var l ir.Local
	switch s := stmt.(type) {
	case *ir.ArrayAppendStmt:
		l = s.Array
	case *ir.SetAddStmt:
		l = s.Set
	case *ir.ObjectInsertStmt:
		l = s.Object
	case *ir.ObjectInsertOnceStmt:
		l = s.Object
	}
	at := register{b.number, l}
	if l != b.result && (b.foreign[at] || e[l].kind != nothing) {
		refuse("%s fills a container that it did not make", b.fn.name)
	}
	b.register(l)
	// One that was looked up is somebody's already: its copy takes its place.
	copied := b.dotted[at]
	switch s := stmt.(type) {
	case *ir.ArrayAppendStmt:
		o := b.operand(e, s.Value)
		return func(m *machine, f []*ast.Term) code {
			t, into := o.value(m, f), f[l]
			if t == nil || into == nil {
				return m.fail(ErrUnsure)
			}
			array, ok := into.Value.(*ast.Array)
			if !ok {
				return m.fail(ErrUnsure)
			}
			f[l] = ast.NewTerm(array.Append(t))
			return next
		}
	case *ir.SetAddStmt:
		o := b.operand(e, s.Value)
		return func(m *machine, f []*ast.Term) code {
			t, into := o.value(m, f), f[l]
			if t == nil || into == nil {
				return m.fail(ErrUnsure)
			}
			if into == emptySet {
				f[l] = ast.SetTerm(t)
				return next
			}
			set, ok := into.Value.(ast.Set)
			if !ok {
				return m.fail(ErrUnsure)
			}
			if copied {
				set = set.Copy()
				f[l] = ast.NewTerm(set)
			}
			set.Add(t)
			return next
		}
	case *ir.ObjectInsertStmt:
		return b.insert(l, s.Key, s.Value, e, copied, false)
	case *ir.ObjectInsertOnceStmt:
		return b.insert(l, s.Key, s.Value, e, copied, true)
	}
	return nil
}

func (b *body) insert(l ir.Local, key, value ir.Operand, e env, copied, once bool) step {
	k, v := b.operand(e, key), b.operand(e, value)
	return func(m *machine, f []*ast.Term) code {
		key, value, into := k.value(m, f), v.value(m, f), f[l]
		if key == nil || value == nil || into == nil {
			return m.fail(ErrUnsure)
		}
		if into == emptyObject {
			f[l] = ast.ObjectTerm([2]*ast.Term{key, value})
			return next
		}
		object, ok := into.Value.(ast.Object)
		if !ok {
			return m.fail(ErrUnsure)
		}
		if once {
			if before := object.Get(key); before != nil {
				if !same(before, value) {
					return m.fail(keyConflict())
				}
				return next
			}
		}
		if copied {
			object = object.Copy()
			f[l] = ast.NewTerm(object)
		}
		object.Insert(key, value)
		return next
	}
}
