package authz_test

import (
	"encoding/json"
	"testing"

	"github.com/ostiary/ostiary/authz"
)

var bookFields = authz.Fields{
	"id": authz.AlwaysText, "properties.owner": authz.Text, "properties.size": authz.Number, "properties.open": authz.Boolean,
	"properties.note": authz.TextOrNull, "properties.tags": authz.AnyJSON, "properties.any": authz.AnyJSON,
}

// What a policy says of things that are not known, as a condition.
func TestFilterIsWhatThePolicySays(t *testing.T) {
	for _, c := range []struct{ rules, want string }{
		{`passes if input.resource.properties.owner == input.principal.id`, `properties.owner eq "ann"`},
		{`passes if input.action.name == "read"`, `always`},
		{`passes if input.action.name == "write"`, `never`},
		{`passes if { input.resource.properties.size > 3; input.resource.properties.size <= 5 }`, `(properties.size gt 3 and properties.size lte 5)`},
		{`passes if 3 < input.resource.properties.size`, `properties.size gt 3`},
		{"passes if input.resource.properties.open\n\npasses if input.resource.id in {\"a\", \"b\"}", `((defined(properties.open) and not properties.open eq false) or id eq "a" or id eq "b")`},
		{`passes if not input.resource.properties.owner == "bob"`, `not properties.owner eq "bob"`},
		// What a function is called with has to be there, also before a not.
		{`passes if not input.resource.properties.size < 3`, `(not properties.size lt 3 and defined(properties.size))`},
		{"passes if not archived\n\narchived if input.resource.properties.open == false", `not properties.open eq false`},
		{"default archived := false\n\npasses if not archived\n\narchived if input.resource.properties.open", `not (defined(properties.open) and not properties.open eq false)`},
		{`passes if "x" in input.resource.properties.tags`, `properties.tags has "x"`},
		{`passes if input.resource.properties.tags[_] == "x"`, `properties.tags has "x"`},
		{`passes if startswith(input.resource.properties.owner, "a")`, `(defined(properties.owner) and properties.owner startswith "a")`},
		// Types differ: the order of types decides.
		{`passes if input.resource.properties.owner == 5`, `never`},
		{`passes if input.resource.properties.owner != 5`, `defined(properties.owner)`},
		{`passes if input.resource.properties.owner > 5`, `defined(properties.owner)`},
		{`passes if input.resource.properties.size > "5"`, `never`},
		{`passes if input.resource.properties.note == null`, `not defined(properties.note)`},
		{`passes if input.resource.properties.note != "x"`, `(properties.note ne "x" or not defined(properties.note))`},
		{`passes if input.resource.properties.note < "x"`, `(properties.note lt "x" or not defined(properties.note))`},
		{`passes if is_string(input.resource.properties.note)`, `defined(properties.note)`},
		{`passes if input.resource.properties.owner == input.resource.id`, `properties.owner eq id`},
		// Data is known.
		{`passes if data.teams[input.resource.properties.owner] == "red"`, `properties.owner eq "ann"`},
		{"passes if not forbidden\n\nforbidden if count(deny) > 0\n\ndeny contains \"x\" if input.resource.properties.open == true", `not properties.open eq true`},

		// What cannot be said is left to decisions, among what the rest selects.
		{`passes if { input.resource.properties.owner == "ann"; count(input.resource.properties.tags) > 1 }`, `sure: never; maybe: properties.owner eq "ann"`},
		{`passes if lower(input.resource.properties.owner) == "ann"`, `sure: never; maybe: always`},
		{`passes if input.resource.properties.unknown == 1`, `sure: never; maybe: always`},
		{`passes if every tag in input.resource.properties.tags { tag != "x" }`, `sure: never; maybe: always`},
		// Where partial evaluation is not to be trusted, nothing is sure.
		{`passes if input.resource.properties.open == input.resource.properties.open`, `sure: never; maybe: always`},
		{`passes if { owner := input.resource.properties.owner; not owner == "bob" }`, `sure: (not properties.owner eq "bob" and defined(properties.owner)); maybe: not properties.owner eq "bob"`},
		{`passes if { b := input.resource.properties.open == true; not b }`, `(not properties.open eq true and defined(properties.open))`},
		{"passes if f(input.resource.properties.owner == \"x\")\n\nf(b) if not b", `(not properties.owner eq "x" and defined(properties.owner))`},
		{`passes if { o := {"k": input.resource.properties.owner}; not o.k == "a" }`, `sure: (not properties.owner eq "a" and defined(properties.owner)); maybe: not properties.owner eq "a"`},
		{`passes if { o := [input.resource.properties.owner]; not o[0] == "a" }`, `sure: (not properties.owner eq "a" and defined(properties.owner)); maybe: not properties.owner eq "a"`},
		// What may have two values at once fails the decision.
		{"passes if role == \"a\"\n\nrole := \"a\" if input.resource.properties.size == 1\n\nrole := \"b\" if input.resource.properties.open", `sure: never; maybe: properties.size eq 1`},
		{"passes if role == \"a\"\n\nrole := r if some r in input.resource.properties.tags", `sure: never; maybe: properties.tags has "a"`},
		{"passes if input.resource.properties.size == 1\n\nbook.context := to_number(input.resource.properties.owner)", `sure: never; maybe: properties.size eq 1`},
		{"passes if input.resource.properties.size == 1\n\nbook.context := {\"fields\": [\"a\"]}", `properties.size eq 1`},
		// Long numbers are not kept to the last digit everywhere.
		{`passes if input.resource.properties.any > 3`, `sure: (properties.any gt 3 and not long(properties.any)); maybe: (properties.any gt 3 or long(properties.any))`},
		{`passes if input.resource.properties.owner == "a\u0000b"`, `sure: never; maybe: always`},
		{`passes if input.resource.properties["a.b"] == "x"`, `sure: never; maybe: always`},
		// A search in what is no text fails the decision.
		{`passes if contains(input.resource.properties.any, "x")`,
			`sure: (is_text(properties.any) and properties.any contains "x" and not (defined(properties.any) and not is_text(properties.any))); ` +
				`maybe: ((is_text(properties.any) and properties.any contains "x") or (defined(properties.any) and not is_text(properties.any)))`},
	} {
		src := minimal("")
		// In a package of its own: what is said of Ostiary's rules is proven otherwise.
		src.Modules["policy.rego"] = "package ostiary\n\npermissions := {}\n\nown_permissions := {}\n\n" + allowAll + "\n\npasses if data.app.passes\n"
		src.Modules["app.rego"] = "package app\n\n" + c.rules + "\n"
		src.Data["teams"] = map[string]any{"ann": "red", "bob": "blue"}
		e := engine(t, src, authz.Options{})
		f, err := e.Filter(t.Context(), authz.Request{
			Subject:  subject(t, authz.Identity{Type: "user", ID: "ann", Credential: authz.CredentialSession}),
			Action:   authz.Action{Name: "read"},
			Resource: authz.Resource{Type: "book"},
		}, authz.UnknownResource, bookFields.Kind)
		if err != nil || f.String() != c.want {
			t.Errorf("%s:\n got %s, %v\nwant %s", c.rules, f, err, c.want)
		}
	}
}

func TestFilterTakesWhatIsSaidOfEveryCandidate(t *testing.T) {
	src := minimal(allowAll + "\n\npasses if { input.resource.properties.owner == \"ann\"; input.resource.properties.size > 3 }\n")
	e := engine(t, src, authz.Options{})
	for _, c := range []struct {
		given map[string]any
		want  string
	}{
		{map[string]any{"owner": "ann"}, `properties.size gt 3`},
		{map[string]any{"owner": "bob"}, `never`},
		{map[string]any{"owner": "ann", "size": json.Number("4")}, `always`},
		{map[string]any{"size": "4"}, `properties.owner eq "ann"`}, // text is above numbers
	} {
		f, err := e.Filter(t.Context(), authz.Request{Resource: authz.Resource{Type: "book", Properties: c.given}}, authz.UnknownResource, bookFields.Kind)
		if err != nil || f.String() != c.want {
			t.Errorf("%v: got %s, %v, want %s", c.given, f, err, c.want)
		}
	}
}

// A key that is not granted the permission has an empty list, whatever the policy says.
func TestFilterNeverWidensAKey(t *testing.T) {
	e := engine(t, minimal(allowAll+"\n\npasses := true\n"), authz.Options{})
	for grant, want := range map[string]string{"read": "always", "write": "never"} {
		f, err := e.Filter(t.Context(), authz.Request{
			Subject: subject(t, authz.Identity{Type: "user", ID: "ann", Credential: authz.CredentialAPIKey, Key: &authz.KeyFacts{ID: "k", Permissions: authz.Permissions{"book": {grant}}}}),
			Action:  authz.Action{Name: "read"}, Resource: authz.Resource{Type: "book"},
		}, authz.UnknownResource, bookFields.Kind)
		if err != nil || f.String() != want {
			t.Errorf("granted %s: got %s, %v", grant, f, err)
		}
	}
}

func TestFilterWithoutPolicyIsAnError(t *testing.T) {
	if _, err := authz.NewEngine(authz.Options{}).Filter(t.Context(), authz.Request{}, authz.UnknownResource, bookFields.Kind); err == nil {
		t.Error("no error")
	}
	// A policy that says nothing about filters leaves all to decisions.
	f, err := engine(t, minimal(allowAll), authz.Options{}).Filter(t.Context(), authz.Request{}, authz.UnknownResource, bookFields.Kind)
	if err != nil || f.String() != "sure: never; maybe: always" {
		t.Errorf("got %s, %v", f, err)
	}
}

func TestNumbersThatDatabasesKeepExactly(t *testing.T) {
	for n, want := range map[json.Number]bool{
		"0": true, "-1": true, "1.5": true, "0.1": true, "1e3": true, "9007199254740992": true, "-9007199254740992": true, "1e300": true,
		"9007199254740993": false, "0.1000000000000000055511": false, "1e400": false, "12345678901234567890": false, "x": false, "": false,
	} {
		if got := authz.ExactNumber(n); got != want {
			t.Errorf("%s: got %v", n, got)
		}
	}
}
