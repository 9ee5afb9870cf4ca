package store

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/internal/pgtest"
)

func TestPostgresConnectionsComeBack(t *testing.T) {
	db := open(t, pgtest.Schema(t))
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

func TestStatementThatTakesTooLongIsEnded(t *testing.T) {
	dsn := pgtest.Schema(t)
	open(t, dsn)
	db, err := Open(t.Context(), dsn, Pool{Connections: 2, StatementTimeout: 100 * time.Millisecond})
	must(t, err)
	defer db.Close()
	if n := db.reader.Stats().MaxOpenConnections; n != 2 {
		t.Errorf("connections: got %d, want 2", n)
	}
	_, err = db.reader.NewRaw("SELECT pg_sleep(10)").Exec(t.Context())
	wantErr(t, "a long statement", db.fail("sleep", err), authn.ErrUnavailable)
	if _, err := db.User(t.Context(), "u"); !errors.Is(err, authn.ErrNotFound) {
		t.Errorf("afterwards: %v", err)
	}
}
