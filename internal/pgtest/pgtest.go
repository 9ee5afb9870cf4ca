// Package pgtest provides a Postgres to tests: the one that
// OSTIARY_TEST_POSTGRES names, or one of its own in a temporary folder, which
// is gone when the test's process is.
package pgtest

import (
	"context"
	"crypto/rand"
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
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Variable names an empty Postgres to test on.
const Variable = "OSTIARY_TEST_POSTGRES"

// Schema makes a schema of its own for a test, since a database each would
// take far longer, and returns a URL that leads there.
func Schema(t testing.TB) string {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatalf("no Postgres to test on: %v\nInstall it (apt-get install postgresql) or name an empty one in %s.", err, Variable)
	}
	return s.Schema(t)
}

var shared = sync.OnceValues(func() (*Server, error) {
	if dsn := os.Getenv(Variable); dsn != "" {
		return &Server{dsn: dsn}, nil
	}
	return Start()
})

// Server is a Postgres of a test's own, which it can stop and start.
type Server struct {
	dsn      string
	dir, bin string
	attr     *syscall.SysProcAttr
	stop     func()
}

// Start makes an empty Postgres and starts it.
func Start() (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ostiary-pg")
	if err != nil {
		return nil, err
	}
	s := &Server{
		dir: dir, bin: bin, attr: new(syscall.SysProcAttr), stop: func() {},
		// The folder wins over the host, without which some do not take it for a URL.
		dsn: (&url.URL{Scheme: "postgres", User: url.User("ostiary"), Host: "localhost", Path: "/postgres", RawQuery: url.Values{"host": {dir}}.Encode()}).String(),
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
	if err := os.RemoveAll(s.kept()); err != nil {
		return err
	}
	// It listens on a socket in the folder, so there is no port to collide on.
	// The shell ends it, and removes the folder, when its input ends: when this
	// process does, however that comes about.
	server := s.command("/bin/sh", "-c", `dir=$1 kept=$2; shift 2; "$@" & cat >/dev/null; kill -INT $!; wait; [ -e "$kept" ] || { cd /; rm -rf "$dir"; }`, "sh", s.dir, s.kept(),
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
		conn, err := pgx.Connect(context.Background(), s.dsn)
		if err == nil {
			return conn.Close(context.Background())
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("start: %w\n%s", err, text)
		}
	}
}

// kept is a file that says that the server will be started again.
func (s *Server) kept() string { return filepath.Join(s.dir, "kept") }

// Down stops the server; Up starts it again with what was committed.
func (s *Server) Down() error {
	err := os.WriteFile(s.kept(), nil, 0o600)
	s.stop()
	s.stop = func() {}
	return err
}

// Close stops the server for good.
func (s *Server) Close() error {
	s.stop()
	return os.RemoveAll(s.dir)
}

// Schema is the function Schema on s.
func (s *Server) Schema(t testing.TB) string {
	t.Helper()
	admin, err := pgx.Connect(t.Context(), s.dsn)
	if err != nil {
		t.Fatalf("connect to Postgres: %v", err)
	}
	defer admin.Close(context.Background())
	name := "test_" + strings.ToLower(rand.Text())
	if _, err := admin.Exec(t.Context(), "CREATE SCHEMA "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		admin, err := pgx.Connect(context.Background(), s.dsn)
		if err != nil {
			t.Error(err)
			return
		}
		_, err = admin.Exec(context.Background(), "SET client_min_messages = warning; DROP SCHEMA "+name+" CASCADE")
		if err := errors.Join(err, admin.Close(context.Background())); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(s.dsn)
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
