package store

import (
	"context"

	"github.com/uptrace/bun"
)

// dialect is everything in which the two databases differ.
type dialect struct {
	name string

	// Types of columns in our DDL.
	boolType, timeType, bytesType, sequenceType string
	nowDefault                                  string // with a space before it

	// idKinds are the types that ids may have besides texts.
	idKinds map[string]idKind
	// idMade makes the database fill in ids that are not given.
	idMade map[idKind]string
	// makes reports whether next works for a table with integer ids; nil: always.
	makes func(ctx context.Context, conn bun.IDB, table string) (bool, error)
	// next is an integer id that no row of the table has had.
	next func(ctx context.Context, conn bun.IDB, table string) (string, error)
	// idOf is an expression for the id that expr, an expression, spells: NULL
	// if none. It finds by index.
	idOf func(kind idKind, expr string) string
	// propertiesType is of the column properties, which holds a JSON object.
	propertiesType string
	// bytewise is a collation that compares texts byte by byte.
	bytewise string

	// parameter is the first parameter of a prepared statement.
	parameter string
	// binary is what comes before arguments that are sent beside a statement, because
	// in its text they would be twice as long.
	binary []any
	// filters says conditions.
	filters *filterDialect
	// oldestFirst orders rows of a table with createdAt and id as they came.
	oldestFirst func(alias string) string
	// lock keeps the rows that q reads from changing until the transaction ends.
	lock func(q *bun.SelectQuery, alias string) *bun.SelectQuery
	// exclude makes all transactions that call it wait for each other.
	exclude func(ctx context.Context, tx bun.IDB) error

	// patience lets a transaction take as long as it does; empty if it may
	// anyway.
	patience string
	// position is the column of changes in which no row appears below
	// horizon, an expression, once a statement has read it.
	position, horizon string
	// ordered is what the table changes needs for it.
	ordered []string

	// columns lists the columns of a table; none if there is no such table.
	columns func(ctx context.Context, db bun.IDB, table string) ([]column, error)
	// object is an expression for a JSON object of the columns.
	object func(alias string, columns []column) string

	// watched makes the triggers that write into changes, for tables with
	// these columns, unless they are there and right; it reports whether they
	// were. With dry it makes none.
	watched func(ctx context.Context, db bun.IDB, tables []watch, dry bool) (bool, error)

	// entityTexts makes the triggers that keep the index of entities.
	entityTexts func(ctx context.Context, tx bun.IDB) error
	// permanent makes the triggers that keep what was published.
	permanent func(ctx context.Context, tx bun.IDB) error
	// fault says what an error means, and for which column.
	fault func(error) (fault, string)
	// watch rings when another process has committed, until ctx ends.
	watch func(ctx context.Context, db *DB)
}

// column is a column as it is found in a database.
type column struct {
	Name string `bun:"name"`
	Type string `bun:"type"` // upper case
}

// watch is a table whose changes are noted.
type watch struct {
	table, kind string
	// id are the columns that name the user, session, key or entity; their
	// values are joined by a slash, so only the last may contain one.
	id []string
	// quiet columns are counters: a change to them alone is none.
	quiet []string
	// limit columns are counters too, but to get or lose one matters.
	limit   []string
	columns []column
	// ends is what must not outlive a row where its id can come again, each
	// the rest of a DELETE FROM.
	ends []string
}
