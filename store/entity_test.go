package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/directory"
)

func entityOf(typ, id, properties string) directory.Entity {
	e := directory.Entity{Type: typ, ID: id, UpdatedAt: base}
	if err := decode(&properties, &e.Properties); err != nil {
		panic(err)
	}
	return e
}

func mustPut(t testing.TB, db *DB, es ...directory.Entity) int {
	t.Helper()
	n, err := db.PutEntities(t.Context(), es, event("entity.put"))
	must(t, err)
	return n
}

func TestEntityIsReadAsItWasWritten(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		for _, properties := range []string{
			`{}`,
			`{"a":null,"b":[true,false,{}],"":"","ä":"\u00e4'\\\"? ? ?0 {} %s","c":{"d":{"e":[[]]}}}`,
			`{"big":12345678901234567890123,"exact":9007199254740993,"fraction":0.10000000000000000001,"zero":1.50,"minus":-0.5}`,
		} {
			want := entityOf("t", "id ä/'?\\", properties)
			mustPut(t, db, want)
			got, err := db.Entity(t.Context(), want.Type, want.ID)
			must(t, err)
			diff(t, "entity", got, want)
		}
		got, err := db.Entity(t.Context(), "t", "id ä/'?\\")
		must(t, err)
		if n, ok := got.Properties["big"].(json.Number); !ok || n != "12345678901234567890123" {
			t.Errorf("a number: got %#v", got.Properties["big"])
		}
		for _, no := range [][2]string{{"t", "x"}, {"T", "id ä/'?\\"}, {"x", "id ä/'?\\"}} {
			_, err := db.Entity(t.Context(), no[0], no[1])
			wantErr(t, no[0]+"/"+no[1], err, authn.ErrNotFound)
		}
		empty := directory.Entity{Type: "t", ID: "empty", UpdatedAt: base}
		mustPut(t, db, empty)
		if got, err := db.Entity(t.Context(), "t", "empty"); err != nil || got.Properties == nil {
			t.Errorf("without properties: %+v, %v", got, err)
		}
	})
}

// Ids and types come byte by byte, whatever the database's language.
func TestEntitiesComeByteByByte(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ids := []string{"", "-", "10", "2", "B", "_", "a", "b", "ba", "é", "ﬀ", "𐐀"}[1:]
		for _, i := range []int{4, 1, 9, 0, 10, 2, 7, 3, 6, 5, 8} {
			mustPut(t, db, entityOf("b", ids[i], "{}"), entityOf("B", ids[i], "{}"))
			if i%2 == 0 {
				mustPut(t, db, entityOf("é"+ids[i], "x", "{}"))
			}
			mustCreateUser(t, db, someone(ids[i]))
		}
		list := func(q directory.EntityQuery) string {
			es, err := db.Entities(t.Context(), q)
			must(t, err)
			var got []string
			for _, e := range es {
				if e.Type != q.Type {
					t.Errorf("of type %s: %s", q.Type, e.Type)
				}
				got = append(got, e.ID)
			}
			return strings.Join(got, " ")
		}
		users := func(after string, limit int) string {
			us, err := db.UsersAfter(t.Context(), after, limit)
			must(t, err)
			var got []string
			for _, u := range us {
				got = append(got, u.ID)
			}
			return strings.Join(got, " ")
		}
		all := strings.Join(ids, " ")
		for what, got := range map[string]string{
			"entities": list(directory.EntityQuery{Type: "b", Limit: 100}), "users": users("", 100),
		} {
			if got != all {
				t.Errorf("%s: got %q, want %q", what, got, all)
			}
		}
		for _, got := range []string{list(directory.EntityQuery{Type: "b", After: "10", Limit: 3}), users("10", 3)} {
			if got != "2 B _" {
				t.Errorf("a page: got %q", got)
			}
		}
		if got := list(directory.EntityQuery{Type: "x", Limit: 3}) + users("𐐀", 3); got != "" {
			t.Errorf("nothing: got %q", got)
		}
		types, err := db.EntityTypes(t.Context())
		if want := []string{"B", "b", "é-", "é2", "é_", "éb", "éé", "é𐐀"}; err != nil || fmt.Sprint(types) != fmt.Sprint(want) {
			t.Errorf("types: got %v, %v, want %v", types, err, want)
		}
	})
}

func TestEntityTypesOfNothing(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		if types, err := db.EntityTypes(t.Context()); err != nil || types == nil || len(types) != 0 {
			t.Errorf("got %v, %v", types, err)
		}
	})
}

func TestPuttingCountsWhatIsNew(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		var es []directory.Entity
		for i := range 2*entitiesAtOnce + 3 {
			es = append(es, entityOf("t", fmt.Sprint(i), `{"n":1}`))
		}
		if n := mustPut(t, db, es[:5]...); n != 5 {
			t.Errorf("first: got %d", n)
		}
		if n := mustPut(t, db, es...); n != len(es)-5 {
			t.Errorf("all: got %d", n)
		}
		if n := mustPut(t, db, es...); n != 0 {
			t.Errorf("again: got %d", n)
		}
		large := strings.Repeat("x", 60<<10)
		var big []directory.Entity
		for i := range 12 {
			big = append(big, entityOf("big", fmt.Sprint(i), `{"x":"`+large+`"}`))
		}
		if n := mustPut(t, db, big...); n != len(big) {
			t.Errorf("large ones: got %d", n)
		}
	})
}

// A change and its event are written together, or neither is.
func TestEntitiesAndTheirEventAreWrittenTogether(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ev := event("entity.put")
		must(t, second(db.PutEntities(t.Context(), []directory.Entity{entityOf("t", "a", "{}")}, ev)))
		_, err := db.PutEntities(t.Context(), []directory.Entity{entityOf("t", "b", "{}")}, ev) // the event is there already
		if err == nil {
			t.Fatal("the same event twice")
		}
		_, err = db.Entity(t.Context(), "t", "b")
		wantErr(t, "of the failed change", err, authn.ErrNotFound)
		if err := db.DeleteEntity(t.Context(), "t", "a", ev); err == nil {
			t.Fatal("the same event again")
		}
		_, err = db.Entity(t.Context(), "t", "a")
		must(t, err)

		must(t, db.DeleteEntity(t.Context(), "t", "a", event("entity.delete")))
		wantErr(t, "deleted twice", db.DeleteEntity(t.Context(), "t", "a", event("entity.delete")), authn.ErrNotFound)
		evs, err := db.Events(t.Context(), 10)
		if err != nil || len(evs) != 2 {
			t.Errorf("events: %+v, %v", evs, err)
		}
	})
}

// Whoever writes, the change names the entity, so that no other can be taken
// for it; and what was renamed is told of under both names.
func TestChangesOfEntitiesNameThem(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		mustCreateUser(t, db, someone("u1"))
		mark, err := db.Mark(t.Context())
		must(t, err)
		const at = `'2027-01-01T00:00:00.000Z'`
		for _, c := range []struct{ sql, want string }{
			{`INSERT INTO ostiary_entity ("type", "id", "properties", "updatedAt") VALUES ('doc', 'a/b', '{"x":1}', ` + at + `), ('doc', 'c', '{}', ` + at + `)`, "entity doc/a/b, entity doc/c"},
			{`UPDATE ostiary_entity SET "properties" = '{"x":2}' WHERE "id" = 'a/b'`, "entity doc/a/b"},
			{`UPDATE ostiary_entity SET "properties" = '{"x":2}' WHERE "id" = 'a/b'`, ""},
			{`UPDATE ostiary_entity SET "updatedAt" = '2028-01-01T00:00:00.000Z'`, ""},
			{`UPDATE ostiary_entity SET "id" = 'd' WHERE "id" = 'c'`, "entity doc/c, entity doc/d"},
			{`UPDATE ostiary_entity SET "type" = 'new' WHERE "id" = 'd'`, "entity doc/d, entity new/d"},
			{`UPDATE "user" SET "id" = 'u2'`, "user u1, user u2"},
			{`DELETE FROM ostiary_entity WHERE "type" = 'doc'`, "entity doc/a/b"},
		} {
			execSQL(t, db, c.sql)
			if got := changesSince(t, db, &mark); got != c.want {
				t.Errorf("%s: got %q, want %q", c.sql, got, c.want)
			}
		}
		mustPut(t, db, entityOf("doc", "e", `{}`))
		if got := changesSince(t, db, &mark); got != "entity doc/e" {
			t.Errorf("put: got %q", got)
		}
		mustPut(t, db, entityOf("doc", "e", `{}`))
		if got := changesSince(t, db, &mark); got != "" {
			t.Errorf("the same again: got %q", got)
		}
	})
}

// What nobody could read or name is not taken, from strangers either.
func TestTheTableOfEntitiesRefusesWhatIsNone(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		for _, values := range []string{
			`'a/b', 'c', '{}'`, `'', 'c', '{}'`, `'a', '', '{}'`, `'a', 'c', '[]'`, `'a', 'c', 'nonsense'`, `'a', 'c', NULL`, `NULL, 'c', '{}'`,
		} {
			_, err := db.writer.DB.ExecContext(t.Context(), `INSERT INTO ostiary_entity ("type", "id", "properties", "updatedAt") VALUES (`+values+`, '2027-01-01T00:00:00.000Z')`)
			if err == nil {
				t.Errorf("%s was taken", values)
			}
		}
	})
}

// Imports of the same entities in any order wait for each other, and not in a
// circle.
func TestImportsAtOnceDontBlockEachOther(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		var busy sync.WaitGroup
		for i := range 4 {
			busy.Go(func() {
				for range 5 {
					var es []directory.Entity
					for j := range 50 {
						if i%2 == 0 {
							j = 49 - j
						}
						es = append(es, entityOf("t", fmt.Sprint(j), fmt.Sprintf(`{"i":%d}`, i)))
					}
					if _, err := db.PutEntities(t.Context(), es, event("entity.import")); err != nil {
						t.Error(err)
					}
				}
			})
		}
		busy.Wait()
	})
}

func second[T any](_ T, err error) error { return err }
