package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ostiary": main})
}

// The scripts in testdata are the manual of the command. They use, beside
// what testscript offers:
//
//	exits STATUS COMMAND…   the command ends with this status
//	serve ARGUMENT…         starts `ostiary serve` on a free port, and waits
//	                        until it is ready; it writes to serve.out and
//	                        serve.err, and $URL is where it is
//	stop                    stops it with SIGTERM; it has to end with status 0
//	depot DIR               serves the files of a folder; $DEPOT is where
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Values[service{}] = &running{}
			env.Setenv("GORACE", "atexit_sleep_ms=0") // or each command ends a second late
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
			"serve": serveInBackground,
			"stop":  stop,
			"depot": func(ts *testscript.TestScript, _ bool, args []string) {
				d := httptest.NewServer(http.FileServer(http.Dir(ts.MkAbs(args[0]))))
				ts.Defer(d.Close)
				ts.Setenv("DEPOT", d.URL)
			},
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// running is the service that a script has started.
type running struct {
	cmd   *exec.Cmd // nil: none
	ended chan error
}

// service is where a script has its *running.
type service struct{}

var addressOf = regexp.MustCompile(`msg=listening address=(\S+)`)

func serveInBackground(ts *testscript.TestScript, neg bool, args []string) {
	r := ts.Value(service{}).(*running)
	if r.cmd != nil {
		ts.Fatalf("it is running")
	}
	path, err := exec.LookPath("ostiary")
	ts.Check(err)
	// Not bound to the test's context: it is stopped, not killed.
	cmd := exec.CommandContext(context.Background(), path, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "TMPDIR=" + ts.Getenv("TMPDIR")}
	out, err := os.Create(ts.MkAbs("serve.out"))
	ts.Check(err)
	defer out.Close()
	log, err := os.Create(ts.MkAbs("serve.err"))
	ts.Check(err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = out, log
	ts.Check(cmd.Start())
	r.cmd, r.ended = cmd, make(chan error, 1)
	go func() { r.ended <- cmd.Wait() }()
	ts.Defer(func() {
		if r.cmd != nil {
			_ = r.cmd.Process.Kill()
			<-r.ended
			r.cmd = nil
		}
	})

	for until := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if at := addressOf.FindStringSubmatch(ts.ReadFile("serve.err")); at != nil {
			ts.Setenv("URL", "http://"+at[1])
			resp, err := http.Get("http://" + at[1] + "/readyz")
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return
				}
			}
		}
		select {
		case err := <-r.ended:
			r.ended <- err
			ts.Fatalf("the service ended: %v\n%s", err, ts.ReadFile("serve.err"))
		default:
		}
		if time.Now().After(until) {
			ts.Fatalf("the service did not become ready\n%s", ts.ReadFile("serve.err"))
		}
	}
}

func stop(ts *testscript.TestScript, neg bool, args []string) {
	r := ts.Value(service{}).(*running)
	if r.cmd == nil {
		ts.Fatalf("nothing is running")
	}
	cmd := r.cmd
	r.cmd = nil
	ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	select {
	case err := <-r.ended:
		if err != nil {
			ts.Fatalf("after SIGTERM: %v\n%s", err, ts.ReadFile("serve.err"))
		}
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		ts.Fatalf("it did not stop\n%s", ts.ReadFile("serve.err"))
	}
}
