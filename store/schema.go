package store

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/migrate"
	bunschema "github.com/uptrace/bun/schema"

	"github.com/ostiary/ostiary/authn"
)

// Migration is a step of the schema.
type Migration struct {
	Name    string
	Applied *time.Time // nil: pending
}

// table is a table as we make it. In column types {bool}, {time}, {bytes}, {sequence},
// {properties} and {bytewise} stand for the dialect's, {id} for that of ids, and
// {made} for what else makes a column of them.
type table struct {
	name    string
	columns []columnDef
	key     []string // of several columns; a key of one stands in its definition
	indexes []index
}

type columnDef struct {
	name, def string
	// added is the definition for a table that exists without the column;
	// empty if Better Auth never had it without.
	added string
}

type index struct {
	name, on string
	unique   bool
}

// betterAuth are the tables that a Better Auth application may have made
// before us, and may make if we came first. Nothing of ours belongs in them.
var betterAuth = []table{
	{name: "user", columns: []columnDef{
		{name: "id", def: "{id}{made} NOT NULL PRIMARY KEY"},
		{name: "name", def: "text NOT NULL"},
		{name: "email", def: "text NOT NULL UNIQUE"},
		{name: "emailVerified", def: "{bool} NOT NULL"},
		{name: "image", def: "text"},
		{name: "createdAt", def: "{time} {now} NOT NULL"},
		{name: "updatedAt", def: "{time} {now} NOT NULL"},
		{name: "username", def: "text UNIQUE", added: "text"},
		{name: "displayUsername", def: "text", added: "text"},
		{name: "role", def: "text", added: "text"},
		{name: "banned", def: "{bool}", added: "{bool}"},
		{name: "banReason", def: "text", added: "text"},
		{name: "banExpires", def: "{time}", added: "{time}"},
	}},
	{name: "session", columns: []columnDef{
		{name: "id", def: "{id}{made} NOT NULL PRIMARY KEY"},
		{name: "expiresAt", def: "{time} NOT NULL"},
		{name: "token", def: "text NOT NULL UNIQUE"},
		{name: "createdAt", def: "{time} {now} NOT NULL"},
		{name: "updatedAt", def: "{time} NOT NULL"},
		{name: "ipAddress", def: "text"},
		{name: "userAgent", def: "text"},
		{name: "userId", def: `{id} NOT NULL REFERENCES "user" ("id") ON DELETE CASCADE`},
		{name: "impersonatedBy", def: "text", added: "text"},
	}, indexes: []index{{name: "session_userId_idx", on: `"userId"`}}},
	{name: "account", columns: []columnDef{
		{name: "id", def: "{id}{made} NOT NULL PRIMARY KEY"},
		{name: "accountId", def: "text NOT NULL"},
		{name: "providerId", def: "text NOT NULL"},
		{name: "userId", def: `{id} NOT NULL REFERENCES "user" ("id") ON DELETE CASCADE`},
		{name: "accessToken", def: "text"},
		{name: "refreshToken", def: "text"},
		{name: "idToken", def: "text"},
		{name: "accessTokenExpiresAt", def: "{time}"},
		{name: "refreshTokenExpiresAt", def: "{time}"},
		{name: "scope", def: "text"},
		{name: "password", def: "text"},
		{name: "createdAt", def: "{time} {now} NOT NULL"},
		{name: "updatedAt", def: "{time} NOT NULL"},
	}, indexes: []index{{name: "account_userId_idx", on: `"userId"`}}},
	{name: "verification", columns: []columnDef{
		{name: "id", def: "{id}{made} NOT NULL PRIMARY KEY"},
		{name: "identifier", def: "text NOT NULL"},
		{name: "value", def: "text NOT NULL"},
		{name: "expiresAt", def: "{time} NOT NULL"},
		{name: "createdAt", def: "{time} {now} NOT NULL"},
		{name: "updatedAt", def: "{time} {now} NOT NULL"},
	}, indexes: []index{{name: "verification_identifier_idx", on: `"identifier"`}}},
	{name: "apikey", columns: []columnDef{
		{name: "id", def: "{id}{made} NOT NULL PRIMARY KEY"},
		{name: "configId", def: "text NOT NULL", added: "text NOT NULL DEFAULT 'default'"},
		{name: "name", def: "text"},
		{name: "start", def: "text"},
		{name: "referenceId", def: "text NOT NULL", added: "text"},
		{name: "prefix", def: "text"},
		{name: "key", def: "text NOT NULL"},
		{name: "refillInterval", def: "integer"},
		{name: "refillAmount", def: "integer"},
		{name: "lastRefillAt", def: "{time}"},
		{name: "enabled", def: "{bool}"},
		{name: "rateLimitEnabled", def: "{bool}"},
		{name: "rateLimitTimeWindow", def: "integer"},
		{name: "rateLimitMax", def: "integer"},
		{name: "requestCount", def: "integer"},
		{name: "remaining", def: "integer"},
		{name: "lastRequest", def: "{time}"},
		{name: "expiresAt", def: "{time}"},
		{name: "createdAt", def: "{time} NOT NULL"},
		{name: "updatedAt", def: "{time} NOT NULL"},
		{name: "permissions", def: "text"},
		{name: "metadata", def: "text"},
	}, indexes: []index{
		{name: "apikey_configId_idx", on: `"configId"`},
		{name: "apikey_referenceId_idx", on: `"referenceId"`},
		{name: "apikey_key_idx", on: `"key"`},
	}},
}

var ours = []table{
	{name: "ostiary_user", columns: []columnDef{
		{name: "userId", def: `{id} NOT NULL PRIMARY KEY REFERENCES "user" ("id") ON DELETE CASCADE`},
		{name: "serviceAccount", def: "{bool} NOT NULL"},
		{name: "attributes", def: "text"},
	}},
	// keyId refers to a key but is no foreign key: a session must not outlive
	// its key as one that was obtained without any.
	{name: "ostiary_session", columns: []columnDef{
		{name: "sessionId", def: `{id} NOT NULL PRIMARY KEY REFERENCES "session" ("id") ON DELETE CASCADE`},
		{name: "keyId", def: "{id}"},
		{name: "keyDigest", def: "text"},
		{name: "fixed", def: "{bool} NOT NULL"},
		{name: "notFresh", def: "{bool} NOT NULL"},
	}},
	{name: "ostiary_key", columns: []columnDef{
		{name: "keyId", def: `{id} NOT NULL PRIMARY KEY REFERENCES "apikey" ("id") ON DELETE CASCADE`},
		{name: "windowStart", def: "{time} NOT NULL"},
	}},
	{name: "ostiary_key_secret", columns: []columnDef{
		{name: "digest", def: "text NOT NULL PRIMARY KEY"},
		{name: "keyId", def: `{id} NOT NULL REFERENCES "apikey" ("id") ON DELETE CASCADE`},
		{name: "validUntil", def: "{time} NOT NULL"},
		{name: "supersededAt", def: "{time} NOT NULL"},
	}, indexes: []index{{name: "ostiary_key_secret_keyId_idx", on: `"keyId"`}}},
	{name: "ostiary_event", columns: slices.Concat([]columnDef{
		{name: "id", def: "text NOT NULL PRIMARY KEY"},
		{name: "at", def: "{time} NOT NULL"},
		{name: "kind", def: "text NOT NULL"},
	}, actorColumns, []columnDef{
		{name: "targetType", def: "text NOT NULL"},
		{name: "targetId", def: "text NOT NULL"},
		{name: "decisionId", def: "text NOT NULL"},
		{name: "details", def: "text"},
	}), indexes: []index{{name: "ostiary_event_at_idx", on: `"at", "id"`}}},
	{name: "changes", columns: []columnDef{
		{name: "seq", def: "{sequence}"},
		{name: "kind", def: "text NOT NULL"},
		{name: "id", def: "text NOT NULL"},
		{name: "at", def: "{time} NOT NULL"},
	}},
}

var actorColumns = []columnDef{
	{name: "actorType", def: "text NOT NULL"},
	{name: "actorId", def: "text NOT NULL"},
	{name: "actorCredential", def: "text NOT NULL"},
	{name: "actorKeyId", def: "text NOT NULL"},
	{name: "actorImpersonatedBy", def: "text NOT NULL"},
}

// watched are the tables that a principal is made of, users first. It is told of
// entities because they, too, are remembered, and of policies because they are in
// force everywhere.
var watched = []watch{
	{table: "user", kind: "user", id: []string{"id"}, ends: []string{
		`"ostiary_user" WHERE "userId" = OLD."id"`, `"session" WHERE "userId" = OLD."id"`, `"account" WHERE "userId" = OLD."id"`,
		`"apikey" WHERE "referenceId" = CAST(OLD."id" AS text)`,
	}},
	{table: "session", kind: "session", id: []string{"id"}, quiet: []string{"updatedAt"}, ends: []string{`"ostiary_session" WHERE "sessionId" = OLD."id"`}},
	{table: "apikey", kind: "key", id: []string{"id"}, limit: []string{"remaining"},
		quiet: []string{"requestCount", "lastRequest", "lastRefillAt", "updatedAt"}, ends: []string{
			`"ostiary_key" WHERE "keyId" = OLD."id"`, `"ostiary_key_secret" WHERE "keyId" = OLD."id"`, `"ostiary_key_limits" WHERE "keyId" = OLD."id"`,
		}},
	{table: "ostiary_user", kind: "user", id: []string{"userId"}},
	{table: "ostiary_session", kind: "session", id: []string{"sessionId"}},
	{table: "ostiary_key_secret", kind: "key", id: []string{"keyId"}},
	{table: "ostiary_key_limits", kind: "key", id: []string{"keyId"}},
	{table: "ostiary_entity", kind: "entity", id: []string{"type", "id"}, quiet: []string{"updatedAt"}},
	{table: "ostiary_policy", kind: "policy", id: []string{"revision"}},
	{table: "ostiary_shadow", kind: "policy", id: []string{"id"}},
}

// steps are the migrations, in order. A step that was released is never
// changed. All that are pending run in one transaction.
var steps = []struct {
	name string
	up   func(ctx context.Context, tx bun.IDB, d dialect, of ids) error
}{
	{"0001_better_auth", func(ctx context.Context, tx bun.IDB, d dialect, of ids) error {
		for _, t := range betterAuth {
			if err := adopt(ctx, tx, d, of, t); err != nil {
				return err
			}
		}
		return nil
	}},
	{"0002_ostiary", func(ctx context.Context, tx bun.IDB, d dialect, of ids) error {
		for _, t := range ours {
			if err := create(ctx, tx, d, of, t); err != nil {
				return err
			}
		}
		return nil
	}},
	{"0003_change_order", func(ctx context.Context, tx bun.IDB, d dialect, of ids) error {
		for _, s := range d.ordered {
			if _, err := tx.NewRaw(s).Exec(ctx); err != nil {
				return err
			}
		}
		return nil
	}},
	{"0004_key_limits", func(ctx context.Context, tx bun.IDB, d dialect, of ids) error {
		return create(ctx, tx, d, of, table{name: "ostiary_key_limits", columns: []columnDef{
			{name: "keyId", def: `{id} NOT NULL PRIMARY KEY REFERENCES "apikey" ("id") ON DELETE CASCADE`},
			{name: "version", def: "bigint NOT NULL"},
		}})
	}},
	{"0005_ids", func(ctx context.Context, tx bun.IDB, d dialect, of ids) error {
		if of.kind != idInteger || d.makes != nil {
			return nil // there are sequences, or none is needed
		}
		return create(ctx, tx, d, of, table{name: "ostiary_id", columns: []columnDef{
			{name: "table", def: "text NOT NULL PRIMARY KEY"},
			{name: "last", def: "integer NOT NULL"},
		}})
	}},
	{"0006_entities", func(ctx context.Context, tx bun.IDB, d dialect, of ids) error {
		// A type without a slash, so that "type/id" names one entity.
		if err := create(ctx, tx, d, of, table{name: "ostiary_entity", columns: []columnDef{
			{name: "type", def: `text COLLATE {bytewise} NOT NULL CHECK ("type" <> '' AND "type" NOT LIKE '%/%')`},
			{name: "id", def: `text COLLATE {bytewise} NOT NULL CHECK ("id" <> '')`},
			{name: "properties", def: "{properties} NOT NULL"},
			{name: "updatedAt", def: "{time} NOT NULL"},
		}, key: []string{"type", "id"}}); err != nil {
			return err
		}
		if err := create(ctx, tx, d, of, entityText); err != nil {
			return err
		}
		return d.entityTexts(ctx, tx)
	}},
	{"0008_policies", func(ctx context.Context, tx bun.IDB, d dialect, of ids) error {
		if err := create(ctx, tx, d, of, table{name: "ostiary_policy_revision", columns: []columnDef{
			{name: "revision", def: "text NOT NULL PRIMARY KEY"},
			{name: "files", def: "text NOT NULL"},
			{name: "tests", def: "integer NOT NULL"},
			{name: "coverage", def: "double precision NOT NULL"},
			{name: "createdAt", def: "{time} NOT NULL"},
		}}); err != nil {
			return err
		}
		return create(ctx, tx, d, of, table{name: "ostiary_policy", columns: slices.Concat([]columnDef{
			{name: "seq", def: "bigint NOT NULL PRIMARY KEY"},
			{name: "revision", def: `text NOT NULL REFERENCES "ostiary_policy_revision" ("revision")`},
			{name: "policyRevision", def: "text NOT NULL"},
			{name: "parent", def: "text NOT NULL"},
			{name: "at", def: "{time} NOT NULL"},
			{name: "note", def: "text NOT NULL"},
		}, actorColumns)})
	}},
	{"0009_replay", func(ctx context.Context, tx bun.IDB, d dialect, of ids) error {
		if _, err := tx.NewRaw(`ALTER TABLE "ostiary_policy" ADD COLUMN "replay" text`).Exec(ctx); err != nil {
			return err
		}
		if err := create(ctx, tx, d, of, table{name: "ostiary_shadow", columns: slices.Concat([]columnDef{
			{name: "id", def: "text NOT NULL PRIMARY KEY"},
			{name: "revision", def: "text NOT NULL"}, // empty: a folder
			{name: "policyRevision", def: "text NOT NULL"},
			{name: "note", def: "text NOT NULL"},
			{name: "startedAt", def: "{time} NOT NULL"},
			{name: "endsAt", def: "{time}"},
		}, actorColumns), indexes: []index{{name: "ostiary_shadow_startedAt_idx", on: `"startedAt"`}}}); err != nil {
			return err
		}
		return create(ctx, tx, d, of, table{name: "ostiary_shadow_report", columns: []columnDef{
			{name: "id", def: "text NOT NULL PRIMARY KEY"},
			{name: "shadowId", def: `text NOT NULL REFERENCES "ostiary_shadow" ("id") ON DELETE CASCADE`},
			{name: "against", def: "text NOT NULL"},
			{name: "at", def: "{time} NOT NULL"},
			{name: "report", def: "text NOT NULL"},
		}, indexes: []index{{name: "ostiary_shadow_report_shadowId_idx", on: `"shadowId"`}}})
	}},
	{"0010_policies_stay", func(ctx context.Context, tx bun.IDB, d dialect, of ids) error { return d.permanent(ctx, tx) }},
	{"0011_decision_blocks", func(ctx context.Context, tx bun.IDB, d dialect, of ids) error {
		if _, err := tx.NewRaw(`DROP TABLE IF EXISTS "ostiary_decision"`).Exec(ctx); err != nil {
			return err // a row each, before anything was released
		}
		return create(ctx, tx, d, of, table{name: "ostiary_decision_block", columns: []columnDef{
			{name: "key", def: "text NOT NULL PRIMARY KEY"},
			{name: "firstAt", def: "{time} NOT NULL"},
			{name: "lastAt", def: "{time} NOT NULL"},
			{name: "minId", def: "{bytes} NOT NULL"}, // compared byte by byte, whatever is in it
			{name: "maxId", def: "{bytes} NOT NULL"},
			{name: "records", def: "integer NOT NULL"},
			{name: "size", def: "integer NOT NULL"},
			{name: "terms", def: "{bytes} NOT NULL"},
			{name: "lines", def: "{bytes} NOT NULL"}, // last: what is before it is read without it
		}, indexes: []index{
			// With all that tells whether a block is wanted, so that those that are not
			// cost a glance at the index.
			{name: "ostiary_decision_block_lastAt_idx", on: `"lastAt", "key", "firstAt"`},
			{name: "ostiary_decision_block_firstAt_idx", on: `"firstAt", "key", "lastAt", "records", "size"`},
			{name: "ostiary_decision_block_id_idx", on: `"minId", "maxId"`},
		}})
	}},
}

// adopt makes t or, if it is there, adds the columns that it lacks.
func adopt(ctx context.Context, tx bun.IDB, d dialect, of ids, t table) error {
	existing, err := d.columns(ctx, tx, t.name)
	if err != nil {
		return err
	}
	if len(existing) == 0 {
		return create(ctx, tx, d, of, t)
	}
	for _, c := range t.columns {
		if has(existing, c.name) {
			continue
		}
		if c.added == "" {
			return &authn.InvalidError{Field: "database", Reason: fmt.Sprintf("table %s exists but has no column %s", t.name, c.name)}
		}
		if _, err := tx.NewRaw(fmt.Sprintf(`ALTER TABLE "%s" ADD COLUMN "%s" %s`, t.name, c.name, d.ddl(of, c.added))).Exec(ctx); err != nil {
			return err
		}
		if c.name == "username" {
			// As Better Auth's own migration calls it.
			t.indexes = append(slices.Clone(t.indexes), index{name: "user_username_uidx", on: `"username"`, unique: true})
		}
	}
	if t.name == "apikey" && has(existing, "userId") && !has(existing, "referenceId") {
		if _, err := tx.NewRaw(`UPDATE "apikey" SET "referenceId" = "userId"`).Exec(ctx); err != nil {
			return err
		}
	}
	return createIndexes(ctx, tx, t)
}

func create(ctx context.Context, tx bun.IDB, d dialect, of ids, t table) error {
	var b strings.Builder
	fmt.Fprintf(&b, `CREATE TABLE IF NOT EXISTS "%s" (`, t.name)
	for i, c := range t.columns {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, `"%s" %s`, c.name, d.ddl(of, c.def))
	}
	if len(t.key) > 0 {
		fmt.Fprintf(&b, `, PRIMARY KEY ("%s")`, strings.Join(t.key, `", "`))
	}
	b.WriteString(")")
	if _, err := tx.NewRaw(b.String()).Exec(ctx); err != nil {
		return fmt.Errorf("table %s: %w", t.name, err)
	}
	return createIndexes(ctx, tx, t)
}

func createIndexes(ctx context.Context, tx bun.IDB, t table) error {
	for _, i := range t.indexes {
		kind := "INDEX"
		if i.unique {
			kind = "UNIQUE INDEX"
		}
		if _, err := tx.NewRaw(fmt.Sprintf(`CREATE %s IF NOT EXISTS "%s" ON "%s" (%s)`, kind, i.name, t.name, i.on)).Exec(ctx); err != nil {
			return fmt.Errorf("index %s: %w", i.name, err)
		}
	}
	return nil
}

func (d dialect) ddl(of ids, def string) string {
	return strings.NewReplacer("{id}", of.column, "{made}", d.idMade[of.kind], "{bool}", d.boolType, "{time}", d.timeType, "{bytes}", d.bytesType, "{sequence}", d.sequenceType, "{properties}", d.propertiesType, "{bytewise}", d.bytewise, " {now}", d.nowDefault).Replace(def)
}

func has(cs []column, name string) bool {
	return slices.ContainsFunc(cs, func(c column) bool { return c.Name == name })
}

func columnType(cs []column, name string) string {
	if i := slices.IndexFunc(cs, func(c column) bool { return c.Name == name }); i >= 0 {
		return cs[i].Type
	}
	return ""
}

const (
	migrationsTable = "ostiary_migrations"
	locksTable      = "ostiary_migration_locks"
)

// onTx makes everything that is built by a bun.DB happen in one transaction.
// The ExecContext of a bun.DB is not, so migrations use NewRaw.
type onTx struct{ *sql.Tx }

func (t onTx) ResolveConn(context.Context, bun.Query) bun.IConn { return t.Tx }
func (t onTx) Close() error                                     { return nil }

func (db *DB) migrator(conn *bun.DB, of ids) *migrate.Migrator {
	all := migrate.NewMigrations()
	for _, s := range steps {
		all.Add(migrate.Migration{Name: s.name, Up: func(ctx context.Context, m *migrate.Migrator, _ *migrate.Migration) error {
			return s.up(ctx, m.DB(), db.dialect, of)
		}})
	}
	return migrate.NewMigrator(conn, all, migrate.WithTableName(migrationsTable),
		migrate.WithLocksTableName(locksTable), migrate.WithMarkAppliedOnSuccess(true))
}

// Migrations lists all steps in order.
func (db *DB) Migrations(ctx context.Context) ([]Migration, error) {
	ms, err := db.migrations(ctx)
	return ms, db.fail("read migrations", err)
}

func (db *DB) migrations(ctx context.Context) ([]Migration, error) {
	bookkeeping, err := db.dialect.columns(ctx, db.reader, migrationsTable)
	if err != nil {
		return nil, err
	}
	ms := make([]Migration, len(steps))
	for i, s := range steps {
		ms[i].Name = s.name
	}
	if len(bookkeeping) == 0 {
		return ms, nil
	}
	found, err := db.migrator(db.reader, ids{}).MigrationsWithStatus(ctx)
	if err != nil {
		return nil, err
	}
	for i, m := range found {
		if m.IsApplied() {
			at := m.MigratedAt.UTC()
			ms[i].Applied = &at
		}
	}
	return ms, nil
}

// Migrate applies what is pending and returns its names. Of several processes
// that do so at once, one applies and the others wait for it.
func (db *DB) Migrate(ctx context.Context) ([]string, error) {
	names, err := db.migrate(ctx)
	if err != nil {
		return nil, db.fail("migrate", err)
	}
	s, err := db.prepare(ctx)
	if err != nil {
		return nil, db.fail("prepare", err)
	}
	if old := db.schema.Swap(s); old != nil {
		old.close()
	}
	return names, nil
}

func (db *DB) migrate(ctx context.Context) ([]string, error) {
	ms, err := db.migrations(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(ms, func(m Migration) bool { return m.Applied == nil }) {
		// Usual: nothing pending, and no need to wait for a writer.
		if right, err := db.watchTables(ctx, db.reader, true); right || err != nil {
			return nil, err
		}
	}
	var tx *sql.Tx
	if err := patiently(ctx, func() (err error) {
		tx, err = db.writer.DB.BeginTx(ctx, nil)
		return err
	}); err != nil {
		return nil, err
	}
	defer tx.Rollback()
	conn := bun.NewDB(db.writer.DB, db.writer.Dialect(), bun.WithConnResolver(onTx{tx}))
	bound := bun.IDB(conn)
	if db.dialect.patience != "" {
		if _, err := bound.NewRaw(db.dialect.patience).Exec(ctx); err != nil {
			return nil, err
		}
	}
	if err := db.dialect.exclude(ctx, bound); err != nil {
		return nil, err
	}
	of, err := db.dialect.ids(ctx, bound)
	if err != nil {
		return nil, err
	}
	m := db.migrator(conn, of)
	if err := m.Init(ctx); err != nil {
		return nil, err
	}
	group, err := m.Migrate(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := db.watchTables(ctx, bound, false); err != nil {
		return nil, err
	}
	if err := tx.Commit(); err != nil {
		return nil, err
	}
	names := make([]string, len(group.Migrations))
	for i, m := range group.Migrations {
		names[i] = m.Name
	}
	return names, nil
}

func (db *DB) watchTables(ctx context.Context, conn bun.IDB, dry bool) (bool, error) {
	tables := slices.Clone(watched)
	for i := range tables {
		var err error
		if tables[i].columns, err = db.dialect.columns(ctx, conn, tables[i].table); err != nil {
			return false, err
		}
		if tables[i].table == "apikey" && has(tables[i].columns, "userId") {
			tables[0].ends = append(slices.Clone(tables[0].ends), `"apikey" WHERE "userId" = OLD."id"`) // as in Better Auth 1.4
		}
	}
	return db.dialect.watched(ctx, conn, tables, dry)
}

// schema is what was found in the database when it was opened: what rows are
// read with.
type schema struct {
	ids        ids
	attributes []column // of the table user, that are not Better Auth's own
	legacyKeys bool     // apikey has a column userId: until 1.4 it was the owner

	userColumns, sessionColumns, keyColumns string // of a SELECT

	sessionByToken, keyByDigest *sql.Stmt
	texts                       struct{ sessionByToken, keyByDigest string } // of both
}

func (s *schema) close() {
	s.sessionByToken.Close()
	s.keyByDigest.Close()
}

// attributeName keeps names that would have to be quoted in JSON paths or in
// bun's templates out.
var attributeName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (db *DB) prepare(ctx context.Context) (*schema, error) {
	s := new(schema)
	var err error
	if s.ids, err = db.dialect.ids(ctx, db.reader); err != nil {
		return nil, err
	}
	users, err := db.dialect.columns(ctx, db.reader, "user")
	if err != nil {
		return nil, err
	}
	for _, c := range users {
		own := slices.ContainsFunc(betterAuth[0].columns, func(d columnDef) bool { return d.name == c.Name })
		if !own && attributeName.MatchString(c.Name) && !strings.Contains(c.Type, "BLOB") && c.Type != "BYTEA" {
			s.attributes = append(s.attributes, c)
		}
	}
	keys, err := db.dialect.columns(ctx, db.reader, "apikey")
	if err != nil {
		return nil, err
	}
	s.legacyKeys = has(keys, "userId")

	computed := map[string]string{
		"ostiaryServiceAccount": `ou."serviceAccount"`,
		"ostiaryAttributes":     `ou."attributes"`,
		"ostiaryColumns":        "NULL",
		"ostiaryKeyId":          `os."keyId"`,
		"ostiaryKeyDigest":      `os."keyDigest"`,
		"ostiaryFixed":          `os."fixed"`,
		"ostiaryNotFresh":       `os."notFresh"`,
		"ostiaryOwner":          s.owner(),
	}
	if len(s.attributes) > 0 {
		computed["ostiaryColumns"] = db.dialect.object("u", s.attributes)
	}
	selection := func(row any, alias, prefix string) string {
		return selection(db.reader.Table(reflect.TypeOf(row)), alias, prefix, computed)
	}
	s.userColumns = selection(userRow{}, "u", "")
	s.sessionColumns = selection(sessionRow{}, "s", "")
	s.keyColumns = selection(keyRow{}, "k", "")

	user := selection(userRow{}, "u", "u_") + ", "
	session := selection(sessionRow{}, "s", "s_") + ", "
	key := selection(keyRow{}, "k", "k_")
	s.texts.sessionByToken = `SELECT ` + session + user + key + `
FROM "session" AS s
JOIN "user" AS u ON u."id" = s."userId"
LEFT JOIN ostiary_session AS os ON os."sessionId" = s."id"
LEFT JOIN ostiary_user AS ou ON ou."userId" = u."id"
LEFT JOIN "apikey" AS k ON k."id" = os."keyId"
WHERE s."token" = ` + db.dialect.parameter
	// A current secret comes before a superseded one.
	s.texts.keyByDigest = strings.ReplaceAll(`SELECT `+user+key+`, ks."validUntil" AS "validUntil"
FROM "apikey" AS k
LEFT JOIN ostiary_key_secret AS ks ON ks."digest" = {digest} AND ks."keyId" = k."id" AND k."key" <> {digest}
LEFT JOIN "user" AS u ON u."id" = `+db.dialect.idOf(s.ids.kind, s.owner())+`
LEFT JOIN ostiary_user AS ou ON ou."userId" = u."id"
WHERE k."id" = coalesce(
	(SELECT "id" FROM "apikey" WHERE "key" = {digest} LIMIT 1),
	(SELECT "keyId" FROM ostiary_key_secret WHERE "digest" = {digest}))`, "{digest}", db.dialect.parameter)
	if s.sessionByToken, err = db.reader.DB.PrepareContext(ctx, s.texts.sessionByToken); err != nil {
		return nil, err
	}
	if s.keyByDigest, err = db.reader.DB.PrepareContext(ctx, s.texts.keyByDigest); err != nil {
		s.sessionByToken.Close()
		return nil, err
	}
	return s, nil
}

// selection lists the columns of a row, each named prefix and its own name.
// Columns that are only scanned are computed.
func selection(t *bunschema.Table, alias, prefix string, computed map[string]string) string {
	var cs []string
	for _, f := range t.Fields {
		cs = append(cs, fmt.Sprintf(`%s."%s" AS "%s%s"`, alias, f.Name, prefix, f.Name))
	}
	for _, name := range slices.Sorted(maps.Keys(t.FieldMap)) {
		if expr, ok := computed[name]; ok {
			cs = append(cs, fmt.Sprintf(`%s AS "%s%s"`, expr, prefix, name))
		}
	}
	return strings.Join(cs, ", ")
}

// owner is the expression for who owns a key. An application that still has
// the older schema leaves referenceId NULL.
func (s *schema) owner() string {
	if s.legacyKeys {
		return `coalesce(k."referenceId", ` + s.ids.text(`k."userId"`) + `)`
	}
	return `k."referenceId"`
}

// found returns what was found in the database, once it is migrated.
func (db *DB) found() (*schema, error) {
	s := db.schema.Load()
	if s == nil {
		return nil, rejected{fmt.Errorf("%w: the database is not migrated", authn.ErrUnavailable)}
	}
	return s, nil
}
