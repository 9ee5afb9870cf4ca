package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
	"github.com/spf13/cobra"
)

// question is what policy explain is asked.
type question struct {
	remote
	input, decision, user, ofKey, action, resource, properties, context string
}

func policyExplain() *cobra.Command {
	var q question
	var asJSON, verbose bool
	cmd := subcommand("explain (DIR | --server URL) (--input FILE | --decision ID | (--user USER | --of-key ID) --action ACTION --resource TYPE[/ID])",
		"Say why something is allowed or denied", nil, func(cmd *cobra.Command, args []string) error {
			named, err := q.named(cmd)
			if err != nil {
				return err
			}
			body, err := q.body(cmd)
			if err != nil {
				return err
			}
			var x explained
			switch {
			case !named && len(args) == 0:
				return misuse(cmd, "DIR is missing")
			case named && len(args) == 0:
				err = q.call(cmd, http.MethodPost, "/v1/policy/explain", body, &x)
			case named && q.decision == "":
				return misuse(cmd, "with DIR, --server is for --decision")
			default:
				x, err = q.here(cmd, args[0], body)
			}
			if err != nil {
				return err
			}
			if err := show(cmd, asJSON, x, strings.Join(x.Lines(verbose), "\n")); err != nil {
				return err
			}
			if r := x.Recorded; r != nil && (r.Allow != x.Allow || !slices.EqualFunc(r.Reasons, x.Reasons, func(a, b authz.Reason) bool { return a.Code == b.Code })) {
				hint(cmd, "the answer was another one when it was given, by policy %s", r.PolicyRevision)
			}
			if x.Withheld {
				hint(cmd, "what the input has is not told: a rule of the policy masks records")
			}
			if !x.Allow {
				return errNo
			}
			return nil
		})
	cmd.Args = optional
	cmd.Long = `Say why something is allowed or denied: the reasons, which rules of the folder
held, where the others ended and what the input had there, and what change would
allow it. With --verbose the built-in rules are listed too.

The question is an input document (a file, or - for standard input), that of a
decision on record, or what a user, or whoever presents a key, may do to a resource,
by the database. The exit status is 0 if it is allowed and 1 if it is not.

With --server the service explains by the policies in force there, to keys that are
granted policy:read, and policy:test for --input, decision:read for --decision, and
decision:read, access:evaluate, user:get and apiKey:read for the rest. With a folder,
--server is where the --decision is on record.`
	cmd.Example = `  ostiary policy explain policies --input question.json
  ostiary policy explain policies --user ann@example.com --action read --resource document/d1
  ostiary policy explain --server https://auth.example --decision QO5ZJ6GWVYDCRAFXPBVSSJPHZX`
	cmd.Flags().StringVar(&q.input, "input", "", "the input document")
	cmd.Flags().StringVar(&q.decision, "decision", "", "the id of a decision on record")
	cmd.Flags().StringVar(&q.user, "user", "", "who asks: an id or an email")
	cmd.Flags().StringVar(&q.ofKey, "of-key", "", "who asks: the id of a key")
	cmd.Flags().StringVar(&q.action, "action", "", "what is to be done")
	cmd.Flags().StringVar(&q.resource, "resource", "", "to what: TYPE or TYPE/ID")
	cmd.Flags().StringVar(&q.properties, "properties", "", "what is said of the resource, as a JSON object")
	cmd.Flags().StringVar(&q.context, "context", "", "the circumstances, as a JSON object")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything as JSON")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "list the built-in rules too")
	q.flags(cmd)
	return cmd
}

// explained is an explanation as the HTTP API shows it.
type explained struct {
	policies.Explained
	Recorded *struct {
		Allow          bool           `json:"allow"`
		Reasons        []authz.Reason `json:"reasons"`
		PolicyRevision string         `json:"policyRevision"`
	} `json:"recorded,omitempty"`
	Withheld bool `json:"withheld,omitzero"`
}

// body is the question as the HTTP API takes it.
func (q *question) body(cmd *cobra.Command) (map[string]any, error) {
	in := map[string]any{}
	for name, value := range map[string]string{"input": q.input, "decision": q.decision, "user": q.user, "key": q.ofKey} {
		if value != "" {
			in[name] = value
		}
	}
	somebody := q.user != "" || q.ofKey != ""
	if len(in) != 1 || somebody != (q.action != "" && q.resource != "") {
		return nil, misuse(cmd, "one of --input, --decision, and --user or --of-key with --action and --resource is needed")
	}
	if q.input != "" {
		doc, err := readDecided(cmd, q.input)
		return map[string]any{"input": doc}, err
	}
	if !somebody {
		return in, nil
	}
	resource := map[string]any{}
	kind, id, named := strings.Cut(q.resource, "/")
	if resource["type"] = kind; named {
		resource["id"] = id
	}
	in["action"], in["resource"] = q.action, resource
	var about, circumstances map[string]any
	for flag, into := range map[string]*map[string]any{"properties": &about, "context": &circumstances} {
		if text := cmd.Flag(flag).Value.String(); text != "" {
			if err := json.Unmarshal([]byte(text), into); err != nil {
				return nil, misuse(cmd, "--%s is not a JSON object: %v", flag, err)
			}
		}
	}
	if about != nil {
		resource["properties"] = about
	}
	if circumstances != nil {
		in["context"] = circumstances
	}
	return in, nil
}

// here explains with the policies of a folder.
func (q *question) here(cmd *cobra.Command, dir string, in map[string]any) (out explained, err error) {
	fsys, err := folder(dir)
	if err != nil {
		return out, err
	}
	b, p, err := compiled(cmd.Context(), fsys)
	if err != nil {
		return out, under(dir, fsys, err)
	}
	var x authz.Explanation
	switch {
	case q.input != "":
		doc, _ := in["input"].(map[string]any)
		x, err = p.Explain(cmd.Context(), doc, authz.TimeOf(doc), authz.Nondeterminism{})
	case q.decision != "":
		x, err = q.recorded(cmd, p)
	default:
		if err := cmd.Flags().Set("policies", dir); err != nil {
			return out, err
		}
		r := authz.Request{Action: authz.Action{Name: q.action}}
		about, _ := in["resource"].(map[string]any)
		r.Resource.Type, r.Resource.ID, _ = strings.Cut(q.resource, "/")
		r.Resource.Properties, _ = about["properties"].(map[string]any)
		r.Context, _ = in["context"].(map[string]any)
		err = with(cmd, func(o *ostiary.Ostiary) error {
			if r.Subject, err = subjectOf(cmd, o, q.user, q.ofKey, ""); err != nil {
				return err
			}
			x, err = o.Explain(cmd.Context(), r)
			return err
		})
	}
	if err != nil {
		return out, err
	}
	place(dir, fsys, &x)
	out.Explained = b.Explained(x)
	return out, nil
}

// recorded explains what p says to what a decision on record was about, unless
// some of that was taken out: what a rule would have said to it is nobody's guess.
func (q *question) recorded(cmd *cobra.Command, p *authz.Policy) (x authz.Explanation, err error) {
	err = q.read(cmd, func(l decisionLog) error {
		r, err := l.Record(cmd.Context(), q.decision)
		if errors.Is(err, audit.ErrNotFound) {
			return &hintError{fmt.Errorf("there is no decision %q", q.decision), "ostiary decisions list"}
		}
		if err != nil {
			return err
		}
		if why := r.Incomplete(); why != "" {
			return fmt.Errorf("decision %s cannot be explained: %s", q.decision, why)
		}
		nd, err := authz.ReadNondeterminism(r.NDBuiltinCache)
		if err != nil {
			return err
		}
		x, err = p.Explain(cmd.Context(), r.Input, r.At, nd)
		return err
	})
	return x, err
}

func compiled(ctx context.Context, fsys fs.FS) (policies.Bundle, *authz.Policy, error) {
	b, err := policies.Load(fsys, nil)
	if err != nil {
		return b, nil, err
	}
	p, err := authz.Compile(ctx, b.Source)
	return b, p, err
}

// readDecided is readInput of what a decision is made about; it hints at what the
// service would not have put to a policy so.
func readDecided(cmd *cobra.Command, file string) (map[string]any, error) {
	doc, err := readInput(cmd, file)
	if err == nil {
		if odd := policies.CheckInput(doc); odd != nil {
			hint(cmd, "the service would not ask this:\n  %s", strings.ReplaceAll(odd.Error(), "\n", "\n  "))
		}
	}
	return doc, err
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
