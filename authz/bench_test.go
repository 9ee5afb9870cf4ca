package authz_test

import (
	"testing"

	"github.com/ostiary/ostiary/authz"
)

// One decision through the engine with a policy that reads roles by look-up:
// what the engine itself costs. The built-in bundle is measured in package
// policies.
func BenchmarkDecide(b *testing.B) {
	src := minimal(`decision := {"allow": true, "reasons": [{"code": "role", "message": "a role permits it"}], "context": {}} if {
	some role in input.principal.roles
	data.permits[role][input.resource.type][input.action.name]
}

else := {"allow": false, "reasons": [{"code": "role_missing", "message": "no role permits it"}], "context": {}}`)
	src.Data["permits"] = map[string]any{"admin": map[string]any{"user": map[string]any{"list": true}}}
	e := engine(b, src, authz.Options{Memo: -1})
	r := listUsers
	r.Subject = subject(b, authz.Identity{Type: "user", ID: "u1", Credential: authz.CredentialSession, Roles: []string{"admin"}})
	b.ReportAllocs()
	for b.Loop() {
		if d, err := e.Decide(b.Context(), r); err != nil || !d.Allow {
			b.Fatal(err, d.Reasons)
		}
	}
}
