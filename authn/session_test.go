package authn_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

func TestSessionsSlideWhenUsed(t *testing.T) {
	h := open(t)
	u := h.user("ann")
	const week = 7 * 24 * time.Hour
	short := h.now().Add(24 * time.Hour)
	for _, c := range []struct {
		name         string
		session      func(*authn.Session)
		after        time.Duration
		dontRemember bool
		want         bool
	}{
		{"too early", func(*authn.Session) {}, 23 * time.Hour, false, false},
		{"due", func(*authn.Session) {}, 24 * time.Hour, false, true},
		{"due, but the holder wishes not", func(*authn.Session) {}, 24 * time.Hour, true, false},
		{"don't remember, whatever the holder sends", func(s *authn.Session) { s.Fixed, s.ExpiresAt = true, short }, time.Hour, false, false},
		{"impersonation, whoever wrote it", func(s *authn.Session) { s.ImpersonatedBy, s.ExpiresAt = &h.admin.ID, short }, time.Hour, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := h.now()
			token := h.token(u, c.session)
			h.mustAuthenticate(authn.SessionToken, token)
			h.advance(c.after)
			defer h.clock.Store(start.UnixMilli())
			p := h.mustAuthenticate(authn.SessionToken, token)
			s, extended, err := h.Extend(t.Context(), p, c.dontRemember)
			if err != nil || extended != c.want {
				t.Fatalf("extended %t, %v; want %t", extended, err, c.want)
			}
			now := h.mustAuthenticate(authn.SessionToken, token).Session()
			if !now.ExpiresAt.Equal(s.ExpiresAt) {
				t.Errorf("the next request sees the end %v, want %v", now.ExpiresAt, s.ExpiresAt)
			}
			if c.want && !now.ExpiresAt.Equal(h.now().Add(week)) {
				t.Errorf("ends %v, want %v", now.ExpiresAt, h.now().Add(week))
			}
		})
	}
}

func TestFreshnessIsOfTheSignInAndIsNotRenewed(t *testing.T) {
	h := open(t)
	u := h.user("ann")
	token := h.token(u)
	p := h.mustAuthenticate(authn.SessionToken, token)
	if !h.Fresh(p) {
		t.Error("a new session is not fresh")
	}
	h.advance(24 * time.Hour)
	if _, extended, err := h.Extend(t.Context(), p, false); err != nil || !extended {
		t.Fatal(extended, err)
	}
	if h.Fresh(h.mustAuthenticate(authn.SessionToken, token)) {
		t.Error("extending made it fresh")
	}
	_, err := h.Sessions(t.Context(), h.mustAuthenticate(authn.SessionToken, token), "")
	denied(t, err, "session_not_fresh")
	is(t, h.DeleteOwn(t.Context(), h.mustAuthenticate(authn.SessionToken, token), nil), authn.ErrNotFresh)

	always := open(t, func(o *authn.Options) { o.FreshAge = new(time.Duration) })
	old := always.token(always.admin)
	always.advance(6 * 24 * time.Hour)
	if !always.Fresh(always.mustAuthenticate(authn.SessionToken, old)) {
		t.Error("with a fresh age of 0 every session is fresh")
	}
}

func TestTokensAreForInteractiveSessionsOfThoseWhoGainNothingByThem(t *testing.T) {
	h := open(t)
	u := h.user("ann", "admin")
	own := h.session(u)
	_, secret := h.key(u, everything)
	linked := h.mustAuthenticate(authn.SessionToken, must(h.SignInKey(t.Context(), h.asKey(secret), authn.Device{}))(t).Session.Token)
	plain := h.user("bob")
	bob := h.session(plain)
	imp := h.mustAuthenticate(authn.SessionToken, must(h.Impersonate(t.Context(), h.root, plain.ID, authn.Device{}))(t).Session.Token)
	for _, c := range []struct {
		name   string
		caller authn.Principal
		of     string
		want   bool
	}{
		{"own session", own, u.ID, true},
		{"own key", h.asKey(secret), u.ID, false},
		{"own session by key", linked, u.ID, false},
		{"administrator, of somebody they may impersonate", h.root, plain.ID, true},
		{"administrator, of another administrator", h.root, u.ID, false},
		{"impersonator", imp, plain.ID, false},
		{"impersonated person", bob, plain.ID, true},
		{"the program", system, u.ID, false},
	} {
		sessions, err := h.Sessions(t.Context(), c.caller, c.of)
		if err != nil || len(sessions) == 0 {
			t.Errorf("%s: %d sessions, %v", c.name, len(sessions), err)
		}
		for _, s := range sessions {
			if (s.Token != "") != c.want {
				t.Errorf("%s: token shown %t, want %t", c.name, s.Token != "", c.want)
			}
		}
	}
}

func TestRevokingTakesOnlyWhatOneMay(t *testing.T) {
	h := open(t)
	ann, bob := h.user("ann"), h.user("bob")
	a1, a2, b := h.token(ann), h.token(ann), h.token(bob)
	caller := h.mustAuthenticate(authn.SessionToken, a1)
	h.mustAuthenticate(authn.SessionToken, b)
	// Another's token and an unknown one look alike, and nothing happens.
	is(t, h.RevokeSession(t.Context(), caller, ann.ID, b), nil)
	is(t, h.RevokeSession(t.Context(), caller, ann.ID, "unknown"), nil)
	h.mustAuthenticate(authn.SessionToken, b)
	denied(t, h.RevokeSession(t.Context(), caller, "", b), "role_missing")
	denied(t, h.RevokeSession(t.Context(), caller, "", "unknown"), "role_missing")
	denied(t, h.RevokeSessions(t.Context(), caller, bob.ID, false), "role_missing")
	bobs := h.mustAuthenticate(authn.SessionToken, b).Session().ID
	denied(t, h.RevokeSessionByID(t.Context(), caller, bobs), "role_missing")
	denied(t, h.RevokeSessionByID(t.Context(), caller, "unknown"), "role_missing")
	is(t, h.RevokeSession(t.Context(), authn.Principal{}, "", b), authn.ErrUnauthenticated)

	is(t, h.RevokeSession(t.Context(), caller, ann.ID, a2), nil)
	h.refused(authn.SessionToken, a2, authn.ErrBadCredential)
	is(t, h.RevokeSessionByID(t.Context(), h.root, bobs), nil)
	h.refused(authn.SessionToken, b, authn.ErrBadCredential)
	a3 := h.token(ann)
	is(t, h.RevokeSessions(t.Context(), caller, "", true), nil)
	h.refused(authn.SessionToken, a3, authn.ErrBadCredential)
	h.mustAuthenticate(authn.SessionToken, a1)
	is(t, h.SignOut(t.Context(), caller), nil)
	h.refused(authn.SessionToken, a1, authn.ErrBadCredential)
	is(t, h.SignOut(t.Context(), authn.Principal{}), nil)
}

func TestSessionOfAKeyIsNoStrongerThanTheKey(t *testing.T) {
	h := open(t)
	u := h.user("ann", "admin")
	_, secret := h.key(u, authz.Permissions{"session": {"create", "list"}, "user": {"change-password", "delete"}}, func(in *authn.NewKey) {
		in.ExpiresIn = pointer(36 * time.Hour)
	})
	by := h.asKey(secret)
	made := must(h.SignInKey(t.Context(), by, authn.Device{IPAddress: "192.0.2.1", UserAgent: "ci"}))(t)
	if want := by.Key().ExpiresAt; !made.Session.ExpiresAt.Equal(*want) {
		t.Errorf("ends %v, want %v with the key", made.Session.ExpiresAt, want)
	}
	p := h.mustAuthenticate(authn.SessionToken, made.Session.Token)
	if p.Key() == nil || p.Key().ID != by.Key().ID || h.Fresh(p) || p.Session().ID == "" {
		t.Errorf("key %v, fresh %t", p.Key(), h.Fresh(p))
	}
	if s := must(h.Sessions(t.Context(), p, ""))(t); len(s) != 1 || s[0].ID != made.Session.ID || *s[0].IPAddress != "192.0.2.1" || *s[0].UserAgent != "ci" {
		t.Errorf("not listed as it was made: %+v", s)
	}
	_, err := h.User(t.Context(), p, u.ID)
	denied(t, err, "grant_missing")
	is(t, h.DeleteOwn(t.Context(), p, nil), authn.ErrNotFresh)
	is(t, h.DeleteOwn(t.Context(), by, nil), authn.ErrNotFresh) // nor is the key itself
	h.advance(25 * time.Hour)
	if _, extended, err := h.Extend(t.Context(), p, false); extended || err != nil {
		t.Errorf("extended %t, %v", extended, err)
	}
	if _, err := h.SignInKey(t.Context(), p, authn.Device{}); !errors.Is(err, authn.ErrUnauthenticated) {
		t.Errorf("a session of a key made another: %v", err)
	}
}

func TestUsesOfAKeySessionDoNotSpendTheKey(t *testing.T) {
	h := open(t)
	one := int64(1)
	_, secret := h.key(h.admin, everything, func(in *authn.NewKey) { in.Limits.Remaining = pointer(&one) })
	token := must(h.SignInKey(t.Context(), h.asKey(secret), authn.Device{}))(t).Session.Token
	for range 3 {
		h.mustAuthenticate(authn.SessionToken, token)
	}
	h.refused(authn.APIKeySecret, secret, authn.ErrUsageExceeded)
	h.mustAuthenticate(authn.SessionToken, token)
}

func TestSessionOfARotatedKeyEndsWithTheOverlap(t *testing.T) {
	h := open(t)
	k, old := h.key(h.admin, everything)
	before := must(h.SignInKey(t.Context(), h.asKey(old), authn.Device{}))(t).Session.Token
	_, fresh, err := h.RotateKey(t.Context(), h.root, k.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	during := must(h.SignInKey(t.Context(), h.asKey(old), authn.Device{}))(t).Session
	if want := h.now().Add(time.Hour); !during.ExpiresAt.Equal(want) {
		t.Errorf("a session made with a secret that overlaps ends %v, want %v", during.ExpiresAt, want)
	}
	after := must(h.SignInKey(t.Context(), h.asKey(fresh), authn.Device{}))(t).Session.Token
	h.mustAuthenticate(authn.SessionToken, before)
	h.advance(time.Hour)
	h.refused(authn.SessionToken, before, authn.ErrBadCredential)
	h.refused(authn.SessionToken, during.Token, authn.ErrBadCredential)
	h.Forget("", "")
	h.refused(authn.SessionToken, before, authn.ErrBadCredential)
	h.mustAuthenticate(authn.SessionToken, after)
}

func TestSessionOfAKeyThatChangedHandsIsRefused(t *testing.T) {
	h := open(t)
	k, _ := h.key(h.admin, everything)
	victim := h.user("ann")
	token := h.token(victim, func(s *authn.Session) { s.KeyID, s.KeyDigest = k.ID, k.Digest })
	h.refused(authn.SessionToken, token, authn.ErrBadCredential)
}

func TestSignInWithAKeyCanBeForbidden(t *testing.T) {
	h := open(t)
	_, narrow := h.key(h.admin, authz.Permissions{"user": {"list"}})
	_, err := h.SignInKey(t.Context(), h.asKey(narrow), authn.Device{})
	denied(t, err, "grant_missing")

	_, secret := h.key(h.admin, everything)
	h.author(map[string]*file{"s.rego": {Data: []byte(`package app.session
deny contains {"code": "no_keys", "message": "keys do not sign in"} if {
	input.action.name == "create"
	input.principal.credential == "api_key"
}`)}})
	_, err = h.SignInKey(t.Context(), h.asKey(secret), authn.Device{})
	denied(t, err, "no_keys")
	_, err = h.SignInKey(t.Context(), h.root, authn.Device{})
	is(t, err, authn.ErrUnauthenticated)
}
