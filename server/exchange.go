package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"go.opentelemetry.io/otel/trace"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/server/betterauth"
	"github.com/ostiary/ostiary/server/request"
)

// ServeHTTP is what stands around every route.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	x, ctx := s.Reader.Begin(w, r, s.decided)
	ctx, span := s.span(ctx, r)
	gate, pattern := s.gate(r)
	if gate == nil && r.Method == http.MethodPost && r.URL.Path == authorizePath {
		s.straight(ctx, x, r, span, start)
		return
	}

	// The route context is ours whatever router the handler stands in:
	// patterns here are of the whole path.
	rctx := s.contexts.Get().(*chi.Context)
	rctx.Reset()
	rctx.Routes = s.mux
	if r.Method == http.MethodHead && !s.ofBetterAuth(r.URL.Path) && !s.opa.Owns(r.URL.Path) {
		rctx.RouteMethod = http.MethodGet // net/http leaves the body out
	}
	r = r.WithContext(context.WithValue(ctx, chi.RouteCtxKey, rctx))

	defer func() {
		failure := recover()
		if gate == nil {
			pattern = rctx.RoutePattern()
		}
		s.contexts.Put(rctx)
		s.end(ctx, x, r, pattern, span, start, failure)
	}()
	if gate != nil {
		// Before any rule about paths and headers: these are of a request to
		// somebody else.
		gate.ServeHTTP(x, r)
		return
	}
	if s.admits(ctx, x, r) {
		s.mux.ServeHTTP(x, r)
	}
}

// straight answers what is asked all day long, past the router: it would take
// as much as all else that stands around a route.
func (s *server) straight(ctx context.Context, x *request.Exchange, r *http.Request, span trace.Span, start time.Time) {
	pattern := ""
	defer func() { s.end(ctx, x, r, pattern, span, start, recover()) }()
	if s.admits(ctx, x, r) {
		pattern = authorizePath
		s.authorizing(ctx, x, r)
	}
}

// end ends the exchange, whose handler has returned, or panicked with failure.
func (s *server) end(ctx context.Context, x *request.Exchange, r *http.Request, pattern string, span trace.Span, start time.Time, failure any) {
	if failure != nil {
		failure = s.recovered(ctx, x, r, failure)
	}
	x.End()
	pattern = cmp.Or(pattern, "unmatched")
	s.done(ctx, x, r.Method, pattern, time.Since(start))
	ended(span, r.Method, pattern, cmp.Or(x.Status(), http.StatusOK))
	if failure != nil {
		panic(failure)
	}
}

// admits reports whether r may be routed: its path is spelt in the one way, and
// the revision is known by which it is to be judged. Otherwise it is answered.
func (s *server) admits(ctx context.Context, x *request.Exchange, r *http.Request) bool {
	if !plain(r.URL, s.opa.Owns(r.URL.EscapedPath())) {
		if s.ofBetterAuth(r.URL.Path) {
			x.WriteHeader(http.StatusNotFound) // as Better Auth answers what it does not route
		} else {
			s.notFound(x, r)
		}
		return false
	}
	err := s.atLeast(ctx, r)
	if err == nil {
		return true
	}
	bad, ok := errors.AsType[*authn.InvalidError](err)
	switch {
	case s.ofBetterAuth(r.URL.Path):
		betterauth.WriteError(x, err)
	case s.opa.Owns(r.URL.Path):
		s.opa.WriteError(x, err)
	case ok:
		s.fail(x, r, problem(http.StatusBadRequest, CodeInvalid, bad.Field+" "+bad.Reason))
	default:
		s.fail(x, r, problemOf(err, authn.Principal{}))
	}
	return false
}

// gate returns the endpoint for reverse proxies that r is for, and its pattern.
func (s *server) gate(r *http.Request) (http.Handler, string) {
	if s.Gate == nil || !s.Gate.Enabled() {
		return nil, ""
	}
	return s.Gate.Endpoint(r)
}

// atLeast waits for the revision that the request is to be judged by.
func (s *server) atLeast(ctx context.Context, r *http.Request) error {
	values, asked := r.Header[request.AtLeastHeader]
	if !asked {
		return nil
	}
	var revision int64
	var err error
	if len(values) == 1 {
		revision, err = strconv.ParseInt(values[0], 10, 64)
	}
	// In the one spelling in which Ostiary-Revision tells it.
	if err != nil || len(values) != 1 || revision < 0 || strconv.FormatInt(revision, 10) != values[0] {
		return &authn.InvalidError{Field: request.AtLeastHeader, Reason: "is not one revision"}
	}
	if s.AtLeast == nil {
		return nil
	}
	return s.AtLeast(ctx, revision)
}

// recovered answers a panic, if it still can. If not, it returns what to panic
// with so that net/http cuts the connection: the client must not take half an
// answer for a whole one.
func (s *server) recovered(ctx context.Context, x *request.Exchange, r *http.Request, failure any) any {
	if failure == http.ErrAbortHandler {
		return failure
	}
	s.Log.ErrorContext(ctx, "panic", "failure", failure, "request", x.ID(), "stack", string(debug.Stack()))
	switch {
	case x.Status() != 0:
		return http.ErrAbortHandler
	case s.ofBetterAuth(r.URL.Path):
		x.WriteHeader(http.StatusInternalServerError)
	case s.opa.Owns(r.URL.Path):
		s.opa.WriteError(x, nil)
	default:
		s.fail(x, r, problemOf(nil, authn.Principal{}))
	}
	return nil
}

// done counts and logs. Queries, headers and bodies can hold secrets, so none
// of them is ever logged; the pattern stands for the path.
func (s *server) done(ctx context.Context, x *request.Exchange, method, pattern string, took time.Duration) {
	status := cmp.Or(x.Status(), http.StatusOK)
	s.Metrics.served(method, pattern, status, took)
	if s.Log.Enabled(ctx, slog.LevelInfo) {
		s.Log.LogAttrs(ctx, slog.LevelInfo, "request",
			slog.String("method", method),
			slog.String("route", pattern),
			slog.Int("status", status),
			slog.Duration("took", took),
			slog.String("request", x.ID()),
		)
	}
}
