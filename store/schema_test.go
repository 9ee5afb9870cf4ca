package store

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ostiary/ostiary/authn"
)

// existing opens, without migrating, a database that was made by the script
// testdata/betterauth/NAME.DIALECT.sql at the root.
func existing(t *testing.T, dsn, name string) *DB {
	t.Helper()
	db, err := OpenUnmigrated(t.Context(), dsn)
	must(t, err)
	t.Cleanup(func() { db.Close() })
	script, err := os.ReadFile(filepath.Join("..", "testdata", "betterauth", name+"."+db.dialect.name+".sql"))
	must(t, err)
	execSQL(t, db, string(script))
	return db
}

func eachEmpty(t *testing.T, test func(t *testing.T, dsn string)) {
	t.Helper()
	for name, dsn := range dsns(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, dsn(t))
		})
	}
}

// layout describes Better Auth's tables as the database knows them.
func layout(t *testing.T, db *DB) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, table := range betterAuth {
		cs, err := db.dialect.columns(t.Context(), db.reader, table.name)
		must(t, err)
		for _, c := range cs {
			out[table.name+"."+c.Name] = c.Type
		}
	}
	return out
}

func TestNewDatabaseHasTheTablesOfBetterAuth(t *testing.T) {
	eachEmpty(t, func(t *testing.T, dsn string) {
		theirs := layout(t, existing(t, dsn, "current"))
		var ours map[string]string
		for name, fresh := range dsns(t) {
			if strings.Contains(t.Name(), name) {
				ours = layout(t, open(t, fresh(t)))
			}
		}
		diff(t, "columns", ours, theirs)
	})
}

func TestExistingDatabaseIsAdoptedByAdditionsAlone(t *testing.T) {
	for name, added := range map[string][]string{
		"current": nil,
		"legacy":  {"apikey.configId", "apikey.referenceId"},
		"core": {"apikey.*", "session.impersonatedBy", "user.banExpires", "user.banReason", "user.banned",
			"user.displayUsername", "user.role", "user.username"},
	} {
		t.Run(name, func(t *testing.T) {
			eachEmpty(t, func(t *testing.T, dsn string) {
				ctx := t.Context()
				db := existing(t, dsn, name)
				before := layout(t, db)
				_, err := db.Migrate(ctx)
				must(t, err)
				after := layout(t, db)
				var got []string
				for _, column := range slices.Sorted(maps.Keys(after)) {
					if before[column] == "" {
						if strings.HasPrefix(column, "apikey.") && before["apikey.id"] == "" {
							column = "apikey.*"
						}
						got = append(got, column)
					} else if after[column] != before[column] {
						t.Errorf("%s: became %s, was %s", column, after[column], before[column])
					}
				}
				if got = slices.Compact(got); !slices.Equal(got, added) {
					t.Errorf("added %v, want %v", got, added)
				}
				u, err := db.UserByEmail(ctx, "ann@example.test")
				must(t, err)
				if u.ID != "u1" || u.CreatedAt.Format(instantLayout) != "2024-02-01T10:20:30.123Z" {
					t.Errorf("got %+v", u)
				}
				s, _, _, err := db.SessionByToken(ctx, "token-s1")
				must(t, err)
				if s.UserID != "u1" || s.Fixed || s.NotFresh {
					t.Errorf("got %+v", s)
				}
				_, err = db.UpdateUser(ctx, "u1", func(u *authn.User) error { u.Role, u.Username = ptr("user"), ptr("ann2"); return nil }, noEffects(), event("e"))
				must(t, err)
				v := someone("new")
				v.Username = ptr("ann2")
				wantConflict(t, "username", db.CreateUser(ctx, v, "", event("e")), "username")
				mustCreateKey(t, db, keyOf("u1", "k9"))
				if _, owner, _, err := db.KeyByDigest(ctx, "digest-k9"); err != nil || owner.ID != "u1" {
					t.Errorf("new key: owner %q, %v", owner.ID, err)
				}
				must(t, db.DeleteUser(ctx, "u1", nil, event("e")))
				_, err = db.Key(ctx, "k9")
				wantErr(t, "key of a deleted user", err, authn.ErrNotFound)
			})
		})
	}
}

// An application with Better Auth 1.4 knows only userId, and needs it.
func TestKeysOfTheOlderSchemaWorkBothWays(t *testing.T) {
	eachEmpty(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		db := existing(t, dsn, "legacy")
		_, err := db.Migrate(ctx)
		must(t, err)
		k, owner, _, err := db.KeyByDigest(ctx, "digest-k1")
		must(t, err)
		if k.OwnerID != "u1" || owner.ID != "u1" || k.ConfigID != "default" || string(k.Metadata) != `{"a":1}` || !k.Permissions.Allows("user", "list") {
			t.Errorf("its key, here: got %+v of %s", k, owner.ID)
		}
		execSQL(t, db, `INSERT INTO apikey ("id", "key", "userId", "createdAt", "updatedAt") VALUES ('k2', 'digest-k2', 'u2', '2024-02-01T00:00:00.000Z', '2024-02-01T00:00:00.000Z')`)
		if k, owner, _, err = db.KeyByDigest(ctx, "digest-k2"); err != nil || k.OwnerID != "u2" || owner.ID != "u2" {
			t.Errorf("its newer key, here: got %+v of %s, %v", k, owner.ID, err)
		}
		ks, n, err := db.Keys(ctx, authn.KeyQuery{OwnerID: "u2", Limit: -1})
		if err != nil || n != 1 || ks[0].ID != "k2" {
			t.Errorf("its newer key in a list: got %v, %v", ks, err)
		}
		mustCreateKey(t, db, keyOf("u2", "k3"))
		_, err = db.UpdateKey(ctx, "k1", func(k *authn.APIKey) error { k.OwnerID = "u2"; return nil }, event("e"))
		must(t, err)
		for _, id := range []string{"k1", "k3"} {
			var user string
			must(t, db.reader.DB.QueryRowContext(ctx, `SELECT "userId" FROM apikey WHERE "id" = '`+id+`'`).Scan(&user))
			if user != "u2" {
				t.Errorf("our key %s, there: got user %s", id, user)
			}
		}
		must(t, db.DeleteUser(ctx, "u2", nil, event("e")))
		_, err = db.Key(ctx, "k2")
		wantErr(t, "key of a deleted user", err, authn.ErrNotFound)
	})
}

func TestAdditionalColumnsAreAttributes(t *testing.T) {
	eachEmpty(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		db := existing(t, dsn, "legacy")
		_, err := db.Migrate(ctx)
		must(t, err)
		want := func(what, id string, attributes map[string]any) {
			t.Helper()
			u, err := db.User(ctx, id)
			must(t, err)
			diff(t, what, u.Attributes, attributes)
		}
		want("read", "u1", map[string]any{"plan": "gold", "seats": 5.0, "beta": true})
		want("NULLs", "u2", map[string]any{"plan": nil, "seats": nil, "beta": nil})
		_, u, _, err := db.SessionByToken(ctx, "token-s1")
		must(t, err)
		diff(t, "with a session", u.Attributes, map[string]any{"plan": "gold", "seats": 5.0, "beta": true})

		v := someone("u3")
		v.Attributes = map[string]any{"plan": "it's", "seats": 2.0, "beta": false, "unknown": 1.0}
		mustCreateUser(t, db, v)
		want("created", "u3", map[string]any{"plan": "it's", "seats": 2.0, "beta": false})
		_, err = db.UpdateUser(ctx, "u3", func(u *authn.User) error {
			u.Attributes["plan"], u.Attributes["unknown"] = nil, 1.0
			delete(u.Attributes, "seats") // not named is not changed
			return nil
		}, noEffects(), event("e"))
		must(t, err)
		want("updated", "u3", map[string]any{"plan": nil, "seats": 2.0, "beta": false})

		sa := someone("u4")
		sa.Attributes = map[string]any{"plan": "free", "team": "ops"}
		must(t, db.CreateServiceAccount(ctx, sa, nil, nil))
		want("service account", "u4", map[string]any{"plan": "free", "seats": nil, "beta": nil, "team": "ops"})

		us, _, err := db.Users(ctx, authn.UserQuery{Filter: &authn.UserFilter{Field: "seats", Operator: "gte", Values: []string{"3"}}, SortBy: "plan"})
		must(t, err)
		if len(us) != 1 || us[0].ID != "u1" {
			t.Errorf("filtered: got %v", us)
		}
		_, _, err = db.Users(ctx, authn.UserQuery{Filter: &authn.UserFilter{Field: "seats", Operator: "gte", Values: []string{"many"}}})
		wantInvalid(t, "no number", err)
		us, _, err = db.Users(ctx, authn.UserQuery{Filter: &authn.UserFilter{Field: "beta", Operator: "eq", Values: []string{"true"}}})
		if err != nil || len(us) != 1 {
			t.Errorf("filtered by a boolean: got %v, %v", us, err)
		}

		mark, err := db.Mark(ctx)
		must(t, err)
		execSQL(t, db, `UPDATE "user" SET "plan" = 'silver' WHERE "id" = 'u2'`)
		if got := changesSince(t, db, &mark); got != "user u2" {
			t.Errorf("changes: got %q, want that of u2", got)
		}
	})
}

func TestRequiredColumnThatIsMissingIsInvalid(t *testing.T) {
	eachEmpty(t, func(t *testing.T, dsn string) {
		db := existing(t, dsn, "core")
		execSQL(t, db, `DELETE FROM session; DELETE FROM account; DELETE FROM "user"; ALTER TABLE "user" ADD COLUMN "plan" text NOT NULL DEFAULT 'x'`)
		_, err := db.Migrate(t.Context())
		must(t, err)
		u := someone("u1")
		mustCreateUser(t, db, u)
		u = someone("u2")
		u.Attributes = map[string]any{"plan": nil}
		err = db.CreateUser(t.Context(), u, "", event("e"))
		wantInvalid(t, "NULL", err)
	})
}

func TestForeignTableIsRefused(t *testing.T) {
	eachEmpty(t, func(t *testing.T, dsn string) {
		db, err := OpenUnmigrated(t.Context(), dsn)
		must(t, err)
		t.Cleanup(func() { db.Close() })
		execSQL(t, db, `CREATE TABLE "user" ("id" integer PRIMARY KEY, "login" text)`)
		_, err = db.Migrate(t.Context())
		wantInvalid(t, "another table user", err)
		ms, err := db.Migrations(t.Context())
		must(t, err)
		for _, m := range ms {
			if m.Applied != nil {
				t.Errorf("%s counts as applied", m.Name)
			}
		}
	})
}

func TestMigrationsAreListedAppliedOnceAndTold(t *testing.T) {
	eachEmpty(t, func(t *testing.T, dsn string) {
		ctx := t.Context()
		db, err := OpenUnmigrated(ctx, dsn)
		must(t, err)
		t.Cleanup(func() { db.Close() })
		_, err = db.User(ctx, "u")
		wantErr(t, "before migrating", err, authn.ErrUnavailable)
		before, err := db.Migrations(ctx)
		must(t, err)
		names, err := db.Migrate(ctx)
		must(t, err)
		if len(names) != len(before) || len(names) == 0 {
			t.Errorf("applied %v of %v", names, before)
		}
		for i, m := range before {
			if m.Applied != nil || m.Name != names[i] {
				t.Errorf("before: got %+v", m)
			}
		}
		after, err := db.Migrations(ctx)
		must(t, err)
		for _, m := range after {
			if m.Applied == nil {
				t.Errorf("after: %s is pending", m.Name)
			}
		}
		if names, err = db.Migrate(ctx); err != nil || len(names) != 0 {
			t.Errorf("again: got %v, %v", names, err)
		}
		mustCreateUser(t, db, someone("u1"))
	})
}

func TestManyProcessesMayStartAtOnce(t *testing.T) {
	for _, name := range []string{"empty", "legacy", "serial"} {
		t.Run(name, func(t *testing.T) {
			eachEmpty(t, func(t *testing.T, dsn string) {
				if dsn == "sqlite::memory:" {
					return // is never shared
				}
				if name != "empty" {
					existing(t, dsn, name)
				}
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() {
						db, err := Open(t.Context(), dsn)
						if err != nil {
							t.Errorf("open: %v", err)
							return
						}
						defer db.Close()
						if _, _, err := db.Users(t.Context(), authn.UserQuery{}); err != nil {
							t.Errorf("users: %v", err)
						}
					})
				}
				wg.Wait()
				db := open(t, dsn)
				var n int
				must(t, db.reader.DB.QueryRowContext(t.Context(), `SELECT count(*) FROM ostiary_migrations`).Scan(&n))
				if n != len(steps) {
					t.Errorf("got %d migrations on record, want each of %d once", n, len(steps))
				}
			})
		})
	}
}

// A column that the application adds later is watched and read from the next
// start on.
func TestTriggersFollowNewColumns(t *testing.T) {
	eachEmpty(t, func(t *testing.T, dsn string) {
		if dsn == "sqlite::memory:" {
			return // does not start again
		}
		db := open(t, dsn)
		mustCreateUser(t, db, someone("u1"))
		execSQL(t, db, `ALTER TABLE "user" ADD COLUMN "plan" text`)
		db = open(t, dsn)
		mark, err := db.Mark(t.Context())
		must(t, err)
		execSQL(t, db, `UPDATE "user" SET "plan" = 'gold'`)
		if got := changesSince(t, db, &mark); got != "user u1" {
			t.Errorf("changes: got %q", got)
		}
		u, err := db.User(t.Context(), "u1")
		must(t, err)
		diff(t, "attributes", u.Attributes, map[string]any{"plan": "gold"})
	})
}

func TestDatabaseNamesThatMeanNothingAreRefused(t *testing.T) {
	for _, dsn := range []string{"", "sqlite", "sqlite:", "ostiary.db", "sqlite://ostiary.db", "sqlite:x.db?mode=ro", "mysql://u:geheim@h/d"} {
		_, err := Open(t.Context(), dsn)
		wantInvalid(t, dsn, err)
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: the error tells the password: %v", dsn, err)
		}
	}
	_, err := Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "missing", "x.db"))
	wantErr(t, "no such folder", err, authn.ErrUnavailable)
	path := filepath.Join(t.TempDir(), "x.db")
	must(t, os.WriteFile(path, []byte("this is a text file, however long it may be, and no database at all"), 0o600))
	_, err = Open(t.Context(), "sqlite:"+path)
	wantErr(t, "no database", err, authn.ErrUnavailable)
}

func TestFileIsForItsOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b#c%d.db")
	db := open(t, "sqlite:"+path)
	mustCreateUser(t, db, someone("u1"))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got mode %v", suffix, info.Mode())
		}
	}
}
