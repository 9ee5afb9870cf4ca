package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/betterauth"
	"github.com/spf13/cobra"
)

func keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Manage API keys",
		Long: `Manage API keys, on a running or a stopped service.

USER is an id or an email. A key's secret is shown once, when it is made.`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(keyCreate(), keyList(), keyRotate(), keyDelete(), keyVerify())
	return cmd
}

func keyCreate() *cobra.Command {
	var owner, name, permissions, expiresIn string
	var asJSON bool
	cmd := subcommand("create --user USER --name NAME [--permissions JSON] [--expires-in DURATION]", "Create a key and print it, this once", nil, func(cmd *cobra.Command, _ []string) error {
		if owner == "" {
			return misuse(cmd, "--user is missing")
		}
		grants, err := grantsFlag(cmd, permissions)
		if err != nil {
			return err
		}
		life, err := durationFlag(cmd, "expires-in", expiresIn)
		if err != nil {
			return err
		}
		in := authn.NewKey{Permissions: grants}
		if name != "" {
			in.Name = &name
		}
		if expiresIn != "" {
			in.ExpiresIn = &life
		}
		return with(cmd, func(o *ostiary.Ostiary) error {
			u, err := findUser(cmd, o, owner)
			if err != nil {
				return err
			}
			in.OwnerID = u.ID
			k, secret, err := o.Authn().CreateKey(cmd.Context(), caller, in)
			if err != nil {
				return fmt.Errorf("create key: %w", err)
			}
			if len(k.Permissions) == 0 {
				hint(cmd, `a key without grants can only say who it is; grant some: --permissions '{"user":["list"]}'`)
			}
			return showSecret(cmd, asJSON, k, secret)
		})
	})
	cmd.Flags().StringVar(&owner, "user", "", "the owner")
	cmd.Flags().StringVar(&name, "name", "", "name")
	cmd.Flags().StringVar(&permissions, "permissions", "", `what the key is granted: {"user":["list"]}; "*" stands for all`)
	cmd.Flags().StringVar(&expiresIn, "expires-in", "", "life (default: as configured)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the key as JSON")
	return cmd
}

func keyList() *cobra.Command {
	var owner string
	var asJSON bool
	cmd := subcommand("list --user USER", "List a user's keys", nil, func(cmd *cobra.Command, _ []string) error {
		if owner == "" {
			return misuse(cmd, "--user is missing")
		}
		return with(cmd, func(o *ostiary.Ostiary) error {
			u, err := findUser(cmd, o, owner)
			if err != nil {
				return err
			}
			keys, total, err := o.Authn().Keys(cmd.Context(), caller, authn.KeyQuery{OwnerID: u.ID, Limit: -1})
			if err != nil {
				return fmt.Errorf("list keys: %w", err)
			}
			if total > len(keys) {
				hint(cmd, "%d more are not shown", total-len(keys))
			}
			if asJSON {
				return show(cmd, true, mapped(keys, func(k authn.APIKey) any { return betterauth.NewKeyObject(k, "") }), "")
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tSTART\tNAME\tEXPIRES\tSTATE\tGRANTS")
			for _, k := range keys {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, text0(k.Start), text0(k.Name), expiry(k), state(k), grantsText(k.Permissions))
			}
			return w.Flush()
		})
	})
	cmd.Flags().StringVar(&owner, "user", "", "the owner")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func keyRotate() *cobra.Command {
	var overlap string
	var asJSON bool
	cmd := subcommand("rotate KEY-ID [--overlap DURATION]", "Give a key a new secret and print it, this once", []string{"KEY-ID"}, func(cmd *cobra.Command, args []string) error {
		for_, err := durationFlag(cmd, "overlap", overlap)
		if err != nil {
			return err
		}
		return with(cmd, func(o *ostiary.Ostiary) error {
			k, secret, err := o.Authn().RotateKey(cmd.Context(), caller, args[0], for_)
			if err != nil {
				return keyError("rotate", args[0], err)
			}
			return showSecret(cmd, asJSON, k, secret)
		})
	})
	cmd.Flags().StringVar(&overlap, "overlap", "", "how long the old secret goes on working (default: not at all)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the key as JSON")
	return cmd
}

func keyDelete() *cobra.Command {
	return subcommand("delete KEY-ID", "Delete a key", []string{"KEY-ID"}, func(cmd *cobra.Command, args []string) error {
		return with(cmd, func(o *ostiary.Ostiary) error {
			return keyError("delete", args[0], o.Authn().DeleteKey(cmd.Context(), caller, args[0]))
		})
	})
}

func keyVerify() *cobra.Command {
	var permissions string
	var fromStdin, asJSON bool
	cmd := subcommand("verify --key-stdin [--permissions JSON]", "Say whether a key is good; counts as a use of it", nil, func(cmd *cobra.Command, _ []string) error {
		if !fromStdin {
			return misuse(cmd, "--key-stdin is missing: a key on the command line could be seen by others")
		}
		want, err := grantsFlag(cmd, permissions)
		if err != nil {
			return err
		}
		secret, err := readSecretLine(cmd, "key")
		if err != nil {
			return err
		}
		return with(cmd, func(o *ostiary.Ostiary) error {
			v, err := o.Authn().VerifyKey(cmd.Context(), caller, secret, want)
			if err != nil {
				return fmt.Errorf("verify key: %w", err)
			}
			code := v.Code()
			if code == "" {
				return fmt.Errorf("verify key: %w", v.Err)
			}
			doc := map[string]any{"valid": v.Err == nil, "code": code, "key": nil, "user": nil}
			if v.Key != nil && code != "NOT_FOUND" {
				doc["key"] = betterauth.NewKeyObject(*v.Key, "")
			}
			if v.Owner != nil && code != "NOT_FOUND" {
				doc["user"] = userDocument(*v.Owner)
			}
			if err := show(cmd, asJSON, doc, code); err != nil {
				return err
			}
			if v.Err != nil {
				return errNo
			}
			return nil
		})
	})
	cmd.Flags().BoolVar(&fromStdin, "key-stdin", false, "read the key from standard input")
	cmd.Flags().StringVar(&permissions, "permissions", "", "what key and owner must both be permitted, as JSON")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with the key and its owner")
	return cmd
}

func keyError(what, id string, err error) error {
	if errors.Is(err, authn.ErrKeyNotFound) || errors.Is(err, authn.ErrNotFound) {
		return &hintError{fmt.Errorf("no key has the id %q", id), "ostiary key list --user USER"}
	}
	if err != nil {
		return fmt.Errorf("%s key: %w", what, err)
	}
	return nil
}

func showSecret(cmd *cobra.Command, asJSON bool, k authn.APIKey, secret authn.Secret) error {
	if err := show(cmd, asJSON, betterauth.NewKeyObject(k, secret), secret.Reveal()); err != nil {
		return err
	}
	hint(cmd, "this is the only time the key is shown")
	return nil
}

func state(k authn.APIKey) string {
	switch {
	case !k.Enabled:
		return "disabled"
	case k.ExpiresAt != nil && !k.ExpiresAt.After(time.Now()):
		return "expired"
	case k.Remaining != nil && *k.Remaining == 0 && k.RefillAmount == nil:
		return "used up"
	}
	return "active"
}

func expiry(k authn.APIKey) string {
	if k.ExpiresAt == nil {
		return "never"
	}
	return at(*k.ExpiresAt)
}

func grantsText(p authz.Permissions) string {
	var all []string
	for kind, actions := range p {
		for _, a := range actions {
			all = append(all, kind+":"+a)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// grantsFlag reads permissions as they stand in keys.
func grantsFlag(cmd *cobra.Command, text string) (authz.Permissions, error) {
	if text == "" {
		return nil, nil
	}
	var p authz.Permissions
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return nil, misuse(cmd, `--permissions: %s is not like {"user":["list"]}`, text)
	}
	return p, nil
}

func durationFlag(cmd *cobra.Command, name, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := parseDuration(text)
	if err == nil && d < 0 {
		err = fmt.Errorf("%s is negative", text)
	}
	if err != nil {
		return 0, misuse(cmd, "--%s: %v", name, err)
	}
	return d, nil
}

func text0(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
