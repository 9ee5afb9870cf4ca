package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/ostiary/ostiary/authn"
)

func openPostgres(ctx context.Context, dsn string, p Pool) (*DB, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		// Its text leaves the password out.
		return nil, &authn.InvalidError{Field: "database", Reason: err.Error()}
	}
	// bun writes arguments into the text, so every query is new: to prepare it
	// first would cost a round trip for nothing. What is worth preparing is
	// prepared by name.
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	// bun's quoting relies on the first; the second is for those who read
	// times as text.
	config.RuntimeParams["standard_conforming_strings"] = "on"
	config.RuntimeParams["timezone"] = "UTC"
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "ostiary"
	}
	if p.StatementTimeout > 0 {
		config.RuntimeParams["statement_timeout"] = strconv.FormatInt(max(1, p.StatementTimeout.Milliseconds()), 10)
	}
	pool := sql.OpenDB(stdlib.GetConnector(*config))
	connections := cmp.Or(p.Connections, max(8, 4*runtime.GOMAXPROCS(0)))
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	pool.SetConnMaxIdleTime(cmp.Or(p.Idle, 5*time.Minute))
	pool.SetConnMaxLifetime(p.Life)

	conn := bun.NewDB(pool, pgdialect.New())
	db := &DB{dialect: postgresDialect, writer: conn, reader: conn}
	if err := pool.PingContext(ctx); err != nil {
		return nil, errors.Join(db.fail("open database", err), pool.Close())
	}
	db.dialect.watch = func(ctx context.Context, db *DB) { postgresWatch(ctx, config, db) }
	return db, nil
}

var postgresDialect = dialect{
	name:           "postgres",
	boolType:       "boolean",
	timeType:       "timestamptz",
	sequenceType:   "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
	nowDefault:     " DEFAULT CURRENT_TIMESTAMP",
	propertiesType: `jsonb CHECK (jsonb_typeof("properties") = 'object')`,
	bytewise:       `"C"`,
	parameter:      "$1",
	oldestFirst:    func(alias string) string { return fmt.Sprintf(`%s."createdAt", %s."id"`, alias, alias) },
	lock: func(q *bun.SelectQuery, alias string) *bun.SelectQuery {
		return q.For("UPDATE OF ?", bun.Ident(alias))
	},
	exclude: func(ctx context.Context, tx bun.IDB) error {
		// The number only has to be the same everywhere: "ostiary" in ASCII.
		_, err := tx.NewRaw("SELECT pg_advisory_xact_lock(31370683107537529)").Exec(ctx)
		return err
	},
	// Of the transaction that wrote the row. The horizon is the oldest that is
	// not over.
	position: "tx",
	horizon:  "pg_snapshot_xmin(pg_current_snapshot())::text::bigint",
	ordered: []string{
		"ALTER TABLE changes ADD COLUMN tx bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint)",
		"CREATE INDEX changes_tx_idx ON changes (tx)",
	},
	patience: "SET LOCAL statement_timeout = 0",
	columns:  postgresColumns,
	object:   postgresObject,
	watched:  postgresWatched,
	fault:    postgresFault,
}

func postgresColumns(ctx context.Context, db bun.IDB, table string) ([]column, error) {
	var cs []column
	err := db.NewSelect().ColumnExpr("attname AS name, upper(format_type(atttypid, atttypmod)) AS type").
		TableExpr("pg_attribute").Where("attrelid = to_regclass(quote_ident(?))", table).
		Where("attnum > 0 AND NOT attisdropped AND attgenerated = ''").OrderExpr("attnum").Scan(ctx, &cs)
	return cs, err
}

func postgresObject(alias string, columns []column) string {
	// A function takes at most a hundred arguments.
	var objects []string
	for some := range slices.Chunk(columns, 40) {
		var pairs []string
		for _, c := range some {
			pairs = append(pairs, fmt.Sprintf(`'%s', %s."%s"`, c.Name, alias, c.Name))
		}
		objects = append(objects, "jsonb_build_object("+strings.Join(pairs, ", ")+")")
	}
	return "(" + strings.Join(objects, " || ") + ")::text"
}

// postgresNote is the function of all triggers. It runs as its owner, because
// an application that shares the database may write with fewer rights. %[1]s
// is the schema.
const postgresNote = `CREATE OR REPLACE FUNCTION %[1]s.ostiary_note() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $note$
DECLARE
	noted jsonb;
	former text;
	present text;
BEGIN
	IF TG_OP <> 'INSERT' THEN
		noted := to_jsonb(OLD);
		former := concat_ws('/', noted ->> TG_ARGV[1], noted ->> TG_ARGV[2]);
		INSERT INTO %[1]s.changes (kind, id, at) VALUES (TG_ARGV[0], former, clock_timestamp());
	END IF;
	IF TG_OP <> 'DELETE' THEN
		noted := to_jsonb(NEW);
		present := concat_ws('/', noted ->> TG_ARGV[1], noted ->> TG_ARGV[2]);
		IF present IS DISTINCT FROM former THEN
			INSERT INTO %[1]s.changes (kind, id, at) VALUES (TG_ARGV[0], present, clock_timestamp());
		END IF;
	END IF;
	PERFORM pg_notify(left('ostiary_' || TG_TABLE_SCHEMA, 63), '');
	RETURN NULL;
END
$note$`

// postgresWatched compares whole rows, so that columns that are added later
// are watched, too. Each trigger has the digest of its definition as comment.
func postgresWatched(ctx context.Context, db bun.IDB, tables []watch, dry bool) (bool, error) {
	var schema string
	if err := db.NewSelect().ColumnExpr("quote_ident(current_schema())").Scan(ctx, &schema); err != nil {
		return false, err
	}
	note := fmt.Sprintf(postgresNote, schema)
	var existing []struct {
		Name    string  `bun:"name"`
		Comment *string `bun:"comment"`
	}
	err := db.NewSelect().ColumnExpr("t.tgname AS name, obj_description(t.oid, 'pg_trigger') AS comment").
		TableExpr("pg_trigger AS t").Join("JOIN pg_class AS c ON c.oid = t.tgrelid").
		Where("c.relnamespace = to_regnamespace(?)", schema).Where("NOT t.tgisinternal").Scan(ctx, &existing)
	if err != nil {
		return false, err
	}
	have := make(map[string]string, len(existing))
	for _, t := range existing {
		if t.Comment != nil {
			have[t.Name] = *t.Comment
		}
	}
	right := true
	for _, w := range tables {
		for name, text := range postgresTriggers(w, schema) {
			sum := sha256.Sum256([]byte(note + text))
			digest := hex.EncodeToString(sum[:])
			if have[name] == digest {
				continue
			}
			if dry {
				return false, nil
			}
			statements := []string{
				fmt.Sprintf(`DROP TRIGGER IF EXISTS "%s" ON "%s"`, name, w.table),
				text,
				fmt.Sprintf(`COMMENT ON TRIGGER "%s" ON "%s" IS '%s'`, name, w.table, digest),
			}
			if right {
				statements = append([]string{note}, statements...)
			}
			right = false
			for _, s := range statements {
				if _, err := db.NewRaw(s).Exec(ctx); err != nil {
					return false, fmt.Errorf("trigger %s: %w", name, err)
				}
			}
		}
	}
	return right, nil
}

func postgresTriggers(w watch, schema string) map[string]string {
	prefix := "ostiary_" + w.table + "_"
	trigger := func(on, when string) string {
		return fmt.Sprintf(`CREATE TRIGGER "%s%s" AFTER %s ON "%s" FOR EACH ROW %sEXECUTE FUNCTION %s.ostiary_note('%s', '%s')`,
			prefix, strings.ToLower(on), on, w.table, when, schema, w.kind, strings.Join(w.id, "', '"))
	}
	row := func(which string) string {
		if quiet := slices.Concat(w.quiet, w.limit); len(quiet) > 0 {
			return fmt.Sprintf("(to_jsonb(%s) - ARRAY['%s'])", which, strings.Join(quiet, "', '"))
		}
		return fmt.Sprintf("to_jsonb(%s)", which)
	}
	differs := row("OLD") + " IS DISTINCT FROM " + row("NEW")
	for _, c := range w.limit {
		differs += fmt.Sprintf(` OR (OLD."%s" IS NULL) <> (NEW."%s" IS NULL)`, c, c)
	}
	return map[string]string{
		prefix + "insert": trigger("INSERT", ""),
		prefix + "update": trigger("UPDATE", "WHEN ("+differs+") "),
		prefix + "delete": trigger("DELETE", ""),
	}
}

// postgresKey finds the column in "Key (email)=(…) already exists.", whatever
// the language of the server.
var postgresKey = regexp.MustCompile(`\("?(\w+)"?\)=\(`)

func postgresFault(err error) (fault, string) {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		_, connecting := errors.AsType[*pgconn.ConnectError](err)
		_, network := errors.AsType[net.Error](err)
		if connecting || network || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) ||
			errors.Is(err, io.ErrUnexpectedEOF) || pgconn.SafeToRetry(err) {
			return faultUnavailable, ""
		}
		return faultOther, ""
	}
	switch e.Code {
	case "23505": // unique_violation
		if m := postgresKey.FindStringSubmatch(e.Detail); m != nil {
			return faultDuplicate, m[1]
		}
		return faultDuplicate, e.ConstraintName
	case "23502": // not_null_violation
		return faultRequired, e.ColumnName
	case "23503": // foreign_key_violation
		return faultReference, ""
	case "23514", "42804", "42883": // check_violation, datatype_mismatch, no such operator
		return faultValue, ""
	case "40001", "40P01", "55P03": // serialization_failure, deadlock_detected, lock_not_available
		return faultUnavailable, ""
	}
	switch e.Code[:2] {
	case "22": // data exception
		return faultValue, ""
	// Connection, authorization, no such database, resources, operator intervention, system.
	case "08", "28", "3D", "53", "57", "58", "XX":
		return faultUnavailable, ""
	}
	return faultOther, ""
}

// postgresWatch listens on a connection of its own. Ours ring it as well:
// harmless.
func postgresWatch(ctx context.Context, config *pgx.ConnConfig, db *DB) {
	for ctx.Err() == nil {
		// An error means that the connection is gone: begin again.
		_ = postgresListen(ctx, config, db)
		select {
		case <-ctx.Done():
		case <-time.After(tick):
		}
	}
}

func postgresListen(ctx context.Context, config *pgx.ConnConfig, db *DB) error {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(ctx)
	}()
	var channel string
	if err := conn.QueryRow(ctx, "SELECT quote_ident(left('ostiary_' || current_schema(), 63))").Scan(&channel); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	for {
		db.ring() // also when first listening: something may have been missed
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
	}
}
