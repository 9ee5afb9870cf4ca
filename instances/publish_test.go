package instances

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// What is published or rolled back on one instance is in force on the other
// within the lease, and what is refused is on none.
func TestPoliciesArePublishedToAllInstances(t *testing.T) {
	t.Setenv("OSTIARY_POLICY_MIN_COVERAGE", "80")
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
	// files are those of a bundle with nothing wrong in it, but for what changes.
	files := func(change ...string) map[string]string {
		files := map[string]string{
			"document.rego":      "package app.document\n\nallow if input.action.name == \"read\"\n",
			"document_test.rego": "package app.document_test\n\ntest_read if data.app.document.allow with input as {\"action\": {\"name\": \"read\"}}\n",
			"roles/data.json":    `{"editor": {"document": ["read", "write"]}}`,
		}
		for n := 0; n < len(change); n += 2 {
			files[change[n]] = change[n+1]
		}
		return files
	}
	within("at first", 0, false)
	got := h.instances[0].post("/v1/policy/publish", map[string]any{"files": files(), "note": "all read"}, h.admin)
	if got.status != http.StatusCreated {
		t.Fatalf("publish: %d %s", got.status, got.body)
	}
	within("publish", lease, true)

	before := []inForce{h.instances[0].policy(t), h.instances[1].policy(t)}
	for name, c := range map[string]struct {
		files         map[string]string
		code, message string
	}{
		"a typo in input": {files("document.rego", "package app.document\n\nallow if input.principal.rolez == []\n"),
			"POLICY_INVALID", "document.rego:3:10: input.principal.rolez: there is no such member; did you mean roles?"},
		"a typo in the name of a role": {files("document.rego", "package app.document\n\nallow if \"edtor\" in input.principal.roles\n"),
			"POLICY_INVALID", `document.rego:3:10: "edtor" is a role that the table of roles does not have; did you mean "editor"?`},
		"a typo in the name of an action": {files("document.rego", "package app.document\n\nallow if input.action.name == \"raed\"\n"),
			"POLICY_INVALID", `document.rego:3:31: "raed" is an action that no table knows for document; did you mean "read"?`},
		"an unsafe built-in": {files("a.rego", "package a\n\nb := opa.runtime()\n"),
			"POLICY_INVALID", "a.rego:3:6: undefined function opa.runtime"},
		"a write into data.ostiary": {files("a.rego", "package ostiary\n\nallowed := true\n"),
			"POLICY_INVALID", "a.rego:1:1: package ostiary: data.ostiary is reserved to Ostiary"},
		"data in data.ostiary": {files("ostiary/data.json", `{"allowed": true}`),
			"POLICY_INVALID", "ostiary/data.json:1:1: data.ostiary is reserved to Ostiary"},
		"a failing test": {files("a_test.rego", "package a_test\n\ntest_a if 1 == 2\n"),
			"POLICY_TESTS", "a_test.rego:3: test_a failed"},
		"low coverage": {files("document_test.rego", "package app.document_test\n\ntest_nothing if true\n"),
			"POLICY_TESTS", "the tests reach 0.0 % of the lines; 80.0 % are required"},
		"a lock-out by roles": {files("roles/data.json", `{"admin": {}}`, "document.rego", "package app.document\n\nallow if input.action.name == \"read\"\n"),
			"POLICY_LOCKOUT", "nobody who may publish now could publish the next policy"},
		"a lock-out by rules": {files("policy.rego", "package app.policy\n\ndeny contains \"closed\" if input.action.name == \"publish\"\n",
			"policy_test.rego", "package app.policy_test\n\ntest_deny if count(data.app.policy.deny) == 1 with input as {\"action\": {\"name\": \"publish\"}}\n"),
			"POLICY_LOCKOUT", "nobody who may publish now could publish the next policy"},
	} {
		got := h.instances[1].post("/v1/policy/publish", map[string]any{"files": c.files}, h.admin)
		var problem struct {
			Code, Detail string
			Errors       []struct{ Detail string }
		}
		must(t, json.Unmarshal(got.body, &problem))
		if got.status != http.StatusUnprocessableEntity || problem.Code != c.code || !strings.HasPrefix(problem.Detail, c.message) || len(problem.Errors) != 1 {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
		within(name, 0, true)
		for n, i := range h.instances {
			if now := i.policy(t); now != before[n] {
				t.Errorf("%s: in force %+v, before %+v", name, now, before[n])
			}
		}
	}

	got = h.instances[1].post("/v1/policy/publish", map[string]any{"files": files("document.rego", "package app.document\n\nallow if input.action.name == \"write\"\n", "document_test.rego",
		"package app.document_test\n\ntest_write if data.app.document.allow with input as {\"action\": {\"name\": \"write\"}}\n"), "note": "nobody"}, h.admin)
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

// inForce is what /readyz says of the policy.
type inForce struct {
	Revision, Published string
	Loaded              time.Time
	Current             bool
}

func (i *instance) policy(t *testing.T) inForce {
	t.Helper()
	var ready struct{ Policy inForce }
	must(t, json.Unmarshal(i.get("/readyz").body, &ready))
	return ready.Policy
}

// What was published can stop being good, as after an upgrade that knows more. Who
// runs goes on under the policy before, who starts denies everything, and one command
// mends both.
func TestWhatIsPublishedCanBeMendedWhenItNoLongerCompiles(t *testing.T) {
	h := open(t, 1)
	_, key, _, _ := h.person()
	reads := func(i *instance) answer {
		return i.post("/v1/authorize", map[string]any{"action": "read", "resource": map[string]any{"type": "document", "id": "d"}}, key)
	}
	files := map[string]string{"document.rego": "package app.document\n\nallow if input.action.name == \"read\"\n"}
	got := h.instances[0].post("/v1/policy/publish", map[string]any{"files": files}, h.admin)
	if got.status != http.StatusCreated {
		t.Fatalf("publish: %d %s", got.status, got.body)
	}
	good := h.instances[0].policy(t)
	h.publishUnchecked(map[string]string{"document.rego": "package app.document\n\nallow if nowhere(input)\n"})

	running, started := h.instances[0], launch(t, h.dsn)
	eventually(t, "the running one says so", func() bool { p := running.policy(t); return !p.Current && p.Revision == good.Revision })
	if got := reads(running); got.status != http.StatusOK || !strings.Contains(string(got.body), `"allow":true`) {
		t.Errorf("the running one: %d %s", got.status, got.body)
	}
	eventually(t, "the new one serves", func() bool { return started.get("/healthz").status == http.StatusOK })
	if got := started.get("/readyz"); got.status != http.StatusServiceUnavailable || !strings.Contains(string(got.body), "no policy is in force") {
		t.Errorf("readyz of the new one: %d %s", got.status, got.body)
	}
	for _, path := range []string{"/v1/policy/revisions", "/v1/roles", "/v1/decisions", "/api/auth/admin/list-users", "/v1/policies"} {
		if got := started.get(path, h.admin); got.status/100 == 2 || got.status == 0 || got.status == http.StatusInternalServerError {
			t.Errorf("GET %s by an administrator: %d %s", path, got.status, got.body)
		}
	}
	for path, body := range map[string]map[string]any{
		"/v1/policy/publish": {"files": files}, "/v1/policy/rollback": {}, "/v1/data/app/document/allow": {"input": map[string]any{}},
		"/access/v1/evaluation":    {"subject": map[string]any{"type": "user", "id": "x"}, "action": map[string]any{"name": "read"}, "resource": map[string]any{"type": "document", "id": "d"}},
		"/access/v1/search/action": {"subject": map[string]any{"type": "user", "id": "x"}, "resource": map[string]any{"type": "document", "id": "d"}},
		"/v1/filter":               {"action": "read", "resourceType": "document"},
	} {
		if got := started.post(path, body, h.admin); got.status/100 == 2 || got.status == 0 || got.status == http.StatusInternalServerError {
			t.Errorf("POST %s by an administrator: %d %s", path, got.status, got.body)
		}
	}
	if got := reads(started); strings.Contains(string(got.body), `"allow":true`) || !strings.Contains(string(got.body), "unavailable") {
		t.Errorf("the new one: %d %s", got.status, got.body)
	}
	cmd := exec.Command(binary, "policy", "rollback", "--note", "does not compile")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "OSTIARY_DATABASE="+h.dsn, "OSTIARY_SECRET="+secret, "OSTIARY_POLICY_SOURCE=database")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "published "+good.Published) {
		t.Fatalf("rollback: %v\n%s", err, out)
	}
	for _, i := range []*instance{running, started} {
		eventually(t, "mended", func() bool { p := i.policy(t); return p.Current && p.Revision == good.Revision })
		if got := reads(i); !strings.Contains(string(got.body), `"allow":true`) {
			t.Errorf("after it was mended: %d %s", got.status, got.body)
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%s: never happened", what)
		}
	}
}

// publishUnchecked puts files in force as an earlier version of the program might
// have, that found nothing wrong with them.
func (h *house) publishUnchecked(files map[string]string) {
	h.Helper()
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, s := range []string{name, files[name]} {
			sum.Write([]byte{0, 0, 0, 0, byte(len(s) >> 24), byte(len(s) >> 16), byte(len(s) >> 8), byte(len(s))})
			sum.Write([]byte(s))
		}
	}
	revision := hex.EncodeToString(sum.Sum(nil))[:32]
	text, err := json.Marshal(files)
	must(h.T, err)
	c, err := pgx.Connect(h.Context(), h.dsn)
	must(h.T, err)
	defer c.Close(h.Context())
	_, err = c.Exec(h.Context(), `INSERT INTO ostiary_policy_revision (revision, files, tests, coverage, "createdAt") VALUES ($1, $2, 0, 0, now())`, revision, string(text))
	must(h.T, err)
	_, err = c.Exec(h.Context(), `INSERT INTO ostiary_policy (seq, revision, "policyRevision", parent, at, note, "actorType", "actorId", "actorCredential", "actorKeyId", "actorImpersonatedBy")
		SELECT seq + 1, $1, 'unknown', revision, now(), '', 'system', 'test', '', '', '' FROM ostiary_policy ORDER BY seq DESC LIMIT 1`, revision)
	must(h.T, err)
}
