package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every setting that the page on moving from Better Auth names exists, and
// none that it could name is forgotten.
func TestCounterpartsOfBetterAuthsSettings(t *testing.T) {
	page, err := os.ReadFile("../../docs/better-auth.md")
	if err != nil {
		t.Fatal(err)
	}
	c := defaults()
	ours := map[string]bool{}
	for _, s := range settings(&c) {
		ours[s.key] = false
	}
	_, table, _ := strings.Cut(string(page), "| Better Auth | `ostiary.yaml` |")
	table, _, _ = strings.Cut(table, "\n\n")
	code := regexp.MustCompile("`([^`]+)`")
	for _, row := range strings.Split(table, "\n")[2:] {
		columns := strings.Split(row, "|")
		if len(columns) != 5 {
			t.Fatalf("not a row: %q", row)
		}
		for _, m := range code.FindAllStringSubmatch(columns[2], -1) {
			if _, ok := ours[m[1]]; !ok {
				t.Errorf("there is no setting %q", m[1])
			}
			ours[m[1]] = true
		}
	}
	// These have no counterpart: they are Ostiary's own.
	own := regexp.MustCompile(`^(listen|metrics_listen|ext_authz_listen|evaluator|shutdown_grace|(authzen|cache|decisions|directory|forward_auth|limits|log|opa|policy|pool|search|throttle)\..*|keys\.retention|password\.hash_.*|session\.short_life)$`)
	for key, named := range ours {
		if !named && !own.MatchString(key) {
			t.Errorf("%s is nobody's counterpart", key)
		}
	}
}
