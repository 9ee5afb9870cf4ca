package authz

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// What is found here keeps a filter from being sure of what it is not: rules whose
// residual does not tell all, and rules that can fail beside it.

// disputable reports whether a rule outside of data.ostiary may have two values at
// once. Then the decision fails, whatever else holds.
func disputable(modules map[string]*ast.Module) bool {
	first := map[string]*ast.Term{} // the constant that a name has, nil if it is none
	for _, m := range modules {
		if m.Package.Path.Equal(ownPackage) {
			continue
		}
		for _, r := range m.Rules {
			if r.Default || r.Head.RuleKind() == ast.MultiValue {
				continue
			}
			name := r.Ref().GroundPrefix().String()
			value := r.Head.Value
			if !ground(value) || r.Else != nil || !r.Ref().IsGround() {
				value = nil
			}
			before, known := first[name]
			switch {
			case known && (before == nil || value == nil || !before.Equal(value)):
				return true
			case value == nil && loops(r):
				return true
			}
			first[name] = value
		}
	}
	return false
}

// loops reports whether the body of r can be satisfied in several ways.
func loops(r *ast.Rule) bool {
	found := !r.Ref().IsGround()
	for ; r != nil; r = r.Else {
		ast.WalkRefs(r.Body, func(ref ast.Ref) bool {
			found = found || !ref[1:].IsGround() && !ref.IsNested()
			return false
		})
		ast.WalkExprs(r.Body, func(e *ast.Expr) bool {
			found = found || e.IsCall() && e.Operator().String() == "walk"
			return false
		})
	}
	return found
}

// careless reports in which ways rules outside of data.ostiary are written so that
// partial evaluation loses something:
//
// reflexive: a rule may compare something with itself. x == x becomes x, and
// not x == x false: wrong if x is false, or absent.
//
// lossy: a rule finds a value, as a variable or as the argument of a function, and
// asks whether something is not so of it. Then it no longer matters whether there
// was a value.
func careless(modules map[string]*ast.Module) (reflexive, lossy bool) {
	for _, m := range modules {
		if m.Package.Path.Equal(ownPackage) {
			continue
		}
		ast.WalkRules(m, func(r *ast.Rule) bool {
			// What variables stand for; nil for arguments, which can be anything.
			values := map[ast.Var]ast.Value{}
			for _, arg := range r.Head.Args {
				ast.WalkVars(arg, func(v ast.Var) bool { values[v] = nil; return false })
			}
			ast.WalkExprs(r, func(e *ast.Expr) bool {
				terms, calls := e.Terms.([]*ast.Term)
				switch {
				case e.IsEquality() && !e.Negated:
					a, b := e.Operand(0).Value, e.Operand(1).Value
					if !defines(values, a, b) && !defines(values, b, a) && perhapsSame(resolved(values, a), resolved(values, b)) {
						reflexive = true
					}
				case e.IsEquality():
					if perhapsSame(resolved(values, e.Operand(0).Value), resolved(values, e.Operand(1).Value)) {
						reflexive = true
					}
					lossy = lossy || perhapsAbsent(values, terms[1:])
				case calls && terms[0].Value.(ast.Ref).HasPrefix(ast.DefaultRootRef):
					lossy = lossy || perhapsAbsent(values, terms[1:])
				case e.Negated && !calls:
					if term, ok := e.Terms.(*ast.Term); ok {
						lossy = lossy || perhapsAbsent(values, []*ast.Term{term})
					}
				}
				return false
			})
			return false
		})
	}
	return reflexive, lossy
}

// perhapsAbsent reports whether a variable in terms may stand for something that is
// not there in every request.
func perhapsAbsent(values map[ast.Var]ast.Value, terms []*ast.Term) bool {
	absent := false
	for _, term := range terms {
		vars := ast.NewVarVisitor().WithParams(ast.VarVisitorParams{SkipRefCallHead: true})
		vars.Walk(term)
		for v := range vars.Vars() {
			if v == ast.InputRootDocument.Value || v == ast.DefaultRootDocument.Value {
				continue
			}
			value := values[v] // nil: an argument, or what a function or a loop found
			ref, isRef := value.(ast.Ref)
			absent = absent || value == nil || isRef && !alwaysThere(ref) || !isRef && !ground(ast.NewTerm(value))
		}
	}
	return absent
}

// alwaysThere: the parts of the input document itself.
func alwaysThere(ref ast.Ref) bool {
	if !ref.HasPrefix(ast.InputRootRef) || len(ref) > 3 {
		return false
	}
	return len(ref) < 3 || ref[2].Equal(propertiesKey) || ref[2].Equal(typeKey) || ref[2].Equal(nameKey)
}

var ownPackage = ast.MustParseRef("data.ostiary")

// defines reports whether a = b is where the variable a gets its value.
func defines(values map[ast.Var]ast.Value, a, b ast.Value) bool {
	v, ok := a.(ast.Var)
	if !ok {
		return false
	}
	if _, known := values[v]; known {
		return false
	}
	values[v] = resolved(values, b)
	return true
}

func resolved(values map[ast.Var]ast.Value, v ast.Value) ast.Value {
	switch x := v.(type) {
	case ast.Var:
		return values[x]
	case ast.Ref:
		if head, ok := x[0].Value.(ast.Var); ok {
			if prefix, ok := values[head].(ast.Ref); ok {
				return prefix.Concat(x[1:])
			}
		}
	}
	return v
}

// perhapsSame reports whether a and b may be the same reference. nil is anything.
func perhapsSame(a, b ast.Value) bool {
	if a == nil || b == nil {
		return true
	}
	x, ok := a.(ast.Ref)
	if !ok {
		return false
	}
	y, ok := b.(ast.Ref)
	if !ok {
		return false
	}
	rooted := func(r ast.Ref) bool { return r.HasPrefix(ast.InputRootRef) || r.HasPrefix(ast.DefaultRootRef) }
	if rooted(x) && rooted(y) {
		for i := range min(len(x), len(y)) {
			if ast.IsConstant(x[i].Value) && ast.IsConstant(y[i].Value) && !x[i].Equal(y[i]) {
				return false
			}
		}
		return len(x) == len(y) && x[0].Equal(y[0])
	}
	last, other := x[len(x)-1].Value, y[len(y)-1].Value
	return !ast.IsConstant(last) || !ast.IsConstant(other) || last.Compare(other) == 0
}

// tellsMore reports whether the application's policy for a type hands a context
// back that is not the same for all: finding it may fail, and with it the decision.
func (t *interpreter) tellsMore(resourceType string) bool {
	rules := t.compiler.GetRules(ast.Ref{ast.DefaultRootDocument, ast.StringTerm("app"), ast.StringTerm(resourceType), contextKey})
	return slices.ContainsFunc(rules, func(r *ast.Rule) bool {
		return len(rules) > 1 || r.Else != nil || r.Head.Value == nil || !ground(r.Head.Value) || !r.Ref().IsGround() ||
			slices.ContainsFunc(r.Body, mayFail)
	})
}

// mayFail reports whether finding out if e holds can end in an error.
func mayFail(e *ast.Expr) bool {
	failing := false
	ast.WalkExprs(e, func(e *ast.Expr) bool {
		if e.IsCall() {
			_, compares := comparisons[e.Operator().String()]
			failing = failing || !compares && e.Operator().String() != "internal.member_2"
		}
		return failing
	})
	return failing
}
