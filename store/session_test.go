package store

import (
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
)

func TestSessionIsReadAsItWasWritten(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		u := mustCreateUser(t, db, someone("u1"))
		k := mustCreateKey(t, db, keyOf("u1", "k1"))
		full := authn.Session{
			ID: "s1", Token: "t1", UserID: "u1", CreatedAt: base, UpdatedAt: base, ExpiresAt: base.Add(time.Hour),
			IPAddress: ptr("::1"), UserAgent: ptr("a'b?"), ImpersonatedBy: ptr("root"),
			KeyID: "k1", KeyDigest: "digest-k1", Fixed: true, NotFresh: true,
		}
		for _, want := range []authn.Session{full, sessionOf("u1", "s2")} {
			mustCreateSession(t, db, want)
			s, user, key, err := db.SessionByToken(ctx, want.Token)
			must(t, err)
			diff(t, "session", s, want)
			if s.Token.Reveal() != want.Token.Reveal() {
				t.Error("token differs")
			}
			diff(t, "user", user, u)
			if want.KeyID == "" {
				if key != nil {
					t.Errorf("got key %+v, want none", key)
				}
			} else if key == nil {
				t.Error("got no key")
			} else {
				diff(t, "key", *key, k)
			}
			s, err = db.Session(ctx, want.ID)
			must(t, err)
			diff(t, "by id", s, want)
		}
	})
}

// Or the session would outlive its key as one without any limits.
func TestSessionWhoseKeyIsGoneIsNotFound(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		mustCreateUser(t, db, someone("u1"))
		mustCreateKey(t, db, keyOf("u1", "k1"))
		s := sessionOf("u1", "s1")
		s.KeyID, s.KeyDigest = "k1", "digest-k1"
		mustCreateSession(t, db, s)
		execSQL(t, db, `DELETE FROM apikey`)
		_, _, _, err := db.SessionByToken(t.Context(), s.Token)
		wantErr(t, "got", err, authn.ErrNotFound)
	})
}

func TestSessionsAreListedOldestFirstWithExpiredOnes(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		mustCreateUser(t, db, someone("u1"))
		mustCreateUser(t, db, someone("u2"))
		for i, id := range []string{"c", "a", "b"} {
			s := sessionOf("u1", id)
			s.CreatedAt, s.ExpiresAt = base.Add(time.Duration(i)*time.Second), base.Add(-time.Hour)
			mustCreateSession(t, db, s)
		}
		mustCreateSession(t, db, sessionOf("u2", "d"))
		ss, err := db.Sessions(t.Context(), "u1")
		must(t, err)
		var got string
		for _, s := range ss {
			got += s.ID
		}
		if got != "cab" {
			t.Errorf("got %s, want cab", got)
		}
	})
}

func TestOnlyLiveSessionsAreExtended(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		mustCreateUser(t, db, someone("u1"))
		s := mustCreateSession(t, db, sessionOf("u1", "s1"))
		now := base.Add(time.Minute)
		must(t, db.ExtendSession(ctx, "s1", base.Add(5*time.Hour), now))
		got, err := db.Session(ctx, "s1")
		must(t, err)
		s.ExpiresAt, s.UpdatedAt = base.Add(5*time.Hour), now
		diff(t, "extended", got, s)
		wantErr(t, "an ended one", db.ExtendSession(ctx, "s1", base.Add(9*time.Hour), base.Add(5*time.Hour)), authn.ErrNotFound)
	})
}

func TestDeleteSessionsSelectsByAllMembers(t *testing.T) {
	for _, c := range []struct {
		name   string
		filter authn.SessionFilter
		want   int
	}{
		{"nothing", authn.SessionFilter{}, 0},
		{"id", authn.SessionFilter{ID: "s1"}, 1},
		{"token", authn.SessionFilter{Token: "token-s2"}, 1},
		{"token of somebody else", authn.SessionFilter{Token: "token-s2", UserID: "u2"}, 0},
		{"user", authn.SessionFilter{UserID: "u1"}, 3},
		{"user but one", authn.SessionFilter{UserID: "u1", NotToken: "token-s2"}, 2},
		{"everybody's but one", authn.SessionFilter{NotToken: "token-s2"}, 0},
		{"unknown", authn.SessionFilter{ID: "x"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachDialect(t, func(t *testing.T, db *DB) {
				mustCreateUser(t, db, someone("u1"))
				mustCreateUser(t, db, someone("u2"))
				for _, id := range []string{"s1", "s2", "s3"} {
					mustCreateSession(t, db, sessionOf("u1", id))
				}
				mustCreateSession(t, db, sessionOf("u2", "s4"))
				n, err := db.DeleteSessions(t.Context(), c.filter, event("session.revoke"))
				must(t, err)
				var left int
				must(t, db.reader.DB.QueryRowContext(t.Context(), `SELECT count(*) FROM session`).Scan(&left))
				if n != c.want || left != 4-c.want {
					t.Errorf("got %d deleted and %d left, want %d and %d", n, left, c.want, 4-c.want)
				}
				evs, err := db.Events(t.Context(), 1)
				must(t, err)
				if wrote := evs[0].Kind == "session.revoke"; wrote != (c.want > 0) {
					t.Errorf("event written: %v, with %d deleted", wrote, n)
				}
			})
		})
	}
}
