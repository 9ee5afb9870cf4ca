package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ostiary/ostiary/policies"
	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
)

func policyFmt() *cobra.Command {
	var write, check, asDiff bool
	cmd := offline("fmt [--write | --check | --diff] PATH", "Write Rego as OPA's formatter does", []string{"PATH"}, func(cmd *cobra.Command, args []string) error {
		if (write && check) || (write && asDiff) || (check && asDiff) {
			return misuse(cmd, "--write, --check and --diff exclude each other")
		}
		files, err := regoFiles(args[0])
		if err != nil {
			return &usageError{err}
		}
		found, broken := false, []error{}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return &usageError{err}
			}
			formatted, err := policies.Format(file, text)
			if err != nil {
				broken = append(broken, err)
				continue
			}
			if same := bytes.Equal(text, formatted); same && (write || check || asDiff) {
				continue
			}
			found = true
			switch {
			case write:
				if err := rewrite(file, formatted); err != nil {
					return err
				}
				fallthrough
			case check:
				_, err = fmt.Fprintln(cmd.OutOrStdout(), file)
			case asDiff:
				_, err = cmd.OutOrStdout().Write(diff.Diff(file, text, file, formatted))
			default:
				_, err = cmd.OutOrStdout().Write(formatted)
			}
			if err != nil {
				return err
			}
		}
		if err := errors.Join(broken...); err != nil {
			return err
		}
		if found && (check || asDiff) {
			return errNo
		}
		return nil
	})
	cmd.Long = `Write Rego as OPA's formatter does: to standard output, or with --write into the
files, whose names are printed. With --check the names of files that are written
otherwise are printed, with --diff what would change; the exit status is then 1.
PATH is a file or a folder.`
	cmd.Flags().BoolVarP(&write, "write", "w", false, "change the files")
	cmd.Flags().BoolVar(&check, "check", false, "only name the files that would change")
	cmd.Flags().BoolVar(&asDiff, "diff", false, "only show what would change")
	return cmd
}

// regoFiles returns the file, or those of the folder that the service or its
// tests read.
func regoFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var files []string
	err = filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name != path && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.IsDir() && filepath.Ext(name) == ".rego" {
			files = append(files, name)
		}
		return nil
	})
	return files, err
}

// rewrite replaces a file whole: the service may be reading it.
func rewrite(file string, text []byte) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	next, err := os.CreateTemp(filepath.Dir(file), ".fmt-*")
	if err != nil {
		return err
	}
	defer os.Remove(next.Name())
	if _, err := next.Write(text); err != nil {
		next.Close()
		return err
	}
	if err := next.Chmod(info.Mode().Perm()); err != nil {
		next.Close()
		return err
	}
	if err := next.Close(); err != nil {
		return err
	}
	return os.Rename(next.Name(), file)
}
