package policies_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

var fence = regexp.MustCompile("(?s)```(\\w+)\n(.*?)```")

// The documentation shows rules of the examples, which have tests, and an input
// that is one.
func TestDocumentationShowsWhatIsTested(t *testing.T) {
	page, err := os.ReadFile("../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../examples/policies/*/*.rego")
	if err != nil {
		t.Fatal(err)
	}
	var examples strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		examples.Write(text)
	}
	schema := inputSchema(t)
	rules, inputs := 0, 0
	moving, err := os.ReadFile("../docs/better-auth.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range fence.FindAllStringSubmatch(string(page)+string(moving), -1) {
		switch {
		case m[1] == "rego":
			rules++
			if !strings.Contains(examples.String(), m[2]) {
				t.Errorf("not in examples/policies:\n%s", m[2])
			}
		case m[1] == "json" && strings.Contains(m[2], `"principal"`):
			inputs++
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(m[2])))
			if err == nil {
				err = schema.Validate(doc)
			}
			if err != nil {
				t.Errorf("input: %v\n%s", err, m[2])
			}
		}
	}
	if rules == 0 || inputs == 0 {
		t.Errorf("found %d rules and %d inputs", rules, inputs)
	}
	// Every permission and setting of the tables is on the page.
	b := mustLoad(t, nil, nil)
	for resourceType, actions := range b.Roles["admin"] {
		for _, name := range append(actions, resourceType) {
			if !strings.Contains(string(page), "`"+name+"`") {
				t.Errorf("%s:%s is not documented", resourceType, name)
			}
		}
	}
	for name := range b.Source.Data["settings"].(map[string]any) {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("setting %s is not documented", name)
		}
	}
	if len(policies.InputSchema()) == 0 {
		t.Error("no schema")
	}
}

// The recipe for tenants is a filter, as the documentation says.
func TestDocumentationTenantsAreAFilter(t *testing.T) {
	b := mustLoad(t, os.DirFS("../examples/policies/tenants"), nil)
	p, err := authz.Compile(t.Context(), b.Source)
	if err != nil {
		t.Fatal(err)
	}
	e := authz.NewEngine(authz.Options{})
	e.Swap(p)
	ann, err := authz.NewSubject(authz.Identity{
		Type: "user", ID: "ann", Credential: authz.CredentialSession, Roles: []string{"member"}, Session: &authz.SessionFacts{ID: "s1"},
		User: &authz.UserFacts{ID: "ann", Attributes: map[string]any{"tenant": "acme"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	question := authz.Request{Subject: ann, Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "project"}}
	f, err := e.Filter(t.Context(), question, authz.UnknownResource, authz.Fields{"properties.tenant": authz.TextOrNull}.Kind)
	if err != nil || !f.Exact() || f.Sure.String() != `properties.tenant eq "acme"` {
		t.Errorf("got %v, %v", f.Sure, err)
	}
}
