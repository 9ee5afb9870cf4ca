package compiled_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/ostiary/ostiary/authz/compiled"
)

// glancing is an input that shows an empty object to whoever glances at one.
type glancing struct{ document *ast.Term }

func (g glancing) Find(path []*ast.Term, glance bool) (*ast.Term, bool) {
	t, known := compiled.Document{Term: g.document}.Find(path[:1], glance)
	for _, key := range path[1:] {
		if t != nil {
			t = t.Get(key)
		}
	}
	if t != nil && glance {
		if _, ok := t.Value.(ast.Object); ok {
			t = ast.ObjectTerm()
		}
	}
	return t, known
}

func (g glancing) Document() *ast.Term { return g.document }

// both evaluates x of a module with the compiled program and with topdown.
func both(t *testing.T, module string, input *ast.Term) (got, want string) {
	t.Helper()
	compiler, err := ast.CompileModules(map[string]string{"x.rego": "package p\n\n" + module})
	if err != nil {
		t.Fatalf("%s: %v", module, err)
	}
	query := ast.MustParseBody("data.p.x = result")
	plan, err := compiled.Plan(t.Context(), compiler, query)
	if err != nil {
		t.Fatalf("%s: %v", module, err)
	}
	program, err := compiled.Compile(plan, compiled.Options{Capabilities: compiler.Capabilities(), Result: "result"})
	if err != nil {
		t.Fatalf("%s: %v", module, err)
	}
	word := func(v *ast.Term, err error) string {
		switch {
		case err != nil:
			return "fails"
		case v == nil:
			return "undefined"
		}
		return v.String()
	}
	got = word(program.Value(compiled.Evaluation{Context: t.Context(), Input: glancing{input}, Now: time.Now(), Strict: true}))
	rs, err := topdown.NewQuery(query).WithCompiler(compiler).WithInput(input).WithStrictBuiltinErrors(true).Run(t.Context())
	var value *ast.Term
	if len(rs) == 1 {
		value = rs[0]["result"]
	}
	return got, word(value, err)
}

// Conditions that are not calls of OPA's functions say what these say.
func TestConditionsSayWhatBuiltinsSay(t *testing.T) {
	values := `null, true, false, 0, 1, 1.0, 1e2, 100, 9007199254740993, 9007199254740992, "", "a", "b", "100",
		[], ["a"], [1, "a", null], [1.0], {}, {"a": "b"}, {"b": "a"}, {"k": 1}, [[]], [{}]`
	input := ast.MustParseTerm(`{"all": [` + values + `]}`)
	for _, name := range []string{"is_array", "is_boolean", "is_null", "is_number", "is_object", "is_set", "is_string"} {
		module := fmt.Sprintf("x contains [i, how] if { some i, v in input.all; how := %q; %s(v) }\nx contains [i, \"set\"] if { some i, v in input.all; %s({v}) }", name, name, name)
		if got, want := both(t, module, input); got != want {
			t.Errorf("%s: got %s, OPA says %s", name, got, want)
		}
	}
	for _, op := range []string{"==", "!=", "<", "<=", ">", ">="} {
		module := fmt.Sprintf("x contains [i, j] if { some i, v in input.all; some j, w in input.all; v %s w }\nx contains [i, \"one\"] if { some i, v in input.all; v %s 1 }", op, op)
		if got, want := both(t, module, input); got != want {
			t.Errorf("%s: got %s, OPA says %s", op, got, want)
		}
	}
	for _, in := range []string{"w", "{w}", `{"a": w}`, `{"a", "b", ""}`, `{"a", 1}`, `["a", "b"]`, `{"k": "a"}`, `{"1", "2", "3", "4", "5", "6", "a"}`, `"a"`} {
		module := fmt.Sprintf("x contains [i, j] if { some i, v in input.all; some j, w in input.all; v in %s }", in)
		if got, want := both(t, module, input); got != want {
			t.Errorf("in %s: got %s, OPA says %s", in, got, want)
		}
	}
}

// Sentences that are put together without OPA's functions read as theirs, and
// what is not text, or not counted right, is left to these.
func TestSentencesReadAsThoseOfBuiltins(t *testing.T) {
	values := []string{`"a"`, `""`, `"%s"`, `"ü\"\\\n"`, `"\u00ad\ufeff\u2028"`, `"\ufffd"`, `1`, `1.5`, `100000000000000000000`, `true`, `null`, `["a"]`, `{"a": 1}`}
	formats := []string{"%s", "%v", "%q", "a %s b", "%%%s%%", "%s%s", "%v, %q", "%q%q", "%d", "%5s", "%-5q", "%+q", "%#q", "%x", "%", "%s %", "%!", "none", "%[1]s", "%s%%"}
	for _, format := range formats {
		for _, args := range []string{"input.a", "input.a, input.b", "input.a, \"c\"", "input.missing"} {
			var rules strings.Builder
			fmt.Fprintf(&rules, "x := sprintf(%q, [%s])\n", format, args)
			for _, a := range values {
				input := ast.MustParseTerm(fmt.Sprintf(`{"a": %s, "b": "b\t\""}`, a))
				if got, want := both(t, rules.String(), input); got != want {
					t.Errorf("sprintf(%q, [%s]) of %s: got %s, OPA says %s", format, args, a, got, want)
				}
			}
		}
	}
	for _, separator := range []string{"", ":", ", "} {
		for _, args := range []string{"input.a", "input.a, input.b", "input.a, \"c\", input.b", "input.missing, input.b"} {
			for _, a := range values {
				input := ast.MustParseTerm(fmt.Sprintf(`{"a": %s, "b": "b"}`, a))
				module := fmt.Sprintf("x := concat(%q, [%s])", separator, args)
				if got, want := both(t, module, input); got != want {
					t.Errorf("%s of %s: got %s, OPA says %s", module, a, got, want)
				}
			}
		}
	}
	// The array is wanted elsewhere too.
	if got, want := both(t, `x := [sprintf("%s", list), list] if list := [input.a]`, ast.MustParseTerm(`{"a": "a"}`)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Containers that are made in one go hold what they would hold made step by step.
func TestContainersHoldWhatIsPutIntoThem(t *testing.T) {
	input := ast.MustParseTerm(`{"a": "a", "b": "b", "k": "k", "n": 1, "m": 1.0}`)
	for _, value := range []string{
		`{"x": input.a, "y": [input.b, {"z": input.a}], "s": {input.a, input.b, "c"}}`,
		`{input.a: 1, input.b: 2}`,
		`{input.n: 1, input.m: 2}`,
		`{input.a: 1, "a": 2, "c": input.b}`,
		`{input.n, input.m, 1}`,
		`[[], {}, set(), input.a, [input.a, []]]`,
		`{"a": input.a, "b": input.b, "c": input.k, "d": input.n, "e": 1, "f": 2, "g": 3, "h": [1, {"i": input.m}]}`,
		`{"a": input.a, "b": input.missing}`,
	} {
		if got, want := both(t, "x := "+value, input); got != want {
			t.Errorf("%s: got %s, OPA says %s", value, got, want)
		}
	}
}

// On what a function depends that a program has added to OPA's, nobody knows.
func TestFunctionsThatAreNotOPAsMayChange(t *testing.T) {
	for call, want := range map[string]int{`test.sleep("1ns") == null`: 1, `upper("a") == "A"`: 0} {
		compiler, err := ast.CompileModules(map[string]string{"x.rego": "package p\n\nx if " + call})
		if err != nil {
			t.Fatal(err)
		}
		plan, err := compiled.Plan(t.Context(), compiler, ast.MustParseBody("data.p.x = result"))
		if err != nil {
			t.Fatal(err)
		}
		program, err := compiled.Compile(plan, compiled.Options{Capabilities: compiler.Capabilities(), Result: "result"})
		if err != nil {
			t.Fatal(err)
		}
		if got := program.Reads().Nondeterministic; len(got) != want {
			t.Errorf("%s: %v may change, want %d", call, got, want)
		}
	}
}

// Where a program only glances at a part of the input, it does not matter what is
// in it; anywhere else it does.
func TestGlancesSeeNoMoreThanTheyMay(t *testing.T) {
	input := ast.MustParseTerm(`{"a": {"b": {"c": {"d": 1}}, "no": false, "null": null, "list": [{}], "text": "t"}}`)
	conditions := []string{"input.a", "not input.a", "_ = input.a.b", "is_object(input.a.b)", "not is_string(input.a.b)", "input.a.b.c.d == 1",
		"input.a.b.c == {\"d\": 1}", "input.a.b != {}", "count(input.a.b) == 1", "yy := input.a.b; yy.c", "yy := input.a.b; is_object(yy); yy.c.d", "f(input.a.b)",
		"g(input.a.b)", "some _, yy in input.a.b; yy", "input.a.no", "not input.a.no", "is_boolean(input.a.no)", "input.a.null", "is_null(input.a.null)", "input.a.none",
		"is_array(input.a.list)", "input.a.text", "is_string(input.a.text)", "input.a.b with input.a.b as false", "input.a.b.x with input.a.b.x as 1", "p", "input"}
	const rest = "\nf(x) if x.c.d == 1\n\ng(x) if is_object(x)\n\np := input.a.b if input.a.b"
	for _, one := range conditions {
		for _, other := range conditions {
			for _, module := range []string{
				"x := 1 if {\n" + one + "\n" + strings.ReplaceAll(other, "yy", "zz") + "\n}",
				"default x := 0\n\nx := 1 if {\n" + one + "\nq\n}\n\nq := [input.a.b, p] if { " + other + " }",
			} {
				if got, want := both(t, module+rest, input); got != want {
					t.Fatalf("%s: got %s, OPA says %s", module, got, want)
				}
			}
		}
	}
}
