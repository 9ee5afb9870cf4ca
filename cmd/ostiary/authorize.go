package main

import (
	"fmt"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/spf13/cobra"
)

func authorizeCommand() *cobra.Command {
	var as string
	var fromStdin, asJSON, explain bool
	cmd := subcommand("authorize (--as USER | --key-stdin) ACTION TYPE[/ID]", "Ask the policy a question", []string{"ACTION", "TYPE[/ID]"}, func(cmd *cobra.Command, args []string) error {
		if (as == "") == !fromStdin {
			return misuse(cmd, "one of --as and --key-stdin is needed")
		}
		var secret authn.Secret
		if fromStdin {
			var err error
			if secret, err = readSecretLine(cmd, "key"); err != nil {
				return err
			}
		}
		return with(cmd, func(o *ostiary.Ostiary) error {
			r := authz.Request{Action: authz.Action{Name: args[0]}}
			r.Resource.Type, r.Resource.ID, _ = strings.Cut(args[1], "/")
			if fromStdin {
				p, err := o.Authn().Authenticate(cmd.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: secret})
				if err != nil {
					return err
				}
				r.Subject = p.Subject()
			} else {
				u, err := findUser(cmd, o, as)
				if err != nil {
					return err
				}
				if r.Subject, err = o.Directory().Assert(cmd.Context(), caller, "evaluate", directory.Ref{Type: authz.TypeUser, ID: u.ID}); err != nil {
					return err
				}
			}
			d, err := o.Decide(cmd.Context(), r)
			if err != nil {
				return err
			}
			var e authz.Explanation
			if explain {
				if e, err = o.Explain(cmd.Context(), r); err != nil {
					return err
				}
			}
			if err := show(cmd, asJSON, decisionDocument(d, e, explain), decisionText(d, e)); err != nil {
				return err
			}
			if !d.Allow {
				return errNo
			}
			return nil
		})
	})
	cmd.Long = `Ask whether somebody may do something, and why.

With --as the question is about a user without any key; with --key-stdin it is
about the key on standard input, and counts as a use of it. The exit status is
0 if the answer is yes and 1 if it is no.`
	cmd.Example = `  ostiary authorize --as ann@example.com delete user/u1
  ostiary authorize --key-stdin --explain read document/d1 <key`
	cmd.Flags().StringVar(&as, "as", "", "ask about this user: an id or an email")
	cmd.Flags().BoolVar(&fromStdin, "key-stdin", false, "ask about the key on standard input")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the decision as JSON")
	cmd.Flags().BoolVar(&explain, "explain", false, "name the rules that held and failed")
	return cmd
}

func decisionDocument(d authz.Decision, e authz.Explanation, explain bool) any {
	doc := map[string]any{"allow": d.Allow, "decisionId": d.ID, "policyRevision": d.Revision, "reasons": d.Reasons}
	if len(d.Context) > 0 {
		doc["context"] = d.Context
	}
	if explain {
		doc["explanation"] = map[string]any{"fired": rules(e.Fired), "failed": rules(e.Failed)}
	}
	return doc
}

func rules(list []authz.Rule) []authz.Rule {
	if list == nil {
		return []authz.Rule{}
	}
	return list
}

func decisionText(d authz.Decision, e authz.Explanation) string {
	var b strings.Builder
	b.WriteString("deny")
	if d.Allow {
		b.Reset()
		b.WriteString("allow")
	}
	for _, r := range d.Reasons {
		fmt.Fprintf(&b, "\n  %s: %s", r.Code, r.Message)
	}
	for _, r := range e.Fired {
		fmt.Fprintf(&b, "\n  held    %s:%d %s", r.File, r.Line, r.Name)
	}
	for _, r := range e.Failed {
		fmt.Fprintf(&b, "\n  failed  %s:%d %s", r.File, r.Line, r.Name)
	}
	return b.String()
}
