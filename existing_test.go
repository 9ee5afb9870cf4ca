package ostiary_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/internal/pgtest"
)

// Databases that Better Auth made, with people in them. The vectors are what
// these people have in their hands.
type existing struct {
	t        *testing.T
	name     string
	database string
	db       *sql.DB
}

type inHand struct {
	Secret         string
	SignedCookies  []struct{ Value, CookieValue string }
	PasswordHashes []struct{ Password, Stored string }
	APIKeyHashes   []struct{ Key, Stored string } `json:"apiKeyHashes"`
}

func vectors(t *testing.T) (v inHand) {
	t.Helper()
	readJSON(t, "testdata/betterauth/vectors.json", &v)
	return v
}

// cookie is the one that Better Auth gave Ann.
func (v inHand) cookie() string { return "better-auth.session_token=" + v.SignedCookies[0].CookieValue }

// eachExisting runs a test on testdata/betterauth/NAME.*.sql.
func eachExisting(t *testing.T, name string, test func(t *testing.T, e *existing)) {
	t.Helper()
	for dialect, database := range map[string]func(t *testing.T) (driver, dsn, name string){
		"sqlite": func(t *testing.T) (string, string, string) {
			path := filepath.Join(t.TempDir(), "app.db")
			return "sqlite", "file:" + path + "?_pragma=busy_timeout(10000)&_txlock=immediate", "sqlite:" + path
		},
		"postgres": func(t *testing.T) (string, string, string) {
			dsn := pgtest.Schema(t)
			return "pgx", dsn, dsn
		},
	} {
		t.Run(name+"/"+dialect, func(t *testing.T) {
			t.Parallel()
			driver, dsn, database := database(t)
			db, err := sql.Open(driver, dsn)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			script, err := os.ReadFile(filepath.Join("testdata", "betterauth", name+"."+dialect+".sql"))
			if err != nil {
				t.Fatal(err)
			}
			e := &existing{t, name, database, db}
			e.exec(string(script))
			test(t, e)
		})
	}
}

func (e *existing) exec(query string) {
	e.t.Helper()
	if _, err := e.db.ExecContext(e.t.Context(), query); err != nil {
		e.t.Fatalf("%s: %v", query, err)
	}
}

// serve opens the database with Ostiary.
func (e *existing) serve(o ostiary.Options) *site {
	e.t.Helper()
	o.Database = e.database
	if o.Secrets == nil {
		o.Secrets = []string{vectors(e.t).Secret}
	}
	i, err := ostiary.Open(e.t.Context(), o)
	if err != nil {
		e.t.Fatal(err)
	}
	server := httptest.NewServer(i.Handler())
	e.t.Cleanup(func() {
		server.Close()
		if err := i.Close(); err != nil {
			e.t.Error(err)
		}
	})
	return &site{t: e.t, o: i, url: server.URL}
}

// People of an existing database stay signed in, their passwords match and
// their keys verify; what the application added to them is known to policies.
func TestExistingDatabaseIsServed(t *testing.T) {
	v := vectors(t)
	for _, name := range []string{"core", "current", "legacy"} {
		eachExisting(t, name, func(t *testing.T, e *existing) {
			s := e.serve(ostiary.Options{})
			login := fmt.Sprintf(`{"email":"Ann@example.test","password":%q}`, v.PasswordHashes[0].Password)
			ann := s.signedIn(s.post("/sign-in/email", login))
			if ann.id != "u1" {
				t.Errorf("signed in as %s", ann.id)
			}
			s.want("a wrong password", s.post("/sign-in/email", strings.Replace(login, "horse", "house", 1)), 401, "INVALID_EMAIL_OR_PASSWORD")

			credentials := [][]string{{"Cookie", v.cookie()}, {"Cookie", ann.cookie}, {"Authorization", "Bearer " + v.SignedCookies[0].Value}}
			if e.name != "core" {
				credentials = append(credentials, []string{"X-Api-Key", v.APIKeyHashes[0].Key})
			}
			attributes := map[string]any{}
			if e.name == "legacy" {
				attributes = map[string]any{"plan": "gold", "seats": 5.0, "beta": true}
			}
			for _, c := range credentials {
				a := s.do("GET", "/v1/me", "", c...)
				principal, _ := a.json["principal"].(map[string]any)
				if a.status != 200 || principal["id"] != "u1" {
					t.Fatalf("%s: got %d %s", c[0], a.status, a.body)
				}
				got, _ := principal["user"].(map[string]any)["attributes"].(map[string]any)
				if len(got)+len(attributes) > 0 && !reflect.DeepEqual(got, attributes) {
					t.Errorf("%s: attributes: got %v, want %v", c[0], got, attributes)
				}
			}
			if a := s.get("/get-session", "Cookie", v.cookie()); a.json["user"] == nil {
				t.Errorf("get-session: got %d %s", a.status, a.body)
			}
			if e.name != "core" {
				s.want("the old key, as granted", s.get("/admin/list-users", "X-Api-Key", v.APIKeyHashes[0].Key), 200, "")
				s.want("the old key, not granted", s.post("/admin/unban-user", `{"userId":"u1"}`, "X-Api-Key", v.APIKeyHashes[0].Key), 403, "GRANT_MISSING")
			}
			// The application, too, finds what is new.
			eve := s.signedIn(s.post("/sign-up/email", `{"name":"Eve","email":"eve@example.test","password":"correct-horse-1"}`))
			id, _ := s.key(eve, `{"session":["list"]}`)
			var owner, password string
			column := map[string]string{"legacy": "userId"}[e.name]
			if column == "" {
				column = "referenceId"
			}
			err := errors.Join(
				e.db.QueryRow(`SELECT "`+column+`" FROM "apikey" WHERE "id" = '`+id+`'`).Scan(&owner),
				e.db.QueryRow(`SELECT "password" FROM "account" WHERE "userId" = '`+eve.id+`' AND "providerId" = 'credential'`).Scan(&password),
			)
			if err != nil || owner != eve.id || len(password) != 161 {
				t.Errorf("new rows: key of %q, password of %d characters, %v", owner, len(password), err)
			}
		})
	}
}

// With another secret nobody is signed in; keys and passwords do not depend
// on it.
func TestAnotherSecretSignsNobodyIn(t *testing.T) {
	v := vectors(t)
	eachExisting(t, "current", func(t *testing.T, e *existing) {
		s := e.serve(ostiary.Options{Secrets: []string{"another secret of thirty-two characters"}})
		if a := s.get("/get-session", "Cookie", v.cookie()); a.status != 200 || a.body != "null" {
			t.Errorf("get-session: got %d %s, want null", a.status, a.body)
		}
		s.want("list-sessions", s.get("/list-sessions", "Cookie", v.cookie()), 401, "UNAUTHORIZED")
		s.want("/v1/me", s.do("GET", "/v1/me", "", "Cookie", v.cookie()), 401, "BAD_CREDENTIAL")
		s.want("the key", s.do("GET", "/v1/me", "", "X-Api-Key", v.APIKeyHashes[0].Key), 200, "")
		s.signedIn(s.post("/sign-in/email", `{"email":"ann@example.test","password":"correct-horse-1"}`))

		// The old one goes on verifying where it is listed, and signs nothing.
		s = e.serve(ostiary.Options{Secrets: []string{"another secret of thirty-two characters", v.Secret}})
		s.want("a retired secret", s.do("GET", "/v1/me", "", "Cookie", v.cookie()), 200, "")
		fresh := s.signedIn(s.post("/sign-in/email", `{"email":"ann@example.test","password":"correct-horse-1"}`))
		s = e.serve(ostiary.Options{})
		s.want("signed with the new one", s.do("GET", "/v1/me", "", "Cookie", fresh.cookie), 401, "BAD_CREDENTIAL")
	})
}

// A cookie of another application on the same host is not ours, however well
// it is signed.
func TestForeignCookiesAreNotLookedAt(t *testing.T) {
	v := vectors(t)
	value := v.SignedCookies[0].CookieValue
	eachExisting(t, "current", func(t *testing.T, e *existing) {
		s := e.serve(ostiary.Options{})
		for _, name := range []string{
			"other.session_token", "__Secure-better-auth.session_token", "__Host-better-auth.session_token",
			"better-auth-session_token", "Better-Auth.session_token", "better-auth.session_token2", "xbetter-auth.session_token",
			"better-auth.admin_session", "better-auth.dont_remember",
		} {
			if a := s.get("/get-session", "Cookie", name+"="+value); a.status != 200 || a.body != "null" {
				t.Errorf("%s: got %d %s, want null", name, a.status, a.body)
			}
			s.want(name, s.get("/list-sessions", "Cookie", name+"="+value), 401, "UNAUTHORIZED")
		}
		s.want("ours beside one", s.get("/get-session", "Cookie", "other.session_token=x; "+v.cookie()), 200, "")

		o := ostiary.Options{}
		o.Request.CookiePrefix, o.Request.SecureCookies = "shop", true
		s = e.serve(o)
		if a := s.get("/get-session", "Cookie", v.cookie()); a.body != "null" {
			t.Errorf("the default prefix where another is configured: got %s", a.body)
		}
		a := s.get("/get-session", "Cookie", "__Secure-shop.session_token="+value)
		if a.json["user"] == nil {
			t.Errorf("the configured prefix: got %d %s", a.status, a.body)
		}
	})
}

// A database that is not as Better Auth leaves it is refused at the start,
// saying what is wrong; nothing is left half done.
func TestHalfMigratedDatabaseIsRefused(t *testing.T) {
	for what, c := range map[string]struct{ alter, says string }{
		"a session without tokens":      {`ALTER TABLE "session" RENAME COLUMN "token" TO "sessionToken"`, "table session exists but has no column token"},
		"accounts without passwords":    {`ALTER TABLE "account" RENAME COLUMN "password" TO "hash"`, "table account exists but has no column password"},
		"keys without digests":          {`ALTER TABLE "apikey" RENAME COLUMN "key" TO "hashed"`, "table apikey exists but has no column key"},
		"users of something else":       {`ALTER TABLE "user" RENAME COLUMN "email" TO "login"`, "table user exists but has no column email"},
		"snake case":                    {`ALTER TABLE "session" RENAME COLUMN "userId" TO "user_id"`, "table session exists but has no column userId"},
		"keys without times of the end": {`ALTER TABLE "apikey" RENAME COLUMN "expiresAt" TO "expires_at"`, "table apikey exists but has no column expiresAt"},
	} {
		t.Run(what, func(t *testing.T) {
			eachExisting(t, "current", func(t *testing.T, e *existing) {
				e.exec(c.alter)
				_, err := ostiary.Open(t.Context(), ostiary.Options{Database: e.database, Secrets: []string{vectors(t).Secret}})
				if invalid, ok := errors.AsType[*authn.InvalidError](err); !ok || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s: got %v (%v), want %q", what, err, invalid, c.says)
				}
				if _, err := e.db.Exec(`SELECT 1 FROM "ostiary_user"`); err == nil {
					t.Errorf("%s: our tables were made all the same", what)
				}
			})
		})
	}
}

// Rows that cannot be read refuse their holder, say so in the log, and do not
// stand in the way of others.
func TestUnreadableRowsOpenNothing(t *testing.T) {
	v := vectors(t)
	key := []string{"X-Api-Key", v.APIKeyHashes[0].Key}
	cookie := []string{"Cookie", v.cookie()}
	list := func(s *site, headers ...string) answer { return s.get("/admin/list-users", headers...) }
	for _, c := range []struct {
		name, spoil string
		ask         func(s *site) answer
		status      []int
		log         string
	}{
		{"permissions that are not JSON", `UPDATE "apikey" SET "permissions" = '{"user":["list"'`,
			func(s *site) answer { return list(s, key...) }, []int{403}, ""},
		{"permissions of another form", `UPDATE "apikey" SET "permissions" = '{"user":"list"}'`,
			func(s *site) answer { return list(s, key...) }, []int{403}, ""},
		{"permissions that are a list", `UPDATE "apikey" SET "permissions" = '["user:list"]'`,
			func(s *site) answer { return list(s, key...) }, []int{403}, ""},
		{"permissions that are a star", `UPDATE "apikey" SET "permissions" = '"*"'`,
			func(s *site) answer { return list(s, key...) }, []int{403}, ""},
		{"metadata that is not JSON", `UPDATE "apikey" SET "metadata" = '{"team":'`,
			func(s *site) answer { return list(s, key...) }, []int{401}, "metadata"},
		{"metadata of one key among others", `UPDATE "apikey" SET "metadata" = '{"team":' WHERE "id" = 'k1'`,
			func(s *site) answer { return s.get("/api-key/list", cookie...) }, []int{200}, ""},
		{"a hash without salt", `UPDATE "account" SET "password" = 'plain text'`,
			func(s *site) answer {
				return s.post("/sign-in/email", `{"email":"ann@example.test","password":"plain text"}`)
			}, []int{401}, "malformed"},
		{"an empty hash", `UPDATE "account" SET "password" = ':'`,
			func(s *site) answer {
				return s.post("/sign-in/email", `{"email":"ann@example.test","password":"correct-horse-1"}`)
			}, []int{401}, "malformed"},
		{"a salt without hash", `UPDATE "account" SET "password" = '00:'`,
			func(s *site) answer { return s.post("/sign-in/email", `{"email":"ann@example.test","password":""}`) }, []int{401}, ""},
		{"a hash of another kind", `UPDATE "account" SET "password" = '$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy'`,
			func(s *site) answer {
				return s.post("/sign-in/email", `{"email":"ann@example.test","password":"correct-horse-1"}`)
			}, []int{401}, "malformed"},
		{"a key without an owner", `UPDATE "apikey" SET "referenceId" = 'gone'`,
			func(s *site) answer { return list(s, key...) }, []int{401}, ""},
		{"a role of commas", `UPDATE "user" SET "role" = ' ,, '`,
			func(s *site) answer { return list(s, cookie...) }, []int{403}, ""},
		{"a session impersonated by nobody", `UPDATE "session" SET "impersonatedBy" = 'gone'`,
			func(s *site) answer { return list(s, cookie...) }, []int{401}, ""},
		{"an impersonation by an empty name", `UPDATE "session" SET "impersonatedBy" = ''`,
			func(s *site) answer { return list(s, cookie...) }, []int{401}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachExisting(t, "current", func(t *testing.T, e *existing) {
				e.exec(c.spoil)
				var log lines
				s := e.serve(ostiary.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
				a := c.ask(s)
				ok := false
				for _, status := range c.status {
					ok = ok || a.status == status
				}
				if !ok {
					t.Errorf("got %d %s, want %v\n%s", a.status, a.body, c.status, log.String())
				}
				if a.status >= 400 && a.status != 401 && !json.Valid([]byte(a.body)) {
					t.Errorf("got %d %q, want an error that says something", a.status, a.body)
				}
				if c.log != "" && !strings.Contains(log.String(), c.log) {
					t.Errorf("the log does not speak of %q:\n%s", c.log, log.String())
				}
			})
		})
	}
}

// SQLite keeps texts in columns of dates. One that is no date ends nothing
// late: the row is refused.
func TestDatesThatAreNoneAreRefused(t *testing.T) {
	v := vectors(t)
	eachExisting(t, "current", func(t *testing.T, e *existing) {
		if !strings.HasPrefix(e.database, "sqlite:") {
			return // has a type for them
		}
		e.exec(`UPDATE "session" SET "expiresAt" = 'never'; UPDATE "apikey" SET "expiresAt" = 'never'`)
		s := e.serve(ostiary.Options{})
		for _, c := range [][]string{{"Cookie", v.cookie()}, {"X-Api-Key", v.APIKeyHashes[0].Key}} {
			if a := s.get("/admin/list-users", c...); a.status < 400 {
				t.Errorf("%s: got %d %s", c[0], a.status, a.body)
			}
		}
		e.exec(`UPDATE "user" SET "banExpires" = 'never', "banned" = 1`)
		if a := s.post("/sign-in/email", `{"email":"ann@example.test","password":"correct-horse-1"}`); a.status < 400 {
			t.Errorf("a ban until never: got %d %s", a.status, a.body)
		}
	})
}

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
