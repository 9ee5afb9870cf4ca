package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/client"
	"github.com/ostiary/ostiary/guard"
)

var program = authn.System("test")

// house is a service, and what stands before it.
type house struct {
	*ostiary.Ostiary
	url   string
	asked atomic.Int64
	// before, if set, may answer in the service's place.
	before atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
}

const rules = `package app.document

allow if input.resource.properties.owner == input.principal.id

allow if input.principal.properties.trusted

deny contains {"code": "sealed", "message": "it is sealed", "until": "noon"} if input.resource.properties.sealed

context := {"shelf": 3}
`

func serve(t *testing.T, o ostiary.Options) *house {
	t.Helper()
	o.Database = "sqlite::memory:"
	if !o.PoliciesPublished {
		o.Policies = fstest.MapFS{"document.rego": {Data: []byte(rules)}}
	}
	i, err := ostiary.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	h := &house{Ostiary: i}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.asked.Add(1)
		if before := h.before.Load(); before != nil && (*before)(w, r) {
			return
		}
		i.Handler().ServeHTTP(w, r)
	}))
	h.url = srv.URL
	t.Cleanup(func() {
		srv.Close()
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *house) client(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	o.URL = h.url
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (h *house) user(t *testing.T, name, role string, grants authz.Permissions) (authn.User, string) {
	t.Helper()
	u, err := h.Authn().CreateUser(t.Context(), program, authn.NewUser{Name: name, Email: name + "@example.com", Roles: []string{role}, RolesGiven: true})
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := h.Authn().CreateKey(t.Context(), program, authn.NewKey{OwnerID: u.ID, Permissions: grants})
	if err != nil {
		t.Fatal(err)
	}
	return u, key.Reveal()
}

func with(key string) *http.Request {
	r := httptest.NewRequest("GET", "/documents/d", nil)
	if key != "" {
		r.Header.Set("x-api-key", key)
	}
	return r
}

func read(owner string, more ...string) authz.Resource {
	d := authz.Resource{Type: "document", ID: "d", Properties: map[string]any{"owner": owner}}
	for _, name := range more {
		d.Properties[name] = true
	}
	return d
}

var (
	reading = authz.Action{Name: "read"}
	grants  = authz.Permissions{"document": {"read"}}
)

// Asked here or there, the same caller gets the same decision, for the same
// reasons, through the same interface.
func TestRemoteAnswersAsEmbedded(t *testing.T) {
	h := serve(t, ostiary.Options{})
	ann, key := h.user(t, "ann", "user", grants)
	_, bare := h.user(t, "bob", "admin", nil)
	c := h.client(t, client.Options{})
	for _, k := range []string{key, bare, ""} {
		for _, about := range []access.Resource{read(ann.ID), read("else"), read(ann.ID, "sealed"), {Type: "user"}} {
			var got [2]string
			for i, s := range []guard.Service{h.Ostiary, c} {
				ctx, d, err := s.Admit(with(k), reading, about)
				p := guard.PrincipalFrom(ctx)
				who := p.Subject().Identity()
				denied, is := errors.AsType[*access.DeniedError](err)
				if err != nil && (!is || denied.Decision.ID != d.ID) || d.Allow != (err == nil) || d.ID == "" {
					t.Fatalf("%T: %+v, %v", s, d, err)
				}
				again, err := s.Decide(ctx, access.Request{Subject: p.Subject(), Action: reading, Resource: about})
				if err != nil {
					t.Fatal(err)
				}
				got[i] = fmt.Sprint(d.Allow, d.Reasons, d.Context, d.Revision, again.Allow, again.Reasons, who.Type, who.ID, who.Roles, who.Credential, p.Anonymous())
			}
			if got[0] != got[1] {
				t.Errorf("about %v:\nembedded %s\nremote   %s", about, got[0], got[1])
			}
		}
	}
}

func TestAuthenticateTellsWhoCalls(t *testing.T) {
	h := serve(t, ostiary.Options{})
	ann, key := h.user(t, "ann", "user", grants)
	c := h.client(t, client.Options{})
	p, err := c.Authenticate(with(key))
	if err != nil {
		t.Fatal(err)
	}
	id := p.Subject().Identity()
	if p.Anonymous() || id.ID != ann.ID || id.User == nil || id.User.Email != ann.Email || id.Key == nil || !id.Key.Permissions.Allows("document", "read") {
		t.Errorf("got %+v", id)
	}
	if p, err := c.Authenticate(with("")); err != nil || !p.Anonymous() {
		t.Errorf("nobody: got %v, %v", p.Anonymous(), err)
	}
	// Nothing that is printed has the secret.
	for _, v := range []any{p, p.Subject(), *p.Subject(), c, *c} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if strings.Contains(fmt.Sprintf(verb, v), key) {
				t.Errorf("%s of %T tells the key", verb, v)
			}
		}
	}
}

// Each failure is of one kind that errors.Is finds, and denies.
func TestErrorsCanBeToldApart(t *testing.T) {
	h := serve(t, ostiary.Options{})
	_, key := h.user(t, "ann", "user", grants)
	one := new(int64)
	*one = 1
	u, _ := h.user(t, "bob", "user", nil)
	_, limited, err := h.Authn().CreateKey(t.Context(), program, authn.NewKey{OwnerID: u.ID, Limits: authn.KeyLimits{Remaining: &one}})
	if err != nil {
		t.Fatal(err)
	}
	c := h.client(t, client.Options{Key: key, Timeout: 2 * time.Second, Retries: -1})
	kinds := map[error]string{client.ErrUnauthenticated: "unauthenticated", client.ErrDenied: "denied", client.ErrInvalid: "invalid", client.ErrLimited: "limited", client.ErrUnavailable: "unavailable"}
	shut, err := client.New(client.Options{URL: "http://127.0.0.1:1", Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	two := with(key)
	two.Header.Set("Authorization", "Bearer other")
	if _, _, err := c.Admit(with(limited.Reveal()), reading, read("x")); !errors.Is(err, client.ErrDenied) {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		ask  func() (access.Decision, error)
		want error
	}{
		{"bad key", func() (access.Decision, error) {
			_, d, err := c.Admit(with("nonsense"), reading, read("x"))
			return d, err
		}, client.ErrUnauthenticated},
		{"not allowed", func() (access.Decision, error) { _, d, err := c.Admit(with(key), reading, read("x")); return d, err }, client.ErrDenied},
		{"two credentials", func() (access.Decision, error) { _, d, err := c.Admit(two, reading, read("x")); return d, err }, client.ErrInvalid},
		{"no type", func() (access.Decision, error) {
			return c.Decide(t.Context(), access.Request{Action: reading})
		}, client.ErrInvalid},
		{"not JSON", func() (access.Decision, error) {
			return c.Decide(t.Context(), access.Request{Action: reading, Resource: access.Resource{Type: "d", Properties: map[string]any{"c": make(chan int)}}})
		}, client.ErrInvalid},
		{"another service's subject", func() (access.Decision, error) {
			return c.Decide(t.Context(), access.Request{Subject: access.NewSubject(access.Identity{Type: "user", ID: "u"}, nil), Action: reading, Resource: read("x")})
		}, client.ErrInvalid},
		{"may not ask about others", func() (access.Decision, error) {
			return c.Decide(t.Context(), access.Request{Subject: c.Named("user", "u", nil), Action: reading, Resource: read("x")})
		}, client.ErrDenied},
		{"used up", func() (access.Decision, error) {
			_, d, err := c.Admit(with(limited.Reveal()), reading, read("x"))
			return d, err
		}, client.ErrLimited},
		{"nobody there", func() (access.Decision, error) {
			return shut.Decide(t.Context(), access.Request{Action: reading, Resource: read("x")})
		}, client.ErrUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := tt.ask()
			if d.Allow {
				t.Error("allowed")
			}
			for kind, name := range kinds {
				if errors.Is(err, kind) != (kind == tt.want) {
					t.Errorf("%s: %t; the error is %v", name, errors.Is(err, kind), err)
				}
			}
		})
	}
}

func TestNamedSubjectsAreAskedAboutWithTheProgramsKey(t *testing.T) {
	h := serve(t, ostiary.Options{})
	_, key := h.user(t, "app", "admin", authz.Permissions{"access": {"evaluate"}})
	c := h.client(t, client.Options{Key: key})
	robot := c.Named("robot", "r", map[string]any{"trusted": true})
	ds, err := c.DecideAll(t.Context(), []access.Request{
		{Subject: robot, Action: reading, Resource: read("x")},
		{Subject: c.Named("robot", "r", nil), Action: reading, Resource: read("x")},
		{Action: reading, Resource: read("x")}, // nobody, and not the program
	})
	if err != nil {
		t.Fatal(err)
	}
	if !ds[0].Allow || ds[1].Allow || ds[2].Allow || ds[2].Reasons[0].Code != "unauthenticated" || len(ds[1].Reasons) == 0 {
		t.Errorf("got %+v", ds)
	}
	if r, err := h.Decisions().Record(t.Context(), ds[0].ID); err != nil || r.AssertedBy.ID == "" {
		t.Errorf("the decision's record: %+v, %v", r, err)
	}
}

func TestManyQuestionsAreAskedTogether(t *testing.T) {
	h := serve(t, ostiary.Options{})
	ann, key := h.user(t, "ann", "user", grants)
	c := h.client(t, client.Options{})
	p, err := c.Authenticate(with(key))
	if err != nil {
		t.Fatal(err)
	}
	before := h.asked.Load()
	rs := make([]access.Request, 250)
	for i := range rs {
		owner := ann.ID
		if i%3 == 0 {
			owner = "else"
		}
		rs[i] = access.Request{Subject: p.Subject(), Action: reading, Resource: read(owner)}
	}
	ds, err := c.DecideAll(t.Context(), rs)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range ds {
		if d.Allow != (i%3 != 0) {
			t.Fatalf("%d: %+v", i, d)
		}
	}
	if n := h.asked.Load() - before; n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

// What was not answered is asked again, as often as is said, and what was
// answered is not.
func TestRetries(t *testing.T) {
	h := serve(t, ostiary.Options{})
	ann, key := h.user(t, "ann", "user", grants)
	for _, tt := range []struct {
		name          string
		status, times int
		asked         int64
		ok            bool
	}{
		{"away for a moment", 503, 2, 3, true},
		{"a proxy's", 502, 1, 2, true},
		{"away", 503, 9, 3, false},
		{"broken", 500, 9, 1, false},
		{"refused", 401, 9, 1, false},
		{"redirected", 307, 9, 1, false},
		{"cut", 0, 1, 2, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := h.client(t, client.Options{Retries: 2})
			left := tt.times
			f := func(w http.ResponseWriter, r *http.Request) bool {
				if left--; left < 0 {
					return false
				}
				if tt.status == 0 {
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Location", "/v1/me")
				w.WriteHeader(tt.status)
				return true
			}
			h.before.Store(&f)
			defer h.before.Store(nil)
			before := h.asked.Load()
			_, d, err := c.Admit(with(key), reading, read(ann.ID))
			if (err == nil) != tt.ok || d.Allow != tt.ok {
				t.Errorf("got %+v, %v", d, err)
			}
			if n := h.asked.Load() - before; n != tt.asked {
				t.Errorf("asked %d times, want %d", n, tt.asked)
			}
		})
	}
}

// A service that does not answer, and a caller who does not wait.
func TestTimeouts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := client.New(client.Options{URL: "http://" + l.Addr().String(), Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	if d, err := c.Decide(t.Context(), access.Request{Action: reading, Resource: read("x")}); d.Allow || !errors.Is(err, client.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %+v, %v", d, err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d, err := c.Decide(ctx, access.Request{Action: reading, Resource: read("x")}); d.Allow || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %+v, %v", d, err)
	}
}

func TestConnectionsAreReused(t *testing.T) {
	h := serve(t, ostiary.Options{})
	_, key := h.user(t, "ann", "user", grants)
	var dials atomic.Int64
	d := &net.Dialer{}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return d.DialContext(ctx, network, addr)
	}}
	c := h.client(t, client.Options{HTTP: &http.Client{Transport: transport}})
	for _, k := range []string{key, "bad", key, "", "bad"} {
		_, _ = c.Authenticate(with(k))
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// What is remembered is given to the same question of the same credential, for
// no longer than the service vouches for it.
func TestRememberedDecisionsEndWithTheLease(t *testing.T) {
	h := serve(t, ostiary.Options{Lease: 500 * time.Millisecond})
	ann, key := h.user(t, "ann", "user", grants)
	_, other := h.user(t, "bob", "user", grants)
	c := h.client(t, client.Options{DecisionLife: time.Hour})
	ask := func(key, owner string) bool {
		_, d, err := c.Admit(with(key), reading, read(owner))
		if err != nil && !errors.Is(err, client.ErrDenied) && !errors.Is(err, client.ErrUnauthenticated) {
			t.Fatal(err)
		}
		return d.Allow
	}
	before := h.asked.Load()
	for range 50 {
		if !ask(key, ann.ID) {
			t.Fatal("denied")
		}
	}
	if n := h.asked.Load() - before; n > 5 {
		t.Errorf("asked %d times for one question", n)
	}
	if ask(other, ann.ID) || ask(key, "else") || ask("", ann.ID) {
		t.Error("another question was given the answer")
	}
	if _, err := h.Authn().Ban(t.Context(), program, ann.ID, "", 0); err != nil {
		t.Fatal(err)
	}
	banned := time.Now()
	for ask(key, ann.ID) {
		if time.Since(banned) > 600*time.Millisecond {
			t.Fatal("a ban is not noticed within the lease")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Whoever names a revision is not given what was remembered before it.
func TestAtLeastAsksTheService(t *testing.T) {
	h := serve(t, ostiary.Options{Lease: time.Minute})
	ann, key := h.user(t, "ann", "user", grants)
	c := h.client(t, client.Options{DecisionLife: time.Hour})
	if _, _, err := c.Admit(with(key), reading, read(ann.ID)); err != nil {
		t.Fatal(err)
	}
	var receipt audit.Receipt
	if _, err := h.Authn().Ban(audit.WithReceipt(t.Context(), &receipt), program, ann.ID, "", 0); err != nil {
		t.Fatal(err)
	}
	r := with(key).WithContext(client.WithAtLeast(t.Context(), receipt.Revision))
	if _, _, err := c.Admit(r, reading, read(ann.ID)); !errors.Is(err, client.ErrUnauthenticated) {
		t.Errorf("got %v, want %v", err, client.ErrUnauthenticated)
	}
	c.Forget()
	if _, _, err := c.Admit(with(key), reading, read(ann.ID)); !errors.Is(err, client.ErrUnauthenticated) {
		t.Errorf("after Forget: got %v, want %v", err, client.ErrUnauthenticated)
	}
}

// A service that vouches for nothing is asked each time.
func TestWithoutALeaseNothingIsRemembered(t *testing.T) {
	h := serve(t, ostiary.Options{})
	ann, key := h.user(t, "ann", "user", grants)
	f := func(w http.ResponseWriter, r *http.Request) bool { r.Header.Del("Ostiary-Lease"); return false }
	h.before.Store(&f)
	c := h.client(t, client.Options{DecisionLife: time.Hour})
	before := h.asked.Load()
	for range 3 {
		if _, _, err := c.Admit(with(key), reading, read(ann.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.asked.Load() - before; n != 3 {
		t.Errorf("asked %d times, want 3", n)
	}
}

// The middleware answers as the embedded one does.
func TestRequireAnswersAsEmbedded(t *testing.T) {
	h := serve(t, ostiary.Options{})
	_, key := h.user(t, "ann", "admin", authz.Permissions{"user": {"list"}})
	c := h.client(t, client.Options{})
	away, err := client.New(client.Options{URL: "http://127.0.0.1:1", Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(s guard.Service, action string, resource func(*http.Request) access.Resource, r *http.Request) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		guard.Require(s, action, resource)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, guard.PrincipalFrom(r.Context()).Subject().Identity().ID)
		})).ServeHTTP(w, r)
		return w
	}
	ambiguous := with(key)
	ambiguous.Header.Set("Authorization", "Bearer other")
	for _, tt := range []struct {
		name, action string
		resource     func(*http.Request) access.Resource
		r            *http.Request
	}{
		{"allowed", "list", guard.OfType("user"), with(key)},
		{"not granted", "delete", guard.OfType("user"), with(key)},
		{"nobody", "list", guard.OfType("user"), with("")},
		{"bad key", "list", guard.OfType("user"), with("nonsense")},
		{"two", "list", guard.OfType("user"), ambiguous},
		{"no resource", "list", guard.ByPath("user", "id"), with(key)},
	} {
		here, there := ask(h.Ostiary, tt.action, tt.resource, tt.r), ask(c, tt.action, tt.resource, tt.r)
		if here.Code != there.Code || here.Header().Get("WWW-Authenticate") != there.Header().Get("WWW-Authenticate") ||
			here.Header().Get("Content-Type") != there.Header().Get("Content-Type") || (here.Header().Get("Ostiary-Decision") == "") != (there.Header().Get("Ostiary-Decision") == "") {
			t.Errorf("%s: embedded %d %v, remote %d %v", tt.name, here.Code, here.Header(), there.Code, there.Header())
		}
		if here.Code < 500 && here.Body.String() != there.Body.String() {
			t.Errorf("%s: embedded %s, remote %s", tt.name, here.Body, there.Body)
		}
	}
	if w := ask(away, "list", guard.OfType("user"), with(key)); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("away: %d %v", w.Code, w.Header())
	}
}

// A service that has no policy any more denies nobody: it does not answer.
func TestServiceWithoutAPolicyIsUnavailable(t *testing.T) {
	h := serve(t, ostiary.Options{Lease: time.Minute})
	ann, key := h.user(t, "ann", "user", grants)
	c := h.client(t, client.Options{Retries: -1})
	if _, _, err := c.Admit(with(key), reading, read(ann.ID)); err != nil {
		t.Fatal(err)
	}
	done(t, h.Close())
	for _, s := range []guard.Service{h.Ostiary, c} {
		_, d, err := s.Admit(with(key), reading, read(ann.ID))
		if d.Allow || !errors.Is(err, access.ErrUnavailable) || errors.Is(err, access.ErrDenied) {
			t.Errorf("%T: %+v, %v; want %v", s, d, err, access.ErrUnavailable)
		}
	}
}

// A cookie is passed on, but not with a write that another site may have sent.
func TestCookies(t *testing.T) {
	h := serve(t, ostiary.Options{})
	w := httptest.NewRecorder()
	up := httptest.NewRequest("POST", "/api/auth/sign-up/email", strings.NewReader(`{"name":"Ann","email":"ann@example.com","password":"correct horse"}`))
	up.Header.Set("Content-Type", "application/json")
	h.Handler().ServeHTTP(w, up)
	c := h.client(t, client.Options{})
	for origin, want := range map[string]error{"": nil, "https://evil.example": client.ErrDenied} {
		r := httptest.NewRequest("POST", "http://example.com/", nil)
		r.AddCookie(w.Result().Cookies()[0])
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		p, err := c.Authenticate(r)
		if !errors.Is(err, want) || (err == nil) == p.Anonymous() {
			t.Errorf("from %q: %v, %v; want %v", origin, p.Anonymous(), err, want)
		}
	}
}

func TestNewReportsEveryMistake(t *testing.T) {
	_, err := client.New(client.Options{URL: "auth.example", Key: "a b", Timeout: -1, Origins: []string{"x"}})
	for _, field := range []string{"URL", "Key", "Timeout", "Origins"} {
		if err == nil || !strings.Contains(err.Error(), "client: "+field+": ") {
			t.Errorf("nothing is said of %s: %v", field, err)
		}
	}
	if _, ok := errors.AsType[*client.OptionError](err); !ok {
		t.Errorf("%T is no OptionError", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	srv := httptest.NewServer(http.NotFoundHandler())
	c, err := client.New(client.Options{URL: srv.URL, DecisionLife: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Decide(t.Context(), access.Request{Action: reading, Resource: read("x")})
	c.Close()
	srv.Close()
}
