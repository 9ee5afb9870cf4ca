package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/internal/pgtest"
)

// eachDialect runs a test on every database that is supported.
func eachDialect(t *testing.T, test func(t *testing.T, db *DB)) {
	t.Helper()
	for name, dsn := range dsns(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t, dsn(t)))
		})
	}
}

// dsns makes new, empty databases, one kind each.
func dsns(t *testing.T) map[string]func(t *testing.T) string {
	return map[string]func(t *testing.T) string{
		"memory":   func(*testing.T) string { return "sqlite::memory:" },
		"sqlite":   func(t *testing.T) string { return sqliteFile(t) },
		"postgres": func(t *testing.T) string { return pgtest.Schema(t) },
	}
}

func sqliteFile(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "test.db") }

func open(t testing.TB, dsn string) *DB {
	t.Helper()
	db, err := Open(t.Context(), dsn)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

// exec runs SQL as a stranger to this package would.
func execSQL(t testing.TB, db *DB, query string) {
	t.Helper()
	if _, err := db.writer.DB.ExecContext(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var base = time.Date(2026, 3, 4, 5, 6, 7, 89*int(time.Millisecond), time.UTC)

var serial atomic.Int64

func event(kind string) audit.Event {
	return audit.Event{ID: fmt.Sprintf("ev%06d", serial.Add(1)), At: base, Kind: kind, Actor: audit.Actor{Type: "system", ID: "test"}}
}

func ptr[T any](v T) *T { return &v }

func someone(id string) authn.User {
	return authn.User{ID: id, Name: "Name of " + id, Email: id + "@example.test", CreatedAt: base, UpdatedAt: base}
}

func mustCreateUser(t testing.TB, db *DB, u authn.User) authn.User {
	t.Helper()
	must(t, db.CreateUser(t.Context(), u, "", event("user.create")))
	return u
}

func sessionOf(user, id string) authn.Session {
	return authn.Session{ID: id, Token: authn.Secret("token-" + id), UserID: user, CreatedAt: base, UpdatedAt: base, ExpiresAt: base.Add(time.Hour)}
}

func mustCreateSession(t testing.TB, db *DB, s authn.Session) authn.Session {
	t.Helper()
	must(t, db.CreateSession(t.Context(), s, event("session.create")))
	return s
}

func keyOf(user, id string) authn.APIKey {
	return authn.APIKey{ID: id, ConfigID: "default", OwnerID: user, Digest: "digest-" + id, Enabled: true, RateLimitEnabled: true, CreatedAt: base, UpdatedAt: base}
}

func mustCreateKey(t testing.TB, db *DB, k authn.APIKey) authn.APIKey {
	t.Helper()
	must(t, db.CreateKey(t.Context(), k, event("key.create")))
	return k
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func wantConflict(t testing.TB, what string, got error, field string) {
	t.Helper()
	if c, ok := errors.AsType[*authn.ConflictError](got); !ok || c.Field != field {
		t.Errorf("%s: got %v, want a conflict of %s", what, got, field)
	}
}

func wantInvalid(t testing.TB, what string, got error) {
	t.Helper()
	if _, ok := errors.AsType[*authn.InvalidError](got); !ok {
		t.Errorf("%s: got %v, want *InvalidError", what, got)
	}
}

// changes returns what was noted since the last call with the same mark, as
// "kind id", without repetitions.
func changesSince(t testing.TB, db *DB, mark *Mark) string {
	t.Helper()
	cs, now, err := db.Changes(t.Context(), *mark, 1000)
	must(t, err)
	seen := *mark
	*mark = now
	var out []string
	told := map[string]bool{}
	for _, c := range cs {
		if c.Seq <= seen.Last {
			continue // a second time: other tests have transactions, too
		}
		if s := c.Kind + " " + c.ID; !told[s] {
			told[s] = true
			out = append(out, s)
		}
	}
	return strings.Join(out, ", ")
}

func TestUserIsReadAsItWasWritten(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		full := authn.User{
			ID: "u1", Name: "Ann O'Neill ?", Email: "ann@example.test", EmailVerified: true, Image: ptr("https://i.test/?a=b"),
			CreatedAt: base, UpdatedAt: base.Add(time.Millisecond), Username: ptr("ann"), DisplayUsername: ptr("Ann"),
			Role: ptr("admin,user"), Banned: true, BanReason: ptr("a 'reason'"), BanExpires: ptr(base.Add(time.Hour)),
		}
		must(t, db.CreateUser(t.Context(), full, "hash", event("user.create")))
		bare := mustCreateUser(t, db, someone("u2"))
		for _, want := range []authn.User{full, bare} {
			got, err := db.User(t.Context(), want.ID)
			must(t, err)
			diff(t, "user", got, want)
		}
		got, err := db.UserByEmail(t.Context(), "ann@example.test")
		must(t, err)
		diff(t, "by email", got, full)
		got, err = db.UserByUsername(t.Context(), "ann")
		must(t, err)
		diff(t, "by username", got, full)
	})
}

func TestUnknownRowsAreNotFound(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		mustCreateUser(t, db, someone("u1"))
		for what, f := range map[string]func() error{
			"User":           func() error { _, err := db.User(ctx, "x"); return err },
			"UserByEmail":    func() error { _, err := db.UserByEmail(ctx, "x"); return err },
			"UserByUsername": func() error { _, err := db.UserByUsername(ctx, "x"); return err },
			"UpdateUser": func() error {
				_, err := db.UpdateUser(ctx, "x", func(*authn.User) error { return nil }, authn.UserEffects{}, event("e"))
				return err
			},
			"DeleteUser":     func() error { return db.DeleteUser(ctx, "x", nil, event("e")) },
			"Password":       func() error { _, err := db.Password(ctx, "u1"); return err },
			"SetPassword":    func() error { return db.SetPassword(ctx, "x", "h", authn.UserEffects{}, event("e")) },
			"SessionByToken": func() error { _, _, _, err := db.SessionByToken(ctx, "x"); return err },
			"CreateSession":  func() error { return db.CreateSession(ctx, sessionOf("x", "s"), event("e")) },
			"ExtendSession":  func() error { return db.ExtendSession(ctx, "x", base, base) },
			"Key":            func() error { _, err := db.Key(ctx, "x"); return err },
			"KeyByDigest":    func() error { _, _, _, err := db.KeyByDigest(ctx, "x"); return err },
			"UpdateKey": func() error {
				_, err := db.UpdateKey(ctx, "x", func(*authn.APIKey) error { return nil }, event("e"))
				return err
			},
			"RotateKey": func() error { _, err := db.RotateKey(ctx, "x", "d", nil, base, event("e")); return err },
			"DeleteKey": func() error { return db.DeleteKey(ctx, "x", event("e")) },
			"SpendKey":  func() error { _, err := db.SpendKey(ctx, "x", base, 1); return err },
		} {
			wantErr(t, what, f(), authn.ErrNotFound)
		}
		_, err := db.Record(ctx, "x")
		wantErr(t, "Record", err, audit.ErrNotFound)
		_, err = db.Records(ctx, audit.Query{Before: "x"})
		wantErr(t, "Records", err, audit.ErrNotFound)
		evs, err := db.Events(ctx, 100)
		must(t, err)
		if len(evs) != 1 {
			t.Errorf("events: got %d, want that of the user alone", len(evs))
		}
	})
}

func TestDatabasesInMemoryArePrivate(t *testing.T) {
	a, b := open(t, "sqlite::memory:"), open(t, "sqlite::memory:")
	mustCreateUser(t, a, someone("u1"))
	_, err := b.User(t.Context(), "u1")
	wantErr(t, "user of another database", err, authn.ErrNotFound)
}

func TestEndedContextAndClosedDatabaseAreUnavailable(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := db.User(ctx, "u")
		wantErr(t, "ended context", err, authn.ErrUnavailable)
		must(t, db.Close())
		_, err = db.User(t.Context(), "u")
		wantErr(t, "closed", err, authn.ErrUnavailable)
		_, _, _, err = db.SessionByToken(t.Context(), "u")
		wantErr(t, "closed", err, authn.ErrUnavailable)
		_, _, _, err = db.KeyByDigest(t.Context(), "u")
		wantErr(t, "closed", err, authn.ErrUnavailable)
		wantErr(t, "closed", db.Ping(t.Context()), authn.ErrUnavailable)
		wantErr(t, "closed", db.CreateUser(t.Context(), someone("u"), "", event("e")), authn.ErrUnavailable)
	})
}

func diff(t testing.TB, what string, got, want any) {
	t.Helper()
	g, w := dump(got), dump(want)
	if g != w {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}
