// Package compiled evaluates policies as Go closures.
//
// OPA's planner turns a query and the rules that it reaches into a small
// imperative program, OPA's intermediate representation. [Compile] turns each of
// its statements into a closure over a frame of registers, once; [Program.Eval]
// runs them. Names are resolved while compiling: what is left of a decision is
// look-ups, comparisons and calls of OPA's own built-ins.
//
// # What may be relied upon
//
// A Program answers what OPA's topdown answers, or says that it does not: with a
// [Refusal] when it is compiled, with [ErrUnsure] when it runs. Topdown is then
// to be asked. Any other error of Eval is one of evaluating, with topdown's
// codes; topdown words it better, and where its index or its early exit passes a
// failing expression by, it has an answer. So whoever wants exactly topdown's
// behaviour asks it after every error; see package authz.
//
// # Sharing
//
// A Program never changes and may be used by any number of goroutines. Its
// constants and its data are shared by all evaluations: Compile seals what it
// builds (OPA sorts objects and sets in place when they are first walked in
// order), and data has to be sealed by the caller. Evaluations never write to a
// value that they did not make: containers are filled in the frame that made
// them, before anything else can see them.
package compiled

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"
)

// Refusal says why a plan is not compiled.
type Refusal struct{ Reason string }

func (r *Refusal) Error() string { return r.Reason }

// ErrUnsure reports that an evaluation met values on which topdown may say
// something else: topdown has to be asked.
var ErrUnsure = errors.New("only topdown can tell")

// Input is the input document. What nobody reads of it need not be built.
type Input interface {
	// Find returns what is at a path of strings, nil if there is nothing. The
	// answer is known for paths of one element; for longer ones it may not be,
	// and then the path without its last element is asked for. With a glance it does
	// not matter what is in an object: any other will do in its place.
	Find(path []*ast.Term, glance bool) (t *ast.Term, known bool)
	// Document returns the whole, nil if there is no input.
	Document() *ast.Term
}

// Document is an Input that is there already.
type Document struct{ Term *ast.Term }

// Find implements [Input].
func (d Document) Find(path []*ast.Term, _ bool) (*ast.Term, bool) {
	if len(path) != 1 {
		return nil, false
	}
	if d.Term == nil {
		return nil, true
	}
	return d.Term.Get(path[0]), true
}

// Document implements [Input].
func (d Document) Document() *ast.Term { return d.Term }

// Options say what a program runs on.
type Options struct {
	Data         *ast.Term // sealed; nil is an empty object
	Capabilities *ast.Capabilities
	// Result, if it is not empty, is the variable of the query whose value is
	// the result. Otherwise a result is an object of all variables.
	Result string
}

// Program is a compiled plan.
type Program struct {
	data         *ast.Term
	funcs        []*function
	query        function
	slots        []slot
	capabilities *ast.Capabilities
	reads        Reads
	lasting      lasting
	machines     sync.Pool
}

// Reads is what a program can depend on beside its data.
type Reads struct {
	// Input has the paths that may be read, sorted, none below another. A path
	// without elements is all of the input.
	Input [][]string
	// Nondeterministic names the reachable built-ins whose answer depends on more
	// than their operands, the clock or chance, or may: those that are not OPA's.
	Nondeterministic []string
}

// Reads reports what p can depend on. It may name too much, never too little.
func (p *Program) Reads() Reads { return p.reads }

// Evaluation is what one run depends on.
type Evaluation struct {
	Context context.Context
	Input   Input
	Now     time.Time
	// Cancel is asked at each call and each step of a loop.
	Cancel topdown.Cancel
	// Nondeterminism, if it is not nil, gives and takes the answers of
	// nondeterministic built-ins.
	Nondeterminism builtins.NDBCache
	// Strict makes a built-in that fails fail the evaluation; otherwise it is undefined.
	Strict bool
}

// Eval runs the query and returns its results.
func (p *Program) Eval(e Evaluation) ([]*ast.Term, error) {
	m := p.machine()
	err := m.run(e)
	results := append([]*ast.Term(nil), m.results...)
	m.end()
	p.machines.Put(m)
	return results, err
}

// Value runs the query and returns its result, nil if there is none. Of several,
// which is not what queries for one document have, it is the last.
func (p *Program) Value(e Evaluation) (*ast.Term, error) {
	m := p.machine()
	err := m.run(e)
	var result *ast.Term
	if n := len(m.results); n > 0 && err == nil {
		result = m.results[n-1]
	}
	m.end()
	// Not deferred: a machine that panicked is not used again.
	p.machines.Put(m)
	return result, err
}

func (p *Program) machine() *machine {
	if m, ok := p.machines.Get().(*machine); ok {
		return m
	}
	return newMachine(p)
}
