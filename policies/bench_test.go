package policies_test

import (
	"context"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

// What one decision of the built-in rules costs.
func BenchmarkDecide(b *testing.B) {
	e := authz.NewEngine(authz.Options{})
	if _, err := policies.Open(b.Context(), policies.Options{Engine: e}); err != nil {
		b.Fatal(err)
	}
	ann := authz.Identity{
		Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialSession, Roles: []string{"user", "admin"},
		User:    &authz.UserFacts{ID: "u1", Name: "ann"},
		Session: &authz.SessionFacts{ID: "s1", FreshUntil: time.Now().Add(time.Hour)},
	}
	key := ann
	key.Credential, key.Session = authz.CredentialAPIKey, nil
	key.Key = &authz.KeyFacts{ID: "k1", Name: "System", Permissions: authz.Permissions{"user": {"list"}}}
	list := authz.Request{Action: authz.Action{Name: "list"}, Resource: authz.Resource{Type: "user"}}
	own := authz.Request{Action: authz.Action{Name: "get"}, Resource: authz.Resource{Type: "user", ID: "u1"}}
	ban := authz.Request{Action: authz.Action{Name: "ban"}, Resource: authz.Resource{Type: "user", ID: "u2", Properties: map[string]any{"lastAdmin": false}}}
	for _, bm := range []struct {
		name  string
		who   authz.Identity
		what  authz.Request
		allow bool
	}{
		{"role", ann, list, true},
		{"guarded", ann, ban, true},
		{"self", func() authz.Identity { p := ann; p.Roles = []string{"user"}; return p }(), own, true},
		{"key", key, list, true},
		{"denied", key, ban, false},
	} {
		b.Run(bm.name, func(b *testing.B) {
			subject, err := authz.NewSubject(bm.who)
			if err != nil {
				b.Fatal(err)
			}
			bm.what.Subject = subject
			b.ReportAllocs()
			for b.Loop() {
				d, err := e.Decide(context.Background(), bm.what)
				if err != nil || d.Allow != bm.allow {
					b.Fatalf("got %+v, %v", d, err)
				}
			}
		})
	}
}
