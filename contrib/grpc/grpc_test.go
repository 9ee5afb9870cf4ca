package ostiarygrpc_test

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/fstest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ostiary/ostiary/access"
	ostiarygrpc "github.com/ostiary/ostiary/contrib/grpc"
	"github.com/ostiary/ostiary/guard"
	"github.com/ostiary/ostiary/ostiarytest"
)

// health answers who calls, through a unary and a streaming method.
type health struct {
	healthpb.UnimplementedHealthServer
	callers chan string
}

func (h *health) note(ctx context.Context) {
	h.callers <- guard.PrincipalFrom(ctx).Subject().Identity().User.Name
}

func (h *health) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	h.note(ctx)
	return &healthpb.HealthCheckResponse{}, nil
}

func (h *health) Watch(_ *healthpb.HealthCheckRequest, s grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	h.note(s.Context())
	for range 2 {
		if err := s.Send(&healthpb.HealthCheckResponse{}); err != nil {
			return err
		}
	}
	return nil
}

// question is about the service that is asked for in the message, where there
// is one yet.
func question(_ context.Context, method string, message any) (string, access.Resource) {
	if in, ok := message.(*healthpb.HealthCheckRequest); ok {
		if in.Service == "" {
			return "check", access.Resource{}
		}
		return "check", access.Resource{Type: "service", ID: in.Service}
	}
	return "call", access.Resource{Type: "method", ID: method}
}

func TestCallsOfGRPC(t *testing.T) {
	s := ostiarytest.New(t, ostiarytest.Policies(fstest.MapFS{
		"service.rego": {Data: []byte("package app.service\n\nallow if input.resource.id == \"open\"\n")},
		"method.rego":  {Data: []byte("package app.method\n\nallow if {\n\tinput.principal.user\n\tinput.resource.id == \"/grpc.health.v1.Health/Watch\"\n}\n")},
	}))
	ann := s.User("Ann")
	all, none := ann.Key(access.Permissions{"*": {"*"}}), ann.Key(nil)
	h := &health{callers: make(chan string, 1)}
	srv := grpc.NewServer(grpc.UnaryInterceptor(ostiarygrpc.Unary(s, question)), grpc.StreamInterceptor(ostiarygrpc.Stream(s, question)))
	healthpb.RegisterHealthServer(srv, h)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	client := healthpb.NewHealthClient(conn)

	unary := func(ctx context.Context, service string) error {
		var header metadata.MD
		_, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: service}, grpc.Header(&header))
		if err == nil && len(header["ostiary-decision"]) != 1 {
			t.Errorf("no decision in %v", header)
		}
		return err
	}
	stream := func(ctx context.Context, _ string) error {
		in, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
		if err != nil {
			return err
		}
		n := 0
		for {
			if _, err := in.Recv(); err == io.EOF {
				break
			} else if err != nil {
				return err
			}
			n++
		}
		if n != 2 {
			t.Errorf("%d messages, want 2", n)
		}
		return nil
	}
	bearer := func(c ostiarytest.Caller) []string {
		return []string{"authorization", "Bearer " + s.Request(c, "GET", "/", nil).Header.Get("X-Api-Key")}
	}
	key := func(c ostiarytest.Caller) []string {
		return []string{"x-api-key", s.Request(c, "GET", "/", nil).Header.Get("X-Api-Key")}
	}
	for _, tt := range []struct {
		name, service string
		call          func(context.Context, string) error
		metadata      []string
		want          codes.Code
	}{
		{"unary", "open", unary, key(all), codes.OK},
		{"unary, bearer", "open", unary, bearer(all), codes.OK},
		{"unary, may not", "closed", unary, key(all), codes.PermissionDenied},
		{"unary, not granted", "open", unary, key(none), codes.PermissionDenied},
		{"unary, nobody", "closed", unary, nil, codes.Unauthenticated},
		{"unary, bad key", "open", unary, []string{"x-api-key", "nonsense"}, codes.Unauthenticated},
		{"unary, two credentials", "open", unary, append(key(all), bearer(none)...), codes.InvalidArgument},
		{"unary, no resource", "", unary, key(all), codes.Internal},
		{"stream", "", stream, key(all), codes.OK},
		{"stream, not granted", "", stream, key(none), codes.PermissionDenied},
		{"stream, nobody", "", stream, nil, codes.Unauthenticated},
		{"stream, bad key", "", stream, []string{"x-api-key", "nonsense"}, codes.Unauthenticated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.call(metadata.AppendToOutgoingContext(t.Context(), tt.metadata...), tt.service)
			if got := status.Code(err); got != tt.want {
				t.Fatalf("got %v %v, want %v", got, err, tt.want)
			}
			select {
			case name := <-h.callers:
				if tt.want != codes.OK || name != "Ann" {
					t.Errorf("reached by %q", name)
				}
			default:
				if tt.want == codes.OK {
					t.Error("not reached")
				}
			}
		})
	}
}

// Whoever is cut off hears that, and not that they may not.
func TestNoDecisionIsNoDenial(t *testing.T) {
	s := ostiarytest.New(t)
	key := s.User("Ann").Key(access.Permissions{"*": {"*"}})
	ctx, cancel := context.WithCancel(metadata.NewIncomingContext(t.Context(), metadata.Pairs("x-api-key", s.Request(key, "GET", "/", nil).Header.Get("X-Api-Key"))))
	cancel()
	_, err := ostiarygrpc.Unary(s, ostiarygrpc.ByMethod("method"))(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/a/b"}, func(context.Context, any) (any, error) {
		t.Error("reached")
		return nil, nil
	})
	if got := status.Code(err); got != codes.Canceled && got != codes.Unavailable {
		t.Errorf("got %v, %v", got, err)
	}
}
