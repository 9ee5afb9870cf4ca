package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
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
built-in rules; no service and no database is needed. With --server, and an API key
in OSTIARY_KEY, a service is asked: about the policies in force there where DIR can
be left out. The exit status is 0 if all
is well, 1 if something was found or failed, and 2 if the command was called
wrongly or cannot read what it is about.`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(policyInit(), policyCheck(), policyFmt(), policyTest(), policyMatrix(), policyDiff(), policyExplain(), policyEval(), policyBench(), policySchemas(),
		policyPublish(), policyRollback(), policyHistory(), policyShow(), policyReplay(), policyShadow())
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

// under words the mistakes of a bundle with files as the caller can open them. What
// is a mistake of the command stays as it is.
func under(dir string, fsys fs.FS, err error) error {
	if _, misused := errors.AsType[*usageError](err); misused || err == nil {
		return err
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
		for _, name := range slices.Sorted(maps.Keys(schemas)) {
			file := filepath.Join(out, name)
			if err := os.WriteFile(file, schemas[name], 0o644); err != nil {
				return err
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), file); err != nil {
				return err
			}
		}
		return nil
	})
	cmd.Long = `Write the schemas that editors check policies with: input.json, of the input, for
OPA and the language servers built on it, and data.json, of the tables in data.yaml
or data.json, for those of YAML and JSON.`
	cmd.Example = "  ostiary policy schemas --out schemas"
	cmd.Flags().StringVar(&out, "out", "", "the folder to write to")
	return cmd
}

func policyCheck() *cobra.Command {
	var asJSON, verbose bool
	var by remote
	cmd := offline("check DIR", "Find mistakes in policies", []string{"DIR"}, func(cmd *cobra.Command, args []string) error {
		if named, err := by.named(cmd); err != nil {
			return err
		} else if named {
			if err := without(cmd, "verbose"); err != nil {
				return err
			}
			return by.try(cmd, "check", args[0], asJSON)
		}
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
			lines = append(lines, evaluation(r.Evaluation)...)
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
Warnings do not count for the exit status.

With --server a service looks at the folder, with its settings and its version of
the built-in rules, as it would before publishing it.`
	cmd.Example = "  ostiary policy check policies\n  ostiary policy check policies --verbose"
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "also say what the rules depend on, and how they are evaluated")
	by.flags(cmd)
	return cmd
}

// try has the service check a folder, or test it.
func (r *remote) try(cmd *cobra.Command, how, dir string, asJSON bool) error {
	fsys, err := folder(dir)
	if err != nil {
		return err
	}
	files, err := policies.Files(fsys)
	if err != nil {
		return &usageError{err}
	}
	var out struct {
		OK       bool   `json:"ok"`
		Revision string `json:"revision,omitempty"`
		Tests    *struct {
			Count    int     `json:"count"`
			Coverage float64 `json:"coverage"`
		} `json:"tests,omitempty"`
		Mistakes []string           `json:"mistakes"`
		Warnings []policies.Finding `json:"warnings"`
	}
	if err := r.call(cmd, http.MethodPost, "/v1/policy/"+how, map[string]any{"files": files}, &out); err != nil {
		return err
	}
	var lines []string
	for _, m := range out.Mistakes {
		lines = append(lines, under(dir, fsys, errors.New(m)).Error())
	}
	for _, w := range out.Warnings {
		w.File = inFolder(dir, w.File)
		lines = append(lines, w.Error())
	}
	if out.Tests != nil {
		lines = append(lines, fmt.Sprintf("%s: %d passed, %.1f %% of the rules reached", dir, out.Tests.Count, out.Tests.Coverage))
	}
	if asJSON || len(lines) > 0 {
		if err := show(cmd, asJSON, out, strings.Join(lines, "\n")); err != nil {
			return err
		}
	}
	if !out.OK {
		return errNo
	}
	return nil
}

func evaluation(e *policies.Evaluation) []string {
	if e == nil {
		return nil
	}
	lines := []string{"is compiled", "decides the same about the same input"}
	if !e.Compiled {
		lines[0] = "is not compiled, OPA's evaluator decides: " + e.Refused
	}
	if !e.Pure {
		lines[1] = "may decide differently about the same input: " + e.Impure
	}
	return lines
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
