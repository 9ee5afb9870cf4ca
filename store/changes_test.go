package store

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/internal/pgtest"
)

// Whoever writes, with whatever program, leaves a change behind if it matters
// to a principal, and only then.
func TestChangesOfAnyWriterAreNoted(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		mustCreateUser(t, db, someone("u1"))
		mustCreateSession(t, db, sessionOf("u1", "s1"))
		mustCreateKey(t, db, keyOf("u1", "k1"))
		mark, err := db.Mark(t.Context())
		must(t, err)
		const at = `'2027-01-01T00:00:00.000Z'`
		for _, c := range []struct{ sql, want string }{
			{`UPDATE "user" SET "role" = 'admin' WHERE "id" = 'u1'`, "user u1"},
			{`UPDATE "user" SET "role" = 'admin' WHERE "id" = 'u1'`, ""}, // the same value
			{`UPDATE "user" SET "role" = NULL WHERE "id" = 'u1'`, "user u1"},
			{`UPDATE "user" SET "banned" = TRUE`, "user u1"},
			{`UPDATE "user" SET "updatedAt" = ` + at, "user u1"},
			{`INSERT INTO ostiary_user ("userId", "serviceAccount") VALUES ('u1', TRUE)`, "user u1"},
			{`UPDATE ostiary_user SET "attributes" = '{"a":1}'`, "user u1"},
			{`DELETE FROM ostiary_user`, "user u1"},
			{`UPDATE session SET "expiresAt" = ` + at, "session s1"},
			{`UPDATE session SET "updatedAt" = ` + at, ""},
			{`INSERT INTO ostiary_session ("sessionId", "fixed", "notFresh") VALUES ('s1', TRUE, FALSE)`, "session s1"},
			{`UPDATE apikey SET "enabled" = FALSE`, "key k1"},
			{`UPDATE apikey SET "permissions" = '{}'`, "key k1"},
			{`UPDATE apikey SET "requestCount" = 5, "lastRequest" = ` + at + `, "lastRefillAt" = ` + at + `, "updatedAt" = ` + at, ""},
			{`UPDATE apikey SET "remaining" = 5`, "key k1"}, // it is limited now
			{`UPDATE apikey SET "remaining" = 4`, ""},
			{`UPDATE apikey SET "remaining" = NULL`, "key k1"},
			{`INSERT INTO ostiary_key ("keyId", "windowStart") VALUES ('k1', ` + at + `)`, ""},
			{`INSERT INTO ostiary_key_secret ("digest", "keyId", "validUntil", "supersededAt") VALUES ('d', 'k1', ` + at + `, ` + at + `)`, "key k1"},
			{`UPDATE account SET "password" = 'x'`, ""},
			{`INSERT INTO account ("id", "accountId", "providerId", "userId", "createdAt", "updatedAt") VALUES ('a', 'u1', 'p', 'u1', ` + at + `, ` + at + `)`, ""},
			{`INSERT INTO "user" ("id", "name", "email", "emailVerified", "createdAt", "updatedAt") VALUES ('u2', '', '', TRUE, ` + at + `, ` + at + `)`, "user u2"},
			{`DELETE FROM apikey`, "key k1"},
			{`DELETE FROM session`, "session s1"},
			{`DELETE FROM "user" WHERE "id" = 'u2'`, "user u2"},
		} {
			execSQL(t, db, c.sql)
			if got := changesSince(t, db, &mark); got != c.want {
				t.Errorf("%s: got %q, want %q", c.sql, got, c.want)
			}
		}
	})
}

func TestCountingIsNoChange(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		k := keyOf("u1", "k1")
		k.RateLimitMax, k.RateLimitTimeWindow, k.Remaining = ptr(int64(2)), ptr(int64(1000)), ptr(int64(1))
		k.RefillAmount, k.RefillInterval = ptr(int64(5)), ptr(int64(10))
		mustCreateKey(t, db, k)
		mark, err := db.Mark(t.Context())
		must(t, err)
		for i := range 4 {
			_, err := db.SpendKey(t.Context(), "k1", base.Add(time.Duration(i)*600*time.Millisecond), 1)
			must(t, err)
		}
		must(t, db.TouchKeys(t.Context(), map[string]time.Time{"k1": base.Add(time.Hour)}))
		if got := changesSince(t, db, &mark); got != "" {
			t.Errorf("got %q", got)
		}
	})
}

func TestChangesComeInOrder(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		for _, id := range []string{"a", "b", "c"} {
			mustCreateUser(t, db, someone(id))
		}
		all, mark, err := db.Changes(t.Context(), Mark{}, 10)
		must(t, err)
		if len(all) != 3 || all[0].ID != "a" || all[1].ID != "b" || all[2].ID != "c" || all[0].Kind != "user" {
			t.Fatalf("got %+v", all)
		}
		if since := time.Since(all[0].At).Abs(); since > time.Minute {
			t.Errorf("at: %v from now", since)
		}
		if mark.Last != all[2].Seq {
			t.Errorf("last: got %d, want %d", mark.Last, all[2].Seq)
		}
		some, mark, err := db.Changes(t.Context(), Mark{}, 2)
		if err != nil || len(some) != 2 || mark.Last != all[2].Seq {
			t.Errorf("some: got %+v, %+v, %v", some, mark, err)
		}
		none, again, err := db.Changes(t.Context(), mark, 10)
		if err != nil || db.dialect.name == "sqlite" && len(none) > 0 || again.Last != mark.Last {
			t.Errorf("after all: got %+v, %+v, %v", none, again, err)
		}
	})
}

// A number that was given early can appear late, behind any number of others.
func TestChangeOfALongTransactionIsNotMissed(t *testing.T) {
	db := open(t, pgtest.Schema(t))
	mustCreateUser(t, db, someone("slow"))
	long, err := db.writer.BeginTx(t.Context(), nil)
	must(t, err)
	defer long.Rollback()
	_, err = long.NewRaw(`UPDATE "user" SET "banned" = TRUE`).Exec(t.Context())
	must(t, err)
	_, err = db.writer.NewRaw(`INSERT INTO changes (kind, id, at) SELECT 'key', 'k', now() FROM generate_series(1, 5000)`).Exec(t.Context())
	must(t, err)
	var mark Mark
	for range 3 {
		_, mark, err = db.Changes(t.Context(), mark, 1_000_000)
		must(t, err)
	}
	must(t, long.Commit())
	cs, _, err := db.Changes(t.Context(), mark, 1_000_000)
	must(t, err)
	if !slices.ContainsFunc(cs, func(c Change) bool { return c.Kind == "user" && c.Seq < mark.Last }) {
		t.Errorf("the ban is not among %d changes", len(cs))
	}
}

// A revision that came back smaller would look older than it is.
func TestPruningNeverMovesTheRevisionBack(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		for _, id := range []string{"a", "b", "c"} {
			mustCreateUser(t, db, someone(id))
		}
		last, err := db.Mark(t.Context())
		must(t, err)
		n, err := db.PruneChanges(t.Context(), time.Now().Add(-time.Hour))
		if n != 0 || err != nil {
			t.Errorf("of an hour ago: got %d, %v", n, err)
		}
		n, err = db.PruneChanges(t.Context(), time.Now().Add(time.Hour))
		if n != 2 || err != nil {
			t.Errorf("all: got %d, %v, want all but the newest", n, err)
		}
		if got, err := db.Mark(t.Context()); got.Last != last.Last || err != nil {
			t.Errorf("last: got %d, %v, want %d", got.Last, err, last.Last)
		}
	})
}

func rings(db *DB, within time.Duration) bool {
	select {
	case <-db.Bell():
		return true
	case <-time.After(within):
		return false
	}
}

func TestBellRingsAfterACommit(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		for rings(db, 2*tick) { // of opening
		}
		mustCreateUser(t, db, someone("u1"))
		mustCreateUser(t, db, someone("u2")) // nobody listens: it must not block
		if !rings(db, tick) {
			t.Error("did not ring")
		}
	})
}

func TestBellRingsForOtherProcesses(t *testing.T) {
	eachEmpty(t, func(t *testing.T, dsn string) {
		if dsn == "sqlite::memory:" {
			return // has no others
		}
		a, b := open(t, dsn), open(t, dsn)
		for rings(a, 2*tick) {
		}
		mustCreateUser(t, b, someone("u1"))
		if !rings(a, 20*tick) {
			t.Error("did not ring for another's change")
		}
		var mark Mark
		if got := changesSince(t, a, &mark); got != "user u1" {
			t.Errorf("changes: got %q", got)
		}
	})
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, dsn := range dsns(t) {
		db, err := Open(t.Context(), dsn(t))
		must(t, err)
		mustCreateUser(t, db, someone("u1"))
		must(t, db.Close())
		must(t, db.Close())
	}
}

// Other rooms test with a fake clock on a database in memory.
func TestMemoryWorksUnderAFakeClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, err := Open(t.Context(), "sqlite::memory:")
		must(t, err)
		mustCreateUser(t, db, someone("u1"))
		time.Sleep(time.Hour)
		s := sessionOf("u1", "s1")
		must(t, db.CreateSession(audit.WithReceipt(t.Context(), &audit.Receipt{}), s, event("e")))
		if _, u, _, err := db.SessionByToken(t.Context(), s.Token); err != nil || u.ID != "u1" {
			t.Errorf("got %v, %v", u, err)
		}
		if _, err := db.OtherAdmin(t.Context(), "u1", authn.AdminRule{Roles: []string{"admin"}}); err != nil {
			t.Error(err)
		}
		must(t, db.Close())
	})
}
