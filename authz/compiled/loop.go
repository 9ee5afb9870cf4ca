package compiled

import (
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
)

// scan compiles a loop over a collection. Anything else has nothing to loop over.
func (b *body) scan(s *ir.ScanStmt, e env) step {
	from := b.about(e, ir.Operand{Value: s.Source})
	source := b.local(e, s.Source)
	key, value := int(s.Key), int(s.Value)
	inner := e.without(s.Block)
	delete(inner, s.Key)
	if inner[s.Value] = (known{data: from.data}); !from.data {
		delete(inner, s.Value)
	}
	run := b.block(s.Block, inner, 1)
	forget(e, s.Block)
	delete(e, s.Key)
	delete(e, s.Value)

	// each runs the block once, and says if the loop is over.
	each := func(m *machine, f []*ast.Term, k, v *ast.Term) code {
		if m.cancelled() {
			return m.cancel()
		}
		f[key], f[value] = k, v
		return run(m, f).outer()
	}
	if source.kind == isConstant {
		keys, values := items(source.t)
		return func(m *machine, f []*ast.Term) code {
			for i, k := range keys {
				if c := each(m, f, k, values[i]); c != next {
					return c
				}
			}
			return next
		}
	}
	return func(m *machine, f []*ast.Term) code {
		t := source.value(m, f)
		if t == nil { // an input that there is not
			return undefined
		}
		switch v := t.Value.(type) {
		case *ast.Array:
			for i := range v.Len() {
				if c := each(m, f, ast.InternedTerm(i), v.Elem(i)); c != next {
					return c
				}
			}
		case ast.Set:
			for _, t := range v.Slice() {
				if c := each(m, f, t, t); c != next {
					return c
				}
			}
		case ast.Object:
			c := next
			v.Until(func(k, t *ast.Term) bool {
				c = each(m, f, k, t)
				return c != next
			})
			return c
		}
		return next
	}
}

// items returns what a loop over t meets.
func items(t *ast.Term) (keys, values []*ast.Term) {
	switch v := t.Value.(type) {
	case *ast.Array:
		for i := range v.Len() {
			keys, values = append(keys, ast.InternedTerm(i)), append(values, v.Elem(i))
		}
	case ast.Set:
		keys = v.Slice()
		values = keys
	case ast.Object:
		v.Foreach(func(k, t *ast.Term) {
			keys, values = append(keys, k), append(values, t)
		})
	}
	return keys, values
}

// with compiles a block that runs under another input or other data.
func (b *body) with(s *ir.WithStmt, e env) step {
	if s.Local != ir.Input && s.Local != ir.Data {
		refuse("a with on something else than input and data")
	}
	isInput := s.Local == ir.Input
	if isInput && b.final {
		b.all = true
	}
	o := b.operand(e, s.Value)
	path := make([]*ast.Term, len(s.Path))
	for i, name := range s.Path {
		path[i] = b.terms[name]
	}
	inner := e
	if isInput {
		inner = e.elsewhere()
	}
	run := b.block(s.Block, inner.without(), 1)
	forget(e, s.Block)
	return func(m *machine, f []*ast.Term) code {
		t, before := o.value(m, f), m.world
		input, data := before.input, before.data
		whole := data
		if isInput {
			whole = m.input()
		}
		if len(path) > 0 {
			var sure bool
			if t == nil {
				return m.fail(ErrUnsure)
			}
			if t, sure = replaced(whole, path, t, isInput); !sure {
				return m.fail(ErrUnsure)
			}
		}
		switch {
		case !isInput && t == nil:
			return m.fail(ErrUnsure)
		case !isInput:
			data = t
		case t == nil:
			input = nil
		default:
			input = Document{t}
		}
		m.enter(input, data)
		c := run(m, f)
		m.world = before
		return c
	}
}

// replaced returns t with v at path; t itself stays as it is. Of an input, what
// is in the way gives way; of data, only topdown can tell.
func replaced(t *ast.Term, path []*ast.Term, v *ast.Term, yields bool) (_ *ast.Term, sure bool) {
	if len(path) == 0 {
		return v, true
	}
	object := ast.NewObject()
	if t != nil {
		before, ok := t.Value.(ast.Object)
		if !ok && !yields {
			return nil, false
		}
		if ok {
			object = before.Copy()
		}
	}
	below, sure := replaced(object.Get(path[0]), path[1:], v, yields)
	if !sure {
		return nil, false
	}
	object.Insert(path[0], below)
	return ast.NewTerm(object), true
}
