package authn_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

func TestKeysHaveOurFormat(t *testing.T) {
	h := open(t)
	seen := map[authn.Secret]bool{}
	for _, prefix := range []*string{nil, pointer("ci_"), pointer("a-rather-long-prefix_of_32_chars")} {
		k, secret := h.key(h.admin, nil, func(in *authn.NewKey) { in.Prefix = prefix })
		text := secret.Reveal()
		want := "ost_"
		if prefix != nil {
			want = *prefix
		}
		if !strings.HasPrefix(text, want) || *k.Prefix != want || *k.Start != text[:6] || len(text) < 64 || len(text)-len(want)-6 < 43 || seen[secret] {
			t.Errorf("prefix %s, start %s, %d characters", *k.Prefix, *k.Start, len(text))
		}
		if strings.ContainsFunc(text[len(want):], func(r rune) bool {
			return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		}) {
			t.Error("not base62 after the prefix")
		}
		seen[secret] = true
		if strings.Contains(k.Digest, text) {
			t.Error("stored in plain text")
		}
		h.asKey(secret)
	}
}

func TestKeyRulesAreThoseOfTheWire(t *testing.T) {
	h := open(t, func(o *authn.Options) {
		o.Keys = authn.KeyOptions{NameMin: 2, NameMax: 10, PrefixMin: 2, PrefixMax: 8, MinLife: 12 * time.Hour, MaxLife: 720 * time.Hour, DefaultLife: 24 * time.Hour, Prefix: pointer("lab_"), StartLength: 10, Length: 40}
	})
	n := func(v int64) **int64 { return pointer(&v) }
	for _, c := range []struct {
		name string
		in   authn.NewKey
		want error
	}{
		{"fine", authn.NewKey{Name: pointer("short")}, nil},
		{"empty name", authn.NewKey{Name: pointer("")}, nil},
		{"name too short", authn.NewKey{Name: pointer("x")}, authn.ErrKeyNameLength},
		{"name too long", authn.NewKey{Name: pointer("elevenchars")}, authn.ErrKeyNameLength},
		{"name in UTF-16", authn.NewKey{Name: pointer("😀")}, nil},
		{"prefix too short", authn.NewKey{Prefix: pointer("p")}, authn.ErrKeyPrefixLength},
		{"prefix too long", authn.NewKey{Prefix: pointer("waytoolong")}, authn.ErrKeyPrefixLength},
		{"prefix with a space", authn.NewKey{Prefix: pointer("a b")}, authn.ErrKeyPrefix},
		{"shortest life", authn.NewKey{ExpiresIn: pointer(12 * time.Hour)}, nil},
		{"too short a life", authn.NewKey{ExpiresIn: pointer(12*time.Hour - 1)}, authn.ErrKeyExpiryShort},
		{"longest life", authn.NewKey{ExpiresIn: pointer(720 * time.Hour)}, nil},
		{"too long a life", authn.NewKey{ExpiresIn: pointer(720*time.Hour + 1)}, authn.ErrKeyExpiryLong},
		{"metadata is text", authn.NewKey{Metadata: json.RawMessage(`"x"`)}, authn.ErrMetadataType},
		{"metadata is a list", authn.NewKey{Metadata: json.RawMessage(`["x"]`)}, nil},
		{"metadata is broken", authn.NewKey{Metadata: json.RawMessage(`{`)}, authn.ErrMetadataType},
		{"refill amount alone", authn.NewKey{Limits: authn.KeyLimits{RefillAmount: n(1)}}, authn.ErrRefillInterval},
		{"refill interval alone", authn.NewKey{Limits: authn.KeyLimits{RefillInterval: n(1)}}, authn.ErrRefillAmount},
		{"owner unknown", authn.NewKey{OwnerID: "nobody"}, authn.ErrUserNotFound},
	} {
		k, _, err := h.CreateKey(t.Context(), h.root, c.in)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if err == nil && c.in.ExpiresIn == nil && !k.ExpiresAt.Equal(h.now().Add(24*time.Hour)) {
			t.Errorf("%s: the default life was not given", c.name)
		}
	}
	_, _, err := h.CreateKey(t.Context(), h.root, authn.NewKey{Limits: authn.KeyLimits{Remaining: n(-1)}})
	if _, ok := errors.AsType[*authn.InvalidError](err); !ok {
		t.Errorf("negative quota: %v", err)
	}
	k, _, err := h.CreateKey(t.Context(), h.root, authn.NewKey{NoExpiry: true})
	if err != nil || k.ExpiresAt != nil || *k.Prefix != "lab_" || len(*k.Start) != 10 {
		t.Errorf("%+v, %v", k, err)
	}

	strict := open(t, func(o *authn.Options) {
		o.Keys = authn.KeyOptions{NameRequired: true, ExpiryFixed: true, MetadataDisabled: true, RateLimitMax: 10, RateLimitWindow: time.Minute, RateLimitDisabled: true}
	})
	_, _, err = strict.CreateKey(t.Context(), strict.root, authn.NewKey{})
	is(t, err, authn.ErrKeyNameRequired)
	_, _, err = strict.CreateKey(t.Context(), strict.root, authn.NewKey{Name: pointer("x"), NoExpiry: true})
	is(t, err, authn.ErrKeyExpiryFixed)
	_, _, err = strict.CreateKey(t.Context(), strict.root, authn.NewKey{Name: pointer("x"), Metadata: json.RawMessage(`{}`)})
	is(t, err, authn.ErrMetadataOff)
	k, _, err = strict.CreateKey(t.Context(), strict.root, authn.NewKey{Name: pointer("x")})
	if err != nil || *k.RateLimitMax != 10 || *k.RateLimitTimeWindow != 60_000 || k.RateLimitEnabled {
		t.Errorf("%+v, %v", k, err)
	}
	_, err = strict.UpdateKey(t.Context(), strict.root, k.ID, authn.KeyChange{Metadata: json.RawMessage(`{}`)})
	is(t, err, authn.ErrNothingToChange)
}

func TestNoCredentialMintsAStrongerOne(t *testing.T) {
	h := open(t)
	boss := h.user("boss", "admin")
	wide, _ := h.key(boss, everything)
	narrow := authz.Permissions{"apiKey": {"create", "update", "rotate", "read"}, "session": {"create"}, "user": {"set-password", "impersonate", "set-email"}}
	own, secret := h.key(boss, narrow)
	byKey := h.asKey(secret)
	linked := h.mustAuthenticate(authn.SessionToken, must(h.SignInKey(t.Context(), byKey, authn.Device{}))(t).Session.Token)
	wider := authz.Permissions{"user": {"delete"}}
	for name, caller := range map[string]authn.Principal{"key": byKey, "session of the key": linked} {
		t.Run(name, func(t *testing.T) {
			_, _, err := h.CreateKey(t.Context(), caller, authn.NewKey{Permissions: wider})
			denied(t, err, "escalation")
			_, err = h.UpdateKey(t.Context(), caller, own.ID, authn.KeyChange{Permissions: &wider})
			denied(t, err, "escalation")
			_, _, err = h.RotateKey(t.Context(), caller, wide.ID, 0)
			denied(t, err, "escalation")
			denied(t, h.SetPassword(t.Context(), caller, boss.ID, "a new password"), "escalation")
			_, err = h.Impersonate(t.Context(), caller, h.admin.ID, authn.Device{})
			denied(t, err, "escalation")
			if _, _, err := h.CreateKey(t.Context(), caller, authn.NewKey{Permissions: authz.Permissions{"session": {"create"}}}); err != nil {
				t.Errorf("a narrower key: %v", err)
			}
		})
	}
	person := h.session(h.user("ann"))
	_, _, err := h.CreateKey(t.Context(), person, authn.NewKey{Permissions: wider})
	if err != nil {
		// One's own account may be deleted, so the grant is within reach.
		t.Errorf("own permission: %v", err)
	}
	_, _, err = h.CreateKey(t.Context(), person, authn.NewKey{Permissions: authz.Permissions{"user": {"list"}}})
	denied(t, err, "escalation")
	_, _, err = h.CreateKey(t.Context(), person, authn.NewKey{OwnerID: boss.ID})
	denied(t, err, "role_missing")
}

func TestDefaultGrantsAreNotForNarrowKeysToHandOut(t *testing.T) {
	h := open(t, func(o *authn.Options) { o.Keys.DefaultPermissions = authz.Permissions{"files": {"read"}} })
	ann := h.user("ann")
	k, _, err := h.CreateKey(t.Context(), h.session(ann), authn.NewKey{})
	if err != nil || !k.Permissions.Allows("files", "read") {
		t.Fatalf("%v, %v", k.Permissions, err)
	}
	_, secret := h.key(ann, authz.Permissions{"apiKey": {"create"}})
	_, _, err = h.CreateKey(t.Context(), h.asKey(secret), authn.NewKey{})
	denied(t, err, "escalation")
}

func TestForeignAndUnknownKeysLookAlike(t *testing.T) {
	h := open(t)
	ann, bob := h.user("ann"), h.user("bob")
	foreign, _ := h.key(bob, nil)
	caller := h.session(ann)
	for _, id := range []string{foreign.ID, "unknown"} {
		_, read := h.Key(t.Context(), caller, id)
		_, update := h.UpdateKey(t.Context(), caller, id, authn.KeyChange{Name: pointer("x")})
		_, _, rotate := h.RotateKey(t.Context(), caller, id, 0)
		for name, err := range map[string]error{"read": read, "update": update, "rotate": rotate, "delete": h.DeleteKey(t.Context(), caller, id)} {
			if err != authn.ErrKeyNotFound {
				t.Errorf("%s: got %v, want exactly %v", name, err, authn.ErrKeyNotFound)
			}
		}
	}
	_, _, err := h.Keys(t.Context(), caller, authn.KeyQuery{OwnerID: bob.ID})
	denied(t, err, "role_missing")

	// A missing grant is told: to an administrator's key, and to the owner's.
	_, narrow := h.key(h.admin, authz.Permissions{"user": {"list"}})
	_, err = h.Key(t.Context(), h.asKey(narrow), foreign.ID)
	denied(t, err, "grant_missing")
	mine, secret := h.key(ann, nil)
	_, err = h.Key(t.Context(), h.asKey(secret), mine.ID)
	denied(t, err, "grant_missing")

	// Administrators reach all.
	must(h.Key(t.Context(), h.root, foreign.ID))(t)
	_, err = h.UpdateKey(t.Context(), h.root, foreign.ID, authn.KeyChange{OwnerID: ann.ID, Name: pointer("x")})
	is(t, err, authn.ErrKeyNotFound)
	if keys, n, err := h.Keys(t.Context(), h.root, authn.KeyQuery{OwnerID: bob.ID, Limit: -1}); err != nil || n != 1 || len(keys) != 1 {
		t.Errorf("%d of %d keys, %v", len(keys), n, err)
	}
	_, err = h.Key(t.Context(), h.root, "unknown")
	is(t, err, authn.ErrKeyNotFound)
}

func TestLimitsAreNotTheOwnersToLift(t *testing.T) {
	h := open(t)
	ann := h.user("ann")
	five := int64(5)
	k, _ := h.key(ann, nil, func(in *authn.NewKey) { in.Limits.Remaining = pointer(&five) })
	lift := authn.KeyChange{Limits: authn.KeyLimits{Remaining: new(*int64)}}
	_, err := h.UpdateKey(t.Context(), h.session(ann), k.ID, lift)
	denied(t, err, "role_missing")
	if k := must(h.UpdateKey(t.Context(), h.root, k.ID, lift))(t); k.Remaining != nil {
		t.Error("an administrator cannot lift it either")
	}
}

func TestUpdateOfAKey(t *testing.T) {
	h := open(t)
	k, _ := h.key(h.admin, everything)
	h.advance(time.Hour)
	for _, c := range []struct {
		name string
		c    authn.KeyChange
		want error
	}{
		{"nothing", authn.KeyChange{}, authn.ErrNothingToChange},
		{"empty name", authn.KeyChange{Name: pointer("")}, authn.ErrKeyNameLength},
		{"too short a life", authn.KeyChange{ExpiresIn: pointer(pointer(time.Minute))}, authn.ErrKeyExpiryShort},
		{"metadata is text", authn.KeyChange{Metadata: json.RawMessage(`"x"`)}, authn.ErrMetadataType},
		{"half a refill", authn.KeyChange{Limits: authn.KeyLimits{RefillAmount: pointer(pointer(int64(3)))}}, authn.ErrRefillInterval},
	} {
		if _, err := h.UpdateKey(t.Context(), h.root, k.ID, c.c); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	got := must(h.UpdateKey(t.Context(), h.root, k.ID, authn.KeyChange{
		Name: pointer("ci"), ExpiresIn: pointer(pointer(48 * time.Hour)), Metadata: json.RawMessage(`{"a":1}`), Permissions: &authz.Permissions{"user": {"list"}},
	}))(t)
	if *got.Name != "ci" || !got.ExpiresAt.Equal(h.now().Add(48*time.Hour)) || string(got.Metadata) != `{"a":1}` || got.Permissions.Allows("user", "get") || !got.UpdatedAt.Equal(k.UpdatedAt) {
		t.Errorf("%+v", got)
	}
	got = must(h.UpdateKey(t.Context(), h.root, k.ID, authn.KeyChange{ExpiresIn: new(*time.Duration), Metadata: json.RawMessage(`null`), Permissions: new(authz.Permissions)}))(t)
	if got.ExpiresAt != nil || got.Metadata != nil || got.Permissions != nil {
		t.Errorf("%+v", got)
	}
}

func TestRotationKeepsTheKey(t *testing.T) {
	h := open(t)
	k, old := h.key(h.admin, everything, func(in *authn.NewKey) { in.Prefix = pointer("ci_") })
	rotated, secret, err := h.RotateKey(t.Context(), h.root, k.ID, time.Hour)
	if err != nil || rotated.ID != k.ID || !strings.HasPrefix(secret.Reveal(), "ci_") || secret == old || rotated.Digest == k.Digest || *rotated.Start != secret.Reveal()[:6] {
		t.Fatalf("%+v, %v", rotated, err)
	}
	for _, s := range []authn.Secret{old, secret} {
		if p := h.asKey(s); p.Key().ID != k.ID || !p.Key().Permissions.Allows("user", "ban") {
			t.Errorf("%+v", p.Key())
		}
	}
	_, _, err = h.RotateKey(t.Context(), h.root, k.ID, -1)
	if _, ok := errors.AsType[*authn.InvalidError](err); !ok {
		t.Errorf("negative overlap: %v", err)
	}
}

func TestVerifySaysWhatPresentingWould(t *testing.T) {
	h := open(t)
	ann := h.user("ann")
	two := int64(2)
	k, secret := h.key(ann, authz.Permissions{"files": {"read", "write"}, "user": {"list"}}, func(in *authn.NewKey) { in.Limits.Remaining = pointer(&two) })
	boss := h.user("boss", "admin")
	_, admins := h.key(boss, authz.Permissions{"user": {"list"}})
	for _, c := range []struct {
		name   string
		secret authn.Secret
		want   authz.Permissions
		err    error
		left   int64
	}{
		{"an application's type", secret, authz.Permissions{"files": {"read"}}, nil, 1},
		{"not granted", secret, authz.Permissions{"files": {"delete"}}, authn.ErrInsufficient, 1},
		{"granted, but the owner may not", secret, authz.Permissions{"user": {"list"}}, authn.ErrInsufficient, 1},
		{"nothing of a type", secret, authz.Permissions{"files": {}}, authn.ErrInsufficient, 1},
		{"nothing at all", secret, authz.Permissions{}, authn.ErrInsufficient, 1},
		{"granted, and the owner may", admins, authz.Permissions{"user": {"list"}}, nil, 1},
		{"not asked", secret, nil, nil, 0},
		{"used up", secret, nil, authn.ErrUsageExceeded, 0},
		{"unknown", "nothing", nil, authn.ErrBadCredential, 0},
		{"a session", h.token(ann), nil, authn.ErrBadCredential, 0},
	} {
		v, err := h.VerifyKey(t.Context(), h.root, c.secret, c.want)
		if err != nil || !errors.Is(v.Err, c.err) {
			t.Errorf("%s: got %v, %v; want %v", c.name, v.Err, err, c.err)
		}
		if (v.Key == nil) != (c.err == authn.ErrBadCredential) {
			t.Errorf("%s: key %v", c.name, v.Key)
		}
		if left := *must(h.db.Key(t.Context(), k.ID))(t).Remaining; left != c.left {
			t.Errorf("%s: %d uses left, want %d", c.name, left, c.left)
		}
	}
	must(h.Ban(t.Context(), h.root, boss.ID, "", 0))(t)
	if v := must(h.VerifyKey(t.Context(), h.root, admins, nil))(t); !errors.Is(v.Err, authn.ErrOwnerBanned) || v.Owner.ID != boss.ID {
		t.Errorf("banned owner: %+v", v)
	}
	_, err := h.VerifyKey(t.Context(), h.session(ann), secret, nil)
	denied(t, err, "role_missing")
}

func TestServiceAccountComesWithItsKey(t *testing.T) {
	h := open(t)
	u, k, secret, err := h.CreateServiceAccount(t.Context(), h.root, authn.NewServiceAccount{
		Name: "CI", Roles: []string{"admin"}, Attributes: map[string]any{"team": "build"}, Key: &authn.NewKey{Permissions: authz.Permissions{"user": {"list"}}},
	})
	if err != nil || !u.ServiceAccount || k.OwnerID != u.ID {
		t.Fatalf("%+v %+v %v", u, k, err)
	}
	p := h.asKey(secret)
	if id := p.Subject().Identity(); id.Type != authz.TypeServiceAccount || id.User.Attributes["team"] != "build" {
		t.Errorf("%+v %+v", id, id.User)
	}
	if _, _, err := h.Users(t.Context(), p, authn.UserQuery{}); err != nil {
		t.Error(err)
	}
	err = h.SetPassword(t.Context(), h.root, u.ID, "a new password")
	if _, ok := errors.AsType[*authn.InvalidError](err); !ok {
		t.Errorf("a password for a service account: %v", err)
	}
	_, err = h.CreateUser(t.Context(), h.root, authn.NewUser{Name: "x", ServiceAccount: true, Password: "a password"})
	if _, ok := errors.AsType[*authn.InvalidError](err); !ok {
		t.Errorf("a service account with a password: %v", err)
	}

	// Together or not at all: a key that is refused leaves no account.
	_, before, _ := h.Users(t.Context(), h.root, authn.UserQuery{})
	_, _, _, err = h.CreateServiceAccount(t.Context(), h.root, authn.NewServiceAccount{Name: "x", Key: &authn.NewKey{Permissions: authz.Permissions{"*": {"*"}}}})
	denied(t, err, "escalation")
	_, _, _, err = h.CreateServiceAccount(t.Context(), h.root, authn.NewServiceAccount{Name: "x", Key: &authn.NewKey{Prefix: pointer("a b")}})
	is(t, err, authn.ErrKeyPrefix)
	_, _, _, err = h.CreateServiceAccount(t.Context(), h.session(h.user("ann")), authn.NewServiceAccount{Name: "x"})
	denied(t, err, "role_missing")
	if _, after, _ := h.Users(t.Context(), h.root, authn.UserQuery{}); after != before+1 {
		t.Errorf("%d users, want %d", after, before+1)
	}
	_, _, bare, err := h.CreateServiceAccount(t.Context(), h.root, authn.NewServiceAccount{Name: "bare"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.User(t.Context(), h.asKey(bare), h.asKey(bare).User().ID)
	denied(t, err, "grant_missing")
}
