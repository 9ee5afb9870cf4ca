package authz_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

// bundles are the built-in rules, alone and with each example.
func bundles(t testing.TB) map[string]*authz.Policy {
	t.Helper()
	folders := map[string]fs.FS{"builtin": nil}
	for _, pattern := range []string{"../examples/policies/*", "../examples/*/policies", "../examples/authzen/*/policies"} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range dirs {
			if dir != "../examples/policies/policies" {
				folders[dir] = os.DirFS(dir)
			}
		}
	}
	if len(folders) < 6 {
		t.Fatalf("only %d bundles", len(folders))
	}
	all := map[string]*authz.Policy{}
	for name, folder := range folders {
		b, err := policies.Load(folder, map[string]any{"admin_user_ids": []any{"u3"}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[name] = compile(t, b.Source)
	}
	return all
}

// The built-in rules and every example are compiled.
func TestShippedPoliciesAreCompiled(t *testing.T) {
	for name, p := range bundles(t) {
		if why := p.Analysis().Refused; why != "" {
			t.Errorf("%s: %s", name, why)
		}
	}
}

// choices makes an input document out of bytes: what policies expect, and what
// they do not.
type choices struct{ bytes []byte }

func (c *choices) n(n int) int {
	if len(c.bytes) == 0 {
		return 0
	}
	b := c.bytes[0]
	c.bytes = c.bytes[1:]
	return int(b) % n
}

func (c *choices) one(of ...any) any { return of[c.n(len(of))] }

// odd is something else than anybody expects.
func (c *choices) odd() any {
	return c.one(nil, true, false, "", "x", 0, 1.5, []any{}, []any{nil}, map[string]any{}, map[string]any{"x": "y"})
}

// put sets a member, sometimes to what it should not be, and sometimes not at all.
func (c *choices) put(m map[string]any, name string, value any) {
	switch c.n(24) {
	case 1:
		m[name] = c.odd()
	case 2:
	default:
		m[name] = value
	}
}

func (c *choices) text() any {
	return c.one("user", "u1", "u2", "u3", "admin", "member", "editor", "document", "d1", "*", "", "apiKey", "session", "list", "get")
}

func (c *choices) list(item func() any) any {
	list := []any{}
	for range c.n(4) {
		list = append(list, item())
	}
	return list
}

func (c *choices) grants() any {
	m := map[string]any{}
	for range c.n(4) {
		m[c.one("user", "apiKey", "document", "*", "session", "entity").(string)] = c.list(c.action)
	}
	return m
}

func (c *choices) action() any {
	return c.one("list", "get", "create", "update", "delete", "set-role", "set-password", "change-password", "ban", "rotate", "impersonate",
		"read", "write", "edit", "share", "*", "", "set-email", "change-email", "verify", "revoke")
}

func (c *choices) document() map[string]any {
	user, session, key := map[string]any{}, map[string]any{}, map[string]any{}
	c.put(user, "id", c.text())
	c.put(user, "name", c.text())
	c.put(user, "email", "u1@example.com")
	c.put(user, "emailVerified", c.one(true, false))
	c.put(user, "banned", c.one(false, false, false, true))
	c.put(user, "attributes", c.one(map[string]any{}, map[string]any{"plan": "pro", "department": "sales", "level": 3}))
	c.put(session, "id", "s1")
	c.put(session, "fresh", c.one(true, false))
	if c.n(4) == 1 {
		c.put(session, "impersonatedBy", "u2")
	}
	c.put(key, "id", "k1")
	c.put(key, "name", "System")
	c.put(key, "permissions", c.grants())
	principal := map[string]any{}
	c.put(principal, "type", c.one("user", "user", "user", "service_account", "anonymous", "device"))
	c.put(principal, "id", c.one("u1", "u2", "u3"))
	credential := c.one("session", "session", "api_key", "api_key", "none", "asserted")
	c.put(principal, "credential", credential)
	c.put(principal, "roles", c.list(func() any { return c.one("user", "admin", "member", "editor", "owner", "nobody") }))
	if credential != "none" || c.n(8) == 1 {
		c.put(principal, "user", user)
	}
	if credential == "session" {
		c.put(principal, "session", session)
	}
	if credential == "api_key" || c.n(8) == 1 {
		c.put(principal, "key", key)
	}
	if credential == "asserted" {
		c.put(principal, "properties", map[string]any{"plan": c.text(), "department": c.text()})
	}
	properties := map[string]any{}
	names := []string{"owner", "lastAdmin", "confirmed", "newRoles", "roles", "permissions", "method", "permission", "user", "public", "readers", "plan"}
	for _, name := range names {
		if c.n(3) != 1 {
			continue
		}
		var value any
		switch name {
		case "lastAdmin", "confirmed", "public":
			value = c.one(true, false)
		case "newRoles", "roles":
			value = c.list(func() any { return c.one("admin", "user", "member") })
		case "permissions":
			value = c.grants()
		case "method":
			value = c.one("sign-up", "password", "api-key")
		case "permission":
			value = c.one("public", "document:read", "user:list", ":", "x")
		case "user":
			value = map[string]any{"banned": c.one(true, false)}
		case "readers":
			value = c.list(c.text)
		default:
			value = c.text()
		}
		c.put(properties, name, value)
	}
	action, resource := map[string]any{}, map[string]any{}
	c.put(action, "name", c.action())
	c.put(action, "properties", map[string]any{})
	c.put(resource, "type", c.one("user", "session", "apiKey", "document", "invoice", "route", "access", "todo", "record", "entity"))
	if c.n(3) > 0 {
		c.put(resource, "id", c.one("u1", "u2", "u3", "d1"))
	}
	c.put(resource, "properties", properties)
	about := map[string]any{"time": "2026-09-01T12:00:00Z"}
	c.put(about, "ip", "192.0.2.1")
	doc := map[string]any{}
	c.put(doc, "principal", principal)
	c.put(doc, "action", action)
	c.put(doc, "resource", resource)
	c.put(doc, "context", about)
	return doc
}

var rules = []string{"data.ostiary.decision", "data.ostiary.permissions", "data.ostiary.own_permissions"}

// agree compares the two evaluators on one document, and reports how many rules
// the program left to topdown, and whether they allow what is asked.
func agree(t *testing.T, name string, p *authz.Policy, doc map[string]any) (unsure int, allow bool) {
	t.Helper()
	for _, rule := range rules {
		fast, reference, sure, err := p.Both(t.Context(), rule, doc, time.Unix(1788264000, 0))
		switch {
		case err != nil:
			if sure {
				t.Fatalf("%s: %s of %v: %v, OPA: %v", name, rule, doc, fast, err)
			}
		case !sure:
			unsure++
		case (fast == nil) != (reference == nil) || fast != nil && fast.Compare(reference) != 0:
			t.Fatalf("%s: %s of %v:\ngot  %v\nwant %v", name, rule, doc, fast, reference)
		case rule == rules[0] && fast != nil:
			allow = strings.Contains(fast.String(), `"allow": true`)
		}
	}
	return unsure, allow
}

// Compiled policies answer what OPA's evaluator answers, about sensible
// documents and about others.
func TestCompiledPoliciesAgreeWithOPA(t *testing.T) {
	const n = 40
	random := rand.New(rand.NewPCG(1, 2))
	asked, unsure, allowed := 0, 0, 0
	for name, p := range bundles(t) {
		for range n {
			seed := make([]byte, 160)
			for i := range seed {
				seed[i] = byte(random.Uint32())
			}
			doc := (&choices{seed}).document()
			asked += len(rules)
			left, allow := agree(t, name, p, doc)
			unsure += left
			if allow {
				allowed++
			}
		}
	}
	// Those about types of resources that are no text, among others.
	if unsure*20 > asked {
		t.Errorf("%d of %d answers were left to OPA's evaluator", unsure, asked)
	}
	if allowed == 0 {
		t.Error("nothing was allowed: the documents test little")
	}
}

func FuzzCompiledPoliciesAgreeWithOPA(f *testing.F) {
	all := bundles(f)
	names := slices.Sorted(maps.Keys(all))
	f.Add([]byte("a policy may be asked anything"))
	f.Fuzz(func(t *testing.T, seed []byte) {
		c := choices{seed}
		name := names[c.n(len(names))]
		agree(t, name, all[name], c.document())
	})
}

// Where a program is not sure, or fails, the answer is that of OPA's evaluator.
func TestWhatIsNotSureIsLeftToOPA(t *testing.T) {
	for _, tt := range []struct{ name, rule string }{
		{"a number into data", `ok if data.list[input.resource.properties.n] == "b"`},
		{"text into a list of data", `ok if data.list[input.resource.properties.text] == "b"`},
		{"a failure that the index passes by", `ok if { to_number(input.action.name) == 1; input.resource.type == "nothing" }
ok if true`},
		{"a failure", `ok if to_number(input.action.name) == 1`},
		{"two values", `ok := input.action.name if true
ok := input.resource.type if true`},
	} {
		src := minimal(`decision := {"allow": true, "reasons": [{"code": "ok", "message": "ok"}]} if ok
else := {"allow": false, "reasons": [{"code": "no", "message": "no"}]}

` + tt.rule)
		src.Data["list"] = []any{"a", "b"}
		r := listUsers
		r.Subject = authz.Anonymous
		r.Resource.Properties = map[string]any{"n": 1, "text": "1"}
		got := decide(t, engine(t, src, authz.Options{Recheck: -1}), r)
		want := decide(t, engine(t, src, authz.Options{Topdown: true}), r)
		if got.Allow != want.Allow || !reflect.DeepEqual(got.Reasons, want.Reasons) {
			t.Errorf("%s: got %v, %v; OPA says %v, %v", tt.name, got.Allow, got.Reasons, want.Allow, want.Reasons)
		}
	}
}

// A compiled policy that is wrong is found out by sampling: the stricter answer
// counts, it is told once, and from then on OPA's evaluator decides.
func TestDisagreementSwitchesToOPA(t *testing.T) {
	const deny = `decision := {"allow": false, "reasons": [{"code": "no", "message": "no"}]}`
	for _, tt := range []struct {
		name, policy, wrong string
		after               bool
	}{
		{"the program allows too much", deny, allowAll, false},
		{"the program denies too much", allowAll, deny, true},
		{"the program knows no answer", allowAll, `decision := {"allow": true} if false`, true},
	} {
		p := compile(t, minimal(tt.policy))
		p.DecideLike(compile(t, minimal(tt.wrong)))
		var log bytes.Buffer
		e := authz.NewEngine(authz.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		e.RecheckEach(3)
		e.Swap(p)
		decide(t, e, listUsers)
		decide(t, e, listUsers)
		if checked, _ := e.Rechecks(); checked != 0 {
			t.Fatalf("%s: %d of 2 decisions are checked, want one of 3", tt.name, checked)
		}
		if d := decide(t, e, listUsers); d.Allow {
			t.Errorf("%s: allowed while the two disagree", tt.name)
		}
		if checked, disagreed := e.Rechecks(); checked != 1 || disagreed != 1 {
			t.Errorf("%s: counted %d checked, %d disagreed, want 1 and 1", tt.name, checked, disagreed)
		}
		for range 6 {
			if d := decide(t, e, listUsers); d.Allow != tt.after {
				t.Errorf("%s: afterwards got %v, want OPA's %v", tt.name, d.Allow, tt.after)
			}
		}
		if n := strings.Count(log.String(), "disagree"); n != 1 {
			t.Errorf("%s: told %d times: %s", tt.name, n, &log)
		}
		e.Swap(compile(t, authz.Source{Revision: "r2", Modules: minimal(allowAll).Modules}))
		if d := decide(t, e, listUsers); !d.Allow {
			t.Errorf("%s: another policy: got %v", tt.name, d.Reasons)
		}
	}
}

// Answers of chance are the same for both evaluators: they are no disagreement.
func TestChanceIsNoDisagreement(t *testing.T) {
	src := minimal(`decision := {"allow": true, "reasons": [{"code": "x", "message": "x"}], "context": {"n": rand.intn("x", 1000000000), "at": time.now_ns()}}`)
	e := engine(t, src, authz.Options{Recheck: 1})
	for range 5 {
		decide(t, e, listUsers)
	}
	if checked, disagreed := e.Rechecks(); checked != 5 || disagreed != 0 {
		t.Errorf("checked %d, disagreed %d, want 5 and 0", checked, disagreed)
	}
}

// What decisions can depend on is named, and never too little.
func TestAnalysisNamesWhatIsRead(t *testing.T) {
	for _, tt := range []struct {
		name, rule string
		input      string
		impure     bool
	}{
		{"nothing", `ok if 1 == 1`, "", false},
		{"a path", `ok if input.resource.type == "x"`, "input.resource.type", false},
		{"a path through a variable", `ok if { r := input.resource; r.type == "x" }`, "input.resource", false},
		{"a path negated", `ok if not input.resource.properties.x`, "input.resource.properties.x", false},
		{"whether there is a path", `ok if _ = input.resource.id`, "input.resource.id", false},
		{"a computed path", `ok if input.resource.properties[input.action.name]`, "input.action.name input.resource.properties", false},
		{"a part to a function", `f(x) := x.name
ok if f(input.action) == "x"`, "input.action", false},
		{"all", `ok if count(input) > 2`, "input", true},
		{"by walking", `ok if { walk(input, [_, x]); x == "x" }`, "input", true},
		{"with something else", `p if input.resource.type == "x"
ok if p with input.resource.type as "y"`, "input", true},
		{"the time", `ok if input.context.time == "x"`, "input.context.time", true},
		{"the clock", `ok if time.now_ns() > 0`, "", true},
		{"chance", `ok if rand.intn("x", 2) == 1`, "", true},
		{"the validity of a certificate", `ok if crypto.x509.parse_and_verify_certificates(input.action.name)[0]`, "input.action.name", true},
		{"the same, with options", `ok if crypto.x509.parse_and_verify_certificates_with_options(input.action.name, {})[0]`, "input.action.name", true},
		{"chance nobody asks for", `ok if true
other := rand.intn("x", 2)`, "", false},
	} {
		p := compile(t, minimal(`decision := {"allow": true, "reasons": [{"code": "ok", "message": "ok"}]} if ok
else := {"allow": false, "reasons": [{"code": "no", "message": "no"}]}

`+tt.rule))
		a := p.Analysis()
		if got := strings.Join(a.Input, " "); got != tt.input || a.Refused != "" {
			t.Errorf("%s: got %q (refused: %q), want %q", tt.name, got, a.Refused, tt.input)
		}
		if got := a.Impure(); (got != "") != tt.impure {
			t.Errorf("%s: impure: %q, want %v", tt.name, got, tt.impure)
		}
	}
}

// One policy decides for many at once.
func TestCompiledPoliciesAreShared(t *testing.T) {
	p := bundles(t)["builtin"]
	e := authz.NewEngine(authz.Options{Recheck: 10})
	e.Swap(p)
	ann := subject(t, authz.Identity{
		Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialSession, Roles: []string{"admin"},
		User: &authz.UserFacts{ID: "u1", Name: "ann"}, Session: &authz.SessionFacts{ID: "s1", FreshUntil: time.Now().Add(time.Hour)},
	})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 50 {
				r := authz.Request{Subject: ann, Action: authz.Action{Name: "list"}, Resource: authz.Resource{Type: "user"}}
				if i%2 == 1 {
					r.Action.Name = "impersonate-admins"
				}
				if d, err := e.Decide(t.Context(), r); err != nil || d.Allow != (i%2 == 0) {
					t.Errorf("got %v, %v", d, err)
				}
			}
		})
	}
	all.Wait()
	if _, disagreed := e.Rechecks(); disagreed != 0 {
		t.Errorf("%d disagreements", disagreed)
	}
}

// However little of the input a policy reads, it reads what the whole has.
func TestPartsOfTheInputAreThoseOfTheWhole(t *testing.T) {
	paths := []string{"input.principal", "input.principal.id", "input.principal.roles[0]", "input.principal.user.attributes.plan", "input.principal.nothing.at.all",
		"input.action", "input.action.name", "input.action.properties", "input.action.properties.x", "input.action.properties.x.y", "input.action.other",
		"input.resource", "input.resource.type", "input.resource.id", "input.resource.known", "input.resource.properties", "input.resource.properties.x",
		"input.resource.properties.x.y", "input.resource.properties.x.y.z", "input.resource.properties.absent", "input.resource.other",
		"input.context", "input.context.time", "input.context.ip", "input.context.x", "input.context.x.y", "input.nothing", "input.nothing.at.all", "input"}
	ann := subject(t, authz.Identity{
		Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialSession, Roles: []string{"admin"},
		User: &authz.UserFacts{ID: "u1", Attributes: map[string]any{"plan": "gold"}}, Session: &authz.SessionFacts{ID: "s1"},
	})
	maps := []map[string]any{
		nil, {}, {"x": 1}, {"x": nil}, {"x": map[string]any{"y": "z"}}, {"x": map[string]any{"y": map[string]any{"z": []any{1, 2.5, true}}}},
		{"x": json.Number("12345678901234567890")}, {"x": []string{"y"}}, {"x": struct{ Y int }{1}}, {"x": map[string]string{"y": "z"}},
	}
	ctx := authz.WithFacts(t.Context(), &authz.Facts{IP: "192.0.2.1", Method: "GET"})
	for i := range paths {
		// Itself, what is below it, and something else.
		for _, further := range []int{0, 1, 2, 11} {
			j := (i + further) % len(paths)
			src := minimal(`decision := {"allow": true, "reasons": [{"code": "ok", "message": "ok"}], "context": {"first": first, "second": second}}
default first := "undefined"
first := ` + paths[i] + `
default second := "undefined"
second := ` + paths[j])
			p, e := compile(t, src), authz.NewEngine(authz.Options{Recheck: 1, Clock: func() time.Time { return time.Unix(1788264000, 0) }})
			if why := p.Analysis().Refused; why != "" {
				t.Fatal(why)
			}
			e.Swap(p)
			n := uint64(0)
			for k, m := range maps {
				// The first reads of one map are not those of another.
				if (i+j+k)%3 != 0 {
					continue
				}
				n++
				r := authz.Request{
					Subject: ann, Context: m, Described: true,
					Action: authz.Action{Name: "read", Properties: m}, Resource: authz.Resource{Type: "document", ID: []string{"", "d1"}[k%2], Known: k%2 == 0, Properties: m},
				}
				if d, err := e.Decide(ctx, r); err != nil || !d.Allow {
					t.Fatalf("%s, %s of %v: got %v, %v", paths[i], paths[j], m, d.Reasons, err)
				}
			}
			if checked, disagreed := e.Rechecks(); checked != n || disagreed != 0 {
				t.Errorf("%s, %s: %d of %d decisions disagree", paths[i], paths[j], disagreed, checked)
			}
		}
	}
}

// A request that cannot be put to a policy is denied, whatever the policy reads.
func TestWhatIsNoJSONIsDeniedThoughNobodyReadsIt(t *testing.T) {
	odd := map[string]any{"x": make(chan int)}
	for name, r := range map[string]authz.Request{
		"action": {Action: authz.Action{Properties: odd}}, "resource": {Resource: authz.Resource{Properties: odd}}, "context": {Context: odd},
	} {
		if d := decide(t, engine(t, minimal(allowAll), authz.Options{}), r); d.Allow || d.Reasons[0].Code != authz.CodePolicyError {
			t.Errorf("%s: got %v, %v", name, d.Allow, d.Reasons)
		}
	}
}
