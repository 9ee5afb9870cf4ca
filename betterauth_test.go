package ostiary_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/server/betterauth"
)

// What Ostiary adds to Better Auth's API, and where its rules are other ones.
// What is the same is in the transcripts.

// site is a server with an administrator and a user, signed in.
type site struct {
	t          *testing.T
	o          *ostiary.Ostiary
	url        string
	admin, bob person
}

type person struct{ id, cookie, token string }

type answer struct {
	status int
	header http.Header
	body   string
	json   map[string]any
}

func newSite(t *testing.T, change ...func(*ostiary.Options)) *site {
	t.Helper()
	options := ostiary.Options{
		Database: "sqlite::memory:", Auth: betterauth.Options{TrustedOrigins: []string{"https://app.example"}},
	}
	for _, c := range change {
		c(&options)
	}
	o, err := ostiary.Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(o.Handler())
	t.Cleanup(func() {
		server.Close()
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &site{t: t, o: o, url: server.URL}
	_, err = o.Authn().CreateUser(t.Context(), authn.System("test"), authn.NewUser{
		Name: "Ada", Email: "ada@example.com", Password: "correct-horse-1", Roles: []string{"admin"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.admin = s.signedIn(s.post("/sign-in/email", `{"email":"ada@example.com","password":"correct-horse-1"}`))
	s.bob = s.signedIn(s.post("/sign-up/email", `{"name":"Bob","email":"bob@example.com","password":"correct-horse-1","username":"bob_b"}`))
	return s
}

func (s *site) signedIn(a answer) person {
	s.t.Helper()
	if a.status != 200 {
		s.t.Fatalf("sign in: got %d %s", a.status, a.body)
	}
	cookie, _, _ := strings.Cut(a.header.Get("Set-Cookie"), ";")
	return person{a.json["user"].(map[string]any)["id"].(string), cookie, a.json["token"].(string)}
}

// do sends a request; headers are names and values in turn.
func (s *site) do(method, path, body string, headers ...string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Origin", s.url)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(data)}
	_ = json.Unmarshal(data, &a.json)
	return a
}

func (s *site) post(path, body string, headers ...string) answer {
	s.t.Helper()
	return s.do("POST", "/api/auth"+path, body, headers...)
}

func (s *site) get(path string, headers ...string) answer {
	s.t.Helper()
	return s.do("GET", "/api/auth"+path, "", headers...)
}

func (s *site) want(what string, a answer, status int, code string) {
	s.t.Helper()
	if got, _ := a.json["code"].(string); a.status != status || got != code {
		s.t.Errorf("%s: got %d %s, want %d %s", what, a.status, a.body, status, code)
	}
}

// key makes a key of p with grants and returns its id and secret.
func (s *site) key(p person, permissions string) (id, secret string) {
	s.t.Helper()
	a := s.post("/api-key/create", `{"name":"robot","permissions":`+permissions+`}`, "Cookie", p.cookie)
	if a.status != 200 {
		s.t.Fatalf("create key: got %d %s", a.status, a.body)
	}
	if a.header.Get("Cache-Control") != "no-store" {
		s.t.Errorf("create key: Cache-Control: got %q, want no-store", a.header.Get("Cache-Control"))
	}
	return a.json["id"].(string), a.json["key"].(string)
}

func TestKeysWorkOnAdminRoutesAsFarAsGranted(t *testing.T) {
	s := newSite(t)
	_, key := s.key(s.admin, `{"user":["list"]}`)
	for _, h := range [][]string{{"X-Api-Key", key}, {"Authorization", "Bearer " + key}} {
		a := s.get("/admin/list-users", h...)
		s.want(h[0], a, 200, "")
		if a.header.Get("Ostiary-Decision") == "" {
			t.Errorf("%s: no Ostiary-Decision", h[0])
		}
		a = s.post("/admin/set-role", `{"userId":"`+s.bob.id+`","role":"admin"}`, h...)
		s.want(h[0]+", not granted", a, 403, "GRANT_MISSING")
	}
	// The owner's role is needed as well as the grant.
	s.want("a user's key with more than the user has", s.post("/api-key/create", `{"permissions":{"user":["list"]}}`, "Cookie", s.bob.cookie), 403, "ESCALATION")
	// Nothing is lent by a cookie beside it.
	_, weak := s.key(s.bob, `{"apiKey":["read"]}`)
	s.want("with an administrator's cookie", s.get("/admin/list-users", "X-Api-Key", weak, "Cookie", s.admin.cookie), 403, "YOU_ARE_NOT_ALLOWED_TO_LIST_USERS")
}

// A denial has its reasons for who asks for them, in the words that it has anyhow.
func TestDenialsTellReasonsWhenAsked(t *testing.T) {
	s := newSite(t)
	_, key := s.key(s.admin, `{"user":["list"]}`)
	body := `{"userId":"` + s.bob.id + `","role":"admin"}`
	plain := s.post("/admin/set-role", body, "X-Api-Key", key)
	told := s.post("/admin/set-role", body, "X-Api-Key", key, "Ostiary-Reasons", "tell")
	s.want("told", told, 403, "GRANT_MISSING")
	if !strings.HasSuffix(told.body, `,"reasons":[{"code":"grant_missing","message":"key \"robot\" is not granted user:set-role","permission":"user:set-role"}]}`) ||
		!strings.HasPrefix(told.body, strings.TrimSuffix(plain.body, "}")) || strings.Contains(plain.body, "reasons") {
		t.Errorf("told %s, otherwise %s", told.body, plain.body)
	}
	// What is hidden from somebody stays so.
	id, _ := s.key(s.admin, `{}`)
	if a := s.post("/api-key/delete", `{"keyId":"`+id+`"}`, "Cookie", s.bob.cookie, "Ostiary-Reasons", "tell"); a.status != 404 || strings.Contains(a.body, "reasons") {
		t.Errorf("somebody else's key: %d %s", a.status, a.body)
	}
}

func TestCredentialsThatAreNotGoodAreRefused(t *testing.T) {
	s := newSite(t)
	_, key := s.key(s.admin, `{"user":["list"]}`)
	long := strings.Repeat("x", 64)
	for _, c := range []struct {
		name    string
		headers []string
		status  int
		code    string
	}{
		{"unknown key", []string{"X-Api-Key", long}, 401, "INVALID_API_KEY"},
		{"unknown bearer", []string{"Authorization", "Bearer " + long}, 401, "INVALID_API_KEY"},
		{"unknown key beside a good cookie", []string{"X-Api-Key", long, "Cookie", s.admin.cookie}, 401, "INVALID_API_KEY"},
		{"another scheme beside a good cookie", []string{"Authorization", "Basic YTpi", "Cookie", s.admin.cookie}, 401, "UNAUTHORIZED"},
		{"two", []string{"X-Api-Key", key, "Authorization", "Bearer " + s.admin.token}, 400, "AMBIGUOUS_CREDENTIALS"},
	} {
		a := s.get("/admin/list-users", c.headers...)
		s.want(c.name, a, c.status, c.code)
		if (a.header.Get("WWW-Authenticate") != "") != (c.status == 401) {
			t.Errorf("%s: WWW-Authenticate: got %q", c.name, a.header.Get("WWW-Authenticate"))
		}
	}
	s.want("a session token as bearer", s.get("/admin/list-users", "Authorization", "Bearer "+s.admin.token), 200, "")
}

func TestASessionFromAKeyCarriesItsGrantsAndEndsWithIt(t *testing.T) {
	s := newSite(t)
	id, key := s.key(s.admin, `{"user":["list"],"session":["create","list"]}`)
	_, without := s.key(s.admin, `{"user":["list"]}`)
	s.want("not granted", s.post("/sign-in/api-key", `{}`, "X-Api-Key", without), 403, "GRANT_MISSING")
	s.want("none", s.post("/sign-in/api-key", `{}`), 400, "VALIDATION_ERROR")
	s.want("unknown", s.post("/sign-in/api-key", `{"key":"`+strings.Repeat("x", 64)+`"}`), 401, "INVALID_API_KEY")
	s.want("two", s.post("/sign-in/api-key", `{"key":"`+key+`"}`, "X-Api-Key", without), 400, "AMBIGUOUS_CREDENTIALS")
	s.want("foreign origin", s.post("/sign-in/api-key", `{"key":"`+key+`"}`, "Origin", "https://evil.example"), 403, "INVALID_ORIGIN")

	inHeader := s.signedIn(s.post("/sign-in/api-key", `{}`, "X-Api-Key", key))
	p := s.signedIn(s.post("/sign-in/api-key", `{"key":"`+key+`"}`))
	if p.id != s.admin.id || inHeader.id != s.admin.id {
		t.Errorf("signed in as %s and %s, want %s", p.id, inHeader.id, s.admin.id)
	}
	s.want("granted", s.get("/admin/list-users", "Cookie", p.cookie), 200, "")
	s.want("not granted", s.post("/admin/set-role", `{"userId":"`+s.bob.id+`","role":"admin"}`, "Cookie", p.cookie), 403, "GRANT_MISSING")
	a := s.get("/list-sessions", "Cookie", p.cookie)
	if a.status != 200 || !strings.Contains(a.body, `"id"`) {
		t.Fatalf("list-sessions: got %d %s", a.status, a.body)
	}
	for _, secret := range []string{s.admin.token, p.token, inHeader.token} {
		if strings.Contains(a.body, secret) {
			t.Error("list-sessions shows a token to a session that was obtained with a key")
		}
	}
	s.want("delete key", s.post("/api-key/delete", `{"keyId":"`+id+`"}`, "Cookie", s.admin.cookie), 200, "")
	s.want("after the key", s.get("/admin/list-users", "Cookie", p.cookie), 401, "")
	if a := s.get("/get-session", "Cookie", p.cookie); a.body != "null" {
		t.Errorf("get-session after the key: got %s, want null", a.body)
	}
}

func TestRotatedKeys(t *testing.T) {
	s := newSite(t)
	id, old := s.key(s.admin, `{"user":["list"]}`)
	a := s.post("/api-key/rotate", `{"keyId":"`+id+`","overlap":3600}`, "Cookie", s.admin.cookie)
	s.want("rotate", a, 200, "")
	second, _ := a.json["key"].(string)
	if a.json["id"] != id || second == "" || second == old || a.header.Get("Ostiary-Revision") == "" {
		t.Fatalf("rotate: got %s", a.body)
	}
	s.want("old, overlapping", s.get("/admin/list-users", "X-Api-Key", old), 200, "")
	s.want("new", s.get("/admin/list-users", "X-Api-Key", second), 200, "")
	a = s.post("/api-key/rotate", `{"keyId":"`+id+`"}`, "Cookie", s.admin.cookie)
	s.want("rotate again", a, 200, "")
	s.want("superseded at once", s.get("/admin/list-users", "X-Api-Key", second), 401, "SUPERSEDED")
	s.want("newest", s.get("/admin/list-users", "X-Api-Key", a.json["key"].(string)), 200, "")
	s.want("somebody else's", s.post("/api-key/rotate", `{"keyId":"`+id+`"}`, "Cookie", s.bob.cookie), 404, "KEY_NOT_FOUND")
}

func TestAdministratorsManageOtherPeoplesKeys(t *testing.T) {
	s := newSite(t)
	id, _ := s.key(s.bob, `{"apiKey":["read"]}`)
	admin, bob := []string{"Cookie", s.admin.cookie}, []string{"Cookie", s.bob.cookie}

	a := s.get("/api-key/list?userId="+s.bob.id, admin...)
	if a.status != 200 || a.json["total"] != 1.0 || !strings.Contains(a.body, id) {
		t.Errorf("list: got %d %s", a.status, a.body)
	}
	s.want("list, by a user", s.get("/api-key/list?userId="+s.admin.id, bob...), 403, "ROLE_MISSING")
	s.want("get", s.get("/api-key/get?id="+id+"&userId="+s.bob.id, admin...), 200, "")
	s.want("get of the wrong user", s.get("/api-key/get?id="+id+"&userId="+s.admin.id, admin...), 404, "KEY_NOT_FOUND")
	s.want("update", s.post("/api-key/update", `{"keyId":"`+id+`","userId":"`+s.bob.id+`","enabled":false}`, admin...), 200, "")
	s.want("create", s.post("/api-key/create", `{"name":"x","userId":"`+s.bob.id+`"}`, admin...), 200, "")
	s.want("create, by a user", s.post("/api-key/create", `{"name":"x","userId":"`+s.admin.id+`"}`, bob...), 401, "UNAUTHORIZED_SESSION")
	s.want("delete of the wrong user", s.post("/api-key/delete", `{"keyId":"`+id+`","userId":"`+s.admin.id+`"}`, admin...), 404, "KEY_NOT_FOUND")
	s.want("delete", s.post("/api-key/delete", `{"keyId":"`+id+`","userId":"`+s.bob.id+`"}`, admin...), 200, "")
}

// Where tokens are not shown, ids stand in for them, and do what tokens do
// for those who may end sessions; but they open nothing.
func TestSessionIDsEndSessionsAndOpenNone(t *testing.T) {
	s := newSite(t)
	_, key := s.key(s.admin, `{"session":["list"]}`)
	a := s.post("/admin/list-user-sessions", `{"userId":"`+s.bob.id+`"}`, "X-Api-Key", key)
	sessions, _ := a.json["sessions"].([]any)
	if len(sessions) != 1 || strings.Contains(a.body, s.bob.token) {
		t.Fatalf("list-user-sessions: got %d %s", a.status, a.body)
	}
	id := sessions[0].(map[string]any)["token"].(string)
	s.want("id as bearer", s.get("/list-accounts", "Authorization", "Bearer "+id), 401, "INVALID_API_KEY")
	s.want("by somebody else", s.post("/revoke-session", `{"token":"`+id+`"}`, "Cookie", s.admin.cookie), 200, "")
	if a := s.get("/get-session", "Cookie", s.bob.cookie); a.body == "null" {
		t.Error("revoke-session ended somebody else's session")
	}
	s.want("by an administrator", s.post("/admin/revoke-user-session", `{"sessionToken":"`+id+`"}`, "Cookie", s.admin.cookie), 200, "")
	if a := s.get("/get-session", "Cookie", s.bob.cookie); a.body != "null" {
		t.Errorf("after the revocation: got %s, want null", a.body)
	}
}

func TestHasPermissionAboutOthersTakesPermission(t *testing.T) {
	s := newSite(t)
	list := `"permissions":{"user":["list"]}`
	for _, c := range []struct {
		name, body string
		as         person
		status     int
		code       string
		success    any
	}{
		{"oneself", `{` + list + `}`, s.admin, 200, "", true},
		{"the deprecated member", `{"permission":{"user":["list"]}}`, s.admin, 200, "", true},
		{"oneself by id", `{"userId":"` + s.bob.id + `",` + list + `}`, s.bob, 200, "", false},
		{"another user", `{"userId":"` + s.bob.id + `",` + list + `}`, s.admin, 200, "", false},
		{"another role", `{"role":"admin",` + list + `}`, s.admin, 200, "", true},
		{"an unknown user", `{"userId":"nope",` + list + `}`, s.admin, 400, "", nil},
		{"another user, by a user", `{"userId":"` + s.admin.id + `",` + list + `}`, s.bob, 403, "ROLE_MISSING", nil},
		{"a role, by a user", `{"role":"admin",` + list + `}`, s.bob, 403, "ROLE_MISSING", nil},
		{"both members", `{"permission":{"user":["list"]},` + list + `}`, s.admin, 400, "VALIDATION_ERROR", nil},
		{"nothing", `{"permissions":{}}`, s.admin, 200, "", false},
		{"no action", `{"permissions":{"user":[]}}`, s.admin, 200, "", false},
	} {
		a := s.post("/admin/has-permission", c.body, "Cookie", c.as.cookie)
		s.want(c.name, a, c.status, c.code)
		if a.json["success"] != c.success {
			t.Errorf("%s: got %v, want %v", c.name, a.json["success"], c.success)
		}
	}
}

func TestUsersCanNotChooseIds(t *testing.T) {
	s := newSite(t)
	a := s.post("/admin/create-user", `{"name":"X","email":"x@example.com","data":{"id":"root"}}`, "Cookie", s.admin.cookie)
	s.want("create with id", a, 400, "FIELD_NOT_ALLOWED")
}

func TestUsernameSignInIsProtectedAgainstLoginCSRF(t *testing.T) {
	s := newSite(t)
	login := `{"username":"bob_b","password":"correct-horse-1"}`
	s.want("own origin", s.post("/sign-in/username", login), 200, "")
	s.want("trusted origin", s.post("/sign-in/username", login, "Origin", "https://app.example"), 200, "")
	s.want("foreign origin", s.post("/sign-in/username", login, "Origin", "https://evil.example"), 403, "INVALID_ORIGIN")
}

func TestOnePathHasOneSpelling(t *testing.T) {
	s := newSite(t)
	for _, path := range []string{
		"/api/auth//ok", "//api/auth/ok", "/api/auth/ok/", "/api/auth/%6fk", "/api/auth/%6Fk", "/api/auth/./ok",
		"/api/auth/x/../ok", "/api/auth/OK", "/API/auth/ok", "/api/auth/ok%2f", "/api/auth/ok;x", "/api/auth", "/api/auth/",
		"/api%2fauth/ok", "/api/auth/ok%00",
	} {
		req := "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
		a := s.raw(req)
		if !bytes.HasPrefix(a, []byte("HTTP/1.1 404")) && !bytes.HasPrefix(a, []byte("HTTP/1.1 400")) {
			t.Errorf("%s: got %q, want 404", path, a)
		}
	}
}

// A session_data cookie that is too long for one comes in parts, and what is
// left of a longer one goes.
func TestSessionDataComesInParts(t *testing.T) {
	s := newSite(t, func(o *ostiary.Options) { o.Auth.CookieCache = true })
	jar := map[string]string{}
	keep := func(a answer) {
		t.Helper()
		for _, line := range a.header.Values("Set-Cookie") {
			pair, attributes, _ := strings.Cut(line, "; ")
			name, value, _ := strings.Cut(pair, "=")
			if len(line) > 4096 {
				t.Errorf("a cookie of %d bytes", len(line))
			}
			if strings.HasPrefix(attributes, "Max-Age=0;") {
				delete(jar, name)
			} else {
				jar[name] = value
			}
		}
	}
	cookies := func() string {
		var b strings.Builder
		for name, value := range jar {
			b.WriteString(name + "=" + value + "; ")
		}
		return b.String()
	}
	names := func() string { return strings.Join(slices.Sorted(maps.Keys(jar)), " ") }
	rename := func(name string) {
		t.Helper()
		a := s.post("/update-user", `{"name":"`+name+`"}`, "Cookie", cookies())
		s.want("update-user", a, 200, "")
		keep(a)
	}
	const data = "better-auth.session_data"
	keep(s.post("/sign-in/email", `{"email":"bob@example.com","password":"correct-horse-1"}`))
	if got, want := names(), data+" better-auth.session_token"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	rename(strings.Repeat("B", 8000))
	if got, want := names(), data+".0 "+data+".1 "+data+".2 better-auth.session_token"; got != want {
		t.Errorf("a long name: got %s, want %s", got, want)
	}
	if a := s.get("/get-session", "Cookie", cookies()); len(a.header.Values("Set-Cookie")) > 0 {
		t.Errorf("parts that are current are written again: %q", a.header.Values("Set-Cookie"))
	}
	rename(strings.Repeat("B", 4000))
	if got, want := names(), data+".0 "+data+".1 better-auth.session_token"; got != want {
		t.Errorf("a shorter name: got %s, want %s", got, want)
	}
	rename("Bob")
	if got, want := names(), data+" better-auth.session_token"; got != want {
		t.Errorf("a short name: got %s, want %s", got, want)
	}
	rename(strings.Repeat("B", 4000))
	keep(s.post("/sign-out", `{}`, "Cookie", cookies()))
	if names() != "" {
		t.Errorf("sign-out left %s", names())
	}
}

func TestBodiesHaveLimits(t *testing.T) {
	s := newSite(t)
	s.want("large", s.post("/sign-in/email", `{"email":"`+strings.Repeat("x", 2<<20)+`"}`), 413, "PAYLOAD_TOO_LARGE")
	s.want("deep", s.post("/sign-in/email", strings.Repeat("[", 100)+strings.Repeat("]", 100)), 400, "BAD_REQUEST")
}

// raw sends bytes that no HTTP client would.
func (s *site) raw(request string) []byte {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		s.t.Fatal(err)
	}
	data, err := io.ReadAll(conn)
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}
