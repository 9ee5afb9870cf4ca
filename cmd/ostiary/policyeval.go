package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/ostiary/ostiary/authz"
	"github.com/spf13/cobra"
)

func policyEval() *cobra.Command {
	var input string
	cmd := offline("eval DIR --input FILE", "Show the decision about an input document", []string{"DIR"}, func(cmd *cobra.Command, args []string) error {
		p, doc, err := inputAndPolicy(cmd, args[0], input)
		if err != nil {
			return err
		}
		x, err := p.Explain(cmd.Context(), doc, timeOf(doc))
		if err != nil {
			return err
		}
		d := x.Decision
		out := map[string]any{"allow": d.Allow, "reasons": slices.Concat([]authz.Reason{}, d.Reasons), "context": d.Context}
		if d.Context == nil {
			out["context"] = map[string]any{}
		}
		return show(cmd, true, out, "")
	})
	cmd.Long = `Show the decision about an input document, data.ostiary.decision, as JSON. The
clock is at the document's context.time, if it has one. The exit status is 0
whatever the decision.`
	cmd.Example = "  ostiary policy eval policies --input question.json"
	cmd.Flags().StringVar(&input, "input", "", "the input document; - is standard input")
	return cmd
}

func inputAndPolicy(cmd *cobra.Command, dir, input string) (*authz.Policy, map[string]any, error) {
	if input == "" {
		return nil, nil, misuse(cmd, "--input is missing")
	}
	fsys, err := folder(dir)
	if err != nil {
		return nil, nil, err
	}
	doc, err := readInput(cmd, input)
	if err != nil {
		return nil, nil, err
	}
	_, p, err := compiled(cmd.Context(), fsys)
	return p, doc, under(dir, fsys, err)
}

func policyBench() *cobra.Command {
	var input string
	var runs int
	var asJSON bool
	cmd := offline("bench DIR --input FILE", "Measure how long a decision takes", []string{"DIR"}, func(cmd *cobra.Command, args []string) error {
		if runs < 1 || runs > 10_000_000 {
			return misuse(cmd, "--runs is from 1 to 10000000")
		}
		p, doc, err := inputAndPolicy(cmd, args[0], input)
		if err != nil {
			return err
		}
		judge, err := p.Judge(doc)
		if err != nil {
			return err
		}
		now := timeOf(doc)
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
