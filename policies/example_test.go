package policies_test

import (
	"context"
	"fmt"
	"log"
	"testing/fstest"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

// Decisions alone: no database, no HTTP. The program says who asks.
func ExampleLoad() {
	ctx := context.Background()
	bundle, err := policies.Load(fstest.MapFS{"document.rego": {Data: []byte(`package app.document

allow if {
	input.action.name == "read"
	input.resource.properties.owner == input.principal.id
}
`)}}, nil)
	if err != nil {
		log.Fatal(err)
	}
	policy, err := authz.Compile(ctx, bundle.Source)
	if err != nil {
		log.Fatal(err)
	}
	engine := authz.NewEngine(authz.Options{})
	engine.Swap(policy)

	ann, err := authz.NewSubject(authz.Identity{Type: "user", ID: "ann", Credential: authz.CredentialAsserted, Roles: []string{"user"}})
	if err != nil {
		log.Fatal(err)
	}
	for _, owner := range []string{"ann", "bob"} {
		d, err := engine.Decide(ctx, authz.Request{
			Subject:  ann,
			Action:   authz.Action{Name: "read"},
			Resource: authz.Resource{Type: "document", ID: "d1", Properties: map[string]any{"owner": owner}},
		})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(owner, d.Allow, d.Reasons[0].Code)
	}
	// Output:
	// ann true app
	// bob false role_missing
}
