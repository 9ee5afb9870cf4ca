package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/ostiary/ostiary/policies"
	"github.com/spf13/cobra"
)

func policyTest() *cobra.Command {
	var o policies.TestOptions
	var threshold float64
	var junit string
	var asJSON, verbose bool
	var by remote
	cmd := offline("test DIR", "Run the tests of policies", []string{"DIR"}, func(cmd *cobra.Command, args []string) error {
		dir := args[0]
		if named, err := by.named(cmd); err != nil {
			return err
		} else if named {
			if err := without(cmd, "run", "coverage", "threshold", "timeout", "junit", "verbose"); err != nil {
				return err
			}
			return by.try(cmd, "test", dir, asJSON)
		}
		fsys, err := folder(dir)
		if err != nil {
			return err
		}
		if threshold < 0 || threshold > 100 {
			return misuse(cmd, "--threshold is a percentage, from 0 to 100")
		}
		if _, err := regexp.Compile(o.Run); err != nil {
			return misuse(cmd, "--run: %v", err)
		}
		o.Coverage = o.Coverage || threshold > 0
		r, err := policies.Test(cmd.Context(), fsys, nil, o)
		if err != nil {
			return under(dir, fsys, err)
		}
		if len(r.Tests) == 0 {
			return fmt.Errorf("%s: there are no tests to run", dir)
		}
		for i := range r.Tests {
			r.Tests[i].File = inFolder(dir, r.Tests[i].File)
		}
		if r.Coverage != nil {
			for i := range r.Coverage.Missed {
				r.Coverage.Missed[i].File = inFolder(dir, r.Coverage.Missed[i].File)
			}
		}
		if junit != "" {
			if err := writeJUnit(junit, r); err != nil {
				return err
			}
		}
		if err := show(cmd, asJSON, r, testText(dir, r, verbose)); err != nil {
			return err
		}
		if r.Coverage != nil && r.Coverage.Percent < threshold {
			return fmt.Errorf("%s: the tests reach %.1f %% of the rules, which is less than %g %%", dir, r.Coverage.Percent, threshold)
		}
		if r.Failed() > 0 {
			return errNo
		}
		return nil
	})
	cmd.Long = `Run the tests of policies, rules in *_test.rego whose names begin with test_, over
the folder and the built-in rules. The settings are those of the folder.

Coverage is of the folder's own rules.

With --server a service runs them, with its settings, and policy.min_coverage as the
threshold, as it would before publishing the folder.`
	cmd.Example = `  ostiary policy test policies --run test_owner
  ostiary policy test policies --threshold 90 --junit report.xml`
	cmd.Flags().StringVar(&o.Run, "run", "", "only tests whose package and name match this regular expression")
	cmd.Flags().BoolVar(&o.Coverage, "coverage", false, "also say which rules no test reaches")
	cmd.Flags().Float64Var(&threshold, "threshold", 0, "fail if the tests reach less than this percentage of the rules")
	cmd.Flags().DurationVar(&o.Timeout, "timeout", 5*time.Second, "how long one test may take")
	cmd.Flags().StringVar(&junit, "junit", "", "also write the results to this file, in JUnit's format")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the results as JSON")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "also name the tests that pass")
	by.flags(cmd)
	return cmd
}

func testText(dir string, r policies.TestReport, verbose bool) string {
	var b strings.Builder
	passed := 0
	for _, t := range r.Tests {
		if t.Outcome == "pass" {
			passed++
			if !verbose {
				continue
			}
		}
		fmt.Fprintf(&b, "%s:%d: %s %s", t.File, t.Line, t.Outcome, t.Name)
		if len(t.Cases) > 0 {
			fmt.Fprintf(&b, " (%s)", strings.Join(t.Cases, ", "))
		}
		b.WriteByte('\n')
		for _, text := range []string{t.Message, t.Output} {
			for line := range strings.Lines(text) {
				fmt.Fprintf(&b, "  %s\n", strings.TrimRight(line, "\n"))
			}
		}
	}
	if c := r.Coverage; c != nil {
		for _, m := range c.Missed {
			fmt.Fprintf(&b, "%s:%d: no test reaches this\n", m.File, m.First)
		}
	}
	fmt.Fprintf(&b, "%s: %d passed, %d failed", dir, passed, r.Failed())
	if skipped := len(r.Tests) - passed - r.Failed(); skipped > 0 {
		fmt.Fprintf(&b, ", %d left for later", skipped)
	}
	if r.Coverage != nil {
		fmt.Fprintf(&b, ", %.1f %% of the rules reached", r.Coverage.Percent)
	}
	return b.String()
}

// The format that test reports are collected in.
type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Time     string      `xml:"time,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	File    string        `xml:"file,attr"`
	Line    int           `xml:"line,attr"`
	Time    string        `xml:"time,attr"`
	Failure *junitMessage `xml:"failure,omitempty"`
	Error   *junitMessage `xml:"error,omitempty"`
	Skipped *struct{}     `xml:"skipped,omitempty"`
	Output  string        `xml:"system-out,omitempty"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

func writeJUnit(file string, r policies.TestReport) error {
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.6f", d.Seconds()) }
	s := junitSuite{Name: "ostiary policy test", Tests: len(r.Tests), Time: seconds(r.Duration)}
	for _, t := range r.Tests {
		c := junitCase{Class: t.Package, Name: t.Name, File: t.File, Line: t.Line, Time: seconds(t.Duration), Output: t.Output}
		message := &junitMessage{Message: t.Message, Text: strings.Join(t.Cases, "\n")}
		switch t.Outcome {
		case "fail":
			s.Failures++
			c.Failure = message
		case "error":
			s.Errors++
			c.Error = message
		case "skip":
			s.Skipped++
			c.Skipped = &struct{}{}
		}
		s.Cases = append(s.Cases, c)
	}
	f, err := os.Create(file)
	if err != nil {
		return &usageError{err}
	}
	_, err = f.WriteString(xml.Header)
	enc := xml.NewEncoder(f)
	enc.Indent("", "  ")
	return errors.Join(err, enc.Encode(s), f.Close())
}
