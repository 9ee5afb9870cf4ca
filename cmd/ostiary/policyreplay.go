package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
	"github.com/spf13/cobra"
)

func policyReplay() *cobra.Command {
	var candidate, file, failOn, expect, junit string
	var since time.Duration
	var asJSON bool
	var r remote
	cmd := subcommand("replay --candidate DIR [--since DURATION | --file EXPORT]", "Ask a candidate what was decided before", nil, func(cmd *cobra.Command, _ []string) error {
		switch {
		case candidate == "":
			return misuse(cmd, "--candidate is missing")
		case file != "" && (cmd.Flags().Changed("since") || r.url != ""):
			return misuse(cmd, "--file excludes --since and --server")
		case policies.CheckFailOn(failOn) != nil:
			return misuse(cmd, "--fail-on: %v", policies.CheckFailOn(failOn))
		}
		expected, err := readExpectations(expect)
		if err != nil {
			return err
		}
		fsys, err := folder(candidate)
		if err != nil {
			return err
		}
		// With the settings that it would have.
		c, err := configure(cmd)
		if err != nil {
			return err
		}
		b, err := policies.Load(fsys, c.options(nil, "").PolicySettings())
		if err != nil {
			return &usageError{under(candidate, fsys, err)}
		}
		policy, err := authz.Compile(cmd.Context(), b.Source)
		if err != nil {
			return &usageError{under(candidate, fsys, err)}
		}
		var report policies.ReplayReport
		if file != "" {
			f, err := os.Open(file)
			if err != nil {
				return &usageError{err}
			}
			defer f.Close()
			report, err = policies.Replay(cmd.Context(), policy, audit.ReadExport(f))
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		} else if err := r.read(cmd, func(l decisionLog) error {
			var err error
			report, err = policies.Replay(cmd.Context(), policy, history(cmd.Context(), l, time.Now().Add(-since)))
			return err
		}); err != nil {
			return err
		}
		report.Missed = report.Expect(expected)
		if junit != "" {
			if err := writeReplayJUnit(junit, report, failOn); err != nil {
				return err
			}
		}
		if err := show(cmd, asJSON, report, replayText(report)); err != nil {
			return err
		}
		for _, e := range report.Missed {
			text, _ := json.Marshal(e)
			hint(cmd, "expected, and did not happen: %s", text)
		}
		if len(report.Failures(failOn)) > 0 {
			return errNo
		}
		return nil
	})
	cmd.Long = `Ask a candidate what was decided before, each question at its own time, and say
which answers would be others. Nothing is put in force and nothing is recorded.

First comes how much could be replayed: what was masked, or depends on chance, is
counted and never guessed. Then every answer that flips, in groups; denials that
would be permitted come first. The exit status is 1 if there are such flips that no
expectation covers (see --fail-on), or an expectation to which nothing came.

An expectation has any of flip (deny-to-allow, allow-to-deny), was and is (codes of
reasons), role, action and resourceType:
  [{"flip": "allow-to-deny", "role": "editor", "resourceType": "document", "action": "delete"}]`
	cmd.Example = `  ostiary policy replay --candidate policies --since 168h
  ostiary policy replay --candidate policies --file decisions.jsonl --fail-on any --expect intended.json`
	r.flags(cmd)
	cmd.Flags().StringVar(&candidate, "candidate", "", "folder of the policies to ask")
	cmd.Flags().DurationVar(&since, "since", policies.DefaultReplaySince, "decisions as old as this at most")
	cmd.Flags().StringVar(&file, "file", "", "decisions of this export instead")
	cmd.Flags().StringVar(&failOn, "fail-on", policies.DenyToAllow, "what is a failure: deny-to-allow, any flip, or none")
	cmd.Flags().StringVar(&expect, "expect", "", "file with the flips that are intended, as JSON")
	cmd.Flags().StringVar(&junit, "junit", "", "also write the flips to this file, in JUnit's format")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

var errStopped = errors.New("stopped")

// history yields the decisions of a log, the oldest first.
func history(ctx context.Context, from decisionLog, since time.Time) iter.Seq2[audit.Record, error] {
	return func(yield func(audit.Record, error) bool) {
		err := from.EachRecord(ctx, audit.Query{Since: since}, func(r audit.Record) error {
			if !yield(r, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(audit.Record{}, err)
		}
	}
}

func readExpectations(file string) ([]policies.Expectation, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, &usageError{err}
	}
	defer f.Close()
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	var list []policies.Expectation
	if err := d.Decode(&list); err != nil {
		return nil, &usageError{fmt.Errorf("%s: %s", file, strings.TrimPrefix(err.Error(), "json: "))}
	}
	for i, e := range list {
		if err := e.Check(); err != nil {
			return nil, &usageError{fmt.Errorf("%s: expectation %d: %w", file, i+1, err)}
		}
	}
	return list, nil
}

func replayText(r policies.ReplayReport) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d decisions replayed under %s\n", r.Replayed, r.Records, r.PolicyRevision)
	if r.Limited != "" {
		fmt.Fprintf(&b, "older ones were not looked at: too much (%s)\n", r.Limited)
	}
	for _, o := range r.NotReplayable {
		fmt.Fprintf(&b, "not replayable: %d, %s (%s)\n", o.Count, o.Why, strings.Join(o.Examples, ", "))
	}
	fmt.Fprintf(&b, "%d deny-to-allow, %d allow-to-deny, %d with other reasons", r.DenyToAllow, r.AllowToDeny, r.OtherReasons)
	for _, f := range r.Flips {
		roles := f.Roles
		if roles == "" {
			roles = "no role"
		}
		expected := ""
		if f.Expected {
			expected = ", expected"
		}
		fmt.Fprintf(&b, "\n%s  %d  %s:%s by %s: %s, was %s%s\n  %s", f.Flip, f.Count, f.ResourceType, f.Action, roles, f.Is, f.Was, expected, strings.Join(f.Examples, " "))
	}
	return b.String()
}

func writeReplayJUnit(file string, r policies.ReplayReport, failOn string) error {
	suite := junitSuite{Name: "replay"}
	add := func(name, failure string) {
		c := junitCase{Name: name, Class: "replay"}
		if failure != "" {
			c.Failure = &junitMessage{Message: failure}
			suite.Failures++
		}
		suite.Tests++
		suite.Cases = append(suite.Cases, c)
	}
	add(fmt.Sprintf("%d of %d decisions replayed", r.Replayed, r.Records), "")
	for _, f := range r.Flips {
		name := fmt.Sprintf("%s %s:%s %s", f.Flip, f.ResourceType, f.Action, f.Roles)
		failure := ""
		if f.Fails(failOn) {
			failure = fmt.Sprintf("%d decisions: %s, was %s (%s)", f.Count, f.Is, f.Was, strings.Join(f.Examples, " "))
		}
		add(name, failure)
	}
	for _, e := range r.Missed {
		text, _ := json.Marshal(e)
		add("expected "+string(text), "did not happen")
	}
	text, err := xml.MarshalIndent(suite, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append([]byte(xml.Header), append(text, '\n')...), 0o644)
}
