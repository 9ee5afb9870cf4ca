package compiled

import (
	"fmt"
	"maps"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// Compile turns a plan of one query into a program. A plan that it does not
// understand in full is a *[Refusal].
func Compile(plan *ir.Policy, o Options) (p *Program, err error) {
	defer func() {
		// Refusals are met deep inside blocks.
		if r := recover(); r != nil {
			refusal, ok := r.(*Refusal)
			if !ok {
				panic(r)
			}
			p, err = nil, refusal
		}
	}()
	if plan.Plans == nil || len(plan.Plans.Plans) != 1 {
		refuse("the plan is not of one query")
	}
	c := &compiler{
		program: &Program{data: o.Data, capabilities: o.Capabilities},
		options: o,
		names:   map[string]*function{},
		dynamic: &directory{},
		slots:   map[string]int{},
		read:    map[int]bool{},
		chance:  map[string]bool{},
	}
	if c.program.data == nil {
		c.program.data = ast.ObjectTerm()
	}
	c.program.lasting.constants = map[*ast.Term]struct{}{
		emptyArray: {}, emptyObject: {}, emptySet: {}, ast.InternedTerm(true): {}, ast.InternedTerm(false): {},
	}
	if plan.Static != nil {
		for _, s := range plan.Static.Strings {
			c.strings = append(c.strings, s.Value)
			c.terms = append(c.terms, ast.StringTerm(s.Value))
			c.program.lasting.constants[c.terms[len(c.terms)-1]] = struct{}{}
		}
		for _, s := range plan.Static.Files {
			c.files = append(c.files, s.Value)
		}
	}
	var planned []*ir.Func
	if plan.Funcs != nil {
		planned = plan.Funcs.Funcs
	}
	query := &ir.Func{Name: "query", Blocks: plan.Plans.Plans[0].Blocks, Return: ir.Unused}
	for _, f := range append(planned, query) {
		if replaces(f.Blocks, ir.Data) {
			c.dataChanges = true
		}
	}
	// First the names, because functions call each other.
	for i, f := range planned {
		if len(f.Params) < 2 || f.Params[0] != ir.Input || f.Params[1] != ir.Data {
			refuse("%s does not begin with input and data", f.Name)
		}
		fn := &function{name: f.Name, index: i, remembered: len(f.Params) == 2}
		for _, param := range f.Params[2:] {
			fn.params = append(fn.params, int(param))
		}
		c.program.funcs = append(c.program.funcs, fn)
		c.names[f.Name] = fn
		c.dynamic.add(f.Path, fn)
	}
	for i, f := range planned {
		c.function(c.program.funcs[i], f)
	}
	c.program.query.name = "query"
	c.function(&c.program.query, query)
	c.program.reads = c.reads()
	return c.program, nil
}

func refuse(format string, args ...any) {
	panic(&Refusal{Reason: fmt.Sprintf(format, args...)})
}

// function is a compiled one.
type function struct {
	name       string
	index      int
	params     []int // registers, without input and data
	result     int
	registers  int
	remembered bool // its result depends on input and data alone
	blocks     []step
}

// slot is a part of the input with a constant path, looked up at most once in
// an evaluation.
type slot struct {
	parent int // -1: the input itself
	name   string
	key    *ast.Term
	path   []*ast.Term
	glance bool // it does not matter what is in an object; see Input
}

// directory finds functions by path.
type directory struct {
	fn  *function
	sub map[string]*directory
}

func (d *directory) add(path []string, fn *function) {
	if len(path) == 0 {
		return
	}
	for _, name := range path {
		if d.sub == nil {
			d.sub = map[string]*directory{}
		}
		if d.sub[name] == nil {
			d.sub[name] = &directory{}
		}
		d = d.sub[name]
	}
	d.fn = fn
}

// compiler is the state of compiling a plan.
type compiler struct {
	program     *Program
	options     Options
	strings     []string
	terms       []*ast.Term // of strings
	files       []string
	names       map[string]*function
	dynamic     *directory
	slots       map[string]int // by parent and name
	dataChanges bool           // a `with` replaces data: it is not constant

	read   map[int]bool // slots that are read as a whole
	all    bool         // input is
	chance map[string]bool
}

// function compiles f twice: the first pass finds out which registers anybody
// reads, and the second leaves the others alone.
func (c *compiler) function(fn *function, f *ir.Func) {
	list := bodies(f)
	s := survey(f, list)
	fn.registers, fn.result = s.registers, int(f.Return)
	b := &body{compiler: c, facts: s, fn: fn, needed: map[register]bool{}, valued: map[int]bool{}}
	for _, b.final = range []bool{false, true} {
		fn.blocks = nil
		for i, block := range list {
			b.number = i
			if s.early && takes(block, s.shared) {
				continue // the value of a rule was returned at once
			}
			fn.blocks = append(fn.blocks, b.block(block, env{}, 1))
		}
	}
}

// takes reports whether block takes over the value of one rule as the result.
func takes(block *ir.Block, value ir.Local) bool {
	if len(block.Stmts) == 0 {
		return false
	}
	first, ok := block.Stmts[0].(*ir.IsDefinedStmt)
	return ok && first.Source == value
}

// bodies returns the blocks of f, those of a chain of elses one by one: nothing
// but the value of the rule goes from one to the next.
func bodies(f *ir.Func) []*ir.Block {
	var list []*ir.Block
	for _, block := range f.Blocks {
		if len(block.Stmts) == 1 {
			if chain, ok := block.Stmts[0].(*ir.BlockStmt); ok {
				list = append(list, chain.Blocks...)
				continue
			}
		}
		list = append(list, block)
	}
	return list
}

// register is a register in one of the bodies that a function consists of. The
// planner numbers anew in each, so one number means something else in another.
type register struct {
	body  int
	local ir.Local
}

// facts are what one look over a function tells.
type facts struct {
	registers int
	result    ir.Local
	shared    ir.Local          // registers up to this one are the same in all blocks
	fills     map[register]int  // how many statements put something into a container
	uses      map[register]int  // how many read a register in another way
	dotted    map[register]bool // is the target of a look-up
	foreign   map[register]bool // is assigned by anything but a look-up or the making of a container
	// early says that all rules have the same constant value: the first that holds
	// is the result, as it is for topdown.
	early bool
	// idle says that nobody looks at the register for the value of one rule.
	idle bool
}

func survey(f *ir.Func, list []*ir.Block) *facts {
	s := &facts{result: f.Return, early: true, idle: true, fills: map[register]int{}, uses: map[register]int{}, dotted: map[register]bool{}, foreign: map[register]bool{}}
	s.shared = f.Return
	for _, p := range f.Params {
		s.shared = max(s.shared, p)
	}
	s.shared++ // the planner's register for the value of one rule
	highest := s.shared
	var value ir.Val // of all rules
	for i, block := range list {
		walk(block, func(stmt ir.Stmt) {
			reads, writes := locals(stmt)
			for _, l := range append(reads, writes...) {
				highest = max(highest, l)
			}
			for _, l := range reads {
				s.idle = s.idle && l != s.shared
				s.uses[register{i, l}]++
			}
			switch stmt := stmt.(type) {
			case *ir.SetAddStmt:
				s.fills[register{i, stmt.Set}]++
			case *ir.ArrayAppendStmt:
				s.fills[register{i, stmt.Array}]++
			case *ir.ObjectInsertStmt:
				s.fills[register{i, stmt.Object}]++
			case *ir.ObjectInsertOnceStmt:
				s.fills[register{i, stmt.Object}]++
			case *ir.MakeArrayStmt, *ir.MakeObjectStmt, *ir.MakeSetStmt:
			case *ir.DotStmt:
				s.dotted[register{i, stmt.Target}] = true
			case *ir.AssignVarOnceStmt:
				if stmt.Target == f.Return {
					return // from a rule's own, or the default
				}
				_, dynamic := stmt.Source.Value.(ir.Local)
				s.early = s.early && !dynamic && (value == nil || value == stmt.Source.Value)
				value = stmt.Source.Value
			default:
				for _, l := range writes {
					s.foreign[register{i, l}] = true
				}
			}
		})
	}
	s.checkBodies(f.Name, list)
	s.registers = int(highest) + 1
	return s
}

// checkBodies refuses a function in which a register that is read in one body
// may come from another, but for operands and results.
func (s *facts) checkBodies(name string, list []*ir.Block) {
	for _, block := range list {
		written := map[ir.Local]bool{}
		walk(block, func(stmt ir.Stmt) {
			reads, writes := locals(stmt)
			for _, l := range reads {
				if l > s.shared && !written[l] {
					refuse("%s reads a register that another body wrote", name)
				}
			}
			for _, l := range writes {
				written[l] = true
			}
		})
	}
}

// walk calls visit with every statement of b and of the blocks in it.
func walk(b *ir.Block, visit func(ir.Stmt)) {
	if b == nil {
		return
	}
	for _, stmt := range b.Stmts {
		visit(stmt)
		for _, inner := range blocks(stmt) {
			walk(inner, visit)
		}
	}
}

// blocks returns the blocks in stmt.
func blocks(stmt ir.Stmt) []*ir.Block {
	switch stmt := stmt.(type) {
	case *ir.BlockStmt:
		return stmt.Blocks
	case *ir.ScanStmt:
		return []*ir.Block{stmt.Block}
	case *ir.NotStmt:
		return []*ir.Block{stmt.Block}
	case *ir.WithStmt:
		return []*ir.Block{stmt.Block}
	}
	return nil
}

// replaces reports whether a `with` in list replaces root.
func replaces(list []*ir.Block, root ir.Local) bool {
	found := false
	for _, b := range list {
		walk(b, func(stmt ir.Stmt) {
			with, ok := stmt.(*ir.WithStmt)
			found = found || ok && with.Local == root
		})
	}
	return found
}

// locals returns what stmt itself, not the blocks in it, reads and writes.
func locals(stmt ir.Stmt) (reads, writes []ir.Local) {
	read := func(list ...ir.Operand) {
		for _, o := range list {
			if l, ok := o.Value.(ir.Local); ok {
				reads = append(reads, l)
			}
		}
	}
	switch s := stmt.(type) {
	case *ir.ReturnLocalStmt:
		reads = append(reads, s.Source)
	case *ir.CallStmt:
		read(s.Args...)
		writes = append(writes, s.Result)
	case *ir.CallDynamicStmt:
		read(s.Path...)
		reads = append(reads, s.Args...)
		writes = append(writes, s.Result)
	case *ir.BlockStmt, *ir.BreakStmt, *ir.NotStmt, *ir.NopStmt:
	case *ir.DotStmt:
		read(s.Source, s.Key)
		writes = append(writes, s.Target)
	case *ir.LenStmt:
		read(s.Source)
		writes = append(writes, s.Target)
	case *ir.ScanStmt:
		reads = append(reads, s.Source)
		writes = append(writes, s.Key, s.Value)
	case *ir.AssignIntStmt:
		writes = append(writes, s.Target)
	case *ir.AssignVarStmt:
		read(s.Source)
		writes = append(writes, s.Target)
	case *ir.AssignVarOnceStmt:
		read(s.Source)
		reads = append(reads, s.Target)
		writes = append(writes, s.Target)
	case *ir.ResetLocalStmt:
		writes = append(writes, s.Target)
	case *ir.MakeNullStmt:
		writes = append(writes, s.Target)
	case *ir.MakeNumberIntStmt:
		writes = append(writes, s.Target)
	case *ir.MakeNumberRefStmt:
		writes = append(writes, s.Target)
	case *ir.MakeArrayStmt:
		writes = append(writes, s.Target)
	case *ir.MakeObjectStmt:
		writes = append(writes, s.Target)
	case *ir.MakeSetStmt:
		writes = append(writes, s.Target)
	case *ir.EqualStmt:
		read(s.A, s.B)
	case *ir.NotEqualStmt:
		read(s.A, s.B)
	case *ir.IsArrayStmt:
		read(s.Source)
	case *ir.IsObjectStmt:
		read(s.Source)
	case *ir.IsSetStmt:
		read(s.Source)
	case *ir.IsDefinedStmt:
		reads = append(reads, s.Source)
	case *ir.IsUndefinedStmt:
		reads = append(reads, s.Source)
	case *ir.ArrayAppendStmt:
		read(s.Value)
		reads, writes = append(reads, s.Array), append(writes, s.Array)
	case *ir.ObjectInsertStmt:
		read(s.Key, s.Value)
		reads, writes = append(reads, s.Object), append(writes, s.Object)
	case *ir.ObjectInsertOnceStmt:
		read(s.Key, s.Value)
		reads, writes = append(reads, s.Object), append(writes, s.Object)
	case *ir.ObjectMergeStmt:
		reads, writes = append(reads, s.A, s.B), append(writes, s.Target)
	case *ir.SetAddStmt:
		read(s.Value)
		reads, writes = append(reads, s.Set), append(writes, s.Set)
	case *ir.WithStmt:
		read(s.Value)
	case *ir.ResultSetAddStmt:
		reads = append(reads, s.Value)
	default:
		refuse("statement %T", stmt)
	}
	return reads, writes
}

// env is what is known, at one place, of what registers hold.
type env map[ir.Local]known

// known is what is known of a register.
type known struct {
	kind knowledge
	slot int
	term *ast.Term
	// data says that a reference into data led here. OPA looks such references
	// up by path, as text, which is not the same for all keys.
	data bool
}

type knowledge uint8

const (
	nothing  knowledge = iota
	constant           // term
	part               // of the input, by slot, and it is there
)

// without returns e without what the blocks assign.
func (e env) without(list ...*ir.Block) env {
	out := maps.Clone(e)
	for _, b := range list {
		walk(b, func(stmt ir.Stmt) {
			_, writes := locals(stmt)
			for _, l := range writes {
				delete(out, l)
			}
		})
	}
	return out
}

// elsewhere returns e as it is known under another input: parts are in registers.
func (e env) elsewhere() env {
	out := maps.Clone(e)
	maps.DeleteFunc(out, func(_ ir.Local, k known) bool { return k.kind == part })
	return out
}

func (c *compiler) slot(parent int, name string) int {
	id := fmt.Sprint(parent, " ", name)
	i, ok := c.slots[id]
	if !ok {
		i = len(c.program.slots)
		c.slots[id] = i
		key := ast.StringTerm(name)
		path := []*ast.Term{key}
		if parent >= 0 {
			path = append(slices.Clone(c.program.slots[parent].path), key)
		}
		c.program.slots = append(c.program.slots, slot{parent: parent, name: name, key: key, path: path})
	}
	return i
}

// glance returns the slot for a glance at the part of the input that slot i is for.
func (c *compiler) glance(i int) int {
	id := fmt.Sprint("glance ", i)
	g, ok := c.slots[id]
	if !ok {
		g = len(c.program.slots)
		c.slots[id] = g
		s := c.program.slots[i]
		s.glance = true
		c.program.slots = append(c.program.slots, s)
	}
	return g
}

// reads sums up what was compiled.
func (c *compiler) reads() Reads {
	r := Reads{Nondeterministic: slices.Sorted(maps.Keys(c.chance))}
	if c.all {
		r.Input = [][]string{{}}
		return r
	}
	for i := range c.read {
		above := false
		for p := c.program.slots[i].parent; p >= 0; p = c.program.slots[p].parent {
			above = above || c.read[p]
		}
		if above {
			continue
		}
		var path []string
		for p := i; p >= 0; p = c.program.slots[p].parent {
			path = append(path, c.program.slots[p].name)
		}
		slices.Reverse(path)
		r.Input = append(r.Input, path)
	}
	slices.SortFunc(r.Input, slices.Compare)
	return r
}
