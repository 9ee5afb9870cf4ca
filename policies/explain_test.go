package policies

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authz"
)

// The condition that failed is named as it is written, with what the input had.
func TestExplainNamesTheConditionThatFailed(t *testing.T) {
	b := loaded(t, files("document.rego", `package app.document

allow if {
	input.action.name == "read"
	some reader in input.resource.properties.readers
	reader == input.principal.id
}
`))
	p, err := authz.Compile(t.Context(), b.Source)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(resource map[string]any) (authz.Explanation, []authz.Unmet) {
		t.Helper()
		x, err := p.Explain(t.Context(), map[string]any{
			"principal": map[string]any{"type": "user", "id": "ann", "credential": "session", "roles": []any{},
				"user": map[string]any{"id": "ann", "banned": false}, "session": map[string]any{"id": "s"}},
			"action":   map[string]any{"name": "read"},
			"resource": map[string]any{"type": "document", "properties": resource},
		}, time.Now(), authz.Nondeterminism{})
		if err != nil {
			t.Fatal(err)
		}
		return x, slices.DeleteFunc(x.Unmet, func(u authz.Unmet) bool { return !strings.HasPrefix(u.Rule, "data.app.") })
	}

	x, unmet := ask(map[string]any{"readers": []any{"bob"}})
	if x.Decision.Allow || len(unmet) != 1 {
		t.Fatalf("got %+v", x)
	}
	u := unmet[0]
	if u.Text != "reader == input.principal.id" || u.File != "document.rego" || u.Line != 6 ||
		len(u.Values) != 1 || u.Values[0].Path != "input.principal.id" || u.Values[0].Value != "ann" {
		t.Errorf("got %+v", u)
	}

	_, unmet = ask(nil)
	if len(unmet) != 1 || unmet[0].Line != 5 || len(unmet[0].Values) != 1 || !unmet[0].Values[0].Missing {
		t.Errorf("what is missing: got %+v", unmet)
	}

	if x, unmet = ask(map[string]any{"readers": []any{"ann"}}); !x.Decision.Allow || len(unmet) != 0 {
		t.Errorf("what holds: got %+v", x)
	}
}

// Each reason of a denial comes with what would change it.
func TestAdviceForEachReason(t *testing.T) {
	b := loaded(t, files("data.yaml", "roles: {editor: {document: [write]}}\n", "document.rego", "package app.document\n\nallow := false\n"))
	for code, want := range map[string]string{
		"role_missing": "editor", "grant_missing": "grant the key document:write", "unauthenticated": "credential",
		"owner_banned": "ban", "impersonating": "impersonation", "session_not_fresh": "sign in again",
		"last_admin": "administrator", "escalation": "no more", "frozen": `"it is frozen"`,
	} {
		d := authz.Decision{Reasons: []authz.Reason{{Code: code, Message: "it is frozen", Permission: "document:write"}}}
		if got := strings.Join(b.Advice(d), "\n"); !strings.Contains(got, want) {
			t.Errorf("%s: got %q", code, got)
		}
	}
}
