package request_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/request"
)

const secret = "lab-secret-0123456789-abcdefghijklmnopqrstuvwxyz"

func reader(t testing.TB, o request.Options) *request.Reader {
	t.Helper()
	o.Secrets = []string{secret}
	rd, err := request.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return rd
}

func get(headers ...string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func TestExactlyOneCredentialCounts(t *testing.T) {
	cookie := "better-auth.session_token=" + authn.SignCookie(secret, "tok")
	forged := "better-auth.session_token=" + authn.SignCookie("another secret", "tok")
	tests := []struct {
		name    string
		headers []string
		kind    authn.Kind
		secret  string
		place   request.Place
		err     error
	}{
		{"none", nil, authn.NoCredential, "", request.Nowhere, nil},
		{"key header", []string{"X-Api-Key", "k"}, authn.APIKeySecret, "k", request.InKeyHeader, nil},
		{"empty key header is none", []string{"X-Api-Key", ""}, authn.NoCredential, "", request.Nowhere, nil},
		{"bearer", []string{"Authorization", "bearer  abc"}, authn.Bearer, "abc", request.InAuthorization, nil},
		{"cookie", []string{"Cookie", cookie}, authn.SessionToken, "tok", request.InCookie, nil},
		{"header wins over cookie", []string{"X-Api-Key", "k", "Cookie", cookie}, authn.APIKeySecret, "k", request.InKeyHeader, nil},
		{"bad header is not rescued by a cookie", []string{"Authorization", "Basic abc", "Cookie", cookie}, 0, "", request.InAuthorization, authn.ErrBadCredential},
		{"the same twice", []string{"X-Api-Key", "k", "Authorization", "Bearer k"}, authn.APIKeySecret, "k", request.InKeyHeader, nil},
		{"different twice", []string{"X-Api-Key", "k", "Authorization", "Bearer l"}, 0, "", request.InKeyHeader, request.ErrAmbiguous},
		{"key and Basic", []string{"X-Api-Key", "k", "Authorization", "Basic k"}, 0, "", request.InKeyHeader, request.ErrAmbiguous},
		{"two keys", []string{"X-Api-Key", "k", "X-Api-Key", "l"}, 0, "", request.InKeyHeader, request.ErrAmbiguous},
		{"two bearers", []string{"Authorization", "Bearer a", "Authorization", "Bearer b"}, 0, "", request.InAuthorization, request.ErrAmbiguous},
		{"bearer without token", []string{"Authorization", "Bearer"}, 0, "", request.InAuthorization, authn.ErrBadCredential},
		{"bearer with two words", []string{"Authorization", "Bearer a b"}, 0, "", request.InAuthorization, authn.ErrBadCredential},
		{"forged cookie", []string{"Cookie", forged}, 0, "", request.InCookie, authn.ErrBadCredential},
		{"forged first cookie is not rescued by a second", []string{"Cookie", forged + "; " + cookie}, 0, "", request.InCookie, authn.ErrBadCredential},
		{"secure cookie is another cookie", []string{"Cookie", "__Secure-" + cookie}, 0, "", request.Nowhere, nil},
	}
	rd := reader(t, request.Options{})
	for _, tt := range tests {
		c, place, err := rd.Credential(get(tt.headers...))
		if c.Kind != tt.kind || c.Secret.Reveal() != tt.secret || place != tt.place || !errors.Is(err, tt.err) {
			t.Errorf("%s: got %v %q in %v, %v; want %v %q in %v, %v", tt.name, c.Kind, c.Secret.Reveal(), place, err, tt.kind, tt.secret, tt.place, tt.err)
		}
	}
}

func TestCookiesAreReadAsBetterAuthReadsThem(t *testing.T) {
	rd := reader(t, request.Options{})
	tests := []struct{ header, want string }{
		{"better-auth.x=1", "1"},
		{" a=b ;  better-auth.x = 1 ;c", "1"},
		{"better-auth.x=1; better-auth.x=2", "1"},
		{`better-auth.x="1 2"`, "1 2"},
		{`better-auth.x="`, ""},
		{"better-auth.x=a%20b", "a b"},
		{"better-auth.x=a%2", "a%2"},
		{"better-auth.x=a=b", "a=b"},
		{"Better-Auth.x=1", ""},
	}
	for _, tt := range tests {
		if got, _ := rd.CookieText(get("Cookie", tt.header), "x"); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.header, got, tt.want)
		}
	}
}

func TestForwardedAddressIsBelievedOnlyAsFarAsTrusted(t *testing.T) {
	proxies := []string{"10.0.0.0/8", "192.0.2.7", "fd00::/8"}
	tests := []struct {
		proxies []string
		header  string
		want    string
	}{
		{nil, "203.0.113.5", "203.0.113.5"},
		{nil, "203.0.113.5, 203.0.113.6", ""},
		{nil, "203.0.113.5:80", ""},
		{nil, "localhost", ""},
		{nil, "", ""},
		{nil, "::ffff:203.0.113.5", "203.0.113.5"},
		{nil, "2001:DB8:1:2:3:4:5:6", "2001:0db8:0001:0002:0000:0000:0000:0000"},
		{nil, "fe80::1%eth0", ""},
		{proxies, "1.1.1.1, 203.0.113.5, 10.1.2.3", "203.0.113.5"},
		{proxies, "1.1.1.1, 203.0.113.5, ::ffff:10.1.2.3, 192.0.2.7", "203.0.113.5"},
		{proxies, "1.1.1.1, nonsense, 10.1.2.3", ""},
		{proxies, "10.0.0.1, fd00::1", "10.0.0.1"},
		{proxies, "203.0.113.5", "203.0.113.5"},
	}
	for _, tt := range tests {
		rd := reader(t, request.Options{TrustedProxies: tt.proxies})
		if got := rd.Address(get("X-Forwarded-For", tt.header)); got != tt.want {
			t.Errorf("%q behind %v: got %q, want %q", tt.header, tt.proxies, got, tt.want)
		}
	}
}

func TestAllMistakesInOptionsAreReportedAtOnce(t *testing.T) {
	_, err := request.New(request.Options{TrustedProxies: []string{"x", "10.0.0.0/99"}, KeyHeaders: []string{"Cookie"}})
	for _, want := range []string{`"x"`, `"10.0.0.0/99"`, `"Cookie"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to mention %s", err, want)
		}
	}
}

func TestStrictBodies(t *testing.T) {
	rd := reader(t, request.Options{MaxBody: 64, MaxDepth: 3})
	tests := []struct {
		media, body string
		want        error
	}{
		{"application/json", `{"a":"b"}`, nil},
		{"application/json; charset=utf-8", `{"a":"b"}`, nil},
		{"text/plain", `{"a":"b"}`, request.ErrMediaType},
		{"", `{"a":"b"}`, request.ErrMediaType},
		{"application/json", ``, request.ErrSyntax},
		{"application/json", `{"a":"b","a":"c"}`, request.ErrSyntax},
		{"application/json", "{\"a\":\"\xff\"}", request.ErrSyntax},
		{"application/json", `{"a":"b"} {}`, request.ErrSyntax},
		{"application/json", `{"a":[[[1]]]}`, request.ErrTooDeep},
		{"application/json", `{"a":"[[[[[[["}`, nil},
		{"application/json", `{"a":"` + strings.Repeat("x", 64) + `"}`, request.ErrTooLarge},
	}
	for _, tt := range tests {
		for _, length := range []bool{true, false} {
			r := httptest.NewRequest("POST", "/", strings.NewReader(tt.body))
			r.Header.Set("Content-Type", tt.media)
			if !length {
				r.ContentLength = -1
			}
			var v map[string]any
			if err := rd.Decode(r, &v); !errors.Is(err, tt.want) || err != nil && tt.want == nil {
				t.Errorf("%s %q: got %v, want %v", tt.media, tt.body, err, tt.want)
			}
		}
	}
}

func TestLenientBodiesAreReadAsJavaScriptReadsThem(t *testing.T) {
	rd := reader(t, request.Options{MaxDepth: 3})
	_, m, err := rd.Members([]byte("{\"a\":1,\"a\":2,\"b\":\"\xff\"}"))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(m["a"]); got != "2" {
		t.Errorf("a: got %s, want 2", got)
	}
	if got := string(m["b"]); got != "\"\ufffd\"" {
		t.Errorf("b: got %s, want the replacement character", got)
	}
	if _, m, err := rd.Members([]byte(`[1]`)); err != nil || m != nil {
		t.Errorf("array: got %v, %v; want no members", m, err)
	}
	if _, _, err := rd.Members([]byte(`{`)); !errors.Is(err, request.ErrSyntax) {
		t.Errorf("got %v, want %v", err, request.ErrSyntax)
	}
	if _, _, err := rd.Members([]byte(`[[[[]]]]`)); !errors.Is(err, request.ErrTooDeep) {
		t.Errorf("got %v, want %v", err, request.ErrTooDeep)
	}
}

func TestAnswersSayWhatTheyRestOn(t *testing.T) {
	rd := reader(t, request.Options{})
	decide := func(w http.ResponseWriter, r *http.Request) {
		authz.FactsFrom(r.Context()).Decided(authz.Decision{ID: "d1"})
		authz.FactsFrom(r.Context()).Decided(authz.Decision{ID: "d2"})
		audit.ReceiptFrom(r.Context()).Revision = "7"
	}
	for name, h := range map[string]http.HandlerFunc{
		"body":    func(w http.ResponseWriter, r *http.Request) { decide(w, r); w.Write([]byte("x")) },
		"status":  func(w http.ResponseWriter, r *http.Request) { decide(w, r); w.WriteHeader(403) },
		"nothing": decide,
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/", nil)
		x, ctx := rd.Begin(w, r, nil)
		h(x, r.WithContext(ctx))
		x.End()
		if got := w.Result().Header.Get("Ostiary-Decision"); got != "d2" {
			t.Errorf("%s: decision: got %q, want d2", name, got)
		}
		if got := w.Result().Header.Get("Ostiary-Revision"); got != "7" {
			t.Errorf("%s: revision: got %q, want 7", name, got)
		}
	}
}

// Only a proxy that is trusted can say who stands behind it.
func TestClientCannotChooseItsAddress(t *testing.T) {
	tests := []struct{ peer, forwarded, want string }{
		{"203.0.113.9:1234", "", "203.0.113.9"},
		{"203.0.113.9:1234", "198.51.100.1", "203.0.113.9"},
		{"10.0.0.1:1234", "198.51.100.1", "198.51.100.1"},
		{"10.0.0.1:1234", "192.0.2.66, 198.51.100.1, 10.0.0.2", "198.51.100.1"},
		{"10.0.0.1:1234", "nonsense", "10.0.0.1"},
		{"[::ffff:203.0.113.9]:1234", "", "203.0.113.9"},
		{"[2001:db8::1]:1234", "", "2001:0db8:0000:0000:0000:0000:0000:0000"},
		{"not an address", "198.51.100.1", ""},
	}
	rd := reader(t, request.Options{TrustedProxies: []string{"10.0.0.0/8"}})
	for _, tt := range tests {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = tt.peer
		if tt.forwarded != "" {
			r.Header.Set("X-Forwarded-For", tt.forwarded)
		}
		if got := rd.Client(r); got != tt.want {
			t.Errorf("peer %s, forwarded %q: got %q, want %q", tt.peer, tt.forwarded, got, tt.want)
		}
	}
}

func FuzzCookieHeader(f *testing.F) {
	f.Add("better-auth.session_token=" + authn.SignCookie(secret, "tok"))
	f.Add(`better-auth.session_token="a.b"; x`)
	f.Add(`better-auth.session_token="`)
	f.Add("better-auth.session_token=%")
	rd := reader(f, request.Options{})
	good := authn.SignCookie(secret, "tok")
	f.Fuzz(func(t *testing.T, header string) {
		c, _, err := rd.Credential(get("Cookie", header))
		if err == nil && c.Kind == authn.SessionToken {
			if v, ok := authn.VerifyCookie([]string{secret}, authn.SignCookie(secret, c.Secret.Reveal())); !ok || v != c.Secret.Reveal() {
				t.Errorf("%q: accepted %q, which does not verify", header, c.Secret.Reveal())
			}
		}
		// A cookie of ours that comes first is found whatever follows.
		c, _, err = rd.Credential(get("Cookie", "better-auth.session_token="+good+"; "+header))
		if err != nil || c.Secret.Reveal() != "tok" {
			t.Errorf("%q: got %q, %v; want tok", header, c.Secret.Reveal(), err)
		}
	})
}

func FuzzBearer(f *testing.F) {
	for _, s := range []string{"Bearer abc", "bearer  x==", "Basic YTpi", "Bearer", "Bearer a b", "Bearer =", "\tBearer a"} {
		f.Add(s)
	}
	rd := reader(f, request.Options{})
	f.Fuzz(func(t *testing.T, header string) {
		c, place, err := rd.Credential(get("Authorization", header))
		switch {
		case err != nil && c != (authn.Credential{}):
			t.Errorf("%q: a credential beside the error %v", header, err)
		case c.Kind == authn.Bearer && (c.Secret == "" || strings.ContainsAny(c.Secret.Reveal(), " \t\r\n,;\"")):
			t.Errorf("%q: accepted %q", header, c.Secret.Reveal())
		case strings.TrimSpace(header) != "" && place != request.InAuthorization:
			t.Errorf("%q: sent, but not noticed", header)
		}
	})
}

func FuzzForwardedAddress(f *testing.F) {
	for _, s := range []string{"1.2.3.4", "1.2.3.4, 10.0.0.1", "::1", "::ffff:1.2.3.4,10.0.0.1", ",", "fe80::1%x"} {
		f.Add(s)
	}
	alone := reader(f, request.Options{})
	behind := reader(f, request.Options{TrustedProxies: []string{"10.0.0.0/8"}})
	f.Fuzz(func(t *testing.T, header string) {
		a := alone.Address(get("X-Forwarded-For", header))
		if a != "" && strings.Contains(header, ",") {
			t.Errorf("%q: believed %q without a trusted proxy", header, a)
		}
		if again := alone.Address(get("X-Forwarded-For", a)); again != a {
			t.Errorf("%q: %q is not canonical: %q", header, a, again)
		}
		// What is left of the first untrusted hop must not matter.
		got := behind.Address(get("X-Forwarded-For", header+",203.0.113.5,10.0.0.1"))
		if got != "203.0.113.5" {
			t.Errorf("%q: got %q, want 203.0.113.5", header, got)
		}
	})
}

// A client that sends all before it reads anything still reads the answer.
func TestSenderOfABodyThatIsTooLargeIsAnswered(t *testing.T) {
	rd := reader(t, request.Options{MaxBody: 64})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := rd.Body(r); errors.Is(err, request.ErrTooLarge) {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
	}))
	defer s.Close()
	for name, header := range map[string]string{"length": "Content-Length: 33554432", "chunks": "Transfer-Encoding: chunked"} {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", header)
		body := strings.Repeat("x", 32<<20)
		if name == "chunks" {
			body = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		}
		if _, err := io.WriteString(conn, body); err != nil {
			t.Errorf("%s: cut off while sending: %v", name, err)
			continue
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: got %v, %v", name, resp, err)
		}
	}
}
