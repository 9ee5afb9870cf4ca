package authn_test

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/store"
)

// house is a service over the real store and the real engine with the built-in
// rules. Its clock stands still until it is moved.
type house struct {
	testing.TB
	*authn.Service
	db     *store.DB
	reads  *counted
	engine *authz.Engine
	clock  atomic.Int64 // Unix milliseconds
	admin  authn.User
	root   authn.Principal // the admin, by a session
}

type file = fstest.MapFile

var system = authn.System("test")

// counted counts what is asked of the store, and can hold up or cut off reads.
type counted struct {
	*store.DB
	sessions, keys, spends atomic.Int64
	hold                   func(ctx context.Context)
	fold                   bool // as a collation would that knows no letter case
	more                   int  // users that lists say there are beside those they hold
}

func (c *counted) Users(ctx context.Context, q authn.UserQuery) ([]authn.User, int, error) {
	us, n, err := c.DB.Users(ctx, q)
	return us, n + c.more, err
}

func (c *counted) SessionByToken(ctx context.Context, token authn.Secret) (authn.Session, authn.User, *authn.APIKey, error) {
	c.sessions.Add(1)
	if c.fold {
		token = authn.Secret(strings.ToLower(string(token)))
	}
	s, u, k, err := c.DB.SessionByToken(ctx, token)
	if c.hold != nil {
		c.hold(ctx)
	}
	return s, u, k, err
}

func (c *counted) KeyByDigest(ctx context.Context, digest string) (authn.APIKey, authn.User, *time.Time, error) {
	c.keys.Add(1)
	k, u, at, err := c.DB.KeyByDigest(ctx, digest)
	if c.hold != nil {
		c.hold(ctx)
		if ctx.Err() != nil {
			return authn.APIKey{}, authn.User{}, nil, errors.Join(authn.ErrUnavailable, ctx.Err())
		}
	}
	return k, u, at, err
}

func (c *counted) SpendKey(ctx context.Context, id string, now time.Time, most int64) (authn.Spend, error) {
	c.spends.Add(1)
	return c.DB.SpendKey(ctx, id, now, most)
}

func (c *counted) all() int64 { return c.sessions.Load() + c.keys.Load() + c.spends.Load() }

var builtin = sync.OnceValues(func() (*authz.Policy, error) { return compile(nil) })

func compile(author fs.FS) (*authz.Policy, error) {
	b, err := policies.Load(author, map[string]any{"admin_user_ids": []any{"root-user"}})
	if err != nil {
		return nil, err
	}
	return authz.Compile(context.Background(), b.Source)
}

func open(t testing.TB, options ...func(*authn.Options)) *house {
	t.Helper()
	h := &house{TB: t}
	h.clock.Store(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC).UnixMilli())
	db, err := store.Open(t.Context(), "sqlite::memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h.db, h.reads = db, &counted{DB: db}
	h.engine = authz.NewEngine(authz.Options{Clock: h.now})
	policy, err := builtin()
	if err != nil {
		t.Fatal(err)
	}
	h.engine.Swap(policy)
	o := authn.Options{Clock: h.now, AdminIDs: []string{"root-user"}}
	for _, set := range options {
		set(&o)
	}
	if h.Service, err = authn.New(o, h.reads, h.engine); err != nil {
		t.Fatal(err)
	}
	h.admin = h.user("Root", "admin")
	h.root = h.session(h.admin)
	return h
}

func (h *house) now() time.Time            { return time.UnixMilli(h.clock.Load()).UTC() }
func (h *house) advance(d time.Duration)   { h.clock.Add(d.Milliseconds()) }
func (h *house) author(files fstest.MapFS) { h.Helper(); h.engine.Swap(must(compile(files))(h)) }

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

var names atomic.Int64

// user creates a user without a password.
func (h *house) user(name string, roles ...string) authn.User {
	h.Helper()
	n := names.Add(1)
	return must(h.CreateUser(h.Context(), system, authn.NewUser{
		Name: name, Email: name + string(rune('a'+n%26)) + time.Duration(n).String() + "@example.com", Roles: roles,
	}))(h)
}

// session signs u in without a password, by writing the row.
func (h *house) session(u authn.User, change ...func(*authn.Session)) authn.Principal {
	h.Helper()
	return h.mustAuthenticate(authn.SessionToken, h.token(u, change...))
}

func (h *house) token(u authn.User, change ...func(*authn.Session)) authn.Secret {
	h.Helper()
	n := names.Add(1)
	s := authn.Session{
		ID: "session-" + time.Duration(n).String(), Token: authn.Secret("token-" + time.Duration(n).String()), UserID: u.ID,
		CreatedAt: h.now(), UpdatedAt: h.now(), ExpiresAt: h.now().Add(7 * 24 * time.Hour),
	}
	for _, c := range change {
		c(&s)
	}
	if err := h.db.CreateSession(h.Context(), s, audit.Event{Kind: "session.create"}); err != nil {
		h.Fatal(err)
	}
	return s.Token
}

// key creates a key of u with these grants.
func (h *house) key(u authn.User, grants authz.Permissions, change ...func(*authn.NewKey)) (authn.APIKey, authn.Secret) {
	h.Helper()
	in := authn.NewKey{OwnerID: u.ID, Permissions: grants}
	for _, c := range change {
		c(&in)
	}
	k, secret, err := h.CreateKey(h.Context(), system, in)
	if err != nil {
		h.Fatal(err)
	}
	return k, secret
}

func (h *house) authenticate(kind authn.Kind, secret authn.Secret) (authn.Principal, error) {
	return h.Authenticate(h.Context(), authn.Credential{Kind: kind, Secret: secret})
}

func (h *house) mustAuthenticate(kind authn.Kind, secret authn.Secret) authn.Principal {
	h.Helper()
	return must(h.authenticate(kind, secret))(h)
}

func (h *house) asKey(secret authn.Secret) authn.Principal {
	h.Helper()
	return h.mustAuthenticate(authn.APIKeySecret, secret)
}

// refused checks that a credential is refused with want.
func (h *house) refused(kind authn.Kind, secret authn.Secret, want error) {
	h.Helper()
	if p, err := h.authenticate(kind, secret); !errors.Is(err, want) || !p.Anonymous() {
		h.Errorf("got %v (anonymous: %t), want %v", err, p.Anonymous(), want)
	}
}

func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// denied checks that err is a denial with the reason code.
func denied(t testing.TB, err error, code string) {
	t.Helper()
	d, ok := errors.AsType[*authz.DeniedError](err)
	if !ok || !d.Has(code) {
		t.Errorf("got %v, want a denial with %s", err, code)
	}
}

func pointer[T any](v T) *T { return &v }

// everything is what the built-in role admin permits.
var everything = authz.Permissions{
	"user":    {"create", "list", "get", "update", "set-role", "set-password", "set-email", "ban", "impersonate", "delete", "change-password", "change-email"},
	"session": {"create", "list", "revoke", "delete"},
	"apiKey":  {"create", "read", "update", "rotate", "delete", "verify"},
}

// event returns the newest event of a kind.
func (h *house) event(kind string) audit.Event {
	h.Helper()
	for _, ev := range must(h.db.Events(h.Context(), 100))(h) {
		if ev.Kind == kind {
			return ev
		}
	}
	h.Fatalf("no %s on record", kind)
	return audit.Event{}
}
