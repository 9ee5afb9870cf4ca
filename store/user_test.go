package store

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
)

func noEffects() authn.UserEffects { return authn.UserEffects{} }

func TestTakenValuesAreConflicts(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		u := someone("u1")
		u.Username = ptr("ann")
		mustCreateUser(t, db, u)
		mustCreateSession(t, db, sessionOf("u1", "s1"))
		mustCreateKey(t, db, keyOf("u1", "k1"))

		same := someone("u1")
		same.Email = "other@example.test"
		wantConflict(t, "id", db.CreateUser(ctx, same, "", event("e")), "id")
		same = someone("u2")
		same.Email = u.Email
		wantConflict(t, "email", db.CreateUser(ctx, same, "", event("e")), "email")
		same = someone("u2")
		same.Username = ptr("ann")
		wantConflict(t, "username", db.CreateUser(ctx, same, "", event("e")), "username")
		mustCreateUser(t, db, someone("u2"))
		_, err := db.UpdateUser(ctx, "u2", func(u *authn.User) error { u.Username = ptr("ann"); return nil }, noEffects(), event("e"))
		wantConflict(t, "username by update", err, "username")
		s := sessionOf("u1", "s2")
		s.Token = "token-s1"
		wantConflict(t, "token", db.CreateSession(ctx, s, event("e")), "token")
		wantConflict(t, "key id", db.CreateKey(ctx, keyOf("u1", "k1"), event("e")), "id")
	})
}

// NULL equals nothing, so a unique column may hold it many times.
func TestManyUsersHaveNoUsername(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		mustCreateUser(t, db, someone("u1"))
		mustCreateUser(t, db, someone("u2"))
	})
}

func TestLookUpsMindLetterCase(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		u := someone("u1")
		u.Username = ptr("ann")
		mustCreateUser(t, db, u)
		_, err := db.UserByEmail(ctx, "U1@example.test")
		wantErr(t, "email in other case", err, authn.ErrNotFound)
		_, err = db.UserByUsername(ctx, "Ann")
		wantErr(t, "username in other case", err, authn.ErrNotFound)
		_, err = db.User(ctx, "U1")
		wantErr(t, "id in other case", err, authn.ErrNotFound)
	})
}

func TestTimesAreKeptInMillisecondsUTC(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		u := someone("u1")
		u.CreatedAt = time.Date(2026, 3, 4, 5, 6, 7, 123_999_999, time.FixedZone("", -7*3600))
		mustCreateUser(t, db, u)
		got, err := db.User(t.Context(), "u1")
		must(t, err)
		if want := time.Date(2026, 3, 4, 12, 6, 7, 123_000_000, time.UTC); got.CreatedAt != want {
			t.Errorf("got %v, want %v", got.CreatedAt, want)
		}
	})
}

// An event that cannot be written takes the change with it, whatever it is.
func TestChangeAndEventAreWrittenTogetherOrNotAtAll(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		must(t, db.CreateUser(ctx, someone("u1"), "old", event("user.create")))
		mustCreateSession(t, db, sessionOf("u1", "s1"))
		k := keyOf("u1", "k1")
		k.ExpiresAt = ptr(base)
		mustCreateKey(t, db, k)
		taken := event("once")
		must(t, db.CreateKey(ctx, keyOf("u1", "k2"), taken))
		mark, err := db.Mark(ctx)
		must(t, err)

		for what, f := range map[string]func(audit.Event) error{
			"CreateUser": func(ev audit.Event) error { return db.CreateUser(ctx, someone("u2"), "h", ev) },
			"UpdateUser": func(ev audit.Event) error {
				_, err := db.UpdateUser(ctx, "u1", func(u *authn.User) error { u.Name = "changed"; return nil },
					authn.UserEffects{EndSessions: true, NewSession: ptr(sessionOf("u1", "s2"))}, ev)
				return err
			},
			"DeleteUser":    func(ev audit.Event) error { return db.DeleteUser(ctx, "u1", nil, ev) },
			"SetPassword":   func(ev audit.Event) error { return db.SetPassword(ctx, "u1", "new", noEffects(), ev) },
			"CreateSession": func(ev audit.Event) error { return db.CreateSession(ctx, sessionOf("u1", "s3"), ev) },
			"DeleteSessions": func(ev audit.Event) error {
				_, err := db.DeleteSessions(ctx, authn.SessionFilter{UserID: "u1"}, ev)
				return err
			},
			"CreateKey": func(ev audit.Event) error { return db.CreateKey(ctx, keyOf("u1", "k3"), ev) },
			"CreateServiceAccount": func(ev audit.Event) error {
				return db.CreateServiceAccount(ctx, someone("u3"), ptr(keyOf("u3", "k4")), []audit.Event{event("fine"), ev})
			},
			"UpdateKey": func(ev audit.Event) error {
				_, err := db.UpdateKey(ctx, "k1", func(k *authn.APIKey) error { k.Enabled = false; return nil }, ev)
				return err
			},
			"RotateKey": func(ev audit.Event) error { _, err := db.RotateKey(ctx, "k1", "d", nil, base, ev); return err },
			"DeleteKey": func(ev audit.Event) error { return db.DeleteKey(ctx, "k1", ev) },
			"DeleteKeysExpiredBefore": func(ev audit.Event) error {
				_, err := db.DeleteKeysExpiredBefore(ctx, base.Add(time.Hour), ev)
				return err
			},
		} {
			var receipt audit.Receipt
			ctx = audit.WithReceipt(t.Context(), &receipt)
			err := f(taken)
			if err == nil {
				t.Errorf("%s: succeeded without its event", what)
			}
			if _, ok := errors.AsType[*authn.ConflictError](err); ok {
				t.Errorf("%s: got %v, as if the caller had chosen the event's id", what, err)
			}
			if receipt.Revision != "" {
				t.Errorf("%s: got the revision %s of a change that was not made", what, receipt.Revision)
			}
		}
		if got := changesSince(t, db, &mark); got != "" {
			t.Errorf("changed all the same: %s", got)
		}
		if hash, err := db.Password(t.Context(), "u1"); err != nil || hash != "old" {
			t.Errorf("password: got %q, %v, want the old one", hash, err)
		}
		evs, err := db.Events(t.Context(), 100)
		must(t, err)
		if len(evs) != 4 {
			t.Errorf("events: got %d, want 4", len(evs))
		}
	})
}

func TestErrorOfTheChangeIsReturnedAsItIsAndNothingIsWritten(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		mustCreateUser(t, db, someone("u1"))
		mustCreateKey(t, db, keyOf("u1", "k1"))
		mine := errors.New("mine")
		_, err := db.UpdateUser(ctx, "u1", func(u *authn.User) error { u.Name = "changed"; return mine }, noEffects(), event("e"))
		if err != mine {
			t.Errorf("got %v, want the very error", err)
		}
		_, err = db.UpdateKey(ctx, "k1", func(k *authn.APIKey) error { k.Enabled = false; return mine }, event("e"))
		if err != mine {
			t.Errorf("got %v, want the very error", err)
		}
		u, err := db.User(ctx, "u1")
		must(t, err)
		diff(t, "user", u, someone("u1"))
		// And the database is not left locked.
		mustCreateUser(t, db, someone("u2"))
	})
}

func TestUpdateUserWritesWhatDiffersAndReturnsIt(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		u := someone("u1")
		u.Image = ptr("i")
		mustCreateUser(t, db, u)
		ev := event("user.update")
		ev.At = base.Add(time.Minute)
		got, err := db.UpdateUser(ctx, "u1", func(u *authn.User) error {
			u.Role, u.Image, u.Banned, u.BanExpires = ptr("admin"), nil, true, ptr(base.Add(time.Hour))
			u.ID = "another" // which it ignores
			return nil
		}, noEffects(), ev)
		must(t, err)
		want := someone("u1")
		want.Role, want.Banned, want.BanExpires, want.UpdatedAt = ptr("admin"), true, ptr(base.Add(time.Hour)), ev.At
		diff(t, "returned", got, want)
		got, err = db.User(ctx, "u1")
		must(t, err)
		diff(t, "stored", got, want)

		got, err = db.UpdateUser(ctx, "u1", func(u *authn.User) error { return nil }, noEffects(), event("user.update"))
		must(t, err)
		diff(t, "no difference", got, want)
	})
}

func TestEffectsOfAUserChange(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		tokens := func() (ids string) {
			ss, err := db.Sessions(ctx, "u1")
			must(t, err)
			for _, s := range ss {
				ids += s.ID + " "
			}
			return ids
		}
		mustCreateUser(t, db, someone("u1"))
		mustCreateUser(t, db, someone("u2"))
		mustCreateSession(t, db, sessionOf("u2", "other"))
		for _, id := range []string{"s1", "s2", "s3"} {
			mustCreateSession(t, db, sessionOf("u1", id))
		}
		must(t, db.SetPassword(ctx, "u1", "h", authn.UserEffects{EndSessions: true, KeepSession: "token-s2"}, event("e")))
		if got := tokens(); got != "s2 " {
			t.Errorf("kept one: got %q", got)
		}
		_, err := db.UpdateUser(ctx, "u1", func(*authn.User) error { return nil },
			authn.UserEffects{EndSessions: true, NewSession: ptr(sessionOf("u1", "s4"))}, event("e"))
		must(t, err)
		if got := tokens(); got != "s4 " {
			t.Errorf("new one: got %q", got)
		}
		if _, _, _, err := db.SessionByToken(ctx, "token-other"); err != nil {
			t.Errorf("session of another user: %v", err)
		}
	})
}

func TestPasswordIsSetOrReplaced(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		mustCreateUser(t, db, someone("u1"))
		must(t, db.CreateUser(ctx, someone("u2"), "h0", event("e")))
		execSQL(t, db, `INSERT INTO account ("id", "accountId", "providerId", "userId", "createdAt", "updatedAt")
			VALUES ('g1', 'at-github', 'github', 'u1', '2024-01-01T00:00:00.000Z', '2024-01-01T00:00:00.000Z')`)
		for _, hash := range []string{"h1", "h2"} {
			must(t, db.SetPassword(ctx, "u1", hash, noEffects(), event("e")))
			if got, err := db.Password(ctx, "u1"); got != hash || err != nil {
				t.Errorf("got %q, %v, want %q", got, err, hash)
			}
		}
		if got, err := db.Password(ctx, "u2"); got != "h0" || err != nil {
			t.Errorf("other user: got %q, %v, want h0", got, err)
		}
		as, err := db.Accounts(ctx, "u1")
		must(t, err)
		if len(as) != 2 {
			t.Fatalf("got %d accounts, want two", len(as))
		}
		a := as[0]
		if a.ProviderID != "credential" {
			a = as[1]
		}
		if a.ProviderID != "credential" || a.AccountID != "u1" || a.UserID != "u1" || len(a.ID) != 32 {
			t.Errorf("got %+v", a)
		}
	})
}

func TestDeletedUserLeavesNothingBehind(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		must(t, db.CreateServiceAccount(ctx, someone("u1"), ptr(keyOf("u1", "k1")), []audit.Event{event("e")}))
		must(t, db.SetPassword(ctx, "u1", "h", noEffects(), event("e")))
		s := sessionOf("u1", "s1")
		s.Fixed = true
		mustCreateSession(t, db, s)
		_, err := db.RotateKey(ctx, "k1", "d2", nil, base.Add(time.Hour), event("e"))
		must(t, err)
		_, err = db.SpendKey(ctx, "k1", base, 1)
		must(t, err)
		must(t, db.DeleteUser(ctx, "u1", nil, event("e")))
		for _, table := range []string{"user", "session", "account", "apikey", "ostiary_user", "ostiary_session", "ostiary_key", "ostiary_key_secret"} {
			var n int
			must(t, db.reader.DB.QueryRowContext(ctx, `SELECT count(*) FROM "`+table+`"`).Scan(&n))
			if n != 0 {
				t.Errorf("%s: got %d rows, want none", table, n)
			}
		}
	})
}

func TestAdministratorsAreThoseTheRuleNames(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		rule := authn.AdminRule{Roles: []string{"admin", "a_b"}, IDs: []string{"root"}}
		add := func(id string, role *string, banned bool, until *time.Time) {
			u := someone(id)
			u.Role, u.Banned, u.BanExpires = role, banned, until
			mustCreateUser(t, db, u)
		}
		add("plain", nil, false, nil)
		add("near", ptr("administrator,xadmin,Admin,aXb, admin,"), false, nil)
		add("banned", ptr("admin"), true, nil)
		add("bannedForLong", ptr("admin"), true, ptr(time.Now().Add(time.Hour)))
		is, err := db.OtherAdmin(ctx, "x", rule)
		if is || err != nil {
			t.Fatalf("nobody: got %v, %v", is, err)
		}
		for _, c := range []struct {
			id     string
			role   *string
			banned bool
			until  *time.Time
		}{
			{"one", ptr("user,admin"), false, nil},
			{"two", ptr("a_b"), false, nil},
			{"root", nil, false, nil},
			{"lifted", ptr("admin"), true, ptr(time.Now().Add(-time.Hour))},
		} {
			add(c.id, c.role, c.banned, c.until)
			if is, err := db.OtherAdmin(ctx, "x", rule); !is || err != nil {
				t.Errorf("%s: got %v, %v, want an administrator", c.id, is, err)
			}
			if is, err := db.OtherAdmin(ctx, c.id, rule); is || err != nil {
				t.Errorf("other than %s: got %v, %v, want none", c.id, is, err)
			}
			must(t, db.DeleteUser(ctx, c.id, nil, event("e")))
		}
	})
}

func TestLastAdministratorStays(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		rule := &authn.AdminRule{Roles: []string{"admin"}}
		u := someone("a1")
		u.Role = ptr("admin")
		mustCreateUser(t, db, u)
		mustCreateUser(t, db, someone("u1"))

		for what, change := range map[string]func(*authn.User) error{
			"demote": func(u *authn.User) error { u.Role = ptr("user"); return nil },
			"ban":    func(u *authn.User) error { u.Banned = true; return nil },
		} {
			_, err := db.UpdateUser(ctx, "a1", change, authn.UserEffects{KeepAdmin: rule}, event("e"))
			wantErr(t, what, err, authn.ErrLastAdmin)
		}
		wantErr(t, "delete", db.DeleteUser(ctx, "a1", rule, event("e")), authn.ErrLastAdmin)
		if got, err := db.User(ctx, "a1"); err != nil || *got.Role != "admin" || got.Banned {
			t.Errorf("rolled back: got %+v, %v", got, err)
		}

		must(t, db.DeleteUser(ctx, "u1", rule, event("e"))) // who is none may go
		_, err := db.UpdateUser(ctx, "a1", func(u *authn.User) error { u.Name = "x"; return nil }, authn.UserEffects{KeepAdmin: rule}, event("e"))
		must(t, err)
		other := someone("a2")
		other.Role = ptr("user,admin")
		mustCreateUser(t, db, other)
		must(t, db.DeleteUser(ctx, "a1", rule, event("e")))
		must(t, db.DeleteUser(ctx, "a2", nil, event("e"))) // without the rule
	})
}

func TestOfTwoAdministratorsDemotedAtOnceOneStays(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		rule := &authn.AdminRule{Roles: []string{"admin"}}
		for range 10 {
			for _, id := range []string{"a1", "a2"} {
				u := someone(id)
				u.Role = ptr("admin")
				mustCreateUser(t, db, u)
			}
			var wg sync.WaitGroup
			errs := make([]error, 2)
			for i, id := range []string{"a1", "a2"} {
				wg.Go(func() {
					_, errs[i] = db.UpdateUser(t.Context(), id, func(u *authn.User) error { u.Role = nil; return nil },
						authn.UserEffects{KeepAdmin: rule}, event("e"))
				})
			}
			wg.Wait()
			if (errs[0] == nil) == (errs[1] == nil) || errors.Join(errs...) == nil || !errors.Is(errors.Join(errs...), authn.ErrLastAdmin) {
				t.Fatalf("got %v, want one success and one %v", errs, authn.ErrLastAdmin)
			}
			must(t, db.DeleteUser(t.Context(), "a1", nil, event("e")))
			must(t, db.DeleteUser(t.Context(), "a2", nil, event("e")))
		}
	})
}

func TestServiceAccountKeepsItsAttributes(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		u := someone("u1")
		u.Attributes = map[string]any{"team": "ops", "level": 3.0, "tags": []any{"a"}, "none": nil}
		k := keyOf("u1", "k1")
		must(t, db.CreateServiceAccount(ctx, u, &k, []audit.Event{event("user.create"), event("key.create")}))
		u.ServiceAccount = true
		got, err := db.User(ctx, "u1")
		must(t, err)
		diff(t, "account", got, u)
		_, owner, _, err := db.KeyByDigest(ctx, k.Digest)
		must(t, err)
		diff(t, "owner", owner, u)

		must(t, db.CreateServiceAccount(ctx, someone("u2"), nil, []audit.Event{event("e")}))
		wantConflict(t, "taken key", db.CreateServiceAccount(ctx, someone("u3"), &k, []audit.Event{event("e")}), "id")
		_, err = db.User(ctx, "u3")
		wantErr(t, "account without its key", err, authn.ErrNotFound)

		// A person's attributes are columns or nothing.
		p := someone("u4")
		p.Attributes = map[string]any{"team": "ops"}
		mustCreateUser(t, db, p)
		got, err = db.User(ctx, "u4")
		must(t, err)
		diff(t, "person", got, someone("u4"))

		got, err = db.UpdateUser(ctx, "u4", func(u *authn.User) error { u.ServiceAccount = true; return nil }, noEffects(), event("e"))
		must(t, err)
		if !got.ServiceAccount {
			t.Error("update did not make it a service account")
		}
	})
}

func TestReceiptNamesTheNewestChange(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		var r audit.Receipt
		ctx := audit.WithReceipt(t.Context(), &r)
		must(t, db.CreateUser(ctx, someone("u1"), "", event("e")))
		first := r.Revision
		if first == "" || first == "0" {
			t.Fatalf("got revision %q", first)
		}
		must(t, db.CreateKey(ctx, keyOf("u1", "k1"), event("e")))
		if r.Revision == first {
			t.Errorf("revision is still %s", first)
		}
	})
}

func TestHoldersOfRoles(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		roles := map[string]*string{"u1": ptr("editor"), "u2": ptr("admin,editor"), "u3": ptr("sub_editor"), "u4": nil, "u5": ptr(""), "u6": ptr("x,editor")}
		for id, role := range roles {
			u := someone(id)
			u.Role, u.Banned = role, id == "u2"
			mustCreateUser(t, db, u)
		}
		for _, c := range []struct {
			rule  authn.AdminRule
			limit int
			want  string
		}{
			{authn.AdminRule{Roles: []string{"editor"}}, 10, "u1 u2 u6"}, // u2 is banned and still holds it
			{authn.AdminRule{Roles: []string{"editor"}}, 2, "u1 u2"},
			{authn.AdminRule{Roles: []string{"edit%"}}, 10, ""},
			{authn.AdminRule{Roles: []string{"x"}, IDs: []string{"u4", "nobody"}}, 10, "u4 u6"},
			{authn.AdminRule{Roles: []string{""}}, 10, "u4 u5"}, // no role at all
			{authn.AdminRule{}, 10, ""},
		} {
			us, err := db.Holders(t.Context(), c.rule, c.limit)
			must(t, err)
			var ids []string
			for _, u := range us {
				ids = append(ids, u.ID)
			}
			if got := strings.Join(ids, " "); got != c.want {
				t.Errorf("%+v, at most %d: %q, want %q", c.rule, c.limit, got, c.want)
			}
		}
	})
}

// More than one page of candidates, most of which do not hold the role.
func TestHoldersAreFoundBehindThoseWhoOnlyLookAlike(t *testing.T) {
	db := open(t, "sqlite::memory:")
	for i := range holders + 1 {
		u := someone(fmt.Sprintf("u%04d", i))
		u.Role = ptr("sub_editor")
		mustCreateUser(t, db, u)
	}
	last := someone("v")
	last.Role = ptr("editor")
	mustCreateUser(t, db, last)
	us, err := db.Holders(t.Context(), authn.AdminRule{Roles: []string{"editor"}}, 3)
	must(t, err)
	if len(us) != 1 || us[0].ID != "v" {
		t.Errorf("holders %v", us)
	}
}
