package server_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/store"
)

const document = "package app.document\n\nallow if input.action.name == \"read\"\n"

func bundleOf(files map[string]string, more string) string {
	text, _ := json.Marshal(files)
	return `{"files":` + string(text) + more + `}`
}

// Publishing, looking at what was published and going back, as the API has it.
func TestPoliciesArePublished(t *testing.T) {
	h := openPublished(t)
	ann := h.user(t, "ann", "admin")
	_, secret := h.key(t, ann, authz.Permissions{"*": {"*"}})
	key := "x-api-key: " + secret
	publish := func(body string, status int, code string) map[string]any {
		t.Helper()
		got := h.do(t, "POST", "/v1/policy/publish", body, key)
		if got.StatusCode != status || code != "" && got.code(t) != code {
			t.Fatalf("got %d %s, want %d %s", got.StatusCode, got.body, status, code)
		}
		if status == 201 && got.Header.Get("Ostiary-Revision") == "" || status != 400 && got.Header.Get("Ostiary-Decision") == "" {
			t.Errorf("headers %v", got.Header)
		}
		var doc map[string]any
		got.decode(t, &doc)
		return doc
	}
	files := map[string]string{"document.rego": document}
	publish(bundleOf(files, `,"dryRun":true`), 200, "")
	first := publish(bundleOf(files, `,"note":"all read","expect":null`), 201, "")
	if first["parent"] != nil || first["note"] != "all read" || first["by"].(map[string]any)["id"] != ann.ID {
		t.Errorf("published %v", first)
	}
	publish(bundleOf(files, `,"expect":null`), 409, "OVERTAKEN")
	problem := publish(bundleOf(map[string]string{"a/b.rego": "package x\n\ny := z\n"}, ""), 422, "POLICY_INVALID")
	if at := problem["errors"].([]any)[0].(map[string]any); at["pointer"] != "/files/a~1b.rego" || !strings.HasPrefix(at["message"].(string), "a/b.rego:3:") {
		t.Errorf("problem %v", problem)
	}
	publish(bundleOf(map[string]string{"a_test.rego": "package x_test\n\ntest_a if 1 == 2\n"}, ""), 422, "POLICY_TESTS")
	publish(bundleOf(map[string]string{"data.json": `{"roles":{"admin":{}}}`}, ""), 422, "POLICY_LOCKOUT")
	publish(`{"note":"x"}`, 400, "INVALID")
	second := publish(bundleOf(map[string]string{"data.json": `{"roles":{"editor":{"document":["read"]}}}`}, ""), 201, "")

	var page struct {
		Revisions []struct{ Revision string }
		Next      string
	}
	h.do(t, "GET", "/v1/policy/revisions?limit=1", "", key).decode(t, &page)
	if len(page.Revisions) != 1 || page.Revisions[0].Revision != second["revision"] || page.Next != "2" {
		t.Errorf("first page %+v", page)
	}
	page.Next = ""
	h.do(t, "GET", "/v1/policy/revisions?limit=1&before=2", "", key).decode(t, &page)
	if page.Revisions[0].Revision != first["revision"] || page.Next != "" {
		t.Errorf("second page %+v", page)
	}
	var one struct{ Files map[string]string }
	h.do(t, "GET", "/v1/policy/revisions/"+first["policyRevision"].(string), "", key).decode(t, &one)
	if one.Files["document.rego"] != document {
		t.Errorf("files %v", one.Files)
	}
	if got := h.do(t, "GET", "/v1/policy/revisions/none", "", key); got.StatusCode != 404 {
		t.Errorf("none: %d %s", got.StatusCode, got.body)
	}
	got := h.do(t, "POST", "/v1/policy/rollback", `{"note":"oops"}`, key)
	if got.StatusCode != 201 || !strings.Contains(got.body, first["revision"].(string)) {
		t.Errorf("rollback: %d %s", got.StatusCode, got.body)
	}
	if got := h.do(t, "GET", "/readyz", ""); !strings.Contains(got.body, `"published":"`+first["revision"].(string)+`","current":true`) {
		t.Errorf("readyz: %s", got.body)
	}
	var ev struct {
		Events []struct {
			Kind    string
			Details map[string]any
		}
	}
	h.do(t, "GET", "/v1/events?limit=1", "", key).decode(t, &ev)
	if e := ev.Events[0]; e.Kind != "policy.rollback" || e.Details["parent"] != second["revision"] || e.Details["roles"].(map[string]any)["editor"].(map[string]any)["after"] != nil {
		t.Errorf("event %+v", e)
	}
}

func TestBundlesAreTried(t *testing.T) {
	h := open(t, nil) // also where nothing can be published
	_, secret := h.key(t, h.user(t, "ann", "admin"), authz.Permissions{"policy": {"test", "publish", "read"}})
	key := "x-api-key: " + secret
	for _, c := range []struct {
		path, body string
		want       string
	}{
		{"check", bundleOf(map[string]string{"d.rego": document}, ""), `{"ok":true,`},
		{"check", bundleOf(map[string]string{"d.rego": "package x\n\ny if input.principal.rolez\n"}, ""), `{"ok":false,"mistakes":["d.rego:3:`},
		{"check", bundleOf(map[string]string{"d_test.rego": "package x\n\ntest_a if 1 == 2\n"}, ""), `{"ok":true,`},
		{"test", bundleOf(map[string]string{"d_test.rego": "package x\n\ntest_a if 1 == 2\n"}, ""), `{"ok":false,"mistakes":["d_test.rego:3: test_a failed`},
		{"test", bundleOf(map[string]string{"d_test.rego": "package x\n\ntest_a if 1 == 1\n"}, ""), `"tests":{"count":1,"coverage":100}`},
	} {
		got := h.do(t, "POST", "/v1/policy/"+c.path, c.body, key)
		if got.StatusCode != 200 || !strings.Contains(got.body, c.want) {
			t.Errorf("%s: got %d %s, want %s", c.path, got.StatusCode, got.body, c.want)
		}
	}
	for path, body := range map[string]string{
		"POST /v1/policy/publish": bundleOf(map[string]string{}, ""), "POST /v1/policy/rollback": `{}`, "PUT /v1/roles/r": `{"permissions":{}}`,
		"DELETE /v1/roles/r": "", "GET /v1/policy/revisions": "", "GET /v1/policy/revisions/x": "",
	} {
		method, path, _ := strings.Cut(path, " ")
		if got := h.do(t, method, path, body, key); got.StatusCode != 409 || got.code(t) != "POLICIES_ELSEWHERE" {
			t.Errorf("%s without a store: %d %s", path, got.StatusCode, got.body)
		}
	}
}

// A bundle may be larger than other bodies, up to a limit of its own.
func TestBundlesHaveTheirOwnLimit(t *testing.T) {
	h := openPublished(t)
	_, secret := h.key(t, h.user(t, "ann", "admin"), authz.Permissions{"*": {"*"}})
	for size, status := range map[int]int{2 << 20: http.StatusOK, 5 << 20: http.StatusRequestEntityTooLarge} {
		body := bundleOf(map[string]string{"d.rego": "package x\n# " + strings.Repeat("x", size) + "\n"}, "")
		if got := h.do(t, "POST", "/v1/policy/check", body, "x-api-key: "+secret); got.StatusCode != status {
			t.Errorf("%d bytes: %d %.200s", size, got.StatusCode, got.body)
		}
	}
}

func TestRolesAreEdited(t *testing.T) {
	h := openPublished(t)
	_, secret := h.key(t, h.user(t, "ann", "admin"), authz.Permissions{"*": {"*"}})
	key := "x-api-key: " + secret
	for _, c := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"PUT", "/v1/roles/editor", `{"permissions":{"document":["read"]},"note":"new"}`, 201, ""},
		{"PUT", "/v1/roles/editor", `{"permissions":{"document":["read","write"]},"dryRun":true}`, 200, ""},
		{"PUT", "/v1/roles/a,b", `{"permissions":{}}`, 422, "POLICY_INVALID"},
		{"PUT", "/v1/roles/admin", `{"permissions":{"user":["list"]}}`, 422, "POLICY_LOCKOUT"},
		{"PUT", "/v1/roles/editor", `{}`, 400, "INVALID"},
		{"PUT", "/v1/roles/editor", `{"permissions":{},"expect":"other"}`, 409, "OVERTAKEN"},
		{"DELETE", "/v1/roles/admin", "", 409, "ROLE_IN_USE"},
		{"DELETE", "/v1/roles/none", "", 404, "NOT_FOUND"},
		{"DELETE", "/v1/roles/editor?note=gone", "", 201, ""},
	} {
		got := h.do(t, c.method, c.path, c.body, key)
		if got.StatusCode != c.status || c.code != "" && got.code(t) != c.code {
			t.Errorf("%s %s: got %d %s, want %d %s", c.method, c.path, got.StatusCode, got.body, c.status, c.code)
		}
	}
}

// openPublished is a house whose policies are in the database.
func openPublished(t *testing.T) *house {
	return openWith(t, nil, func(o *policies.Options, db *store.DB, users policies.Users) {
		o.Store, o.Shadows, o.Users, o.Decisions = db, db, users, db
	})
}

// A candidate is asked beside the policy in force, by those who may publish, and
// shown to those who may read.
func TestShadowsAreRun(t *testing.T) {
	h := openPublished(t)
	ann := h.user(t, "ann", "admin")
	_, secret := h.key(t, ann, authz.Permissions{"policy": {"publish", "read"}})
	_, reader := h.key(t, ann, authz.Permissions{"policy": {"read"}})
	key, reading := "x-api-key: "+secret, "x-api-key: "+reader
	files := bundleOf(map[string]string{"document.rego": document}, `,"note":"all read","for":"1h"`)
	for _, c := range []struct {
		method, body, key string
		status            int
		want              string
	}{
		{"GET", "", reading, 404, "NOT_FOUND"},
		{"DELETE", "", key, 404, "NOT_FOUND"},
		{"POST", files, reading, 403, "DENIED"},
		{"POST", `{}`, key, 400, "INVALID"},
		{"POST", `{"revision":"r","files":{}}`, key, 400, "INVALID"},
		{"POST", `{"revision":"none"}`, key, 404, "NOT_FOUND"},
		{"POST", bundleOf(map[string]string{"a.rego": "package x\n\ny := z\n"}, ""), key, 422, "POLICY_INVALID"},
		{"POST", bundleOf(map[string]string{}, `,"for":"forever"`), key, 400, "INVALID"},
		{"POST", bundleOf(map[string]string{}, `,"for":"9999h"`), key, 400, "INVALID"},
		{"POST", files, key, 201, `"note":"all read"`},
		{"GET", "", reading, 200, `"running":true`},
		{"DELETE", "", reading, 403, "DENIED"},
		{"DELETE", "", key, 204, ""},
		{"GET", "", reading, 200, `"running":false`},
	} {
		got := h.do(t, c.method, "/v1/policy/shadow", c.body, c.key)
		if got.StatusCode != c.status || !strings.Contains(got.body, c.want) || got.Header.Get("Ostiary-Decision") == "" && c.status != 400 {
			t.Errorf("%s %s: got %d %s, want %d %s", c.method, c.body, got.StatusCode, got.body, c.status, c.want)
		}
	}
	if got := open(t, nil).do(t, "GET", "/v1/policy/shadow", ""); got.StatusCode != 401 {
		t.Errorf("nobody: %d %s", got.StatusCode, got.body)
	}
}

// What was decided before can keep a bundle from being published; the refusal has
// the report.
func TestPublishingIsHeldAgainstRecords(t *testing.T) {
	h := openPublished(t)
	_, secret := h.key(t, h.user(t, "ann", "admin"), authz.Permissions{"*": {"*"}})
	key := "x-api-key: " + secret
	h.do(t, "POST", "/v1/authorize", `{"action":"read","resource":{"type":"document","id":"d"}}`, key)
	if err := h.records.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	replay := func(more string) string {
		return bundleOf(map[string]string{"document.rego": document}, `,"replay":{"since":"24h"`+more+`}`)
	}
	got := h.do(t, "POST", "/v1/policy/publish", replay(""), key)
	if got.StatusCode != 422 || got.code(t) != "POLICY_REPLAY" || !strings.Contains(got.body, `"denyToAllow":1`) || !strings.Contains(got.body, "1 decisions would flip, deny-to-allow: document:read by admin") {
		t.Errorf("not expected: %d %s", got.StatusCode, got.body)
	}
	for body, status := range map[string]int{replay(`,"failOn":"some"`): 400, replay(`,"expect":[{"rolle":"x"}]`): 400, bundleOf(map[string]string{}, `,"replay":{"since":"soon"}`): 400} {
		if got := h.do(t, "POST", "/v1/policy/publish", body, key); got.StatusCode != status {
			t.Errorf("%s: %d %s", body, got.StatusCode, got.body)
		}
	}
	got = h.do(t, "POST", "/v1/policy/publish", replay(`,"expect":[{"action":"read","resourceType":"document"}]`), key)
	if got.StatusCode != 201 || !strings.Contains(got.body, `"expected":true`) {
		t.Errorf("expected: %d %s", got.StatusCode, got.body)
	}
	if got := h.do(t, "GET", "/v1/policy/revisions", "", key); !strings.Contains(got.body, `"denyToAllow":1`) {
		t.Errorf("history: %s", got.body)
	}
}

// Replaying says what would be otherwise, within limits, and leaves all as it is.
func TestBundlesAreReplayed(t *testing.T) {
	h := openPublished(t)
	ann := h.user(t, "ann", "admin")
	_, secret := h.key(t, ann, authz.Permissions{"policy": {"test"}, "decision": {"read"}})
	_, asking := h.key(t, ann, authz.Permissions{"*": {"*"}})
	h.do(t, "POST", "/v1/authorize", `{"action":"read","resource":{"type":"document","id":"d"}}`, "x-api-key: "+asking)
	if err := h.records.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := h.library.Status()
	flips := bundleOf(map[string]string{"document.rego": document}, "")
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{flips, 200, `"denyToAllow":1`},
		{strings.Replace(flips, "}}", `},"since":"1h","expect":[{"action":"read","resourceType":"document"},{"action":"write"}]}`, 1), 200, `"expected":true`},
		{strings.Replace(flips, "}}", `},"expect":[{"action":"write"}]}`, 1), 200, `"missed":[{"action":"write"}]`},
		{strings.Replace(flips, "}}", `},"since":"1ns"}`, 1), 200, `"denyToAllow":0`},
		{`{}`, 400, "/files is required"},
		{bundleOf(map[string]string{}, `,"since":"soon"`), 400, "/since must be a duration"},
		{bundleOf(map[string]string{}, `,"since":"-1h"`), 400, "/since must be a duration"},
		{bundleOf(map[string]string{}, `,"failOn":"any"`), 400, "/failOn is not a known member"},
		{bundleOf(map[string]string{}, `,"expect":[{"action":"a"},{}]`), 400, "/expect/1 an expectation has to say"},
		{bundleOf(map[string]string{}, `,"expect":[{"action":"a"}`+strings.Repeat(`,{"action":"a"}`, policies.MaxExpectations)+`]`), 400, "/expect has more than 1000"},
		{bundleOf(map[string]string{"d.rego": "package x\n\ny := z\n"}, ""), 422, "POLICY_INVALID"},
		{bundleOf(map[string]string{"d.rego": "package x\n# " + strings.Repeat("x", 5<<20) + "\n"}, ""), 413, "PAYLOAD_TOO_LARGE"},
	} {
		got := h.do(t, "POST", "/v1/policy/replay", c.body, "x-api-key: "+secret)
		if got.StatusCode != c.status || !strings.Contains(got.body, c.want) {
			t.Errorf("%.200s: got %d %.300s, want %d %s", c.body, got.StatusCode, got.body, c.status, c.want)
		}
	}
	if now := h.library.Status(); now != before {
		t.Errorf("in force %+v, before %+v", now, before)
	}
	h.needs(t, ann, "/v1/policy/replay", flips, "policy:test", "decision:read")

	few := openWith(t, nil, func(o *policies.Options, db *store.DB, users policies.Users) { o.Decisions, o.ReplayRecords = db, 1 })
	_, secret = few.key(t, few.user(t, "ann", "admin"), authz.Permissions{"policy": {"test"}, "decision": {"read"}})
	for range 2 {
		few.do(t, "POST", "/v1/authorize", `{"action":"read","resource":{"type":"document","id":"d"}}`, "x-api-key: "+secret)
	}
	if err := few.records.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := few.do(t, "POST", "/v1/policy/replay", flips, "x-api-key: "+secret); !strings.Contains(got.body, `"records":1,`) || !strings.Contains(got.body, `"limited":"records"`) {
		t.Errorf("limited: %d %s", got.StatusCode, got.body)
	}
	none := open(t, nil)
	_, secret = none.key(t, none.user(t, "ann", "admin"), authz.Permissions{"policy": {"test"}, "decision": {"read"}})
	if got := none.do(t, "POST", "/v1/policy/replay", flips, "x-api-key: "+secret); got.StatusCode != 400 || !strings.Contains(got.body, "there are no decisions to replay") {
		t.Errorf("without decisions: %d %s", got.StatusCode, got.body)
	}
}

// A query is answered under the policy in force or under another, within limits; what
// reaches outside is not there.
func TestQueriesAreAnswered(t *testing.T) {
	h := open(t, documents)
	ann := h.user(t, "ann", "admin")
	_, secret := h.key(t, ann, authz.Permissions{"policy": {"test", "read"}})
	files := `,"files":{"a.rego":"package app.document\n\nallow if input.action.name == \"read\"\n"}`
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"query":"x := input.n; data.roles[r]","input":{"n":12345678901234567890}}`, 200, `"bindings":{"r":"admin","x":12345678901234567890}`},
		{`{"query":"time.now_ns()","input":{"context":{"time":"2001-09-09T01:46:40Z"}}}`, 200, `"value":1000000000000000000`},
		{`{"query":"input"}`, 200, `{"result":[],"policyRevision":"` + h.library.Bundle().Source.Revision + `"}`},
		{`{"query":"data.app.document.allow","input":{"action":{"name":"read"}}` + files + `}`, 200, `"value":true`},
		{`{"query":"data.app.document.allow","input":{"action":{"name":"read"}},"files":{}}`, 200, `"result":[]`},
		{`{"query":"1","files":{"a.rego":"package x\n\ny := z\n"}}`, 422, `"pointer":"/files/a.rego"`},
		{`{"query":"data."}`, 422, "QUERY_INVALID"},
		{`{"query":"# nothing"}`, 422, "QUERY_INVALID"},
		{`{"query":"package x"}`, 422, "QUERY_INVALID"},
		{`{"query":"x"}`, 422, `"message":"1:1: var x is unsafe"`},
		{`{"query":"http.send({})"}`, 422, "undefined function http.send"},
		{`{"query":"opa.runtime()"}`, 422, "undefined function opa.runtime"},
		{`{"query":"to_number(\"x\")"}`, 422, "QUERY_FAILED"},
		{`{"query":"count({[x, y, z] | x := numbers.range(1, 3000)[_]; y := numbers.range(1, 3000)[_]; z := numbers.range(1, 3000)[_]; x + y == z * 100000})"}`, 422, policies.ErrEvalTime.Error()},
		{`{"query":"[input, input]","input":{"a":"` + strings.Repeat("x", 600<<10) + `"}}`, 422, "more than 1048576 bytes"},
		{`{"query":"` + strings.Repeat("1", policies.MaxQuery+1) + `"}`, 400, "/query must have 1 to 10000 bytes"},
		{`{"query":""}`, 400, "/query must have"},
		{`{"input":{}}`, 400, "/query is required"},
		{`{"query":"1","input":7}`, 400, "/input must be an object"},
		{`{"query":"1","input":` + strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 40) + `}`, 400, "nested too deeply"},
		{`{"query":"1","inputs":{}}`, 400, "/inputs is not a known member"},
		{`{"query":"1","input":{"a":"` + strings.Repeat("x", 5<<20) + `"}}`, 413, "PAYLOAD_TOO_LARGE"},
	} {
		got := h.do(t, "POST", "/v1/policy/eval", c.body, "x-api-key: "+secret)
		if got.StatusCode != c.status || !strings.Contains(got.body, c.want) {
			t.Errorf("%.200s: got %d %.500s, want %d %s", c.body, got.StatusCode, got.body, c.status, c.want)
		}
	}
	h.needs(t, ann, "/v1/policy/eval", `{"query":"1"}`, "policy:test", "policy:read")
	h.needs(t, ann, "/v1/policy/eval", `{"query":"1"`+files+`}`, "policy:test", "policy:read")
}

// needs posts with keys of owner from which one permission after the other is left
// out.
func (h *house) needs(t *testing.T, owner authn.User, path, body string, permissions ...string) {
	t.Helper()
	for _, without := range append([]string{""}, permissions...) {
		grants := authz.Permissions{}
		for _, p := range permissions {
			if kind, action, _ := strings.Cut(p, ":"); p != without {
				grants[kind] = append(grants[kind], action)
			}
		}
		_, secret := h.key(t, owner, grants)
		got := h.do(t, "POST", path, body, "x-api-key: "+secret)
		switch {
		case without == "" && got.StatusCode != 200:
			t.Errorf("%s with all grants: %d %s", path, got.StatusCode, got.body)
		case without != "" && (got.StatusCode != 403 || !strings.Contains(got.body, "is not granted "+without)):
			t.Errorf("%s without %s: %d %s", path, without, got.StatusCode, got.body)
		}
	}
	if got := h.do(t, "POST", path, body); got.StatusCode != 401 {
		t.Errorf("%s by nobody: %d", path, got.StatusCode)
	}
}
