package main

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ostiary/ostiary/guard"
)

// documents is what protoc makes of
//
//	service Documents {
//		rpc Read(google.protobuf.StringValue) returns (google.protobuf.StringValue);
//		rpc Watch(google.protobuf.StringValue) returns (stream google.protobuf.StringValue);
//		rpc Forgotten(google.protobuf.StringValue) returns (google.protobuf.StringValue);
//	}
//
// by hand, so that the example needs no protoc.
var documents = grpc.ServiceDesc{
	ServiceName: "library.Documents",
	Methods:     []grpc.MethodDesc{{MethodName: "Read", Handler: unary("Read", read)}, {MethodName: "Forgotten", Handler: unary("Forgotten", read)}},
	Streams:     []grpc.StreamDesc{{StreamName: "Watch", ServerStreams: true, Handler: watch}},
}

func read(ctx context.Context, id *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	return wrapperspb.String(id.GetValue() + ", read by " + guard.PrincipalFrom(ctx).Subject().Identity().User.Name), nil
}

func watch(_ any, s grpc.ServerStream) error {
	return s.SendMsg(wrapperspb.String("seen by " + guard.PrincipalFrom(s.Context()).Subject().Identity().User.Name))
}

func unary(name string, do func(context.Context, *wrapperspb.StringValue) (*wrapperspb.StringValue, error)) grpc.MethodHandler {
	return func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.StringValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		return intercept(ctx, in, &grpc.UnaryServerInfo{FullMethod: "/library.Documents/" + name}, func(ctx context.Context, in any) (any, error) {
			return do(ctx, in.(*wrapperspb.StringValue))
		})
	}
}
