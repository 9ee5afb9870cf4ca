package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ostiary/ostiary/policies"
	"github.com/spf13/cobra"
)

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Write, check, test and explain policies",
		Long: `Write, check, test and explain policies.

DIR is a folder of policies as serve --policies takes it. It is read beside the
built-in rules; no service and no database is needed. The exit status is 0 if all
is well, 1 if something was found or failed, and 2 if the command was called
wrongly or cannot read what it is about.`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(policyInit(), policyCheck(), policyFmt(), policyTest(), policyMatrix(), policyDiff(), policyExplain(), policyEval(), policyBench(), policySchemas(),
		policyPublish(), policyRollback(), policyHistory(), policyShow(), policyReplay())
	return cmd
}

// offline is a command that needs neither configuration nor database.
func offline(use, short string, names []string, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: arguments(names...), RunE: run, DisableFlagsInUseLine: true}
}

// folder opens a folder of policies. That it is none is the caller's mistake.
func folder(dir string) (fs.FS, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, &usageError{fmt.Errorf("read the policy folder: %w", err)}
	}
	if !info.IsDir() {
		return nil, &usageError{fmt.Errorf("%s is not a folder", dir)}
	}
	return os.DirFS(dir), nil
}

// inFolder is a file of a bundle as the caller can open it.
func inFolder(dir, file string) string {
	if file == "" {
		return dir
	}
	return filepath.Join(dir, filepath.FromSlash(file))
}

// under words the mistakes of a bundle with files as the caller can open them.
func under(dir string, fsys fs.FS, err error) error {
	if err == nil {
		return nil
	}
	var lines []error
	for line := range strings.Lines(err.Error()) {
		line = strings.TrimRight(line, "\n")
		if file, _, ok := strings.Cut(line, ":"); ok {
			if _, failed := fs.Stat(fsys, file); failed == nil {
				line = inFolder(dir, line)
			}
		}
		lines = append(lines, errors.New(line))
	}
	return errors.Join(lines...)
}

func policyInit() *cobra.Command {
	cmd := offline("init DIR", "Write a small bundle to begin with", []string{"DIR"}, func(cmd *cobra.Command, args []string) error {
		dir := args[0]
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			return &usageError{fmt.Errorf("%s is not empty: nothing was written", dir)}
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return &usageError{err}
		}
		if err := os.CopyFS(dir, policies.Starter()); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), dir); err != nil {
			return err
		}
		hint(cmd, "ostiary policy test %s --coverage", dir)
		return nil
	})
	cmd.Long = `Write a small bundle to begin with: a table of roles, rules for one resource type,
their tests and a README. The folder is made; one with something in it is left alone.`
	cmd.Example = "  ostiary policy init policies"
	return cmd
}

func policySchemas() *cobra.Command {
	var out string
	cmd := offline("schemas --out DIR", "Write the schemas that editors check policies with", nil, func(cmd *cobra.Command, _ []string) error {
		if out == "" {
			return misuse(cmd, "--out is missing")
		}
		schemas, err := policies.Schemas()
		if err != nil {
			return err
		}
		if err := os.MkdirAll(out, 0o755); err != nil {
			return err
		}
		for name, text := range schemas {
			file := filepath.Join(out, name)
			if err := os.WriteFile(file, text, 0o644); err != nil {
				return err
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), file); err != nil {
				return err
			}
		}
		return nil
	})
	cmd.Flags().StringVar(&out, "out", "", "the folder to write to")
	return cmd
}

func policyCheck() *cobra.Command {
	var asJSON, verbose bool
	cmd := offline("check DIR", "Find mistakes in policies", []string{"DIR"}, func(cmd *cobra.Command, args []string) error {
		fsys, err := folder(args[0])
		if err != nil {
			return err
		}
		r := policies.Check(cmd.Context(), fsys, nil)
		var lines []string
		for i := range r.Findings {
			r.Findings[i].File = inFolder(args[0], r.Findings[i].File)
			lines = append(lines, r.Findings[i].Error())
		}
		if verbose {
			lines = append(lines, dependencies(r.Depends)...)
		}
		if asJSON || len(lines) > 0 {
			if err := show(cmd, asJSON, r, strings.Join(lines, "\n")); err != nil {
				return err
			}
		}
		if !r.OK() {
			return errNo
		}
		return nil
	})
	cmd.Long = `Find mistakes in policies and their tests, all at once, each with its place:
what does not compile or is not used, paths that the input does not have, actions
and roles that the tables do not have, data that nothing defines, built-in functions
that policies do not have, names that are reserved, tables that are malformed.
Warnings do not count for the exit status.`
	cmd.Example = "  ostiary policy check policies\n  ostiary policy check policies --verbose"
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "also say what the rules depend on")
	return cmd
}

func dependencies(d policies.Dependencies) []string {
	var lines []string
	for _, path := range d.Input {
		lines = append(lines, "depends on "+path)
	}
	if d.Time {
		lines = append(lines, "depends on the time")
	}
	for _, name := range d.Random {
		lines = append(lines, "depends on "+name+", which does not answer the same twice")
	}
	return lines
}
