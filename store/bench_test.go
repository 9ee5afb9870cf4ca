package store

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/internal/pgtest"
)

// filled is a file with ten thousand users, each with a session and a key.
func filled(b *testing.B) *DB {
	b.Helper()
	db := open(b, "sqlite:"+b.TempDir()+"/bench.db")
	tx, err := db.writer.DB.BeginTx(b.Context(), nil)
	must(b, err)
	const at = `'2026-03-04T05:06:07.089Z'`
	for i := range 10_000 {
		for _, q := range []string{
			`INSERT INTO "user" ("id", "name", "email", "emailVerified", "createdAt", "updatedAt", "role") VALUES ('u%d', 'n', 'u%[1]d@x.test', TRUE, ` + at + `, ` + at + `, 'user')`,
			`INSERT INTO session ("id", "token", "userId", "expiresAt", "createdAt", "updatedAt") VALUES ('s%d', 'token-%[1]d', 'u%[1]d', ` + at + `, ` + at + `, ` + at + `)`,
			`INSERT INTO apikey ("id", "configId", "referenceId", "key", "createdAt", "updatedAt", "permissions") VALUES ('k%d', 'default', 'u%[1]d', 'digest-%[1]d', ` + at + `, ` + at + `, '{"user":["list","get"]}')`,
		} {
			if _, err := tx.ExecContext(b.Context(), fmt.Sprintf(q, i)); err != nil {
				b.Fatal(err)
			}
		}
	}
	must(b, tx.Commit())
	return db
}

func BenchmarkSessionByToken(b *testing.B) {
	db := filled(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, _, _, err := db.SessionByToken(b.Context(), authn.Secret(fmt.Sprintf("token-%d", i%10_000))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkKeyByDigest(b *testing.B) {
	db := filled(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, _, _, err := db.KeyByDigest(b.Context(), fmt.Sprintf("digest-%d", i%10_000)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSpendKey(b *testing.B) {
	db := filled(b)
	must(b, func() error {
		_, err := db.UpdateKey(b.Context(), "k1", func(k *authn.APIKey) error {
			k.RateLimitMax, k.RateLimitTimeWindow, k.Remaining = ptr(int64(1e9)), ptr(int64(60_000)), ptr(int64(1e9))
			return nil
		}, event("e"))
		return err
	}())
	b.ReportAllocs()
	for b.Loop() {
		if s, err := db.SpendKey(b.Context(), "k1", time.Now(), 1); err != nil || s.Refused != nil {
			b.Fatal(err, s.Refused)
		}
	}
}

// BenchmarkWriteRecords is batches of decisions from the log to the database, as many
// as wait when it writes under load.
func BenchmarkWriteRecords(b *testing.B) {
	for name, dsn := range map[string]string{"sqlite": sqliteFile(b), "postgres": pgtest.Schema(b)} {
		b.Run(name, func(b *testing.B) { writeRecords(b, open(b, dsn)) })
	}
}

func writeRecords(b *testing.B, db *DB) {
	subject, err := authz.NewSubject(authz.Identity{
		Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialAPIKey, Roles: []string{"user", "editor", "reader"},
		User: &authz.UserFacts{ID: "u1", Name: "Ann", Email: "ann@example.com", EmailVerified: true, CreatedAt: time.Unix(1e9, 0)},
		Key:  &authz.KeyFacts{ID: "k1", Name: "ci", Permissions: authz.Permissions{"document": {"read", "list"}}, CreatedAt: time.Unix(1e9, 0)},
	})
	must(b, err)
	r := authz.Request{Subject: subject, Action: authz.Action{Name: "read"}}
	log := audit.NewLog(db, audit.Options{})
	const each = 4000
	empty := sizeOf(b, db)
	b.ReportAllocs()
	for b.Loop() {
		for i := range each {
			now := time.Now()
			r.Resource = authz.Resource{Type: "document", ID: "d" + strconv.Itoa(i)}
			facts := &authz.Facts{IP: "192.0.2.1", UserAgent: "bench/1.0", Method: "POST", Path: "/v1/authorize", RequestID: rand.Text()}
			d := authz.Decision{ID: strconv.FormatInt(now.UnixMilli(), 10) + rand.Text()[:13], Allow: true, Revision: "bf6fbefb135ed8c43983bc481c50b265", Time: now,
				Reasons: []authz.Reason{{Code: "role", Message: "role reader permits document:read"}}}
			must(b, log.Record(b.Context(), authz.Outcome{Request: r, Decision: d, Facts: facts}))
		}
		must(b, log.Flush(b.Context()))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/each, "ns/record")
	b.ReportMetric(float64(sizeOf(b, db)-empty)/float64(b.N)/each, "disk-B/record")
}

// sizeOf is how many bytes the tables of db take on disk, indexes included.
func sizeOf(b *testing.B, db *DB) (n int64) {
	b.Helper()
	query := `SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'`
	if db.dialect.name == "sqlite" {
		query = `SELECT page_count * page_size FROM pragma_page_count, pragma_page_size`
	}
	must(b, db.reader.DB.QueryRowContext(b.Context(), query).Scan(&n))
	return n
}
