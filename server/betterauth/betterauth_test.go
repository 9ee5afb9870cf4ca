package betterauth

import (
	"encoding/base64"
	stdjson "encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ostiary/ostiary/authn"
)

type vectors struct {
	Secret            string
	SignedCookies     []struct{ Value, CookieValue string }
	SessionDataCookie struct{ SignedInput, Signature, CookieValue string }
}

func readVectors(t testing.TB) (v vectors) {
	t.Helper()
	data, err := os.ReadFile("../../testdata/betterauth/vectors.json")
	if err == nil {
		err = json.Unmarshal(data, &v, json.MatchCaseInsensitiveNames(true))
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A cache that we write is byte for byte what Better Auth writes, so that an
// application that reads it can verify it.
func TestSessionDataIsWrittenAsBetterAuthWritesIt(t *testing.T) {
	v := readVectors(t)
	at := func(day int) time.Time { return time.Date(2030, 1, day, 0, 0, 0, 0, time.UTC) }
	agent, address, role := "ba-lab/1", "", "user"
	payload := mustJSON(sessionDataPayload{
		newSessionObject(authn.Session{
			ID: "S1", Token: "J9EejwswwKSYpSzBHSzq8ZUljpFCW2pG", UserID: "U1", CreatedAt: at(1), UpdatedAt: at(1),
			ExpiresAt: at(8), IPAddress: &address, UserAgent: &agent,
		}, true),
		NewUserObject(authn.User{ID: "U1", Name: "Alice", Email: "alice@example.com", CreatedAt: at(1), UpdatedAt: at(1), Role: &role}),
		at(1).UnixMilli(), sessionDataVersion,
	})
	got := signSessionData(v.Secret, jsontext.Value(payload), at(1).Add(5*time.Minute).UnixMilli())
	if got != v.SessionDataCookie.CookieValue {
		a, _ := base64.RawURLEncoding.DecodeString(got)
		b, _ := base64.RawURLEncoding.DecodeString(v.SessionDataCookie.CookieValue)
		t.Errorf("got  %s\nwant %s", a, b)
	}
}

func TestSessionDataIsCurrentOnlyForItsSessionAndTime(t *testing.T) {
	v := readVectors(t)
	const token = "J9EejwswwKSYpSzBHSzq8ZUljpFCW2pG"
	cookie := v.SessionDataCookie.CookieValue
	end := time.Date(2030, 1, 1, 0, 5, 0, 0, time.UTC)
	text, err := base64.RawURLEncoding.DecodeString(cookie)
	if err != nil {
		t.Fatal(err)
	}
	forged := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(text), "alice@", "admin@", 1)))
	longer := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(text), "1893456300000", "1993456300000", 1)))
	for _, c := range []struct {
		name, secret, cookie, token string
		now                         time.Time
		want                        bool
	}{
		{"good", v.Secret, cookie, token, end, true},
		{"over", v.Secret, cookie, token, end.Add(time.Millisecond), false},
		{"another session", v.Secret, cookie, "other", end, false},
		{"another secret", "x" + v.Secret, cookie, token, end, false},
		{"forged", v.Secret, forged, token, end, false},
		{"prolonged", v.Secret, longer, token, end, false},
		{"cut", v.Secret, cookie[:len(cookie)-8], token, end, false},
		{"empty", v.Secret, "", token, end, false},
	} {
		if got := sessionDataCurrent(c.secret, c.cookie, authn.Secret(c.token), c.now); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func FuzzSessionData(f *testing.F) {
	v := readVectors(f)
	f.Add(v.SessionDataCookie.CookieValue)
	f.Add("")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"session":{},"expiresAt":1,"signature":""}`)))
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"session":1}`)))
	f.Fuzz(func(t *testing.T, cookie string) {
		if sessionDataCurrent("a secret that signed none of these", cookie, "J9EejwswwKSYpSzBHSzq8ZUljpFCW2pG", time.Unix(0, 0)) {
			t.Errorf("accepted %q", cookie)
		}
	})
}

func TestTrustedOrigins(t *testing.T) {
	o, err := newOrigins("https://Auth.example:443/", []string{
		"https://trusted.example", "https://*.sub.example", "*.hosts.example", "10.0.0.*", "myapp://", "other://callback/in",
	})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", "http://internal/", nil)
	for origin, want := range map[string]bool{
		"https://auth.example":                         true,
		"https://auth.example/page":                    true,
		"http://auth.example":                          false,
		"http://internal":                              false,
		"https://trusted.example":                      true,
		"https://trusted.example:443":                  true,
		"https://trusted.example:444":                  false,
		"https://trusted.example.evil.example":         false,
		"https://trusted.example@evil.example":         false,
		`https://trusted.example\@evil.example`:        false,
		"https://evil.example#https://trusted.example": false,
		"https://a.sub.example":                        true,
		"http://a.sub.example":                         false,
		"https://sub.example":                          false,
		"https://evil.example/.sub.example":            false,
		"http://a.hosts.example":                       true,
		"http://a.hosts.example:8080":                  false,
		"http://10.0.0.7":                              true,
		"http://10.0.0.7.evil.example":                 false,
		"http://10.0.0.x":                              false,
		"myapp://anything":                             true,
		"myapps://anything":                            false,
		"other://callback/in/deep":                     true,
		"other://callback/inside":                      false,
		"javascript:alert(1)":                          false,
		"//trusted.example":                            false,
		"":                                             false,
	} {
		if got := o.trusted(r, origin); got != want {
			t.Errorf("%s: got %v, want %v", origin, got, want)
		}
	}
	if _, err := newOrigins("ftp://x", []string{"nonsense"}); err == nil || !strings.Contains(err.Error(), "BaseURL") || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("mistakes: got %v", err)
	}
}

func TestRedirectsStayAtHome(t *testing.T) {
	for path, want := range map[string]bool{
		"/": true, "/a/b?c=%2f": true, "/a#b": true,
		"": false, "a": false, "//evil.example": false, `/\evil.example`: false, "/%2fevil.example": false, "/a%5Cb": false,
		"/a\nb": false, "https://evil.example": false,
	} {
		if got := safePath(path); got != want {
			t.Errorf("%q: got %v, want %v", path, got, want)
		}
	}
}

func TestLimiterCountsFromTheLastAcceptedRequest(t *testing.T) {
	l := newLimiter()
	now := time.Unix(1000, 0)
	take := func(path string) bool { _, ok := l.take("a", path, true, now); return ok }
	for range 3 {
		if !take("/sign-in/email") {
			t.Fatal("refused too early")
		}
		now = now.Add(4 * time.Second)
	}
	if wait, ok := l.take("a", "/sign-in/email/", true, now.Add(500*time.Millisecond)); ok || wait != "6" {
		t.Errorf("fourth: got %v, wait %s; want refused, 6", ok, wait)
	}
	if !take("/sign-in/username") {
		t.Error("another path is refused")
	}
	if _, ok := l.take("b", "/sign-in/email", true, now); !ok {
		t.Error("another client is refused")
	}
	now = now.Add(6 * time.Second)
	if !take("/sign-in/email") {
		t.Error("refused after the window")
	}
}

func TestLimiterMemoryIsBounded(t *testing.T) {
	l := newLimiter()
	now := time.Unix(1000, 0)
	for i := range 3 * limiterSize {
		l.take(fmt.Sprint(i), fmt.Sprint("/unknown/", i), i%2 == 0, now)
		if len(l.seen) > limiterSize {
			t.Fatalf("%d clients are remembered, want at most %d", len(l.seen), limiterSize)
		}
	}
}

func TestValidationMessages(t *testing.T) {
	s := schema{
		{"text", isText}, {"email", optionally(isEmail)}, {"n", nullable(atLeast(1))}, {"id", isCoerced("")},
		{"role", optionally(isTextOrTexts)}, {"one", optionally(isOneOf("a", "b"))}, {"p", optionally(isPermissions)},
	}
	for body, want := range map[string]string{
		`{"text":"","id":1}`:                          "",
		`{}`:                                          "[body.text] Invalid input: expected string, received undefined; [body.id] Invalid input: expected nonoptional, received undefined",
		`{"text":null,"id":null}`:                     "[body.text] Invalid input: expected string, received null",
		`{"text":"","id":1,"email":"a@b"}`:            "[body.email] Invalid email address",
		`{"text":"","id":1,"email":"a'@b.cd"}`:        "[body.email] Invalid email address",
		`{"text":"","id":1,"email":"a.b'c+d@b-1.cd"}`: "",
		`{"text":"","id":1,"email":["x"]}`:            "[body.email] Invalid input: expected string, received array",
		`{"text":"","id":1,"n":0}`:                    "[body.n] Too small: expected number to be >=1",
		`{"text":"","id":1,"n":null}`:                 "",
		`{"text":"","id":1,"n":true}`:                 "[body.n] Invalid input: expected number, received boolean",
		`{"text":"","id":1,"role":["a",1]}`:           "[body.role] Invalid input",
		`{"text":"","id":1,"one":"c"}`:                `[body.one] Invalid option: expected one of "a"|"b"`,
		`{"text":"","id":1,"p":{"a":"b"}}`:            "[body.p.a] Invalid input: expected array, received string",
		`{"text":"","id":1,"p":{"a":[1]}}`:            "[body.p.a.0] Invalid input: expected string, received number",
	} {
		if got := strings.Join(s.messages("body", objectMembers(value(body))), "; "); got != want {
			t.Errorf("%s: got %q, want %q", body, got, want)
		}
	}
}

func TestCoercionIsJavaScripts(t *testing.T) {
	for in, want := range map[string]string{
		`42`: "42", `1.50`: "1.5", `1e3`: "1000", `"x"`: "x", `true`: "true", `null`: "null", `{"a":1}`: "[object Object]",
		`[1,null,"b"]`: "1,,b",
	} {
		if got := value(in).coerced(); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

// The command line writes the same objects with the standard library.
func TestTimesReadTheSameInBothPackagesForJSON(t *testing.T) {
	at := date(time.Date(2030, 1, 2, 3, 4, 5, 678_900_000, time.FixedZone("", 3600)))
	v := struct{ At, Never *date }{At: &at}
	const want = `{"At":"2030-01-02T02:04:05.678Z","Never":null}`
	standard, err := stdjson.Marshal(v)
	if string(mustJSON(v)) != want || string(standard) != want || err != nil {
		t.Errorf("got %s and %s (%v), want %s", mustJSON(v), standard, err, want)
	}
}
