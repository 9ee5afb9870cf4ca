package server_test

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/policies"
)

type explanation struct {
	policies.Explained
	Recorded *struct {
		Allow   bool
		Reasons []authz.Reason
	}
	Withheld bool
}

// author is somebody whose key is granted all that explaining takes.
func (h *house) author(t *testing.T, grants authz.Permissions) string {
	t.Helper()
	_, secret := h.key(t, h.user(t, "author", "admin"), grants)
	return "x-api-key: " + secret
}

var explaining = authz.Permissions{"policy": {"read", "test"}, "decision": {"read"}, "access": {"evaluate"}, "user": {"get"}, "apiKey": {"read"}}

// The condition that failed is named with what it read, of a document, a record,
// a user and a key alike.
func TestExplainNamesTheConditionAndItsValues(t *testing.T) {
	h := open(t, documents)
	author := h.author(t, explaining)
	bob := h.user(t, "bob", "reader")
	bobs, secret := h.key(t, bob, authz.Permissions{"document": {"read"}})
	if _, _, err := h.directory.Put(t.Context(), system, directory.Entity{Type: "document", ID: "d1", Properties: map[string]any{"owner": "u-ann"}}); err != nil {
		t.Fatal(err)
	}
	var d decision
	h.do(t, "POST", "/v1/authorize", `{"action":"write","resource":{"type":"document","id":"d1"}}`, "x-api-key: "+secret).decode(t, &d)
	if err := h.records.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	input := `{"principal":{"type":"user","id":"` + bob.ID + `","credential":"session","roles":[],"user":{"id":"x","banned":false},"session":{"id":"s"}},` +
		`"action":{"name":"write","properties":{}},"resource":{"type":"document","properties":{"owner":"u-ann"}},"context":{"time":"2026-01-02T03:04:05Z"}}`
	for body, codes := range map[string]string{
		`{"input":` + input + `}`:             "role_missing",
		`{"decision":"` + d.DecisionID + `"}`: "grant_missing role_missing",
		`{"user":"bob@example.com","action":"write","resource":{"type":"document","id":"d1"}}`: "role_missing",
		`{"key":"` + bobs.ID + `","action":"write","resource":{"type":"document","id":"d1"}}`:  "grant_missing role_missing",
	} {
		got := h.do(t, "POST", "/v1/policy/explain", body, author)
		if got.StatusCode != 200 {
			t.Errorf("%s: %d %s", body, got.StatusCode, got.body)
			continue
		}
		var x explanation
		got.decode(t, &x)
		var reasons []string
		for _, r := range x.Reasons {
			reasons = append(reasons, r.Code)
		}
		if x.Allow || strings.Join(reasons, " ") != codes || len(x.Advice) == 0 {
			t.Errorf("%s: got %v, want %s, advice %q", body, reasons, codes, x.Advice)
		}
		at := slices.IndexFunc(x.Unmet, func(u authz.Unmet) bool { return u.File == "document.rego" && u.Line == 3 })
		if at < 0 {
			t.Errorf("%s: the condition is not named: %+v", body, x.Unmet)
			continue
		}
		if v := x.Unmet[at].Values; len(v) != 2 || v[0].Value != "u-ann" || v[1].Value != bob.ID {
			t.Errorf("%s: values %+v", body, v)
		}
		if strings.Contains(body, "decision") && (x.Recorded == nil || len(x.Recorded.Reasons) != 2) {
			t.Errorf("what was decided then is not told: %+v", x.Recorded)
		}
		if strings.Contains(got.body, secret) {
			t.Error("a secret is told")
		}
	}
	// What is explained is not decided: there is no record of it.
	if err := h.records.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := h.do(t, "GET", "/v1/decisions?resourceType=document", "", author); strings.Count(got.body, `"action":"write"`) != 1 {
		t.Errorf("records: %s", got.body)
	}
}

// An explanation shows rules, records, users and keys, and so needs what those who
// look at these in another way need.
func TestExplainNeedsWhatItShows(t *testing.T) {
	h := open(t, documents)
	admin := h.user(t, "root", "admin")
	bob := h.user(t, "bob")
	bobs, _ := h.key(t, bob, nil)
	question := `,"action":"read","resource":{"type":"document"}}`
	for _, c := range []struct {
		method, path, body string
		needs              []string
	}{
		{"POST", "/v1/policy/explain", `{"input":{}}`, []string{"policy:read", "policy:test"}},
		{"POST", "/v1/policy/explain", `{"decision":"D"}`, []string{"policy:read", "decision:read"}},
		{"POST", "/v1/policy/explain", `{"user":"` + bob.ID + `"` + question, []string{"policy:read", "decision:read", "access:evaluate", "user:get"}},
		{"POST", "/v1/policy/explain", `{"key":"` + bobs.ID + `"` + question, []string{"policy:read", "decision:read", "access:evaluate", "user:get", "apiKey:read"}},
		{"GET", "/v1/policy/permissions?user=" + bob.ID, "", []string{"access:evaluate", "user:get"}},
		{"GET", "/v1/policy/permissions?key=" + bobs.ID, "", []string{"access:evaluate", "user:get", "apiKey:read"}},
		{"GET", "/v1/policy/bundle", "", []string{"policy:read"}},
	} {
		with := func(leave string) (int, string) {
			grants := authz.Permissions{}
			for _, p := range c.needs {
				if p != leave {
					kind, action, _ := strings.Cut(p, ":")
					grants[kind] = append(grants[kind], action)
				}
			}
			_, secret := h.key(t, admin, grants)
			got := h.do(t, c.method, c.path, c.body, "x-api-key: "+secret)
			return got.StatusCode, got.body
		}
		if status, body := with(""); status != 200 && status != 404 {
			t.Errorf("%s %s: with all grants %d %s", c.path, c.body, status, body)
		}
		for _, p := range c.needs {
			if status, body := with(p); status != 403 || !strings.Contains(body, "is not granted "+p) {
				t.Errorf("%s %s without %s: %d %s", c.path, c.body, p, status, body)
			}
		}
		if got := h.do(t, c.method, c.path, c.body); got.StatusCode != 401 {
			t.Errorf("%s %s by nobody: %d", c.path, c.body, got.StatusCode)
		}
	}
}

// What a rule keeps out of records is not told in another way.
func TestExplainTellsNothingThatIsMasked(t *testing.T) {
	author := maps.Clone(documents)
	author["log.rego"] = &fstest.MapFile{Data: []byte("package system.log\n\nmask contains \"/input/resource/properties/owner\"\n")}
	h := open(t, author)
	key := h.author(t, explaining)
	h.user(t, "bob")
	body := `{"action":"write","resource":{"type":"document","properties":{"owner":"u-hidden"}}`
	var d decision
	h.do(t, "POST", "/v1/authorize", body+`}`, key).decode(t, &d)
	if err := h.records.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := h.do(t, "POST", "/v1/policy/explain", `{"decision":"`+d.DecisionID+`"}`, key)
	if got.StatusCode != 422 || got.code(t) != "NOT_EXPLAINABLE" {
		t.Errorf("a masked record: %d %s", got.StatusCode, got.body)
	}
	got = h.do(t, "POST", "/v1/policy/explain", body+`,"user":"bob@example.com"}`, key)
	var x explanation
	got.decode(t, &x)
	if x.Allow || !x.Withheld || len(x.Unmet) == 0 || strings.Contains(got.body, "u-hidden") {
		t.Errorf("a user: %d %s", got.StatusCode, got.body)
	}
}

// A key that would be refused is, and what a key may is what /v1/me tells it.
func TestPermissionsOfSomebodyElse(t *testing.T) {
	h := open(t, documents)
	author := h.author(t, explaining)
	bob := h.user(t, "bob", "lister")
	bobs, secret := h.key(t, bob, authz.Permissions{"user": {"list", "ban"}})
	var told, own struct{ Permissions, Own authz.Permissions }
	h.do(t, "GET", "/v1/policy/permissions?key="+bobs.ID, "", author).decode(t, &told)
	h.do(t, "GET", "/v1/me", "", "x-api-key: "+secret).decode(t, &own)
	a, _ := json.Marshal(told)
	b, _ := json.Marshal(own)
	if string(a) != string(b) || !told.Permissions.Allows("user", "list") || told.Permissions.Allows("user", "ban") {
		t.Errorf("got %s, the key itself is told %s", a, b)
	}
	h.do(t, "GET", "/v1/policy/permissions?user=bob@example.com", "", author).decode(t, &told)
	if !told.Permissions.Allows("user", "list") || !told.Own.Allows("apiKey", "create") {
		t.Errorf("user: %+v", told)
	}
	disabled, _ := h.key(t, bob, nil)
	if _, err := h.authn.UpdateKey(t.Context(), system, disabled.ID, authn.KeyChange{Enabled: ptr(false)}); err != nil {
		t.Fatal(err)
	}
	if got := h.do(t, "GET", "/v1/policy/permissions?key="+disabled.ID, "", author); got.StatusCode != 409 || !strings.Contains(got.body, "disabled") {
		t.Errorf("a disabled key: %d %s", got.StatusCode, got.body)
	}
	for path, status := range map[string]int{
		"?key=none": 404, "?user=none": 404, "": 400, "?user=a&key=b": 400, "?users=a": 400,
	} {
		if got := h.do(t, "GET", "/v1/policy/permissions"+path, "", author); got.StatusCode != status {
			t.Errorf("%s: got %d %s, want %d", path, got.StatusCode, got.body, status)
		}
	}
}

func TestExplainIsAskedOneThing(t *testing.T) {
	h := open(t, documents)
	author := h.author(t, explaining)
	for _, body := range []string{
		`{}`, `{"input":{},"decision":"D"}`, `{"decision":"D","action":"read"}`, `{"user":"a","key":"b","action":"read","resource":{"type":"document"}}`,
		`{"user":"a"}`, `{"user":"a","action":"read"}`, `{"input":[]}`, `{"input":{},"files":{}}`,
	} {
		if got := h.do(t, "POST", "/v1/policy/explain", body, author); got.StatusCode != 400 || got.code(t) != "INVALID" {
			t.Errorf("%s: %d %s", body, got.StatusCode, got.body)
		}
	}
}

// What is told of the rules in force makes the same rules elsewhere.
func TestTheBundleInForceIsTold(t *testing.T) {
	h := open(t, documents)
	var doc struct {
		PolicyRevision string
		Files          map[string]string
		Settings       map[string]any
	}
	h.do(t, "GET", "/v1/policy/bundle", "", h.author(t, explaining)).decode(t, &doc)
	b, err := policies.LoadFiles(doc.Files, doc.Settings)
	if err != nil || b.Source.Revision != doc.PolicyRevision || doc.PolicyRevision != h.library.Status().Revision || doc.Files["document.rego"] == "" {
		t.Errorf("got %+v, %v", doc, err)
	}
}
