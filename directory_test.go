package ostiary_test

import (
	"testing"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
)

// Whoever changes an entity or a user, with whatever program, what is
// remembered of it here counts no more within the lease; and what was not
// there is found.
func TestEntityChangedBySQLIsNoticed(t *testing.T) {
	eachExisting(t, "current", func(t *testing.T, e *existing) {
		s := e.serve(ostiary.Options{Policies: fstest.MapFS{"document.rego": {Data: []byte(`package app.document

allow if input.resource.properties.state == "open"

allow if input.principal.properties.trusted

allow if input.principal.user
`)}}})
		if _, _, err := s.o.Directory().Put(t.Context(), program, directory.Entity{Type: "document", ID: "d", Properties: map[string]any{"state": "shut"}}); err != nil {
			t.Fatal(err)
		}
		allowed := func(document, robot, user string) bool {
			who := directory.Ref{Type: "robot", ID: robot}
			if user != "" {
				who = directory.Ref{Type: "user", ID: user}
			}
			subject, err := s.o.Directory().Assert(t.Context(), program, "evaluate", who)
			if err != nil {
				t.Fatal(err)
			}
			d, err := s.o.Decide(t.Context(), authz.Request{Subject: subject, Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "document", ID: document}})
			if err != nil {
				t.Fatal(err)
			}
			return d.Allow
		}
		const at = `'2027-01-01T00:00:00.000Z'`
		for _, c := range []struct{ sql, document, robot, user string }{
			{`UPDATE ostiary_entity SET "properties" = '{"state":"open"}' WHERE "id" = 'd'`, "d", "r", ""},
			{`INSERT INTO ostiary_entity ("type", "id", "properties", "updatedAt") VALUES ('document', 'new/one', '{"state":"open"}', ` + at + `)`, "new/one", "r", ""},
			{`INSERT INTO ostiary_entity ("type", "id", "properties", "updatedAt") VALUES ('robot', 'r', '{"trusted":true}', ` + at + `)`, "x", "r", ""},
			{`INSERT INTO "user" ("id", "name", "email", "emailVerified", "createdAt", "updatedAt") VALUES ('fresh', 'F', 'f@example.com', TRUE, ` + at + `, ` + at + `)`, "x", "", "fresh"},
		} {
			if allowed(c.document, c.robot, c.user) {
				t.Fatalf("before %s: allowed", c.sql)
			}
			e.exec(c.sql)
			for changed := time.Now(); !allowed(c.document, c.robot, c.user); time.Sleep(time.Millisecond) {
				if time.Since(changed) > 5*time.Second {
					t.Fatalf("not noticed: %s", c.sql)
				}
			}
		}
	})
}
