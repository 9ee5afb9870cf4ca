package opa_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/server"
	"github.com/ostiary/ostiary/server/opa"
	"github.com/ostiary/ostiary/server/openapi"
	"github.com/ostiary/ostiary/server/request"
	"github.com/ostiary/ostiary/store"
)

// rules are an author's, as those of the tests with OPA's own server.
var rules = fstest.MapFS{
	"things.rego": {Data: []byte(`package things

# METADATA
# entrypoint: true
echo := input

# METADATA
# entrypoint: true
slow := count([1 | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i == j])

# METADATA
# entrypoint: true
steps := [i | some i in numbers.range(1, 20000)]

# METADATA
# entrypoint: true
# compile:
#   unknowns: [input.documents]
filter if input.documents.owner == input.user

# METADATA
# entrypoint: true
constants := {"b": {"z": 1, "y": {2, 1}}, "a": [{"d": 1, "c": 2}]}

trusting if data.ostiary.decision.allow

hidden := {"documents": {"title": {}}}
`)},
	"access.rego": {Data: []byte(`package app.access

deny contains {"code": "not_there", "message": "nobody asks there"} if startswith(input.resource.properties.path, "things/constants/a")
`)},
	"data.json": {Data: []byte(`{"roles": {"evaluator": {"access": ["evaluate"]}}, "prices": {"apple": 3}}`)},
}

// house is the whole service on a database in memory.
type house struct {
	handler http.Handler
	authn   *authn.Service
	engine  *authz.Engine
	records *audit.Log
	log     *bytes.Buffer
}

const cookieSecret = "test-secret-0123456789-abcdefghijklmnop"

var system = authn.System("test")

func open(t testing.TB, change ...func(*server.Options)) *house {
	t.Helper()
	return within(t, time.Minute, change...)
}

// within opens a house whose policies have this long to answer.
func within(t testing.TB, deadline time.Duration, change ...func(*server.Options)) *house {
	t.Helper()
	ctx := context.Background()
	db, err := store.Open(ctx, "sqlite::memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &house{log: &bytes.Buffer{}}
	h.records = audit.NewLog(db, audit.Options{})
	var known *directory.Service
	h.engine = authz.NewEngine(authz.Options{Recorder: h.records, Deadline: deadline, Describe: func(ctx context.Context, r authz.Resource, action string) (authz.Resource, error) {
		return known.Describe(ctx, r, action)
	}})
	if h.authn, err = authn.New(authn.Options{}, db, h.engine); err != nil {
		t.Fatal(err)
	}
	if known, err = directory.New(directory.Options{}, db, h.engine, h.authn); err != nil {
		t.Fatal(err)
	}
	library, err := policies.Open(ctx, policies.Options{Engine: h.engine, FS: rules})
	if err != nil {
		t.Fatal(err)
	}
	reader, err := request.New(request.Options{Secrets: []string{cookieSecret}, MaxBody: 8 << 10})
	if err != nil {
		t.Fatal(err)
	}
	o := server.Options{
		Authn: h.authn, Engine: h.engine, Directory: known, Policies: library, Audit: h.records.Reader(), Reader: reader, Version: "test",
		Log: slog.New(slog.NewTextHandler(h.log, nil)),
		OPA: opa.Options{Entrypoints: []string{"prices"}},
	}
	for _, f := range change {
		f(&o)
	}
	if h.handler, err = server.New(o); err != nil {
		t.Fatal(err)
	}
	return h
}

func withQueries(o *server.Options) { o.OPA.Query = true }

// key makes a user with role, and a key of theirs with these grants.
func (h *house) key(t testing.TB, name, role string, grants authz.Permissions) (authn.User, string) {
	t.Helper()
	u, err := h.authn.CreateUser(context.Background(), system, authn.NewUser{Name: name, Email: name + "@example.com", Roles: []string{role}, RolesGiven: true})
	if err != nil {
		t.Fatal(err)
	}
	_, secret, err := h.authn.CreateKey(context.Background(), system, authn.NewKey{OwnerID: u.ID, Permissions: grants})
	if err != nil {
		t.Fatal(err)
	}
	return u, secret.Reveal()
}

var all = authz.Permissions{"*": {"*"}}

type answer struct {
	*http.Response
	body string
}

var description, _ = openapi.Load()

// do sends a request, and holds the answer against the description.
func (h *house) do(t testing.TB, method, path, body string, headers ...string) answer {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r)
	got := answer{w.Result(), w.Body.String()}
	if err := description.ValidateResponse(method, r.URL.EscapedPath(), got.StatusCode, got.Header.Get("Content-Type"), []byte(got.body)); err != nil {
		t.Errorf("the answer is not as described: %v\n%s", err, got.body)
	}
	return got
}

func (a answer) decode(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	return m
}

// is compares status and, for errors, code.
func (a answer) is(t testing.TB, what string, status int, code string) {
	t.Helper()
	got, _ := a.decode(t)["code"].(string)
	if a.StatusCode != status || got != code {
		t.Errorf("%s: got %d %s, want %d %s", what, a.StatusCode, a.body, status, code)
	}
}

func TestEveryCallAsksThePolicy(t *testing.T) {
	h := open(t, withQueries)
	_, root := h.key(t, "root", "admin", all)
	_, evaluates := h.key(t, "evaluates", "admin", authz.Permissions{"access": {"evaluate"}})
	_, tests := h.key(t, "tests", "admin", authz.Permissions{"access": {"evaluate"}, "policy": {"test"}})
	_, onlyTests := h.key(t, "onlytests", "admin", authz.Permissions{"policy": {"test"}})
	_, reads := h.key(t, "reads", "admin", authz.Permissions{"policy": {"read"}})
	_, nobody := h.key(t, "nobody", "user", all)
	_, byRole := h.key(t, "byrole", "evaluator", all)

	data := [3]string{"POST", "/v1/data/things/echo", `{"input":1}`}
	explain := [3]string{"POST", "/v1/data/things/echo?explain=full", `{"input":1}`}
	query := [3]string{"POST", "/v1/query", `{"query":"x = 1"}`}
	list := [3]string{"GET", "/v1/policies", ""}
	one := [3]string{"GET", "/v1/policies/things.rego", ""}
	compile := [3]string{"POST", "/v1/compile/things/filter", `{}`}
	for _, tt := range []struct {
		name   string
		call   [3]string
		key    string
		status int
	}{
		{"data, root", data, root, 200},
		{"data, nobody known", data, "", 401},
		{"data, a key that is none", data, "nonsense", 401},
		{"data, a grant", data, evaluates, 200},
		{"data, by a role of the author's", data, byRole, 200},
		{"data, no grant", data, reads, 403},
		{"data, no role", data, nobody, 403},
		{"data by GET", [3]string{"GET", "/v1/data/things/echo", ""}, "", 401},
		{"data of version 0", [3]string{"POST", "/v0/data/things/echo", "1"}, nobody, 403},
		{"default decision", [3]string{"POST", "/", "1"}, nobody, 403},
		{"all data", [3]string{"GET", "/v1/data", ""}, nobody, 403},
		{"what is not there", [3]string{"POST", "/v1/data/nothing", "{}"}, "", 401},
		{"explanation, root", explain, root, 200},
		{"explanation, without policy:read", explain, evaluates, 403},
		{"query, root", query, root, 200},
		{"query, both", query, tests, 200},
		{"query, evaluate alone", query, evaluates, 403},
		{"query, test alone", query, onlyTests, 403},
		{"query by GET", [3]string{"GET", "/v1/query?q=x%3D1", ""}, evaluates, 403},
		{"policies", list, reads, 200},
		{"policies, evaluate alone", list, evaluates, 403},
		{"a policy", one, reads, 200},
		{"a policy, evaluate alone", one, evaluates, 403},
		{"a policy, nobody known", one, "", 401},
		{"compile", compile, evaluates, 200},
		{"compile, no grant", compile, reads, 403},
		{"compile, nobody known", compile, "", 401},
		{"health", [3]string{"GET", "/health", ""}, "", 200},
	} {
		headers := []string{"Accept: application/vnd.opa.sql.sqlite+json"}
		if tt.key != "" {
			headers = append(headers, "Authorization: Bearer "+tt.key)
		}
		got := h.do(t, tt.call[0], tt.call[1], tt.call[2], headers...)
		if got.StatusCode != tt.status {
			t.Errorf("%s: got %d %s, want %d", tt.name, got.StatusCode, got.body, tt.status)
		}
		if tt.status >= 400 {
			got.is(t, tt.name, tt.status, "unauthorized")
		}
		if challenge := got.Header.Get("WWW-Authenticate"); (tt.status == 401) != (challenge != "") {
			t.Errorf("%s: WWW-Authenticate is %q", tt.name, challenge)
		}
	}
	got := h.do(t, "POST", "/v1/data/things/echo", "{}", "x-api-key: a", "Authorization: Bearer b")
	got.is(t, "two credentials", 400, "invalid_parameter")
	got = h.do(t, "POST", "/v1/data/things/echo", "{}", "Authorization: Bearer "+reads)
	if errs, _ := got.decode(t)["errors"].([]any); len(errs) != 1 || errs[0].(map[string]any)["code"] != "grant_missing" {
		t.Errorf("the reason is not told: %s", got.body)
	}
}

// Queries are off unless they are switched on, for administrators too.
func TestQueriesAreOff(t *testing.T) {
	h := open(t)
	_, root := h.key(t, "root", "admin", all)
	h.do(t, "POST", "/v1/query", `{"query":"x = 1"}`, "x-api-key: "+root).is(t, "POST", 404, "resource_not_found")
	h.do(t, "GET", "/v1/query?q=x", "", "x-api-key: "+root).is(t, "GET", 404, "resource_not_found")
}

// Queries see the policy and its data, and nothing beyond.
func TestQueriesReachNothingOutside(t *testing.T) {
	h := open(t, withQueries)
	_, root := h.key(t, "root", "admin", all)
	for _, q := range []string{`http.send({"method": "get", "url": "http://127.0.0.1/"})`, `x := opa.runtime()`, `net.lookup_ip_addr("example.com")`} {
		body, _ := json.Marshal(map[string]string{"query": q})
		got := h.do(t, "POST", "/v1/query", string(body), "x-api-key: "+root)
		got.is(t, q, 400, "invalid_parameter")
		if !strings.Contains(got.body, "rego_type_error") {
			t.Errorf("%s: got %s", q, got.body)
		}
	}
}

// A policy can say which paths a caller may ask for, whatever their spelling.
func TestPathsAreRestrictedByPolicy(t *testing.T) {
	h := open(t)
	_, root := h.key(t, "root", "admin", all)
	for path, status := range map[string]int{
		"things/constants/b": 200, "things/constants/a": 403, "things/constants/a/": 403, "things/constants/a/0": 403, "things/constants/a/00": 403,
		"things/constants": 200, "things%2Fconstants/a": 200, // one segment of that name: undefined
	} {
		got := h.do(t, "POST", "/v1/data/"+path, `{"input":{}}`, "x-api-key: "+root)
		if got.StatusCode != status {
			t.Errorf("%s: got %d %s, want %d", path, got.StatusCode, got.body, status)
		}
	}
	if got := h.do(t, "POST", "/v1/data/things%2Fconstants/a", `{"input":{}}`, "x-api-key: "+root); got.decode(t)["result"] != nil {
		t.Errorf("got %s", got.body)
	}
}

func TestOnlyEntrypointsAreThere(t *testing.T) {
	h := open(t)
	_, root := h.key(t, "root", "admin", all)
	input := `{"input":{"principal":{"type":"user","id":"u","roles":["admin"]},"action":{"name":"list"},"resource":{"type":"user"}}}`
	for _, path := range []string{
		"", "/things", "/things/hidden", "/things/trusting", "/nothing", "/roles", "/roles/admin", "/permits", "/settings", "/app/access/deny",
		"/ostiary", "/ostiary/permissions", "/ostiary/own_permissions", "/system/main",
	} {
		for _, method := range []string{"POST", "GET"} {
			got := h.do(t, method, "/v1/data"+path, input, "x-api-key: "+root)
			m := got.decode(t)
			if _, there := m["result"]; got.StatusCode != 200 || there {
				t.Errorf("%s %q: got %d %s", method, path, got.StatusCode, got.body)
			}
		}
		got := h.do(t, "POST", "/v0/data"+path, "{}", "x-api-key: "+root)
		got.is(t, path, 404, "undefined_document")
		if path != "" {
			got = h.do(t, "POST", "/v1/compile"+path, "{}", "x-api-key: "+root, "Accept: application/vnd.opa.sql.sqlite+json")
			if strings.TrimSpace(got.body) != "{}" {
				t.Errorf("compile %s: got %s", path, got.body)
			}
		}
	}
	if got := h.do(t, "GET", "/v1/data/prices/apple", "", "x-api-key: "+root); got.decode(t)["result"] != 3.0 {
		t.Errorf("declared by configuration: got %s", got.body)
	}
}

// What Ostiary itself answers by believes its input, so it cannot be declared.
func TestSomePathsCannotBeDeclared(t *testing.T) {
	_, err := opa.New(opa.Options{Entrypoints: []string{"", "/", "ostiary", "ostiary/permissions", `a"b`, "app/x"}}, opa.Parts{})
	for _, want := range []string{`"": cannot`, `"/": cannot`, `"ostiary": cannot`, `"ostiary/permissions": cannot`, `a\"b`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to mention %s", err, want)
		}
	}
	if err != nil && strings.Contains(err.Error(), "app/x") {
		t.Errorf("got %v", err)
	}
}

// Ostiary's decision is about whom the store knows, not about whom the caller
// makes up.
func TestDecisionIsAboutAnAssertedSubject(t *testing.T) {
	h := open(t)
	root, key := h.key(t, "root", "admin", all)
	plain, _ := h.key(t, "plain", "user", nil)
	ask := func(path, input string) answer {
		t.Helper()
		return h.do(t, "POST", "/v1/data/ostiary/decision"+path, `{"input":`+input+`}`, "x-api-key: "+key)
	}
	about := func(id, more string) string {
		return fmt.Sprintf(`{"principal":{"type":"user","id":%q%s},"action":{"name":"list","properties":{}},"resource":{"type":"user","properties":{}},"context":{"x":1}}`, id, more)
	}
	if got := ask("/allow", about(root.ID, "")); got.decode(t)["result"] != true {
		t.Errorf("an administrator: got %s", got.body)
	}
	for _, claim := range []string{"", `,"roles":["admin"]`, `,"credential":"session","user":{"id":"x"},"key":{"permissions":{"*":["*"]}}`, `,"properties":{"roles":["admin"]}`} {
		got := ask("", about(plain.ID, claim))
		result, _ := got.decode(t)["result"].(map[string]any)
		if result["allow"] != false {
			t.Errorf("%s: got %s", claim, got.body)
			continue
		}
		if code := result["reasons"].([]any)[0].(map[string]any)["code"]; code != "role_missing" {
			t.Errorf("%s: got reason %v", claim, code)
		}
	}
	got := ask("/reasons/0/permission", strings.Replace(about(plain.ID, ""), "principal", "subject", 1))
	if got.decode(t)["result"] != "user:list" {
		t.Errorf("below the decision: got %s", got.body)
	}
	// The answer names the decision that it is, and that is on record.
	id := got.decode(t)["decision_id"].(string)
	if err := h.records.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	record, err := h.records.Reader().Record(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if id != got.Header.Get("Ostiary-Decision") || record.Allow || record.Actor.ID != plain.ID || record.Action != "list" {
		t.Errorf("got record %+v", record)
	}
	if got := ask("", "null"); got.decode(t)["result"] != nil || got.decode(t)["warning"] == nil {
		t.Errorf("without an input: got %s", got.body)
	}
	for _, input := range []string{
		`1`, `{}`, `{"principal":"ann"}`, `{"principal":{"type":"user"}}`, `{"principal":{"id":"x"}}`, `{"principal":{"type":"user","id":""}}`,
		`{"principal":{"type":"user","id":1},"action":{"name":"x"},"resource":{"type":"y"}}`,
		`{"principal":{"type":"user","id":"x"},"resource":{"type":"y"}}`, `{"principal":{"type":"user","id":"x"},"action":{"name":""},"resource":{"type":"y"}}`,
		`{"principal":{"type":"user","id":"x"},"action":{"name":"x"}}`, `{"principal":{"type":"user","id":"x"},"action":{"name":"x"},"resource":{"type":"y","id":""}}`,
		`{"principal":{"type":"user","id":"x"},"action":{"name":"x"},"resource":{"type":"y","properties":1}}`,
		`{"principal":{"type":"user","id":"x"},"action":{"name":"x"},"resource":{"type":"y"},"context":1}`,
	} {
		ask("", input).is(t, input, 400, "invalid_parameter")
	}
}

// The id in an answer is that of a decision on record, with the path.
func TestDataQueriesAreOnRecord(t *testing.T) {
	h := open(t)
	root, key := h.key(t, "root", "admin", all)
	got := h.do(t, "POST", "/v1/data/things/echo", `{"input":1}`, "x-api-key: "+key)
	id, _ := got.decode(t)["decision_id"].(string)
	if err := h.records.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	record, err := h.records.Reader().Record(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	path := record.Input["resource"].(map[string]any)["properties"].(map[string]any)["path"]
	if record.Actor.ID != root.ID || record.Action != "evaluate" || path != "things/echo" || got.Header.Get("Ostiary-Decision") != id {
		t.Errorf("got %+v, path %v", record, path)
	}
}

func zipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, text)
	z.Close()
	return b.String()
}

func TestLimits(t *testing.T) {
	h := within(t, time.Second, withQueries)
	_, key := h.key(t, "root", "admin", all)
	big := `{"input":"` + strings.Repeat("x", 9<<10) + `"}`
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	for _, tt := range []struct {
		name, path, body, header string
		status                   int
		message                  string
	}{
		{"a large body", "/v1/data/things/echo", big, "", 400, "request body too large"},
		{"a large body of version 0", "/v0/data/things/echo", big, "", 400, "request body too large"},
		{"a body that inflates", "/v1/data/things/echo", zipped(big), "Content-Encoding: gzip", 400, "request body too large"},
		{"a body that is not gzip", "/v1/data/things/echo", "{}", "Content-Encoding: gzip", 400, "could not decompress"},
		{"half a gzip", "/v1/data/things/echo", zipped(`{"input":1}`)[:20], "Content-Encoding: gzip", 400, "could not decompress"},
		{"a deep body", "/v1/data/things/echo", `{"input":` + deep + `}`, "", 400, "nested too deeply"},
		{"deep YAML", "/v1/data/things/echo", "input: " + deep, "Content-Type: text/yaml", 400, "nested too deeply"},
		{"YAML that is none", "/v1/data/things/echo", "input: [", "Content-Type: text/yaml", 400, "malformed"},
		{"a long path", "/v1/data/" + strings.Repeat("a/", 65), "{}", "", 400, "more than 64"},
		{"a slow rule", "/v1/data/things/slow", "{}", "", 500, "while evaluating"},
		{"a slow query", "/v1/query", `{"query":"count([1 | some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i == j])"}`, "", 500, "while evaluating"},
		{"a long explanation", "/v1/data/things/steps?explain=full", "{}", "", 500, "more than 10000 events"},
	} {
		headers := []string{"x-api-key: " + key}
		if tt.header != "" {
			headers = append(headers, tt.header)
		}
		began := time.Now()
		got := h.do(t, "POST", tt.path, tt.body, headers...)
		if m, _ := got.decode(t)["message"].(string); got.StatusCode != tt.status || !strings.Contains(m, tt.message) {
			t.Errorf("%s: got %d %s, want %d %s", tt.name, got.StatusCode, got.body, tt.status, tt.message)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s: took %v", tt.name, took)
		}
	}
	if got := h.do(t, "POST", "/v1/data/things/slow", "{}", "x-api-key: "+key); !strings.Contains(got.body, "eval_cancel_error") {
		t.Errorf("a slow rule: got %s", got.body)
	}
	if got := h.do(t, "GET", "/v1/data/things/echo?input="+deep, "", "x-api-key: "+key); got.StatusCode != 400 {
		t.Errorf("a deep parameter: got %d", got.StatusCode)
	}
	if strings.Contains(h.log.String(), "numbers.range") {
		t.Error("the log quotes a query")
	}
}

func TestNothingCanBeWritten(t *testing.T) {
	h := open(t)
	_, key := h.key(t, "root", "admin", all)
	for _, tt := range []struct{ method, path, allow string }{
		{"PUT", "/v1/data/prices", "GET, POST, OPTIONS"}, {"PATCH", "/v1/data/prices", "GET, POST, OPTIONS"}, {"DELETE", "/v1/data/prices", "GET, POST, OPTIONS"},
		{"HEAD", "/v1/data/prices", "GET, POST, OPTIONS"}, {"PUT", "/v1/data", "GET, POST, OPTIONS"},
		{"PUT", "/v1/policies/things.rego", "GET, OPTIONS"}, {"DELETE", "/v1/policies/things.rego", "GET, OPTIONS"}, {"POST", "/v1/policies", "GET, OPTIONS"},
		{"DELETE", "/v1/query", "GET, POST, OPTIONS"}, {"PUT", "/v0/data/x", "POST, OPTIONS"},
	} {
		got := h.do(t, tt.method, tt.path, "{}", "x-api-key: "+key)
		if tt.method != "HEAD" {
			got.is(t, tt.method+" "+tt.path, 405, "invalid_operation")
		}
		if allow := got.Header.Get("Allow"); got.StatusCode != 405 || allow != tt.allow {
			t.Errorf("%s %s: got %d, Allow %q, want %q", tt.method, tt.path, got.StatusCode, allow, tt.allow)
		}
	}
	for _, path := range []string{"/v1/compile", "/v1/batch/data/things/echo", "/v1/data/../me", "/v1/data//x", "/v1/data/%2e%2e/me", "/v1/query/x"} {
		h.do(t, "POST", path, "{}", "x-api-key: "+key).is(t, path, 404, "resource_not_found")
	}
	h.do(t, "POST", "/v1/data/x", "{}", "x-api-key: "+key, "Ostiary-At-Least: x").is(t, "a revision that is none", 400, "invalid_parameter")
}

func TestProvenanceAndMetrics(t *testing.T) {
	h := open(t)
	_, key := h.key(t, "root", "admin", all)
	for _, want := range [][]string{
		{"timer_rego_input_parse_ns", "timer_rego_query_compile_ns", "timer_rego_query_eval_ns", "timer_server_handler_ns", "counter_server_query_cache_hit"},
		{"timer_rego_input_parse_ns", "timer_rego_query_eval_ns", "timer_server_handler_ns", "counter_server_query_cache_hit"},
	} {
		got := h.do(t, "POST", "/v1/data/things/echo?provenance&metrics&pretty", `{"input":1}`, "x-api-key: "+key).decode(t)
		metrics, _ := got["metrics"].(map[string]any)
		for _, name := range want {
			if n, ok := metrics[name].(float64); !ok || n == 0 && !strings.HasPrefix(name, "counter") {
				t.Errorf("%s is %v", name, metrics[name])
			}
		}
		p, _ := got["provenance"].(map[string]any)
		bundles, _ := p["bundles"].(map[string]any)
		if p["version"] != "test" || fmt.Sprint(bundles["policies"]) != fmt.Sprintf("map[revision:%s]", h.engine.Policy().Revision()) {
			t.Errorf("got %v", p)
		}
	}
}

// What a caller may ask of a filter is as narrow as what it may evaluate.
func TestFiltersTakeOnlyWhatIsDeclared(t *testing.T) {
	h := open(t)
	_, key := h.key(t, "root", "admin", all)
	for _, tt := range []struct{ body, accept, message string }{
		{`{"options":{"maskRule":"hidden"}}`, "application/vnd.opa.sql.sqlite+json", "not declared"},
		{`{"options":{"maskRule":"data.roles"}}`, "application/vnd.opa.sql.sqlite+json", "not declared"},
		{`{"options":{"maskRule":"data[x]"}}`, "application/vnd.opa.sql.sqlite+json", "not declared"},
		{`{"unknowns":["data.roles"]}`, "application/vnd.opa.sql.sqlite+json", "not below input"},
		{`{"unknowns":["input[0]"]}`, "application/vnd.opa.sql.sqlite+json", "not made of names"},
		{`{"unknowns":[1]}`, "application/vnd.opa.sql.sqlite+json", "unknowns"},
		{`{"options":[]}`, "application/vnd.opa.sql.sqlite+json", "options"},
		{`{}`, "application/json", "unsupported"},
		{`{}`, "application/vnd.opa.sql.oracle+json", "unsupported"},
		{`{}`, "application/vnd.opa.multitarget+json", "names no dialect"},
		{`{"options":{"targetDialects":["sql"]}}`, "application/vnd.opa.multitarget+json", "unsupported target dialect"},
		{`{"options":{"targetDialects":["sql+oracle"]}}`, "application/vnd.opa.multitarget+json", "unsupported target dialect"},
		{`{"options":{"targetDialects":["ucast+all","ucast+prisma"]}}`, "application/vnd.opa.multitarget+json", "more than one ucast"},
		{`{"options":{"disableInlining":"x"}}`, "application/vnd.opa.sql.sqlite+json", "disableInlining"},
	} {
		got := h.do(t, "POST", "/v1/compile/things/filter", tt.body, "x-api-key: "+key, "Accept: "+tt.accept)
		got.is(t, tt.body, 400, "invalid_parameter")
		if !strings.Contains(got.body, tt.message) {
			t.Errorf("%s: got %s, want %s", tt.body, got.body, tt.message)
		}
	}
}

// One policy answers many at once, in every way in which it can be asked.
func TestQuestionsAtOnce(t *testing.T) {
	h := open(t, withQueries)
	_, key := h.key(t, "root", "admin", all)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			for _, x := range [][2]string{
				{"/v1/data/things/constants", `{"input":{}}`},
				{"/v1/data/things/constants?explain=debug", `{"input":{}}`},
				{fmt.Sprintf("/v1/data/things/echo/%d", i), `{"input":{}}`},
				{"/v1/compile/things/filter", `{"input":{"user":"ann"}}`},
				{"/v1/query", `{"query":"x := data.roles; y := data.things.constants"}`},
			} {
				got := h.do(t, "POST", x[0], x[1], "x-api-key: "+key, "Accept: application/vnd.opa.ucast.all+json")
				if got.StatusCode != 200 {
					t.Errorf("%s: %d %s", x[0], got.StatusCode, got.body)
				}
			}
			if got := h.do(t, "GET", "/v1/policies", "", "x-api-key: "+key); got.StatusCode != 200 {
				t.Errorf("policies: %d", got.StatusCode)
			}
		})
	}
	wg.Wait()
}

// Without a policy nothing is answered, and health says so.
func TestWithoutAPolicy(t *testing.T) {
	h := open(t)
	_, key := h.key(t, "root", "admin", all)
	h.engine.Swap(nil)
	if got := h.do(t, "GET", "/health", ""); got.StatusCode != 500 || got.decode(t)["error"] == nil {
		t.Errorf("health: got %d %s", got.StatusCode, got.body)
	}
	if got := h.do(t, "POST", "/v1/data/things/echo", "{}", "x-api-key: "+key); got.StatusCode == 200 {
		t.Errorf("got %s", got.body)
	}
}

func TestHealthOfWhatItStandsOn(t *testing.T) {
	h := open(t, func(o *server.Options) { o.Ready = func(context.Context) error { return authn.ErrUnavailable } })
	if got := h.do(t, "GET", "/health?bundles", ""); got.StatusCode != 200 {
		t.Errorf("got %d %s", got.StatusCode, got.body)
	}
	if got := h.do(t, "GET", "/health?plugins", ""); got.StatusCode != 500 || strings.Contains(got.body, "storage") {
		t.Errorf("got %d %s", got.StatusCode, got.body)
	}
}

// Whatever is sent, the answer is OPA's success or OPA's error, as described.
func FuzzDataBody(f *testing.F) {
	for _, seed := range []string{`{"input":1}`, `{"input":null}`, ``, `null`, `[`, `{"input":{"a":1,"a":2}}x`, "\xff", `{"input":1e999}`, `input: &a [*a]`, "a: !!binary x"} {
		f.Add(seed, "application/json")
		f.Add(seed, "application/yaml")
	}
	h := open(f)
	_, key := h.key(f, "root", "admin", all)
	f.Fuzz(func(t *testing.T, body, contentType string) {
		got := h.do(t, "POST", "/v1/data/things/echo", body, "x-api-key: "+key, "Content-Type: "+contentType)
		if got.StatusCode != 200 && got.StatusCode != 400 {
			t.Errorf("%q: got %d %s", body, got.StatusCode, got.body)
		}
	})
}

// A few kilobytes of YAML can stand for gigabytes.
func TestAliasesInYAMLAreRefused(t *testing.T) {
	h := open(t)
	_, root := h.key(t, "root", "admin", all)
	bomb := "a: &a " + strings.Repeat("x", 1000) + "\ninput: [" + strings.Repeat("*a,", 1000) + "*a]\n"
	for _, path := range []string{"/v1/data/things", "/v0/data/things"} {
		got := h.do(t, "POST", path, bomb, "x-api-key: "+root, "Content-Type: application/x-yaml")
		got.is(t, path, 400, "invalid_parameter")
	}
}
