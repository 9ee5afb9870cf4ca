package ostiary_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/go-chi/chi/v5"
	"golang.org/x/net/websocket"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/guard"
)

// guarded is a real server with a handler behind the middleware, and a key that
// passes it.
func guarded(t *testing.T, h http.Handler) (*httptest.Server, string) {
	t.Helper()
	o := open(t, ostiary.Options{})
	_, key := userWithKey(t, o, "admin", authz.Permissions{"user": {"list"}})
	srv := httptest.NewServer(o.Require("list", guard.OfType("user"))(h))
	t.Cleanup(srv.Close)
	return srv, key.Reveal()
}

func send(t *testing.T, url, key string, change ...func(*http.Request)) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("x-api-key", key)
	for _, f := range change {
		f(r)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// Events reach their reader while the handler still runs.
func TestEventsStreamThroughRequire(t *testing.T) {
	heard := make(chan struct{})
	srv, key := guarded(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: one\n\n")
		w.(http.Flusher).Flush()
		select {
		case <-heard:
		case <-r.Context().Done():
		}
		fmt.Fprint(w, "data: two\n\n")
	}))
	lines := bufio.NewReader(send(t, srv.URL, key).Body)
	if line, err := lines.ReadString('\n'); line != "data: one\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	close(heard)
	if rest, err := io.ReadAll(lines); !strings.Contains(string(rest), "data: two") {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestWebSocketsPassThroughRequire(t *testing.T) {
	srv, key := guarded(t, websocket.Handler(func(c *websocket.Conn) {
		name := ostiary.PrincipalFrom(c.Request().Context()).User().Name
		var said string
		for websocket.Message.Receive(c, &said) == nil {
			_ = websocket.Message.Send(c, name+" says "+said)
		}
	}))
	config, err := websocket.NewConfig("ws"+strings.TrimPrefix(srv.URL, "http"), srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.DialContext(t.Context()); err == nil {
		t.Fatal("a connection without a credential was made")
	}
	config.Header.Set("x-api-key", key)
	c, err := config.DialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, word := range []string{"hello", "again"} {
		var heard string
		if err := websocket.Message.Send(c, word); err != nil {
			t.Fatal(err)
		}
		if err := websocket.Message.Receive(c, &heard); err != nil || heard != "Ann says "+word {
			t.Fatalf("got %q, %v", heard, err)
		}
	}
}

// The handler is given the very writer that the middleware was.
func TestRequireDoesNotWrapTheWriter(t *testing.T) {
	o := open(t, ostiary.Options{})
	_, key := userWithKey(t, o, "admin", authz.Permissions{"user": {"list"}})
	type own struct{ http.ResponseWriter }
	w := own{httptest.NewRecorder()}
	reached := false
	h := o.Require("list", guard.OfType("user"))(http.HandlerFunc(func(got http.ResponseWriter, r *http.Request) {
		reached = got == http.ResponseWriter(w)
	}))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("x-api-key", key.Reveal())
	h.ServeHTTP(w, r)
	if !reached {
		t.Error("the handler got another writer")
	}
}

func TestTrailersPassThroughRequire(t *testing.T) {
	srv, key := guarded(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Checksum")
		fmt.Fprint(w, "body")
		w.Header().Set("Checksum", "sum")
	}))
	res := send(t, srv.URL, key)
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	if got := res.Trailer.Get("Checksum"); got != "sum" {
		t.Errorf("got trailer %q, want sum", got)
	}
}

// Routes name their resources alike in both routers, and one that names none is
// shut, also to who may do everything.
func TestRoutesNameResources(t *testing.T) {
	o := open(t, ostiary.Options{Policies: fstest.MapFS{"document.rego": {Data: []byte(`package app.document

allow if input.resource.id == "open"
`)}, "path.rego": {Data: []byte(`package app.path

allow if endswith(input.resource.id, "/documents/{id}")
`)}, "data.json": {Data: []byte(`{"roles": {"all": {"*": ["*"]}}}`)}}})
	_, key := userWithKey(t, o, "user", authz.Permissions{"*": {"*"}})
	root, err := o.Authn().CreateUser(t.Context(), program, newUser("root@example.com", "all"))
	if err != nil {
		t.Fatal(err)
	}
	_, every, err := o.Authn().CreateKey(t.Context(), program, newKey(root.ID, authz.Permissions{"*": {"*"}}))
	if err != nil {
		t.Fatal(err)
	}
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	byID, byRoute := o.Require("read", guard.ByPath("document", "id")), o.Require("read", guard.ByPattern("path"))
	wrong := o.Require("read", guard.ByPath("document", "nmae"))

	mux := http.NewServeMux()
	mux.Handle("GET /documents/{id}", byID(ok))
	mux.Handle("GET /routes/documents/{id}", byRoute(ok))
	mux.Handle("GET /wrong/{id}", wrong(ok))
	router := chi.NewRouter()
	router.With(byID).Get("/documents/{id}", ok)
	router.With(byRoute).Get("/routes/documents/{id}", ok)
	router.With(wrong).Get("/wrong/{id}", ok)
	for name, h := range map[string]http.Handler{"net/http": mux, "chi": router} {
		for _, tt := range []struct {
			path, key string
			want      int
		}{
			{"/documents/open", key.Reveal(), 200},
			{"/documents/closed", key.Reveal(), 403},
			{"/routes/documents/closed", key.Reveal(), 200},
			{"/wrong/open", every.Reveal(), 500},
		} {
			r := httptest.NewRequest("GET", tt.path, nil)
			r.Header.Set("x-api-key", tt.key)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tt.want {
				t.Errorf("%s %s: got %d %s, want %d", name, tt.path, w.Code, w.Body, tt.want)
			}
		}
	}
}

// A browser that another site has send a cookie along changes nothing here.
func TestRequireRefusesWritesOfOtherSitesWithACookie(t *testing.T) {
	o := open(t, ostiary.Options{Origins: []string{"https://app.example"}, Policies: fstest.MapFS{"note.rego": {Data: []byte("package app.note\n\nallow if input.principal.user\n")}}})
	w := httptest.NewRecorder()
	up := httptest.NewRequest("POST", "/api/auth/sign-up/email", strings.NewReader(`{"name":"Ann","email":"ann@example.com","password":"correct horse"}`))
	up.Header.Set("Content-Type", "application/json")
	o.Handler().ServeHTTP(w, up)
	if w.Code != 200 {
		t.Fatalf("sign-up: %d %s", w.Code, w.Body)
	}
	cookie := w.Result().Cookies()[0]
	h := o.Require("write", guard.OfType("note"))(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for origin, want := range map[string]int{"": 200, "http://example.com": 200, "https://app.example": 200, "https://evil.example": 403} {
		r := httptest.NewRequest("POST", "http://example.com/", nil)
		r.AddCookie(cookie)
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("from %q: got %d %s, want %d", origin, w.Code, w.Body, want)
		}
	}
}

// A caller who goes away gets no decision, and that is not a denial.
func TestCancelledRequestIsNotDecided(t *testing.T) {
	o := open(t, ostiary.Options{})
	_, key := userWithKey(t, o, "admin", authz.Permissions{"user": {"list"}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequest("GET", "/", nil).WithContext(ctx)
	r.Header.Set("x-api-key", key.Reveal())
	w := httptest.NewRecorder()
	o.Require("list", guard.OfType("user"))(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the handler was reached")
	})).ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("got %d %s, want 503", w.Code, w.Body)
	}
}
