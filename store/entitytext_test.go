package store

import (
	"slices"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
)

// The index follows every change, whoever makes it, and does not change what is
// found.
func TestIndexOfEntitiesFollowsTheirChanges(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		owned := func(by string) []string {
			t.Helper()
			c := authz.Condition{Op: authz.Or, Of: []authz.Condition{
				{Op: authz.Eq, Field: authz.Field{"properties", "owner"}, Value: by},
				{Op: authz.And, Of: []authz.Condition{
					{Op: authz.Defined, Field: authz.Field{"properties", "open"}},
					{Op: authz.Has, Field: authz.Field{"properties", "readers"}, Value: by},
				}},
			}}
			if branches, _ := indexed(c); len(branches) != 2 {
				t.Fatal("not by the index")
			}
			es, sure, err := db.Matches(t.Context(), directory.EntityQuery{Type: "doc", Limit: 10, Filter: &authz.Filter{Sure: c, Maybe: c}})
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for i, e := range es {
				if !sure[i] {
					t.Errorf("%s is not sure", e.ID)
				}
				ids = append(ids, e.ID)
			}
			return ids
		}
		put := func(id string, properties map[string]any) {
			t.Helper()
			if _, err := db.PutEntities(t.Context(), []directory.Entity{{Type: "doc", ID: id, Properties: properties, UpdatedAt: time.Now()}}, audit.Event{ID: newID()}); err != nil {
				t.Fatal(err)
			}
		}
		is := func(by string, want ...string) {
			t.Helper()
			if got := owned(by); !slices.Equal(got, want) {
				t.Errorf("%s: got %v, want %v", by, got, want)
			}
		}

		put("1", map[string]any{"owner": "ann"})
		put("2", map[string]any{"owner": "bob", "readers": []any{"ann", "ann", 7, nil}, "open": false})
		put("3", map[string]any{"owner": []any{"ann"}, "readers": []any{"ann"}})
		put("4", map[string]any{"readers": map[string]any{"x": "ann"}, "open": nil})
		is("ann", "1", "2", "4")
		is("bob", "2")
		put("1", map[string]any{"owner": "bob"})
		is("ann", "2", "4")
		is("bob", "1", "2")
		execSQL(t, db, `UPDATE ostiary_entity SET "id" = '9' WHERE "id" = '2'`)
		is("bob", "1", "9")
		execSQL(t, db, `DELETE FROM ostiary_entity WHERE "id" = '1'`)
		is("bob", "9")
		if err := db.DeleteEntity(t.Context(), "doc", "9", audit.Event{ID: newID()}); err != nil {
			t.Fatal(err)
		}
		is("bob")
		is("ann", "4")
	})
}
