// Package opa answers in the words of Open Policy Agent's REST API, so that
// OPA's clients work unchanged: data queries, data filters, ad hoc queries,
// policies and health, with OPA's answers and OPA's errors.
//
// It differs where OPA trusts whoever reaches it. Every caller is
// authenticated, and the policy is asked whether it may (access:evaluate, with
// the path). Only documents that are declared as entrypoints are there at all;
// anything else is undefined, as what does not exist. Nothing can be written.
//
// # Ostiary's own decision
//
// data.ostiary.decision is always there, and never evaluated over a principal
// that the caller made up: the caller names a subject, and the directory says
// who that is.
package opa

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/server/request"
)

// Options says what is answered. The zero value works.
type Options struct {
	// Query allows queries that callers write, over all data and all rules.
	Query bool
	// Entrypoints are declared beside those that the policy annotates, as
	// paths: "app/document/allow".
	Entrypoints []string
}

// Parts is what the surface stands on.
type Parts struct {
	Reader    *request.Reader
	Authn     *authn.Service
	Engine    *authz.Engine
	Directory *directory.Service // knows whom questions are about
	Policies  *policies.Library
	Origins   *http.CrossOriginProtection     // of writes that rest on a cookie
	Ready     func(ctx context.Context) error // nil: always
	Version   string                          // told as provenance
	Log       *slog.Logger
}

// Handler serves the surface.
type Handler struct {
	Parts
	query       bool
	entrypoints []authz.Path
	routes      []route
}

type route struct {
	method, pattern string // as chi reads them
	handle          func(*call) error
	open            bool // for anyone: no credential is looked at
}

// New returns the surface. It reports every mistake in o at once.
func New(o Options, p Parts) (*Handler, error) {
	h := &Handler{Parts: p, query: o.Query}
	if h.Log == nil {
		h.Log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	for _, text := range o.Entrypoints {
		path, err := authz.ParsePath(text)
		if _, own := path.Below(ostiaryPath); err == nil && (own || path.String() == "") {
			err = errors.New("cannot be declared")
		}
		if err != nil {
			errs = append(errs, &authn.InvalidError{Field: "opa.entrypoints", Reason: fmt.Sprintf("%q: %v", text, err)})
			continue
		}
		h.entrypoints = append(h.entrypoints, path)
	}
	h.routes = []route{
		{"POST", "/v1/data", h.postData, false},
		{"POST", "/v1/data/*", h.postData, false},
		{"GET", "/v1/data", h.getData, false},
		{"GET", "/v1/data/*", h.getData, false},
		{"POST", "/v0/data", h.postDataV0, false},
		{"POST", "/v0/data/*", h.postDataV0, false},
		{"POST", "/", h.postDefault, false},
		{"POST", "/v1/compile/*", h.compile, false},
		{"POST", "/v1/query", h.postQuery, false},
		{"GET", "/v1/query", h.getQuery, false},
		{"GET", "/v1/policies", h.listPolicies, false},
		{"GET", "/v1/policies/*", h.getPolicy, false},
		{"GET", "/health", h.health, true},
	}
	return h, errors.Join(errs...)
}

func mustPath(text string) authz.Path {
	p, err := authz.ParsePath(text)
	if err != nil {
		panic(err)
	}
	return p
}

// Mount hands every route to handle, as chi's Method takes them.
func (h *Handler) Mount(handle func(method, pattern string, h http.Handler)) {
	for _, rt := range h.routes {
		handle(rt.method, rt.pattern, h.serve(rt))
	}
}

// Owns reports whether path is one that this surface answers in its own way,
// whatever the method.
func (h *Handler) Owns(path string) bool {
	if path == "/" || path == "/health" {
		return true
	}
	for _, base := range []string{"/v0/data", "/v1/data", "/v1/compile", "/v1/query", "/v1/policies", "/v1/batch"} {
		if rest, ok := strings.CutPrefix(path, base); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// call is a request on its way through a route.
type call struct {
	*Handler
	w      http.ResponseWriter
	r      *http.Request
	ctx    context.Context
	caller authn.Principal
	began  time.Time
	rest   string // of the path, as it was sent, after the route's fixed part
}

func (h *Handler) serve(rt route) http.Handler {
	fixed := strings.TrimSuffix(rt.pattern, "*")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		c := &call{Handler: h, w: w, r: r, ctx: r.Context(), began: time.Now()}
		c.rest = strings.TrimPrefix(r.URL.EscapedPath(), fixed)
		var err error
		if !rt.open {
			err = c.authenticate()
		}
		if err == nil {
			err = rt.handle(c)
		}
		if err != nil {
			c.fail(err)
		}
	})
}

func (c *call) authenticate() error {
	cred, place, err := c.Reader.Credential(c.r)
	if err != nil || place == request.Nowhere {
		return err
	}
	if place == request.InCookie {
		if err := c.Origins.Check(c.r); err != nil {
			return &apiError{status: http.StatusForbidden, Code: codeUnauthorized, Message: "a request that carries a cookie must come from this service's own pages or a trusted origin"}
		}
	}
	c.caller, err = c.Authn.Authenticate(c.ctx, cred)
	return err
}

// ask asks the policy whether the caller may, and answers with an
// error if not. The answer rests on the last decision asked for.
func (c *call) ask(action string, resource authz.Resource) (authz.Decision, error) {
	d, err := c.Engine.Decide(c.ctx, authz.Request{Subject: c.caller.Subject(), Action: authz.Action{Name: action}, Resource: resource})
	if err == nil {
		err = d.Err(action, resource)
	}
	return d, err
}

// mayEvaluate asks whether the caller may evaluate path.
func (c *call) mayEvaluate(path authz.Path) (authz.Decision, error) {
	return c.ask("evaluate", authz.Resource{Type: "access", Properties: map[string]any{"path": path.String()}})
}
