// Package ostiarytest tests programs and policies against the real thing: an
// instance in memory, with the policy engine and the store of the service, and a
// clock that the test sets. There is no network, no container and no mock.
//
//	s := ostiarytest.New(t, ostiarytest.Policies(os.DirFS("policies")))
//	ann := s.User("ann")
//	key := ann.Key(authz.Permissions{"document": {"read"}})
//	s.Allowed(t, key, "read", authz.Resource{Type: "document", ID: "d1"})
//	s.Denied(t, s.Nobody(), "read", authz.Resource{Type: "document", ID: "d1"}, "unauthenticated")
//
// An assertion that fails prints the rules that held and the conditions that did
// not, with the values that they read.
package ostiarytest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// Option changes how [New] opens an instance.
type Option func(*ostiary.Options)

// Policies adds a bundle to the built-in one, as [ostiary.Options].
func Policies(fsys fs.FS) Option { return func(o *ostiary.Options) { o.Policies = fsys } }

// With changes any other option. Database, Clock and, unless it is set, Log are
// the test's.
func With(change func(*ostiary.Options)) Option { return change }

// Service is an instance that ends with its test.
type Service struct {
	*ostiary.Ostiary
	Clock *Clock
	t     testing.TB
}

// New opens an instance in memory and closes it when the test ends. What cannot
// be opened fails the test. Log records of warnings and errors are the test's.
func New(t testing.TB, options ...Option) *Service {
	t.Helper()
	o := ostiary.Options{}
	for _, change := range options {
		change(&o)
	}
	clock := &Clock{now: time.Now()}
	o.Database, o.Clock = "sqlite::memory:", clock.Now
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(output{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	i, err := ostiary.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return &Service{i, clock, t}
}

type output struct{ t testing.TB }

func (o output) Write(b []byte) (int, error) {
	o.t.Log(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}

// Clock is what the instance takes for the time. It stands still until it is
// set, and is safe for concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now returns the time that was set, at first that of [New].
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Set sets the time.
func (c *Clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

// Advance moves the time by d.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Program is what the test acts as when it makes users and keys.
var Program = authn.System("ostiarytest")

// Caller is somebody who can present a credential, or nobody.
type Caller struct {
	name       string
	credential authn.Credential
}

func (c Caller) String() string { return c.name }

// Nobody presents no credential.
func (s *Service) Nobody() Caller { return Caller{name: "nobody"} }

// User is a user of the instance. [User.Session] and [User.Key] are them as a caller.
type User struct {
	authn.User
	s        *Service
	password authn.Secret
	session  *Caller
}

// User makes a user with these roles; without any, the default role.
func (s *Service) User(name string, roles ...string) *User {
	s.t.Helper()
	u := &User{s: s, password: "correct horse battery staple"}
	var err error
	u.User, err = s.Authn().CreateUser(s.t.Context(), Program, authn.NewUser{
		Name: name, Email: strings.ToLower(name) + "@example.com", EmailVerified: true,
		Roles: roles, RolesGiven: len(roles) > 0, Password: u.password,
	})
	if err != nil {
		s.t.Fatalf("make user %s: %v", name, err)
	}
	return u
}

// Session is the user signed in with a password, at the time of the first call.
func (u *User) Session() Caller {
	u.s.t.Helper()
	if u.session == nil {
		in, err := u.s.Authn().SignIn(u.s.t.Context(), authn.Principal{}, authn.SignIn{Email: u.Email, Password: u.password})
		if err != nil {
			u.s.t.Fatalf("sign %s in: %v", u.Name, err)
		}
		u.session = &Caller{fmt.Sprintf("%s (session)", u.Name), authn.Credential{Kind: authn.SessionToken, Secret: in.Session.Token}}
	}
	return *u.session
}

// Key makes a key of the user with these grants.
func (u *User) Key(grants authz.Permissions) Caller {
	u.s.t.Helper()
	return u.s.Key(authn.NewKey{OwnerID: u.ID, Permissions: grants})
}

// Key makes a key as it is described; it needs an owner.
func (s *Service) Key(k authn.NewKey) Caller {
	s.t.Helper()
	made, secret, err := s.Authn().CreateKey(s.t.Context(), Program, k)
	if err != nil {
		s.t.Fatalf("make a key: %v", err)
	}
	return Caller{fmt.Sprintf("key %s of %s", made.ID, made.OwnerID), authn.Credential{Kind: authn.APIKeySecret, Secret: secret}}
}

// Request makes a request that presents who's credential, for a handler.
func (s *Service) Request(who Caller, method, target string, body io.Reader) *http.Request {
	r := httptest.NewRequest(method, target, body)
	switch who.credential.Kind {
	case authn.APIKeySecret:
		r.Header.Set("X-Api-Key", who.credential.Secret.Reveal())
	case authn.SessionToken:
		r.Header.Set("Authorization", "Bearer "+who.credential.Secret.Reveal())
	}
	return r
}

// Do has h answer a request that presents who's credential.
func (s *Service) Do(h http.Handler, who Caller, method, target string, body io.Reader) *httptest.ResponseRecorder {
	r := s.Request(who, method, target, body)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Allowed reports an error unless who may do action on resource.
func (s *Service) Allowed(t testing.TB, who Caller, action string, resource authz.Resource) {
	t.Helper()
	if r, d, ok := s.decide(t, who, action, resource); ok && !d.Allow {
		t.Errorf("%s: %s: denied, want allowed\n%s", who, about(r), s.why(t, r))
	}
}

// Denied reports an error unless who may not do action on resource, for reasons
// among which are those with these codes.
func (s *Service) Denied(t testing.TB, who Caller, action string, resource authz.Resource, codes ...string) {
	t.Helper()
	r, d, ok := s.decide(t, who, action, resource)
	if !ok {
		return
	}
	if d.Allow {
		t.Errorf("%s: %s: allowed, want denied\n%s", who, about(r), s.why(t, r))
		return
	}
	for _, code := range codes {
		if !slices.ContainsFunc(d.Reasons, func(r authz.Reason) bool { return r.Code == code }) {
			t.Errorf("%s: %s: denied, but not for %s\n%s", who, about(r), code, s.why(t, r))
		}
	}
}

// Refused reports an error unless who's credential is refused with an error that
// is want.
func (s *Service) Refused(t testing.TB, who Caller, want error) {
	t.Helper()
	_, err := s.Authn().Authenticate(t.Context(), who.credential)
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", who, err, want)
	}
}

func (s *Service) decide(t testing.TB, who Caller, action string, resource authz.Resource) (authz.Request, authz.Decision, bool) {
	t.Helper()
	r := authz.Request{Action: authz.Action{Name: action}, Resource: resource}
	p, err := s.Authn().Authenticate(t.Context(), who.credential)
	if err != nil {
		t.Errorf("%s: the credential is refused: %v", who, err)
		return r, authz.Decision{}, false
	}
	r.Subject = p.Subject()
	d, err := s.Decide(t.Context(), r)
	if err != nil {
		t.Errorf("%s: %s: no decision: %v", who, about(r), err)
	}
	return r, d, err == nil
}

func about(r authz.Request) string {
	what := r.Resource.Permission(r.Action.Name)
	if r.Resource.ID != "" {
		what += " on " + r.Resource.ID
	}
	return what
}

func (s *Service) why(t testing.TB, r authz.Request) string {
	x, err := s.Explain(t.Context(), r)
	if err != nil {
		return fmt.Sprintf("it cannot be explained: %v", err)
	}
	return strings.Join(s.Policies().Bundle().Explained(x).Lines(false), "\n")
}
