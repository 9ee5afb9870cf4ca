package main

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
	"github.com/spf13/cobra"
)

// publication is one as the HTTP API shows it.
type publication struct {
	Sequence       int64     `json:"sequence"`
	Revision       string    `json:"revision"`
	PolicyRevision string    `json:"policyRevision"`
	Parent         *string   `json:"parent"`
	At             time.Time `json:"at"`
	By             struct {
		Type string `json:"type"`
		ID   string `json:"id"`
	} `json:"by"`
	Note  string `json:"note"`
	Tests struct {
		Count    int     `json:"count"`
		Coverage float64 `json:"coverage"`
	} `json:"tests"`
	Replay *policies.ReplayReport `json:"replay,omitempty"`
}

func publicationOf(p policies.Publication) publication {
	out := publication{Sequence: p.Sequence, Revision: p.Revision, PolicyRevision: p.PolicyRevision, At: p.At, Note: p.Note, Replay: p.Replay}
	if p.Parent != "" {
		out.Parent = &p.Parent
	}
	out.By.Type, out.By.ID = p.By.Type, p.By.ID
	out.Tests.Count, out.Tests.Coverage = p.Tests.Count, p.Tests.Coverage
	return out
}

func (p publication) text() string {
	text := "published " + p.Revision + "\ndecisions " + p.PolicyRevision
	if p.Tests.Count > 0 {
		text += fmt.Sprintf("\ntests     %d passed, %.1f %% of the lines", p.Tests.Count, p.Tests.Coverage)
	}
	if r := p.Replay; r != nil {
		text += fmt.Sprintf("\nreplayed  %d of %d decisions: %d deny-to-allow, %d allow-to-deny, %d with other reasons", r.Replayed, r.Records, r.DenyToAllow, r.AllowToDeny, r.OtherReasons)
	}
	return text
}

// publishing is what commands have in common that put a revision in force.
type publishing struct {
	remote
	note, expect   string
	dryRun, asJSON bool
}

func (p *publishing) addFlags(cmd *cobra.Command) {
	p.flags(cmd)
	cmd.Flags().StringVar(&p.note, "note", "", "why; it is kept with the revision")
	cmd.Flags().StringVar(&p.expect, "expect", "", "refuse unless this revision is in force")
	cmd.Flags().BoolVar(&p.asJSON, "json", false, "print the publication as JSON")
}

func (p *publishing) upload(cmd *cobra.Command) policies.Upload {
	u := policies.Upload{Note: p.note, DryRun: p.dryRun}
	if cmd.Flags().Changed("expect") {
		u.Expect = &p.expect
	}
	return u
}

// body is what the API takes beside what is published.
func (p *publishing) body(cmd *cobra.Command, more map[string]any) map[string]any {
	in := map[string]any{"note": p.note}
	if cmd.Flags().Changed("expect") {
		in["expect"] = p.expect
	}
	maps.Copy(in, more)
	if p.dryRun {
		in["dryRun"] = true
	}
	return in
}

// do publishes, by the service or in the database, and shows what was published.
func (p *publishing) do(cmd *cobra.Command, method, path string, in any, local func(o *ostiary.Ostiary) (policies.Publication, error)) error {
	var out publication
	err := p.either(cmd, method, path, in, &out, func(o *ostiary.Ostiary) error {
		done, err := local(o)
		out = publicationOf(done)
		return err
	})
	if err != nil {
		return refusal(err)
	}
	text := out.text()
	if p.dryRun {
		text = strings.Replace(text, "published", "would be ", 1)
	}
	return show(cmd, p.asJSON, out, text)
}

// refusal adds what to do about it to why something was not published.
func refusal(err error) error {
	if errors.Is(err, policies.ErrShadowElsewhere) {
		return &usageError{&hintError{errors.New("policies come from files, so does the shadow"), "policy.shadow: DIR"}}
	}
	if errors.Is(err, policies.ErrNotPublished) {
		return &usageError{&hintError{errors.New("policies come from elsewhere, not from what is published"), "policy.source: database"}}
	}
	return err
}

func policyPublish() *cobra.Command {
	var p publishing
	var replay time.Duration
	var failOn, intended string
	cmd := subcommand("publish DIR --note TEXT", "Put a bundle in force on all instances", []string{"DIR"}, func(cmd *cobra.Command, args []string) error {
		fsys, err := folder(args[0])
		if err != nil {
			return err
		}
		files, err := policies.Files(fsys)
		if err != nil {
			return &usageError{err}
		}
		if len(files) == 0 {
			return &usageError{fmt.Errorf("there are no policies in %s", args[0])}
		}
		in := p.upload(cmd)
		in.Files, in.Replay.Since, in.Replay.FailOn = files, replay, failOn
		if in.Replay.Expect, err = readExpectations(intended); err != nil {
			return err
		}
		if failOn != "" {
			if err := policies.CheckFailOn(failOn); err != nil {
				return misuse(cmd, "--fail-on: %v", err)
			}
		}
		more := map[string]any{"files": files}
		if gate := gateBody(in.Replay); len(gate) > 0 {
			more["replay"] = gate
		}
		err = p.do(cmd, http.MethodPost, "/v1/policy/publish", p.body(cmd, more), func(o *ostiary.Ostiary) (policies.Publication, error) {
			return o.Policies().Publish(cmd.Context(), caller, in)
		})
		return under(args[0], fsys, err)
	})
	cmd.Long = `Put a bundle in force on all instances that take their policies from the database
(policy.source: database).

It is checked and tested first, as policy check and policy test do. It is refused
if a test fails, if the tests reach less than policy.min_coverage, if nobody would
be left who may publish the next one, or if somebody else published meanwhile. Then
the policy before stays in force.

With --replay, or policy.replay.since, decisions on record are asked again, the
newest first; flips that nobody expects refuse it. What is configured holds anyhow.`
	cmd.Example = `  ostiary policy publish policies --note "editors may share"
  ostiary policy publish policies --note "editors share" --replay 168h --intended flips.json
  OSTIARY_KEY=ost_… ostiary policy publish policies --note CI --server https://auth.example`
	p.addFlags(cmd)
	cmd.Flags().DurationVar(&replay, "replay", 0, "first replay the decisions of this time")
	cmd.Flags().StringVar(&failOn, "fail-on", "", "which flips refuse it: deny-to-allow (default), any or none")
	cmd.Flags().StringVar(&intended, "intended", "", "file with the flips that are intended, as policy replay --expect takes it")
	cmd.Flags().BoolVar(&p.dryRun, "dry-run", false, "do everything but publish")
	return cmd
}

// gateBody is g as the API takes it.
func gateBody(g policies.ReplayGate) map[string]any {
	out := map[string]any{}
	if g.Since > 0 {
		out["since"] = g.Since.String()
	}
	if g.FailOn != "" {
		out["failOn"] = g.FailOn
	}
	if len(g.Expect) > 0 {
		out["expect"] = g.Expect
	}
	return out
}

// optional takes at most one argument.
func optional(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return misuse(cmd, "unexpected argument %q", args[1])
	}
	return nil
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func policyRollback() *cobra.Command {
	var p publishing
	cmd := subcommand("rollback [REVISION] --note TEXT", "Put a revision in force that was before", nil, func(cmd *cobra.Command, args []string) error {
		to, u := first(args), p.upload(cmd)
		return p.do(cmd, http.MethodPost, "/v1/policy/rollback", p.body(cmd, map[string]any{"revision": to}), func(o *ostiary.Ostiary) (policies.Publication, error) {
			return o.Policies().Rollback(cmd.Context(), caller, to, u.Note, u.Expect)
		})
	})
	cmd.Args = optional
	cmd.Long = `Put a revision in force that was before: REVISION, as history shows it or as
decisions carry it, or else the one that was in force before this one.`
	p.addFlags(cmd)
	return cmd
}

func policyHistory() *cobra.Command {
	var r remote
	var limit int
	var before int64
	var asJSON bool
	cmd := subcommand("history", "List what was published, the newest first", nil, func(cmd *cobra.Command, args []string) error {
		q := url.Values{"limit": {strconv.Itoa(limit)}}
		if before > 0 {
			q.Set("before", strconv.FormatInt(before, 10))
		}
		page := struct {
			Revisions []publication `json:"revisions"`
		}{[]publication{}}
		err := r.either(cmd, http.MethodGet, "/v1/policy/revisions?"+q.Encode(), nil, &page, func(o *ostiary.Ostiary) error {
			ps, err := o.Policies().History(cmd.Context(), caller, before, limit)
			for _, p := range ps {
				page.Revisions = append(page.Revisions, publicationOf(p))
			}
			return err
		})
		if err != nil {
			return refusal(err)
		}
		if asJSON {
			return show(cmd, true, page.Revisions, "")
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "SEQUENCE\tPUBLISHED\tREVISION\tDECISIONS\tBY\tNOTE")
		for _, p := range page.Revisions {
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", p.Sequence, at(p.At), p.Revision, p.PolicyRevision, strings.TrimSpace(p.By.Type+" "+p.By.ID), strings.Join(strings.Fields(p.Note), " "))
		}
		return w.Flush()
	})
	r.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 50, fmt.Sprintf("at most this many, up to %d", policies.MaxHistory))
	cmd.Flags().Int64Var(&before, "before", 0, "only those before this sequence")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func policyShow() *cobra.Command {
	var r remote
	var asJSON bool
	var out string
	cmd := subcommand("show [REVISION]", "Show the files of a revision", nil, func(cmd *cobra.Command, args []string) error {
		var doc struct {
			Revision string            `json:"revision"`
			Files    map[string]string `json:"files"`
		}
		named, err := r.named(cmd)
		name := first(args)
		switch {
		case err != nil:
			return err
		case named:
			if name == "" {
				var page struct{ Revisions []publication }
				if err := r.call(cmd, http.MethodGet, "/v1/policy/revisions?limit=1", nil, &page); err != nil {
					return err
				}
				if len(page.Revisions) == 0 {
					return fmt.Errorf("%w: none was published yet", policies.ErrNoRevision)
				}
				name = page.Revisions[0].Revision
			}
			err = r.call(cmd, http.MethodGet, "/v1/policy/revisions/"+url.PathEscape(name), nil, &doc)
		default:
			err = with(cmd, func(o *ostiary.Ostiary) error {
				rev, err := o.Policies().Revision(cmd.Context(), caller, name)
				doc.Revision, doc.Files = rev.ID, rev.Files
				return err
			})
		}
		switch {
		case err != nil:
			return refusal(err)
		case out != "":
			return writeFiles(out, doc.Files)
		}
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(doc.Files)) {
			fmt.Fprintf(&b, "# %s\n%s\n", name, strings.TrimRight(doc.Files[name], "\n"))
		}
		return show(cmd, asJSON, doc, strings.TrimRight(b.String(), "\n"))
	})
	cmd.Args = optional
	r.flags(cmd)
	cmd.Flags().StringVar(&out, "out", "", "write the files to this folder, which must be new or empty")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the files as JSON")
	return cmd
}

// writeFiles writes a bundle to a folder, and nothing outside of it, whatever its
// files are called.
func writeFiles(dir string, files map[string]string) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return &usageError{fmt.Errorf("%s is not empty: nothing was written", dir)}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		local := filepath.FromSlash(name)
		if err := root.MkdirAll(filepath.Dir(local), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(local, []byte(files[name]), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func roleCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "role",
		Short: "Manage what roles permit",
		Long: `Manage what roles permit, on a running or a stopped service. To change it needs
policy.source: database; each change is a revision of the policies.`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(roleList(), roleSet(), roleDelete())
	return cmd
}

func roleList() *cobra.Command {
	var r remote
	var asJSON bool
	cmd := subcommand("list", "List roles and what they permit", nil, func(cmd *cobra.Command, _ []string) error {
		var doc struct {
			Roles map[string]authz.Permissions `json:"roles"`
		}
		err := r.either(cmd, http.MethodGet, "/v1/roles", nil, &doc, func(o *ostiary.Ostiary) error {
			doc.Roles = o.Policies().Bundle().Roles
			return nil
		})
		if err != nil {
			return err
		}
		if asJSON {
			return show(cmd, true, doc.Roles, "")
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ROLE\tTYPE\tACTIONS")
		for _, role := range slices.Sorted(maps.Keys(doc.Roles)) {
			permissions := doc.Roles[role]
			if len(permissions) == 0 {
				fmt.Fprintf(w, "%s\t\t\n", role)
			}
			for _, t := range slices.Sorted(maps.Keys(permissions)) {
				fmt.Fprintf(w, "%s\t%s\t%s\n", role, t, strings.Join(permissions[t], " "))
			}
		}
		return w.Flush()
	})
	r.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print roles as JSON")
	return cmd
}

func roleSet() *cobra.Command {
	var p publishing
	cmd := subcommand("set ROLE [TYPE:ACTION]…", "Give a role exactly these permissions", nil, func(cmd *cobra.Command, args []string) error {
		permissions := authz.Permissions{}
		for _, a := range args[1:] {
			t, action, ok := strings.Cut(a, ":")
			if !ok || t == "" || action == "" {
				return misuse(cmd, "%q is not TYPE:ACTION", a)
			}
			permissions[t] = append(permissions[t], action)
		}
		return p.do(cmd, http.MethodPut, "/v1/roles/"+url.PathEscape(args[0]), p.body(cmd, map[string]any{"permissions": permissions}), func(o *ostiary.Ostiary) (policies.Publication, error) {
			return o.Policies().SetRole(cmd.Context(), caller, args[0], permissions, p.upload(cmd))
		})
	})
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return misuse(cmd, "ROLE is missing")
		}
		return nil
	}
	cmd.Example = `  ostiary role set editor document:read document:write --note "editors write"`
	p.addFlags(cmd)
	cmd.Flags().BoolVar(&p.dryRun, "dry-run", false, "do everything but publish")
	return cmd
}

func roleDelete() *cobra.Command {
	var p publishing
	cmd := subcommand("delete ROLE", "Delete a role that nobody has", []string{"ROLE"}, func(cmd *cobra.Command, args []string) error {
		q := url.Values{"note": {p.note}}
		if cmd.Flags().Changed("expect") {
			q.Set("expect", p.expect)
		}
		return p.do(cmd, http.MethodDelete, "/v1/roles/"+url.PathEscape(args[0])+"?"+q.Encode(), nil, func(o *ostiary.Ostiary) (policies.Publication, error) {
			return o.Policies().DeleteRole(cmd.Context(), caller, args[0], p.upload(cmd))
		})
	})
	p.addFlags(cmd)
	return cmd
}
