package policies

import (
	"fmt"
	"maps"
	"regexp"
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

// A policy that takes long is explained by that, and not for long: anybody may ask.
func TestExplainIsBounded(t *testing.T) {
	for rule, want := range map[string]struct {
		deadline      time.Duration
		code, failure string
	}{
		"count([1 | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i == j * 2]) < 0": {200 * time.Millisecond, "deadline", "longer than it may"},
		"count([1 | some i in numbers.range(1, 20000); i > 0]) < 0":                                           {time.Minute, "role_missing", "more than 20000 steps"},
		"to_number(input.resource.id) == 1":                                                                   {time.Minute, "policy_error", "document.rego:3"},
	} {
		b := loaded(t, files("document.rego", "package app.document\n\nallow if "+rule+"\n"))
		p, err := authz.Compile(t.Context(), b.Source)
		if err != nil {
			t.Fatal(err)
		}
		e := authz.NewEngine(authz.Options{Deadline: want.deadline})
		e.Swap(p)
		ann, err := authz.NewSubject(authz.Identity{Type: "user", ID: "ann", Credential: "session", Session: &authz.SessionFacts{ID: "s"}, User: &authz.UserFacts{ID: "ann"}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		x, err := e.Explain(t.Context(), authz.Request{Subject: ann, Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "document", ID: "d1"}})
		if err != nil || x.Decision.Allow || x.Decision.Reasons[0].Code != want.code || !strings.Contains(x.Failure, want.failure) {
			t.Errorf("%s: got %+v %q, %v", rule, x.Decision, x.Failure, err)
		}
		if took := time.Since(began); took > want.deadline+10*time.Second {
			t.Errorf("%s: took %v", rule, took)
		}
		if len(b.Explained(x).Advice) == 0 {
			t.Errorf("%s: no advice", rule)
		}
	}
}

// Each denial of the built-in rules is explained by what was planted, and by nothing
// else: a question that is allowed, one thing of it changed.
func TestExplainNamesThePlantedCause(t *testing.T) {
	b := loaded(t, files("data.yaml", "roles: {editor: {document: [read]}}\n", "document.rego", `package app.document

allow if input.resource.properties.owner == input.principal.id

deny contains {"code": "frozen", "message": "it is frozen"} if input.resource.properties.frozen == true
`))
	p, err := authz.Compile(t.Context(), b.Source)
	if err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	// by is a principal of an account with a fresh session.
	by := func(roles ...any) object {
		return object{"type": "user", "id": "ann", "credential": "session", "roles": roles,
			"user": object{"id": "ann", "name": "Ann", "banned": false}, "session": object{"id": "s1", "fresh": true}}
	}
	key := func(grants object) object {
		return object{"type": "user", "id": "ann", "credential": "api_key", "roles": []any{"admin"},
			"user": object{"id": "ann", "name": "Ann", "banned": false}, "key": object{"id": "k1", "name": "System", "permissions": grants}}
	}
	ask := func(principal object, action string, resource object) object {
		return object{"principal": principal, "action": object{"name": action, "properties": object{}}, "resource": resource, "context": object{"time": "2026-01-02T03:04:05.000Z"}}
	}
	user := func(id string) object {
		return object{"type": "user", "id": id, "properties": object{"lastAdmin": false, "admin": false, "roles": []any{}}}
	}
	apiKey := object{"type": "apiKey", "properties": object{"owner": "ann"}}
	mine := object{"type": "session", "properties": object{"owner": "ann"}}
	document := object{"type": "document", "id": "d1", "properties": object{"owner": "ann"}}
	nobody := object{"type": "anonymous", "credential": "none", "roles": []any{}}
	causes := map[string]struct {
		input object
		at    string // the member that is changed
		plant any    // nil: it is taken out
		code  string
		// The rule that says so, or the condition that failed and what it read.
		fired        string
		unmet, value string
	}{
		"nobody":             {ask(by("admin"), "list", object{"type": "user", "properties": object{}}), "principal", nobody, "unauthenticated", "anonymous", "", ""},
		"malformed":          {ask(by("admin"), "list", object{"type": "user", "properties": object{}}), "principal.roles", nil, "unauthenticated", "", "is_array(input.principal.roles)", ""},
		"role":               {ask(by("admin"), "ban", user("bob")), "principal.roles", []any{"user"}, "role_missing", "authenticated", "", ""},
		"application's rule": {ask(by(), "write", document), "resource.properties.owner", "bob", "role_missing", "", "input.resource.properties.owner == input.principal.id", "bob"},
		"grant":              {ask(key(object{"user": []any{"ban"}}), "ban", user("bob")), "principal.key.permissions", object{"user": []any{"list"}}, "grant_missing", "keyed", "", ""},
		"application denies": {ask(by("editor"), "read", document), "resource.properties.frozen", true, "frozen", "data.app.document.deny", "", ""},
		"banned":             {ask(by("admin"), "ban", user("bob")), "principal.user.banned", true, "owner_banned", "banned", "", ""},
		"sign-in to a banned": {
			ask(nobody, "create", object{"type": "session", "properties": object{"owner": "bob", "method": "password", "user": object{"banned": false}}}),
			"resource.properties.user.banned", true, "owner_banned", "guards", "", "",
		},
		"impersonated, password": {ask(by("admin"), "change-password", user("ann")), "principal.session.impersonatedBy", "root", "impersonating", "impersonated", "", ""},
		"impersonated, key":      {ask(by("admin"), "create", apiKey), "principal.session.impersonatedBy", "root", "impersonating", "impersonated", "", ""},
		"stale, sessions":        {ask(by(), "list", mine), "principal.session.fresh", false, "session_not_fresh", "stale", "input.principal.session.fresh == true", "false"},
		"stale, deletion":        {ask(by(), "delete", user("ann")), "principal.session.fresh", false, "session_not_fresh", "stale", "input.resource.properties.confirmed == true", ""},
		"last, deletion":         {ask(by("admin"), "delete", user("bob")), "resource.properties.lastAdmin", true, "last_admin", "guards", "input.resource.properties.lastAdmin == false", "true"},
		"last, not known":        {ask(by("admin"), "ban", user("bob")), "resource.properties.lastAdmin", nil, "last_admin", "guards", "input.resource.properties.lastAdmin == false", ""},
		"escalation, key":        {ask(by("admin"), "create", apiKey), "resource.properties.permissions", object{"user": []any{"impersonate-admins"}}, "escalation", "hands_out_grants", "", ""},
		"escalation, account":    {ask(key(object{"user": []any{"set-password"}}), "set-password", user("bob")), "resource.properties.roles", []any{"admin"}, "escalation", "keyed", "", ""},
	}
	known := map[string]bool{}
	for name, c := range causes {
		known[c.code] = true
		explain := func(input object) authz.Explanation {
			t.Helper()
			x, err := p.Explain(t.Context(), input, authz.TimeOf(input), authz.Nondeterminism{})
			if err != nil {
				t.Fatal(err)
			}
			return x
		}
		if x := explain(c.input); !x.Decision.Allow {
			t.Errorf("%s: denied before: %+v", name, x.Decision.Reasons)
		}
		x := explain(planted(c.input, strings.Split(c.at, "."), c.plant).(object))
		if x.Decision.Allow || len(x.Decision.Reasons) != 1 || x.Decision.Reasons[0].Code != c.code {
			t.Errorf("%s: got %+v, want %s alone", name, x.Decision.Reasons, c.code)
			continue
		}
		if c.fired != "" && !slices.ContainsFunc(x.Fired, func(r authz.Rule) bool { return strings.HasSuffix("."+r.Name, "."+c.fired) && r.Line > 0 }) {
			t.Errorf("%s: %s is not among the rules that held", name, c.fired)
		}
		if c.unmet == "" {
			continue
		}
		at := slices.IndexFunc(x.Unmet, func(u authz.Unmet) bool { return u.Text == c.unmet })
		if at < 0 {
			t.Errorf("%s: %q is not among the conditions that failed: %+v", name, c.unmet, x.Unmet)
			continue
		}
		if v := x.Unmet[at].Values[0]; c.value != "" && fmt.Sprint(v.Value) != c.value || c.value == "" && !v.Missing {
			t.Errorf("%s: read %+v, want %q", name, v, c.value)
		}
	}
	for name, text := range b.Source.Modules {
		for _, m := range regexp.MustCompile(`guards contains "(\w+)"|^reasons contains .*"code": "(\w+)"`).FindAllStringSubmatch(text, -1) {
			if code := m[1] + m[2]; !known[code] {
				t.Errorf("%s: %s is planted nowhere", name, code)
			}
		}
	}
}

// planted returns a copy of doc with another value, or none, at path.
func planted(doc any, path []string, value any) any {
	if len(path) == 0 {
		return value
	}
	m := maps.Clone(doc.(map[string]any))
	if len(path) == 1 && value == nil {
		delete(m, path[0])
	} else {
		m[path[0]] = planted(m[path[0]], path[1:], value)
	}
	return m
}
