package directory_test

import (
	"fmt"
	"testing"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
)

// The first page of 100 among 100,000 entities, by a policy that becomes a query and
// by one whose every candidate is decided about.
func BenchmarkSearchOf100000(b *testing.B) {
	h := open(b, "sqlite:"+b.TempDir()+"/bench.db", files{"record.rego": `package app.record

allow if {
	input.action.name == "view"
	input.resource.properties.owner == input.principal.id
	not input.resource.properties.status == "archived"
}

allow if {
	input.action.name == "weigh"
	lower(input.resource.properties.owner) == input.principal.id
}
`})
	var es []directory.Entity
	for i := range 100_000 {
		es = append(es, directory.Entity{Type: "record", ID: fmt.Sprintf("r%06d", i), Properties: map[string]any{
			"owner": fmt.Sprintf("u%d", i%100), "status": "active", "title": "A Midsummer Night's Dream", "size": i}})
	}
	if _, err := h.Import(b.Context(), authn.System("bench"), es); err != nil {
		b.Fatal(err)
	}
	for _, action := range []string{"view", "weigh"} {
		b.Run(action, func(b *testing.B) {
			for b.Loop() {
				f, err := h.Resources(b.Context(), h.key, directory.Search{
					Subject: directory.Ref{Type: "person", ID: "u42"}, Action: authz.Action{Name: action}, Resource: authz.Resource{Type: "record"}, Limit: 100,
				})
				// One that is decided about one by one ends at 10,000 candidates.
				if err != nil || len(f.IDs) < 90 || f.Next == "" {
					b.Fatalf("%d results, %v", len(f.IDs), err)
				}
			}
		})
	}
}
