// Package store keeps the rows, in SQLite or Postgres.
//
// It implements what authn and audit ask of storage. The tables of users,
// sessions, accounts and keys are Better Auth's, to the column, so that a
// Better Auth application can use the same database at the same time; what is
// ours alone lives in tables of our own, added by migrations that never change
// theirs.
//
// Triggers write each change that matters to a principal into the table
// changes, whoever makes it. [DB.Changes] reads them.
package store

import (
	"context"
	"errors"
	"time"
)

// DB is an open, migrated database.
type DB struct{}

// Open opens the database that dsn names ("sqlite:PATH", "sqlite::memory:")
// and migrates it.
func Open(ctx context.Context, dsn string) (*DB, error) { return nil, errors.New("unimplemented") }

// OpenUnmigrated is Open without migrating.
func OpenUnmigrated(ctx context.Context, dsn string) (*DB, error) {
	return nil, errors.New("unimplemented")
}

// Migration is a step of the schema.
type Migration struct {
	Name    string
	Applied *time.Time // nil: pending
}

// Migrations lists all steps in order.
func (db *DB) Migrations(ctx context.Context) ([]Migration, error) { return nil, nil }

// Migrate applies what is pending and returns its names.
func (db *DB) Migrate(ctx context.Context) ([]string, error) { return nil, nil }

// Change is a row that changed.
type Change struct {
	Seq  int64
	Kind string // "user", "session", "key"
	ID   string
	At   time.Time
}

// Changes returns the changes after seq, oldest first, at most limit.
func (db *DB) Changes(ctx context.Context, after int64, limit int) ([]Change, error) { return nil, nil }

// LastChange returns the newest sequence number, 0 if there is none.
func (db *DB) LastChange(ctx context.Context) (int64, error) { return 0, nil }

// PruneChanges removes changes older than before.
func (db *DB) PruneChanges(ctx context.Context, before time.Time) (int, error) { return 0, nil }

// Bell returns a channel that receives after something was committed, here or
// (as soon as it is noticed) by another process. It carries no data.
func (db *DB) Bell() <-chan struct{} { return nil }

// Ping reports whether the database answers.
func (db *DB) Ping(ctx context.Context) error { return nil }

// Close closes the database.
func (db *DB) Close() error { return nil }
