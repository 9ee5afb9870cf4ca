// Package guard protects routes: it lets a request through if its caller may do
// what the route is for, and answers it otherwise.
//
// A [Service] admits: an embedded instance, or the client of a remote one. A
// program that knows no more than Service changes from one to the other without
// another change.
//
// The handler gets the ResponseWriter that the middleware got, so whatever that
// can do (flush, hijack, trailers, [http.ResponseController]) it still can.
package guard

import (
	"context"
	"errors"
	"net/http"

	"github.com/ostiary/ostiary/access"
)

// Headers of answers.
const (
	DecisionHeader = "Ostiary-Decision" // id of the decision that the answer rests on
	IDHeader       = "X-Request-Id"
)

// Principal is who is calling, proven by a credential. Assert the type that the
// service makes ([authn.Principal] when embedded) to learn more.
type Principal interface {
	// Subject is the principal as policies see it, for questions about it.
	Subject() *access.Subject
	// Anonymous reports whether nobody is known to be calling.
	Anonymous() bool
}

// ErrNoResource reports that a route does not say what it is about. It is a mistake
// in the program, and answered with 500.
var ErrNoResource = errors.New("the route names no resource")

// Service finds out who sends a request, and decides.
type Service interface {
	access.Decider

	// Admit resolves the one credential that r presents and decides whether its
	// caller may do action on resource. The context is that of r, and has the
	// principal ([PrincipalFrom]) and the facts of the request, with an error too
	// as far as they are known.
	//
	// Errors, for errors.Is and errors.As: *[access.DeniedError] if the caller may
	// not; [access.ErrBadCredential] and [access.ErrUnauthenticated] of a
	// credential that is not good; [access.ErrLimited]; [access.ErrInvalid], as of two
	// credentials; anything else is no decision, mostly [access.ErrUnavailable].
	Admit(r *http.Request, action access.Action, resource access.Resource) (context.Context, access.Decision, error)

	// Refuse answers r, which Admit refused with err: 401 with
	// WWW-Authenticate if a credential is missing or bad, 403 with the reasons
	// if the caller may not. ctx is the context that Admit returned.
	Refuse(ctx context.Context, w http.ResponseWriter, err error)
}

// Require returns middleware that lets a request through if its caller may do
// action on the resource that it names, and has s refuse it otherwise.
//
// It works with any router that takes func(http.Handler) http.Handler. A resource
// is what the program knows of it; [ByPath] takes it from the route's pattern.
func Require(s Service, action string, resource func(*http.Request) access.Resource) func(http.Handler) http.Handler {
	what := access.Action{Name: action}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, d, err := Admit(s, r, what, resource(r))
			Note(ctx, w.Header(), d)
			if err != nil {
				s.Refuse(ctx, w, err)
				return
			}
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}
}

// Admit has s admit r, and refuses what must not pass whatever s says: a resource
// without a type ([ErrNoResource]), and a decision that denies. It is for adapters
// of other frameworks.
func Admit(s Service, r *http.Request, action access.Action, resource access.Resource) (context.Context, access.Decision, error) {
	if resource.Type == "" {
		return r.Context(), access.Decision{}, ErrNoResource
	}
	ctx, d, err := s.Admit(r, action, resource)
	if err == nil {
		err = d.Err(action.Name, resource)
	}
	return ctx, d, err
}

// Note names in h the decision d and the request that ctx, which Admit
// returned, is about. It is for adapters of other frameworks.
func Note(ctx context.Context, h http.Header, d access.Decision) {
	if d.ID != "" {
		h[DecisionHeader] = []string{d.ID}
	}
	if f := access.FactsFrom(ctx); f != nil && f.RequestID != "" {
		h[IDHeader] = []string{f.RequestID}
	}
}

// ByPath makes resources of one type whose id is the wildcard of that name in the
// pattern of the route, as net/http and chi match it ("/documents/{id}").
//
// Where the route has no such wildcard, or nobody has matched the path yet, it
// makes a resource without a type, and the request is refused ([ErrNoResource]):
// a mistake in a name must not turn a question about one thing into one about all.
func ByPath(resourceType, wildcard string) func(*http.Request) access.Resource {
	return func(r *http.Request) access.Resource {
		id := r.PathValue(wildcard)
		if id == "" {
			return access.Resource{}
		}
		return access.Resource{Type: resourceType, ID: id}
	}
}

// ByPattern makes resources of one type, "route" for example, whose id is the pattern of the
// route itself ("GET /documents/{id}" with net/http, "/documents/{id}" with
// chi). Where nobody has matched the path yet, it is as [ByPath].
func ByPattern(resourceType string) func(*http.Request) access.Resource {
	return func(r *http.Request) access.Resource {
		if r.Pattern == "" {
			return access.Resource{}
		}
		return access.Resource{Type: resourceType, ID: r.Pattern}
	}
}

// OfType makes the resource that is a type as a whole: for "list" and "create".
func OfType(resourceType string) func(*http.Request) access.Resource {
	return func(*http.Request) access.Resource { return access.Resource{Type: resourceType} }
}

type principalKey struct{}

// WithPrincipal returns a context in which [PrincipalFrom] finds p.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFrom returns who is calling, as [Service.Admit] found it; nil if it
// did not.
func PrincipalFrom(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}
