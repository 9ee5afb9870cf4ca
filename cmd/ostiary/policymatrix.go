package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/policies"
	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
)

func policyMatrix() *cobra.Command {
	var form, user, key string
	var fromStdin, asJSON bool
	var at remote
	cmd := subcommand("matrix (DIR | --server URL) [--user USER | --of-key ID | --key-stdin]", "Show which role may what", nil, func(cmd *cobra.Command, args []string) error {
		if asJSON {
			form = "json"
		}
		if !slices.Contains([]string{"markdown", "csv", "json"}, form) {
			return misuse(cmd, "--format is markdown, csv or json, not %q", form)
		}
		if user != "" && key != "" || fromStdin && (user != "" || key != "") {
			return misuse(cmd, "--user, --of-key and --key-stdin exclude each other")
		}
		named, err := at.instead(cmd, args)
		if err != nil {
			return err
		}
		if user != "" || key != "" || fromStdin {
			return effective(cmd, named, at, first(args), user, key, fromStdin, form)
		}
		var b policies.Bundle
		if named {
			b, err = at.bundle(cmd)
		} else {
			b, err = bundleIn(args[0])
		}
		if err != nil {
			return err
		}
		m := b.Matrix()
		if form == "json" {
			return show(cmd, true, m, "")
		}
		table := [][]string{slices.Concat([]string{"permission"}, m.Roles, []string{"self", "rules"})}
		for _, row := range m.Rows {
			cells := []string{row.Permission}
			for _, role := range m.Roles {
				cells = append(cells, yes(slices.Contains(row.Roles, role)))
			}
			table = append(table, append(cells, yes(row.Self), yes(row.Rules)))
		}
		return tabulate(cmd, form, table)
	})
	cmd.Long = `Show which role may what, by the tables of a folder and the built-in ones. In the
column self is what everybody may do with what is their own; in the column rules,
for which types there are rules that may permit more, or forbid it.

With --user, --of-key or --key-stdin, what a user or a key may do, as it is enforced
with this folder: the permissions of all roles, narrowed by the grants of the key.
This asks the database.

With --server it is about the policies in force there, and its users and keys.`
	cmd.Example = `  ostiary policy matrix policies >who-may-what.md
  ostiary policy matrix policies --user ann@example.com --database sqlite:ostiary.db
  ostiary policy matrix --server https://auth.example --of-key x2Ck`
	cmd.Args = optional
	cmd.Flags().StringVar(&form, "format", "markdown", "markdown, csv or json")
	cmd.Flags().BoolVar(&asJSON, "json", false, "the same as --format json")
	cmd.Flags().StringVar(&user, "user", "", "what this user may: an id or an email")
	cmd.Flags().StringVar(&key, "of-key", "", "what the key with this id may")
	cmd.Flags().BoolVar(&fromStdin, "key-stdin", false, "what the key on standard input may")
	at.flags(cmd)
	return cmd
}

// bundleIn reads a folder of policies.
func bundleIn(dir string) (policies.Bundle, error) {
	fsys, err := folder(dir)
	if err != nil {
		return policies.Bundle{}, err
	}
	b, err := policies.Load(fsys, nil)
	return b, under(dir, fsys, err)
}

// effective shows the permissions of a user or a key: by the service, or with the
// folder and the database.
func effective(cmd *cobra.Command, named bool, at remote, dir, user, key string, fromStdin bool, form string) error {
	var doc struct {
		Permissions authz.Permissions `json:"permissions"`
		Own         authz.Permissions `json:"own"`
	}
	var secret authn.Secret
	if fromStdin {
		var err error
		if secret, err = readSecretLine(cmd, "key"); err != nil {
			return err
		}
	}
	switch {
	case named && fromStdin:
		// What a key may it can ask itself.
		own := remote{at.url, secret.Reveal()}
		if err := own.call(cmd, http.MethodGet, "/v1/me", nil, &doc); err != nil {
			return err
		}
	case named:
		q := url.Values{}
		for name, value := range map[string]string{"user": user, "key": key} {
			if value != "" {
				q.Set(name, value)
			}
		}
		if err := at.call(cmd, http.MethodGet, "/v1/policy/permissions?"+q.Encode(), nil, &doc); err != nil {
			return err
		}
	default:
		if _, err := folder(dir); err != nil {
			return err
		}
		if err := cmd.Flags().Set("policies", dir); err != nil {
			return err
		}
		if err := with(cmd, func(o *ostiary.Ostiary) error {
			s, err := subjectOf(cmd, o, user, key, secret)
			if err != nil {
				return err
			}
			doc.Permissions, doc.Own, err = o.Permissions(cmd.Context(), s)
			return err
		}); err != nil {
			return err
		}
	}
	p, own := doc.Permissions, doc.Own
	if form == "json" {
		return show(cmd, true, doc, "")
	}
	table := [][]string{{"permission", "any", "own"}}
	for _, permission := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(listed(p), listed(own))))) {
		i := strings.LastIndex(permission, ":")
		table = append(table, []string{permission, yes(p.Allows(permission[:i], permission[i+1:])), yes(own.Allows(permission[:i], permission[i+1:]))})
	}
	return tabulate(cmd, form, table)
}

// subjectOf is the user, or whoever the key with this id or secret stands for.
func subjectOf(cmd *cobra.Command, o *ostiary.Ostiary, user, key string, secret authn.Secret) (*authz.Subject, error) {
	switch {
	case key != "":
		s, err := o.Authn().KeySubject(cmd.Context(), caller, key)
		if errors.Is(err, authn.ErrKeyNotFound) {
			return nil, &hintError{fmt.Errorf("no key has the id %q", key), "ostiary key list"}
		}
		return s, err
	case user == "":
		p, err := o.Authn().Authenticate(cmd.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: secret})
		if err != nil {
			return nil, err
		}
		return p.Subject(), nil
	}
	u, err := findUser(cmd, o, user)
	if err != nil {
		return nil, err
	}
	return o.Directory().Assert(cmd.Context(), caller, "evaluate", directory.Ref{Type: authz.TypeUser, ID: u.ID})
}

func listed(p authz.Permissions) []string {
	var all []string
	for _, resourceType := range slices.Sorted(maps.Keys(p)) {
		for _, action := range p[resourceType] {
			all = append(all, resourceType+":"+action)
		}
	}
	return all
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return ""
}

// tabulate writes a table, of which the first row is the head.
func tabulate(cmd *cobra.Command, form string, table [][]string) error {
	if form == "csv" {
		return csv.NewWriter(cmd.OutOrStdout()).WriteAll(table)
	}
	widths := make([]int, len(table[0]))
	for _, row := range table {
		for i, cell := range row {
			row[i] = strings.ReplaceAll(cell, "|", `\|`)
			widths[i] = max(widths[i], len([]rune(row[i])))
		}
	}
	var b strings.Builder
	for n, row := range table {
		for i, cell := range row {
			fmt.Fprintf(&b, "| %-*s ", widths[i], cell)
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				fmt.Fprintf(&b, "| %s ", strings.Repeat("-", max(width, 3)))
			}
			b.WriteString("|\n")
		}
	}
	_, err := fmt.Fprint(cmd.OutOrStdout(), b.String())
	return err
}

func policyDiff() *cobra.Command {
	var asJSON bool
	var at remote
	cmd := subcommand("diff BEFORE AFTER", "Show what changes from one bundle to another", []string{"BEFORE", "AFTER"}, func(cmd *cobra.Command, args []string) error {
		named, err := at.named(cmd)
		if err != nil {
			return err
		}
		if named && !strings.HasPrefix(args[0], "@") && !strings.HasPrefix(args[1], "@") {
			return misuse(cmd, "--server is for @ and @REVISION")
		}
		var bundles [2]policies.Bundle
		for i, name := range args {
			if revision, ok := strings.CutPrefix(name, "@"); ok {
				bundles[i], err = revisionOf(cmd, named, at, revision)
			} else if bundles[i], err = bundleIn(name); err != nil {
				err = &usageError{err}
			}
			if err != nil {
				return err
			}
		}
		d := policies.Diff(bundles[0], bundles[1])
		if bundles[0].Source.Revision == bundles[1].Source.Revision {
			if asJSON {
				return show(cmd, true, d, "")
			}
			return nil
		}
		if err := show(cmd, asJSON, d, differenceText(args, d)); err != nil {
			return err
		}
		return errNo
	})
	cmd.Long = `Show what changes from one bundle to another: rules as a diff, and by the tables
who gains and who loses what. Each is a folder, @ for what is in force, or @REVISION
for what was published, as history shows it or as decisions carry it; of these two
the service is asked, or else the database. Settings of the service are left out.

The exit status is 1 if there is a difference, and 2 if a folder cannot be read or
has mistakes.`
	cmd.Example = `  ostiary policy diff deployed policies
  ostiary policy diff @ policies --server https://auth.example`
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the difference as JSON")
	at.flags(cmd)
	return cmd
}

// revisionOf reads what was published under a name, or with an empty name what is
// in force, wherever that comes from.
func revisionOf(cmd *cobra.Command, named bool, at remote, name string) (policies.Bundle, error) {
	var files map[string]string
	var err error
	switch {
	case named && name == "":
		var b policies.Bundle
		b, err = at.bundle(cmd)
		files = b.Files()
	case named:
		var doc struct{ Files map[string]string }
		err = at.call(cmd, http.MethodGet, "/v1/policy/revisions/"+url.PathEscape(name), nil, &doc)
		files = doc.Files
	default:
		err = with(cmd, func(o *ostiary.Ostiary) error {
			if name == "" {
				files = o.Policies().Bundle().Files()
				return nil
			}
			r, err := o.Policies().Revision(cmd.Context(), caller, name)
			files = r.Files
			return err
		})
	}
	if err != nil {
		return policies.Bundle{}, refusal(err)
	}
	return policies.LoadFiles(files, nil)
}

func differenceText(dirs []string, d policies.Difference) string {
	var b strings.Builder
	for _, f := range d.Files {
		b.Write(diff.Diff(inFolder(dirs[0], f.File), []byte(f.Before), inFolder(dirs[1], f.File), []byte(f.After)))
	}
	for _, c := range d.Cells {
		change := "loses"
		if c.Gained {
			change = "gains"
		}
		fmt.Fprintf(&b, "%s %s %s\n", c.Role, change, c.Permission)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
