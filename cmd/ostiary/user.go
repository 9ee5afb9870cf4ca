package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/server/betterauth"
	"github.com/spf13/cobra"
)

func userCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Manage users",
		Long: `Manage users, on a running or a stopped service.

USER is an id or an email.`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(userCreate(), userList(), userGet(), userBan(), userUnban(), userSetRole(), userSetPassword(), userDelete())
	return cmd
}

func userCreate() *cobra.Command {
	var in authn.NewUser
	var roles []string
	var fromStdin, asJSON bool
	cmd := subcommand("create --email EMAIL --name NAME [--role ROLE] [--password-stdin]", "Create a user and print the id", nil, func(cmd *cobra.Command, _ []string) error {
		if in.Email == "" {
			return misuse(cmd, "--email is missing")
		}
		if cmd.Flags().Changed("role") {
			in.Roles, in.RolesGiven = roles, true
		}
		if fromStdin {
			password, err := readSecretLine(cmd, "password")
			if err != nil {
				return err
			}
			in.Password = password
		}
		return with(cmd, func(o *ostiary.Ostiary) error {
			u, err := o.Authn().CreateUser(cmd.Context(), caller, in)
			if err != nil {
				return fmt.Errorf("create user %q: %w", in.Email, err)
			}
			if !fromStdin {
				hint(cmd, "without a password nobody can sign in as this user: ostiary user set-password %s --password-stdin", u.ID)
			}
			return show(cmd, asJSON, userDocument(u), u.ID)
		})
	})
	cmd.Flags().StringVar(&in.Email, "email", "", "email")
	cmd.Flags().StringVar(&in.Name, "name", "", "name")
	cmd.Flags().StringSliceVar(&roles, "role", nil, "role or roles (default: the default role)")
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the user as JSON")
	return cmd
}

func userList() *cobra.Command {
	var asJSON bool
	q := authn.UserQuery{SearchField: "email", SearchOperator: "contains", SortBy: "createdAt"}
	cmd := subcommand("list [--search TEXT]", "List users", nil, func(cmd *cobra.Command, _ []string) error {
		return with(cmd, func(o *ostiary.Ostiary) error {
			users, total, err := o.Authn().Users(cmd.Context(), caller, q)
			if err != nil {
				return fmt.Errorf("list users: %w", err)
			}
			if rest := total - q.Offset - len(users); rest > 0 {
				hint(cmd, "%d more: --offset %d", rest, q.Offset+len(users))
			}
			if asJSON {
				return show(cmd, true, mapped(users, userDocument), "")
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tEMAIL\tNAME\tROLE\tSTATE")
			for _, u := range users {
				state := "active"
				switch {
				case u.BannedAt(time.Now()):
					state = "banned"
				case u.ServiceAccount:
					state = "service account"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", u.ID, u.Email, u.Name, text0(u.Role), state)
			}
			return w.Flush()
		})
	})
	cmd.Flags().StringVar(&q.SearchValue, "search", "", "only those whose email contains this")
	cmd.Flags().IntVar(&q.Limit, "limit", 100, "at most this many")
	cmd.Flags().IntVar(&q.Offset, "offset", 0, "after this many")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func userGet() *cobra.Command {
	return onUser("get USER", "Show a user", []string{"USER"}, nil)
}

func userBan() *cobra.Command {
	var reason, length string
	cmd := onUser("ban USER [--reason TEXT] [--for DURATION]", "Ban a user: sessions end, keys stop", []string{"USER"},
		func(cmd *cobra.Command, s *authn.Service, u authn.User, _ []string) (authn.User, error) {
			life, err := durationFlag(cmd, "for", length)
			if err != nil {
				return u, err
			}
			return s.Ban(cmd.Context(), caller, u.ID, reason, life)
		})
	cmd.Flags().StringVar(&reason, "reason", "", "why")
	cmd.Flags().StringVar(&length, "for", "", "how long (default: for ever)")
	return cmd
}

func userUnban() *cobra.Command {
	return onUser("unban USER", "Lift a ban", []string{"USER"}, func(cmd *cobra.Command, s *authn.Service, u authn.User, _ []string) (authn.User, error) {
		return s.Unban(cmd.Context(), caller, u.ID)
	})
}

func userSetRole() *cobra.Command {
	return onUser("set-role USER ROLE[,ROLE…]", "Set a user's role or roles", []string{"USER", "ROLE"}, func(cmd *cobra.Command, s *authn.Service, u authn.User, args []string) (authn.User, error) {
		return s.SetRoles(cmd.Context(), caller, u.ID, strings.Split(args[1], ","))
	})
}

func userSetPassword() *cobra.Command {
	var fromStdin bool
	cmd := onUser("set-password USER --password-stdin", "Set a user's password: sessions end", []string{"USER"}, func(cmd *cobra.Command, s *authn.Service, u authn.User, _ []string) (authn.User, error) {
		if !fromStdin {
			return u, misuse(cmd, "--password-stdin is missing: a password on the command line could be seen by others")
		}
		password, err := readSecretLine(cmd, "password")
		if err != nil {
			return u, err
		}
		return u, s.SetPassword(cmd.Context(), caller, u.ID, password)
	})
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	return cmd
}

func userDelete() *cobra.Command {
	return onUser("delete USER", "Delete a user with all sessions and keys", []string{"USER"}, func(cmd *cobra.Command, s *authn.Service, u authn.User, _ []string) (authn.User, error) {
		return u, s.RemoveUser(cmd.Context(), caller, u.ID)
	})
}

// onUser is a command about the user that its first argument names. It prints
// the user as it is after do when asked for JSON, or when there is no do.
func onUser(use, short string, names []string, do func(cmd *cobra.Command, s *authn.Service, u authn.User, args []string) (authn.User, error)) *cobra.Command {
	var asJSON bool
	cmd := subcommand(use, short, names, func(cmd *cobra.Command, args []string) error {
		return with(cmd, func(o *ostiary.Ostiary) error {
			u, err := findUser(cmd, o, args[0])
			if err != nil {
				return err
			}
			if do != nil {
				if u, err = do(cmd, o.Authn(), u, args); err != nil {
					if _, ok := errors.AsType[*usageError](err); ok {
						return err
					}
					return fmt.Errorf("%s %s: %w", cmd.Name(), args[0], err)
				}
				if !asJSON {
					return nil
				}
			}
			return show(cmd, asJSON, userDocument(u), userText(u))
		})
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the user as JSON")
	return cmd
}

func findUser(cmd *cobra.Command, o *ostiary.Ostiary, idOrEmail string) (authn.User, error) {
	u, err := o.Authn().FindUser(cmd.Context(), caller, idOrEmail)
	if errors.Is(err, authn.ErrUserNotFound) {
		return u, &hintError{fmt.Errorf("no user has the id or the email %q", idOrEmail), "ostiary user list"}
	}
	return u, err
}

func userText(u authn.User) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "id\t%s\nemail\t%s\nname\t%s\nrole\t%s\ncreated\t%s\n", u.ID, u.Email, u.Name, text0(u.Role), at(u.CreatedAt))
	if u.Username != nil {
		fmt.Fprintf(w, "username\t%s\n", *u.Username)
	}
	if u.ServiceAccount {
		fmt.Fprintf(w, "service account\tyes\n")
	}
	if u.BannedAt(time.Now()) {
		until := "for ever"
		if u.BanExpires != nil {
			until = "until " + at(*u.BanExpires)
		}
		fmt.Fprintf(w, "banned\t%s: %s\n", until, text0(u.BanReason))
	}
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

// userDocument is the user as the HTTP API shows it, and what is ours of it.
func userDocument(u authn.User) any {
	return struct {
		betterauth.UserObject
		ServiceAccount bool           `json:"serviceAccount,omitempty"`
		Attributes     map[string]any `json:"attributes,omitempty"`
	}{betterauth.NewUserObject(u), u.ServiceAccount, u.Attributes}
}

// ---- What commands share ----

// show prints the result: doc as JSON, or text.
func show(cmd *cobra.Command, asJSON bool, doc any, text string) error {
	if asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(doc)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

func hint(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintf(cmd.ErrOrStderr(), "ostiary: hint: "+format+"\n", args...)
}

// readSecretLine reads one line of standard input: enough for any secret, and
// a newline at its end is not part of it.
func readSecretLine(cmd *cobra.Command, what string) (authn.Secret, error) {
	line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 64<<10)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read the %s: %w", what, err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", misuse(cmd, "there is no %s on standard input", what)
	}
	return authn.Secret(line), nil
}

func mapped[T any](list []T, f func(T) any) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = f(v)
	}
	return out
}
