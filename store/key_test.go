package store

import (
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

func TestKeyIsReadAsItWasWritten(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		u := mustCreateUser(t, db, someone("u1"))
		full := authn.APIKey{
			ID: "k1", ConfigID: "other", OwnerID: "u1", Name: ptr("ci"), Start: ptr("ost_ab"), Prefix: ptr("ost_"), Digest: "d1",
			Enabled: false, CreatedAt: base, UpdatedAt: base, ExpiresAt: ptr(base.Add(time.Hour)),
			Permissions: authz.Permissions{"user": {"list", "get"}, "*": {}}, Metadata: json.RawMessage(`{"a":[1,"?"]}`),
			RateLimitEnabled: false, RateLimitTimeWindow: ptr(int64(60000)), RateLimitMax: ptr(int64(5)), RequestCount: 2,
			LastRequest: ptr(base), Remaining: ptr(int64(7)), RefillInterval: ptr(int64(1000)), RefillAmount: ptr(int64(9)), LastRefillAt: ptr(base),
		}
		for _, want := range []authn.APIKey{full, keyOf("u1", "k2")} {
			mustCreateKey(t, db, want)
			k, err := db.Key(ctx, want.ID)
			must(t, err)
			diff(t, "key", k, want)
			k, owner, at, err := db.KeyByDigest(ctx, want.Digest)
			must(t, err)
			diff(t, "by digest", k, want)
			diff(t, "owner", owner, u)
			if at != nil {
				t.Errorf("got superseded at %v", at)
			}
		}
	})
}

func TestKeyWithoutOwnerComesWithAZeroUser(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		want := mustCreateKey(t, db, keyOf("nobody", "k1"))
		k, owner, _, err := db.KeyByDigest(t.Context(), want.Digest)
		must(t, err)
		diff(t, "key", k, want)
		diff(t, "owner", owner, authn.User{})
	})
}

func TestUpdateKeyWritesWhatDiffers(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		want := keyOf("u1", "k1")
		want.Permissions = authz.Permissions{"user": {"list"}}
		mustCreateKey(t, db, want)
		got, err := db.UpdateKey(t.Context(), "k1", func(k *authn.APIKey) error {
			k.Permissions["user"] = []string{"list", "get"}
			k.Metadata, k.Enabled, k.Name = json.RawMessage(`5`), false, ptr("n")
			return nil
		}, event("e"))
		must(t, err)
		want.Permissions = authz.Permissions{"user": {"list", "get"}}
		want.Metadata, want.Enabled, want.Name = json.RawMessage(`5`), false, ptr("n")
		diff(t, "returned", got, want)
		got, err = db.UpdateKey(t.Context(), "k1", func(k *authn.APIKey) error { k.Permissions, k.Metadata = nil, nil; return nil }, event("e"))
		must(t, err)
		want.Permissions, want.Metadata = nil, nil
		diff(t, "cleared", got, want)
	})
}

func TestRotatedKeyKeepsEverythingButItsSecret(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		k := keyOf("u1", "k1")
		k.Remaining, k.RequestCount, k.Permissions = ptr(int64(4)), 3, authz.Permissions{"user": {"list"}}
		mustCreateKey(t, db, k)
		until := base.Add(time.Minute)
		got, err := db.RotateKey(ctx, "k1", "d2", ptr("new"), until, event("key.rotate"))
		must(t, err)
		k.Digest, k.Start = "d2", ptr("new")
		diff(t, "returned", got, k)

		got, _, at, err := db.KeyByDigest(ctx, "d2")
		must(t, err)
		diff(t, "by the new secret", got, k)
		if at != nil {
			t.Errorf("the new secret is superseded at %v", at)
		}
		got, _, at, err = db.KeyByDigest(ctx, "digest-k1")
		must(t, err)
		diff(t, "by the old secret", got, k)
		if at == nil || !at.Equal(until) {
			t.Errorf("the old secret is superseded at %v, want %v", at, until)
		}

		_, err = db.RotateKey(ctx, "k1", "d3", nil, base, event("key.rotate"))
		must(t, err)
		for digest, want := range map[string]time.Time{"digest-k1": until, "d2": base} {
			_, _, at, err := db.KeyByDigest(ctx, digest)
			must(t, err)
			if at == nil || !at.Equal(want) {
				t.Errorf("%s is superseded at %v, want %v", digest, at, want)
			}
		}
	})
}

func TestLongEndedKeysAndSecretsAreRemoved(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		for id, ends := range map[string]*time.Time{
			"gone": ptr(base.Add(-time.Hour)), "edge": ptr(base), "later": ptr(base.Add(time.Hour)), "never": nil,
		} {
			k := keyOf("u1", id)
			k.ExpiresAt = ends
			mustCreateKey(t, db, k)
		}
		_, err := db.RotateKey(ctx, "never", "d1", nil, base.Add(-time.Second), event("e"))
		must(t, err)
		_, err = db.RotateKey(ctx, "never", "d2", nil, base.Add(time.Second), event("e"))
		must(t, err)
		n, err := db.DeleteKeysExpiredBefore(ctx, base, event("key.prune"))
		must(t, err)
		if n != 1 {
			t.Errorf("got %d, want 1", n)
		}
		_, err = db.Key(ctx, "gone")
		wantErr(t, "gone", err, authn.ErrNotFound)
		for _, id := range []string{"edge", "later", "never"} {
			if _, err := db.Key(ctx, id); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
		_, _, _, err = db.KeyByDigest(ctx, "digest-never")
		wantErr(t, "old secret", err, authn.ErrNotFound)
		if _, _, _, err = db.KeyByDigest(ctx, "d1"); err != nil {
			t.Errorf("newer secret: %v", err)
		}
		before, err := db.Events(ctx, 100)
		must(t, err)
		n, err = db.DeleteKeysExpiredBefore(ctx, base, event("key.prune"))
		must(t, err)
		after, err := db.Events(ctx, 100)
		must(t, err)
		if n != 0 || len(after) != len(before) {
			t.Errorf("again: got %d and %d events, want 0 and none", n, len(after)-len(before))
		}
	})
}

// The counters are read and written in one transaction that waits for others.
func TestUsesAreCountedExactlyHoweverManyAtOnce(t *testing.T) {
	for name, limit := range map[string]func(*authn.APIKey){
		"quota":      func(k *authn.APIKey) { k.Remaining = ptr(int64(10)) },
		"rate limit": func(k *authn.APIKey) { k.RateLimitMax, k.RateLimitTimeWindow = ptr(int64(10)), ptr(int64(60000)) },
		"both": func(k *authn.APIKey) {
			k.RateLimitMax, k.RateLimitTimeWindow, k.Remaining = ptr(int64(10)), ptr(int64(60000)), ptr(int64(25))
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachDialect(t, func(t *testing.T, db *DB) {
				k := keyOf("u1", "k1")
				limit(&k)
				mustCreateKey(t, db, k)
				var wg sync.WaitGroup
				var accepted atomic.Int64
				for range 64 {
					wg.Go(func() {
						s, err := db.SpendKey(t.Context(), "k1", base, 1)
						if err != nil {
							t.Errorf("spend: %v", err)
						} else if s.Refused == nil {
							accepted.Add(1)
						}
					})
				}
				wg.Wait()
				if accepted.Load() != 10 {
					t.Errorf("got %d accepted uses, want exactly 10", accepted.Load())
				}
				got, err := db.Key(t.Context(), "k1")
				must(t, err)
				if k.Remaining != nil && *got.Remaining != *k.Remaining-10 {
					t.Errorf("remaining: got %d, want %d", *got.Remaining, *k.Remaining-10)
				}
			})
		})
	}
}

func TestUsesAreCountedExactlyByManyProcesses(t *testing.T) {
	eachEmpty(t, func(t *testing.T, dsn string) {
		if dsn == "sqlite::memory:" {
			return // is never shared
		}
		dbs := []*DB{open(t, dsn), open(t, dsn), open(t, dsn)}
		k := keyOf("u1", "k1")
		k.RateLimitMax, k.RateLimitTimeWindow = ptr(int64(10)), ptr(int64(60000))
		mustCreateKey(t, dbs[0], k)
		var wg sync.WaitGroup
		var accepted atomic.Int64
		for i := range 48 {
			wg.Go(func() {
				s, err := dbs[i%len(dbs)].SpendKey(t.Context(), "k1", base, 1)
				if err != nil {
					t.Errorf("spend: %v", err)
				} else if s.Refused == nil {
					accepted.Add(1)
				}
			})
		}
		wg.Wait()
		if accepted.Load() != 10 {
			t.Errorf("got %d accepted uses, want exactly 10", accepted.Load())
		}
	})
}

func TestRateWindowBeginsWithTheFirstUseAndDoesNotSlide(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		k := keyOf("u1", "k1")
		k.RateLimitMax, k.RateLimitTimeWindow = ptr(int64(2)), ptr(int64(1000))
		mustCreateKey(t, db, k)
		for _, use := range []struct {
			at    int // milliseconds
			retry int // 0: accepted
		}{{0, 0}, {900, 0}, {901, 99}, {999, 1}, {1000, 0}, {1001, 0}, {1500, 500}, {2000, 0}, {9000, 0}, {9001, 0}, {9002, 998},
			{8990, 1010}, // another instance's clock is late: no new window by that
		} {
			s, err := db.SpendKey(t.Context(), "k1", base.Add(time.Duration(use.at)*time.Millisecond), 1)
			must(t, err)
			if use.retry == 0 && s.Refused != nil {
				t.Errorf("at %d: got %v, want it accepted", use.at, s.Refused)
			}
			if use.retry != 0 && (s.Refused != authn.ErrRateLimited || s.RetryIn != time.Duration(use.retry)*time.Millisecond) {
				t.Errorf("at %d: got %v, again in %v, want a refusal for %d ms", use.at, s.Refused, s.RetryIn, use.retry)
			}
		}
	})
}

func TestRefusedUseLeavesTheOtherLimitAlone(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		k := keyOf("u1", "k1")
		k.RateLimitMax, k.RateLimitTimeWindow, k.Remaining = ptr(int64(1)), ptr(int64(1000)), ptr(int64(2))
		mustCreateKey(t, db, k)
		spend := func(ms int, want error, remaining, count int64) {
			t.Helper()
			s, err := db.SpendKey(ctx, "k1", base.Add(time.Duration(ms)*time.Millisecond), 1)
			must(t, err)
			stored, err := db.Key(ctx, "k1")
			must(t, err)
			diff(t, "key of the outcome", s.Key, stored)
			if s.Refused != want || *stored.Remaining != remaining || stored.RequestCount != count {
				t.Errorf("at %d: got %v, remaining %d, count %d; want %v, %d, %d", ms, s.Refused, *stored.Remaining, stored.RequestCount, want, remaining, count)
			}
		}
		spend(0, nil, 1, 1)
		spend(1, authn.ErrRateLimited, 1, 1)
		spend(1000, nil, 0, 1)
		spend(2000, authn.ErrUsageExceeded, 0, 1)
		_, err := db.UpdateKey(ctx, "k1", func(k *authn.APIKey) error { k.Remaining = ptr(int64(1)); return nil }, event("e"))
		must(t, err)
		spend(2001, nil, 0, 1) // the refused use did not begin a window
	})
}

func TestQuotaIsRefilled(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		k := keyOf("u1", "k1")
		k.Remaining, k.RefillAmount, k.RefillInterval = ptr(int64(1)), ptr(int64(3)), ptr(int64(1000))
		mustCreateKey(t, db, k)
		for _, use := range []struct {
			at        int
			remaining int64 // -1: refused
		}{{0, 0}, {999, -1}, {1000, 2}, {1001, 1}, {1002, 0}, {1999, -1}, {2000, 2}, {5000, 2}, {5999, 1}} {
			s, err := db.SpendKey(t.Context(), "k1", base.Add(time.Duration(use.at)*time.Millisecond), 1)
			must(t, err)
			if use.remaining < 0 {
				if s.Refused != authn.ErrUsageExceeded {
					t.Errorf("at %d: got %v, want %v", use.at, s.Refused, authn.ErrUsageExceeded)
				}
			} else if s.Refused != nil || *s.Key.Remaining != use.remaining {
				t.Errorf("at %d: got %v, remaining %d, want %d", use.at, s.Refused, *s.Key.Remaining, use.remaining)
			}
		}
	})
}

func TestLimitsThatAreOffDoNotCount(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		k := keyOf("u1", "k1")
		k.RateLimitEnabled, k.RateLimitMax, k.RateLimitTimeWindow = false, ptr(int64(0)), ptr(int64(1000))
		mustCreateKey(t, db, k)
		none := keyOf("u1", "k2")
		none.RateLimitMax, none.RateLimitTimeWindow = ptr(int64(0)), ptr(int64(1000))
		mustCreateKey(t, db, none)
		s, err := db.SpendKey(t.Context(), "k1", base.Add(time.Second), 1)
		must(t, err)
		if s.Refused != nil || s.Key.LastRequest == nil {
			t.Errorf("off: got %v, last request %v", s.Refused, s.Key.LastRequest)
		}
		s, err = db.SpendKey(t.Context(), "k2", base, 1)
		must(t, err)
		if s.Refused != authn.ErrRateLimited || s.RetryIn != time.Second {
			t.Errorf("limit of none: got %v in %v", s.Refused, s.RetryIn)
		}
	})
}

func TestTouchNeverMovesTimeBack(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		mustCreateKey(t, db, keyOf("u1", "k1"))
		mustCreateKey(t, db, keyOf("u1", "k2"))
		for _, at := range []time.Time{base.Add(time.Second), base} {
			must(t, db.TouchKeys(ctx, map[string]time.Time{"k1": at, "gone": at}))
		}
		k, err := db.Key(ctx, "k1")
		must(t, err)
		if k.LastRequest == nil || !k.LastRequest.Equal(base.Add(time.Second)) {
			t.Errorf("got %v, want %v", k.LastRequest, base.Add(time.Second))
		}
		if k, err = db.Key(ctx, "k2"); err != nil || k.LastRequest != nil {
			t.Errorf("another key: got %v, %v", k.LastRequest, err)
		}
	})
}

func TestRowsOfOthersAreReadByTheirConventions(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		execSQL(t, db, `INSERT INTO "user" ("id", "name", "email", "emailVerified", "createdAt", "updatedAt")
			VALUES ('u1', 'n', 'e', FALSE, '2024-02-01T00:00:00Z', '2024-02-01 00:00:00')`)
		u, err := db.User(ctx, "u1")
		must(t, err)
		at := time.Date(2024, 2, 1, 0, 0, 0, 0, time.UTC)
		if u.Banned || u.Role != nil || !u.CreatedAt.Equal(at) {
			t.Errorf("got %+v", u)
		}
		for _, c := range []struct{ permissions, metadata, want, wantMeta string }{
			{"NULL", "NULL", "nil", ""},
			{"'null'", "'null'", "nil", ""},
			{"'{broken'", `'"{\"a\":1}"'`, "nil", `{"a":1}`},
			{`'{"user":["list"]}'`, `'"null"'`, `{user:["list" ] }`, ""},
			{`'{}'`, `'"just text"'`, `{}`, `"just text"`},
		} {
			execSQL(t, db, `DELETE FROM apikey`)
			execSQL(t, db, `INSERT INTO apikey ("id", "configId", "referenceId", "key", "createdAt", "updatedAt", "permissions", "metadata")
				VALUES ('k1', 'default', 'u1', 'd', '2024-02-01T00:00:00Z', '2024-02-01T00:00:00.000Z', `+c.permissions+`, `+c.metadata+`)`)
			k, _, _, err := db.KeyByDigest(ctx, "d")
			must(t, err)
			if !k.Enabled || !k.RateLimitEnabled || k.RequestCount != 0 {
				t.Errorf("NULLs: got %+v", k)
			}
			if got := dump(map[string][]string(k.Permissions)); got != c.want {
				t.Errorf("permissions %s: got %s, want %s", c.permissions, got, c.want)
			}
			if string(k.Metadata) != c.wantMeta {
				t.Errorf("metadata %s: got %s, want %s", c.metadata, k.Metadata, c.wantMeta)
			}
		}
		execSQL(t, db, `UPDATE apikey SET metadata = '{broken'`)
		k, err := db.Key(ctx, "k1")
		must(t, err)
		if !k.Unreadable {
			t.Error("metadata that cannot be read was taken for none")
		}
		for _, change := range []func(*authn.APIKey) error{
			func(k *authn.APIKey) error { k.Name, k.Enabled = ptr("another"), true; return nil },
			func(k *authn.APIKey) error { k.Metadata = nil; return nil },
		} {
			if k, err = db.UpdateKey(ctx, "k1", change, event("e")); err != nil || !k.Unreadable {
				t.Errorf("after a change of something else: got %+v, %v", k, err)
			}
		}
		k, err = db.UpdateKey(ctx, "k1", func(k *authn.APIKey) error { k.Metadata = json.RawMessage("{}"); return nil }, event("e"))
		if err != nil || k.Unreadable {
			t.Errorf("after it was replaced: got %+v, %v", k, err)
		}
	})
}

func TestUpdateWithBadJSONIsInvalid(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		k := keyOf("u1", "k1")
		k.Metadata = json.RawMessage("{")
		wantInvalid(t, "metadata", db.CreateKey(t.Context(), k, event("e")))
	})
}

// SQLite keeps what it is given: a number is less than any text, and would be
// long ago.
func TestKeyWithAnEndInMillisecondsIsNotTakenForExpired(t *testing.T) {
	for name, spelled := range map[string]string{
		"number": "1893456000000", "seconds": "'2030-01-01T00:00:00Z'", "space": "'2030-01-01 00:00:00'",
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t, "sqlite::memory:")
			mustCreateKey(t, db, keyOf("u1", "k1"))
			execSQL(t, db, `UPDATE apikey SET "expiresAt" = `+spelled)
			k, err := db.Key(t.Context(), "k1")
			must(t, err)
			if want := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC); k.ExpiresAt == nil || !k.ExpiresAt.Equal(want) {
				t.Errorf("got %v, want %v", k.ExpiresAt, want)
			}
			if n, err := db.DeleteKeysExpiredBefore(t.Context(), time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), event("e")); n != 0 || err != nil {
				t.Errorf("deleted %d, %v", n, err)
			}
			if n, err := db.DeleteKeysExpiredBefore(t.Context(), time.Date(2030, 1, 1, 0, 0, 1, 0, time.UTC), event("e")); n != 1 || err != nil {
				t.Errorf("a second later: deleted %d, %v", n, err)
			}
		})
	}
}

// Portions leave enough for the others and are exact at the end; unused uses
// come back unless the limits were set or began anew.
func TestPortionsShrinkAndComeBack(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		k := keyOf("u1", "k1")
		k.Remaining = ptr(int64(1000))
		mustCreateKey(t, db, k)
		total, before := int64(0), int64(256)
		for {
			s, err := db.SpendKey(ctx, "k1", base, 256)
			must(t, err)
			if s.Refused != nil {
				break
			}
			if left := 1000 - total; s.Granted > max(1, left/64) || s.Granted > before || s.Granted < 1 {
				t.Fatalf("granted %d of %d", s.Granted, left)
			}
			total, before = total+s.Granted, s.Granted
		}
		if total != 1000 || before != 1 {
			t.Errorf("granted %d, %d at the end; want 1000, 1", total, before)
		}
		remaining := func() int64 { k, err := db.Key(ctx, "k1"); must(t, err); return *k.Remaining }
		must(t, db.ReturnUses(ctx, []authn.Unused{{KeyID: "k1", Uses: 3}, {KeyID: "gone", Uses: 1}, {KeyID: "k1", Uses: 2}}))
		if got := remaining(); got != 5 {
			t.Errorf("remaining: got %d, want 5", got)
		}
		must(t, db.ReturnUses(ctx, []authn.Unused{{KeyID: "k1", Uses: 3, LastRefillAt: ptr(base)}}))
		if got := remaining(); got != 5 {
			t.Errorf("from before a refill: got %d, want 5", got)
		}
		mark, err := db.Mark(ctx)
		must(t, err)
		_, err = db.UpdateKey(ctx, "k1", func(k *authn.APIKey) error { k.Remaining = ptr(int64(2)); return nil }, event("e"))
		must(t, err)
		if got := changesSince(t, db, &mark); got != "key k1" {
			t.Errorf("setting a limit: got changes %q", got)
		}
		must(t, db.ReturnUses(ctx, []authn.Unused{{KeyID: "k1", Uses: 3}}))
		if got := remaining(); got != 2 {
			t.Errorf("from before the limits were set: got %d, want 2", got)
		}
	})
}
