package main

import "github.com/spf13/cobra"

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Write, check, test and explain policies", Args: cobra.ArbitraryArgs, RunE: group}
	return cmd
}
