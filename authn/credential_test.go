package authn_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

func TestNoCredentialIsAnonymous(t *testing.T) {
	h := open(t)
	p, err := h.authenticate(authn.NoCredential, "")
	if err != nil || !p.Anonymous() || p.Subject() != authz.Anonymous {
		t.Errorf("got %v, %v", p, err)
	}
}

func TestCredentialsThatProveNothingLookAlike(t *testing.T) {
	h := open(t)
	u := h.user("ann")
	revoked := h.token(u)
	if err := h.RevokeSession(t.Context(), system, "", revoked); err != nil {
		t.Fatal(err)
	}
	expired := h.token(u, func(s *authn.Session) { s.ExpiresAt = h.now() })
	_, secret := h.key(u, nil)
	for name, c := range map[string]authn.Credential{
		"empty":                {Kind: authn.Bearer},
		"unknown":              {Kind: authn.Bearer, Secret: "nobody"},
		"huge":                 {Kind: authn.Bearer, Secret: authn.Secret(strings.Repeat("x", 1<<16))},
		"not UTF-8":            {Kind: authn.Bearer, Secret: "\xff\x00"},
		"revoked":              {Kind: authn.SessionToken, Secret: revoked},
		"expired":              {Kind: authn.SessionToken, Secret: expired},
		"a key for a session":  {Kind: authn.SessionToken, Secret: secret},
		"a session for a key":  {Kind: authn.APIKeySecret, Secret: h.token(u)},
		"other letter case":    {Kind: authn.SessionToken, Secret: authn.Secret(strings.ToUpper(string(h.token(u))))},
		"a kind that is none":  {Kind: 99, Secret: secret},
		"key with other case":  {Kind: authn.APIKeySecret, Secret: authn.Secret(strings.ToLower(string(secret)))},
		"digest for a secret":  {Kind: authn.APIKeySecret, Secret: "C5vASARHBDLhD_vhiKGB_cpxfldYUKZje5zAioniabc"},
		"only our key prefix":  {Kind: authn.Bearer, Secret: "ost_"},
		"key with one more":    {Kind: authn.Bearer, Secret: secret + "x"},
		"key with space after": {Kind: authn.Bearer, Secret: secret + " "},
	} {
		if p, err := h.Authenticate(t.Context(), c); err != authn.ErrBadCredential || !p.Anonymous() {
			t.Errorf("%s: got %v, want exactly %v", name, err, authn.ErrBadCredential)
		}
	}
}

func TestACollationThatFoldsCaseOpensNoDoor(t *testing.T) {
	h := open(t)
	h.reads.fold = true
	token := h.token(h.admin)
	h.refused(authn.SessionToken, authn.Secret(strings.ToUpper(string(token))), authn.ErrBadCredential)
	h.mustAuthenticate(authn.SessionToken, token)
}

func TestBearerIsSessionOrKey(t *testing.T) {
	h := open(t)
	u := h.user("ann")
	_, secret := h.key(u, nil)
	if p := h.mustAuthenticate(authn.Bearer, secret); p.Key() == nil || p.Session() != nil {
		t.Error("a key as a bearer token is not a key principal")
	}
	if p := h.mustAuthenticate(authn.Bearer, h.token(u)); p.Session() == nil || p.Key() != nil {
		t.Error("a session token as a bearer token is not a session principal")
	}
	// What is remembered as one kind does not pass as the other.
	h.refused(authn.SessionToken, secret, authn.ErrBadCredential)
}

func TestPrincipalIsWhatTheStoreSays(t *testing.T) {
	h := open(t)
	u := must(h.CreateUser(t.Context(), system, authn.NewUser{Name: "Ann", Email: "Ann@Example.com", Roles: []string{"editor", " support"}, Username: pointer("Ann_1")}))(t)
	k, secret := h.key(u, authz.Permissions{"user": {"list"}}, func(in *authn.NewKey) {
		in.Name, in.Metadata = pointer("ci"), json.RawMessage(`{"env":"prod"}`)
	})
	id := h.asKey(secret).Subject().Identity()
	if id.Type != authz.TypeUser || id.ID != u.ID || id.Credential != authz.CredentialAPIKey ||
		!slices.Equal(id.Roles, []string{"editor", " support"}) || id.User.Email != "ann@example.com" || id.User.Username != "ann_1" ||
		id.Key.ID != k.ID || id.Key.Name != "ci" || !id.Key.Permissions.Allows("user", "list") || fmt.Sprint(id.Key.Metadata) != "map[env:prod]" {
		t.Errorf("key: %+v %+v %+v", id, id.User, id.Key)
	}
	nobody := h.user("bob")
	id = h.session(nobody).Subject().Identity()
	if !slices.Equal(id.Roles, []string{"user"}) || id.Credential != authz.CredentialSession || id.Session == nil || id.Key != nil {
		t.Errorf("session: %+v", id)
	}
}

func TestWrongChecksumCostsNoLookAtTheStore(t *testing.T) {
	h := open(t)
	_, secret := h.key(h.admin, nil)
	text := []byte(secret)
	text[20] = map[bool]byte{true: 'b', false: 'a'}[text[20] == 'a']
	before := h.reads.all()
	for _, kind := range []authn.Kind{authn.Bearer, authn.APIKeySecret} {
		h.refused(kind, authn.Secret(text), authn.ErrBadCredential)
	}
	if n := h.reads.all() - before; n != 0 {
		t.Errorf("%d reads", n)
	}
}

func TestKeysOfBetterAuthWork(t *testing.T) {
	var vectors struct {
		APIKeyHashes []struct {
			Key    authn.Secret
			Stored string
		}
	}
	readVectors(t, &vectors)
	h := open(t)
	for i, v := range vectors.APIKeyHashes {
		k := authn.APIKey{ID: fmt.Sprint("ba", i), OwnerID: h.admin.ID, Digest: v.Stored, Enabled: true, CreatedAt: h.now(), UpdatedAt: h.now()}
		if err := h.db.CreateKey(t.Context(), k, audit.Event{Kind: "key.create"}); err != nil {
			t.Fatal(err)
		}
		// encoding/json would read the secret as text; Secret only hides on the way out.
		for _, kind := range []authn.Kind{authn.APIKeySecret, authn.Bearer} {
			if p := h.mustAuthenticate(kind, v.Key); p.Key().ID != k.ID {
				t.Errorf("got key %s, want %s", p.Key().ID, k.ID)
			}
		}
	}
}

func readVectors(t testing.TB, into any) {
	t.Helper()
	text, err := os.ReadFile("../testdata/betterauth/vectors.json")
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Whoever changes what a credential rests on, the very next request with it is
// judged by the new state, though it was remembered.
func TestChangesCountFromTheNextRequest(t *testing.T) {
	type made struct {
		*house
		owner   authn.User
		key     authn.APIKey
		session authn.Principal
	}
	for _, c := range []struct {
		name               string
		change             func(m made) error
		key, other, linked error // refusals of the key, of another session, and of one obtained with the key
	}{
		{"ban the owner", func(m made) error {
			_, err := m.Ban(m.Context(), m.root, m.owner.ID, "", 0)
			return err
		}, authn.ErrOwnerBanned, authn.ErrBadCredential, authn.ErrBadCredential},
		{"remove the owner", func(m made) error { return m.RemoveUser(m.Context(), m.root, m.owner.ID) },
			authn.ErrBadCredential, authn.ErrBadCredential, authn.ErrBadCredential},
		{"delete the key", func(m made) error { return m.DeleteKey(m.Context(), m.root, m.key.ID) },
			authn.ErrBadCredential, nil, authn.ErrBadCredential},
		{"disable the key", func(m made) error {
			_, err := m.UpdateKey(m.Context(), m.root, m.key.ID, authn.KeyChange{Enabled: pointer(false)})
			return err
		}, authn.ErrKeyDisabled, nil, authn.ErrBadCredential},
		{"let the key expire", func(m made) error {
			_, err := m.UpdateKey(m.Context(), m.root, m.key.ID, authn.KeyChange{ExpiresIn: pointer(pointer(24 * time.Hour))})
			m.advance(24 * time.Hour)
			return err
		}, authn.ErrKeyExpired, nil, authn.ErrBadCredential},
		{"rotate the key", func(m made) error {
			_, _, err := m.RotateKey(m.Context(), m.session, m.key.ID, 0)
			return err
		}, authn.ErrKeySuperseded, nil, authn.ErrBadCredential},
		{"set a password", func(m made) error {
			return m.SetPassword(m.Context(), m.root, m.owner.ID, "a new password")
		}, nil, authn.ErrBadCredential, authn.ErrBadCredential},
		{"revoke the sessions", func(m made) error {
			return m.RevokeSessions(m.Context(), m.root, m.owner.ID, false)
		}, nil, authn.ErrBadCredential, authn.ErrBadCredential},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			u := h.user("ann", "admin")
			k, secret := h.key(u, everything)
			linked := must(h.SignInKey(t.Context(), h.asKey(secret), authn.Device{}))(t).Session.Token
			other := h.token(u)
			m := made{h, u, k, h.mustAuthenticate(authn.SessionToken, other)}
			h.mustAuthenticate(authn.SessionToken, linked)
			h.asKey(secret)
			if err := c.change(m); err != nil {
				t.Fatal(err)
			}
			for _, r := range []struct {
				name   string
				kind   authn.Kind
				secret authn.Secret
				want   error
			}{{"key", authn.APIKeySecret, secret, c.key}, {"session", authn.SessionToken, other, c.other}, {"session of the key", authn.SessionToken, linked, c.linked}} {
				if _, err := h.authenticate(r.kind, r.secret); !errors.Is(err, r.want) {
					t.Errorf("%s: got %v, want %v", r.name, err, r.want)
				}
			}
		})
	}
}

func TestRolesAndGrantsAreThoseOfNow(t *testing.T) {
	h := open(t)
	u := h.user("ann", "admin")
	k, secret := h.key(u, everything)
	linked := must(h.SignInKey(t.Context(), h.asKey(secret), authn.Device{}))(t).Session.Token
	list := func(kind authn.Kind, secret authn.Secret) error {
		_, _, err := h.Users(t.Context(), h.mustAuthenticate(kind, secret), authn.UserQuery{})
		return err
	}
	is(t, list(authn.APIKeySecret, secret), nil)
	is(t, list(authn.SessionToken, linked), nil)

	must(h.UpdateKey(t.Context(), h.root, k.ID, authn.KeyChange{Permissions: &authz.Permissions{"user": {"get"}}}))(t)
	denied(t, list(authn.APIKeySecret, secret), "grant_missing")
	denied(t, list(authn.SessionToken, linked), "grant_missing")

	must(h.UpdateKey(t.Context(), h.root, k.ID, authn.KeyChange{Permissions: &everything}))(t)
	is(t, list(authn.SessionToken, linked), nil)
	must(h.SetRoles(t.Context(), h.root, u.ID, []string{"user"}))(t)
	denied(t, list(authn.APIKeySecret, secret), "role_missing")
	denied(t, list(authn.SessionToken, linked), "role_missing")
}

func TestWhatEndsByItselfIsRefusedThoughRemembered(t *testing.T) {
	h := open(t, func(o *authn.Options) { o.CacheTTL = 1000 * time.Hour })
	u := h.user("ann")
	token := h.token(u, func(s *authn.Session) { s.ExpiresAt = h.now().Add(time.Hour) })
	_, expiring := h.key(u, nil, func(in *authn.NewKey) { in.ExpiresIn = pointer(24 * time.Hour) })
	k, old := h.key(u, nil)
	linked := must(h.SignInKey(t.Context(), keyOf(h, u, old, everything), authn.Device{}))(t).Session.Token
	if _, _, err := h.RotateKey(t.Context(), system, k.ID, 2*time.Hour); err != nil {
		t.Fatal(err)
	}
	remember := func() {
		t.Helper()
		h.asKey(expiring)
		h.asKey(old)
		h.mustAuthenticate(authn.SessionToken, linked)
	}
	remember()
	h.mustAuthenticate(authn.SessionToken, token)
	h.advance(time.Hour)
	h.refused(authn.SessionToken, token, authn.ErrBadCredential)
	remember()
	reads := h.reads.all()
	h.advance(time.Hour)
	h.refused(authn.APIKeySecret, old, authn.ErrKeySuperseded)
	h.refused(authn.SessionToken, linked, authn.ErrBadCredential)
	h.advance(22 * time.Hour)
	h.refused(authn.APIKeySecret, expiring, authn.ErrKeyExpired)
	if n := h.reads.all() - reads; n != 0 {
		t.Errorf("%d reads: what was compared was not what was remembered", n)
	}
}

// keyOf widens the key behind secret, for a test that wants to sign in with it.
func keyOf(h *house, u authn.User, secret authn.Secret, grants authz.Permissions) authn.Principal {
	h.Helper()
	p := h.asKey(secret)
	must(h.UpdateKey(h.Context(), system, p.Key().ID, authn.KeyChange{Permissions: &grants}))(h)
	return h.asKey(secret)
}

func TestEndedKeysSayWhyAndLongGoneOnesDoNot(t *testing.T) {
	h := open(t)
	k, secret := h.key(h.admin, nil, func(in *authn.NewKey) { in.ExpiresIn = pointer(24 * time.Hour) })
	other, old := h.key(h.admin, nil)
	if _, _, err := h.RotateKey(t.Context(), system, other.ID, 0); err != nil {
		t.Fatal(err)
	}
	h.advance(24 * time.Hour)
	h.refused(authn.APIKeySecret, secret, authn.ErrKeyExpired)
	h.refused(authn.APIKeySecret, old, authn.ErrKeySuperseded)
	must(h.UpdateKey(t.Context(), system, k.ID, authn.KeyChange{Enabled: pointer(false)}))(t)
	h.refused(authn.APIKeySecret, secret, authn.ErrKeyDisabled) // disabled comes before expired

	h.advance(91 * 24 * time.Hour)
	h.refused(authn.APIKeySecret, secret, authn.ErrBadCredential)
	h.refused(authn.APIKeySecret, old, authn.ErrBadCredential)
	_, err := h.DeleteEndedKeys(t.Context(), h.root)
	is(t, err, authn.ErrUnauthenticated)
	if n := must(h.DeleteEndedKeys(t.Context(), system))(t); n != 1 {
		t.Errorf("deleted %d keys, want 1", n)
	}
	if _, err := h.Key(t.Context(), system, other.ID); err != nil {
		t.Errorf("a rotated key was deleted with its old secret: %v", err)
	}
}

func TestKeyWithoutOwnerIsRefused(t *testing.T) {
	h := open(t)
	digest := "C5vASARHBDLhD_vhiKGB_cpxfldYUKZje5zAioniabc"
	k := authn.APIKey{ID: "orphan", OwnerID: "nobody", Digest: digest, Enabled: true, CreatedAt: h.now(), UpdatedAt: h.now(), Remaining: pointer(int64(3))}
	if err := h.db.CreateKey(t.Context(), k, audit.Event{Kind: "key.create"}); err != nil {
		t.Fatal(err)
	}
	h.refused(authn.APIKeySecret, "AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGhIjKl", authn.ErrOwnerMissing)
	if left := *must(h.db.Key(t.Context(), "orphan"))(t).Remaining; left != 3 {
		t.Errorf("a refused key was counted: %d uses left", left)
	}
}

func TestBansBeginAndEndByTheClock(t *testing.T) {
	h := open(t)
	u := h.user("ann")
	_, secret := h.key(u, nil)
	must(h.Ban(t.Context(), h.root, u.ID, "spam", time.Hour))(t)
	h.refused(authn.APIKeySecret, secret, authn.ErrOwnerBanned)
	token := h.token(u) // as another program might write it
	h.refused(authn.SessionToken, token, authn.ErrOwnerBanned)
	h.advance(time.Hour)
	h.asKey(secret)
	if p := h.mustAuthenticate(authn.SessionToken, token); p.Subject().Identity().User.Banned {
		t.Error("policies are told of a ban that is over")
	}
}

func TestForgetDropsWhatOthersChanged(t *testing.T) {
	h := open(t, func(o *authn.Options) { o.CacheTTL = time.Hour })
	u := h.user("ann")
	k, secret := h.key(u, nil)
	token := h.token(u)
	for _, f := range []struct{ kind, id string }{{"key", k.ID}, {"key", ""}, {"user", u.ID}, {"user", ""}, {"", ""}} {
		h.asKey(secret)
		reads := h.reads.keys.Load()
		h.asKey(secret)
		if h.reads.keys.Load() != reads {
			t.Fatal("not remembered")
		}
		h.Forget("session", "")
		h.Forget("user", "another")
		h.asKey(secret)
		if h.reads.keys.Load() != reads {
			t.Error("forgotten with what it was not built on")
		}
		h.Forget(f.kind, f.id)
		h.asKey(secret)
		if h.reads.keys.Load() != reads+1 {
			t.Errorf("Forget(%q, …) did not forget the key", f.kind)
		}
	}
	h.mustAuthenticate(authn.SessionToken, token)
	if err := h.db.DeleteUser(t.Context(), u.ID, nil, audit.Event{Kind: "user.delete"}); err != nil {
		t.Fatal(err)
	}
	h.Forget("user", u.ID)
	h.refused(authn.SessionToken, token, authn.ErrBadCredential)
	h.refused(authn.APIKeySecret, secret, authn.ErrBadCredential)
}

func TestNothingIsRememberedLongerThanItsTime(t *testing.T) {
	h := open(t, func(o *authn.Options) { o.CacheTTL = time.Minute })
	_, secret := h.key(h.admin, nil)
	h.asKey(secret)
	reads := h.reads.keys.Load()
	for range 59 { // hits do not prolong it
		h.advance(time.Second)
		h.asKey(secret)
	}
	if h.reads.keys.Load() != reads {
		t.Error("not remembered for its time")
	}
	h.advance(time.Second)
	h.asKey(secret)
	if h.reads.keys.Load() != reads+1 {
		t.Error("remembered beyond its time")
	}
}

func TestRememberedCredentialsCostNoStoreAccess(t *testing.T) {
	h := open(t)
	_, secret := h.key(h.admin, nil)
	token := h.token(h.admin)
	h.asKey(secret)
	h.mustAuthenticate(authn.SessionToken, token)
	reads := h.reads.all()
	h.db.Close() // whoever asks it now gets no answer
	for range 100 {
		h.asKey(secret)
		h.mustAuthenticate(authn.SessionToken, token)
	}
	if n := h.reads.all() - reads; n != 0 {
		t.Errorf("%d reads", n)
	}
}

func TestWithoutMemoryEveryRequestReads(t *testing.T) {
	h := open(t, func(o *authn.Options) { o.CacheSize = -1 })
	_, secret := h.key(h.admin, nil)
	reads := h.reads.keys.Load()
	for range 3 {
		h.asKey(secret)
	}
	h.Forget("", "")
	h.Forget("key", "k")
	if n := h.reads.keys.Load() - reads; n != 3 {
		t.Errorf("%d reads, want 3", n)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	h := open(t, func(o *authn.Options) { o.CacheSize = 8 })
	var secrets []authn.Secret
	for range 64 {
		_, secret := h.key(h.admin, nil)
		secrets = append(secrets, secret)
	}
	for range 3 {
		for _, secret := range secrets {
			h.asKey(secret)
		}
	}
	reads := h.reads.keys.Load()
	for _, secret := range secrets {
		h.asKey(secret)
	}
	if n := h.reads.keys.Load() - reads; n < 48 {
		t.Errorf("%d of 64 had to be read; a cache of 8 remembers more than it may", n)
	}
}

func TestAStoreThatIsAwayIsNotABadCredential(t *testing.T) {
	h := open(t)
	_, secret := h.key(h.admin, nil)
	token := h.token(h.admin)
	h.db.Close()
	h.refused(authn.APIKeySecret, secret, authn.ErrUnavailable)
	h.refused(authn.SessionToken, token, authn.ErrUnavailable)
	h.refused(authn.Bearer, token, authn.ErrUnavailable)
}

// A fill that read the store before a revocation must not be remembered after
// it: in no interleaving does a revoked key work once the revocation returned.
func TestStaleFillIsThrownAway(t *testing.T) {
	t.Parallel()
	h := open(t)
	h.reads.hold = func(context.Context) {
		if rand.IntN(2) == 0 {
			time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
		}
	}
	pairs := 1000
	if testing.Short() {
		pairs = 100
	}
	stale := 0
	for range pairs {
		k, secret := h.key(h.admin, nil)
		var users sync.WaitGroup
		begin := make(chan struct{})
		for range 3 {
			users.Go(func() {
				<-begin
				h.authenticate(authn.APIKeySecret, secret)
			})
		}
		close(begin)
		if err := h.DeleteKey(t.Context(), system, k.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := h.authenticate(authn.APIKeySecret, secret); err == nil {
			stale++
		}
		users.Wait()
		if _, err := h.authenticate(authn.APIKeySecret, secret); err == nil {
			stale++
		}
	}
	if stale != 0 {
		t.Errorf("%d of %d revoked keys were accepted after their revocation returned", stale, 2*pairs)
	}
}

// The same, step by step: the fill has read the old row, and is held up while
// the key is deleted.
func TestFillOvertakenByARevocationIsNotRemembered(t *testing.T) {
	h := open(t)
	k, secret := h.key(h.admin, nil)
	read, deleted := make(chan struct{}), make(chan struct{})
	var later atomic.Bool
	h.reads.hold = func(context.Context) {
		if !later.Swap(true) {
			close(read)
			<-deleted
		}
	}
	var slow sync.WaitGroup
	slow.Go(func() { h.authenticate(authn.APIKeySecret, secret) })
	<-read
	if err := h.DeleteKey(t.Context(), system, k.ID); err != nil {
		t.Fatal(err)
	}
	// Whoever comes now does not join the load that began before.
	h.refused(authn.APIKeySecret, secret, authn.ErrBadCredential)
	close(deleted)
	slow.Wait()
	h.refused(authn.APIKeySecret, secret, authn.ErrBadCredential)
}

func TestAStampedeIsOneRead(t *testing.T) {
	const crowd = 100
	for _, kind := range []authn.Kind{authn.APIKeySecret, authn.SessionToken} {
		h := open(t)
		secret := h.token(h.admin)
		if kind == authn.APIKeySecret {
			_, secret = h.key(h.admin, nil)
		}
		before := h.reads.all()
		var waiting atomic.Int64
		h.reads.hold = func(context.Context) {
			for waiting.Load() < crowd {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(20 * time.Millisecond) // until they all wait
		}
		var all sync.WaitGroup
		for range crowd {
			all.Go(func() {
				waiting.Add(1)
				if _, err := h.authenticate(kind, secret); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := h.reads.all() - before; n != 1 {
			t.Errorf("kind %d: %d reads, want 1", kind, n)
		}
	}
}

func TestWhoGivesUpDoesNotFailTheOthers(t *testing.T) {
	h := open(t)
	_, secret := h.key(h.admin, nil)
	leading, joined := make(chan struct{}), make(chan struct{})
	var later atomic.Bool
	h.reads.hold = func(ctx context.Context) {
		if !later.Swap(true) {
			close(leading)
			<-joined
			<-ctx.Done()
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var both sync.WaitGroup
	both.Go(func() {
		_, err := h.Authenticate(ctx, authn.Credential{Kind: authn.APIKeySecret, Secret: secret})
		if err == nil {
			t.Error("who gave up got an answer")
		}
	})
	<-leading
	both.Go(func() {
		if _, err := h.authenticate(authn.APIKeySecret, secret); err != nil {
			t.Errorf("who stayed got %v", err)
		}
	})
	time.Sleep(20 * time.Millisecond) // the second waits for the first
	close(joined)
	cancel()
	both.Wait()
}

func TestLimitedKeysAreCountedExactly(t *testing.T) {
	limit := func(n int64) **int64 { return pointer(&n) }
	for name, c := range map[string]struct {
		limits authn.KeyLimits
		want   error
	}{
		"quota":      {authn.KeyLimits{Remaining: limit(10)}, authn.ErrUsageExceeded},
		"rate limit": {authn.KeyLimits{RateLimitMax: limit(10), RateLimitTimeWindow: limit(60_000)}, authn.ErrRateLimited},
		"both":       {authn.KeyLimits{Remaining: limit(30), RateLimitMax: limit(10), RateLimitTimeWindow: limit(60_000)}, authn.ErrRateLimited},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t)
			k, secret := h.key(h.admin, nil, func(in *authn.NewKey) { in.Limits = c.limits })
			var good, refused atomic.Int64
			var all sync.WaitGroup
			for range 64 {
				all.Go(func() {
					p, err := h.authenticate(authn.APIKeySecret, secret)
					switch {
					case err == nil && p.Key().ID == k.ID:
						good.Add(1)
					case errors.Is(err, c.want):
						refused.Add(1)
						if retry, ok := errors.AsType[*authn.RetryError](err); c.want == authn.ErrRateLimited && (!ok || retry.In <= 0 || retry.In > time.Minute) {
							t.Errorf("no time to wait: %v", err)
						}
					default:
						t.Error(err)
					}
				})
			}
			all.Wait()
			if good.Load() != 10 || refused.Load() != 54 {
				t.Errorf("%d good and %d refused, want 10 and 54", good.Load(), refused.Load())
			}
			if c.want == authn.ErrRateLimited {
				h.advance(time.Minute)
				p := h.asKey(secret)
				if name == "both" && *p.Key().Remaining != 19 {
					t.Errorf("%d uses left, want 19: refused ones were counted", *p.Key().Remaining)
				}
			}
		})
	}
}

func TestUnlimitedKeysCostNoWriteAndTheirUseIsNoted(t *testing.T) {
	h := open(t)
	k, secret := h.key(h.admin, nil)
	h.asKey(secret)
	h.advance(5 * time.Second)
	h.asKey(secret)
	at := h.now()
	if k := must(h.db.Key(t.Context(), k.ID))(t); k.LastRequest != nil {
		t.Error("written at once")
	}
	if n := h.reads.spends.Load(); n != 0 {
		t.Errorf("%d counts", n)
	}
	is(t, h.FlushTouches(t.Context()), nil)
	if k := must(h.db.Key(t.Context(), k.ID))(t); k.LastRequest == nil || !k.LastRequest.Equal(at) {
		t.Errorf("last used %v, want %v", k.LastRequest, at)
	}
}

func TestAUseThatCouldNotBeWrittenIsKept(t *testing.T) {
	h := open(t)
	k, secret := h.key(h.admin, nil)
	h.asKey(secret)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.FlushTouches(ctx); err == nil {
		t.Fatal("written under a context that has ended")
	}
	is(t, h.FlushTouches(t.Context()), nil)
	if k := must(h.db.Key(t.Context(), k.ID))(t); k.LastRequest == nil {
		t.Error("lost")
	}
}
