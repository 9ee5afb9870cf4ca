package instances

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

// What is published or rolled back on one instance is in force on the other
// within the lease, and what is refused is on none.
func TestPoliciesArePublishedToAllInstances(t *testing.T) {
	h := open(t, 2)
	_, key, _, _ := h.person()
	reads := func(i *instance, headers ...string) bool {
		got := i.post("/v1/authorize", map[string]any{"action": "read", "resource": map[string]any{"type": "document", "id": "d"}}, append(headers, key)...)
		var d struct{ Allow bool }
		must(t, json.Unmarshal(got.body, &d))
		return d.Allow
	}
	within := func(what string, bound time.Duration, want bool) {
		t.Helper()
		start := time.Now()
		for _, i := range h.instances {
			for reads(i) != want {
				if time.Since(start) > bound {
					t.Fatalf("%s: not on all instances after %s", what, bound)
				}
				time.Sleep(5 * time.Millisecond)
			}
		}
	}
	files := map[string]string{"document.rego": "package app.document\n\nallow if input.action.name == \"read\"\n"}
	within("at first", 0, false)
	got := h.instances[0].post("/v1/policy/revisions", map[string]any{"files": files, "note": "all read"}, h.admin)
	if got.status != http.StatusCreated {
		t.Fatalf("publish: %d %s", got.status, got.body)
	}
	within("publish", lease, true)

	for name, c := range map[string]struct {
		file, text, code string
	}{
		"a typo":               {"document.rego", "package app.document\n\nallow if input.principal.rolez == []\n", "POLICY_INVALID"},
		"an unsafe built-in":   {"a.rego", "package a\n\nb := opa.runtime()\n", "POLICY_INVALID"},
		"data.ostiary":         {"a.rego", "package ostiary\n\nallowed := true\n", "POLICY_INVALID"},
		"a failing test":       {"a_test.rego", "package a_test\n\ntest_a if 1 == 2\n", "POLICY_TESTS"},
		"nobody could publish": {"data.json", `{"roles": {"admin": {}}}`, "POLICY_LOCKOUT"},
	} {
		got := h.instances[1].post("/v1/policy/revisions", map[string]any{"files": map[string]string{c.file: c.text}}, h.admin)
		if got.status != http.StatusUnprocessableEntity || !strings.Contains(string(got.body), `"code":"`+c.code+`"`) {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
		within(name, 0, true)
	}

	got = h.instances[1].post("/v1/policy/revisions", map[string]any{"files": map[string]string{}, "note": "nobody"}, h.admin)
	if got.status != http.StatusCreated {
		t.Fatalf("publish nothing: %d %s", got.status, got.body)
	}
	// Whoever heard of it is judged by it, wherever they ask.
	if reads(h.instances[0], "Ostiary-At-Least: "+got.header.Get("Ostiary-Revision")) {
		t.Error("judged by the policy before what is known")
	}
	within("publish elsewhere", lease, false)
	start := time.Now()
	if got = h.instances[0].post("/v1/policy/rollback", map[string]any{"note": "oops"}, h.admin); got.status != http.StatusCreated {
		t.Fatalf("rollback: %d %s", got.status, got.body)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the rollback took %s", took)
	}
	within("rollback", lease, true)
}
