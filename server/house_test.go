package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/server"
	"github.com/ostiary/ostiary/server/openapi"
	"github.com/ostiary/ostiary/server/request"
	"github.com/ostiary/ostiary/store"
)

// house is the whole service on a database in memory.
type house struct {
	handler   http.Handler
	authn     *authn.Service
	directory *directory.Service
	engine    *authz.Engine
	library   *policies.Library
	records   *audit.Log
	metrics   *server.Metrics
	log       *bytes.Buffer
	logger    *slog.Logger
}

var system = authn.System("test")

const cookieSecret = "test-secret-0123456789-abcdefghijklmnop"

// open starts a house; author may be nil, change may adjust its options.
func open(t testing.TB, author fs.FS, change ...func(*server.Options)) *house {
	t.Helper()
	return openWith(t, author, nil, change...)
}

// openWith is open; adjust, if it is not nil, adjusts the policies' options.
func openWith(t testing.TB, author fs.FS, adjust func(o *policies.Options, db *store.DB, users policies.Users), change ...func(*server.Options)) *house {
	t.Helper()
	ctx := context.Background()
	db, err := store.Open(ctx, "sqlite::memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &house{log: &bytes.Buffer{}, metrics: server.NewMetrics()}
	h.logger = slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.records = audit.NewLog(db, audit.Options{})
	h.engine = authz.NewEngine(authz.Options{Recorder: h.records, Recheck: -1, Describe: func(ctx context.Context, r authz.Resource, action string) (authz.Resource, error) {
		return h.directory.Describe(ctx, r, action)
	}})
	if h.authn, err = authn.New(authn.Options{}, db, h.engine); err != nil {
		t.Fatal(err)
	}
	actions := func(resourceType string) []string { return h.library.Bundle().Actions(resourceType) }
	if h.directory, err = directory.New(directory.Options{Actions: actions}, db, h.engine, h.authn); err != nil {
		t.Fatal(err)
	}
	p := policies.Options{Engine: h.engine, FS: author}
	if adjust != nil {
		adjust(&p, db, h.authn)
	}
	if h.library, err = policies.Open(ctx, p); err != nil {
		t.Fatal(err)
	}
	reader, err := request.New(request.Options{Secrets: []string{cookieSecret}})
	if err != nil {
		t.Fatal(err)
	}
	o := server.Options{
		Authn: h.authn, Engine: h.engine, Directory: h.directory, Policies: h.library, Audit: h.records.Reader(),
		Log: h.logger, FilterSQL: store.FilterSQL,
		Reader: reader, Metrics: h.metrics, Version: "test",
	}
	for _, f := range change {
		f(&o)
	}
	if h.handler, err = server.New(o); err != nil {
		t.Fatal(err)
	}
	return h
}

// user creates a user with roles.
func (h *house) user(t testing.TB, name string, roles ...string) authn.User {
	t.Helper()
	u, err := h.authn.CreateUser(t.Context(), system, authn.NewUser{
		Name: name, Email: name + "@example.com", Password: "correct-horse-1", Roles: roles, RolesGiven: roles != nil,
	})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// key creates a key of owner.
func (h *house) key(t testing.TB, owner authn.User, grants authz.Permissions, change ...func(*authn.NewKey)) (authn.APIKey, string) {
	t.Helper()
	in := authn.NewKey{OwnerID: owner.ID, Permissions: grants}
	for _, f := range change {
		f(&in)
	}
	k, secret, err := h.authn.CreateKey(t.Context(), system, in)
	if err != nil {
		t.Fatal(err)
	}
	return k, secret.Reveal()
}

// answer is what came back.
type answer struct {
	*http.Response
	body string
}

var description = must(openapi.Load())

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// do sends a request, and holds the answer against the description. headers
// are "Name: value".
func (h *house) do(t testing.TB, method, path, body string, headers ...string) answer {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, path, reader)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r)
	got := answer{w.Result(), w.Body.String()}
	if err := description.ValidateResponse(method, r.URL.EscapedPath(), got.StatusCode, got.Header.Get("Content-Type"), []byte(got.body)); err != nil {
		t.Errorf("the answer is not as described: %v\n%s", err, got.body)
	}
	return got
}

// decode fills v from the body.
func (a answer) decode(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

// code is that of a problem.
func (a answer) code(t testing.TB) string {
	t.Helper()
	var p struct{ Code string }
	a.decode(t, &p)
	return p.Code
}

func ptr[T any](v T) *T { return &v }

func scrape(h *house) string {
	w := httptest.NewRecorder()
	h.metrics.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// signIn returns the token of a new session.
func (h *house) signIn(t testing.TB, email string) string {
	t.Helper()
	in, err := h.authn.SignIn(t.Context(), authn.Principal{}, authn.SignIn{Email: email, Password: "correct-horse-1"})
	if err != nil {
		t.Fatal(err)
	}
	return in.Session.Token.Reveal()
}

// raw sends a request whose answer need not be as described.
func (h *house) raw(method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}
