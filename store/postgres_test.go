package store

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
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ostiary/ostiary/authn"
)

// OSTIARY_TEST_POSTGRES names an empty Postgres to test on. Without it the
// tests run their own.
const postgresVariable = "OSTIARY_TEST_POSTGRES"

var stopPostgres = func() {}

func TestMain(m *testing.M) {
	code := m.Run()
	stopPostgres()
	os.Exit(code)
}

// postgresSchema makes a schema of its own for a test: a database each would
// take far longer.
func postgresSchema(t *testing.T) string {
	t.Helper()
	dsn, err := postgresServer()
	if err != nil {
		t.Fatalf("no Postgres to test on: %v\nInstall it (apt-get install postgresql) or name an empty one in %s.", err, postgresVariable)
	}
	admin, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatalf("connect to Postgres: %v", err)
	}
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), serial.Add(1))
	if _, err := admin.Exec(t.Context(), "CREATE SCHEMA "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := admin.Exec(context.Background(), "SET client_min_messages = warning; DROP SCHEMA "+name+" CASCADE")
		if err := errors.Join(err, admin.Close(context.Background())); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(dsn)
	must(t, err)
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return u.String()
}

var postgresServer = sync.OnceValues(func() (dsn string, err error) {
	if dsn := os.Getenv(postgresVariable); dsn != "" {
		return dsn, nil
	}
	bin, err := postgresBinaries()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "ostiary-pg")
	if err != nil {
		return "", err
	}
	stopPostgres = func() { os.RemoveAll(dir) }

	// Postgres refuses to run as root.
	attr := new(syscall.SysProcAttr)
	if os.Geteuid() == 0 {
		uid, gid, err := somebody()
		if err != nil {
			return "", err
		}
		if err := os.Chown(dir, uid, gid); err != nil {
			return "", err
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
		return "", fmt.Errorf("initdb: %w\n%s", err, out)
	}
	// It listens on a socket in the folder, so there is no port to collide on.
	// The shell ends it when its input does: even if this process is killed.
	server := run("/bin/sh", "-c", `"$@" & cat >/dev/null; kill -INT $!; wait`, "sh",
		filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=",
		"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_connections=400")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return "", err
	}
	server.Stdout, server.Stderr = log, log
	var input io.WriteCloser
	if input, err = server.StdinPipe(); err != nil {
		return "", err
	}
	if err := server.Start(); err != nil {
		return "", err
	}
	stopPostgres = func() {
		input.Close()
		_ = server.Wait()
		log.Close()
		os.RemoveAll(dir)
	}
	dsn = (&url.URL{Scheme: "postgres", User: url.User("ostiary"), Path: "/postgres", RawQuery: url.Values{"host": {dir}}.Encode()}).String()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		conn, err := pgx.Connect(context.Background(), dsn)
		if err == nil {
			return dsn, conn.Close(context.Background())
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			return "", fmt.Errorf("start: %w\n%s", err, text)
		}
	}
})

// postgresBinaries finds the folder with initdb and postgres: the newest of
// Debian's, or that of the path.
func postgresBinaries() (string, error) {
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

// Ids that the database makes are not ours to choose, so such a database is
// left alone.
func TestPostgresWithOtherIDsIsRefused(t *testing.T) {
	for _, kind := range []string{"uuid DEFAULT gen_random_uuid()", "integer GENERATED BY DEFAULT AS IDENTITY"} {
		db, err := OpenUnmigrated(t.Context(), postgresSchema(t))
		must(t, err)
		defer db.Close()
		execSQL(t, db, `CREATE TABLE "user" ("id" `+kind+` PRIMARY KEY, "name" text, "email" text)`)
		_, err = db.Migrate(t.Context())
		wantInvalid(t, kind, err)
	}
}

func TestPostgresConnectionsComeBack(t *testing.T) {
	db := open(t, postgresSchema(t))
	mustCreateUser(t, db, someone("u1"))
	s := mustCreateSession(t, db, sessionOf("u1", "s1"))
	for rings(db, 2*tick) {
	}
	// The listener, by its last statement.
	_, err := db.writer.DB.ExecContext(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity, (SELECT 'ostiary_' || current_schema() AS channel) AS c
		WHERE pid <> pg_backend_pid() AND (query LIKE '%' || channel || '%')`)
	must(t, err)
	if !rings(db, 20*tick) {
		t.Fatal("the listener did not come back")
	}
	for rings(db, 2*tick) {
	}
	db.writer.DB.SetMaxIdleConns(0) // ends idle ones
	if _, _, _, err := db.SessionByToken(t.Context(), s.Token); err != nil {
		t.Errorf("prepared statement on a new connection: %v", err)
	}
	execSQL(t, db, `UPDATE "user" SET "name" = 'x'`)
	if !rings(db, 20*tick) {
		t.Error("did not ring after the listener came back")
	}
}

func TestPostgresThatIsAwayIsUnavailable(t *testing.T) {
	for _, dsn := range []string{
		"postgres://u:geheim@/x?host=" + url.QueryEscape(t.TempDir()),
		"postgres://u:geheim@127.0.0.1:1/x",
	} {
		_, err := Open(t.Context(), dsn)
		wantErr(t, dsn, err, authn.ErrUnavailable)
		if strings.Contains(err.Error(), "geheim") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
	_, err := Open(t.Context(), "postgres://u:geheim@h:port/x")
	wantInvalid(t, "no address", err)
	if strings.Contains(err.Error(), "geheim") {
		t.Errorf("the error tells the password: %v", err)
	}
}
