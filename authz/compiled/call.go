package compiled

import (
	"errors"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// call compiles the call of a rule or a built-in, and with it the test that its
// result is not false, if that is all that is asked.
func (b *body) call(s *ir.CallStmt, list []ir.Stmt, e env) (int, []step) {
	fn, ok := b.names[s.Func]
	if !ok {
		if holds := b.condition(s, list, e); holds != nil {
			return 2, []step{holds}
		}
		return 1, []step{b.builtin(s, e)}
	}
	if len(s.Args) != len(fn.params)+2 || s.Args[0].Value != ir.Val(ir.Input) || s.Args[1].Value != ir.Val(ir.Data) {
		refuse("a call of %s with other operands than it has", s.Func)
	}
	operands := make([]operand, len(fn.params))
	for i, arg := range s.Args[2:] {
		operands[i] = b.operand(e, arg)
	}
	l := s.Result
	delete(e, l)
	if len(list) > 1 && !b.keepsCall(list, l) {
		return 2, []step{truth(fn, operands)}
	}
	if !fn.remembered {
		return 1, []step{func(m *machine, f []*ast.Term) code {
			t, c := m.call(fn, operands, f)
			f[l] = t
			if c == next && t == nil {
				return undefined
			}
			return c
		}}
	}
	return 1, []step{func(m *machine, f []*ast.Term) code {
		t := m.world.memo[fn.index]
		if t == nil || t == missing {
			var c code
			if t, c = m.remember(fn); c != next {
				return c
			}
		}
		f[l] = t
		if t == nil {
			return undefined
		}
		return next
	}}
}

// keepsCall reports whether the result of a call is more than tested by the
// statement after it.
func (b *body) keepsCall(list []ir.Stmt, l ir.Local) bool {
	test, ok := list[1].(*ir.NotEqualStmt)
	if !ok || test.A.Value != ir.Val(l) || test.B.Value != ir.Val(ir.Bool(false)) {
		return true
	}
	return b.needed[register{b.number, l}] || l <= b.shared
}

// truth compiles a call of which only matters that its result is there and not false.
func truth(fn *function, operands []operand) step {
	if fn.remembered {
		return func(m *machine, _ []*ast.Term) code {
			t := m.world.memo[fn.index]
			if t == nil || t == missing {
				var c code
				if t, c = m.remember(fn); c != next {
					return c
				}
			}
			if t == nil || isFalse(t.Value) {
				return undefined
			}
			return next
		}
	}
	return func(m *machine, f []*ast.Term) code {
		t, c := m.call(fn, operands, f)
		if c != next {
			return c
		}
		if t == nil || isFalse(t.Value) {
			return undefined
		}
		return next
	}
}

// callDynamic compiles the call of a rule whose path is found when it runs.
func (b *body) callDynamic(s *ir.CallDynamicStmt, e env, levels int) step {
	if len(s.Args) != 2 || s.Args[0] != ir.Input || s.Args[1] != ir.Data {
		refuse("a call by path with other operands than input and data")
	}
	// A rule that is undefined ends the whole reference. What data has in its
	// place is only looked at if there is no rule.
	const whole = code(4)
	if int(whole) > levels {
		refuse("a call by path out of a loop, a negation or a with")
	}
	path := make([]operand, len(s.Path))
	for i, o := range s.Path {
		path[i] = b.operand(e, o)
	}
	l, root := s.Result, b.dynamic
	delete(e, l)
	return func(m *machine, f []*ast.Term) code {
		d := root
		for i := range path {
			t := path[i].value(m, f)
			if t == nil {
				return m.fail(ErrUnsure)
			}
			name, ok := t.Value.(ast.String)
			if !ok {
				return m.fail(ErrUnsure)
			}
			if d = d.sub[string(name)]; d == nil {
				return undefined
			}
		}
		if d.fn == nil {
			return undefined
		}
		if !d.fn.remembered {
			return m.fail(ErrUnsure)
		}
		t, c := m.remember(d.fn)
		if c != next {
			return c
		}
		f[l] = t
		if t == nil {
			return whole
		}
		return next
	}
}

// changing are functions of OPA that it does not call nondeterministic, and that
// look at the clock all the same: whether a certificate is valid depends on the day.
var changing = map[string]bool{
	ast.CryptoX509ParseAndVerifyCertificates.Name:            true,
	ast.CryptoX509ParseAndVerifyCertificatesWithOptions.Name: true,
}

// own are OPA's functions. Of one that a program has added it is not known on what
// its answer depends.
var own = func() map[string]bool {
	names := map[string]bool{}
	for _, b := range ast.DefaultBuiltins {
		names[b.Name] = true
	}
	return names
}()

// builtin compiles the call of one of OPA's own functions.
func (b *body) builtin(s *ir.CallStmt, e env) step {
	name := s.Func
	declared, impl := ast.BuiltinMap[name], topdown.GetBuiltin(name)
	if declared == nil || impl == nil {
		refuse("no built-in %s", name)
	}
	operands := make([]operand, len(s.Args))
	for i, arg := range s.Args {
		operands[i] = b.operand(e, arg)
	}
	l := s.Result
	delete(e, l)
	if b.final && (declared.Nondeterministic || changing[name] || !own[name]) {
		b.chance[name] = true
	}
	call := builtin{
		name:             name,
		impl:             impl,
		operands:         operands,
		contextual:       !declared.CanSkipBctx,
		nondeterministic: declared.Nondeterministic,
		relation:         declared.Relation,
		void:             declared.Decl.Result() == nil,
		at:               b.location(s),
	}
	return func(m *machine, f []*ast.Term) code {
		t, c := call.run(m, f)
		if c != next || call.void {
			return c
		}
		f[l] = t
		if t == nil {
			return undefined
		}
		return next
	}
}

type builtin struct {
	name             string
	impl             topdown.BuiltinFunc
	operands         []operand
	contextual       bool
	nondeterministic bool
	relation         bool // has any number of answers
	void             bool // has none
	at               *ast.Location
}

// location is where s comes from.
func (b *body) location(s ir.Stmt) *ast.Location {
	l := s.GetLocation()
	if l == nil || l.File < 0 || l.File >= len(b.files) {
		return nil
	}
	return &ast.Location{File: b.files[l.File], Row: l.Row, Col: l.Col, Text: l.Text}
}

func (b *builtin) run(m *machine, f []*ast.Term) (*ast.Term, code) {
	var args []*ast.Term
	if b.contextual {
		args = make([]*ast.Term, len(b.operands)) // it may keep them for the evaluation
	} else {
		if len(b.operands) > len(m.operands) {
			m.operands = make([]*ast.Term, len(b.operands))
		}
		args = m.operands[:len(b.operands)]
	}
	for i := range b.operands {
		if args[i] = b.operands[i].value(m, f); args[i] == nil {
			return nil, m.fail(ErrUnsure)
		}
	}
	asked := b.nondeterministic && m.e.Nondeterminism != nil
	var key *ast.Array
	if asked {
		key = ast.NewArray(args...)
		if v, ok := m.e.Nondeterminism.Get(b.name, key); ok {
			return ast.NewTerm(v), next
		}
	}
	var context topdown.BuiltinContext
	if b.contextual {
		context = m.context()
	}
	context.Location = b.at
	m.answers = m.answers[:0]
	if err := b.impl(context, args, m.collect); err != nil {
		if halt, ok := errors.AsType[topdown.Halt](err); ok {
			return nil, m.fail(halt.Err)
		}
		if m.e.Strict {
			return nil, m.fail(err)
		}
		return nil, undefined
	}
	if b.relation {
		return ast.ArrayTerm(slices.Clone(m.answers)...), next
	}
	switch len(m.answers) {
	case 0:
		return nil, undefined
	case 1:
	default:
		return nil, m.fail(ErrUnsure)
	}
	t := m.answers[0]
	if asked {
		m.e.Nondeterminism.Put(b.name, key, t.Value)
	}
	return t, next
}
