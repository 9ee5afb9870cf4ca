package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/internal/pgtest"
)

// The first page of a search among 100,000 entities: all match, one in a hundred,
// and one in ten thousand.
func BenchmarkFirstPageOfMatches(b *testing.B) {
	for name, dsn := range map[string]string{"sqlite": sqliteFile(b), "postgres": pgtest.Schema(b)} {
		db := open(b, dsn)
		var es []directory.Entity
		for i := range 100_000 {
			es = append(es, directory.Entity{Type: "record", ID: fmt.Sprintf("r%06d", i), UpdatedAt: time.Now(), Properties: map[string]any{
				"owner": fmt.Sprintf("u%d", i%100), "team": fmt.Sprintf("t%d", i%10_000), "size": i, "title": "Hamlet, Prince of Denmark", "open": i%2 == 0}})
		}
		if _, err := db.PutEntities(b.Context(), es, audit.Event{ID: "e"}); err != nil {
			b.Fatal(err)
		}
		// As a database does by itself, after a while.
		if _, err := db.writer.DB.ExecContext(b.Context(), "ANALYZE"); err != nil {
			b.Fatal(err)
		}
		for _, bench := range []struct {
			name string
			c    authz.Condition
		}{
			{"all", authz.Condition{Op: authz.Always}},
			{"half", authz.Condition{Op: authz.Eq, Field: authz.Field{"properties", "open"}, Value: true}},
			{"one in 100", authz.Condition{Op: authz.Eq, Field: authz.Field{"properties", "owner"}, Value: "u99"}},
			{"one in 10000", authz.Condition{Op: authz.Eq, Field: authz.Field{"properties", "team"}, Value: "t9999"}},
			{"none", authz.Condition{Op: authz.Eq, Field: authz.Field{"properties", "team"}, Value: "none"}},
		} {
			b.Run(name+"/"+bench.name, func(b *testing.B) {
				f := authz.Filter{Sure: bench.c, Maybe: bench.c}
				for b.Loop() {
					if _, _, err := db.Matches(b.Context(), directory.EntityQuery{Type: "record", Limit: 101, Filter: &f}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
