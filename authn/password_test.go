package authn_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
)

func TestPasswordsOfBetterAuthWork(t *testing.T) {
	t.Parallel()
	var vectors struct {
		PasswordHashes []struct {
			Password authn.Secret
			Stored   string
		}
	}
	readVectors(t, &vectors)
	h := open(t)
	for i, v := range vectors.PasswordHashes {
		u := h.person(string(rune('a'+i)) + "@example.com")
		if err := h.db.SetPassword(t.Context(), u.ID, v.Stored, authn.UserEffects{}, audit.Event{Kind: "x"}); err != nil {
			t.Fatal(err)
		}
		must(h.signIn(u.Email, v.Password))(t)
	}
	// Equal after NFKC is equal.
	must(h.signIn("b@example.com", "Pass fi1é"))(t)
}

func TestPasswordLengthIsInUTF16(t *testing.T) {
	t.Parallel()
	h := open(t)
	u := h.user("ann")
	is(t, h.SetPassword(t.Context(), h.root, u.ID, "😀😀😀é"), authn.ErrPasswordShort) // 7
	is(t, h.SetPassword(t.Context(), h.root, u.ID, "😀😀😀😀"), nil)                    // 8
	is(t, h.SetPassword(t.Context(), h.root, u.ID, authn.Secret(strings.Repeat("😀", 64)+"x")), authn.ErrPasswordLong)
}

func TestHashingIsBoundedByMemory(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *authn.Options) { o.HashMemory, o.HashWait = 1, time.Millisecond })
	h.person("ann@example.com")
	var busy, done atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			switch _, err := h.signIn("ann@example.com", password); {
			case errors.Is(err, authn.ErrBusy):
				busy.Add(1)
			case err == nil:
				done.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if done.Load() == 0 || busy.Load() == 0 {
		t.Errorf("%d done and %d busy; one at a time should be done, and the others not wait for long", done.Load(), busy.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.SignIn(ctx, authn.Principal{}, authn.SignIn{Email: "ann@example.com", Password: password}); err == nil || errors.Is(err, authn.ErrBusy) {
		t.Errorf("who gave up got %v", err)
	}
}

func TestChangingAPassword(t *testing.T) {
	t.Parallel()
	h := open(t)
	u := h.person("ann@example.com")
	token, other := h.token(u), h.token(u)
	p := h.mustAuthenticate(authn.SessionToken, token)
	const next = authn.Secret("a-new-password")
	change := func(p authn.Principal, current, next authn.Secret, revoke bool) (*authn.Session, error) {
		_, s, err := h.ChangePassword(t.Context(), p, current, next, revoke, authn.Device{})
		return s, err
	}
	for _, c := range []struct {
		name          string
		current, next authn.Secret
		want          error
	}{
		{"short", "wrong", "short", authn.ErrPasswordShort},
		{"long", "wrong", authn.Secret(strings.Repeat("x", 129)), authn.ErrPasswordLong},
		{"current too long", authn.Secret(strings.Repeat("x", 129)), next, authn.ErrPasswordLong},
		{"wrong", "wrong", next, authn.ErrWrongPassword},
		{"right", password, next, nil},
	} {
		if s, err := change(p, c.current, c.next, false); !errors.Is(err, c.want) || s != nil {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	h.mustAuthenticate(authn.SessionToken, other)
	s := must(change(p, next, password, true))(t)
	for _, gone := range []authn.Secret{token, other} {
		h.refused(authn.SessionToken, gone, authn.ErrBadCredential)
	}
	if !s.ExpiresAt.Equal(h.now().Add(7 * 24 * time.Hour)) {
		t.Errorf("ends %v", s.ExpiresAt)
	}
	is(t, h.VerifyPassword(t.Context(), h.mustAuthenticate(authn.SessionToken, s.Token), password), nil)
	nobody := h.session(h.user("bob"))
	_, err := change(nobody, "x", next, false)
	is(t, err, authn.ErrNoPassword)
	is(t, h.VerifyPassword(t.Context(), nobody, password), authn.ErrWrongPassword)
	_, err = change(authn.Principal{}, "x", next, false)
	is(t, err, authn.ErrUnauthenticated)

	// A key gets no session that outgrows it.
	_, secret := h.key(u, everything)
	s = must(change(h.asKey(secret), password, next, true))(t)
	if p := h.mustAuthenticate(authn.SessionToken, s.Token); p.Key() == nil || h.Fresh(p) || !s.Fixed {
		t.Errorf("a key made a session that is free of it: %+v", s)
	}
	// Nor does a session that was not to be remembered.
	fixed := h.session(u, func(s *authn.Session) { s.Fixed = true })
	if s = must(change(fixed, next, password, true))(t); !s.Fixed || !s.ExpiresAt.Equal(h.now().Add(24*time.Hour)) {
		t.Errorf("%+v", s)
	}
}
