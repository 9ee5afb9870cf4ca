package policies

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
)

// The built-in rules do what their tests say, and no line of them is untested.
func TestBuiltin(t *testing.T) {
	b, err := Load(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	modules := parse(t, b.Source.Modules)
	rules := parse(t, b.Source.Modules)
	for name, m := range parse(t, testModules(t, os.DirFS("builtin"))) {
		modules["builtin/"+name] = m
	}
	coverage := cover.New()
	runTests(t, modules, b.Source.Data, coverage)
	for name, f := range coverage.Report(rules).Files {
		for _, missed := range f.NotCovered {
			if rules[name] != nil {
				t.Errorf("%s:%d: no test reaches this", name, missed.Start.Row)
			}
		}
	}
}

// The bundles that the documentation shows load, compile and do what it says.
func TestExamples(t *testing.T) {
	folders, err := filepath.Glob("../examples/policies/*")
	if err != nil || len(folders) < 2 {
		t.Fatalf("examples: got %v, %v", folders, err)
	}
	more, err := filepath.Glob("../examples/authzen/*/policies")
	if err != nil || len(more) < 4 {
		t.Fatalf("examples of AuthZEN: got %v, %v", more, err)
	}
	for _, dir := range append(folders, more...) {
		t.Run(strings.TrimPrefix(dir, "../examples/"), func(t *testing.T) {
			r, err := Test(t.Context(), os.DirFS(dir), nil, TestOptions{Coverage: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, test := range r.Tests {
				if test.Outcome != "pass" {
					t.Errorf("%s:%d: %s %s %v\n%s\n%s", test.File, test.Line, test.Name, test.Outcome, test.Cases, test.Message, test.Output)
				}
			}
			if len(r.Tests) == 0 {
				t.Error("no tests ran")
			}
			for _, missed := range r.Coverage.Missed {
				t.Errorf("%s:%d: no test reaches this", missed.File, missed.First)
			}
		})
	}
}

// Rego is formatted as opa fmt would.
func TestRegoIsFormatted(t *testing.T) {
	files, err := filepath.Glob("../examples/policies/*/*.rego")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../examples/authzen/*/policies/*.rego")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, more...)
	if more, err = filepath.Glob("../examples/*/policies/*.rego"); err != nil {
		t.Fatal(err)
	}
	files = append(files, more...)
	own, err := filepath.Glob("[bs]*/*.rego")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, own...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		formatted, err := Format(file, text)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, formatted) {
			t.Errorf("%s: opa fmt would write\n%s", file, formatted)
		}
	}
}

// A negated expression that reads input is undefined when the input is
// malformed, and with it the guard it belongs to. So only rules of the package,
// and calls that are given no input, stand behind not.
func TestBuiltinNegatesRulesOnly(t *testing.T) {
	b, err := Load(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	modules := parse(t, b.Source.Modules)
	names := map[ast.Var]bool{}
	for _, m := range modules {
		for _, r := range m.Rules {
			names[r.Head.Name] = true
		}
	}
	for _, m := range modules {
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			if !e.Negated {
				return false
			}
			var ref ast.Ref
			switch terms := e.Terms.(type) {
			case *ast.Term:
				if v, ok := terms.Value.(ast.Var); ok {
					ref = ast.Ref{ast.NewTerm(v)}
				}
				if c, ok := terms.Value.(ast.Call); ok {
					ref = c[0].Value.(ast.Ref)
				}
			case []*ast.Term:
				ref = e.Operator()
			}
			ok := len(ref) == 1 && names[ref[0].Value.(ast.Var)]
			ast.WalkRefs(e, func(r ast.Ref) bool {
				ok = ok && !r.HasPrefix(ast.InputRootRef) && !r.HasPrefix(ast.DefaultRootRef)
				return false
			})
			if !ok {
				t.Errorf("%s: not before something other than a rule: %s", e.Location, e)
			}
			return false
		})
	}
}

func parse(t *testing.T, texts map[string]string) map[string]*ast.Module {
	t.Helper()
	modules := map[string]*ast.Module{}
	for name, text := range texts {
		m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true})
		if err != nil {
			t.Fatal(err)
		}
		modules[name] = m
	}
	return modules
}

// testModules reads the tests that Load leaves out.
func testModules(t *testing.T, fsys fs.FS) map[string]string {
	t.Helper()
	texts := map[string]string{}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.rego") {
			return err
		}
		text, err := fs.ReadFile(fsys, name)
		texts[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(texts) == 0 {
		t.Fatal("no tests found")
	}
	return texts
}

// runTests runs the Rego tests among modules.
func runTests(t *testing.T, modules map[string]*ast.Module, data map[string]any, coverage *cover.Cover) {
	t.Helper()
	ctx := context.Background()
	store := inmem.NewFromObject(data)
	txn, err := store.NewTransaction(ctx, storage.TransactionParams{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Abort(ctx, txn)
	r := tester.NewRunner().SetStore(store).SetModules(modules).CapturePrintOutput(true).RaiseBuiltinErrors(true).SetTimeout(time.Minute)
	if coverage != nil {
		// What only another evaluation order would reach is not tested.
		r.SetCoverageQueryTracer(coverage).SetCoverageRuns(nil)
	}
	results, err := r.RunTests(ctx, txn)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for res := range results {
		n++
		if res.Pass() {
			continue
		}
		var cases []string
		for name, sub := range res.SubResults.Iter {
			if sub.Fail {
				cases = append(cases, strings.Join(name, "/"))
			}
		}
		slices.Sort(cases)
		t.Errorf("%s: %s.%s failed %s\n%s", res.Location, res.Package, res.Name, strings.Join(cases, ", "), errorText(res))
	}
	if n == 0 {
		t.Error("no tests ran")
	}
}

func errorText(r *tester.Result) string {
	if r.Error != nil {
		return fmt.Sprint(r.Error)
	}
	return string(r.Output)
}
