package forwardauth_test

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/forwardauth"
	"github.com/ostiary/ostiary/server/request"
)

const (
	secret  = "what the proxy and the service share"
	older   = "what they shared until a moment ago"
	signing = "the secret with which cookies are signed"
)

var site = fstest.MapFS{
	"data.json": &fstest.MapFile{Data: []byte(`{
		"routes": [
			{"method": "*", "pattern": "/docs/{id}", "permission": "document:read"},
			{"method": "GET", "pattern": "/public/*", "permission": "public"},
			{"method": "OPTIONS", "pattern": "/docs/*", "permission": "public"}
		],
		"roles": {"reader": {"document": ["read"]}}}`)},
	"route.rego": &fstest.MapFile{Data: []byte(`package app.route

deny contains "broken" if {
	input.resource.properties.path == "/public/broken"
	to_number("x") == 1
}

allow if input.resource.properties.path == sprintf("/from/%s", [input.context.ip])
`)},
}

// gate is a service with proxies in front of it.
type gate struct {
	*testing.T
	*ostiary.Ostiary
}

func open(t testing.TB, policies fs.FS, change ...func(*ostiary.Options)) *ostiary.Ostiary {
	t.Helper()
	o := ostiary.Options{Database: "sqlite::memory:", Secrets: []string{signing}, Policies: policies, ForwardSecrets: []string{secret, older}}
	for _, f := range change {
		f(&o)
	}
	i, err := ostiary.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	return i
}

func newGate(t *testing.T, change ...func(*ostiary.Options)) *gate {
	return &gate{t, open(t, site, change...)}
}

// key makes a reader with a key.
func (g *gate) key(grants authz.Permissions, change ...func(*authn.NewKey)) (owner authn.User, secret string) {
	g.Helper()
	owner, err := g.Authn().CreateUser(g.Context(), authn.System("test"), authn.NewUser{
		Name: "R", Email: strings.ToLower(g.Name()[strings.LastIndexByte(g.Name(), '/')+1:]) + "@example.com", Roles: []string{"reader"}, RolesGiven: true,
	})
	if err != nil {
		g.Fatal(err)
	}
	in := authn.NewKey{OwnerID: owner.ID, Permissions: grants}
	for _, f := range change {
		f(&in)
	}
	_, k, err := g.Authn().CreateKey(g.Context(), authn.System("test"), in)
	if err != nil {
		g.Fatal(err)
	}
	return owner, k.Reveal()
}

// asked is a question as a proxy of this kind asks it, of a GET of target.
func asked(kind, target string, headers ...string) *http.Request {
	var r *http.Request
	switch kind {
	case "nginx":
		r = httptest.NewRequest("GET", "/forward-auth/nginx", nil)
		r.Header.Set("X-Original-URI", target)
		r.Header.Set("X-Original-Method", "GET")
		r.Header.Set("X-Original-Host", "app.test")
	case "traefik", "caddy":
		r = httptest.NewRequest("GET", "/forward-auth/"+kind, nil)
		r.Header.Set("X-Forwarded-Uri", target)
		r.Header.Set("X-Forwarded-Method", "GET")
		r.Header.Set("X-Forwarded-Host", "app.test")
	case "envoy":
		r = httptest.NewRequest("GET", "/", nil)
		r.RequestURI, r.Host = "/forward-auth/envoy"+target, "app.test"
		r.URL, _ = url.ParseRequestURI(r.RequestURI)
	}
	if kind != "envoy" {
		r.Header.Set("X-Forwarded-Proto", "https")
	}
	r.Header.Set("X-Forwarded-For", "203.0.113.7")
	r.Header.Set(forwardauth.SecretHeader, secret)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func (g *gate) ask(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	g.Handler().ServeHTTP(w, r)
	return w
}

var proxies = []string{"nginx", "traefik", "caddy", "envoy"}

func TestOnlyProxiesMayAsk(t *testing.T) {
	for _, tt := range []struct {
		name    string
		proxies []string
		secrets []string
		peer    string
		sent    []string
		status  int
	}{
		{"the secret", nil, []string{secret}, "203.0.113.9:1", []string{secret}, 200},
		{"an older one", nil, []string{secret, older}, "203.0.113.9:1", []string{older}, 200},
		{"none", nil, []string{secret}, "203.0.113.9:1", nil, 403},
		{"an empty one", nil, []string{secret}, "203.0.113.9:1", []string{""}, 403},
		{"another", nil, []string{secret}, "203.0.113.9:1", []string{secret + "x"}, 403},
		{"a beginning", nil, []string{secret}, "203.0.113.9:1", []string{secret[:len(secret)-1]}, 403},
		{"two", nil, []string{secret}, "203.0.113.9:1", []string{secret, secret}, 403},
		{"an address", []string{"203.0.113.9"}, nil, "203.0.113.9:1", nil, 200},
		{"a network", []string{"203.0.113.0/24"}, nil, "203.0.113.9:1", nil, 200},
		{"a network of IPv6", []string{"2001:db8::/32"}, nil, "[2001:db8::7]:1", nil, 200},
		{"IPv4 in IPv6", []string{"203.0.113.9"}, nil, "[::ffff:203.0.113.9]:1", nil, 200},
		{"another address", []string{"203.0.113.9"}, nil, "203.0.113.10:1", nil, 403},
		{"no address", []string{"203.0.113.9"}, nil, "@", nil, 403},
		{"both", []string{"203.0.113.9"}, []string{secret}, "203.0.113.9:1", []string{secret}, 200},
		{"the address alone", []string{"203.0.113.9"}, []string{secret}, "203.0.113.9:1", nil, 403},
		{"the secret alone", []string{"203.0.113.9"}, []string{secret}, "203.0.113.10:1", []string{secret}, 403},
		{"nothing is configured", nil, nil, "203.0.113.9:1", []string{secret}, 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGate(t, func(o *ostiary.Options) { o.ForwardProxies, o.ForwardSecrets = tt.proxies, tt.secrets })
			for _, kind := range proxies {
				r := asked(kind, "/public/x")
				r.RemoteAddr, r.Header[forwardauth.SecretHeader] = tt.peer, tt.sent
				if got := g.ask(r); got.Code != tt.status {
					t.Errorf("%s: got %d, want %d", kind, got.Code, tt.status)
				}
			}
		})
	}
}

func TestMistakesInOptionsAreReported(t *testing.T) {
	_, err := ostiary.Open(t.Context(), ostiary.Options{
		Database: "sqlite::memory:", Secrets: []string{signing}, ForwardProxies: []string{"proxy", "10.0.0.0/40"}, ForwardSecrets: []string{"too short"},
	})
	for _, want := range []string{`"proxy" is neither`, `"10.0.0.0/40" is neither`, "has 9 characters; it needs at least 32"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err != nil && strings.Contains(err.Error(), "too short") {
		t.Error("the secret is told")
	}
}

// What a proxy has to set and did not, the client may have.
func TestEachEndpointReadsItsOwnHeadersAndNoOthers(t *testing.T) {
	g := newGate(t)
	for kind, headers := range map[string][]string{
		"nginx":   {"X-Original-Uri", "X-Original-Method", "X-Original-Host", "X-Forwarded-Proto", "X-Forwarded-For"},
		"traefik": {"X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-For"},
		"caddy":   {"X-Forwarded-Uri", "X-Forwarded-Method", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-For"},
	} {
		status := 400
		if kind == "nginx" {
			status = 403
		}
		if got := g.ask(asked(kind, "/public/x")); got.Code != 200 {
			t.Errorf("%s: got %d", kind, got.Code)
		}
		for _, name := range headers {
			missing := asked(kind, "/public/x")
			missing.Header.Del(name)
			empty := asked(kind, "/public/x")
			empty.Header.Set(name, "")
			twice := asked(kind, "/public/x")
			twice.Header.Add(name, twice.Header.Get(name))
			for what, r := range map[string]*http.Request{"missing": missing, "empty": empty, "twice": twice} {
				if got := g.ask(r); got.Code != status {
					t.Errorf("%s: %s %s: got %d, want %d", kind, name, what, got.Code, status)
				}
			}
		}
	}
	for kind, others := range map[string][]string{
		"nginx":   {"X-Forwarded-Uri", "X-Forwarded-Method", "X-Original-Url", "X-Forwarded-Prefix", "Forwarded"},
		"traefik": {"X-Original-Uri", "X-Original-Method", "X-Original-Url", "X-Forwarded-Prefix", "X-Replaced-Path", "Forwarded"},
		"caddy":   {"X-Original-Uri", "X-Original-Method", "X-Original-Url", "X-Forwarded-Prefix", "Forwarded"},
		"envoy":   {"X-Original-Uri", "X-Forwarded-Uri", "X-Original-Method", "X-Forwarded-Method", "X-Envoy-Original-Path", "X-Forwarded-Host", "Forwarded"},
	} {
		for _, name := range others {
			value := "/public/x"
			if strings.HasSuffix(name, "Method") {
				value = "OPTIONS"
			}
			if got := g.ask(asked(kind, "/docs/1", name+": "+value)); got.Code != 401 {
				t.Errorf("%s with %s: got %d, want 401", kind, name, got.Code)
			}
			if got := g.ask(asked(kind, "/public/x", name+": /docs/1")); got.Code != 200 {
				t.Errorf("%s with %s: got %d, want 200", kind, name, got.Code)
			}
		}
	}
}

func TestAPermitIsEmptyAndSaysEverything(t *testing.T) {
	g := newGate(t)
	owner, key := g.key(authz.Permissions{"document": {"read"}})
	for _, kind := range proxies {
		for _, more := range [][]string{nil, {"If-None-Match: *"}, {"If-Modified-Since: Sun, 01 Jan 2090 00:00:00 GMT"}, {"Range: bytes=0-0"}, {"Expect: 100-continue"}, {"Ostiary-At-Least: x"}} {
			got := g.ask(asked(kind, "/docs/1?x=y", append(more, "x-api-key: "+key, "X-Request-Id: r-1")...))
			h := got.Header()
			if got.Code != 200 || got.Body.Len() != 0 || h.Get("Cache-Control") != "no-store" || h.Get("ETag") != "" || h.Get("Last-Modified") != "" || h.Get("Location") != "" {
				t.Errorf("%s %q: got %d %q %v", kind, more, got.Code, got.Body, h)
			}
			if h.Get("Ostiary-User") != owner.ID || h.Get("Ostiary-Roles") != "reader" || h.Get("Ostiary-Credential") != "api_key" ||
				h.Get(request.DecisionHeader) == "" || h.Get("X-Request-Id") != "r-1" {
				t.Errorf("%s %q: got %v", kind, more, h)
			}
			for _, name := range forwardauth.IdentityHeaders {
				if len(h[name]) != 1 {
					t.Errorf("%s: %s: got %q, want one", kind, name, h[name])
				}
			}
		}
		// A denial has the same headers, with nothing in them.
		for _, r := range []*http.Request{asked(kind, "/elsewhere", "x-api-key: "+key), asked(kind, "/docs//1", "x-api-key: "+key)} {
			got := g.ask(r)
			for _, name := range forwardauth.IdentityHeaders {
				if v := got.Header()[name]; got.Code == 200 || len(v) != 1 || v[0] != "" {
					t.Errorf("%s: denied with %d: %s is %q", kind, got.Code, name, v)
				}
			}
		}
	}
}

// Each proxy is told what it can pass on.
func TestStatuses(t *testing.T) {
	g := newGate(t)
	owner, key := g.key(authz.Permissions{"document": {"read"}})
	limited := func(kind string) string {
		one := ptr(int64(1))
		_, secret, err := g.Authn().CreateKey(t.Context(), authn.System("test"), authn.NewKey{
			OwnerID: owner.ID, Permissions: authz.Permissions{"document": {"read"}}, Limits: authn.KeyLimits{Remaining: &one},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := g.ask(asked(kind, "/docs/1", "x-api-key: "+secret.Reveal())); got.Code != 200 {
			t.Fatalf("first use: got %d", got.Code)
		}
		return secret.Reveal()
	}
	for _, kind := range proxies {
		refused, busy := 400, 429
		if kind == "nginx" {
			refused, busy = 403, 403
		}
		for name, tt := range map[string]struct {
			r         *http.Request
			status    int
			challenge string
		}{
			"nobody":            {asked(kind, "/docs/1"), 401, request.Challenge},
			"a bad credential":  {asked(kind, "/docs/1", "x-api-key: nonsense"), 401, request.ChallengeInvalid},
			"on a public route": {asked(kind, "/public/x", "x-api-key: nonsense"), 401, request.ChallengeInvalid},
			"who may not":       {asked(kind, "/elsewhere", "x-api-key: "+key), 403, ""},
			"two credentials":   {asked(kind, "/docs/1", "x-api-key: "+key, "Authorization: Bearer other"), refused, ""},
			"too many uses":     {asked(kind, "/docs/1", "x-api-key: "+limited(kind)), busy, ""},
			"an odd path":       {asked(kind, "/docs/%2e%2e/1", "x-api-key: "+key), refused, ""},
			"a broken policy":   {asked(kind, "/public/broken"), 403, ""},
		} {
			if got := g.ask(tt.r); got.Code != tt.status || got.Header().Get("WWW-Authenticate") != tt.challenge {
				t.Errorf("%s: %s: got %d %q, want %d %q", kind, name, got.Code, got.Header().Get("WWW-Authenticate"), tt.status, tt.challenge)
			}
		}
	}
	g.Close()
	for _, kind := range proxies {
		if got := g.ask(asked(kind, "/docs/1", "x-api-key: ost_"+strings.Repeat("x", 60))); got.Code == 200 || got.Code == 403 {
			t.Errorf("%s: without a store: got %d", kind, got.Code)
		}
		if got := g.ask(asked(kind, "/docs/1", "x-api-key: "+strings.Repeat("x", 64))); got.Code != 503 {
			t.Errorf("%s: without a store: got %d", kind, got.Code)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// Envoy repeats the request, whatever it is, below the prefix.
func TestEnvoyAsksAnyMethodOnAnyPath(t *testing.T) {
	g := newGate(t)
	_, key := g.key(authz.Permissions{"*": {"*"}})
	server := httptest.NewServer(g.Handler())
	defer server.Close()
	for _, tt := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/docs/1", 200},
		{"HEAD", "/docs/1", 200},
		{"POST", "/docs/1", 200},
		{"OPTIONS", "/docs/1", 200},
		{"PURGE", "/docs/1", 200},
		{"TRACE", "/docs/1", 200},
		{"CONNECT", "/docs/1", 200},
		{"GET", "/docs/1/", 200},
		{"GET", "/", 403},
		{"GET", "/%64ocs/1", 200},
		{"GET", "//docs/1", 400},
		{"GET", "/docs//1", 400},
		{"GET", "/docs%2f1", 400},
		{"GET", "/../docs/1", 400},
		{"GET", "/x/%2e%2e/docs/1", 400},
		{"GET", "/x/..;/docs/1", 400},
		{"get", "/docs/1", 400},
		{"GET", "", 404},
		{"GET", "x/docs/1", 404},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tt.method, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.Opaque = "/forward-auth/envoy" + tt.target
		r.Host = "app.test"
		r.Header.Set("x-api-key", key)
		r.Header.Set(forwardauth.SecretHeader, secret)
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.target, err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != tt.status {
			t.Errorf("%s %s: got %d, want %d", tt.method, tt.target, resp.StatusCode, tt.status)
		}
	}
}

// The nearest address that is no trusted proxy's, and no other.
func TestClientAddress(t *testing.T) {
	g := newGate(t, func(o *ostiary.Options) { o.Request.TrustedProxies = []string{"10.0.0.0/8"} })
	for _, tt := range []struct{ list, ip string }{
		{"203.0.113.7", "203.0.113.7"},
		{"198.51.100.1, 203.0.113.7", "203.0.113.7"},
		{"198.51.100.1, 203.0.113.7, 10.1.2.3", "203.0.113.7"},
		{"203.0.113.7,10.1.2.3,10.1.2.4", "203.0.113.7"},
		{"198.51.100.1, nonsense, 10.1.2.3", ""},
		{"10.1.2.3", ""},
		{"nonsense", ""},
	} {
		for _, kind := range proxies {
			for _, ip := range []string{"203.0.113.7", "198.51.100.1", "10.1.2.3", "192.0.2.1"} { // the last is the peer's
				r := asked(kind, "/from/"+ip)
				r.Header.Set("X-Forwarded-For", tt.list)
				if got := g.ask(r); (got.Code == 200) != (ip == tt.ip) {
					t.Errorf("%s: %q as %s: got %d", kind, tt.list, ip, got.Code)
				}
			}
		}
	}
	// Envoy names itself, unless it is told to name the client.
	r := asked("envoy", "/from/192.0.2.1")
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	if got := g.ask(r); got.Code == 200 {
		t.Error("the proxy was taken for the client")
	}
}

func TestPoliciesSeeTheRoute(t *testing.T) {
	g := newGate(t)
	owner, key := g.key(authz.Permissions{"document": {"read"}})
	got := g.ask(asked("traefik", "/docs/%61%20b/?x=1", "x-api-key: "+key, "User-Agent: curl"))
	id := got.Header().Get(request.DecisionHeader)
	var record struct{ Input map[string]any }
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		r, err := g.Decisions().Record(t.Context(), id)
		if err == nil {
			record.Input = r.Input
			break
		}
		if time.Now().After(until) {
			t.Fatalf("status %d, decision %q: %v", got.Code, id, err)
		}
	}
	text, _ := json.Marshal(record)
	var have struct {
		Input struct {
			Principal        struct{ ID string }
			Action, Resource map[string]any
			Context          map[string]any
		}
	}
	if err := json.Unmarshal(text, &have); err != nil {
		t.Fatal(err)
	}
	delete(have.Input.Context, "time")
	want := map[string]any{"type": "route", "id": "/docs/a%20b", "properties": map[string]any{
		"path": "/docs/a%20b", "segments": []any{"docs", "a b"}, "target": "/docs/%61%20b/?x=1", "query": "x=1", "method": "GET",
		"host": "app.test", "scheme": "https", "proxy": "traefik", "permission": "document:read", "extensions": map[string]any{},
	}}
	about := map[string]any{"ip": "203.0.113.7", "userAgent": "curl", "method": "GET", "path": "/docs/a%20b"}
	if !reflect.DeepEqual(have.Input.Resource, want) || !reflect.DeepEqual(have.Input.Context, about) ||
		have.Input.Principal.ID != owner.ID || have.Input.Action["name"] != "GET" {
		t.Errorf("got %s", text)
	}
}

func FuzzForwardedHeaders(f *testing.F) {
	f.Add("/public/x", "GET", "app.test", "https", "203.0.113.7", "k")
	f.Add("/public/../docs/1", "OPTIONS", "APP.test.:443", "wss", "203.0.113.7, ::1", "")
	f.Add("http://app.test/public", "HEAD", "[::1]:80", "http", ",", "Bearer x")
	f.Add("*", "*", "", "", "", "")
	handler := open(f, site).Handler()
	f.Fuzz(func(t *testing.T, target, method, host, scheme, address, key string) {
		for _, kind := range proxies[:3] {
			r := asked(kind, target)
			set := func(name, value string) {
				if r.Header.Get(name) != "" {
					r.Header[http.CanonicalHeaderKey(name)] = []string{value}
				}
			}
			set("X-Original-Method", method)
			set("X-Forwarded-Method", method)
			set("X-Original-Host", host)
			set("X-Forwarded-Host", host)
			set("X-Forwarded-Proto", scheme)
			set("X-Forwarded-For", address)
			if key != "" {
				r.Header.Set("X-Api-Key", key)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			switch {
			case w.Code == 200:
				// Nobody has a key here, and only these routes are for nobody.
				u, err := url.ParseRequestURI(target)
				if err != nil || key != "" || !(strings.HasPrefix(u.Path, "/public") && (method == "GET" || method == "HEAD") ||
					strings.HasPrefix(u.Path, "/docs") && method == "OPTIONS" || strings.HasPrefix(u.Path, "/from/")) {
					t.Errorf("%s: %q %q on %q permitted", kind, method, target, host)
				}
			case kind == "nginx" && w.Code != 401 && w.Code != 403, w.Code != 400 && w.Code != 401 && w.Code != 403:
				t.Errorf("%s: %q %q: got %d", kind, method, target, w.Code)
			}
			for name, values := range w.Header() {
				for _, v := range values {
					if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r >= 0x7f }) {
						t.Errorf("%s: %q", name, v)
					}
				}
			}
		}
	})
}
