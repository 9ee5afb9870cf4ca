// Command grpc is a gRPC service whose methods Ostiary guards: people read the
// documents that are theirs, one by one or as a stream.
package main

import (
	"context"
	"embed"
	"io/fs"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/access"
	ostiarygrpc "github.com/ostiary/ostiary/contrib/grpc"
	"github.com/ostiary/ostiary/guard"
)

//go:embed policies
var files embed.FS

func main() {
	rules, err := fs.Sub(files, "policies")
	if err != nil {
		log.Fatal(err)
	}
	o, err := ostiary.Open(context.Background(), ostiary.Options{Database: "sqlite:grpc.db", Policies: rules})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	l, err := net.Listen("tcp", "127.0.0.1:8082")
	if err != nil {
		log.Print(err)
		return
	}
	log.Print(server(o).Serve(l))
}

// server takes a [guard.Service], so that a client of a remote service would do.
func server(s guard.Service) *grpc.Server {
	g := grpc.NewServer(grpc.UnaryInterceptor(ostiarygrpc.Unary(s, question)), grpc.StreamInterceptor(ostiarygrpc.Stream(s, question)))
	g.RegisterService(&documents, nil)
	return g
}

// owners stands for the program's own database.
var owners = map[string]string{"welcome": "ann@example.com"}

// question is what a call has to be allowed: of Read, to read the document that its
// message names. A stream has no message when it begins, so Watch is asked about
// as a whole. A method that is forgotten here names no resource and is refused.
func question(_ context.Context, method string, message any) (string, access.Resource) {
	switch method {
	case "/library.Documents/Read":
		id := message.(*wrapperspb.StringValue).GetValue()
		return "read", access.Resource{Type: "document", ID: id, Properties: map[string]any{"owner": owners[id]}}
	case "/library.Documents/Watch":
		return "watch", access.Resource{Type: "document"}
	}
	return "call", access.Resource{}
}
