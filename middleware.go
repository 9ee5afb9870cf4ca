package ostiary

import (
	"context"
	"net/http"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server"
)

// Authenticate resolves the one credential that r presents. Without one the
// principal is anonymous and there is no error; a credential that is not good
// is an error (see [authn.Service.Authenticate]), never quietly anonymous.
func (i *Ostiary) Authenticate(r *http.Request) (authn.Principal, error) {
	c, _, err := i.reader.Credential(r)
	if err != nil {
		return authn.Principal{}, err
	}
	return i.authn.Authenticate(r.Context(), c)
}

// Require returns middleware that lets a request through if its caller may do
// action on the resource that it names. Otherwise the request is answered:
// 401 with WWW-Authenticate if nobody is known to be calling or the credential is bad, 403 with the
// reasons if the caller may not. Handlers find the caller by [PrincipalFrom].
//
// It works with any router that takes func(http.Handler) http.Handler: chi's
// r.With(o.Require(…)).Get(…), or wrapped around a handler of net/http.
func (i *Ostiary) Require(action string, resource func(*http.Request) authz.Resource) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			x, ctx := i.reader.Begin(w, r, nil)
			defer x.End()
			caller, err := i.Authenticate(r)
			if err != nil {
				server.WriteError(x, err, caller)
				return
			}
			target := resource(r)
			d, err := i.engine.Decide(ctx, authz.Request{
				Subject: caller.Subject(), Action: authz.Action{Name: action}, Resource: target,
			})
			if err == nil && !d.Allow {
				err = &authz.DeniedError{Action: action, Resource: target, Decision: d}
			}
			if err != nil {
				server.WriteError(x, err, caller)
				return
			}
			next.ServeHTTP(x, r.WithContext(context.WithValue(ctx, principalKey{}, caller)))
		})
	}
}

type principalKey struct{}

// PrincipalFrom returns who is calling, as [Ostiary.Require] found it; an
// anonymous principal if it did not.
func PrincipalFrom(ctx context.Context) authn.Principal {
	p, _ := ctx.Value(principalKey{}).(authn.Principal)
	return p
}
