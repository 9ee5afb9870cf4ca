package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server"
	"github.com/ostiary/ostiary/server/request"
)

// cookie is the signed session cookie of token.
func cookie(t testing.TB, token string) string {
	t.Helper()
	rd, err := request.New(request.Options{Secrets: []string{cookieSecret}})
	if err != nil {
		t.Fatal(err)
	}
	return "Cookie: " + rd.CookieName(request.SessionCookie) + "=" + rd.SignCookie(token)
}

// A credential that was sent and is not good is refused as what it is, with a
// challenge; it never counts as none.
func TestBadCredentialsAreRefused(t *testing.T) {
	h := open(t, nil)
	ann, banned := h.user(t, "ann"), h.user(t, "banned")
	_, good := h.key(t, ann, nil)
	_, other := h.key(t, ann, nil)
	disabledKey, disabled := h.key(t, ann, nil)
	_, exhausted := h.key(t, ann, nil, func(k *authn.NewKey) { k.Limits.Remaining = ptr(ptr(int64(1))) })
	_, limited := h.key(t, ann, nil, func(k *authn.NewKey) {
		k.Limits.RateLimitEnabled, k.Limits.RateLimitMax, k.Limits.RateLimitTimeWindow = ptr(true), ptr(ptr(int64(1))), ptr(ptr(int64(60_000)))
	})
	rotated, superseded := h.key(t, ann, nil)
	_, ofBanned := h.key(t, banned, nil)
	for _, err := range []error{
		second(h.authn.UpdateKey(t.Context(), system, disabledKey.ID, authn.KeyChange{Enabled: ptr(false)})),
		third(h.authn.RotateKey(t.Context(), system, rotated.ID, 0)),
		second(h.authn.Ban(t.Context(), system, banned.ID, "", 0)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	h.do(t, "GET", "/v1/me", "", "x-api-key: "+exhausted)
	h.do(t, "GET", "/v1/me", "", "x-api-key: "+limited)
	session := h.signIn(t, "ann@example.com")

	for _, c := range []struct {
		name    string
		headers []string
		status  int
		code    string
	}{
		{"key", []string{"x-api-key: " + good}, 200, ""},
		{"key as bearer", []string{"Authorization: Bearer " + good}, 200, ""},
		{"session as bearer", []string{"Authorization: Bearer " + session}, 200, ""},
		{"cookie", []string{cookie(t, session)}, 200, ""},
		{"the same key twice", []string{"x-api-key: " + good, "Authorization: Bearer " + good}, 200, ""},
		{"a key beside a made-up cookie", []string{"x-api-key: " + good, "Cookie: better-auth.session_token=nonsense"}, 200, ""},
		{"none", nil, 200, ""},
		{"two keys", []string{"x-api-key: " + good, "Authorization: Bearer " + other}, 400, "AMBIGUOUS_CREDENTIALS"},
		{"a key and a session", []string{"x-api-key: " + good, "Authorization: Bearer " + session}, 400, "AMBIGUOUS_CREDENTIALS"},
		{"unknown key", []string{"x-api-key: nonsense"}, 401, "BAD_CREDENTIAL"},
		{"our prefix, wrong checksum", []string{"x-api-key: " + good[:len(good)-1] + "!"}, 401, "BAD_CREDENTIAL"},
		{"a session in the key header", []string{"x-api-key: " + session}, 401, "BAD_CREDENTIAL"},
		{"unknown bearer", []string{"Authorization: Bearer nonsense"}, 401, "BAD_CREDENTIAL"},
		{"another scheme", []string{"Authorization: Basic YTpi"}, 401, "BAD_CREDENTIAL"},
		{"a bad key beside a good cookie", []string{"x-api-key: nonsense", cookie(t, session)}, 401, "BAD_CREDENTIAL"},
		{"a cookie that we did not sign", []string{"Cookie: better-auth.session_token=" + session + ".AAAA"}, 401, "BAD_CREDENTIAL"},
		{"a cookie of no session", []string{cookie(t, "unknown")}, 401, "BAD_CREDENTIAL"},
		{"disabled", []string{"x-api-key: " + disabled}, 401, "KEY_DISABLED"},
		{"rotated away", []string{"x-api-key: " + superseded}, 401, "KEY_SUPERSEDED"},
		{"banned owner", []string{"x-api-key: " + ofBanned}, 401, "OWNER_BANNED"},
		{"no uses left", []string{"x-api-key: " + exhausted}, 429, "USAGE_EXCEEDED"},
		{"rate limit", []string{"x-api-key: " + limited}, 429, "RATE_LIMITED"},
	} {
		for _, call := range [][3]string{{"GET", "/v1/me"}, {"POST", "/v1/authorize", `{"action":"a","resource":{"type":"t"}}`}} {
			got := h.do(t, call[0], call[1], call[2], c.headers...)
			if got.StatusCode != c.status || c.code != "" && got.code(t) != c.code {
				t.Errorf("%s, %s: got %d %s, want %d %s", c.name, call[1], got.StatusCode, got.body, c.status, c.code)
			}
			challenge := got.Header.Get("WWW-Authenticate")
			if want := `Bearer realm="ostiary", error="invalid_token"`; (c.status == 401) != (challenge == want) {
				t.Errorf("%s, %s: challenge %q", c.name, call[1], challenge)
			}
			retry := got.Header.Get("Retry-After")
			if seconds, _ := strconv.Atoi(retry); (c.code == "RATE_LIMITED") != (seconds >= 1 && seconds <= 60) {
				t.Errorf("%s, %s: Retry-After %q", c.name, call[1], retry)
			}
			if got.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s, %s: Cache-Control %q", c.name, call[1], got.Header.Get("Cache-Control"))
			}
		}
	}
}

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

// A browser sends cookies with requests that another site makes it send, so
// those may not write; headers it does not send, so they may.
func TestCookieWritesFromOtherSitesAreRefused(t *testing.T) {
	h := open(t, nil, func(o *server.Options) { o.Origins = []string{"https://app.example"} })
	ann := h.user(t, "ann")
	_, key := h.key(t, ann, nil)
	jar := cookie(t, h.signIn(t, "ann@example.com"))
	ask := `{"action":"a","resource":{"type":"t"}}`
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
	}{
		{"another site", "POST", "/v1/authorize", ask, []string{jar, "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"}, 403},
		{"another site, old browser", "POST", "/v1/authorize", ask, []string{jar, "Origin: https://evil.example"}, 403},
		{"a sibling", "POST", "/v1/authorize", ask, []string{jar, "Origin: https://evil.example.com", "Sec-Fetch-Site: same-site"}, 403},
		{"no origin", "POST", "/v1/authorize", ask, []string{jar, "Origin: null"}, 403},
		{"service account", "POST", "/v1/service-accounts", `{"name":"x"}`, []string{jar, "Origin: https://evil.example"}, 403},
		{"trusted", "POST", "/v1/authorize", ask, []string{jar, "Origin: https://app.example", "Sec-Fetch-Site: cross-site"}, 200},
		{"own page", "POST", "/v1/authorize", ask, []string{jar, "Origin: http://example.com", "Sec-Fetch-Site: same-origin"}, 200},
		{"no browser", "POST", "/v1/authorize", ask, []string{jar}, 200},
		{"reading", "GET", "/v1/me", "", []string{jar, "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"}, 200},
		{"by key", "POST", "/v1/authorize", ask, []string{"x-api-key: " + key, "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"}, 200},
		{"by key beside a cookie", "POST", "/v1/authorize", ask, []string{"x-api-key: " + key, jar, "Origin: https://evil.example"}, 200},
		{"nobody", "POST", "/v1/authorize", ask, []string{"Origin: https://evil.example", "Sec-Fetch-Site: cross-site"}, 200},
	} {
		got := h.do(t, c.method, c.path, c.body, c.headers...)
		if got.StatusCode != c.status || c.status == 403 && got.code(t) != "CROSS_ORIGIN" {
			t.Errorf("%s: got %d %s", c.name, got.StatusCode, got.body)
		}
	}
}

func TestMeTellsWhoAndWhatButNoSecret(t *testing.T) {
	h := open(t, nil)
	admin := h.user(t, "root", "admin")
	h.user(t, "ann")
	k, key := h.key(t, admin, authz.Permissions{"user": {"list", "impersonate-admins"}, "apiKey": {"read"}}, func(k *authn.NewKey) {
		k.Name, k.Metadata = ptr("ci"), []byte(`{"for":"ci"}`)
		k.Limits.Remaining, k.Limits.RefillAmount, k.Limits.RefillInterval = ptr(ptr(int64(5))), ptr(ptr(int64(5))), ptr(ptr(int64(60_000)))
		k.Limits.RateLimitEnabled, k.Limits.RateLimitMax, k.Limits.RateLimitTimeWindow = ptr(true), ptr(ptr(int64(10))), ptr(ptr(int64(1000)))
	})
	_, bare := h.key(t, admin, nil)
	session := h.signIn(t, "ann@example.com")

	type me struct {
		Principal struct {
			Type, ID, Credential string
			User                 struct{ ID, Email string }
			Session              *struct {
				ID    string
				Fresh bool
			}
			Key *struct {
				ID, Name    string
				Metadata    any
				Permissions authz.Permissions
			}
		}
		Permissions, Own authz.Permissions
		Limits           *struct {
			Remaining *int64
			Refill    *struct {
				Amount, Interval int64
				At               time.Time
			}
			RateLimit *struct{ Max, Window, Remaining int64 }
		}
	}
	var got me
	a := h.do(t, "GET", "/v1/me", "", "x-api-key: "+key)
	a.decode(t, &got)
	if p := got.Principal; p.ID != admin.ID || p.Credential != "api_key" || p.User.Email != admin.Email || p.Key.ID != k.ID || p.Key.Name != "ci" || fmt.Sprint(p.Key.Metadata) != "map[for:ci]" || p.Session != nil {
		t.Errorf("principal: %s", a.body)
	}
	if fmt.Sprint(got.Permissions) != "map[apiKey:[read] user:[list]]" {
		t.Errorf("effective permissions: got %v: what the owner has not, the key has not either", got.Permissions)
	}
	if fmt.Sprint(got.Own) != "map[apiKey:[read]]" {
		t.Errorf("own: got %v", got.Own)
	}
	if l := got.Limits; l == nil || *l.Remaining != 4 || l.Refill.Amount != 5 || l.Refill.Interval != 60_000 || !l.Refill.At.Equal(k.CreatedAt.Add(time.Minute)) ||
		l.RateLimit.Max != 10 || l.RateLimit.Window != 1000 || l.RateLimit.Remaining != 9 {
		t.Errorf("limits: %s", a.body)
	}

	got = me{}
	b := h.do(t, "GET", "/v1/me", "", "x-api-key: "+bare)
	b.decode(t, &got)
	if len(got.Permissions) != 0 || len(got.Own) != 0 || got.Limits == nil || got.Limits.Remaining != nil || got.Limits.RateLimit != nil {
		t.Errorf("a key without grants: %s", b.body)
	}

	got = me{}
	c := h.do(t, "GET", "/v1/me", "", "Authorization: Bearer "+session)
	c.decode(t, &got)
	if got.Principal.Session == nil || !got.Principal.Session.Fresh || got.Limits != nil || len(got.Permissions) != 0 || got.Own["apiKey"] == nil {
		t.Errorf("a session: %s", c.body)
	}

	got = me{}
	d := h.do(t, "GET", "/v1/me", "")
	d.decode(t, &got)
	if d.StatusCode != 200 || got.Principal.Type != "anonymous" || len(got.Permissions) != 0 || len(got.Own) != 0 {
		t.Errorf("nobody: %s", d.body)
	}
	for _, answer := range []string{a.body, b.body, c.body} {
		for _, secret := range []string{key, bare, session, "correct-horse"} {
			if strings.Contains(answer, secret) {
				t.Errorf("a secret is in %s", answer)
			}
		}
	}
}

func TestVerifyKeySaysWhatAKeyIsWorth(t *testing.T) {
	h := open(t, nil)
	admin, ann, banned := h.user(t, "root", "admin"), h.user(t, "ann"), h.user(t, "banned")
	_, verifier := h.key(t, admin, authz.Permissions{"apiKey": {"verify"}})
	_, other := h.key(t, admin, authz.Permissions{"apiKey": {"read"}})
	goodKey, good := h.key(t, ann, authz.Permissions{"document": {"read"}})
	disabledKey, disabled := h.key(t, ann, nil)
	_, once := h.key(t, ann, authz.Permissions{"document": {"read"}}, func(k *authn.NewKey) { k.Limits.Remaining = ptr(ptr(int64(1))) })
	_, limited := h.key(t, ann, nil, func(k *authn.NewKey) {
		k.Limits.RateLimitEnabled, k.Limits.RateLimitMax, k.Limits.RateLimitTimeWindow = ptr(true), ptr(ptr(int64(1))), ptr(ptr(int64(60_000)))
	})
	rotated, superseded := h.key(t, ann, nil)
	_, ofBanned := h.key(t, banned, nil)
	for _, err := range []error{
		second(h.authn.UpdateKey(t.Context(), system, disabledKey.ID, authn.KeyChange{Enabled: ptr(false)})),
		third(h.authn.RotateKey(t.Context(), system, rotated.ID, 0)),
		second(h.authn.Ban(t.Context(), system, banned.ID, "", 0)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, body, code string
	}{
		{"good", `{"key":"` + good + `"}`, "VALID"},
		{"what it is granted", `{"key":"` + good + `","permissions":{"document":["read"]}}`, "VALID"},
		{"what it is not granted", `{"key":"` + good + `","permissions":{"document":["read","write"]}}`, "INSUFFICIENT_PERMISSIONS"},
		{"asking about a grant consumes nothing if it is missing", `{"key":"` + once + `","permissions":{"document":["write"]}}`, "INSUFFICIENT_PERMISSIONS"},
		{"the one use", `{"key":"` + once + `"}`, "VALID"},
		{"no use left", `{"key":"` + once + `"}`, "USAGE_EXCEEDED"},
		{"within the limit", `{"key":"` + limited + `"}`, "VALID"},
		{"above the limit", `{"key":"` + limited + `"}`, "RATE_LIMITED"},
		{"unknown", `{"key":"nonsense"}`, "NOT_FOUND"},
		{"disabled", `{"key":"` + disabled + `"}`, "DISABLED"},
		{"rotated away", `{"key":"` + superseded + `"}`, "SUPERSEDED"},
		{"banned owner", `{"key":"` + ofBanned + `"}`, "OWNER_BANNED"},
	} {
		got := h.do(t, "POST", "/v1/keys/verify", c.body, "x-api-key: "+verifier)
		var v struct {
			Valid      bool
			Code       string
			Key        *struct{ ID, ReferenceID string }
			User       *struct{ ID string }
			RetryAfter int
		}
		got.decode(t, &v)
		if v.Code != c.code || v.Valid != (c.code == "VALID") {
			t.Errorf("%s: got %s, want %s", c.name, got.body, c.code)
		}
		if (v.Key == nil || v.User == nil) != (c.code == "NOT_FOUND") {
			t.Errorf("%s: key and user: %s", c.name, got.body)
		}
		if (v.RetryAfter > 0) != (c.code == "RATE_LIMITED") {
			t.Errorf("%s: retryAfter %d", c.name, v.RetryAfter)
		}
		if c.code == "VALID" && c.name == "good" && (v.Key.ID != goodKey.ID || v.User.ID != ann.ID) {
			t.Errorf("%s: %s", c.name, got.body)
		}
		for _, secret := range []string{good, disabled, once, limited, superseded, ofBanned} {
			if strings.Contains(got.body, secret) {
				t.Errorf("%s: a secret is in the answer", c.name)
			}
		}
	}

	for _, c := range []struct {
		name, body, key string
		status          int
		code            string
	}{
		{"nobody", `{"key":"x"}`, "", 401, "UNAUTHENTICATED"},
		{"without the grant", `{"key":"x"}`, other, 403, "DENIED"},
		{"no key", `{}`, verifier, 400, "INVALID"},
		{"empty key", `{"key":""}`, verifier, 400, "INVALID"},
		{"null key", `{"key":null}`, verifier, 400, "INVALID"},
		{"unknown member", `{"key":"x","keyId":"y"}`, verifier, 400, "INVALID"},
		{"grants of a wrong shape", `{"key":"x","permissions":["a"]}`, verifier, 400, "INVALID"},
		{"grants of nothing", `{"key":"x","permissions":{"a":[""]}}`, verifier, 400, "INVALID"},
	} {
		var headers []string
		if c.key != "" {
			headers = []string{"x-api-key: " + c.key}
		}
		got := h.do(t, "POST", "/v1/keys/verify", c.body, headers...)
		if got.StatusCode != c.status || got.code(t) != c.code {
			t.Errorf("%s: got %d %s", c.name, got.StatusCode, got.body)
		}
	}
}

func TestServiceAccountAndItsKeyInOneCall(t *testing.T) {
	h := open(t, nil)
	admin := h.user(t, "root", "admin")
	_, key := h.key(t, admin, authz.Permissions{"user": {"create", "set-role", "list"}, "apiKey": {"create"}})
	_, weak := h.key(t, admin, authz.Permissions{"user": {"create"}, "apiKey": {"create"}})
	got := h.do(t, "POST", "/v1/service-accounts", `{"name":"robot","role":["admin"],"attributes":{"team":"ops"},
		"key":{"name":"first","permissions":{"user":["list"]},"metadata":{"a":[1]},"expiresIn":86400,"remaining":10,"prefix":"bot_"}}`, "x-api-key: "+key)
	if got.StatusCode != 201 || got.Header.Get("Ostiary-Revision") == "" || got.Header.Get("Ostiary-Decision") == "" {
		t.Fatalf("got %d %v %s", got.StatusCode, got.Header, got.body)
	}
	var made struct {
		User struct {
			ID, Name, Role string
			ServiceAccount bool
			Attributes     map[string]any
		}
		Key struct {
			ID, ReferenceID, Name, Start, Key string
			Permissions                       authz.Permissions
			Metadata                          any
			ExpiresAt                         time.Time
			Remaining                         int64
		}
	}
	got.decode(t, &made)
	if u := made.User; u.Name != "robot" || u.Role != "admin" || !u.ServiceAccount || u.Attributes["team"] != "ops" {
		t.Errorf("user: %s", got.body)
	}
	if k := made.Key; k.ReferenceID != made.User.ID || k.Name != "first" || !strings.HasPrefix(k.Key, "bot_") || !strings.HasPrefix(k.Key, k.Start) ||
		fmt.Sprint(k.Permissions) != "map[user:[list]]" || fmt.Sprint(k.Metadata) != "map[a:[1]]" || k.Remaining != 10 || time.Until(k.ExpiresAt).Round(time.Minute) != 24*time.Hour {
		t.Errorf("key: %s", got.body)
	}
	me := h.do(t, "GET", "/v1/me", "", "x-api-key: "+made.Key.Key)
	if me.StatusCode != 200 || !strings.Contains(me.body, `"service_account"`) || strings.Contains(me.body, made.Key.Key) {
		t.Errorf("me: %s", me.body)
	}
	plain := h.do(t, "POST", "/v1/service-accounts", `{"name":"plain"}`, "x-api-key: "+key)
	if plain.StatusCode != 201 || !strings.Contains(plain.body, `"permissions":null`) {
		t.Errorf("without key settings: %d %s", plain.StatusCode, plain.body)
	}

	for _, c := range []struct {
		name, body, key string
		status          int
		code, pointer   string
	}{
		{"nobody", `{"name":"x"}`, "", 401, "UNAUTHENTICATED", ""},
		{"a role without set-role", `{"name":"x","role":"admin"}`, weak, 403, "DENIED", ""},
		{"more than one has", `{"name":"x","key":{"permissions":{"user":["delete"]}}}`, weak, 403, "DENIED", ""},
		{"no name", `{}`, key, 400, "INVALID", "/name"},
		{"empty name", `{"name":""}`, key, 400, "INVALID", "/name"},
		{"empty role", `{"name":"x","role":""}`, key, 400, "INVALID", "/role"},
		{"role of a wrong type", `{"name":"x","role":7}`, key, 400, "INVALID", "/role"},
		{"roles of a wrong type", `{"name":"x","role":["a",7]}`, key, 400, "INVALID", "/role/1"},
		{"attributes", `{"name":"x","attributes":[]}`, key, 400, "INVALID", "/attributes"},
		{"unknown member", `{"name":"x","email":"a@b.c"}`, key, 400, "INVALID", "/email"},
		{"somebody else's key", `{"name":"x","key":{"userId":"` + admin.ID + `"}}`, key, 400, "INVALID", "/key/userId"},
		{"expiry", `{"name":"x","key":{"expiresIn":0}}`, key, 400, "INVALID", "/key/expiresIn"},
		{"huge expiry", `{"name":"x","key":{"expiresIn":1e300}}`, key, 400, "INVALID", "/key/expiresIn"},
		{"expiry too soon", `{"name":"x","key":{"expiresIn":60}}`, key, 400, "INVALID", "/key/expiresIn"},
		{"remaining", `{"name":"x","key":{"remaining":-1}}`, key, 400, "INVALID", "/key/remaining"},
		{"fraction", `{"name":"x","key":{"remaining":1.5}}`, key, 400, "INVALID", "/key/remaining"},
		{"refill without amount", `{"name":"x","key":{"refillInterval":1000}}`, key, 400, "INVALID", "/key/refillAmount"},
		{"prefix", `{"name":"x","key":{"prefix":"a b"}}`, key, 400, "INVALID", "/key/prefix"},
		{"name too long", `{"name":"x","key":{"name":"` + strings.Repeat("n", 33) + `"}}`, key, 400, "INVALID", "/key/name"},
		{"metadata", `{"name":"x","key":{"metadata":"text"}}`, key, 400, "INVALID", "/key/metadata"},
	} {
		var headers []string
		if c.key != "" {
			headers = []string{"x-api-key: " + c.key}
		}
		got := h.do(t, "POST", "/v1/service-accounts", c.body, headers...)
		var p server.Problem
		got.decode(t, &p)
		if got.StatusCode != c.status || p.Code != c.code {
			t.Errorf("%s: got %d %s", c.name, got.StatusCode, got.body)
		} else if c.pointer != "" && (len(p.Errors) != 1 || p.Errors[0].Pointer != c.pointer) {
			t.Errorf("%s: got %v, want %s", c.name, p.Errors, c.pointer)
		}
		if got.Header.Get("Ostiary-Revision") != "" {
			t.Errorf("%s: something was written", c.name)
		}
	}
	denied := h.do(t, "POST", "/v1/service-accounts", `{"name":"x","key":{"permissions":{"user":["delete"]}}}`, "x-api-key: "+weak)
	if !strings.Contains(denied.body, `"escalation"`) {
		t.Errorf("the reason is not told: %s", denied.body)
	}
}

func TestDecisionsCanBeReadPageByPage(t *testing.T) {
	h := open(t, nil)
	admin, ann := h.user(t, "root", "admin"), h.user(t, "ann")
	readerKey, reader := h.key(t, admin, authz.Permissions{"decision": {"read"}})
	annKey, key := h.key(t, ann, authz.Permissions{"document": {"read"}})
	for i := range 25 {
		h.do(t, "POST", "/v1/authorize", `{"action":"read","resource":{"type":"document","id":"d`+strconv.Itoa(i)+`","properties":{"n":`+strconv.Itoa(i)+`}}}`, "x-api-key: "+key)
	}
	if err := h.records.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	type page struct {
		Decisions []struct {
			ID, Action string
			Allow      bool
			Principal  struct{ ID, KeyID string }
			Resource   struct{ Type, ID string }
			Input      any
		}
		Next *string
	}
	seen := map[string]bool{}
	last := ""
	query := url.Values{"key": {annKey.ID}, "limit": {"10"}}
	for pages := 0; ; pages++ {
		var p page
		got := h.do(t, "GET", "/v1/decisions?"+query.Encode(), "", "x-api-key: "+reader)
		got.decode(t, &p)
		for _, d := range p.Decisions {
			if seen[d.ID] {
				t.Errorf("%s is on two pages", d.ID)
			}
			seen[d.ID] = true
			last = d.ID
			if d.Principal.ID != ann.ID || d.Principal.KeyID != annKey.ID || d.Input != nil {
				t.Errorf("got %+v", d)
			}
		}
		if p.Next == nil {
			break
		}
		if pages > 5 {
			t.Fatal("the pages do not end")
		}
		query.Set("before", *p.Next)
	}
	if len(seen) != 25 {
		t.Errorf("%d of 25 decisions are on the pages", len(seen))
	}

	one := h.do(t, "GET", "/v1/decisions/"+last, "", "x-api-key: "+reader)
	// The first one was made in the same millisecond as some others, perhaps.
	number := regexp.MustCompile(`"id":"d(\d+)"`).FindStringSubmatch(one.body)
	if one.StatusCode != 200 || number == nil || !strings.Contains(one.body, `"n":`+number[1]) || strings.Contains(one.body, key) {
		t.Errorf("one decision: %d %s", one.StatusCode, one.body)
	}
	for q, want := range map[string]int{
		"resourceId=d7": 1, "resourceType=document&action=read&limit=500": 25, "resourceType=nothing": 0, "allow=true&resourceType=document": 0,
		"allow=false&resourceType=document&code=role_missing": 25, "code=nothing": 0, "principal=" + ann.ID + "&limit=3": 3, "key=" + readerKey.ID + "&allow=false": 0,
		"until=2001-01-01T00:00:00Z": 0, "since=2001-01-01T00:00:00Z&resourceType=document": 25, "revision=" + h.library.Status().Revision + "&resourceId=d1": 1,
	} {
		var p page
		got := h.do(t, "GET", "/v1/decisions?"+q, "", "x-api-key: "+reader)
		got.decode(t, &p)
		if len(p.Decisions) != want {
			t.Errorf("%s: got %d, want %d", q, len(p.Decisions), want)
		}
	}
	for _, q := range []string{"limit=0", "limit=501", "limit=x", "allow=yes", "since=yesterday", "until=", "principle=x", "wait=31&since=2001-01-01T00:00:00Z", "wait=1", "after=x&before=y", "limit=1&limit=2", "a=%zz"} {
		got := h.do(t, "GET", "/v1/decisions?"+q, "", "x-api-key: "+reader)
		if got.StatusCode != 400 || got.code(t) != "INVALID" {
			t.Errorf("%s: got %d %s", q, got.StatusCode, got.body)
		}
	}
	if got := h.do(t, "GET", "/v1/decisions/unknown", "", "x-api-key: "+reader); got.StatusCode != 404 || got.code(t) != "NOT_FOUND" {
		t.Errorf("unknown: %d %s", got.StatusCode, got.body)
	}
}

// Who asks again with the last id as after sees each decision once and in order,
// and waits no longer than said when there is none.
func TestFollowerIsToldEachDecisionOnceAndInOrder(t *testing.T) {
	h := open(t, nil)
	_, reader := h.key(t, h.user(t, "root", "admin"), authz.Permissions{"decision": {"read"}})
	_, key := h.key(t, h.user(t, "ann"), nil)
	began := time.Now()
	query := url.Values{"since": {began.UTC().Format(time.RFC3339)}, "resourceType": {"document"}, "limit": {"3"}, "wait": {"20"}}
	var seen []string
	for round := range 2 {
		for i := range 5 {
			h.do(t, "POST", "/v1/authorize", `{"action":"read","resource":{"type":"document","id":"`+strconv.Itoa(5*round+i)+`"}}`, "x-api-key: "+key)
			time.Sleep(2 * time.Millisecond)
		}
		for len(seen) < 5*(round+1) {
			var page struct {
				Decisions []struct {
					ID       string
					Resource struct{ ID string }
				}
			}
			h.do(t, "GET", "/v1/decisions?"+query.Encode(), "", "x-api-key: "+reader).decode(t, &page)
			if len(page.Decisions) == 0 || time.Since(began) > 15*time.Second {
				t.Fatalf("told %v and then nothing", seen)
			}
			for _, d := range page.Decisions {
				seen = append(seen, d.Resource.ID)
				query.Set("after", d.ID)
			}
		}
	}
	if got := strings.Join(seen, ""); got != "0123456789" {
		t.Errorf("told %s", got)
	}
	query.Set("wait", "1")
	began = time.Now()
	got := h.do(t, "GET", "/v1/decisions?"+query.Encode(), "", "x-api-key: "+reader)
	if took := time.Since(began); got.StatusCode != 200 || !strings.Contains(got.body, `"decisions":[]`) || took < 900*time.Millisecond || took > 10*time.Second {
		t.Errorf("nothing to tell: %d %s after %v", got.StatusCode, got.body, took)
	}
}

// Records, events and roles are for those who may read them; who may not is
// told why, and who is nobody is asked for a credential.
func TestReadingIsADecisionToo(t *testing.T) {
	h := open(t, documents)
	admin := h.user(t, "root", "admin")
	_, all := h.key(t, admin, authz.Permissions{"decision": {"read"}, "event": {"read"}, "policy": {"read"}})
	_, none := h.key(t, admin, authz.Permissions{"user": {"*"}})
	_, weak := h.key(t, h.user(t, "ann"), authz.Permissions{"*": {"*"}})
	for path, permission := range map[string]string{"/v1/decisions": "decision:read", "/v1/decisions/x": "decision:read", "/v1/events": "event:read", "/v1/roles": "policy:read"} {
		if got := h.do(t, "GET", path, "", "x-api-key: "+all); got.StatusCode != 200 && path != "/v1/decisions/x" || got.Header.Get("Ostiary-Decision") == "" {
			t.Errorf("%s: got %d %s", path, got.StatusCode, got.body)
		}
		for name, c := range map[string]struct {
			key, reason string
		}{"key": {none, "grant_missing"}, "owner": {weak, "role_missing"}} {
			got := h.do(t, "GET", path, "", "x-api-key: "+c.key)
			var p server.Problem
			got.decode(t, &p)
			if got.StatusCode != 403 || p.Code != "DENIED" || len(p.Reasons) == 0 || p.Reasons[0].Code != c.reason || p.Reasons[0].Permission != permission || got.Header.Get("Ostiary-Decision") == "" {
				t.Errorf("%s, %s: got %d %s", path, name, got.StatusCode, got.body)
			}
		}
		got := h.do(t, "GET", path, "")
		if got.StatusCode != 401 || got.code(t) != "UNAUTHENTICATED" || got.Header.Get("WWW-Authenticate") != `Bearer realm="ostiary"` {
			t.Errorf("%s, nobody: got %d %s %q", path, got.StatusCode, got.body, got.Header.Get("WWW-Authenticate"))
		}
	}
	roles := h.do(t, "GET", "/v1/roles", "", "x-api-key: "+all)
	if !strings.Contains(roles.body, `"reader":{"document":["read"]}`) || !strings.Contains(roles.body, `"admin":{`) {
		t.Errorf("roles: %s", roles.body)
	}
	events := h.do(t, "GET", "/v1/events?limit=2", "", "x-api-key: "+all)
	var list struct {
		Events []struct {
			Kind      string
			Principal struct{ Type string }
			Target    struct{ Type, ID string }
		}
	}
	events.decode(t, &list)
	if len(list.Events) != 2 || list.Events[0].Principal.Type != "system" || list.Events[0].Target.ID == "" {
		t.Errorf("events: %s", events.body)
	}
	if strings.Contains(events.body, weak) {
		t.Error("an event holds a secret")
	}
}

func TestOperations(t *testing.T) {
	var failure error
	h := open(t, nil, func(o *server.Options) {
		o.Ready = func(context.Context) error {
			if failure != nil && failure.Error() == "panic" {
				panic("SECRET")
			}
			return failure
		}
	})
	ready := h.do(t, "GET", "/readyz", "")
	if ready.StatusCode != 200 || !strings.Contains(ready.body, h.library.Status().Revision) || !strings.Contains(ready.body, `"current":true`) {
		t.Errorf("ready: %d %s", ready.StatusCode, ready.body)
	}
	failure = fmt.Errorf("postgres://SECRET@db")
	if got := h.do(t, "GET", "/readyz", ""); got.StatusCode != 503 || strings.Contains(got.body, "SECRET") {
		t.Errorf("not ready: %d %s", got.StatusCode, got.body)
	}
	failure = fmt.Errorf("panic")
	w := h.raw("GET", "/readyz")
	if w.Code != 500 || strings.Contains(w.Body.String(), "SECRET") || !strings.Contains(w.Body.String(), `"INTERNAL"`) {
		t.Errorf("panic: %d %s", w.Code, w.Body)
	}
	if !strings.Contains(h.log.String(), "SECRET") || !strings.Contains(h.log.String(), "server_test.TestOperations") {
		t.Error("the log does not tell what panicked, and where")
	}
	doc := h.do(t, "GET", "/openapi.json", "")
	if doc.StatusCode != 200 || !json.Valid([]byte(doc.body)) || doc.body != string(server.OpenAPI()) {
		t.Errorf("openapi: %d", doc.StatusCode)
	}
}

func TestConnectionsHaveAnEnd(t *testing.T) {
	h := open(t, nil)
	s := server.HTTPServer("127.0.0.1:0", h.handler, h.logger)
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 || s.ErrorLog == nil {
		t.Errorf("got %+v", s)
	}
}
