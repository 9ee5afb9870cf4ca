package ostiary

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/guard"
	"github.com/ostiary/ostiary/server"
	"github.com/ostiary/ostiary/server/request"
)

var _ guard.Service = (*Ostiary)(nil)

// Authenticate resolves the one credential that r presents. Without one the
// principal is anonymous and there is no error; a credential that is not good
// is an error (see [authn.Service.Authenticate]), never quietly anonymous. Two
// that differ are request.ErrAmbiguous.
func (i *Ostiary) Authenticate(r *http.Request) (authn.Principal, error) {
	return i.authenticate(r.Context(), r)
}

func (i *Ostiary) authenticate(ctx context.Context, r *http.Request) (authn.Principal, error) {
	c, place, err := i.reader.Credential(r)
	if err != nil {
		return authn.Principal{}, err
	}
	// A browser sends cookies along with requests that other sites make it
	// send; headers it does not.
	if place == request.InCookie {
		if err := i.origins.Check(r); err != nil {
			return authn.Principal{}, request.ErrCrossOrigin
		}
	}
	return i.authn.Authenticate(ctx, c)
}

// Require returns middleware that lets a request through if its caller may do
// action on the resource that it names. Otherwise the request is answered:
// 401 with WWW-Authenticate if nobody is known to be calling or the credential is bad, 403 with the
// reasons if the caller may not. Handlers find the caller by [PrincipalFrom].
//
// It works with any router that takes func(http.Handler) http.Handler: chi's
// r.With(o.Require(…)).Get(…), or wrapped around a handler of net/http. It is
// [guard.Require], which can say resource for you: guard.ByPath("document", "id").
func (i *Ostiary) Require(action string, resource func(*http.Request) authz.Resource) func(http.Handler) http.Handler {
	return guard.Require(i, action, resource)
}

// Admit implements [guard.Service]. The principal in the context is an
// [authn.Principal].
func (i *Ostiary) Admit(r *http.Request, action authz.Action, resource authz.Resource) (context.Context, authz.Decision, error) {
	ctx := i.reader.Facts(r, i.metrics.Decided)
	within, ended := ctx, func(authz.Decision, error) {}
	if i.tracer != nil {
		ctx, within, ended = i.span(ctx, r)
	}
	caller, err := i.authenticate(within, r)
	if err != nil {
		err = kindOf(err)
		ended(authz.Decision{}, err)
		return ctx, authz.Decision{}, err
	}
	d, err := i.engine.Decide(within, authz.Request{Subject: caller.Subject(), Action: action, Resource: resource})
	switch {
	case err == nil:
		err = d.Err(action.Name, resource)
	case ctx.Err() == nil && !errors.Is(err, authn.ErrUnavailable):
		err = fmt.Errorf("%w: %w", authn.ErrUnavailable, err)
	}
	ended(d, err)
	return guard.WithPrincipal(ctx, caller), d, err
}

// span begins the span of admitting r: under the one that the program has for it
// or, if it has none, the one that the request tells of (W3C Trace Context). What
// the program does for the request afterwards, under ctx, is no part of it.
func (i *Ostiary) span(ctx context.Context, r *http.Request) (_, within context.Context, ended func(authz.Decision, error)) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	within, span := i.tracer.Start(ctx, "ostiary.admit")
	return ctx, within, func(d authz.Decision, err error) {
		span.SetAttributes(attribute.Bool("ostiary.decision.allow", d.Allow))
		if d.ID != "" {
			span.SetAttributes(attribute.String("ostiary.decision.id", d.ID))
		}
		// That somebody may not, or presents what is not good, is an answer.
		answered := err == nil
		for _, kind := range []error{access.ErrDenied, access.ErrBadCredential, access.ErrLimited, access.ErrInvalid} {
			answered = answered || errors.Is(err, kind)
		}
		if !answered {
			span.SetStatus(codes.Error, "there is no decision")
		}
		span.End()
	}
}

// kindOf wraps what is wrong with a credential in the word that every
// [guard.Service] has for it.
func kindOf(err error) error {
	kind := access.ErrBadCredential
	switch {
	case errors.Is(err, authn.ErrRateLimited), errors.Is(err, authn.ErrUsageExceeded):
		kind = access.ErrLimited
	case errors.Is(err, request.ErrAmbiguous):
		kind = access.ErrInvalid
	case errors.Is(err, request.ErrCrossOrigin):
		kind = access.ErrDenied
	case errors.Is(err, kind) || !authn.IsCredentialError(err):
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// Refuse implements [guard.Service]: with problems, as the native API.
func (i *Ostiary) Refuse(ctx context.Context, w http.ResponseWriter, err error) {
	if status := server.WriteError(w, err, PrincipalFrom(ctx)); status >= http.StatusInternalServerError {
		i.slog.ErrorContext(ctx, "request not admitted", "error", err)
	}
}

// PrincipalFrom returns who is calling, as [Ostiary.Require] found it; an
// anonymous principal if it did not.
func PrincipalFrom(ctx context.Context) authn.Principal {
	p, _ := guard.PrincipalFrom(ctx).(authn.Principal)
	return p
}
