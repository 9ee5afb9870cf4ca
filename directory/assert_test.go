package directory_test

import (
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
)

// principal is the principal of the input in a question about subject.
func (h *house) principal(caller authn.Principal, subject directory.Ref) map[string]any {
	h.Helper()
	s := must(h.Assert(h.Context(), caller, "evaluate", subject))(h)
	in, _ := h.decide(authz.Request{Subject: s, Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "document"}})
	return in["principal"].(map[string]any)
}

// A user that is known brings what is stored. Roles come from nowhere else.
func TestAKnownUserBringsWhatIsStored(t *testing.T) {
	each(t, nil, func(t *testing.T, h *house) {
		bot := h.user(func(u *authn.NewUser) {
			u.ServiceAccount, u.Roles, u.RolesGiven = true, []string{"editor"}, true
			u.Attributes = map[string]any{"team": "blue", "level": "low"}
		})
		p := h.principal(h.key, directory.Ref{Type: "user", ID: bot.ID, Properties: map[string]any{"level": "high", "roles": []any{"admin"}, "known": false}})
		same(t, "type", p["type"], "service_account")
		same(t, "credential", p["credential"], "asserted")
		same(t, "known", p["known"], true)
		same(t, "roles", p["roles"], []any{"editor"})
		same(t, "properties", p["properties"], map[string]any{"team": "blue", "level": "high", "roles": []any{"admin"}, "known": false})
		same(t, "attributes", p["user"].(map[string]any)["attributes"], map[string]any{"team": "blue", "level": "low"})
		by := h.key.Subject().Identity()
		same(t, "assertedBy", p["assertedBy"], map[string]any{"type": "user", "id": by.ID, "keyId": by.Key.ID})

		same(t, "by its own type", h.principal(h.key, directory.Ref{Type: "service_account", ID: bot.ID})["known"], true)
		person := h.user()
		p = h.principal(h.key, directory.Ref{Type: "service_account", ID: person.ID})
		same(t, "a person as service account", []any{p["known"], p["user"], p["type"]}, []any{nil, nil, "service_account"})
		same(t, "a person", h.principal(h.key, directory.Ref{Type: "user", ID: person.ID})["type"], "user")
	})
}

// A ban is in force for who is merely named, from the next question on.
func TestABannedUserIsBannedAlsoWhenAsserted(t *testing.T) {
	each(t, nil, func(t *testing.T, h *house) {
		u := h.user(func(u *authn.NewUser) { u.Roles, u.RolesGiven = []string{"admin"}, true })
		ask := func() authz.Decision {
			s := must(h.Assert(t.Context(), h.key, "evaluate", directory.Ref{Type: "user", ID: u.ID}))(t)
			_, d := h.decide(authz.Request{Subject: s, Action: authz.Action{Name: "list"}, Resource: authz.Resource{Type: "user"}})
			return d
		}
		if d := ask(); !d.Allow {
			t.Fatalf("before: %+v", d)
		}
		must(h.users.Ban(t.Context(), system, u.ID, "", time.Hour))(t)
		if d := ask(); d.Allow || d.Reasons[0].Code != "owner_banned" {
			t.Errorf("after: %+v", d)
		}
	})
}

func TestAStoredSubjectBringsItsProperties(t *testing.T) {
	each(t, nil, func(t *testing.T, h *house) {
		u := h.user()
		h.put(map[string]map[string]any{
			"user/alice": {"role": "admin", "team": "blue"}, "robot/r2": {"model": 2}, "user/" + u.ID: {"role": "forged"},
		})
		p := h.principal(h.key, directory.Ref{Type: "user", ID: "alice", Properties: map[string]any{"team": "red"}})
		same(t, "properties", p["properties"], map[string]any{"role": "admin", "team": "red"})
		same(t, "known", p["known"], true)
		same(t, "roles", p["roles"], []any{})
		same(t, "user", p["user"], nil)
		same(t, "robot", h.principal(h.key, directory.Ref{Type: "robot", ID: "r2"})["known"], true)
		same(t, "a real user and an entity of the same id", h.principal(h.key, directory.Ref{Type: "user", ID: u.ID})["properties"], map[string]any{})

		for _, unknown := range []directory.Ref{{Type: "robot", ID: "c3"}, {Type: "robot", ID: "alice"}, {Type: "user", ID: "r2"}, {Type: "new", ID: "x"}, {Type: "user"}} {
			p := h.principal(h.key, directory.Ref{Type: unknown.Type, ID: unknown.ID, Properties: map[string]any{"role": "admin"}})
			same(t, unknown.ID, []any{p["known"], p["roles"], p["properties"], p["type"]}, []any{nil, []any{}, map[string]any{"role": "admin"}, unknown.Type})
		}
	})
}

// What an operator protects, a caller cannot say of anybody.
func TestProtectedPropertiesComeFromTheStoreAlone(t *testing.T) {
	h := open(t, "sqlite::memory:", nil, func(o *directory.Options) { o.Protected = []string{"role", "level"} })
	h.put(map[string]map[string]any{"user/bob": {"role": "clerk"}})
	said := map[string]any{"role": "admin", "level": 9, "team": "red"}
	same(t, "stored", h.principal(h.key, directory.Ref{Type: "user", ID: "bob", Properties: said})["properties"], map[string]any{"role": "clerk", "team": "red"})
	same(t, "unknown", h.principal(h.key, directory.Ref{Type: "user", ID: "eve", Properties: said})["properties"], map[string]any{"team": "red"})
	same(t, "the caller's own map", len(said), 3)
}

// Who may assert, and whom, is decided by the policy, which sees all that is
// asserted.
func TestAssertingIsForThoseWhomThePolicyPermits(t *testing.T) {
	h := open(t, "sqlite::memory:", files{"access.rego": `package app.access

deny contains "not robots" if input.resource.properties.subject.type == "robot"

deny contains "no roles" if _ = input.resource.properties.subject.properties.role

deny contains "not eve" if input.resource.properties.subject.id == "eve"
`})
	for name, who := range map[string]directory.Ref{
		"type": {Type: "robot", ID: "r2"}, "property": {Type: "user", ID: "bob", Properties: map[string]any{"role": "admin"}}, "id": {Type: "user", ID: "eve"},
	} {
		_, err := h.Assert(t.Context(), h.key, "evaluate", who)
		t.Run(name, func(t *testing.T) { denied(t, err, "denied") })
	}
	must(h.Assert(t.Context(), h.key, "evaluate", directory.Ref{Type: "user", ID: "bob"}))(t)

	_, err := h.Assert(t.Context(), h.caller(authz.Permissions{"access": {"search"}}, "admin"), "evaluate", directory.Ref{Type: "user", ID: "bob"})
	denied(t, err, "grant_missing")
	_, err = h.Assert(t.Context(), h.caller(authz.Permissions{"access": {"evaluate"}}), "evaluate", directory.Ref{Type: "user", ID: "bob"})
	denied(t, err, "role_missing")
	if _, err := h.Assert(t.Context(), authn.Principal{}, "evaluate", directory.Ref{Type: "user", ID: "bob"}); err != authn.ErrUnauthenticated {
		t.Errorf("nobody: got %v", err)
	}
}

func TestAssertionsOfOneRequestAreDecidedOnce(t *testing.T) {
	h := open(t, "sqlite::memory:", nil)
	a := h.Assertions(h.key, "evaluate")
	refs := []directory.Ref{
		{Type: "user", ID: "a"}, {Type: "user", ID: "a", Properties: map[string]any{"x": 1, "y": 2}}, {Type: "user", ID: "b"}, {Type: "usera", ID: ""},
	}
	var first []*authz.Subject
	for range 3 {
		for i, r := range refs {
			s := must(a.Subject(t.Context(), r))(t)
			if len(first) < len(refs) {
				first = append(first, s)
			} else if first[i] != s {
				t.Errorf("%+v was made again", r)
			}
		}
	}
	if n := len(h.records.requests); n != len(refs) {
		t.Errorf("%d decisions about %d subjects", n, len(refs))
	}
	for i := range first[1:] {
		if first[i] == first[i+1] {
			t.Errorf("%+v and %+v are one", refs[i], refs[i+1])
		}
	}
	mute := h.Assertions(h.caller(nil), "evaluate")
	before := len(h.records.requests)
	for range 3 {
		_, err := mute.Subject(t.Context(), refs[0])
		denied(t, err, "role_missing")
	}
	if n := len(h.records.requests) - before; n != 1 {
		t.Errorf("%d decisions about a denied one", n)
	}
}

// Somebody who is merely named has nothing of their own to decide with: neither
// an entity nor an unknown one becomes an account.
func TestANameAloneIsNoAccount(t *testing.T) {
	h := open(t, "sqlite::memory:", nil)
	h.put(map[string]map[string]any{"user/alice": {"role": "admin"}})
	for _, id := range []string{"alice", "nobody"} {
		s := must(h.Assert(t.Context(), h.key, "evaluate", directory.Ref{Type: "user", ID: id, Properties: map[string]any{"roles": []any{"admin"}}}))(t)
		for _, action := range []string{"get", "update", "list"} {
			_, d := h.decide(authz.Request{Subject: s, Action: authz.Action{Name: action}, Resource: authz.Resource{Type: "user", ID: id}})
			if d.Allow {
				t.Errorf("%s may %s: %+v", id, action, d.Reasons)
			}
		}
	}
}
