package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/ostiary/ostiary/authn"
)

// busyTimeout is how long a statement waits for another process.
const busyTimeout = 5 * time.Second

// tick is how often we look whether another process has committed.
const tick = 250 * time.Millisecond

func openSQLite(ctx context.Context, path string, p Pool) (*DB, error) {
	if path == ":memory:" {
		// The connection is the database, so there is exactly one, for readers
		// and writers: several could only share it with a cache whose table
		// locks ignore the busy timeout.
		pool, err := sqlitePool("file::memory:", 1)
		if err != nil {
			return nil, err
		}
		d := sqliteDialect
		d.watch = nil
		return &DB{dialect: d, writer: pool, reader: pool}, nil
	}
	invalid := func(reason string) (*DB, error) {
		return nil, &authn.InvalidError{Field: "database", Reason: reason}
	}
	switch {
	case path == "":
		return invalid("sqlite: needs a path")
	case strings.HasPrefix(path, "//") && !strings.HasPrefix(path, "///"):
		return invalid("write sqlite:PATH, without slashes before a relative path")
	case strings.Contains(path, "?"):
		return invalid("sqlite: takes a path without parameters")
	}
	path = filepath.Clean(path)
	// Session tokens are in there: nobody else on the machine may read it.
	// SQLite gives the files beside it the same mode.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open database: %w: %w", authn.ErrUnavailable, err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open database: %w: %w", authn.ErrUnavailable, err)
	}
	uri := "file:" + (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath()

	writer, err := sqlitePool(uri, 1, "_txlock=immediate")
	if err != nil {
		return nil, err
	}
	db := &DB{dialect: sqliteDialect, writer: writer}
	if err := writeAhead(ctx, writer); err != nil {
		return nil, errors.Join(db.fail("open database", err), writer.Close())
	}
	// One connection more for the watcher, which keeps it.
	readers := cmp.Or(p.Connections, max(4, 2*runtime.GOMAXPROCS(0))) + 1
	db.reader, err = sqlitePool(uri, readers, "_pragma=query_only(1)")
	if err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	db.reader.SetConnMaxIdleTime(cmp.Or(p.Idle, 5*time.Minute))
	db.reader.SetConnMaxLifetime(p.Life)
	return db, nil
}

func sqlitePool(uri string, connections int, params ...string) (*bun.DB, error) {
	params = append([]string{
		fmt.Sprintf("_pragma=busy_timeout(%d)", busyTimeout.Milliseconds()),
		"_pragma=foreign_keys(1)",
		"_pragma=case_sensitive_like(1)", // as Postgres compares
	}, params...)
	pool, err := sql.Open("sqlite", uri+"?"+strings.Join(params, "&"))
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	return bun.NewDB(pool, sqlitedialect.New()), nil
}

// startPatience is how long a start waits for others that start at the same time
// on the same file, each with the tables to make or to look at.
const startPatience = time.Minute

// writeAhead turns the write-ahead log on, so that readers and the writer
// don't wait for each other. The switch ignores the busy timeout when another
// process is at it.
func writeAhead(ctx context.Context, db *bun.DB) error {
	return patiently(ctx, func() error {
		_, err := db.ExecContext(ctx, "PRAGMA journal_mode = WAL")
		return err
	})
}

// patiently does what others may keep from being done for longer than busyTimeout.
func patiently(ctx context.Context, do func() error) error {
	for deadline := time.Now().Add(startPatience); ; {
		err := do()
		e, ok := errors.AsType[*sqlite.Error](err)
		if !ok || e.Code()&0xff != sqlite3.SQLITE_BUSY || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

var sqliteDialect = dialect{
	name:         "sqlite",
	boolType:     "integer",
	timeType:     "date",
	bytesType:    "blob",
	sequenceType: "integer PRIMARY KEY AUTOINCREMENT",
	idKinds:      map[string]idKind{"INTEGER": idInteger},
	next:         sqliteNext,
	idOf:         sqliteIDOf,
	// What is no JSON has no type.
	propertiesType: `text CHECK (CASE WHEN json_valid("properties") THEN json_type("properties") = 'object' ELSE FALSE END)`,
	bytewise:       "BINARY",
	parameter:      "?1",
	entityTexts:    sqliteEntityTexts,
	permanent:      sqlitePermanent,
	filters:        sqliteFilters,
	oldestFirst:    func(alias string) string { return alias + ".rowid" },
	// Transactions that write begin as the only ones.
	lock:    func(q *bun.SelectQuery, alias string) *bun.SelectQuery { return q },
	exclude: func(ctx context.Context, tx bun.IDB) error { return nil },
	// One writes at a time, so rows appear in the order of their numbers.
	position: "seq",
	horizon:  "coalesce(max(seq), 0) + 1",
	columns:  sqliteColumns,
	object:   sqliteObject,
	watched:  sqliteWatched,
	fault:    sqliteFault,
	watch:    sqliteWatch,
}

// sqliteNext goes on above all ids that there ever were: the database itself
// would give that of the newest row again once it is deleted, and whoever
// remembers the old one would take the new one for it. An application may
// still come first with the id, which [DB.fail] knows.
func sqliteNext(ctx context.Context, conn bun.IDB, table string) (id string, err error) {
	err = conn.NewRaw(`INSERT INTO ostiary_id ("table", "last") VALUES (?, (SELECT coalesce(max("id"), 0) + 1 FROM ?))
		ON CONFLICT ("table") DO UPDATE SET "last" = max("last" + 1, EXCLUDED."last") RETURNING "last"`, table, bun.Ident(table)).Scan(ctx, &id)
	return id, err
}

// sqliteIDOf compares spellings, because the database reads '01' as 1.
func sqliteIDOf(kind idKind, expr string) string {
	if kind != idInteger {
		return expr
	}
	return fmt.Sprintf("CASE WHEN CAST(CAST(%[1]s AS integer) AS text) = %[1]s THEN CAST(%[1]s AS integer) END", expr)
}

func sqliteColumns(ctx context.Context, db bun.IDB, table string) ([]column, error) {
	var cs []column
	err := db.NewSelect().ColumnExpr("name, upper(type) AS type").TableExpr("pragma_table_info(?)", table).Scan(ctx, &cs)
	return cs, err
}

// sqliteObject leaves out blobs, which JSON cannot hold, wherever they are:
// a declared type binds nobody.
func sqliteObject(alias string, columns []column) string {
	var b strings.Builder
	b.WriteString("json_object(")
	for i, c := range columns {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, `'%s', CASE typeof(%s."%s") WHEN 'blob' THEN NULL ELSE %s."%s" END`,
			c.Name, alias, c.Name, alias, c.Name)
	}
	b.WriteString(")")
	return b.String()
}

// sqliteWatched names every column in the triggers, because SQLite has no
// comparison of whole rows. A column that is added to a table later is seen at
// the next start.
func sqliteWatched(ctx context.Context, db bun.IDB, tables []watch, dry bool) (bool, error) {
	var existing []struct {
		Name string `bun:"name"`
		SQL  string `bun:"sql"`
	}
	err := db.NewSelect().ColumnExpr("name, sql").TableExpr("sqlite_master").
		Where("type = 'trigger' AND name LIKE 'ostiary_%'").Scan(ctx, &existing)
	if err != nil {
		return false, err
	}
	have := make(map[string]string, len(existing))
	for _, t := range existing {
		have[t.Name] = t.SQL
	}
	right := true
	for _, w := range tables {
		for name, text := range sqliteTriggers(w) {
			if have[name] == text {
				continue
			}
			right = false
			if dry {
				return false, nil
			}
			if _, err := db.NewRaw(`DROP TRIGGER IF EXISTS ?`, bun.Ident(name)).Exec(ctx); err != nil {
				return false, err
			}
			if _, err := db.NewRaw(text).Exec(ctx); err != nil {
				return false, fmt.Errorf("trigger %s: %w", name, err)
			}
		}
	}
	return right, nil
}

func sqliteTriggers(w watch) map[string]string {
	name := func(row string) string {
		columns := make([]string, len(w.id))
		for i, c := range w.id {
			columns[i] = fmt.Sprintf(`%s."%s"`, row, c)
		}
		return strings.Join(columns, " || '/' || ")
	}
	note := func(row string) string {
		return fmt.Sprintf(`INSERT INTO changes (kind, id, at) SELECT '%s', %s, strftime('%%Y-%%m-%%dT%%H:%%M:%%fZ', 'now')`, w.kind, name(row))
	}
	gone := note("OLD") + ";"
	if columnType(w.columns, w.id[0]) == "INTEGER" && len(w.ends) > 0 {
		// The application's next row gets the id again, and foreign keys may not
		// be enforced on its connections.
		gone += fmt.Sprintf(` INSERT INTO ostiary_id ("table", "last") VALUES ('%s', OLD."id") ON CONFLICT ("table") DO UPDATE SET "last" = max("last", EXCLUDED."last");`, w.table)
		for _, end := range w.ends {
			gone += " DELETE FROM " + end + ";"
		}
	}
	var differs []string
	for _, c := range w.columns {
		if slices.Contains(w.limit, c.Name) {
			differs = append(differs, fmt.Sprintf(`(OLD."%s" IS NULL) <> (NEW."%s" IS NULL)`, c.Name, c.Name))
		} else if !slices.Contains(w.quiet, c.Name) {
			name := strings.ReplaceAll(c.Name, `"`, `""`)
			differs = append(differs, fmt.Sprintf(`OLD."%s" IS NOT NEW."%s"`, name, name))
		}
	}
	prefix := "ostiary_" + w.table + "_"
	return map[string]string{
		prefix + "insert": fmt.Sprintf(`CREATE TRIGGER "%sinsert" AFTER INSERT ON "%s" BEGIN %s; END`, prefix, w.table, note("NEW")),
		prefix + "delete": fmt.Sprintf(`CREATE TRIGGER "%sdelete" AFTER DELETE ON "%s" BEGIN %s END`, prefix, w.table, gone),
		prefix + "update": fmt.Sprintf(`CREATE TRIGGER "%supdate" AFTER UPDATE ON "%s" WHEN %s BEGIN %s; %s WHERE %s IS NOT %s; END`,
			prefix, w.table, strings.Join(differs, " OR "), note("OLD"), note("NEW"), name("NEW"), name("OLD")),
	}
}

var sqliteColumn = regexp.MustCompile(`constraint failed: \w+\.(\w+)`)

func sqliteFault(err error) (fault, string) {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return faultOther, ""
	}
	var column string
	if m := sqliteColumn.FindStringSubmatch(e.Error()); m != nil {
		column = m[1]
	}
	switch e.Code() {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return faultDuplicate, column
	case sqlite3.SQLITE_CONSTRAINT_NOTNULL:
		return faultRequired, column
	case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
		return faultReference, ""
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG:
		return faultValue, ""
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
		sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL,
		sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOTADB:
		return faultUnavailable, ""
	}
	return faultOther, ""
}

// sqliteWatch polls the data version, which changes on one connection when
// another one commits. Our own commits ring a second time by it: harmless.
func sqliteWatch(ctx context.Context, db *DB) {
	var conn *sql.Conn
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var seen int64
	for {
		var version int64
		var err error
		if conn == nil {
			conn, err = db.reader.DB.Conn(ctx)
		}
		if err == nil {
			err = conn.QueryRowContext(ctx, "PRAGMA data_version").Scan(&version)
		}
		switch {
		case err != nil && conn != nil:
			conn.Close()
			conn, seen = nil, 0
		case err == nil && version != seen:
			// Also when first looking: something may have been missed.
			seen = version
			db.ring()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
