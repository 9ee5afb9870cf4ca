// Package store keeps the rows, in SQLite or Postgres.
//
// It implements what authn, audit, directory and policies ask of storage. The tables of users,
// sessions, accounts and keys are Better Auth's, to the column, so that a
// Better Auth application can use the same database at the same time; what is
// ours alone lives in tables of our own, added by migrations that never change
// theirs.
//
// Every change is written together with its event, or neither is. Triggers
// write each change that matters to a principal, to an entity or to which
// policy is in force into the table changes, whoever makes it; [DB.Changes]
// reads them.
//
// # One writer
//
// On SQLite one connection writes and waits for other processes. The function
// handed to UpdateUser or UpdateKey runs inside the transaction on that
// connection: it must not call the store.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"
	"go.opentelemetry.io/otel/trace"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/policies"
)

var (
	_ authn.Store     = (*DB)(nil)
	_ audit.Store     = (*DB)(nil)
	_ directory.Store = (*DB)(nil)
	_ policies.Store  = (*DB)(nil)

	_ policies.ShadowStore = (*DB)(nil)
)

// DB is an open database. Its methods are safe for concurrent use.
type DB struct {
	dialect dialect
	writer  *bun.DB // begins transactions that own the right to write
	reader  *bun.DB // the same as writer if the database has one connection only
	schema  atomic.Pointer[schema]
	packer  atomic.Pointer[packer] // that is not at work
	traced  *traced                // queries that bun is not asked for; nil: they are not

	bell   chan struct{}
	stop   context.CancelFunc
	wait   sync.WaitGroup
	closed atomic.Bool
}

// Pool says how connections are kept. The zero Pool works.
type Pool struct {
	// Connections is how many there are at most. Default: on Postgres four for
	// each core, at least 8; on SQLite, where it is about readers, half of that.
	// With Postgres one more listens.
	Connections int
	Idle        time.Duration // one that is unused this long is closed; default 5m
	Life        time.Duration // one that is this old is closed after use; default: none is
	// StatementTimeout ends what takes longer, on Postgres. Zero leaves it to
	// the server. Migrations have no bound.
	StatementTimeout time.Duration
	// Tracer, if set, makes spans of queries that are part of something traced.
	Tracer trace.Tracer
}

// Open opens the database that dsn names ("sqlite:PATH", "sqlite::memory:",
// "postgres://…") and migrates it. Each "sqlite::memory:" is a database of its
// own. A dsn that names none is an *[authn.InvalidError]. Without a pool the
// zero one counts.
func Open(ctx context.Context, dsn string, pool ...Pool) (*DB, error) {
	db, err := OpenUnmigrated(ctx, dsn, pool...)
	if err != nil {
		return nil, err
	}
	if _, err := db.Migrate(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// OpenUnmigrated is Open without migrating. Until [DB.Migrate] has returned,
// Migrations, Ping and Close are all that works.
func OpenUnmigrated(ctx context.Context, dsn string, pool ...Pool) (*DB, error) {
	var (
		db  *DB
		err error
		p   Pool
	)
	if len(pool) > 0 {
		p = pool[len(pool)-1]
	}
	switch scheme, rest, _ := strings.Cut(dsn, ":"); scheme {
	case "sqlite":
		db, err = openSQLite(ctx, rest, p)
	case "postgres", "postgresql":
		db, err = openPostgres(ctx, dsn, p)
	default:
		// The text may hold a password, so it is not repeated.
		return nil, &authn.InvalidError{Field: "database", Reason: "must be sqlite:PATH, sqlite::memory: or postgres://…"}
	}
	if err != nil {
		return nil, err
	}
	if p.Tracer != nil {
		db.trace(p.Tracer)
	}
	db.bell = make(chan struct{}, 1)
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	db.stop = stop
	if watch := db.dialect.watch; watch != nil {
		db.wait.Go(func() { watch(watching, db) })
	}
	return db, nil
}

// Ping reports whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	var one int
	return db.fail("ping", db.reader.NewSelect().ColumnExpr("1").Scan(ctx, &one))
}

// Close closes the database. What is under way fails as unavailable.
func (db *DB) Close() error {
	if db.closed.Swap(true) {
		return nil
	}
	db.stop()
	db.wait.Wait()
	err := db.reader.Close()
	if db.writer != db.reader {
		err = errors.Join(err, db.writer.Close())
	}
	return err
}

// errNothing ends a transaction that turned out to have nothing to do.
var errNothing = errors.New("nothing to do")

// change runs fn and writes evs in one transaction, then notes the revision
// and rings. If fn answers errNothing, nothing is written and all is well.
func (db *DB) change(ctx context.Context, what string, evs []audit.Event, fn func(ctx context.Context, tx bun.Tx) error) error {
	var revision int64
	err := db.writer.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) (err error) {
		if err := fn(ctx, tx); err != nil {
			return err
		}
		if err := db.insertEvents(ctx, tx, evs); err != nil {
			return err
		}
		revision, err = lastChange(ctx, tx)
		return err
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	if err != nil {
		return db.fail(what, err)
	}
	if r := audit.ReceiptFrom(ctx); r != nil {
		r.Revision = strconv.FormatInt(revision, 10)
	}
	db.ring()
	return nil
}

// A fault is what an error of a driver means.
type fault int

const (
	faultOther       fault = iota
	faultUnavailable       // try again later
	faultDuplicate         // of the column
	faultRequired          // the column must not be NULL
	faultReference         // to a row that does not exist
	faultValue             // that no such column can hold
)

// rejected is an error that the caller of the store made itself; it passes
// through fail untouched.
type rejected struct{ error }

// fail turns an error of bun or a driver into one of the words of authn.
func (db *DB) fail(what string, err error) error {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[rejected](err); ok {
		return r.error
	}
	switch {
	case errors.Is(err, sql.ErrNoRows), errors.Is(err, authn.ErrNotFound):
		return authn.ErrNotFound
	case errors.Is(err, authn.ErrLastAdmin):
		return authn.ErrLastAdmin
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, sql.ErrTxDone), errors.Is(err, sql.ErrConnDone), db.closed.Load():
		return fmt.Errorf("%s: %w: %w", what, authn.ErrUnavailable, err)
	}
	switch kind, column := db.dialect.fault(err); kind {
	case faultUnavailable:
		return fmt.Errorf("%s: %w: %w", what, authn.ErrUnavailable, err)
	case faultDuplicate:
		if s := db.schema.Load(); column == "id" && s != nil && s.ids.kind == idInteger {
			// Somebody chose it while it was on its way here; the next one is free.
			return fmt.Errorf("%s: %w: %w", what, authn.ErrUnavailable, err)
		}
		return &authn.ConflictError{Field: column}
	case faultRequired:
		return &authn.InvalidError{Field: column, Reason: "is required"}
	case faultReference:
		return authn.ErrNotFound
	case faultValue:
		return &authn.InvalidError{Field: "value", Reason: "does not suit its column"}
	}
	return fmt.Errorf("%s: %w", what, err)
}
