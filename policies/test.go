package policies

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/ostiary/ostiary/authz"
)

// TestOptions configures [Test]. The zero value runs every test.
type TestOptions struct {
	Run      string        // a regular expression: of package and name, data.app.document_test.test_owner
	Coverage bool          // also say what the tests reach
	Timeout  time.Duration // for each test; default 5s
}

// TestReport is what [Test] has run.
type TestReport struct {
	Tests    []TestResult  `json:"tests"` // by file and line
	Coverage *Coverage     `json:"coverage,omitempty"`
	Duration time.Duration `json:"-"`
}

// Failed counts the tests that did not pass, leaving out those that are skipped.
func (r TestReport) Failed() int {
	n := 0
	for _, t := range r.Tests {
		if t.Outcome != "pass" && t.Outcome != "skip" {
			n++
		}
	}
	return n
}

// TestResult is one test.
type TestResult struct {
	Package  string        `json:"package"`
	Name     string        `json:"name"`
	File     string        `json:"file"`
	Line     int           `json:"line"`
	Outcome  string        `json:"outcome"` // pass, fail, error (a built-in function failed) or skip (todo_)
	Duration time.Duration `json:"duration"`
	Cases    []string      `json:"failedCases,omitempty"` // of a test with cases, those that failed
	// Message is why it did not pass: what did not hold, with its values, or the error.
	Message string `json:"message,omitempty"`
	Output  string `json:"output,omitempty"` // of print
}

// Coverage says how much of the author's rules the tests reach.
type Coverage struct {
	Percent float64 `json:"percent"` // of the lines with rules and expressions
	Missed  []Lines `json:"missed"`
}

// Lines is a range of lines of a file.
type Lines struct {
	File  string `json:"file"`
	First int    `json:"first"`
	Last  int    `json:"last"`
}

// Test runs an author's tests over the bundle as [Load] makes it. Tests have
// what policies have: no network, no environment. A built-in function that
// fails fails the test, as it would fail the decision. The error is that of a
// bundle that does not compile, with every mistake, or of [TestOptions.Run].
func Test(ctx context.Context, author fs.FS, settings map[string]any, o TestOptions) (TestReport, error) {
	if _, err := regexp.Compile(o.Run); err != nil {
		return TestReport{}, fmt.Errorf("not a regular expression: %w", err)
	}
	b, err := Load(author, settings)
	if err != nil {
		return TestReport{}, err
	}
	if _, err := authz.Compile(ctx, b.Source); err != nil {
		return TestReport{}, err
	}
	tests, mistakes := readTests(author)
	if len(mistakes) > 0 {
		return TestReport{}, errors.Join(mistakes...)
	}
	suite := suite{data: b.Source.Data, texts: b.Source.Modules, options: o}
	builtin, _, err := readBuiltin()
	if err != nil {
		return TestReport{}, err
	}
	for name, m := range tests.modules {
		if suite.texts[name] != "" {
			return TestReport{}, fmt.Errorf("%s: the name of a built-in file", name)
		}
		suite.texts[name] = m.text
	}

	started := time.Now()
	var report TestReport
	var coverage *cover.Cover
	if o.Coverage {
		coverage = cover.New()
	}
	if report.Tests, err = suite.run(ctx, o.Run, coverage, false); err != nil {
		return TestReport{}, err
	}
	if report.Failed() > 0 {
		// Those that failed once more, to see where: a trace of all would be long.
		var again []string
		for _, t := range report.Tests {
			if t.Outcome == "fail" {
				again = append(again, regexp.QuoteMeta(t.Package+"."+t.Name))
			}
		}
		traced, err := suite.run(ctx, "^("+strings.Join(again, "|")+")$", nil, true)
		if err != nil {
			return TestReport{}, err
		}
		for _, t := range traced {
			for i := range report.Tests {
				if r := &report.Tests[i]; r.Package == t.Package && r.Name == t.Name {
					r.Message = cmp.Or(r.Message, t.Message)
				}
			}
		}
	}
	if coverage != nil {
		rules := map[string]*ast.Module{}
		modules, err := suite.parse()
		if err != nil {
			return TestReport{}, err
		}
		for name, m := range modules {
			if _, ships := builtin[name]; !ships && tests.modules[name].parsed == nil {
				rules[name] = m
			}
		}
		report.Coverage = covered(coverage.Report(rules), rules)
	}
	report.Duration = time.Since(started)
	return report, nil
}

func covered(r cover.Report, rules map[string]*ast.Module) *Coverage {
	c := &Coverage{Percent: 100, Missed: []Lines{}}
	reached, missed := 0, 0
	for name := range rules {
		f := r.Files[name]
		if f == nil {
			continue
		}
		reached, missed = reached+f.CoveredLines, missed+f.NotCoveredLines
		for _, m := range f.NotCovered {
			c.Missed = append(c.Missed, Lines{name, m.Start.Row, m.End.Row})
		}
	}
	if reached+missed > 0 {
		c.Percent = 100 * float64(reached) / float64(reached+missed)
	}
	slices.SortFunc(c.Missed, func(a, b Lines) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.First, b.First))
	})
	return c
}

type suite struct {
	texts   map[string]string
	data    map[string]any
	options TestOptions
}

func (s suite) parse() (map[string]*ast.Module, error) {
	modules := map[string]*ast.Module{}
	for name, text := range s.texts {
		m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{Capabilities: authz.Capabilities(), ProcessAnnotation: true})
		if err != nil {
			return nil, err
		}
		modules[name] = m
	}
	return modules, nil
}

func (s suite) run(ctx context.Context, filter string, coverage *cover.Cover, trace bool) ([]TestResult, error) {
	modules, err := s.parse()
	if err != nil {
		return nil, err
	}
	store := inmem.NewFromObject(s.data)
	txn, err := store.NewTransaction(ctx, storage.TransactionParams{})
	if err != nil {
		return nil, err
	}
	defer store.Abort(ctx, txn)
	r := tester.NewRunner().
		SetCompiler(ast.NewCompiler().WithCapabilities(authz.Capabilities()).WithEnablePrintStatements(true)).
		SetStore(store).
		SetModules(modules).
		CapturePrintOutput(true).
		RaiseBuiltinErrors(true).
		EnableTracing(trace).
		Filter(filter).
		SetTimeout(cmp.Or(s.options.Timeout, 5*time.Second))
	if coverage != nil {
		// What only another evaluation order would reach is not tested.
		r.SetCoverageQueryTracer(coverage).SetCoverageRuns(nil)
	}
	found, err := r.RunTests(ctx, txn)
	if list, ok := errors.AsType[ast.Errors](err); ok {
		var mistakes []error
		for _, e := range list {
			mistakes = append(mistakes, at(e.Location, "%s", e.Message))
		}
		return nil, errors.Join(mistakes...)
	}
	if err != nil {
		return nil, err
	}
	results := []TestResult{}
	for r := range found {
		results = append(results, resultOf(r))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slices.SortFunc(results, func(a, b TestResult) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Name, b.Name))
	})
	return results, nil
}

func resultOf(r *tester.Result) TestResult {
	t := TestResult{Package: r.Package, Name: r.Name, Outcome: "pass", Duration: r.Duration, Output: strings.TrimSpace(string(r.Output))}
	if r.Location != nil {
		t.File, t.Line = r.Location.File, r.Location.Row
	}
	switch {
	case r.Skip:
		t.Outcome = "skip"
	case r.Error != nil:
		t.Outcome, t.Message = "error", r.Error.Error()
	case !r.Pass():
		t.Outcome = "fail"
		t.Message = whereItFailed(r.Trace)
		for name, sub := range r.SubResults.Iter {
			if sub.Fail {
				t.Cases = append(t.Cases, strings.Join(name, "/"))
				t.Message = cmp.Or(t.Message, whereItFailed(sub.Trace))
			}
		}
		slices.Sort(t.Cases)
	}
	return t
}

// whereItFailed words the expression of a test that did not hold last.
func whereItFailed(trace []*topdown.Event) string {
	for _, e := range slices.Backward(trace) {
		expr, ok := e.Node.(*ast.Expr)
		if !ok || e.Op != topdown.FailOp || e.Location == nil || e.QueryID == 0 || !strings.HasSuffix(e.Location.File, "_test.rego") {
			continue
		}
		if _, every := expr.Terms.(*ast.Every); every {
			continue // what is inside says more
		}
		return fmt.Sprintf("%s:%d:%d: this did not hold: %s", e.Location.File, e.Location.Row, e.Location.Col, strings.Join(strings.Fields(string(e.Location.Text)), " "))
	}
	return ""
}
