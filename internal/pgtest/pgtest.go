// Package pgtest runs a Postgres of its own for tests.
//
// It listens on a socket in a temporary folder, so there is no port to collide
// on, and ends with the process that started it, however that ends.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Variable names an empty Postgres to test on instead of one of our own.
const Variable = "OSTIARY_TEST_POSTGRES"

// Server is a running Postgres.
type Server struct {
	DSN string

	dir, bin string
	attr     *syscall.SysProcAttr
	stop     func()
}

// Shared returns the Postgres that the environment names, or starts one.
func Shared() (*Server, error) {
	if dsn := os.Getenv(Variable); dsn != "" {
		return &Server{DSN: dsn, stop: func() {}}, nil
	}
	return Start()
}

// Start makes an empty Postgres and starts it.
func Start() (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, fmt.Errorf("%w\nInstall Postgres (apt-get install postgresql) or name an empty one in %s", err, Variable)
	}
	dir, err := os.MkdirTemp("", "ostiary-pg")
	if err != nil {
		return nil, err
	}
	s := &Server{
		dir: dir, bin: bin, attr: new(syscall.SysProcAttr), stop: func() {},
		DSN: (&url.URL{Scheme: "postgres", User: url.User("ostiary"), Path: "/postgres", RawQuery: url.Values{"host": {dir}}.Encode()}).String(),
	}
	if err := s.init(); err != nil {
		s.Close()
		return nil, err
	}
	if err := s.Up(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) init() error {
	// Postgres refuses to run as root.
	if os.Geteuid() == 0 {
		uid, gid, err := somebody()
		if err != nil {
			return err
		}
		if err := os.Chown(s.dir, uid, gid); err != nil {
			return err
		}
		s.attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	initdb := s.command(filepath.Join(s.bin, "initdb"), "-D", s.data(), "-U", "ostiary", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.SysProcAttr = s.dir, s.attr
	return cmd
}

// Up starts a server that is down.
func (s *Server) Up() error {
	// The shell ends it when its input does: even if this process is killed.
	server := s.command("/bin/sh", "-c", `"$@" & cat >/dev/null; kill -INT $!; wait`, "sh",
		filepath.Join(s.bin, "postgres"), "-D", s.data(), "-k", s.dir, "-c", "listen_addresses=",
		"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_connections=400")
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	server.Stdout, server.Stderr = log, log
	var input io.WriteCloser
	if input, err = server.StdinPipe(); err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	s.stop = func() {
		input.Close()
		_ = server.Wait()
		log.Close()
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		conn, err := pgx.Connect(context.Background(), s.DSN)
		if err == nil {
			return conn.Close(context.Background())
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("start: %w\n%s", err, text)
		}
	}
}

// Down stops the server; Up starts it again with what was committed.
func (s *Server) Down() {
	s.stop()
	s.stop = func() {}
}

// Close stops the server for good.
func (s *Server) Close() {
	s.Down()
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
}

var schemas atomic.Int64

// Schema makes a schema of its own for a test and returns its DSN: a database
// each would take far longer.
func (s *Server) Schema(t testing.TB) string {
	t.Helper()
	admin, err := pgx.Connect(t.Context(), s.DSN)
	if err != nil {
		t.Fatalf("connect to Postgres: %v", err)
	}
	defer admin.Close(context.Background())
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), schemas.Add(1))
	if _, err := admin.Exec(t.Context(), "CREATE SCHEMA "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		admin, err := pgx.Connect(context.Background(), s.DSN)
		if err != nil {
			t.Error(err)
			return
		}
		_, err = admin.Exec(context.Background(), "SET client_min_messages = warning; DROP SCHEMA "+name+" CASCADE")
		if err := errors.Join(err, admin.Close(context.Background())); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(s.DSN)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return u.String()
}

// binaries finds the folder with initdb and postgres: the newest of
// Debian's, or that of the path.
func binaries() (string, error) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(dirs, func(a, b string) int {
		version := func(s string) int { n, _ := strconv.Atoi(strings.Split(s, "/")[4]); return n }
		return version(b) - version(a)
	})
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err == nil {
			return dir, nil
		}
	}
	path, err := exec.LookPath("initdb")
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	return filepath.Dir(path), err
}

// somebody is a user without rights.
func somebody() (uid, gid int, err error) {
	var u *user.User
	for _, name := range []string{"postgres", "nobody"} {
		if u, err = user.Lookup(name); err == nil {
			break
		}
	}
	if err != nil {
		return 0, 0, err
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}
