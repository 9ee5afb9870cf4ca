package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
	"github.com/spf13/cobra"
)

func policyExplain() *cobra.Command {
	var input, decision, user, action, resource, properties string
	var asJSON, verbose bool
	cmd := subcommand("explain DIR (--input FILE | --decision ID | --user USER --action ACTION --resource TYPE[/ID])", "Say why something is allowed or denied", []string{"DIR"}, func(cmd *cobra.Command, args []string) error {
		dir := args[0]
		asked := 0
		for _, flag := range []string{input, decision, user} {
			if flag != "" {
				asked++
			}
		}
		if asked != 1 || user != "" && (action == "" || resource == "") {
			return misuse(cmd, "one of --input, --decision, and --user with --action and --resource is needed")
		}
		fsys, err := folder(dir)
		if err != nil {
			return err
		}
		b, p, err := compiled(cmd.Context(), fsys)
		if err != nil {
			return under(dir, fsys, err)
		}
		var x authz.Explanation
		if user == "" {
			var doc map[string]any
			if input != "" {
				doc, err = readInput(cmd, input)
			} else {
				doc, err = recorded(cmd, decision)
			}
			if err != nil {
				return err
			}
			if x, err = p.Explain(cmd.Context(), doc, timeOf(doc)); err != nil {
				return err
			}
		} else {
			r := authz.Request{Action: authz.Action{Name: action}}
			r.Resource.Type, r.Resource.ID, _ = strings.Cut(resource, "/")
			if properties != "" {
				if err := json.Unmarshal([]byte(properties), &r.Resource.Properties); err != nil {
					return misuse(cmd, "--properties is not a JSON object: %v", err)
				}
			}
			if err := cmd.Flags().Set("policies", dir); err != nil {
				return err
			}
			if err := with(cmd, func(o *ostiary.Ostiary) error {
				if r.Subject, err = subjectOf(cmd, o, user, ""); err != nil {
					return err
				}
				x, err = o.Explain(cmd.Context(), r)
				return err
			}); err != nil {
				return err
			}
		}
		place(dir, fsys, &x)
		advice := b.Advice(x.Decision)
		doc := map[string]any{
			"allow": x.Decision.Allow, "reasons": x.Decision.Reasons, "policyRevision": x.Decision.Revision,
			"fired": rules(x.Fired), "failed": rules(x.Failed),
			"unmet":  slices.Concat([]authz.Unmet{}, x.Unmet),
			"advice": slices.Concat([]string{}, advice),
		}
		if err := show(cmd, asJSON, doc, explanationText(x, advice, verbose)); err != nil {
			return err
		}
		if !x.Decision.Allow {
			return errNo
		}
		return nil
	})
	cmd.Long = `Say why something is allowed or denied: the reasons, which rules of the folder
held, where the others ended and what the input had there, and what change would
allow it. With --verbose the built-in rules are listed too.

The question is an input document (a file, or - for standard input), that of a
decision on record, or what a user without any key may do to a resource, by the
database. The exit status is 0 if it
is allowed and 1 if it is not.`
	cmd.Example = `  ostiary policy explain policies --input question.json
  ostiary policy explain policies --user ann@example.com --action read --resource document/d1`
	cmd.Flags().StringVar(&input, "input", "", "the input document")
	cmd.Flags().StringVar(&decision, "decision", "", "the id of a decision on record")
	cmd.Flags().StringVar(&user, "user", "", "who asks: an id or an email")
	cmd.Flags().StringVar(&action, "action", "", "what is to be done")
	cmd.Flags().StringVar(&resource, "resource", "", "to what: TYPE or TYPE/ID")
	cmd.Flags().StringVar(&properties, "properties", "", "what is said of the resource, as a JSON object")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "list the built-in rules too")
	return cmd
}

// recorded returns the input of a decision on record, unless some of it was
// taken out: what a rule would have said to that is nobody's guess.
func recorded(cmd *cobra.Command, id string) (doc map[string]any, err error) {
	err = with(cmd, func(o *ostiary.Ostiary) error {
		r, err := o.Decisions().Record(cmd.Context(), id)
		if err != nil {
			return fmt.Errorf("decision %s: %w", id, err)
		}
		if len(r.Masked) > 0 {
			return fmt.Errorf("decision %s: the record is masked (%s), so it cannot be explained", id, strings.Join(r.Masked, ", "))
		}
		doc = r.Input
		return nil
	})
	return doc, err
}

func compiled(ctx context.Context, fsys fs.FS) (policies.Bundle, *authz.Policy, error) {
	b, err := policies.Load(fsys, nil)
	if err != nil {
		return b, nil, err
	}
	p, err := authz.Compile(ctx, b.Source)
	return b, p, err
}

// readInput reads an input document. Numbers stay what they are.
func readInput(cmd *cobra.Command, file string) (map[string]any, error) {
	text, err := readFileOrStdin(cmd, file)
	if err != nil {
		return nil, &usageError{err}
	}
	var doc map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		return nil, &usageError{fmt.Errorf("%s: not a JSON object: %w", file, err)}
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, &usageError{fmt.Errorf("%s: there is more than one JSON value in it", file)}
	}
	return doc, nil
}

// timeOf is the time that the input says it is, or else now.
func timeOf(doc map[string]any) time.Time {
	about, _ := doc["context"].(map[string]any)
	text, _ := about["time"].(string)
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t
	}
	return time.Now()
}

// place puts the folder before its files.
func place(dir string, fsys fs.FS, x *authz.Explanation) {
	in := func(file *string) {
		if _, err := fs.Stat(fsys, *file); err == nil {
			*file = inFolder(dir, *file)
		}
	}
	for i := range x.Fired {
		in(&x.Fired[i].File)
	}
	for i := range x.Failed {
		in(&x.Failed[i].File)
	}
	for i := range x.Unmet {
		in(&x.Unmet[i].File)
	}
}

func explanationText(x authz.Explanation, advice []string, verbose bool) string {
	lines := []string{"deny"}
	if x.Decision.Allow {
		lines[0] = "allow"
	}
	for _, r := range x.Decision.Reasons {
		lines = append(lines, fmt.Sprintf("  %s: %s", r.Code, r.Message))
	}
	authors := func(file string) bool { return verbose || !strings.HasPrefix(file, "builtin/") }
	for _, r := range x.Fired {
		if authors(r.File) {
			lines = append(lines, fmt.Sprintf("  held    %s:%d %s", r.File, r.Line, r.Name))
		}
	}
	for _, c := range x.Unmet {
		// A rule that forbids and does not hold stands in nobody's way.
		if !authors(c.File) || !verbose && strings.HasSuffix(c.Rule, ".deny") {
			continue
		}
		lines = append(lines, fmt.Sprintf("  failed  %s:%d:%d %s: %s", c.File, c.Line, c.Column, c.Rule, c.Text))
		for _, v := range c.Values {
			text := "is missing"
			if !v.Missing {
				value, err := json.Marshal(v.Value)
				text = "= " + cmp.Or(string(value), fmt.Sprint(err))
			}
			lines = append(lines, fmt.Sprintf("            %s %s", v.Path, text))
		}
	}
	for _, a := range advice {
		lines = append(lines, "  to allow it: "+a)
	}
	return strings.Join(lines, "\n")
}
