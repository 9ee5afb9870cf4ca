package compiled_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/test/cases"
	"github.com/open-policy-agent/opa/v1/test/cases/testdata"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/ostiary/ostiary/authz/compiled"
)

// corpus is OPA's own: what its evaluators have to answer.
func corpus(t testing.TB) []cases.TestCase {
	var all []cases.TestCase
	err := fs.WalkDir(testdata.V1, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(testdata.V1, name)
		if err != nil {
			return err
		}
		var set cases.Set
		if err := util.Unmarshal(text, &set); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, c := range set.Cases {
			c.Filename = name
			all = append(all, c)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// OPA's own tests have one more built-in, which takes time.
func init() {
	sleep := &ast.Builtin{Name: "test.sleep", Decl: types.NewFunction(types.Args(types.S), types.Nl)}
	ast.RegisterBuiltin(sleep)
	topdown.RegisterBuiltinFunc(sleep.Name, func(_ topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
		d, err := time.ParseDuration(string(operands[0].Value.(ast.String)))
		if err != nil {
			return err
		}
		time.Sleep(d)
		return iter(ast.InternedNullTerm)
	})
}

// answered is how many of the corpus' 2,400 cases are not left to topdown.
const answered = 2390

// Each case of OPA's corpus is answered right or not at all.
func TestCorpusHasNoWrongAnswer(t *testing.T) {
	all := corpus(t)
	refused := map[string]int{}
	right := 0
	for _, c := range all {
		reason, err := run(t, c)
		switch {
		case err != nil:
			t.Errorf("%s: %s: %v", c.Filename, c.Note, err)
		case reason != "":
			refused[reason]++
			if os.Getenv("REFUSED") != "" {
				t.Logf("%s: %s: %s", c.Filename, c.Note, reason)
			}
		default:
			right++
		}
	}
	for reason, n := range refused {
		t.Logf("refused %d: %s", n, reason)
	}
	t.Logf("%d of %d right", right, len(all))
	if right < answered {
		t.Errorf("only %d of %d are answered, %d were", right, len(all), answered)
	}
}

// run returns why a case was refused, or what is wrong with the answer.
func run(t *testing.T, c cases.TestCase) (refused string, err error) {
	for k, v := range c.Env {
		t.Setenv(k, v)
	}
	parser := ast.ParserOptions{RegoVersion: ast.RegoV1}
	if c.ExperimentalKeywords {
		parser.Capabilities = ast.CapabilitiesForThisVersion(ast.CapabilitiesExperimentalKeywords(true))
	}
	modules := map[string]string{}
	for i, m := range c.Modules {
		modules[fmt.Sprintf("test-%d.rego", i)] = m
	}
	compiler, err := ast.CompileModulesWithOpt(modules, ast.CompileOpts{ParserOptions: parser})
	if err != nil {
		return "", fmt.Errorf("does not compile: %w", err)
	}
	query, err := ast.ParseBody(c.Query)
	if err != nil {
		return "", err
	}
	plan, err := compiled.Plan(t.Context(), compiler, query)
	if err != nil {
		return "planner: " + err.Error(), nil
	}
	data := map[string]any{}
	if c.Data != nil {
		data = *c.Data
	}
	program, err := compiled.Compile(plan, compiled.Options{Data: ast.NewTerm(ast.MustInterfaceToValue(data)), Capabilities: compiler.Capabilities()})
	if err != nil {
		var refusal *compiled.Refusal
		if !errors.As(err, &refusal) {
			return "", err
		}
		return err.Error(), nil
	}
	var input *ast.Term
	if c.InputTerm != nil {
		input = ast.MustParseTerm(*c.InputTerm)
	} else if c.Input != nil {
		input = ast.NewTerm(ast.MustInterfaceToValue(*c.Input))
	}
	e := compiled.Evaluation{Context: t.Context(), Now: time.Now(), Cancel: topdown.NewCancel(), Strict: c.StrictError}
	if input != nil {
		e.Input = glancing{input}
	}
	results, err := program.Eval(e)
	if errors.Is(err, compiled.ErrUnsure) {
		return err.Error(), nil
	}
	return "", judge(c, results, err)
}

func judge(c cases.TestCase, results []*ast.Term, err error) error {
	if c.WantError != nil || c.WantErrorCode != nil {
		if err == nil {
			return fmt.Errorf("got %v, want an error", results)
		}
		if c.WantErrorCode != nil {
			e, ok := errors.AsType[*topdown.Error](err)
			if !ok || e.Code != *c.WantErrorCode {
				return fmt.Errorf("got %w, want code %s", err, *c.WantErrorCode)
			}
		}
		if c.WantError != nil && !strings.Contains(err.Error(), *c.WantError) {
			return fmt.Errorf("got %w, want %q", err, *c.WantError)
		}
		return nil
	}
	if err != nil {
		return err
	}
	want, got := ast.NewSet(), ast.NewSet()
	for _, bindings := range *c.WantResult {
		want.Add(ast.NewTerm(ast.MustInterfaceToValue(bindings)))
	}
	for _, r := range results {
		v, err := ast.JSON(r.Value)
		if err != nil {
			return err
		}
		if c.SortBindings {
			for _, list := range v.(map[string]any) {
				slices.SortFunc(list.([]any), util.Compare)
			}
		}
		got.Add(ast.NewTerm(ast.MustInterfaceToValue(v)))
	}
	if want.Compare(got) != 0 {
		return fmt.Errorf("got %v, want %v", got, want)
	}
	return nil
}
