package server_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server"
)

// sink is a ResponseWriter that is used again and again.
type sink struct {
	header http.Header
	status int
	n      int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(status int)      { s.status = status }
func (s *sink) Write(b []byte) (int, error) { s.n += len(b); return len(b), nil }

func (s *sink) reset() {
	clear(s.header)
	s.status, s.n = 0, 0
}

// asker sends the same question again and again.
type asker struct {
	handler http.Handler
	r       *http.Request
	body    *strings.Reader
	text    string
	w       sink
}

func newAsker(h *house, key, body string) *asker {
	a := &asker{handler: h.handler, body: strings.NewReader(body), text: body, w: sink{header: http.Header{}}}
	a.r = httptest.NewRequest("POST", "/v1/authorize", nil)
	a.r.Body, a.r.ContentLength = io.NopCloser(a.body), int64(len(body))
	a.r.Header.Set("Content-Type", "application/json")
	a.r.Header.Set("X-Api-Key", key)
	a.r.Header.Set("User-Agent", "bench/1.0")
	return a
}

func (a *asker) ask(b testing.TB) {
	a.body.Reset(a.text)
	a.w.reset()
	a.handler.ServeHTTP(&a.w, a.r)
	if a.w.status != http.StatusOK {
		b.Fatalf("status %d", a.w.status)
	}
}

const question = `{"action":"read","resource":{"type":"document","id":"d1","properties":{"owner":"somebody","public":true,"tags":["a","b"]}},"context":{"channel":"web"}}`

func benchHouse(b testing.TB) (*house, string) {
	h := open(b, documents, func(o *server.Options) { o.Log = slog.New(slog.DiscardHandler) })
	_, key := h.key(b, h.user(b, "reader", "reader"), authz.Permissions{"document": {"read"}})
	return h, key
}

// BenchmarkAuthorizeHandler is POST /v1/authorize with an API key, from the
// request to the last byte of the answer, without a socket.
func BenchmarkAuthorizeHandler(b *testing.B) {
	h, key := benchHouse(b)
	a := newAsker(h, key, question)
	a.ask(b)
	b.ReportAllocs()
	for b.Loop() {
		a.ask(b)
	}
}

func BenchmarkAuthorizeHandlerParallel(b *testing.B) {
	h, key := benchHouse(b)
	newAsker(h, key, question).ask(b)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		a := newAsker(h, key, question)
		for pb.Next() {
			a.ask(b)
		}
	})
}

// BenchmarkAuthorizeChecks is a hundred questions in one request.
func BenchmarkAuthorizeChecks(b *testing.B) {
	h, key := benchHouse(b)
	for name, check := range map[string]string{"properties": question, "plain": plain} {
		b.Run(name, func(b *testing.B) {
			a := newAsker(h, key, hundred(check))
			b.ReportAllocs()
			for b.Loop() {
				a.ask(b)
			}
		})
	}
}

// plain is a question about what everybody knows.
const plain = `{"action":"read","resource":{"type":"document","id":"d1"}}`

// hundred is a batch of as many checks.
func hundred(check string) string {
	return `{"checks":[` + strings.TrimSuffix(strings.Repeat(check+",", 100), ",") + `]}`
}

// What stands around a decision costs a handful of allocations, and one more check
// in a batch fewer than a request. Counts are exact on any machine; these are of
// what the engine takes, and of what is left when that is taken off.
func TestAuthorizeAllocatesLittle(t *testing.T) {
	pools := 0.0
	if racing() {
		pools = 10 // they forget on purpose while races are watched for
	}
	h, key := benchHouse(t)
	principal, err := h.authn.Authenticate(t.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: authn.Secret(key)})
	if err != nil {
		t.Fatal(err)
	}
	q := authz.Request{Subject: principal.Subject(), Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "document", ID: "d1"}}
	ctx := authz.WithFacts(t.Context(), &authz.Facts{IP: "192.0.2.1", Method: "POST", Path: "/v1/authorize"})
	deciding := testing.AllocsPerRun(500, func() {
		if d, err := h.engine.Decide(ctx, q); err != nil || !d.Allow {
			t.Fatal(d, err)
		}
	})
	one, many := newAsker(h, key, plain), newAsker(h, key, hundred(plain))
	one.ask(t)
	if n := testing.AllocsPerRun(500, func() { one.ask(t) }) - deciding; n > 11+pools {
		t.Errorf("%.0f allocations around one decision, which takes %.0f", n, deciding)
	}
	many.ask(t)
	if n := testing.AllocsPerRun(50, func() { many.ask(t) })/100 - deciding; n > 1+pools {
		t.Errorf("%.1f allocations around each decision of a batch, which takes %.0f", n, deciding)
	}
}

// racing reports whether races are watched for.
func racing() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// BenchmarkHandlerFloor is everything around a route, and nothing in it.
func BenchmarkHandlerFloor(b *testing.B) {
	h, _ := benchHouse(b)
	r := httptest.NewRequest("GET", "/healthz", nil)
	w := sink{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		w.reset()
		h.handler.ServeHTTP(&w, r)
	}
}
