package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
	"github.com/spf13/cobra"
)

func policyEval() *cobra.Command {
	var input string
	var asJSON bool
	var at remote
	cmd := offline("eval (DIR | --server URL) [QUERY] [--input FILE]", "Show the decision about an input document, or what a query comes to", nil, func(cmd *cobra.Command, args []string) error {
		named, err := at.named(cmd)
		if err != nil {
			return err
		}
		dir, query := "", first(args)
		if !named {
			dir = query
			query = first(args[min(1, len(args)):])
		}
		switch {
		case !named && dir == "":
			return misuse(cmd, "DIR is missing")
		case named && len(args) > 1, len(args) > 2:
			return misuse(cmd, "unexpected argument %q", args[len(args)-1])
		case query == "" && input == "":
			return misuse(cmd, "--input or QUERY is missing")
		}
		var doc map[string]any
		if input != "" {
			read := readInput
			if query == "" {
				read = readDecided
			}
			if doc, err = read(cmd, input); err != nil {
				return err
			}
		}
		var p *authz.Policy
		if named {
			// Judged here: the service need not answer queries.
			var b policies.Bundle
			if b, err = at.bundle(cmd); err == nil {
				p, err = authz.Compile(cmd.Context(), b.Source)
			}
		} else {
			p, err = policyIn(cmd, dir)
		}
		if err != nil {
			return err
		}
		if query == "" {
			return decideHere(cmd, p, doc)
		}
		solutions, err := p.Query(cmd.Context(), query, doc, authz.TimeOf(doc))
		if err != nil {
			return err
		}
		return show(cmd, asJSON, map[string]any{"result": append([]authz.Solution{}, solutions...)}, solutionsText(solutions))
	})
	cmd.Args = cobra.ArbitraryArgs
	cmd.Long = `Show the decision about an input document, data.ostiary.decision, as JSON; or with a
QUERY in Rego what that comes to: the value of each expression, or of each variable,
one solution after the other, or undefined. With --json the solutions are in the form
of opa eval. The clock is at the document's context.time, if it has one. The exit
status is 0 whatever the answer.

With --server the policies are those in force there (policy:read), and DIR is left
out.`
	cmd.Example = `  ostiary policy eval policies --input question.json
  ostiary policy eval policies data.app.document.allow --input question.json
  ostiary policy eval --server https://auth.example 'data.roles[role].document[_] == "write"'`
	cmd.Flags().StringVar(&input, "input", "", "the input document; - is standard input")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the solutions of a query as JSON")
	at.flags(cmd)
	return cmd
}

func decideHere(cmd *cobra.Command, p *authz.Policy, doc map[string]any) error {
	x, err := p.Explain(cmd.Context(), doc, authz.TimeOf(doc), authz.Nondeterminism{})
	if err != nil {
		return err
	}
	if x.Failure != "" {
		hint(cmd, "%s", x.Failure)
	}
	d := x.Decision
	out := map[string]any{"allow": d.Allow, "reasons": append([]authz.Reason{}, d.Reasons...), "context": d.Context}
	if d.Context == nil {
		out["context"] = map[string]any{}
	}
	return show(cmd, true, out, "")
}

func solutionsText(solutions []authz.Solution) string {
	if len(solutions) == 0 {
		return "undefined"
	}
	var lines []string
	say := func(prefix string, v any) {
		text, err := json.MarshalIndent(v, "", "  ")
		lines = append(lines, prefix+cmp.Or(string(text), fmt.Sprint(err)))
	}
	for _, s := range solutions {
		for _, name := range slices.Sorted(maps.Keys(s.Bindings)) {
			say(name+" = ", s.Bindings[name])
		}
		if len(s.Bindings) > 0 {
			continue
		}
		for _, e := range s.Expressions {
			say("", e.Value)
		}
	}
	return strings.Join(lines, "\n")
}

func policyIn(cmd *cobra.Command, dir string) (*authz.Policy, error) {
	fsys, err := folder(dir)
	if err != nil {
		return nil, err
	}
	_, p, err := compiled(cmd.Context(), fsys)
	return p, under(dir, fsys, err)
}

func policyBench() *cobra.Command {
	var input string
	var runs int
	var asJSON bool
	cmd := offline("bench DIR --input FILE", "Measure how long a decision takes", []string{"DIR"}, func(cmd *cobra.Command, args []string) error {
		if runs < 1 || runs > 10_000_000 {
			return misuse(cmd, "--runs is from 1 to 10000000")
		}
		if input == "" {
			return misuse(cmd, "--input is missing")
		}
		doc, err := readInput(cmd, input)
		if err != nil {
			return err
		}
		p, err := policyIn(cmd, args[0])
		if err != nil {
			return err
		}
		judge, err := p.Judge(doc)
		if err != nil {
			return err
		}
		now := authz.TimeOf(doc)
		// The first runs fill what is remembered.
		for range min(runs, 100) {
			if err := judge(cmd.Context(), now); err != nil {
				return err
			}
		}
		took := make([]time.Duration, runs)
		for i := range took {
			started := time.Now()
			if err := judge(cmd.Context(), now); err != nil {
				return err
			}
			took[i] = time.Since(started)
		}
		slices.Sort(took)
		at := func(percent float64) time.Duration { return took[int(percent/100*float64(runs-1))] }
		doc = map[string]any{"runs": runs}
		text := fmt.Sprintf("%d runs", runs)
		for _, row := range []struct {
			name    string
			percent float64
		}{{"p50", 50}, {"p90", 90}, {"p99", 99}, {"max", 100}} {
			doc[row.name+"Nanoseconds"] = json.Number(fmt.Sprint(at(row.percent).Nanoseconds()))
			text += fmt.Sprintf("\n%s %s", row.name, at(row.percent))
		}
		return show(cmd, asJSON, doc, text)
	})
	cmd.Long = `Measure how long the evaluation of a decision takes, on this machine: the rules
alone, without HTTP and database.`
	cmd.Flags().StringVar(&input, "input", "", "the input document; - is standard input")
	cmd.Flags().IntVar(&runs, "runs", 10_000, "how many times to decide")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the figures as JSON")
	return cmd
}
