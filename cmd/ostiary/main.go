// Command ostiary runs the authorization service, and manages its users and
// keys from the shell, whether the service is running or not.
//
// Results go to stdout, everything else to stderr. The exit status is 0 when
// the command did what it says (for authorize: when the answer is yes), 1
// when it could not (or the answer is no), and 2 when it was asked wrongly.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the next signal kills
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is the command; it returns the exit status. It ends early when ctx does.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "ostiary",
		Short:         "Decide who may do what",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // group refuses them in our words
		RunE:          group,
		CompletionOptions: cobra.CompletionOptions{
			HiddenDefaultCmd: true,
		},
	}
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return misuse(cmd, "%v", err) })
	root.AddCommand(serveCommand(), userCommand(), keyCommand(), entityCommand(), roleCommand(), authorizeCommand(), policyCommand(), decisionsCommand(), migrateCommand(), versionCommand())

	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if errors.Is(err, errNo) {
		return 1
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(stderr, "ostiary: %s\n", strings.TrimRight(line, "\n"))
	}
	var hint *hintError
	if errors.As(err, &hint) {
		fmt.Fprintf(stderr, "ostiary: hint: %s\n", hint.hint)
	}
	var wrong *usageError
	if errors.As(err, &wrong) {
		return 2
	}
	return 1
}

// errNo ends a command whose answer is no, and was printed.
var errNo = errors.New("no")

// usageError is a mistake in how the command was called or configured.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// hintError is an error whose remedy we know.
type hintError struct {
	error
	hint string
}

func (e *hintError) Unwrap() error { return e.error }

// misuse is a usage error that points to the help.
func misuse(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{&hintError{fmt.Errorf(format, args...), cmd.CommandPath() + " --help"}}
}

// group is what a command does that is only the parent of others.
func group(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return misuse(cmd, "unknown command %q", args[0])
	}
	return cmd.Help()
}

// arguments checks the number of arguments, and says which there are.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return misuse(cmd, "%s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return misuse(cmd, "unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// subcommand is a command with its own arguments, and the settings that a
// command which opens the database takes.
func subcommand(use, short string, names []string, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: arguments(names...), RunE: run, DisableFlagsInUseLine: true}
	addFlags(cmd.Flags(), []string{"database", "policies"})
	return cmd
}
