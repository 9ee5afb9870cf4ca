package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/policies"
	"github.com/spf13/cobra"
)

// shadow is one as the HTTP API shows it.
type shadow struct {
	ID             string     `json:"id"`
	Running        bool       `json:"running"`
	Revision       string     `json:"revision,omitempty"`
	PolicyRevision string     `json:"policyRevision"`
	StartedAt      time.Time  `json:"startedAt"`
	EndsAt         *time.Time `json:"endsAt"`
	By             struct {
		Type string `json:"type"`
		ID   string `json:"id"`
	} `json:"by"`
	Note    string                  `json:"note"`
	Reports []policies.ShadowReport `json:"reports"`
}

func shadowOf(s policies.Shadow, running bool, reports []policies.ShadowReport) shadow {
	out := shadow{ID: s.ID, Running: running, Revision: s.Revision, PolicyRevision: s.PolicyRevision, StartedAt: s.StartedAt, Note: s.Note, Reports: reports}
	if !s.EndsAt.IsZero() {
		out.EndsAt = &s.EndsAt
	}
	out.By.Type, out.By.ID = s.By.Type, s.By.ID
	return out
}

func (s shadow) text() string {
	var b strings.Builder
	state := "ended"
	if s.Running {
		state = "running"
	}
	fmt.Fprintf(&b, "shadow    %s, %s since %s", s.PolicyRevision, state, at(s.StartedAt))
	if s.EndsAt != nil {
		fmt.Fprintf(&b, " until %s", at(*s.EndsAt))
	}
	if s.Revision != "" {
		fmt.Fprintf(&b, "\nrevision  %s", s.Revision)
	}
	fmt.Fprintf(&b, "\nby        %s", strings.TrimSpace(s.By.Type+" "+s.By.ID))
	if s.Note != "" {
		fmt.Fprintf(&b, "\nnote      %s", strings.Join(strings.Fields(s.Note), " "))
	}
	for _, r := range s.Reports {
		fmt.Fprintf(&b, "\n\nbeside %s, until %s", r.Against, at(r.At))
		if r.Dropped > 0 {
			fmt.Fprintf(&b, "\n%d decisions were left out: too many waited", r.Dropped)
		}
		b.WriteString("\n" + replayText(r.ReplayReport))
	}
	return b.String()
}

func policyShadow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shadow",
		Short: "Ask a candidate beside the policy in force",
		Long: `Ask a candidate, beside the policy in force, what is decided on all instances: what
would it have answered? It changes no answer and no record, and is asked off the
path of requests.

With policy.source: database a shadow is started and stopped by a command. Where
policies are a folder, policy.shadow names the candidate's, which is watched.`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(shadowStart(), shadowStop(), shadowShow())
	return cmd
}

func shadowStart() *cobra.Command {
	var r remote
	var in policies.ShadowStart
	var asJSON bool
	cmd := subcommand("start DIR|REVISION", "Start a shadow, in place of the one that runs", []string{"DIR|REVISION"}, func(cmd *cobra.Command, args []string) error {
		body := map[string]any{"note": in.Note}
		dir := args[0]
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			if in.Files, err = policies.Files(os.DirFS(dir)); err != nil {
				return &usageError{err}
			}
			if len(in.Files) == 0 {
				return &usageError{fmt.Errorf("there are no policies in %s", dir)}
			}
			body["files"] = in.Files
		} else {
			in.Revision = dir
			body["revision"] = dir
		}
		if in.For != 0 {
			body["for"] = in.For.String()
		}
		var out shadow
		err := r.either(cmd, http.MethodPost, "/v1/policy/shadow", body, &out, func(o *ostiary.Ostiary) error {
			s, err := o.Policies().StartShadow(cmd.Context(), caller, in)
			out = shadowOf(s, true, []policies.ShadowReport{})
			return err
		})
		if err != nil && in.Files != nil {
			err = under(dir, os.DirFS(dir), refusal(err))
		}
		if err != nil {
			return refusal(err)
		}
		return show(cmd, asJSON, out, out.text())
	})
	cmd.Example = `  ostiary policy shadow start policies --note "editors may share" --for 72h
  ostiary policy shadow show`
	r.flags(cmd)
	cmd.Flags().DurationVar(&in.For, "for", 0, fmt.Sprintf("how long, up to %s (default %s)", policies.MaxShadowTime, policies.DefaultShadowTime))
	cmd.Flags().StringVar(&in.Note, "note", "", "why; it is kept with what is found")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the shadow as JSON")
	return cmd
}

func shadowStop() *cobra.Command {
	var r remote
	cmd := subcommand("stop", "Stop the shadow that runs", nil, func(cmd *cobra.Command, _ []string) error {
		return refusal(r.either(cmd, http.MethodDelete, "/v1/policy/shadow", nil, nil, func(o *ostiary.Ostiary) error {
			return o.Policies().StopShadow(cmd.Context(), caller)
		}))
	})
	r.flags(cmd)
	return cmd
}

func shadowShow() *cobra.Command {
	var r remote
	var asJSON bool
	cmd := subcommand("show", "Show what a shadow would have answered", nil, func(cmd *cobra.Command, _ []string) error {
		var out shadow
		err := r.either(cmd, http.MethodGet, "/v1/policy/shadow", nil, &out, func(o *ostiary.Ostiary) error {
			s, running, reports, err := o.Policies().ShowShadow(cmd.Context(), caller)
			out = shadowOf(s, running, reports)
			return err
		})
		if err != nil {
			return refusal(err)
		}
		return show(cmd, asJSON, out, out.text())
	})
	cmd.Long = `Show what the shadow that runs, or else the newest, would have answered: for each
policy that was in force meanwhile, the answers that flip, in groups, as policy
replay shows them. Instances write what they find every few seconds.`
	r.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return cmd
}
