package authn_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// support is what an author writes who wants support to see some people only. The
// first rule becomes a part of the query; the second cannot.
func support(rule string) fstest.MapFS {
	return fstest.MapFS{
		"data.json": {Data: []byte(`{"roles": {"support": {"user": ["list", "get"], "apiKey": ["read"]}}}`)},
		"user.rego": {Data: []byte(`package app.user

deny contains "support sees only users" if {
	"support" in input.principal.roles
	input.action.name in {"list", "get"}
	` + rule + `
}`)},
		"key.rego": {Data: []byte(`package app.apiKey

deny contains "secret" if {
	"support" in input.principal.roles
	` + strings.ReplaceAll(rule, "role", "name") + `
}`)},
	}
}

func TestListsHoldWhatThePolicyLetsBeSeen(t *testing.T) {
	for name, rule := range map[string]string{
		"as a condition": `input.resource.properties.role != "user"`,
		"one by one":     `lower(sprintf("%v", [input.resource.properties.role])) != "user"`,
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			h.author(support(rule))
			me := h.user("sup", "support")
			h.user("root", "admin")
			h.user("both", "user", "support")
			var want []string
			for _, name := range []string{"ann", "bob", "cid"} {
				want = append(want, h.user(name).ID)
			}
			caller := h.session(me)
			f, err := h.engine.Filter(t.Context(), authz.Request{Subject: caller.Subject(), Action: authz.Action{Name: "list"}, Resource: authz.Resource{Type: "user"}},
				authz.UnknownResource, authn.UserFields.Kind)
			if err != nil || f.Exact() != (name == "as a condition") {
				t.Errorf("the filter is %s, %v", f, err)
			}
			var got []string
			for offset := range 4 {
				us, total, err := h.Users(t.Context(), caller, authn.UserQuery{Limit: 1, Offset: offset})
				if err != nil {
					t.Fatal(err)
				}
				if total != 3 || len(us) > 1 {
					t.Errorf("offset %d: %d of %d", offset, len(us), total)
				}
				for _, u := range us {
					got = append(got, u.ID)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			// What a list leaves out cannot be read one by one either.
			all, _, err := h.Users(t.Context(), authn.System("test"), authn.UserQuery{})
			if err != nil || len(all) < 6 {
				t.Fatalf("%d users, %v", len(all), err)
			}
			for _, u := range all {
				_, err := h.User(t.Context(), caller, u.ID)
				if listed := slices.Contains(want, u.ID); listed != (err == nil) || !listed && !errors.Is(err, authz.ErrDenied) {
					t.Errorf("%s: listed %v, read %v", u.Name, listed, err)
				}
			}

			ann := all[slices.IndexFunc(all, func(u authn.User) bool { return u.Name == "ann" })]
			h.key(ann, nil, func(k *authn.NewKey) { k.Name = pointer("user") })
			h.key(ann, nil, func(k *authn.NewKey) { k.Name = pointer("secret one") })
			h.key(ann, nil)
			ks, total, err := h.Keys(t.Context(), caller, authn.KeyQuery{OwnerID: ann.ID, Limit: -1})
			if err != nil || total != 1 || len(ks) != 1 || *ks[0].Name != "user" {
				t.Errorf("%d keys of %d, %v", len(ks), total, err)
			}
			if _, total, err := h.Keys(t.Context(), h.session(ann), authn.KeyQuery{Limit: -1}); err != nil || total != 3 {
				t.Errorf("their own: %d, %v", total, err)
			}
		})
	}
}

// A rule that is no condition is asked about each candidate, up to a bound: then
// there is no list, rather than one that is short of some.
func TestAListThatCanNotBeJudgedWholeIsNone(t *testing.T) {
	h := open(t)
	caller := h.session(h.user("sup", "support"))
	_, total, err := h.Users(t.Context(), h.root, authn.UserQuery{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	const most = 10_000
	for _, c := range []struct {
		rule  string
		there int
		want  error
	}{
		{`lower(sprintf("%v", [input.resource.properties.role])) != "user"`, most, nil},
		{`lower(sprintf("%v", [input.resource.properties.role])) != "user"`, most + 1, authn.ErrUnavailable},
		{`input.resource.properties.role != "user"`, most + 1, nil}, // the store knows how to
	} {
		h.author(support(c.rule))
		h.reads.more = c.there - total
		us, _, err := h.Users(t.Context(), caller, authn.UserQuery{Limit: 1})
		if !errors.Is(err, c.want) || err != nil && us != nil {
			t.Errorf("%s of %d: %d users, %v, want %v", c.rule, c.there, len(us), err, c.want)
		}
	}
}
