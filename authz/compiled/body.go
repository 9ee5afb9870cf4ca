package compiled

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// body compiles the bodies of one function.
type body struct {
	*compiler
	*facts
	fn     *function
	number int               // of the body at work
	needed map[register]bool // somebody reads the register itself
	final  bool              // the first pass only finds out what is needed
	valued map[int]bool      // slots of which somebody reads the value
	// plainly has containers made as the plan says.
	plainly bool
}

// kind says where an operand is.
type kind uint8

const (
	inRegister kind = iota
	isConstant
	inSlot
	isInput
	isData
)

// operand is what a step works on.
type operand struct {
	kind kind
	i    int       // register or slot
	t    *ast.Term // constant
}

func (o *operand) value(m *machine, f []*ast.Term) *ast.Term {
	switch o.kind {
	case inRegister:
		return f[o.i]
	case isConstant:
		return o.t
	case inSlot:
		return m.slot(o.i)
	case isInput:
		return m.input()
	default:
		return m.world.data
	}
}

// about returns what is known of o.
func (b *body) about(e env, o ir.Operand) known {
	switch v := o.Value.(type) {
	case ir.StringIndex:
		return known{kind: constant, term: b.terms[v]}
	case ir.Bool:
		return known{kind: constant, term: ast.InternedTerm(bool(v))}
	case ir.Local:
		switch {
		case v == ir.Data && b.dataChanges:
			return known{data: true}
		case v == ir.Data:
			return known{kind: constant, term: b.program.data, data: true}
		}
		return e[v]
	}
	refuse("operand %T", o.Value)
	return known{}
}

// operand returns how o is read. Whoever asks reads it as a whole.
func (b *body) operand(e env, o ir.Operand) operand {
	k := b.about(e, o)
	switch k.kind {
	case constant:
		return operand{kind: isConstant, t: k.term}
	case part:
		b.reading(k.slot)
		b.valued[k.slot] = true
		return operand{kind: inSlot, i: k.slot}
	}
	switch l := o.Value.(ir.Local); l {
	case ir.Input:
		if b.final {
			b.all = true
		}
		return operand{kind: isInput}
	case ir.Data:
		return operand{kind: isData}
	default:
		return b.register(l)
	}
}

func (b *body) local(e env, l ir.Local) operand { return b.operand(e, ir.Operand{Value: l}) }

// register returns l as a register, whatever is known of it.
func (b *body) register(l ir.Local) operand {
	if l == ir.Input || l == ir.Data {
		refuse("the input or data as a register")
	}
	b.needed[register{b.number, l}] = true
	return operand{kind: inRegister, i: int(l)}
}

func (b *body) reading(slot int) {
	if b.final {
		b.read[slot] = true
	}
}

// glanced returns the slot for what can be seen at a glance: slot itself where all
// of it is wanted anyway.
func (b *body) glanced(slot int) int {
	b.reading(slot)
	if b.valued[slot] || !b.final {
		return slot
	}
	return b.glance(slot)
}

// keeps reports whether steps have to put into l what is known of it.
func (b *body) keeps(l ir.Local) bool {
	return !b.final || l <= b.shared || b.needed[register{b.number, l}]
}

// block compiles one block. levels is how many blocks a break in it may leave.
func (b *body) block(block *ir.Block, e env, levels int) step {
	var out []step
	for i := 0; i < len(block.Stmts); {
		n, steps := b.stmt(block.Stmts[i:], e, levels)
		out = append(out, steps...)
		i += n
	}
	return sequence(out)
}

// sequence makes one step of several.
func sequence(steps []step) step {
	switch len(steps) {
	case 0:
		return func(*machine, []*ast.Term) code { return next }
	case 1:
		return steps[0]
	case 2:
		s0, s1 := steps[0], steps[1]
		return func(m *machine, f []*ast.Term) code {
			if c := s0(m, f); c != next {
				return c
			}
			return s1(m, f)
		}
	case 3:
		s0, s1, s2 := steps[0], steps[1], steps[2]
		return func(m *machine, f []*ast.Term) code {
			if c := s0(m, f); c != next {
				return c
			}
			if c := s1(m, f); c != next {
				return c
			}
			return s2(m, f)
		}
	}
	return func(m *machine, f []*ast.Term) code {
		for _, s := range steps {
			if c := s(m, f); c != next {
				return c
			}
		}
		return next
	}
}

func never(*machine, []*ast.Term) code { return undefined }

func unsure(m *machine, _ []*ast.Term) code { return m.fail(ErrUnsure) }

// stmt compiles the first of list, and those after it that it can swallow. It
// returns how many it compiled, and keeps e up to date.
func (b *body) stmt(list []ir.Stmt, e env, levels int) (int, []step) {
	switch s := list[0].(type) {
	case *ir.NopStmt:
		return 1, nil
	case *ir.ReturnLocalStmt:
		if s.Source != b.result {
			refuse("%s returns more than one register", b.fn.name)
		}
		return 1, []step{func(*machine, []*ast.Term) code { return returned }}
	case *ir.BreakStmt:
		c := code(s.Index) + 1
		if int(c) > levels {
			refuse("a break out of a loop, a negation or a with")
		}
		return 1, []step{func(*machine, []*ast.Term) code { return c }}
	case *ir.BlockStmt:
		return 1, []step{b.blocks(s, e, levels)}
	case *ir.NotStmt:
		inner := b.block(s.Block, e.without(), 1)
		forget(e, s.Block)
		return 1, []step{func(m *machine, f []*ast.Term) code {
			switch c := inner(m, f); c {
			case next:
				return undefined
			case undefined:
				return next
			default:
				return c
			}
		}}
	case *ir.ScanStmt:
		return 1, []step{b.scan(s, e)}
	case *ir.WithStmt:
		return 1, []step{b.with(s, e)}
	case *ir.CallStmt:
		return b.call(s, list, e)
	case *ir.CallDynamicStmt:
		return 1, []step{b.callDynamic(s, e, levels)}
	case *ir.DotStmt:
		return b.dot(s, list, e)
	case *ir.EqualStmt:
		return 1, b.equal(s.A, s.B, e, true)
	case *ir.NotEqualStmt:
		return 1, b.equal(s.A, s.B, e, false)
	case *ir.LenStmt:
		return 1, []step{b.length(s, e)}
	case *ir.IsArrayStmt:
		return 1, b.is(s.Source, e, func(v ast.Value) bool { _, ok := v.(*ast.Array); return ok })
	case *ir.IsObjectStmt:
		return 1, b.is(s.Source, e, func(v ast.Value) bool { _, ok := v.(ast.Object); return ok })
	case *ir.IsSetStmt:
		return 1, b.is(s.Source, e, func(v ast.Value) bool { _, ok := v.(ast.Set); return ok })
	case *ir.IsDefinedStmt:
		return 1, b.defined(s.Source, e, true)
	case *ir.IsUndefinedStmt:
		return 1, b.defined(s.Source, e, false)
	case *ir.AssignVarStmt:
		return 1, b.assign(s, e)
	case *ir.AssignVarOnceStmt:
		return 1, []step{b.assignOnce(s, e)}
	case *ir.AssignIntStmt:
		return 1, b.constant(s.Target, ast.InternedTerm(int(s.Value)), e)
	case *ir.MakeNumberIntStmt:
		return 1, b.constant(s.Target, ast.InternedTerm(int(s.Value)), e)
	case *ir.MakeNumberRefStmt:
		return 1, b.constant(s.Target, ast.NewTerm(ast.Number(b.strings[s.Index])), e)
	case *ir.MakeNullStmt:
		return 1, b.constant(s.Target, ast.InternedNullTerm, e)
	case *ir.ResetLocalStmt:
		delete(e, s.Target)
		if s.Target == b.shared && (b.early || b.idle) {
			return 1, nil
		}
		i := b.register(s.Target).i
		return 1, []step{func(_ *machine, f []*ast.Term) code {
			f[i] = nil
			return next
		}}
	case *ir.MakeArrayStmt, *ir.MakeObjectStmt, *ir.MakeSetStmt:
		return b.make(list, e)
	case *ir.ArrayAppendStmt, *ir.SetAddStmt, *ir.ObjectInsertStmt, *ir.ObjectInsertOnceStmt:
		return 1, []step{b.fill(s, e)}
	case *ir.ObjectMergeStmt:
		return 1, []step{b.merge(s, e)}
	case *ir.ResultSetAddStmt:
		if b.options.Result != "" {
			refuse("the query has more than one variable")
		}
		o := b.local(e, s.Value)
		return 1, []step{func(m *machine, f []*ast.Term) code {
			m.results = append(m.results, o.value(m, f))
			return next
		}}
	}
	refuse("statement %T", list[0])
	return 0, nil
}

// forget takes from e what the blocks assign: they may have ended anywhere.
func forget(e env, list ...*ir.Block) {
	kept := e.without(list...)
	for l := range e {
		if _, ok := kept[l]; !ok {
			delete(e, l)
		}
	}
}

func (b *body) blocks(s *ir.BlockStmt, e env, levels int) step {
	inner := make([]step, len(s.Blocks))
	for i, block := range s.Blocks {
		// What the blocks before it assigned is not known, if they got so far.
		inner[i] = b.block(block, e.without(s.Blocks[:i]...), levels+1)
	}
	forget(e, s.Blocks...)
	if len(inner) == 1 {
		only := inner[0]
		return func(m *machine, f []*ast.Term) code { return only(m, f).outer() }
	}
	return func(m *machine, f []*ast.Term) code {
		for _, block := range inner {
			if c := block(m, f).outer(); c != next {
				return c
			}
		}
		return next
	}
}

// constant notes that l is t.
func (b *body) constant(l ir.Local, t *ast.Term, e env) []step {
	e[l] = known{kind: constant, term: t}
	b.program.lasting.constants[t] = struct{}{}
	if !b.keeps(l) {
		return nil
	}
	return []step{func(_ *machine, f []*ast.Term) code {
		f[l] = t
		return next
	}}
}

func (b *body) assign(s *ir.AssignVarStmt, e env) []step {
	k, l := b.about(e, s.Source), s.Target
	k.data = false // from here on it is a value like any other
	if k.kind != nothing && (!b.final || !b.keeps(l)) {
		e[l] = k // another name for it: nobody has read it yet
		return nil
	}
	o := b.operand(e, s.Source)
	delete(e, l)
	if k.kind != nothing {
		e[l] = k
	}
	return []step{func(m *machine, f []*ast.Term) code {
		f[l] = o.value(m, f) // may be undefined: an input that there is not
		return next
	}}
}

func (b *body) assignOnce(s *ir.AssignVarOnceStmt, e env) step {
	o, l, result := b.operand(e, s.Source), s.Target, b.result
	if b.early && l != result && o.kind == isConstant {
		return func(m *machine, f []*ast.Term) code {
			f[result] = o.t
			return returned
		}
	}
	delete(e, l)
	b.register(l)
	name, args := b.fn.name, len(b.fn.params) > 0
	return func(m *machine, f []*ast.Term) code {
		t := o.value(m, f)
		if t == nil {
			return m.fail(ErrUnsure)
		}
		if before := f[l]; before == nil {
			f[l] = t
		} else if !same(before, t) {
			return m.fail(conflict(name, args))
		}
		return next
	}
}

func (b *body) is(o ir.Operand, e env, test func(ast.Value) bool) []step {
	source := b.operand(e, o)
	if source.kind == isConstant {
		if test(source.t.Value) {
			return nil
		}
		return []step{never}
	}
	return []step{func(m *machine, f []*ast.Term) code {
		t := source.value(m, f)
		if t == nil {
			return m.fail(ErrUnsure)
		}
		if !test(t.Value) {
			return undefined
		}
		return next
	}}
}

// defined compiles the question whether l is (want), or is not, defined.
func (b *body) defined(l ir.Local, e env, want bool) []step {
	if l == b.shared && b.early {
		if !want {
			return nil
		}
		return []step{never}
	}
	if l == ir.Data || e[l].kind != nothing {
		if want {
			return nil
		}
		return []step{never}
	}
	o := b.local(e, l)
	return []step{func(m *machine, f []*ast.Term) code {
		if (o.value(m, f) != nil) != want {
			return undefined
		}
		return next
	}}
}

// equal compiles a comparison.
func (b *body) equal(x, y ir.Operand, e env, want bool) []step {
	if k := b.about(e, x); k.kind == part && !want && y.Value == ir.Val(ir.Bool(false)) {
		return []step{holds(operand{kind: inSlot, i: b.glanced(k.slot)}, func(v ast.Value) bool { return !isFalse(v) })}
	}
	p, q := b.operand(e, x), b.operand(e, y)
	if p.kind == isConstant {
		p, q = q, p
	}
	if q.kind != isConstant {
		return []step{func(m *machine, f []*ast.Term) code {
			s, t := p.value(m, f), q.value(m, f)
			if s == nil || t == nil {
				return m.fail(ErrUnsure)
			}
			if same(s, t) != want {
				return undefined
			}
			return next
		}}
	}
	if p.kind == isConstant {
		if same(p.t, q.t) == want {
			return nil
		}
		return []step{never}
	}
	t := q.t
	return []step{func(m *machine, f []*ast.Term) code {
		s := p.value(m, f)
		if s == nil {
			return m.fail(ErrUnsure)
		}
		if same(s, t) != want {
			return undefined
		}
		return next
	}}
}
