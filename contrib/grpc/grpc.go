// Package ostiarygrpc protects methods of gRPC, unary and streaming.
//
//	grpc.NewServer(
//		grpc.UnaryInterceptor(ostiarygrpc.Unary(o, question)),
//		grpc.StreamInterceptor(ostiarygrpc.Stream(o, question)),
//	)
//
// The metadata is read as the headers of a request: x-api-key or authorization.
package ostiarygrpc

import (
	"context"
	"errors"
	"net/http"
	"net/textproto"
	"net/url"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/guard"
)

// Question says what a call is about: action on resource, of the method
// ("/library.Documents/Read") and, with unary calls, of its message; message is
// nil when a stream begins. An empty action lets the call through unasked; no
// Question at all lets nothing through.
type Question func(ctx context.Context, method string, message any) (action string, resource access.Resource)

// ByMethod asks about the resource of that type whose id is the method, with the
// action "call".
func ByMethod(resourceType string) Question {
	return func(_ context.Context, method string, _ any) (string, access.Resource) {
		return "call", access.Resource{Type: resourceType, ID: method}
	}
}

// Unary returns an interceptor of unary calls. Handlers find the caller by
// [guard.PrincipalFrom].
func Unary(s guard.Service, q Question) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, message any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := admit(ctx, s, q, info.FullMethod, message)
		if err != nil {
			return nil, err
		}
		return handler(ctx, message)
	}
}

// Stream returns an interceptor of streams, which are decided about when they
// begin: what ends a credential later does not end them.
func Stream(s guard.Service, q Question) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, err := admit(stream.Context(), s, q, info.FullMethod, nil)
		if err != nil {
			return err
		}
		return handler(srv, &admitted{stream, ctx})
	}
}

type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

func (a *admitted) Context() context.Context { return a.ctx }

func admit(ctx context.Context, s guard.Service, q Question, method string, message any) (context.Context, error) {
	if q == nil {
		return nil, status.Error(codes.Internal, guard.ErrNoResource.Error())
	}
	action, resource := q(ctx, method, message)
	if action == "" {
		return ctx, nil
	}
	admitted, d, err := guard.Admit(s, request(ctx, method), access.Action{Name: action}, resource)
	if d.ID != "" {
		// Best effort: the answer is the same without it.
		_ = grpc.SetHeader(ctx, metadata.Pairs("ostiary-decision", d.ID))
	}
	if err != nil {
		return nil, status.Error(code(admitted, err), text(err))
	}
	return admitted, nil
}

// request is the call as HTTP/2 carries it.
func request(ctx context.Context, method string) *http.Request {
	r := &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: method}, RequestURI: method,
		Proto: "HTTP/2.0", ProtoMajor: 2, Header: http.Header{},
	}
	md, _ := metadata.FromIncomingContext(ctx)
	for name, values := range md {
		switch name {
		case ":authority":
			if len(values) > 0 {
				r.Host = values[0]
			}
		case "cookie": // which browsers send by themselves, and gRPC has no use for
		default:
			r.Header[textproto.CanonicalMIMEHeaderKey(name)] = values
		}
	}
	if p, ok := peer.FromContext(ctx); ok {
		r.RemoteAddr = p.Addr.String()
	}
	return r.WithContext(ctx)
}

// code tells a credential that is missing or bad from a caller who may not.
func code(ctx context.Context, err error) codes.Code {
	switch {
	case errors.Is(err, guard.ErrNoResource):
		return codes.Internal
	case errors.Is(err, access.ErrUnauthenticated), errors.Is(err, access.ErrBadCredential):
		return codes.Unauthenticated
	case errors.Is(err, access.ErrDenied):
		if p := guard.PrincipalFrom(ctx); p == nil || p.Anonymous() {
			return codes.Unauthenticated
		}
		return codes.PermissionDenied
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, access.ErrLimited):
		return codes.ResourceExhausted
	case errors.Is(err, access.ErrInvalid):
		return codes.InvalidArgument
	}
	return codes.Unavailable
}

// text is what the client hears: the first reason of a denial, and of others
// what kind of failure it is.
func text(err error) string {
	if denied, ok := errors.AsType[*access.DeniedError](err); ok {
		return denied.Error()
	}
	for _, kind := range []error{guard.ErrNoResource, access.ErrUnauthenticated, access.ErrBadCredential, access.ErrLimited, access.ErrInvalid} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	return "there is no decision"
}
