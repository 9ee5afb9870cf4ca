package policies_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

func inputSchema(t *testing.T) *jsonschema.Schema { return schemaOf(t, policies.InputSchema()) }

func schemaOf(t *testing.T, text []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("input.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("input.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var born = time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)

// everybody is one of each kind of principal, with all there is to know.
func everybody() map[string]authz.Identity {
	user := &authz.UserFacts{ID: "u1", Name: "ann", Email: "ann@example.com", EmailVerified: true, Username: "ann", CreatedAt: born, Attributes: map[string]any{"team": "blue"}}
	key := &authz.KeyFacts{ID: "k1", Name: "System", Permissions: authz.Permissions{"user": {"list"}}, Metadata: map[string]any{"n": 1}, CreatedAt: born, ExpiresAt: born.AddDate(1, 0, 0)}
	session := &authz.SessionFacts{ID: "s1", CreatedAt: born, ExpiresAt: born.AddDate(0, 0, 7), FreshUntil: born.AddDate(0, 0, 1), ImpersonatedBy: "u2"}
	return map[string]authz.Identity{
		"session":         {Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialSession, Roles: []string{"admin"}, User: user, Session: session},
		"key":             {Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialAPIKey, Roles: []string{"admin"}, User: user, Key: key},
		"key session":     {Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialSession, Roles: []string{"admin"}, User: user, Session: session, Key: key},
		"service account": {Type: authz.TypeServiceAccount, ID: "u1", Credential: authz.CredentialAPIKey, User: &authz.UserFacts{ID: "u1", Name: "bot"}, Key: &authz.KeyFacts{ID: "k1"}},
		"asserted": {Type: "robot", ID: "r2", Credential: authz.CredentialAsserted, Properties: map[string]any{"model": 2},
			AssertedBy: &authz.Asserter{Type: "service_account", ID: "u3", KeyID: "k1"}, Known: true},
		"asserted user": {Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialAsserted, User: user, AssertedBy: &authz.Asserter{Type: "system", ID: "cli"}},
		"anonymous":     {Type: authz.TypeAnonymous, Credential: authz.CredentialNone},
	}
}

// The schema describes every document that the engine puts to a policy.
func TestInputSchemaDescribesTheInput(t *testing.T) {
	s := inputSchema(t)
	for name, id := range everybody() {
		subject, err := authz.NewSubject(id)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []time.Time{born, born.AddDate(0, 0, 2)} {
			doc := authz.Request{
				Subject:  subject,
				Action:   authz.Action{Name: "read", Properties: map[string]any{"n": 1}},
				Resource: authz.Resource{Type: "document", ID: "d1", Known: at == born},
				Context:  map[string]any{"own": true},
			}.Document(&authz.Facts{IP: "::1", UserAgent: "test", Method: "GET", Path: "/"}, at)
			if err := s.Validate(plain(t, doc)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestInputSchemaRefusesOthers(t *testing.T) {
	s := inputSchema(t)
	const good = `{"principal": {"type": "user", "id": "u1", "credential": "session", "roles": ["admin"]},
		"action": {"name": "read", "properties": {}}, "resource": {"type": "document", "properties": {}}, "context": {"time": "2026-01-02T03:04:05Z"}}`
	var doc map[string]any
	if err := json.Unmarshal([]byte(good), &doc); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(doc); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(principal, doc map[string]any){
		func(p, doc map[string]any) { delete(doc, "principal") },
		func(p, doc map[string]any) { doc["subject"] = p },
		func(p, doc map[string]any) { delete(p, "type") },
		func(p, doc map[string]any) { p["type"] = 1 },
		func(p, doc map[string]any) { p["roles"] = "admin" },
		func(p, doc map[string]any) { p["credential"] = "password" },
		func(p, doc map[string]any) { p["admin"] = true },
		func(p, doc map[string]any) { p["user"] = map[string]any{"id": "u1"} },
		func(p, doc map[string]any) { p["key"] = nil },
		func(p, doc map[string]any) { p["known"] = false },
		func(p, doc map[string]any) { doc["resource"].(map[string]any)["known"] = "yes" },
		func(p, doc map[string]any) { p["session"] = map[string]any{"id": "s1"} },
		func(p, doc map[string]any) { doc["context"] = map[string]any{"time": "noon"} },
	} {
		var doc map[string]any
		if err := json.Unmarshal([]byte(good), &doc); err != nil {
			t.Fatal(err)
		}
		change(doc["principal"].(map[string]any), doc)
		if err := s.Validate(doc); err == nil {
			t.Errorf("accepted: %v", doc)
		}
	}
}

// Under the schema OPA's type checker accepts the built-in rules, and finds
// misspelt members of the input in others.
func TestInputSchemaServesTheTypeChecker(t *testing.T) {
	var schema any
	if err := json.Unmarshal(policies.InputSchema(), &schema); err != nil {
		t.Fatal(err)
	}
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, schema)
	b, err := policies.Load(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func(more map[string]string) error {
		modules := map[string]*ast.Module{}
		for name, text := range b.Source.Modules {
			modules[name] = ast.MustParseModule(text)
		}
		for name, text := range more {
			modules[name] = ast.MustParseModule(text)
		}
		c := ast.NewCompiler().WithSchemas(set).WithUseTypeCheckAnnotations(true)
		if c.Compile(modules); c.Failed() {
			return c.Errors
		}
		return nil
	}
	if err := check(nil); err != nil {
		t.Error(err)
	}
	err = check(map[string]string{"misspelt.rego": "package app.document\n\nallow if input.principal.rolles[_] == \"x\"\n"})
	if err == nil {
		t.Error("input.principal.rolles: not found")
	}
}

func plain(t *testing.T, v any) any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The schema of data, which editors have, and the tables that are read agree about
// what is right.
func TestDataSchemaIsWhatTablesAre(t *testing.T) {
	schemas, err := policies.Schemas()
	if err != nil {
		t.Fatal(err)
	}
	s := schemaOf(t, schemas["data.json"])
	for data, right := range map[string]bool{
		`{}`: true,
		`{"roles":{"editor":{"document":["read","*"]},"a:b c":{}},"self":{"user":["get"]},"actions":{"document":["read"]},"mine":[1]}`: true,
		`{"settings":{"sign_up":false,"admin_roles":["admin"],"admin_user_ids":[],"default_role":"user"}}`:                             true,
		`{"routes":[{"method":"*","pattern":"/*","permission":"public"},{"method":"GET","pattern":"/a/{b}","permission":"site:use"}]}`: true,
		`{"ostiary":{}}`:                               false,
		`{"permits":{}}`:                               false,
		`{"roles":[]}`:                                 false,
		`{"roles":{"a,b":{}}}`:                         false,
		`{"roles":{" a":{}}}`:                          false,
		`{"roles":{"":{}}}`:                            false,
		`{"roles":{"a":{"document":"read"}}}`:          false,
		`{"roles":{"a":{"document":[5]}}}`:             false,
		`{"roles":{"a":{"document":[""]}}}`:            false,
		`{"roles":{"a":{"":["read"]}}}`:                false,
		`{"self":{"user":true}}`:                       false,
		`{"actions":{"document":{}}}`:                  false,
		`{"settings":{"signup":true}}`:                 false,
		`{"settings":{"sign_up":"yes"}}`:               false,
		`{"settings":{"default_role":""}}`:             false,
		`{"settings":{"admin_roles":"admin"}}`:         false,
		`{"routes":{}}`:                                false,
		`{"routes":[{"method":"GET","pattern":"/a"}]}`: false,
		`{"routes":[{"method":"get","pattern":"/a","permission":"public"}]}`:               false,
		`{"routes":[{"method":"GET","pattern":"a","permission":"public"}]}`:                false,
		`{"routes":[{"method":"GET","pattern":"/a","permission":"use"}]}`:                  false,
		`{"routes":[{"method":"GET","pattern":"/a","permission":"public","note":"mine"}]}`: false,
	} {
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(doc); (err == nil) != right {
			t.Errorf("schema of %s: got %v", data, err)
		}
		if _, err := policies.Load(folder("data.json", data), nil); (err == nil) != right {
			t.Errorf("tables of %s: got %v", data, err)
		}
	}
}
