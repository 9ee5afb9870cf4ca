package server_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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
	a := newAsker(h, key, `{"checks":[`+strings.TrimSuffix(strings.Repeat(question+",", 100), ",")+`]}`)
	b.ReportAllocs()
	for b.Loop() {
		a.ask(b)
	}
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
