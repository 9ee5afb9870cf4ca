package compiled

import (
	"crypto/rand"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"
)

// A step is one statement. It works on the registers of its function; a
// register that is nil is undefined.
type step func(m *machine, f []*ast.Term) code

// code says what comes after a step.
type code int

const (
	next code = 0
	// undefined leaves the block, and a higher number so many blocks.
	undefined code = 1
	// returned leaves the function.
	returned code = 1 << 30
	// failed leaves the evaluation; the machine has the error.
	failed code = 1<<30 + 1
)

// outer is what a block that ended with c means for the block around it.
func (c code) outer() code {
	switch {
	case c <= undefined:
		return next
	case c >= returned:
		return c
	}
	return c - 1
}

// machine is the state of one evaluation. Machines are pooled.
type machine struct {
	program  *Program
	e        Evaluation
	world    *world
	own      world // the world in which evaluations begin
	stack    []*ast.Term
	top      int
	operands []*ast.Term
	results  []*ast.Term
	err      error

	about topdown.BuiltinContext // for built-ins that want one
	told  bool                   // about is that of this evaluation

	// What the built-in at work answered.
	answers []*ast.Term
	collect func(*ast.Term) error // m.answered, made once
}

// world is the input and the data that rules see, and what was found out about
// them. `with` makes another world.
type world struct {
	input Input
	data  *ast.Term
	slots []*ast.Term // parts of input; nil: not looked up yet
	memo  []*ast.Term // results of rules; nil: not called yet
}

// missing stands for undefined where nil stands for not known.
var missing = &ast.Term{}

// stackSize is how many registers a machine has. Functions that find none left
// are given their own: rules cannot recurse, so they are few.
const stackSize = 1024

func newMachine(p *Program) *machine {
	m := &machine{program: p, stack: make([]*ast.Term, stackSize), operands: make([]*ast.Term, 8)}
	m.own.slots = make([]*ast.Term, len(p.slots))
	m.own.memo = make([]*ast.Term, len(p.funcs))
	m.collect = m.answered
	return m
}

func (m *machine) run(e Evaluation) error {
	m.e = e
	m.own.input, m.own.data = e.Input, m.program.data
	m.world = &m.own
	if _, c := m.call(&m.program.query, nil, nil); c == failed {
		return m.err
	}
	return nil
}

// end forgets the evaluation: a machine in the pool keeps nothing alive.
func (m *machine) end() {
	clear(m.own.slots)
	clear(m.own.memo)
	clear(m.operands)
	clear(m.answers[:cap(m.answers)])
	clear(m.results[:cap(m.results)])
	m.answers, m.results = m.answers[:0], m.results[:0]
	m.own.input, m.own.data = nil, nil
	m.e, m.world, m.err, m.top = Evaluation{}, nil, nil, 0
	if m.told {
		m.about, m.told = topdown.BuiltinContext{}, false
	}
}

// context returns what built-ins are told that want more than their operands.
func (m *machine) context() topdown.BuiltinContext {
	if !m.told {
		m.about = topdown.BuiltinContext{
			Context:        m.e.Context,
			Metrics:        metrics.NoOp(),
			Seed:           rand.Reader,
			Time:           ast.NewTerm(ast.Number(strconv.FormatInt(m.e.Now.UnixNano(), 10))),
			Cancel:         m.e.Cancel,
			Cache:          builtins.Cache{},
			NDBuiltinCache: m.e.Nondeterminism,
			Capabilities:   m.program.capabilities,
		}
		m.told = true
	}
	return m.about
}

func (m *machine) fail(err error) code {
	m.err = err
	return failed
}

// cancelled reports whether the evaluation has to end.
func (m *machine) cancelled() bool { return m.e.Cancel != nil && m.e.Cancel.Cancelled() }

func (m *machine) cancel() code { return m.fail(&topdown.Error{Code: topdown.CancelErr}) }

// call calls fn with the operands in f. A result that is nil is undefined.
func (m *machine) call(fn *function, operands []operand, f []*ast.Term) (*ast.Term, code) {
	if m.cancelled() {
		return nil, m.cancel()
	}
	var frame []*ast.Term
	bottom := m.top
	if end := bottom + fn.registers; end <= len(m.stack) {
		frame = m.stack[bottom:end:end]
		m.top = end
	} else {
		frame = make([]*ast.Term, fn.registers)
	}
	for i := range operands {
		frame[fn.params[i]] = operands[i].value(m, f)
	}
	c := next
	for _, block := range fn.blocks {
		if c = block(m, frame); c >= returned {
			break
		}
	}
	var result *ast.Term
	if c == returned {
		result = frame[fn.result]
	}
	// The stack is left as it was found: clean.
	clear(frame)
	m.top = bottom
	if c == failed {
		return nil, failed
	}
	return result, next
}

// remember calls a function whose result depends on the world alone.
func (m *machine) remember(fn *function) (*ast.Term, code) {
	w := m.world
	t := w.memo[fn.index]
	if t == nil {
		var c code
		if t, c = m.call(fn, nil, nil); c == failed {
			return nil, failed
		}
		if t == nil {
			t = missing
		}
		w.memo[fn.index] = t
	}
	if t == missing {
		return nil, next
	}
	return t, next
}

// slot returns a part of the input, nil if it is undefined.
func (m *machine) slot(i int) *ast.Term {
	t := m.world.slots[i]
	if t == nil {
		t = m.look(i)
	}
	if t == missing {
		return nil
	}
	return t
}

func (m *machine) look(i int) *ast.Term {
	w, s := m.world, &m.program.slots[i]
	var t *ast.Term
	if w.input != nil {
		known := false
		if s.parent < 0 || w.slots[s.parent] == nil {
			t, known = w.input.Find(s.path, s.glance)
		}
		if !known && s.parent >= 0 {
			if parent := m.slot(s.parent); parent != nil {
				t = parent.Get(s.key)
			}
		}
	}
	if t == nil {
		t = missing
	}
	w.slots[i] = t
	return t
}

// input returns the whole input, nil if there is none.
func (m *machine) input() *ast.Term {
	if m.world.input == nil {
		return nil
	}
	return m.world.input.Document()
}

// enter makes a world in which input and data are as given; leave with m.world.
func (m *machine) enter(input Input, data *ast.Term) {
	m.world = &world{
		input: input,
		data:  data,
		slots: make([]*ast.Term, len(m.program.slots)),
		memo:  make([]*ast.Term, len(m.program.funcs)),
	}
}

func (m *machine) answered(t *ast.Term) error {
	m.answers = append(m.answers, t)
	return nil
}
