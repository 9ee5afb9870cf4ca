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
	s, err := server()
	if err != nil {
		t.Fatalf("no Postgres to test on: %v\nInstall it (apt-get install postgresql) or name an empty one in %s.", err, Variable)
	}
	admin, err := pgx.Connect(t.Context(), s.dsn)
	if err != nil {
		t.Fatalf("connect to Postgres: %v", err)
	}
	name := "test_" + strings.ToLower(rand.Text())
	if _, err := admin.Exec(t.Context(), "CREATE SCHEMA "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := admin.Exec(context.Background(), "SET client_min_messages = warning; DROP SCHEMA "+name+" CASCADE")
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

type running struct {
	dsn string
	// input is the shell's that ends the server. It is kept, or it would be
	// closed with the garbage.
	input io.WriteCloser
}

var server = sync.OnceValues(func() (s running, err error) {
	if dsn := os.Getenv(Variable); dsn != "" {
		return running{dsn: dsn}, nil
	}
	bin, err := binaries()
	if err != nil {
		return running{}, err
	}
	dir, err := os.MkdirTemp("", "ostiary-pg")
	if err != nil {
		return running{}, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()

	// Postgres refuses to run as root.
	attr := new(syscall.SysProcAttr)
	if os.Geteuid() == 0 {
		uid, gid, err := somebody()
		if err != nil {
			return running{}, err
		}
		if err := os.Chown(dir, uid, gid); err != nil {
			return running{}, err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	run := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.SysProcAttr = dir, attr
		return cmd
	}
	data := filepath.Join(dir, "data")
	initdb := run(filepath.Join(bin, "initdb"), "-D", data, "-U", "ostiary", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return running{}, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	// It listens on a socket in the folder, so there is no port to collide on.
	// The shell ends it, and removes the folder, when its input ends: when this
	// process does, however that comes about.
	shell := run("/bin/sh", "-c", `dir=$1; shift; "$@" & cat >/dev/null; kill -INT $!; wait; cd /; rm -rf "$dir"`, "sh", dir,
		filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=",
		"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_connections=400")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return running{}, err
	}
	shell.Stdout, shell.Stderr = log, log
	defer log.Close()
	input, err := shell.StdinPipe()
	if err != nil {
		return running{}, err
	}
	if err := shell.Start(); err != nil {
		return running{}, err
	}
	// The folder wins over the host, without which some do not take it for a URL.
	dsn := (&url.URL{Scheme: "postgres", User: url.User("ostiary"), Host: "localhost", Path: "/postgres", RawQuery: url.Values{"host": {dir}}.Encode()}).String()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		conn, err := pgx.Connect(context.Background(), dsn)
		if err == nil {
			return running{dsn: dsn, input: input}, conn.Close(context.Background())
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			return running{}, fmt.Errorf("start: %w\n%s", err, text)
		}
	}
})

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
