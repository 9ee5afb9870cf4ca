package policies_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

// A role is written where it is, or else where others are, and nothing else in
// the bundle changes.
func TestRolesAreEditedWhereTheyAre(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		where string
		err   error
	}{
		"no table":               {map[string]string{"a.rego": "package a\n\nb := 1\n"}, "roles/data.json", nil},
		"at the root":            {map[string]string{"data.json": `{"n": 12345678901234567890, "roles": {"x": {}}}`}, "data.json", nil},
		"in a folder":            {map[string]string{"roles/data.json": `{"x": {"a": ["b"]}}`, "data.json": `{"n": 1}`}, "roles/data.json", nil},
		"elsewhere":              {map[string]string{"roles/data.json": `{"x": {}}`, "data.json": `{"roles": {"y": {}}}`}, "roles/data.json", nil},
		"in YAML":                {map[string]string{"data.yaml": "roles:\n  x: {}\n"}, "", policies.ErrRolesByHand},
		"in a folder of its own": {map[string]string{"roles/x/data.json": `{"a": ["b"]}`}, "", policies.ErrRolesByHand},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPress(t)
			i := p.open()
			_, err := i.Publish(t.Context(), p.admin, policies.Upload{Files: c.files})
			must(t, err)
			done, err := i.SetRole(t.Context(), p.admin, "x", authz.Permissions{"document": {"read"}}, policies.Upload{Note: "n"})
			if !errors.Is(err, c.err) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			if got := i.Bundle().Roles["x"]; !reflect.DeepEqual(got, authz.Permissions{"document": {"read"}}) {
				t.Errorf("role %v", got)
			}
			r, err := i.Revision(t.Context(), p.admin, done.Revision)
			must(t, err)
			for file, text := range c.files {
				if file != c.where && r.Files[file] != text {
					t.Errorf("%s: %q", file, r.Files[file])
				}
			}
			if !strings.Contains(r.Files[c.where], "document") || name == "at the root" && !strings.Contains(r.Files[c.where], "12345678901234567890") {
				t.Errorf("%s: %s", c.where, r.Files[c.where])
			}
			evs, err := p.db.Events(t.Context(), 1)
			must(t, err)
			change := evs[0].Details["roles"].(map[string]any)["x"].(map[string]any)
			if evs[0].Kind != "role.set" || evs[0].TargetID != "x" || !reflect.DeepEqual(change["after"], map[string]any{"document": []any{"read"}}) {
				t.Errorf("event %+v", evs[0])
			}
			_, err = i.DeleteRole(t.Context(), p.admin, "x", policies.Upload{})
			must(t, err)
			if _, still := i.Bundle().Roles["x"]; still {
				t.Error("the role is still there")
			}
		})
	}
}

func TestAssignedRolesStay(t *testing.T) {
	p := newPress(t)
	i := p.open()
	_, err := i.SetRole(t.Context(), p.admin, "x", nil, policies.Upload{})
	must(t, err)
	bob, err := i.authn.CreateUser(t.Context(), program, authn.NewUser{Name: "Bob", Email: "b@example.com", Roles: []string{"user", "x"}, RolesGiven: true})
	must(t, err)
	if _, err := i.DeleteRole(t.Context(), p.admin, "x", policies.Upload{}); !errors.Is(err, policies.ErrRoleAssigned) || !strings.Contains(err.Error(), bob.ID) {
		t.Errorf("assigned: %v", err)
	}
	if _, err := i.DeleteRole(t.Context(), p.admin, "user", policies.Upload{}); !errors.Is(err, policies.ErrBuiltinRole) {
		t.Errorf("built in: %v", err)
	}
	if _, err := i.DeleteRole(t.Context(), p.admin, "y", policies.Upload{}); !errors.Is(err, policies.ErrNoRole) {
		t.Errorf("unknown: %v", err)
	}
}
