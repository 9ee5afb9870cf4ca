package ostiary_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/url"
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

// ann is the id of the person who is in all of them.
func (e *existing) ann() string {
	switch e.name {
	case "uuid":
		return "0b9f4f4c-6c7e-4b7e-9d0a-5f1d3c2b1a01"
	case "serial", "legacy-serial":
		return "1"
	}
	return "u1"
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
	for _, name := range []string{"core", "current", "legacy", "uuid", "serial", "legacy-serial"} {
		eachExisting(t, name, func(t *testing.T, e *existing) {
			s := e.serve(ostiary.Options{})
			login := fmt.Sprintf(`{"email":"Ann@example.test","password":%q}`, v.PasswordHashes[0].Password)
			ann := s.signedIn(s.post("/sign-in/email", login))
			if ann.id != e.ann() {
				t.Errorf("signed in as %s", ann.id)
			}
			s.want("a wrong password", s.post("/sign-in/email", strings.Replace(login, "horse", "house", 1)), 401, "INVALID_EMAIL_OR_PASSWORD")

			credentials := [][]string{{"Cookie", v.cookie()}, {"Cookie", ann.cookie}, {"Authorization", "Bearer " + v.SignedCookies[0].Value}}
			if e.name != "core" {
				credentials = append(credentials, []string{"X-Api-Key", v.APIKeyHashes[0].Key})
			}
			attributes := map[string]any{}
			if strings.HasPrefix(e.name, "legacy") {
				attributes = map[string]any{"plan": "gold", "seats": 5.0, "beta": true}
			}
			for _, c := range credentials {
				a := s.do("GET", "/v1/me", "", c...)
				principal, _ := a.json["principal"].(map[string]any)
				if a.status != 200 || principal["id"] != e.ann() {
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
				s.want("the old key, not granted", s.post("/admin/unban-user", `{"userId":"`+e.ann()+`"}`, "X-Api-Key", v.APIKeyHashes[0].Key), 403, "GRANT_MISSING")
			}
			// The application, too, finds what is new.
			eve := s.signedIn(s.post("/sign-up/email", `{"name":"Eve","email":"eve@example.test","password":"correct-horse-1"}`))
			id, _ := s.key(eve, `{"session":["list"]}`)
			var owner, password string
			column := map[string]string{"legacy": "userId", "legacy-serial": "userId"}[e.name]
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

// Whoever makes the ids, and of whatever type: everything that is done by id
// works, and an id that is none, or is spelled otherwise, is one that nobody has.
func TestIDsOfEveryKindWork(t *testing.T) {
	for name, c := range map[string]struct {
		unknown string
		none    []string
	}{
		"current": {"nobody", []string{" u1", "U1"}},
		"uuid": {"0b9f4f4c-6c7e-4b7e-9d0a-5f1d3c2b1aff", []string{
			"1", "junk", "0B9F4F4C-6C7E-4B7E-9D0A-5F1D3C2B1A01", "0b9f4f4c6c7e4b7e9d0a5f1d3c2b1a01",
			"{0b9f4f4c-6c7e-4b7e-9d0a-5f1d3c2b1a01}", " 0b9f4f4c-6c7e-4b7e-9d0a-5f1d3c2b1a01", "2d7d6b6e-8e90-4d90-9f2c-713f5e4d3c0g",
		}},
		"serial": {"4711", []string{
			"01", " 1", "1 ", "+1", "-1", "1.0", "1e0", "0x1", "1_", "\uff11", "junk", "1;", "1'", "null",
			"2147483648", "9223372036854775807", "9223372036854775808", "99999999999999999999999999",
		}},
		"legacy-serial": {"4711", []string{"01", " 1", "junk", "2147483648"}},
	} {
		eachExisting(t, name, func(t *testing.T, e *existing) {
			o := ostiary.Options{}
			o.Authn.AdminIDs = c.none
			s := e.serve(o)
			e.serve(ostiary.Options{}) // a second instance finds nothing to do
			ann := s.signedIn(s.post("/sign-in/email", `{"email":"ann@example.test","password":"correct-horse-1"}`))
			admin := []string{"Cookie", ann.cookie}

			made := s.post("/admin/create-user", `{"name":"Eve","email":"eve@example.test","password":"correct-horse-1"}`, admin...)
			s.want("create-user", made, 200, "")
			eve := s.signedIn(s.post("/sign-in/email", `{"email":"eve@example.test","password":"correct-horse-1"}`))
			if id := made.json["user"].(map[string]any)["id"]; id != eve.id || id == "" {
				t.Errorf("made %v, signed in as %q", id, eve.id)
			}
			keyID, key := s.key(eve, `{"session":["list","create"],"user":["get"]}`)
			s.want("the key", s.do("GET", "/v1/me", "", "X-Api-Key", key), 200, "")
			rotated := s.post("/api-key/rotate", `{"keyId":"`+keyID+`","overlap":60}`, "Cookie", eve.cookie)
			s.want("rotate", rotated, 200, "")
			s.want("the old secret", s.do("GET", "/v1/me", "", "X-Api-Key", key), 200, "")
			key, _ = rotated.json["key"].(string)
			s.want("the new secret", s.do("GET", "/v1/me", "", "X-Api-Key", key), 200, "")
			if a := s.post("/sign-in/api-key", "", "X-Api-Key", key); a.status != 200 {
				t.Errorf("a session for the key: got %d %s", a.status, a.body)
			}
			robot := s.do("POST", "/v1/service-accounts", `{"name":"robot"}`, admin...)
			if robot.status >= 300 {
				t.Errorf("a service account: got %d %s", robot.status, robot.body)
			}
			a := s.post("/admin/list-user-sessions", `{"userId":"`+eve.id+`"}`, admin...)
			if list, _ := a.json["sessions"].([]any); len(list) != 2 {
				t.Errorf("Eve's sessions: got %d %s, want two", a.status, a.body)
			}
			if a = s.post("/admin/has-permission", `{"userId":"`+eve.id+`","permissions":{"user":["list"]}}`, admin...); a.json["success"] != false {
				t.Errorf("has-permission: got %d %s", a.status, a.body)
			}
			a = s.post("/admin/impersonate-user", `{"userId":"`+eve.id+`"}`, admin...)
			s.want("impersonate", a, 200, "")
			cookie, _, _ := strings.Cut(a.header.Get("Set-Cookie"), ";")
			s.want("as Eve", s.do("GET", "/v1/me", "", "Cookie", cookie), 200, "")

			count := func(what, query string, want int) {
				t.Helper()
				a := s.get("/admin/list-users?"+query, admin...)
				users, _ := a.json["users"].([]any)
				if a.status != 200 || len(users) != want {
					t.Errorf("%s: got %d %s, want %d", what, a.status, a.body, want)
				}
			}
			everybody := int(s.get("/admin/list-users", admin...).json["total"].(float64))
			count("by id", "filterField=id&filterValue="+eve.id, 1)
			count("all but one", "filterField=id&filterOperator=ne&filterValue="+eve.id, everybody-1)
			count("two", "sortBy=id&sortDirection=desc&filterField=id&filterOperator=in&filterValue="+eve.id+"&filterValue="+ann.id, 2)
			count("by a part", "filterField=id&filterOperator=starts_with&filterValue="+eve.id, 1)

			// What nobody has is answered alike, whatever it looks like.
			asks := map[string]func(id string) answer{
				"/admin/get-user": func(id string) answer { return s.get("/admin/get-user?id="+url.QueryEscape(id), admin...) },
				"/api-key/get":    func(id string) answer { return s.get("/api-key/get?id="+url.QueryEscape(id), admin...) },
				"/v1/authorize": func(id string) answer {
					a := s.do("POST", "/v1/authorize", fmt.Sprintf(`{"action":"get","resource":{"type":"session","id":%s}}`, quoted(id)), admin...)
					a.body = "" // names the decision
					return a
				},
			}
			for path, body := range map[string]string{
				"/admin/set-role":             `{"userId":%s,"role":"user"}`,
				"/admin/ban-user":             `{"userId":%s}`,
				"/admin/unban-user":           `{"userId":%s}`,
				"/admin/remove-user":          `{"userId":%s}`,
				"/admin/set-user-password":    `{"userId":%s,"newPassword":"correct-horse-2"}`,
				"/admin/update-user":          `{"userId":%s,"data":{"name":"X"}}`,
				"/admin/impersonate-user":     `{"userId":%s}`,
				"/admin/list-user-sessions":   `{"userId":%s}`,
				"/admin/revoke-user-session":  `{"sessionToken":%s}`,
				"/admin/revoke-user-sessions": `{"userId":%s}`,
				"/admin/has-permission":       `{"userId":%s,"permissions":{"user":["list"]}}`,
				"/api-key/create":             `{"userId":%s}`,
				"/api-key/update":             `{"keyId":%s,"name":"x"}`,
				"/api-key/delete":             `{"keyId":%s}`,
				"/api-key/rotate":             `{"keyId":%s}`,
			} {
				asks[path] = func(id string) answer { return s.post(path, fmt.Sprintf(body, quoted(id)), admin...) }
			}
			for path, ask := range asks {
				want := ask(c.unknown)
				for _, id := range c.none {
					if got := ask(id); got.status >= 500 || got.status != want.status || strings.ReplaceAll(got.body, id, c.unknown) != want.body {
						t.Errorf("%s with %q: got %d %s, want %d %s", path, id, got.status, got.body, want.status, want.body)
					}
				}
			}
			for _, id := range c.none {
				none := "filterField=id&filterValue=" + url.QueryEscape(id)
				count("by "+id, none, 0)
				count("in "+id, none+"&filterOperator=in&filterValue="+ann.id, 1)
				count("not in "+id, none+"&filterOperator=not_in&filterValue="+ann.id, everybody-1)
				count("all but "+id, none+"&filterOperator=ne", everybody)
			}

			s.want("ban", s.post("/admin/ban-user", `{"userId":"`+eve.id+`"}`, admin...), 200, "")
			s.want("banned", s.do("GET", "/v1/me", "", "X-Api-Key", key), 401, "OWNER_BANNED")
			s.want("remove-user", s.post("/admin/remove-user", `{"userId":"`+eve.id+`"}`, admin...), 200, "")
			s.want("removed", s.do("GET", "/v1/me", "", "X-Api-Key", key), 401, "BAD_CREDENTIAL")
			s.want("the last administrator", s.post("/admin/set-role", `{"userId":"`+ann.id+`","role":"user"}`, admin...), 403, "LAST_ADMIN")
		})
	}
}

func quoted(text string) string {
	b, _ := json.Marshal(text)
	return string(b)
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
