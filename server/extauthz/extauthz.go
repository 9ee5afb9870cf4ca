// Package extauthz answers Envoy's external authorization filter over gRPC:
// envoy.service.auth.v3.Authorization/Check.
//
// It judges as package forwardauth does; only the wire differs. Whatever
// happens, the call succeeds and carries a verdict: an error of the call itself
// would leave it to Envoy's failure_mode_allow whether the request passes.
//
// # Who may ask
//
// Whoever reaches the listener asks, so it belongs on an address that only
// Envoy reaches. If addresses of proxies or a secret are configured for the gate
// they are demanded here too; the secret comes as metadata,
// "ostiary-forward-secret".
package extauthz

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/ostiary/ostiary/server/forwardauth"
	"github.com/ostiary/ostiary/server/request"
)

// Kind is what policies see as resource.properties.proxy.
const Kind = "envoy"

// Options configures a server.
type Options struct {
	Gate *forwardauth.Gate
	Log  *slog.Logger // default discards
	// MaxMessage bounds a question, in bytes; default 1 MiB. A body that Envoy
	// is configured to send along counts, though nobody looks at it.
	MaxMessage int
}

// maxStreams bounds the questions that one connection asks at once.
const maxStreams = 1000

// Server answers Check. It is served and stopped like an http.Server.
type Server struct{ grpc *grpc.Server }

// Serve answers what comes to l, until it is stopped.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Shutdown accepts nothing new, and returns when what is in flight is answered
// or ctx has ended.
func (s *Server) Shutdown(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close cuts everything off.
func (s *Server) Close() error {
	s.grpc.Stop()
	return nil
}

// NewServer returns a server that is not served yet.
func NewServer(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxMessage <= 0 {
		o.MaxMessage = 1 << 20
	}
	s := grpc.NewServer(
		grpc.MaxRecvMsgSize(o.MaxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(32<<10),
		grpc.ConnectionTimeout(5*time.Second),
		// Peers that are gone are noticed.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Minute, Timeout: 20 * time.Second}),
	)
	authv3.RegisterAuthorizationServer(s, &service{gate: o.Gate, log: o.Log})
	return &Server{s}
}

type service struct {
	authv3.UnimplementedAuthorizationServer
	gate *forwardauth.Gate
	log  *slog.Logger
}

// Check implements envoy.service.auth.v3.Authorization.
func (s *service) Check(ctx context.Context, in *authv3.CheckRequest) (out *authv3.CheckResponse, _ error) {
	defer func() {
		if failure := recover(); failure != nil {
			s.log.ErrorContext(ctx, "panic", "failure", failure, "stack", string(debug.Stack()))
			out = denied(forwardauth.Verdict{Status: http.StatusInternalServerError})
		}
	}()
	asker := ""
	if p, ok := peer.FromContext(ctx); ok {
		asker = p.Addr.String()
	}
	if !s.gate.Trusts(asker, metadata.ValueFromIncomingContext(ctx, strings.ToLower(forwardauth.SecretHeader))) {
		s.log.WarnContext(ctx, "whoever asks is not a proxy that is trusted", "proxy", Kind, "peer", asker)
		return denied(forwardauth.Verdict{Status: http.StatusForbidden}), nil
	}
	v := s.gate.Judge(ctx, s.question(in.GetAttributes()))
	if v.Status == http.StatusOK {
		return permitted(v), nil
	}
	return denied(v), nil
}

// question is what Envoy tells of the request that it holds. What is missing is
// empty, and then refused by the gate.
func (s *service) question(a *authv3.AttributeContext) forwardauth.Question {
	r := a.GetRequest().GetHttp()
	h := headers(r)
	return forwardauth.Question{
		Proxy:  Kind,
		Method: r.GetMethod(), Target: r.GetPath(), Host: r.GetHost(), Scheme: r.GetScheme(),
		Header:     h,
		Address:    s.gate.Client(address(a.GetSource()), h),
		Extensions: a.GetContextExtensions(),
	}
}

// headers are those of the client. Envoy joins repeated ones with commas,
// unless it is told to send them raw; two credentials stay two either way, or
// become one that is no good.
func headers(r *authv3.AttributeContext_HttpRequest) http.Header {
	h := http.Header{}
	for name, value := range r.GetHeaders() {
		if !strings.HasPrefix(name, ":") {
			h.Add(name, value)
		}
	}
	if len(r.GetHeaders()) > 0 {
		return h
	}
	for _, raw := range r.GetHeaderMap().GetHeaders() {
		if !strings.HasPrefix(raw.GetKey(), ":") {
			value := raw.GetValue()
			if value == "" {
				value = string(raw.GetRawValue())
			}
			h.Add(raw.GetKey(), value)
		}
	}
	return h
}

// address is "host:port" of whom Envoy takes for the client.
func address(p *authv3.AttributeContext_Peer) string {
	a := p.GetAddress().GetSocketAddress()
	if a.GetAddress() == "" {
		return ""
	}
	return net.JoinHostPort(a.GetAddress(), strconv.Itoa(int(a.GetPortValue())))
}

// permitted sets every header of the identity, and removes those of which
// nothing is known: what the client sent under these names never passes.
func permitted(v forwardauth.Verdict) *authv3.CheckResponse {
	ok := &authv3.OkHttpResponse{
		Headers: []*corev3.HeaderValueOption{header(request.DecisionHeader, v.Decision)},
		// It is between proxies and the service alone.
		HeadersToRemove: []string{strings.ToLower(forwardauth.SecretHeader)},
	}
	for _, name := range forwardauth.IdentityHeaders {
		if value := v.Identity[name]; value != "" {
			ok.Headers = append(ok.Headers, header(name, value))
		} else {
			ok.HeadersToRemove = append(ok.HeadersToRemove, strings.ToLower(name))
		}
	}
	return &authv3.CheckResponse{
		Status:       &rpcstatus.Status{Code: int32(codes.OK)},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok},
	}
}

func denied(v forwardauth.Verdict) *authv3.CheckResponse {
	code := codes.PermissionDenied
	if v.Status == http.StatusUnauthorized {
		code = codes.Unauthenticated
	}
	no := &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode(v.Status)}}
	for _, h := range [][2]string{
		{"Cache-Control", "no-store"},
		{"WWW-Authenticate", v.Challenge},
		{"Retry-After", v.RetryAfter},
		{request.DecisionHeader, v.Decision},
	} {
		if h[1] != "" {
			no.Headers = append(no.Headers, header(h[0], h[1]))
		}
	}
	return &authv3.CheckResponse{
		Status:       &rpcstatus.Status{Code: int32(code)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: no},
	}
}

func header(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: strings.ToLower(name), Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}
