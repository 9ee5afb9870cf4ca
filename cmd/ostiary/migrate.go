package main

import (
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/ostiary/ostiary/store"
	"github.com/spf13/cobra"
)

func migrateCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "migrate", Short: "Show or bring up to date the database's schema", Args: cobra.ArbitraryArgs, RunE: group}
	cmd.AddCommand(
		subcommand("status", "List the migrations, and when each was applied", nil, migrateStatus),
		subcommand("up", "Apply the migrations that are pending (serve does so by itself)", nil, migrateUp),
	)
	return cmd
}

func migrateStatus(cmd *cobra.Command, _ []string) (err error) {
	db, err := openUnmigrated(cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	all, err := db.Migrations(cmd.Context())
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, m := range all {
		applied := "pending"
		if m.Applied != nil {
			applied = m.Applied.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\n", m.Name, applied)
	}
	return w.Flush()
}

func migrateUp(cmd *cobra.Command, _ []string) (err error) {
	db, err := openUnmigrated(cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	names, err := db.Migrate(cmd.Context())
	for _, name := range names {
		fmt.Fprintln(cmd.OutOrStdout(), name)
	}
	if err == nil && len(names) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "ostiary: the schema is up to date")
	}
	return err
}

func openUnmigrated(cmd *cobra.Command) (*store.DB, error) {
	c, err := configure(cmd)
	if err != nil {
		return nil, err
	}
	return store.OpenUnmigrated(cmd.Context(), c.Database, c.pool())
}
