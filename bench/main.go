// Command bench measures Ostiary beside other engines and servers: on the same
// questions, with the same answers, in the same run.
//
//	go run . engines    one decision in process
//	go run . http       servers, each driven by the same load
//	go run . start      from the start of the binary until it is ready
//	go run . memory     one instance under load for long
//	go run . profile    where time goes, for the compiler: default.pgo
//	go run . curves     how cost grows with keys, roles, rules, entities, instances
//
// What it prints are tables of medians and of ratios within a pass; beside them it
// writes files for benchstat.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"
)

func main() {
	passes := flag.Int("passes", 8, "how often each is measured, alternating")
	dir := flag.String("out", ".", "folder for the files that are written")
	conns := flag.Int("connections", 16, "http: connections at once")
	round := flag.Duration("round", 1500*time.Millisecond, "http: how long a server is driven in a pass")
	postgres := flag.String("postgres", "", "http: an empty database, as a URL with search_path; then Better Auth is measured too, with Node and the packages of e2e")
	cerbos := flag.String("cerbos", "", "http: Cerbos' binary; then it is measured too")
	long := flag.Duration("for", time.Minute, "memory, profile: how long")
	most := flag.Int("most", 100_000, "curves: how many keys and entities there are at most")
	listen := flag.String("listen", "", "floor: address to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	switch what := flag.Arg(0); {
	case *passes < 1:
		err = fmt.Errorf("-passes must be at least 1")
	case what == "engines":
		fmt.Printf("%s, %s/%s, %d cores\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0))
		err = measureEngines(os.Stdout, *dir, *passes)
	case what == "http":
		fmt.Printf("%s, %s/%s, %d cores\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0))
		err = measureServers(ctx, os.Stdout, *dir, load{passes: *passes, connections: *conns, round: *round, postgres: *postgres, cerbos: *cerbos})
	case what == "start":
		err = measureStart(ctx, os.Stdout, *dir, *passes)
	case what == "memory":
		err = measureMemory(ctx, os.Stdout, load{connections: *conns}, *long)
	case what == "profile":
		err = writeProfile(ctx, os.Stdout, *dir, load{connections: *conns}, *long)
	case what == "curves":
		err = measureCurves(ctx, os.Stdout, *passes, *most)
	case what == "floor":
		err = serveFloor(*listen)
	default:
		err = fmt.Errorf("one of engines, http, start, memory, profile and curves")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
