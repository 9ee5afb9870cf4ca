package main

import (
	"io/fs"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/ostiarytest"
)

func TestMethodsAreGuarded(t *testing.T) {
	rules, err := fs.Sub(files, "policies")
	if err != nil {
		t.Fatal(err)
	}
	s := ostiarytest.New(t, ostiarytest.Policies(rules))
	g := server(s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go g.Serve(l)
	t.Cleanup(g.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })

	check := func(who ostiarytest.Caller, method, id string, want codes.Code) {
		t.Helper()
		ctx := t.Context()
		if key := s.Request(who, "GET", "/", nil).Header.Get("X-Api-Key"); key != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "x-api-key", key)
		}
		out, err := new(wrapperspb.StringValue), error(nil)
		if method == "Watch" {
			var in grpc.ClientStream
			if in, err = conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/library.Documents/Watch"); err == nil {
				err = in.RecvMsg(out)
			}
		} else {
			err = conn.Invoke(ctx, "/library.Documents/"+method, wrapperspb.String(id), out)
		}
		if got := status.Code(err); got != want || (want == codes.OK) != (out.GetValue() != "") {
			t.Errorf("%s: %s %s: %v %q, want %v", who, method, id, err, out.GetValue(), want)
		}
	}
	all := access.Permissions{"*": {"*"}}
	ann, bob := s.User("Ann", "watcher"), s.User("Bob")
	check(ann.Key(all), "Read", "welcome", codes.OK)
	check(ann.Key(nil), "Read", "welcome", codes.PermissionDenied)
	check(bob.Key(all), "Read", "welcome", codes.PermissionDenied)
	check(ann.Key(all), "Read", "none", codes.PermissionDenied)
	check(s.Nobody(), "Read", "welcome", codes.Unauthenticated)
	check(ann.Key(all), "Watch", "", codes.OK)
	check(bob.Key(all), "Watch", "", codes.PermissionDenied)
	check(s.Nobody(), "Watch", "", codes.Unauthenticated)
	check(ann.Key(all), "Forgotten", "welcome", codes.Internal)

	key := ann.Key(all)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(key, "Read", "welcome", codes.Unavailable)
	check(key, "Watch", "", codes.Unavailable)
}
