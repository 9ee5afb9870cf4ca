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

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/server/betterauth"
	"github.com/ostiary/ostiary/server/request"
)

// ServeHTTP is what stands around every route.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	x, ctx := s.Reader.Begin(w, r, s.Metrics.Decided)
	ctx, span := s.span(ctx, r)

	// The route context is ours whatever router the handler stands in:
	// patterns here are of the whole path.
	rctx := s.contexts.Get().(*chi.Context)
	rctx.Reset()
	rctx.Routes = s.mux
	if r.Method == http.MethodHead && !s.ofBetterAuth(r.URL.Path) && !s.opa.Owns(r.URL.Path) {
		rctx.RouteMethod = http.MethodGet // net/http leaves the body out
	}
	r = r.WithContext(context.WithValue(ctx, chi.RouteCtxKey, rctx))

	gate, pattern := s.gate(r)
	defer func() {
		failure := recover()
		if failure != nil {
			failure = s.recovered(x, r, failure)
		}
		x.End()
		if gate == nil {
			pattern = rctx.RoutePattern()
		}
		s.contexts.Put(rctx)
		s.done(x, r, pattern, time.Since(start))
		ended(span, r.Method, cmp.Or(pattern, "unmatched"), cmp.Or(x.Status(), http.StatusOK))
		if failure != nil {
			panic(failure)
		}
	}()
	if gate != nil {
		// Before any rule about paths and headers: these are of a request to
		// somebody else.
		gate.ServeHTTP(x, r)
		return
	}
	if !plain(r.URL, s.opa.Owns(r.URL.EscapedPath())) {
		if s.ofBetterAuth(r.URL.Path) {
			x.WriteHeader(http.StatusNotFound) // as Better Auth answers what it does not route
			return
		}
		s.notFound(x, r)
		return
	}
	if err := s.atLeast(r); err != nil {
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
		return
	}
	s.mux.ServeHTTP(x, r)
}

// gate returns the endpoint for reverse proxies that r is for, and its pattern.
func (s *server) gate(r *http.Request) (http.Handler, string) {
	if s.Gate == nil || !s.Gate.Enabled() {
		return nil, ""
	}
	return s.Gate.Endpoint(r)
}

// atLeast waits for the revision that the request is to be judged by.
func (s *server) atLeast(r *http.Request) error {
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
	return s.AtLeast(r.Context(), revision)
}

// recovered answers a panic, if it still can. If not, it returns what to panic
// with so that net/http cuts the connection: the client must not take half an
// answer for a whole one.
func (s *server) recovered(x *request.Exchange, r *http.Request, failure any) any {
	if failure == http.ErrAbortHandler {
		return failure
	}
	s.Log.ErrorContext(r.Context(), "panic", "failure", failure, "request", x.ID(), "stack", string(debug.Stack()))
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
func (s *server) done(x *request.Exchange, r *http.Request, pattern string, took time.Duration) {
	status := cmp.Or(x.Status(), http.StatusOK)
	if pattern == "" {
		pattern = "unmatched"
	}
	s.Metrics.served(r.Method, pattern, status, took)
	if s.Log.Enabled(r.Context(), slog.LevelInfo) {
		s.Log.LogAttrs(r.Context(), slog.LevelInfo, "request",
			slog.String("method", r.Method),
			slog.String("route", pattern),
			slog.Int("status", status),
			slog.Duration("took", took),
			slog.String("request", x.ID()),
		)
	}
}
