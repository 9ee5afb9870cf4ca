package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// servers are the processes that are compared.
type servers struct {
	ctx     context.Context
	dir     string
	house   string // where Ostiary's module is
	ostiary string // its binary
	load    load
	running []*exec.Cmd
	ours    []*instance
}

// An instance is a service of ours that runs.
type instance struct {
	name, address, metrics string
	cmd                    *exec.Cmd
	key                    string // of the person who asks
}

// build builds the binary that is measured: what is shipped.
func (s *servers) build() error {
	house, err := s.output(nil, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/ostiary/ostiary")
	if err != nil {
		return err
	}
	s.house, s.ostiary = strings.TrimSpace(house), filepath.Join(s.dir, "ostiary")
	return s.run("go", "build", "-C", s.house, "-o", s.ostiary, "./cmd/ostiary")
}

// instance starts a service of ours with settings, on a database of its own, with
// the person of q in it and their key.
func (s *servers) instance(name string, q *question, settings ...string) (*instance, error) {
	rules := filepath.Join(s.dir, name+"-rules")
	if err := os.CopyFS(rules, bundle()); err != nil {
		return nil, err
	}
	i := &instance{name: name}
	var err error
	if i.metrics, err = free(); err != nil {
		return nil, err
	}
	env := append([]string{"OSTIARY_DATABASE=sqlite:" + filepath.Join(s.dir, name+".db"), "OSTIARY_POLICIES=" + rules,
		"OSTIARY_METRICS_LISTEN=" + i.metrics, "OSTIARY_LOG_LEVEL=error"}, settings...)
	if err := s.runWith(env, s.ostiary, "user", "create", "--email", q.who.User.Email, "--role", strings.Join(q.who.Roles, ",")); err != nil {
		return nil, err
	}
	secret, err := s.output(env, s.ostiary, "key", "create", "--user", q.who.User.Email, "--name", "bench", "--permissions", encoded(q.who.Key.Permissions))
	if err != nil {
		return nil, err
	}
	i.key = strings.TrimSpace(secret)
	if i.address, i.cmd, err = s.serve(env, "/readyz", func(address string) []string { return []string{s.ostiary, "serve", "--listen", address} }); err != nil {
		return nil, err
	}
	s.ours = append(s.ours, i)
	return i, nil
}

// memory returns how much of the instance is in memory, in bytes.
func (i *instance) memory() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", i.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return number(status, `(?m)^VmRSS:\s+(\d+) kB`, 1024)
}

// lost returns how many records of decisions the instance could not keep.
func (i *instance) lost() (int64, error) {
	resp, err := http.Get("http://" + i.metrics + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		return 0, err
	}
	return number(text.Bytes(), `(?m)^ostiary_audit_records_lost_total (\S+)$`, 1)
}

// number reads what pattern finds in text, which is perhaps written as 1e+06.
func number(text []byte, pattern string, unit int64) (int64, error) {
	found := regexp.MustCompile(pattern).FindSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("nothing there like %s", pattern)
	}
	n, err := strconv.ParseFloat(string(found[1]), 64)
	return int64(n) * unit, err
}

func (s *servers) run(command ...string) error { return s.runWith(nil, command...) }

func (s *servers) runWith(env []string, command ...string) error {
	_, err := s.output(env, command...)
	return err
}

func (s *servers) output(env []string, command ...string) (string, error) {
	cmd := exec.CommandContext(s.ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var failure bytes.Buffer
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, failure.Bytes())
	}
	return string(out), nil
}

// free returns an address that nothing listens on.
func free() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// serve starts a server on an address that is free, and waits until it is ready.
func (s *servers) serve(env []string, ready string, command func(address string) []string) (string, *exec.Cmd, error) {
	address, err := free()
	if err != nil {
		return "", nil, err
	}
	args := command(address)
	cmd := exec.CommandContext(s.ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	s.running = append(s.running, cmd)
	return address, cmd, answers("http://"+address+ready, 20*time.Millisecond)
}

// answers waits until url answers 200, and looks each time that every has passed.
func answers(url string, every time.Duration) error {
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(every) {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if time.Now().After(until) {
			return fmt.Errorf("%s is not ready: %v", url, err)
		}
	}
}

func (s *servers) stop() error {
	var errs []error
	for _, cmd := range s.running {
		errs = append(errs, cmd.Process.Signal(syscall.SIGTERM))
	}
	for _, cmd := range s.running {
		_ = cmd.Wait() // how it ends is not what is measured
	}
	return errors.Join(errs...)
}
