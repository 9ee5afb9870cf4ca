package server_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
)

// What is served is described, and what is described is served.
func TestEveryRouteIsDescribed(t *testing.T) {
	h := open(t, nil)
	served := map[string]bool{}
	err := chi.Walk(h.handler.(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if route != "/api/auth" && route != "/api/auth/*" { // what is left over is 404
			served[method+" "+route] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	described := map[string]bool{}
	for _, op := range description.Operations {
		if op.Rest {
			op.Path = op.Path[:strings.LastIndexByte(op.Path, '/')] + "/*"
		}
		described[op.Method+" "+op.Path] = true
	}
	for route := range served {
		if !described[route] {
			t.Errorf("%s is served and not described", route)
		}
	}
	for route := range described {
		if !served[route] {
			t.Errorf("%s is described and not served", route)
		}
	}
	if len(served) < 50 {
		t.Errorf("only %d routes", len(served))
	}
}

// The path rule holds at the door: no spelling but the plain one reaches what
// is behind it, whatever credential comes along.
func TestOtherSpellingsAreNotServed(t *testing.T) {
	h := open(t, nil)
	_, key := h.key(t, h.user(t, "root", "admin"), map[string][]string{"*": {"*"}})
	for _, path := range []string{"/v1/me", "/api/auth/list-accounts"} {
		if got := h.do(t, "GET", path, "", "x-api-key: "+key); got.StatusCode != 200 {
			t.Fatalf("%s: %d %s", path, got.StatusCode, got.body)
		}
		for _, other := range []string{
			"/" + path, path + "/", path + "/.", path + "/..", "/x/.." + path, "/." + path, strings.Replace(path, "/", "//", 2),
			strings.Replace(path[1:], "/", "%2f", 1), "/" + strings.Replace(path[1:], "/", "%2F", 1), "/" + strings.Replace(path[1:], "/", "%5c", 1),
			path[:len(path)-1] + "%65", path + "%00", path + "%2e", path + "%3b", path + ";x", path + "%20", strings.ToUpper(path),
			"/%2e" + path, "/%2e%2e" + path, "/x/%2e%2e" + path, "/x/..;" + path, "/%252e%252e" + path,
		} {
			if !strings.HasPrefix(other, "/") {
				other = "/" + other
			}
			got := h.do(t, "GET", other, "", "x-api-key: "+key)
			if got.StatusCode != http.StatusNotFound {
				t.Errorf("%s: got %d %s", other, got.StatusCode, got.body)
			}
		}
	}
}

func TestMethodsThatARouteDoesNotTake(t *testing.T) {
	h := open(t, nil)
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/v1/authorize", 405, "POST, OPTIONS"},
		{"DELETE", "/v1/me", 405, "GET, HEAD, OPTIONS"},
		{"OPTIONS", "/v1/me", 204, "GET, HEAD, OPTIONS"},
		{"OPTIONS", "/v1/authorize", 204, "POST, OPTIONS"},
		{"HEAD", "/v1/me", 200, ""},
		{"HEAD", "/healthz", 200, ""},
		{"POST", "/v1/decisions/x", 405, "GET, HEAD, OPTIONS"},
		{"TRACE", "/v1/me", 405, "GET, HEAD, OPTIONS"},
		{"BREW", "/v1/me", 405, "GET, HEAD, OPTIONS"},
		{"GET", "/v1", 404, ""},
		{"GET", "/v1/nothing", 404, ""},
		{"GET", "/", 404, ""},
		{"HEAD", "/api/auth/ok", 404, ""},
		{"OPTIONS", "/api/auth/ok", 404, ""},
		{"GET", "/api/auth", 404, ""},
		{"GET", "/api/auth/", 404, ""},
		{"GET", "/api/authx", 404, ""},
	} {
		got := h.do(t, c.method, c.path, "")
		if got.StatusCode != c.status || got.Header.Get("Allow") != c.allow {
			t.Errorf("%s %s: got %d, Allow %q; want %d, %q", c.method, c.path, got.StatusCode, got.Header.Get("Allow"), c.status, c.allow)
		}
	}
}

// An answer has the id that the request came with, whatever it is; the log has
// it too, in a form that does it no harm.
func TestRequestIDIsRepeatedOrMade(t *testing.T) {
	h := open(t, nil)
	made := map[string]bool{}
	for range 2 {
		got := h.do(t, "GET", "/healthz", "").Header.Get("X-Request-Id")
		if got == "" || made[got] {
			t.Errorf("made %q, which is empty or not new", got)
		}
		made[got] = true
	}
	for sent, logged := range map[string]string{
		"abc-123": "abc-123", "a/b:c=d": "a/b:c=d", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
		strings.Repeat("x", 128): strings.Repeat("x", 128),
		strings.Repeat("y", 129): `"` + strings.Repeat("y", 127),
		"with space":             `"with space"`, "tab\there": `"tab\there"`, "umlaut-ä": `"umlaut-\u00e4"`, "latin-\xe4": `"latin-\xe4"`,
		`{"level":"ERROR"}`: `{"level":"ERROR"}`,
	} {
		h.log.Reset()
		if got := h.do(t, "GET", "/healthz", "", "X-Request-Id: "+sent).Header.Get("X-Request-Id"); got != sent {
			t.Errorf("sent %q, got %q", sent, got)
		}
		var line struct{ Request string }
		if err := json.Unmarshal(h.log.Bytes(), &line); err != nil || line.Request != logged {
			t.Errorf("sent %q: %v, logged %q, want %q", sent, err, line.Request, logged)
		}
	}
}

// The log tells the route, not the path: ids, queries, headers and bodies
// stay out of it.
func TestLogHoldsNothingThatWasSent(t *testing.T) {
	h := open(t, nil)
	admin := h.user(t, "root", "admin")
	_, key := h.key(t, admin, map[string][]string{"decision": {"read"}, "apiKey": {"verify"}})
	h.do(t, "GET", "/v1/decisions/SECRET-ID", "", "x-api-key: "+key, "User-Agent: SECRET-AGENT")
	h.do(t, "GET", "/v1/decisions?principal=SECRET-QUERY", "", "x-api-key: "+key)
	h.do(t, "POST", "/v1/keys/verify", `{"key":"SECRET-BODY"}`, "x-api-key: "+key)
	h.do(t, "POST", "/api/auth/sign-in/email", `{"email":"SECRET@example.com","password":"SECRET-PASSWORD"}`)
	h.do(t, "GET", "/SECRET-PATH", "", "Authorization: Bearer SECRET-TOKEN")
	h.do(t, "GET", "/v1/me", "", "Authorization: Bearer SECRET-TOKEN")
	log := h.log.String()
	for _, secret := range []string{"SECRET", key} {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %s:\n%s", secret, log)
		}
	}
	for _, route := range []string{`"route":"/v1/decisions/{id}"`, `"route":"/v1/decisions"`, `"route":"/api/auth/sign-in/email"`, `"route":"unmatched"`} {
		if !strings.Contains(log, route) {
			t.Errorf("the log does not hold %s:\n%s", route, log)
		}
	}
}

func TestMetricsCountByRouteAndHoldNothingThatWasSent(t *testing.T) {
	h := open(t, nil)
	_, key := h.key(t, h.user(t, "root", "admin"), map[string][]string{"decision": {"read"}})
	h.do(t, "GET", "/v1/decisions/SECRET-ID", "", "x-api-key: "+key)
	h.do(t, "GET", "/SECRET", "")
	h.do(t, "SECRET", "/v1/me", "")
	h.do(t, "POST", "/v1/authorize", `{"action":"read","resource":{"type":"document"}}`)
	h.metrics.Audit(h.records)
	h.metrics.Cache(func() (hits, misses uint64) { return 3, 4 })
	text := scrape(h)
	for _, want := range []string{
		`ostiary_http_request_duration_seconds_count{method="GET",route="/v1/decisions/{id}",status="404"} 1`,
		`ostiary_http_request_duration_seconds_count{method="GET",route="unmatched",status="404"} 1`,
		`ostiary_http_request_duration_seconds_count{method="other",route="unmatched",status="405"} 1`,
		`ostiary_decisions_total{code="role",outcome="allow"} 1`,
		`ostiary_decisions_total{code="unauthenticated",outcome="deny"} 1`,
		`ostiary_principal_cache_hits_total 3`,
		`ostiary_principal_cache_misses_total 4`,
		`ostiary_audit_records_lost_total 0`,
		`ostiary_policy_info{revision="` + h.library.Status().Revision + `"} 1`,
		`ostiary_policy_current 1`,
		`ostiary_build_info{version="test"} 1`,
		`go_goroutines`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(text, "SECRET") || strings.Contains(text, key) {
		t.Error("the metrics hold what was sent")
	}
	if t.Failed() {
		t.Log(grep(text, "ostiary_"))
	}
}

func grep(text, word string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return !strings.Contains(l, word) || strings.Contains(l, "bucket") }), "\n")
}
