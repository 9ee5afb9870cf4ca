package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/server"
)

// writeProfile has a service in this process do what services do all day for so
// long, and writes where its time went to default.pgo: beside the main package, the
// compiler makes what is called most the fastest.
func writeProfile(ctx context.Context, out io.Writer, dir string, l load, long time.Duration) (err error) {
	work, err := os.MkdirTemp("", "ostiary-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	o, err := ostiary.Open(ctx, ostiary.Options{Database: "sqlite:" + filepath.Join(work, "bench.db"), Policies: bundle()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	q, no := named(keyed), named("key-not-granted")
	credential, err := enrol(ctx, o, q)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	service := server.HTTPServer("", o.Handler(), slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- service.Serve(listener) }()
	defer func() {
		err = errors.Join(err, service.Close())
		if serving := <-ended; !errors.Is(serving, http.ErrServerClosed) {
			err = errors.Join(err, serving)
		}
	}()
	i := &instance{address: listener.Addr().String(), key: credential.Secret.Reveal()}
	targets := []target{
		{name: "allowed", request: i.ask(body(q)), has: `"allow":true`, asks: 1},
		{name: "denied", request: i.ask(body(no)), has: `"allow":false`, asks: 1},
		{name: "batch", request: i.ask(bodies(q)), has: `"allow":true`, asks: batch},
		{name: "session", request: get(i.address, "/api/auth/get-session", "X-Api-Key: "+i.key), has: `"session"`, asks: 1},
	}
	file, err := os.Create(filepath.Join(dir, "default.pgo"))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := pprof.StartCPUProfile(file); err != nil {
		return err
	}
	for _, t := range targets {
		t.address = i.address
		r, err := t.drive(ctx, l.connections, long/time.Duration(len(targets)))
		if err != nil {
			pprof.StopCPUProfile()
			return fmt.Errorf("%s: %w", t.name, err)
		}
		fmt.Fprintf(out, "%s: %.0f requests/s\n", t.name, r.rate())
	}
	pprof.StopCPUProfile()
	return file.Close()
}
