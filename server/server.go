// Package server says it in HTTP.
//
// It routes, and around every route it does once what no endpoint may forget:
// request ids, limits on size, depth and time, the one credential that
// counts, decoding, and one table from errors to answers. Each API family has
// its own file or package and words its own errors.
//
// # Paths
//
// A path has one spelling. Doubled slashes, dot segments, backslashes and
// percent escapes of characters that need none are refused before routing, so
// that no proxy or policy in front of the service can be made to see another
// path than the handler does.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"go.opentelemetry.io/otel/trace"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/server/authzen"
	"github.com/ostiary/ostiary/server/betterauth"
	"github.com/ostiary/ostiary/server/forwardauth"
	"github.com/ostiary/ostiary/server/opa"
	"github.com/ostiary/ostiary/server/request"
)

// Options is what the server stands on.
type Options struct {
	Authn     *authn.Service
	Engine    *authz.Engine // asks Directory what is known of a resource
	Directory *directory.Service
	Policies  *policies.Library
	Audit     audit.Store // reads decisions
	Log       *slog.Logger
	Ready     func(ctx context.Context) error // nil error: ready
	// AtLeast waits, bounded, until the store's state of a revision is known
	// here. nil: it always is.
	AtLeast func(ctx context.Context, revision int64) error
	// Feed tells how old the knowledge of changes is, and of which revision.
	// nil: there is no feed.
	Feed func() (age time.Duration, revision int64)
	// Lease is how long what Feed tells of holds. Answers vouch for themselves as
	// long as is left of it, to clients that ask; zero: they don't.
	Lease time.Duration
	// FilterSQL says a condition in a dialect of SQL; see store.FilterSQL.
	FilterSQL func(dialect string, c authz.Condition, columns map[string]string, fields authz.Fields) (string, []any, error)
	Version   string
	Reader    *request.Reader    // credentials, addresses, limits
	Auth      betterauth.Options // the Better Auth surface
	Gate      *forwardauth.Gate  // answers reverse proxies, if it is enabled; nil: none
	OPA       opa.Options        // the OPA-compatible surface
	AuthZEN   authzen.Options    // the AuthZEN surface; Clock is set from below
	// Origins may send writes with a cookie to the native API, besides the
	// service's own: "https://app.example". The Better Auth surface has its
	// own list.
	Origins []string
	Metrics *Metrics         // nil: nothing is counted
	Tracer  trace.Tracer     // nil: no spans
	Clock   func() time.Time // default time.Now
}

type server struct {
	Options
	mux      *chi.Mux
	contexts sync.Pool // of *chi.Context
	origins  *http.CrossOriginProtection
	base     string // path of the Better Auth surface
	opa      *opa.Handler
	zen      *authzen.Surface
	// authorizing is the handler of authorizePath, which does not pass the mux.
	authorizing func(context.Context, http.ResponseWriter, *http.Request)
	decided     func(authz.Decision) // has it counted
	// following counts requests that wait for decisions to be made.
	following atomic.Int64
}

// New returns the handler of all surfaces.
func New(o Options) (http.Handler, error) {
	s := &server{Options: o, mux: chi.NewMux(), origins: http.NewCrossOriginProtection(), base: cmp.Or(o.Auth.BasePath, "/api/auth")}
	s.authorizing, s.decided = s.calling(authorizePath, s.authorize), s.Metrics.Decided
	s.contexts.New = func() any { return chi.NewRouteContext() }
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Clock == nil {
		s.Clock = time.Now
	}
	o.AuthZEN.Clock = s.Clock
	var errs []error
	for _, origin := range o.Origins {
		if err := s.origins.AddTrustedOrigin(origin); err != nil {
			errs = append(errs, fmt.Errorf("trusted origin %q: %w", origin, err))
		}
	}
	auth, err := betterauth.New(o.Auth, o.Reader, o.Authn, o.Engine, s.Log)
	errs = append(errs, err)
	s.opa, err = opa.New(o.OPA, opa.Parts{
		Reader: o.Reader, Authn: o.Authn, Engine: o.Engine, Directory: o.Directory, Policies: o.Policies,
		Origins: s.origins, Ready: o.Ready, Version: o.Version, Log: s.Log,
	})
	errs = append(errs, err)
	s.zen, err = authzen.New(o.AuthZEN, o.Reader, o.Engine, o.Directory)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}

	s.Metrics.about(o.Version, o.Policies.Status)
	s.Metrics.feed(o.Feed)
	s.mux.NotFound(s.notFound)
	s.mux.MethodNotAllowed(s.methodNotAllowed)

	s.mux.Get("/healthz", s.healthz)
	s.mux.Get("/readyz", s.readyz)
	s.mux.Get("/openapi.json", s.openapi)

	s.native(http.MethodPost, authorizePath, s.authorize)
	s.native(http.MethodPost, "/v1/filter", s.filter)
	s.native(http.MethodGet, "/v1/me", s.me)
	s.native(http.MethodPost, "/v1/keys/verify", s.verifyKey)
	s.native(http.MethodPost, "/v1/service-accounts", s.createServiceAccount)
	s.native(http.MethodGet, "/v1/decisions", s.decisions)
	s.native(http.MethodGet, "/v1/decisions/{id}", s.decision)
	s.native(http.MethodGet, "/v1/events", s.events)
	s.native(http.MethodGet, "/v1/roles", s.roles)
	s.native(http.MethodPut, "/v1/roles/{name}", s.setRole)
	s.native(http.MethodDelete, "/v1/roles/{name}", s.deleteRole)
	s.native(http.MethodPost, "/v1/policy/check", s.checkPolicy)
	s.native(http.MethodPost, "/v1/policy/test", s.testPolicy)
	s.native(http.MethodPost, "/v1/policy/eval", s.evalPolicy)
	s.native(http.MethodPost, "/v1/policy/replay", s.replayPolicy)
	s.native(http.MethodPost, "/v1/policy/explain", s.explainPolicy)
	s.native(http.MethodGet, "/v1/policy/permissions", s.effective)
	s.native(http.MethodGet, "/v1/policy/bundle", s.bundle)
	s.native(http.MethodPost, "/v1/policy/publish", s.publishPolicy)
	s.native(http.MethodGet, "/v1/policy/revisions", s.publications)
	s.native(http.MethodGet, "/v1/policy/revisions/{revision}", s.policyRevision)
	s.native(http.MethodPost, "/v1/policy/rollback", s.rollbackPolicy)
	s.native(http.MethodGet, "/v1/policy/shadow", s.shadow)
	s.native(http.MethodPost, "/v1/policy/shadow", s.startShadow)
	s.native(http.MethodDelete, "/v1/policy/shadow", s.stopShadow)
	s.native(http.MethodGet, "/v1/entities", s.entityTypes)
	s.native(http.MethodPost, "/v1/entities", s.importEntities)
	s.native(http.MethodGet, "/v1/entities/{type}", s.entities)
	s.native(http.MethodGet, "/v1/entities/{type}/*", s.getEntity)
	s.native(http.MethodPut, "/v1/entities/{type}/*", s.putEntity)
	s.native(http.MethodDelete, "/v1/entities/{type}/*", s.deleteEntity)

	s.authZEN()
	s.opa.Mount(s.mux.Method)
	s.betterAuth(auth)
	return s, nil
}

// betterAuth routes everything below base to h, and what h knows by name, so
// that logs and metrics can tell its routes apart.
func (s *server) betterAuth(h http.Handler) {
	if known, ok := h.(interface{ Routes() []string }); ok {
		for _, route := range known.Routes() { // "POST /sign-out"
			method, path, _ := strings.Cut(route, " ")
			s.mux.Method(method, s.base+path, h)
		}
	}
	s.mux.Handle(s.base, h)
	s.mux.Handle(s.base+"/*", h)
}

// ofBetterAuth reports whether path is one that the Better Auth surface
// answers in its own way.
func (s *server) ofBetterAuth(path string) bool {
	rest, ok := strings.CutPrefix(path, s.base)
	return ok && (rest == "" || rest[0] == '/')
}

// Routes lists what the handler of New serves, as chi sees it.
func (s *server) Routes() []chi.Route { return s.mux.Routes() }

// Middlewares and Match make the handler a chi.Routes, so that an application
// can list its routes with chi.Walk.
func (s *server) Middlewares() chi.Middlewares { return s.mux.Middlewares() }

func (s *server) Match(rctx *chi.Context, method, path string) bool {
	return s.mux.Match(rctx, method, path)
}

func (s *server) Find(rctx *chi.Context, method, path string) string {
	return s.mux.Find(rctx, method, path)
}

var _ chi.Routes = (*server)(nil)

func (s *server) notFound(w http.ResponseWriter, r *http.Request) {
	if s.opa.Owns(r.URL.Path) && r.URL.Path != "/" {
		s.opa.NotFound(w, r)
		return
	}
	s.fail(w, r, problem(http.StatusNotFound, CodeNotFound, "there is nothing at this path"))
}

var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// methodNotAllowed answers OPTIONS too: with what is allowed, and without
// CORS headers, which are the business of a proxy in front.
func (s *server) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/" { // where OPA's clients ask for the default decision, and nothing else is
		s.notFound(w, r)
		return
	}
	var allow []string
	for _, m := range methods {
		if s.mux.Match(chi.NewRouteContext(), m, r.URL.Path) {
			allow = append(allow, m)
			if m == http.MethodGet && !s.opa.Owns(r.URL.Path) {
				allow = append(allow, http.MethodHead)
			}
		}
	}
	allow = slices.Compact(allow)
	if !s.zen.Owns(r.URL.Path) {
		allow = append(allow, http.MethodOptions)
	}
	w.Header().Set("Allow", strings.Join(allow, ", "))
	if slices.Contains(allow, r.Method) { // OPTIONS
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if s.opa.Owns(r.URL.Path) {
		s.opa.MethodNotAllowed(w, r)
		return
	}
	s.fail(w, r, problem(http.StatusMethodNotAllowed, CodeMethodNotAllowed, "this path does not take "+r.Method))
}

// fail answers p as the surface does that owns the path.
func (s *server) fail(w http.ResponseWriter, r *http.Request, p *Problem) {
	if s.zen.Owns(r.URL.Path) {
		writeAuthZENError(w, p)
		return
	}
	writeProblem(w, p)
}
