package main

import (
	"encoding/csv"
	"fmt"
	"maps"
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
	var form, as string
	var fromStdin, asJSON bool
	cmd := subcommand("matrix [--user USER | --key-stdin] DIR", "Show which role may what", []string{"DIR"}, func(cmd *cobra.Command, args []string) error {
		if asJSON {
			form = "json"
		}
		if !slices.Contains([]string{"markdown", "csv", "json"}, form) {
			return misuse(cmd, "--format is markdown, csv or json, not %q", form)
		}
		fsys, err := folder(args[0])
		if err != nil {
			return err
		}
		if as != "" || fromStdin {
			if as != "" && fromStdin {
				return misuse(cmd, "--user and --key-stdin exclude each other")
			}
			if err := cmd.Flags().Set("policies", args[0]); err != nil {
				return err
			}
			return effective(cmd, as, form)
		}
		b, err := policies.Load(fsys, nil)
		if err != nil {
			return under(args[0], fsys, err)
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

With --user or --key-stdin, what a user or the key on standard input may do, as it
is enforced with this folder: the permissions of all roles, narrowed by the grants
of the key. This asks the database.`
	cmd.Example = `  ostiary policy matrix policies >who-may-what.md
  ostiary policy matrix policies --user ann@example.com --database sqlite:ostiary.db`
	cmd.Flags().StringVar(&form, "format", "markdown", "markdown, csv or json")
	cmd.Flags().BoolVar(&asJSON, "json", false, "the same as --format json")
	cmd.Flags().StringVar(&as, "user", "", "what this user may: an id or an email")
	cmd.Flags().BoolVar(&fromStdin, "key-stdin", false, "what the key on standard input may")
	return cmd
}

// effective shows the permissions of a user, or of the key on standard input.
func effective(cmd *cobra.Command, as, form string) error {
	var secret authn.Secret
	if as == "" {
		var err error
		if secret, err = readSecretLine(cmd, "key"); err != nil {
			return err
		}
	}
	return with(cmd, func(o *ostiary.Ostiary) error {
		s, err := subjectOf(cmd, o, as, secret)
		if err != nil {
			return err
		}
		p, own, err := o.Permissions(cmd.Context(), s)
		if err != nil {
			return err
		}
		if form == "json" {
			return show(cmd, true, map[string]authz.Permissions{"permissions": p, "own": own}, "")
		}
		table := [][]string{{"permission", "any", "own"}}
		for _, permission := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(listed(p), listed(own))))) {
			i := strings.LastIndex(permission, ":")
			table = append(table, []string{permission, yes(p.Allows(permission[:i], permission[i+1:])), yes(own.Allows(permission[:i], permission[i+1:]))})
		}
		return tabulate(cmd, form, table)
	})
}

// subjectOf is the user, or else whoever the key stands for.
func subjectOf(cmd *cobra.Command, o *ostiary.Ostiary, user string, key authn.Secret) (*authz.Subject, error) {
	if user == "" {
		p, err := o.Authn().Authenticate(cmd.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: key})
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
	cmd := offline("diff BEFORE AFTER", "Show what changes from one folder to another", []string{"BEFORE", "AFTER"}, func(cmd *cobra.Command, args []string) error {
		var bundles [2]policies.Bundle
		for i, dir := range args {
			fsys, err := folder(dir)
			if err != nil {
				return err
			}
			if bundles[i], err = policies.Load(fsys, nil); err != nil {
				return &usageError{under(dir, fsys, err)}
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
	cmd.Long = `Show what changes from one folder to another: rules as a diff, and by the tables
who gains and who loses what. The exit status is 1 if there is a difference, and 2
if a folder cannot be read or has mistakes.`
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the difference as JSON")
	return cmd
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
