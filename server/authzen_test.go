package server_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/server"
	"github.com/ostiary/ostiary/server/authzen"
)

// records opens a house with the example of the certification scenario in it, and
// returns a key that may ask.
func records(t testing.TB, change ...func(*server.Options)) (*house, string) {
	t.Helper()
	h := open(t, os.DirFS("../examples/authzen/certification/policies"), change...)
	var entities struct{ Subjects, Resources []directory.Entity }
	text, err := os.ReadFile("../examples/authzen/certification/entities.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &entities); err != nil {
		t.Fatal(err)
	}
	if _, err := h.directory.Import(t.Context(), system, append(entities.Subjects, entities.Resources...)); err != nil {
		t.Fatal(err)
	}
	_, key := h.key(t, h.user(t, "pep", "admin"), authz.Permissions{"access": {"evaluate", "search"}})
	return h, key
}

const (
	readOne   = `{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}`
	whoReads  = `{"subject":{"type":"user"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}%s}`
	whatReads = `{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record"}%s}`
)

func TestAuthZENAnswers(t *testing.T) {
	h, key := records(t)
	for _, c := range []struct{ path, body, want string }{
		{"evaluation", readOne, `{"decision":true}`},
		{"evaluations", readOne, `{"decision":true}`},
		{"evaluations", `{"subject":{"type":"user","id":"bob"},"resource":{"type":"record","id":"record-1"},"evaluations":[{"action":{"name":"read"}},{"action":{"name":"write"}},{}]}`,
			`{"evaluations":[{"decision":true},{"decision":false},{"decision":false,"context":{"error":{"message":"action: required","status":400}}}]}`},
		{"search/subject", fmt.Sprintf(whoReads, ""), `{"results":[{"type":"user","id":"alice"},{"type":"user","id":"bob"}]}`},
		{"search/resource", fmt.Sprintf(whatReads, `,"page":{}`), `{"page":{"next_token":""},"results":[{"type":"record","id":"record-1"},{"type":"record","id":"record-2"}]}`},
		{"search/action", `{"subject":{"type":"user","id":"alice"},"resource":{"type":"record","id":"record-2"}}`, `{"results":[{"name":"read"}]}`},
		{"search/action", `{"subject":{"type":"user","id":"nobody"},"resource":{"type":"record","id":"record-2"}}`, `{"results":[]}`},
	} {
		got := h.do(t, "POST", "/access/v1/"+c.path, c.body, "Authorization: Bearer "+key)
		if got.StatusCode != 200 || got.body != c.want {
			t.Errorf("%s %s: got %d %s, want %s", c.path, c.body, got.StatusCode, got.body, c.want)
		}
	}
}

// What policies hand back is handed on; reasons are not.
func TestAuthZENContextIsThePolicys(t *testing.T) {
	h := open(t, fstest.MapFS{"record.rego": &fstest.MapFile{Data: []byte(`package app.record

allow if input.action.name == "read"

deny contains "a secret of the policy's" if input.action.name == "write"

context := {"reason_user": {"403": "ask the owner"}, "n": 12345678901234567890} if input.action.name == "write"`)}})
	_, key := h.key(t, h.user(t, "pep", "admin"), authz.Permissions{"access": {"evaluate"}})
	for action, want := range map[string]string{
		"read":  `{"decision":true}`,
		"write": `{"decision":false,"context":{"n":12345678901234567890,"reason_user":{"403":"ask the owner"}}}`,
	} {
		got := h.do(t, "POST", "/access/v1/evaluation", strings.Replace(readOne, "read", action, 1), "x-api-key: "+key)
		if got.body != want {
			t.Errorf("%s: got %s, want %s", action, got.body, want)
		}
	}
}

// Whoever asks for reasons is told them, those of the decision and those of not
// being let ask; a batch and the answers of others stay as the specification has them.
func TestAuthZENTellsReasonsWhenAsked(t *testing.T) {
	h := open(t, fstest.MapFS{"record.rego": &fstest.MapFile{Data: []byte(`package app.record

allow if input.action.name == "read"

deny contains {"code": "sealed", "message": "it is sealed", "until": 12345678901234567890} if input.action.name == "write"`)}})
	_, key := h.key(t, h.user(t, "pep", "admin"), authz.Permissions{"access": {"evaluate"}})
	_, other := h.key(t, h.user(t, "other", "admin"), nil)
	for _, c := range []struct{ name, path, key, body, want string }{
		{"denied", "/access/v1/evaluation", key, strings.Replace(readOne, "read", "write", 1), `{"code":"sealed","message":"it is sealed","details":{"until":12345678901234567890}}],"policyRevision":"`},
		{"allowed", "/access/v1/evaluation", key, readOne, `{"decision":true,"reasons":[{"code":"app",`},
		{"may not ask", "/access/v1/evaluation", other, readOne, `"reasons":[{"code":"grant_missing",`},
		{"a batch", "/access/v1/evaluations", key, strings.TrimSuffix(readOne, "}") + `,"evaluations":[{}]}`, `{"evaluations":[{"decision":true}]}`},
	} {
		got := h.do(t, "POST", c.path, c.body, "x-api-key: "+c.key, "Ostiary-Reasons: tell")
		if !strings.Contains(got.body, c.want) {
			t.Errorf("%s: got %s, want %s", c.name, got.body, c.want)
		}
		if c.path == "/access/v1/evaluation" {
			if got := h.do(t, "POST", c.path, c.body, "x-api-key: "+c.key); strings.Contains(got.body, "reasons") {
				t.Errorf("%s: got %s without being asked", c.name, got.body)
			}
		}
	}
}

// Whoever asked, and what it said of whom, is on record.
func TestAuthZENDecisionsAreOnRecord(t *testing.T) {
	h, key := records(t)
	_, reader := h.key(t, h.user(t, "auditor", "admin"), authz.Permissions{"decision": {"read"}})
	body := `{"subject":{"type":"user","id":"bob","properties":{"role":"clerk"}},"resource":{"type":"record","id":"record-1"},"context":{"device":"phone"},"evaluations":[{"action":{"name":"read"}},{"action":{"name":"write"}},{"action":{}}]}`
	got := h.do(t, "POST", "/access/v1/evaluations", body, "Authorization: Bearer "+key, "X-Request-Id: r 1")
	id := got.Header.Get("Ostiary-Decision")
	var record struct {
		Allow     bool
		RequestID string `json:"requestId"`
		Input     struct {
			Principal struct {
				ID, Credential string
				Properties     map[string]any
				AssertedBy     map[string]any
			}
			Action  struct{ Name string }
			Context map[string]any
		}
	}
	if err := h.records.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.do(t, "GET", "/v1/decisions/"+id, "", "x-api-key: "+reader).decode(t, &record)
	p := record.Input.Principal
	if record.Allow || p.ID != "bob" || p.Credential != "asserted" || p.Properties["role"] != "clerk" || p.AssertedBy["id"] == "" || p.AssertedBy["keyId"] == nil ||
		record.Input.Action.Name != "write" || record.Input.Context["device"] != "phone" || record.Input.Context["ip"] != nil || record.RequestID != `"r 1"` {
		t.Errorf("the last decision of the batch is on record as %+v", record)
	}
}

// An answer that the caller may not have is none, not a list of denials.
func TestAuthZENNeedsPermission(t *testing.T) {
	h, _ := records(t)
	_, evaluates := h.key(t, h.user(t, "evaluates", "admin"), authz.Permissions{"access": {"evaluate"}, "record": {"*"}})
	_, searches := h.key(t, h.user(t, "searches", "admin"), authz.Permissions{"access": {"search"}, "record": {"*"}})
	_, ownerless := h.key(t, h.user(t, "user"), authz.Permissions{"*": {"*"}})
	batch := `{"evaluations":[` + readOne + `,` + strings.Replace(readOne, "alice", "bob", 1) + `,{}]}`
	for _, c := range []struct {
		path, body, key string
		want            int
	}{
		{"evaluation", readOne, evaluates, 200}, {"evaluations", batch, evaluates, 200},
		{"search/subject", fmt.Sprintf(whoReads, ""), evaluates, 403}, {"search/subject", fmt.Sprintf(whoReads, `,"page":{"limit":0}`), evaluates, 403},
		{"search/resource", fmt.Sprintf(whatReads, ""), evaluates, 403}, {"search/action", readOne, evaluates, 403},
		{"evaluation", readOne, searches, 403}, {"evaluations", batch, searches, 403},
		{"evaluation", strings.Replace(readOne, "record-1", "", 1), searches, 403},
		{"search/subject", fmt.Sprintf(whoReads, ""), searches, 200}, {"search/resource", fmt.Sprintf(whatReads, ""), searches, 200}, {"search/action", readOne, searches, 200},
		{"evaluation", readOne, ownerless, 403}, {"search/action", readOne, ownerless, 403},
		{"evaluation", readOne, "ost_wrong", 401}, {"evaluation", `{`, "ost_wrong", 401}, {"evaluation", `{`, searches, 400},
	} {
		got := h.do(t, "POST", "/access/v1/"+c.path, c.body, "x-api-key: "+c.key)
		if got.StatusCode != c.want {
			t.Errorf("%s %s: got %d %s, want %d", c.path, c.body, got.StatusCode, got.body, c.want)
		}
	}
	// A session is as good as a key; a cookie of another site is not.
	got := h.do(t, "POST", "/access/v1/evaluation", readOne, "Authorization: Bearer "+h.signIn(t, "evaluates@example.com"))
	if got.StatusCode != 200 {
		t.Errorf("session: got %d %s", got.StatusCode, got.body)
	}
}

// Which subjects a caller may assert is policy: an item about another is denied by
// itself, a request about no other is refused whole.
func TestAuthZENItemsThatTheCallerMayNotAskAreDenied(t *testing.T) {
	h := open(t, fstest.MapFS{"access.rego": &fstest.MapFile{Data: []byte(`package app.access

deny contains "not of robots" if input.resource.properties.subject.type == "robot"`)}, "record.rego": &fstest.MapFile{Data: []byte(`package app.record

allow if true`)}})
	_, key := h.key(t, h.user(t, "pep", "admin"), authz.Permissions{"access": {"evaluate"}})
	robot := strings.Replace(readOne, "user", "robot", 1)
	got := h.do(t, "POST", "/access/v1/evaluations", `{"evaluations":[`+readOne+`,`+robot+`,`+readOne+`]}`, "x-api-key: "+key)
	if want := `{"evaluations":[{"decision":true},{"decision":false,"context":{"error":{"message":"subject: the caller may not ask about it","status":403}}},{"decision":true}]}`; got.body != want {
		t.Errorf("got %s, want %s", got.body, want)
	}
	for _, body := range []string{`{"evaluations":[` + robot + `]}`, `{"evaluations":[` + robot + `,{}]}`} {
		if got := h.do(t, "POST", "/access/v1/evaluations", body, "x-api-key: "+key); got.StatusCode != 403 {
			t.Errorf("%s: got %d %s", body, got.StatusCode, got.body)
		}
	}
}

func TestAuthZENLimits(t *testing.T) {
	h, key := records(t, func(o *server.Options) { o.AuthZEN.MaxEvaluations = 3 })
	batch := func(n int) string { return `{"evaluations":[` + strings.Repeat(readOne+",", n-1) + readOne + `]}` }
	for body, want := range map[string]int{
		batch(3): 200, batch(4): 400,
		`{"context":{"x":"` + strings.Repeat("x", 1<<20) + `"}}`:                                                    413,
		strings.Replace(readOne, "{", `{"context":`+strings.Repeat(`{"a":`, 40)+"1"+strings.Repeat("}", 40)+",", 1): 400,
	} {
		if got := h.do(t, "POST", "/access/v1/evaluations", body, "x-api-key: "+key); got.StatusCode != want {
			t.Errorf("%.60s: got %d %s, want %d", body, got.StatusCode, got.body, want)
		}
	}
	// Who is refused for now is told when to come again.
	_, limited := h.key(t, h.user(t, "limited", "admin"), authz.Permissions{"access": {"evaluate"}}, func(k *authn.NewKey) {
		k.Limits.RateLimitEnabled, k.Limits.RateLimitMax, k.Limits.RateLimitTimeWindow = ptr(true), ptr(ptr(int64(1))), ptr(ptr(int64(60_000)))
	})
	var last answer
	for range 2 {
		last = h.do(t, "POST", "/access/v1/evaluation", readOne, "x-api-key: "+limited)
	}
	if last.StatusCode != 429 || last.Header.Get("Retry-After") == "" || !strings.HasPrefix(last.body, `{"error":{"status":429,"message":`) {
		t.Errorf("got %d %v %s", last.StatusCode, last.Header, last.body)
	}
}

// A page is of one policy: one that was begun under another is not continued.
func TestPagesEndWithThePolicy(t *testing.T) {
	h, key := records(t)
	page := func(token string) answer {
		return h.do(t, "POST", "/access/v1/search/subject", fmt.Sprintf(whoReads, `,"page":{"limit":1,"token":"`+token+`"}`), "x-api-key: "+key)
	}
	var first struct {
		Page struct {
			NextToken string `json:"next_token"`
		}
	}
	page("").decode(t, &first)
	if got := page(first.Page.NextToken); got.StatusCode != 200 || !strings.Contains(got.body, "bob") {
		t.Fatalf("the second page: got %d %s", got.StatusCode, got.body)
	}
	b, err := policies.Load(os.DirFS("../examples/authzen/certification/policies"), map[string]any{"sign_up": false})
	if err != nil {
		t.Fatal(err)
	}
	p, err := authz.Compile(t.Context(), b.Source)
	if err != nil {
		t.Fatal(err)
	}
	h.engine.Swap(p)
	if got := page(first.Page.NextToken); got.StatusCode != 400 {
		t.Errorf("under another policy: got %d %s", got.StatusCode, got.body)
	}
}

// An identifier with a path has its document between host and path, and endpoints
// below the path; a host selects among those configured, and nothing else does.
func TestIdentifiersWithAPath(t *testing.T) {
	h, key := records(t, func(o *server.Options) {
		o.AuthZEN.Identifiers = []string{"https://pdp.example.com", "https://other.example:8443", "https://pdp.example.com/t1", "https://third.example/a/b-c"}
	})
	send := func(method, path, host, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Host = host
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Forwarded-Host", "evil.example")
		r.Header.Set("X-Request-ID", "7")
		if body != "" {
			r.Header.Set("Authorization", "Bearer "+key)
		}
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, r)
		if w.Header().Get("X-Request-ID") != "7" {
			t.Errorf("%s %s: X-Request-ID %q", method, path, w.Header().Get("X-Request-ID"))
		}
		return w
	}
	const document = "/.well-known/authzen-configuration"
	for _, c := range []struct{ path, host, want string }{
		{document, "pdp.example.com", "https://pdp.example.com"},
		{document, "PDP.example.com:443", "https://pdp.example.com"},
		{document, "other.example:8443", "https://other.example:8443"},
		{document, "other.example", "https://pdp.example.com"},
		{document, "evil.example", "https://pdp.example.com"},
		{document + "/t1", "pdp.example.com", "https://pdp.example.com/t1"},
		{document + "/t1", "other.example:8443", "https://pdp.example.com/t1"},
		{document + "/a/b-c", "third.example", "https://third.example/a/b-c"},
		{document + "/t2", "pdp.example.com", ""},
		{document + "/a", "pdp.example.com", ""},
		{document + "/", "pdp.example.com", ""},
		{"/t1" + document, "pdp.example.com", ""},
	} {
		w := send("GET", c.path, c.host, "")
		var got map[string]string
		if c.want == "" {
			if w.Code != 404 {
				t.Errorf("%s at %s: got %d %s", c.path, c.host, w.Code, w.Body)
			}
			continue
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || got["policy_decision_point"] != c.want {
			t.Errorf("%s at %s: got %d %s, want %s", c.path, c.host, w.Code, w.Body, c.want)
			continue
		}
		if len(got) != 6 {
			t.Errorf("%s at %s: got %v", c.path, c.host, got)
		}
		for name, url := range got {
			if !strings.HasSuffix(name, "_endpoint") {
				continue
			}
			path, ok := strings.CutPrefix(url, c.want[:strings.Index(c.want[8:]+"/", "/")+8])
			if !ok {
				t.Errorf("%s: %s is %s", c.want, name, url)
			}
			if w := send("POST", path, c.host, readOne); w.Code != 200 {
				t.Errorf("%s: got %d %s", url, w.Code, w.Body)
			}
			if w := send("GET", path, c.host, ""); w.Code != 405 || w.Header().Get("Allow") != "POST" || !strings.HasPrefix(w.Body.String(), `{"error":`) {
				t.Errorf("GET %s: got %d %s", url, w.Code, w.Body)
			}
		}
	}
	if w := send("POST", "/t2/access/v1/evaluation", "pdp.example.com", readOne); w.Code != 404 {
		t.Errorf("an unknown tenant: got %d %s", w.Code, w.Body)
	}
}

func TestWithoutIdentifiersThereIsNoDocument(t *testing.T) {
	h := open(t, nil)
	for _, path := range []string{"/.well-known/authzen-configuration", "/.well-known/jwks.json"} {
		if got := h.do(t, "GET", path, ""); got.StatusCode != 404 {
			t.Errorf("%s: got %d %s", path, got.StatusCode, got.body)
		}
	}
}

func TestEveryMistakeInTheAuthZENOptionsIsTold(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, err = authzen.New(authzen.Options{Identifiers: []string{
		"http://plain.example", "https://", "pdp.example", "https://q.example/?", "https://f.example#", "https://u@h.example",
		"https://dots.example/../x", "https://wild.example/*", "https://esc.example/%41", "https://twice.example", "https://TWICE.example:443/",
	}, SigningKeys: []crypto.Signer{small}}, nil, nil, nil)
	for _, want := range []string{`"http://plain.example"`, `"https://"`, `"pdp.example"`, "q.example", "f.example", "u@h.example", "dots.example", "wild.example", "esc.example", `TWICE.example:443/": is there twice`, "signing key 1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to mention %s", err, want)
		}
	}
}

// The signed document says what the plain one does, and is verified with what is
// published, by every kind of key; the first of several signs.
func TestSignedMetadata(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := []crypto.Signer{ed}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	for i := range keys {
		h := open(t, nil, func(o *server.Options) {
			o.AuthZEN = authzen.Options{Identifiers: []string{"https://pdp.example.com/"}, SigningKeys: append(keys[i:len(keys):len(keys)], keys[:i]...)}
		})
		var document map[string]string
		h.do(t, "GET", "/.well-known/authzen-configuration", "").decode(t, &document)
		if document["jwks_uri"] != "https://pdp.example.com/.well-known/jwks.json" {
			t.Errorf("key set: %v", document)
		}
		published := h.do(t, "GET", "/.well-known/jwks.json", "")
		set, err := jwk.Parse([]byte(published.body))
		if err != nil || set.Len() != len(keys) || strings.Contains(published.body, `"d"`) {
			t.Fatalf("key set %s: %v", published.body, err)
		}
		first, _ := set.Key(0)
		only := jwk.NewSet()
		if err := only.AddKey(first); err != nil {
			t.Fatal(err)
		}
		token, err := jwt.Parse([]byte(document["signed_metadata"]), jwt.WithKeySet(only), jwt.WithIssuer("https://pdp.example.com/"))
		if err != nil {
			t.Errorf("key %d: %v", i, err)
			continue
		}
		for name, want := range document {
			var got string
			if err := token.Get(name, &got); name == "signed_metadata" {
				if err == nil {
					t.Error("it holds itself")
				}
			} else if err != nil || got != want {
				t.Errorf("%s: got %q %v, want %q", name, got, err, want)
			}
		}
		issued, _ := token.IssuedAt()
		ends, _ := token.Expiration()
		if time.Since(issued).Abs() > time.Minute || ends.Sub(issued) != 24*time.Hour {
			t.Errorf("from %v to %v", issued, ends)
		}
	}
}
