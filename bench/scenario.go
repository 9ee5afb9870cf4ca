package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary/authz"
)

// The scenario that every engine is given: 22 roles, of which twenty are the
// application's with ten statements each; sessions and keys; ownership; guards.
const customRoles = 20

// statements returns what a custom role permits, as resource type to actions.
func statements(role int) map[string][]string {
	return map[string][]string{
		kind(role):      {"create", "read", "update", "delete", "share"},
		kind(role + 1):  {"read", "comment", "list"},
		kind(role + 10): {"read", "list"},
	}
}

func kind(n int) string { return fmt.Sprintf("document%d", n%customRoles) }

func role(n int) string { return fmt.Sprintf("role%d", n) }

// bundle is what an author adds to the built-in rules: the roles.
func bundle() fs.FS {
	roles := map[string]any{"user": map[string]any{}}
	for n := range customRoles {
		roles[role(n)] = statements(n)
	}
	text, err := json.Marshal(map[string]any{"roles": roles})
	if err != nil {
		panic(err)
	}
	return fstest.MapFS{"data.json": {Data: text}}
}

// A question, with what everybody has to answer.
type question struct {
	name  string
	who   authz.Identity
	what  authz.Request // without the subject
	allow bool
	role  bool // it is about roles alone, which is all that Casbin is asked
}

// typical is the question that is asked of all engines, Casbin included;
// keyed is the same by somebody with an API key.
const (
	typical = "typical"
	keyed   = "key"
)

func questions() []question {
	person := func(id string, roles ...string) authz.Identity {
		return authz.Identity{
			Type: authz.TypeUser, ID: id, Credential: authz.CredentialSession, Roles: roles,
			User:    &authz.UserFacts{ID: id, Name: id, Email: id + "@example.com", EmailVerified: true},
			Session: &authz.SessionFacts{ID: "s-" + id, CreatedAt: time.Unix(1e9, 0), FreshUntil: time.Now().Add(24 * time.Hour)},
		}
	}
	withKey := func(id authz.Identity, grants authz.Permissions) authz.Identity {
		id.Credential, id.Session = authz.CredentialAPIKey, nil
		id.Key = &authz.KeyFacts{ID: "k-" + id.ID, Name: "ci", Permissions: grants}
		return id
	}
	ann := person("ann", "user", role(3), role(7))
	root := person("root", "user", "admin")
	banned := person("ben", "user", role(3))
	banned.User = &authz.UserFacts{ID: "ben", Name: "ben", Banned: true}
	impersonated := person("ann", "user", role(3))
	impersonated.Session = &authz.SessionFacts{ID: "s-ann", ImpersonatedBy: "root", FreshUntil: time.Now().Add(24 * time.Hour)}
	about := func(action, kind, id string, properties map[string]any) authz.Request {
		return authz.Request{Action: authz.Action{Name: action}, Resource: authz.Resource{Type: kind, ID: id, Properties: properties}}
	}
	narrow := authz.Permissions{kind(3): {"read", "list"}, "user": {"list"}}
	return []question{
		{typical, ann, about("update", kind(7), "d1", nil), true, true},
		{keyed, withKey(ann, narrow), about("read", kind(3), "d1", nil), true, false},
		{"key-not-granted", withKey(ann, narrow), about("delete", kind(3), "d1", nil), false, false},
		{"key-no-role", withKey(ann, narrow), about("list", "user", "", nil), false, false},
		{"no-role", ann, about("read", kind(15), "d1", nil), false, true},
		{"second-type", ann, about("comment", kind(8), "d1", nil), true, true},
		{"own", ann, about("get", "user", "ann", nil), true, false},
		{"not-own", ann, about("get", "user", "bob", nil), false, false},
		{"admin", root, about("list", "user", "", nil), true, true},
		{"admin-ban", root, about("ban", "user", "bob", map[string]any{"lastAdmin": false}), true, false},
		{"last-admin", root, about("ban", "user", "root", map[string]any{"lastAdmin": true}), false, false},
		{"banned", banned, about("read", kind(3), "d1", nil), false, false},
		{"impersonating", impersonated, about("change-password", "user", "ann", nil), false, false},
		{"impersonating-reads", impersonated, about("read", kind(3), "d1", nil), true, false},
		{"unknown-action", ann, about("explode", kind(3), "d1", nil), false, true},
		{"unknown-type", ann, about("read", "spaceship", "d1", nil), false, true},
		{"admin-key", withKey(root, narrow), about("list", "user", "", nil), true, false},
	}
}

// floor is the scenario written by hand in Go: what no engine can be faster than.
func floor(q *question, roles map[string]map[string]map[string]bool) bool {
	id, r := &q.who, &q.what
	if id.User == nil || id.User.Banned {
		return false
	}
	if k := id.Key; k != nil && !slices.Contains(k.Permissions[r.Resource.Type], r.Action.Name) {
		return false
	}
	own := r.Resource.Type == "user" && r.Resource.ID == id.ID
	if r.Resource.Type == "user" {
		switch r.Action.Name {
		case "change-password", "change-email":
			if id.Session != nil && id.Session.ImpersonatedBy != "" {
				return false
			}
		case "ban", "delete":
			if r.Resource.Properties["lastAdmin"] != false {
				return false
			}
		}
	}
	if own && (r.Action.Name == "get" || r.Action.Name == "update" || r.Action.Name == "change-password") {
		return true
	}
	for _, name := range id.Roles {
		if roles[name][r.Resource.Type][r.Action.Name] {
			return true
		}
	}
	return false
}
