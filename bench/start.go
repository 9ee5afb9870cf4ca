package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// measureStart writes how long the binary takes from being executed to being
// ready, with SQLite and the built-in rules: on a file that is not there yet, and
// on the one that this leaves.
func measureStart(ctx context.Context, out io.Writer, dir string, passes int) (err error) {
	work, err := os.MkdirTemp("", "ostiary-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	s := &servers{ctx: ctx, dir: work}
	if err := s.build(); err != nil {
		return err
	}
	raw, err := os.Create(filepath.Join(dir, "start.txt"))
	if err != nil {
		return err
	}
	defer raw.Close()
	names := []string{"first", "again"}
	took := map[string][]float64{}
	for pass := range passes {
		database := "sqlite:" + filepath.Join(work, fmt.Sprintf("%d.db", pass))
		for _, name := range names {
			t, err := s.startOnce(database)
			if err != nil {
				return err
			}
			took[name] = append(took[name], float64(t.Nanoseconds()))
			fmt.Fprintf(raw, "BenchmarkStart/%s\t1\t%d ns/op\n", name, t.Nanoseconds())
		}
	}
	fmt.Fprintf(out, "\nfrom start to ready, SQLite and the built-in rules, %d passes\n\n| start | median | quartiles |\n| --- | --- | --- |\n", passes)
	for _, name := range names {
		low, mid, high := quartiles(took[name])
		fmt.Fprintf(out, "| %s | %s | %s to %s |\n", name, nanoseconds(mid), nanoseconds(low), nanoseconds(high))
	}
	return raw.Close()
}

func (s *servers) startOnce(database string) (took time.Duration, err error) {
	address, err := free()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(s.ctx, s.ostiary, "serve", "--listen", address)
	cmd.Env = append(os.Environ(), "OSTIARY_DATABASE="+database, "OSTIARY_LOG_LEVEL=error")
	cmd.Stderr = os.Stderr
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	err = answers("http://"+address+"/readyz", time.Millisecond)
	took = time.Since(began)
	err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM))
	return took, errors.Join(err, cmd.Wait())
}

// measureMemory drives an instance that records its decisions for so long, and
// writes how much of it is in memory on the way: what a leak would make grow.
func measureMemory(ctx context.Context, out io.Writer, l load, long time.Duration) (err error) {
	work, err := os.MkdirTemp("", "ostiary-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	s := &servers{ctx: ctx, dir: work, load: l}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.build(); err != nil {
		return err
	}
	q := named(keyed)
	i, err := s.instance(ours, q)
	if err != nil {
		return err
	}
	t := target{name: i.name, address: i.address, request: i.ask(body(q)), has: `"allow":true`, asks: 1,
		other: string(i.ask(body(named("key-not-granted")))), otherHas: `"allow":false`}
	if err := t.verify(ctx); err != nil {
		return err
	}
	const steps = 10
	fmt.Fprintf(out, "\none instance under load for %s, %d connections, all decisions recorded\n\n| after | requests/s | in memory | records lost |\n| --- | --- | --- | --- |\n", long, l.connections)
	for step := range steps {
		r, err := t.drive(ctx, l.connections, long/steps)
		if err != nil {
			return err
		}
		memory, err := i.memory()
		if err != nil {
			return err
		}
		lost, err := i.lost()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "| %s | %.0f | %d MiB | %d |\n", long/steps*time.Duration(step+1), r.rate(), memory>>20, lost)
	}
	return nil
}
