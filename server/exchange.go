package server

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/request"
)

// exchange is one request and its answer: the ResponseWriter that every
// handler is given. It notes what the headers need on their way out.
type exchange struct {
	http.ResponseWriter
	facts    authz.Facts
	receipt  audit.Receipt
	decision string // the id of the last decision made
	status   int    // 0 until the header is written
	metrics  *Metrics
}

func (x *exchange) decided(d authz.Decision) {
	x.decision = d.ID
	x.metrics.decided(d)
}

func (x *exchange) WriteHeader(status int) {
	if x.status != 0 {
		return // net/http would complain; the first one counts
	}
	if status >= 200 {
		x.status = status
		h := x.Header()
		if x.decision != "" {
			h[request.DecisionHeader] = []string{x.decision}
		}
		if x.receipt.Revision != "" {
			h[request.RevisionHeader] = []string{x.receipt.Revision}
		}
	}
	x.ResponseWriter.WriteHeader(status)
}

func (x *exchange) Write(b []byte) (int, error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	return x.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// ServeHTTP is what stands around every route.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	x := &exchange{ResponseWriter: w, metrics: s.Metrics}
	x.facts = authz.Facts{
		IP:        s.reader.Address(r),
		UserAgent: r.UserAgent(),
		Method:    r.Method,
		Path:      r.URL.Path,
		RequestID: requestID(r),
		Decided:   x.decided,
	}
	w.Header()[request.IDHeader] = []string{x.facts.RequestID}

	// The route context is ours whatever router the handler stands in:
	// patterns here are of the whole path.
	rctx := s.contexts.Get().(*chi.Context)
	rctx.Reset()
	rctx.Routes = s.mux
	if r.Method == http.MethodHead && !s.ofBetterAuth(r.URL.Path) {
		rctx.RouteMethod = http.MethodGet // net/http leaves the body out
	}
	ctx := authz.WithFacts(r.Context(), &x.facts)
	if r.Method != http.MethodGet {
		ctx = audit.WithReceipt(ctx, &x.receipt)
	}
	r = r.WithContext(context.WithValue(ctx, chi.RouteCtxKey, rctx))

	defer func() {
		failure := recover()
		if failure != nil {
			failure = s.recovered(x, r, failure)
		}
		pattern := rctx.RoutePattern()
		s.contexts.Put(rctx)
		s.done(x, r, pattern, time.Since(start))
		if failure != nil {
			panic(failure)
		}
	}()
	if !plain(r.URL) {
		if s.ofBetterAuth(r.URL.Path) {
			x.WriteHeader(http.StatusNotFound) // as Better Auth answers what it does not route
			return
		}
		s.notFound(x, r)
		return
	}
	s.mux.ServeHTTP(x, r)
}

// recovered answers a panic, if it still can. If not, it returns what to panic
// with so that net/http cuts the connection: the client must not take half an
// answer for a whole one.
func (s *server) recovered(x *exchange, r *http.Request, failure any) any {
	if failure == http.ErrAbortHandler {
		return failure
	}
	s.Log.ErrorContext(r.Context(), "panic", "failure", failure, "request", x.facts.RequestID, "stack", string(debug.Stack()))
	switch {
	case x.status != 0:
		return http.ErrAbortHandler
	case s.ofBetterAuth(r.URL.Path):
		x.WriteHeader(http.StatusInternalServerError)
	default:
		WriteError(x, nil, authn.Principal{})
	}
	return nil
}

// done counts and logs. Queries, headers and bodies can hold secrets, so none
// of them is ever logged; the pattern stands for the path.
func (s *server) done(x *exchange, r *http.Request, pattern string, took time.Duration) {
	if x.status == 0 {
		x.status = http.StatusOK
	}
	if pattern == "" {
		pattern = "unmatched"
	}
	s.Metrics.served(r.Method, pattern, x.status, took)
	if s.Log.Enabled(r.Context(), slog.LevelInfo) {
		s.Log.LogAttrs(r.Context(), slog.LevelInfo, "request",
			slog.String("method", r.Method),
			slog.String("route", pattern),
			slog.Int("status", x.status),
			slog.Duration("took", took),
			slog.String("request", x.facts.RequestID),
		)
	}
}

// requestID returns the id that the request came with, if it is fit to be
// repeated in headers and logs, or a new one. It identifies; it proves nothing.
func requestID(r *http.Request) string {
	if id := r.Header.Get(request.IDHeader); id != "" && len(id) <= 128 && printable(id) {
		return id
	}
	return strconv.FormatUint(rand.Uint64()|1<<63, 36) + strconv.FormatUint(rand.Uint64()|1<<63, 36)
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
