package ostiarygrpc_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"testing/fstest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthcheck "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/ostiary/ostiary"
	ostiarygrpc "github.com/ostiary/ostiary/contrib/grpc"
)

// Methods of gRPC, by an embedded instance; a client.Client does as well.
func ExampleUnary() {
	o, err := ostiary.Open(context.Background(), ostiary.Options{
		Database: "sqlite::memory:",
		Policies: fstest.MapFS{"method.rego": {Data: []byte("package app.method\n\nallow if input.resource.id == \"/grpc.health.v1.Health/Check\"\n")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	question := ostiarygrpc.ByMethod("method")
	srv := grpc.NewServer(grpc.UnaryInterceptor(ostiarygrpc.Unary(o, question)), grpc.StreamInterceptor(ostiarygrpc.Stream(o, question)))
	healthpb.RegisterHealthServer(srv, healthcheck.NewServer())
	l := bufconn.Listen(1 << 16)
	go srv.Serve(l)
	defer srv.Stop()

	conn, err := grpc.NewClient("passthrough:///", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	c := healthpb.NewHealthClient(conn)
	_, err = c.Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println("Check:", status.Code(err))
	stream, err := c.Watch(context.Background(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	fmt.Println("Watch:", status.Code(err))
	// Output:
	// Check: OK
	// Watch: Unauthenticated
}
