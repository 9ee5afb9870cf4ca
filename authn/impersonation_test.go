package authn_test

import (
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

func TestImpersonatorActsAsTheUserAndIsOnRecord(t *testing.T) {
	h := open(t)
	u := h.user("ann")
	made := must(h.Impersonate(t.Context(), h.root, u.ID, authn.Device{}))(t)
	if want := h.now().Add(time.Hour); !made.Session.ExpiresAt.Equal(want) || !made.Session.Fixed {
		t.Errorf("ends %v (fixed %t), want %v", made.Session.ExpiresAt, made.Session.Fixed, want)
	}
	p := h.mustAuthenticate(authn.SessionToken, made.Session.Token)
	if p.User().ID != u.ID || *p.Session().ImpersonatedBy != h.admin.ID || p.Subject().Identity().Session.ImpersonatedBy != h.admin.ID {
		t.Errorf("user %s, by %v", p.User().ID, p.Session().ImpersonatedBy)
	}
	must(h.UpdateUser(t.Context(), p, "", authn.UserChange{Name: pointer("Anna")}))(t)
	if a := h.event("user.update").Actor; a.ID != u.ID || a.ImpersonatedBy != h.admin.ID {
		t.Errorf("on record as %+v", a)
	}
	_, _, err := h.Users(t.Context(), p, authn.UserQuery{})
	denied(t, err, "role_missing")
}

func TestImpersonatorCannotDoWhatOnlyThePersonMay(t *testing.T) {
	h := open(t)
	u := h.user("ann")
	k, _ := h.key(u, nil)
	p := h.mustAuthenticate(authn.SessionToken, must(h.Impersonate(t.Context(), h.root, u.ID, authn.Device{}))(t).Session.Token)
	_, _, err := h.ChangePassword(t.Context(), p, "old-password", "new-password", false, authn.Device{})
	denied(t, err, "impersonating")
	_, err = h.ChangeEmail(t.Context(), p, "new@example.com")
	denied(t, err, "impersonating")
	denied(t, h.DeleteOwn(t.Context(), p, nil), "impersonating")
	_, _, err = h.CreateKey(t.Context(), p, authn.NewKey{})
	denied(t, err, "impersonating")
	_, _, err = h.RotateKey(t.Context(), p, k.ID, 0)
	denied(t, err, "impersonating")
}

// An impersonated session is good only while its administrator could begin it.
func TestImpersonationEndsWithTheRightToIt(t *testing.T) {
	for _, c := range []struct {
		name  string
		keyed bool
		end   func(h *house, by authn.User, key authn.APIKey, target authn.User) error
	}{
		{"administrator demoted", false, func(h *house, by authn.User, _ authn.APIKey, _ authn.User) error {
			_, err := h.SetRoles(h.Context(), h.root, by.ID, []string{"user"})
			return err
		}},
		{"administrator banned", false, func(h *house, by authn.User, _ authn.APIKey, _ authn.User) error {
			_, err := h.Ban(h.Context(), h.root, by.ID, "", 0)
			return err
		}},
		{"administrator removed", false, func(h *house, by authn.User, _ authn.APIKey, _ authn.User) error {
			return h.RemoveUser(h.Context(), h.root, by.ID)
		}},
		{"target made an administrator", false, func(h *house, _ authn.User, _ authn.APIKey, target authn.User) error {
			_, err := h.SetRoles(h.Context(), h.root, target.ID, []string{"admin"})
			return err
		}},
		{"policy changed", false, func(h *house, _ authn.User, _ authn.APIKey, _ authn.User) error {
			h.author(map[string]*file{"u.rego": {Data: []byte(`package app.user
deny contains "no" if input.action.name == "impersonate"`)}})
			h.Forget("", "")
			return nil
		}},
		{"time", false, func(h *house, _ authn.User, _ authn.APIKey, _ authn.User) error {
			h.advance(time.Hour)
			return nil
		}},
		{"key narrowed", true, func(h *house, _ authn.User, k authn.APIKey, _ authn.User) error {
			_, err := h.UpdateKey(h.Context(), h.root, k.ID, authn.KeyChange{Permissions: &authz.Permissions{"user": {"list"}}})
			return err
		}},
		{"key disabled", true, func(h *house, _ authn.User, k authn.APIKey, _ authn.User) error {
			_, err := h.UpdateKey(h.Context(), h.root, k.ID, authn.KeyChange{Enabled: pointer(false)})
			return err
		}},
		{"key deleted", true, func(h *house, _ authn.User, k authn.APIKey, _ authn.User) error {
			return h.DeleteKey(h.Context(), h.root, k.ID)
		}},
		{"administrator of the key demoted", true, func(h *house, by authn.User, _ authn.APIKey, _ authn.User) error {
			_, err := h.SetRoles(h.Context(), h.root, by.ID, []string{"user"})
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			by, target := h.user("boss", "admin"), h.user("ann")
			k, secret := h.key(by, everything)
			caller := h.session(by)
			if c.keyed {
				caller = h.asKey(secret)
			}
			token := must(h.Impersonate(t.Context(), caller, target.ID, authn.Device{}))(t).Session.Token
			if p := h.mustAuthenticate(authn.SessionToken, token); (p.Key() != nil) != c.keyed {
				t.Errorf("the key at work is %v", p.Key())
			}
			is(t, c.end(h, by, k, target), nil)
			h.refused(authn.SessionToken, token, authn.ErrBadCredential)
		})
	}
}

func TestImpersonationByAKeyIsNarrowedByIt(t *testing.T) {
	h := open(t)
	u := h.user("ann")
	_, secret := h.key(h.admin, authz.Permissions{"user": {"impersonate"}})
	p := h.mustAuthenticate(authn.SessionToken, must(h.Impersonate(t.Context(), h.asKey(secret), u.ID, authn.Device{}))(t).Session.Token)
	_, err := h.UpdateUser(t.Context(), p, "", authn.UserChange{Name: pointer("x")})
	denied(t, err, "grant_missing")
}

func TestImpersonatingAdministratorsNeedsItsOwnPermission(t *testing.T) {
	h := open(t)
	other := h.user("boss", "user", "admin")
	for _, id := range []string{other.ID, h.admin.ID} {
		_, err := h.Impersonate(t.Context(), h.root, id, authn.Device{})
		d := err.(*authz.DeniedError)
		if d.Action != "impersonate-admins" {
			t.Errorf("denied for %s", d.Action)
		}
	}
	_, err := h.Impersonate(t.Context(), h.root, "unknown", authn.Device{})
	is(t, err, authn.ErrUserNotFound)
	_, err = h.Impersonate(t.Context(), h.session(h.user("bob")), "unknown", authn.Device{})
	denied(t, err, "role_missing") // permission comes before existence
	banned := h.user("ann")
	must(h.Ban(t.Context(), h.root, banned.ID, "", 0))(t)
	_, err = h.Impersonate(t.Context(), h.root, banned.ID, authn.Device{})
	is(t, err, authn.ErrUserBanned)
	_, err = h.Impersonate(t.Context(), system, other.ID, authn.Device{})
	is(t, err, authn.ErrUnauthenticated)
}

func TestImpersonationsDoNotChain(t *testing.T) {
	h := open(t)
	h.author(map[string]*file{"data.json": {Data: []byte(`{"roles": {"helper": {"user": ["impersonate"]}}}`)}})
	helper, u := h.user("helper", "helper"), h.user("ann")
	first := h.mustAuthenticate(authn.SessionToken, must(h.Impersonate(t.Context(), h.root, helper.ID, authn.Device{}))(t).Session.Token)
	second := must(h.Impersonate(t.Context(), first, u.ID, authn.Device{}))(t).Session
	if *second.ImpersonatedBy != h.admin.ID {
		t.Errorf("impersonated by %s, want the administrator behind", *second.ImpersonatedBy)
	}
	h.mustAuthenticate(authn.SessionToken, second.Token)
	h.user("spare", "admin")
	must(h.SetRoles(t.Context(), system, h.admin.ID, nil))(t)
	h.refused(authn.SessionToken, second.Token, authn.ErrBadCredential)
}

func TestStopImpersonatingReturnsToTheAdministrator(t *testing.T) {
	h := open(t)
	u := h.user("ann")
	own := h.token(h.admin)
	begin := func() authn.Principal {
		return h.mustAuthenticate(authn.SessionToken, must(h.Impersonate(t.Context(), h.mustAuthenticate(authn.SessionToken, own), u.ID, authn.Device{}))(t).Session.Token)
	}
	p := begin()
	for name, token := range map[string]authn.Secret{
		"none": "", "unknown": "x", "another's": h.token(h.user("eve", "admin")), "the impersonated one": p.Session().Token,
		"the user's own": h.token(u), "expired": h.token(h.admin, func(s *authn.Session) { s.ExpiresAt = h.now() }),
	} {
		if _, err := h.StopImpersonating(t.Context(), p, token); err != authn.ErrAdminSessionGone {
			t.Errorf("%s: got %v", name, err)
		}
	}
	back := must(h.StopImpersonating(t.Context(), p, own))(t)
	if back.User.ID != h.admin.ID || back.Session.Token != own {
		t.Errorf("back as %s", back.User.ID)
	}
	h.refused(authn.SessionToken, p.Session().Token, authn.ErrBadCredential)
	_, err := h.StopImpersonating(t.Context(), h.root, own)
	is(t, err, authn.ErrNotImpersonating)
	_, err = h.StopImpersonating(t.Context(), authn.Principal{}, own)
	is(t, err, authn.ErrUnauthenticated)

	p = begin()
	h.user("spare", "admin")
	is(t, h.RemoveUser(t.Context(), system, h.admin.ID), nil)
	_, err = h.StopImpersonating(t.Context(), p, own) // a request that was under way
	is(t, err, authn.ErrAdminGone)
}
