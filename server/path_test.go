package server

import (
	"net/url"
	"testing"
)

// One path has one spelling: every other that some server on the way might
// take for it is refused before routing.
func TestOnlyThePlainSpellingOfAPathIsRouted(t *testing.T) {
	plainOnes := []string{
		"/", "/healthz", "/v1/me", "/v1/authorize", "/v1/decisions/abc", "/api/auth/sign-in/email", "/v1/me/", "/a.b/c..d", "/.well-known/x",
		"/...", "/v1/decisions/a%20b", "/v1/decisions/a%3Fb", "/v1/decisions/a%23b", "/v1/decisions/%C3%A9", "/v1/decisions/a:b@c", "/v1/decisions/a%25b",
	}
	// A percent sign that is escaped would be read twice by a careless proxy.
	plainOnes = plainOnes[:len(plainOnes)-1]
	others := []string{
		"", "*", "v1/me", "//v1/me", "/v1//me", "/v1/me//", "///v1/me", "//", "/api//auth/ok", "//api/auth/ok", "/api/auth//ok", "/api/auth//",
		"/./v1/me", "/v1/./me", "/v1/me/.", "/../v1/me", "/v1/../v1/me", "/v1/me/..", "/v1/x/../me", "/api/auth/../../v1/me", "/api/auth/./ok",
		"/v1/..;/me", "/v1/..;x=y/me", "/v1/.;/me", "/..;/v1/me",
		"/%761/me", "/v1/%6de", "/v1/%6De", "/v1/m%65", "/%2e/v1/me", "/%2e%2e/v1/me", "/v1/%2e%2e/v1/me", "/v1/.%2e/v1/me", "/v1/%2e./v1/me", "/v1/%2E%2E/v1/me",
		"/v1%2fme", "/v1%2Fme", "/%2fv1/me", "%2fv1/me", "/v1/me%2f", "/api%2fauth%2fok", "/api/auth%2fok", "/api/auth/sign-in%2femail",
		`/v1\me`, `/\v1/me`, `\v1\me`, "/v1%5cme", "/v1%5Cme", "/%5c/v1/me", `/v1/..\me`, "/v1/..%5cme", `/api/auth\ok`,
		"/v1/me%00", "/v1/me%0a", "/v1/me%0d%0a", "/v1/me%09", "/v1/me%7f", "/v1/me\x00", "/v1/ me", "/v1/me ", "/v1/\tme",
		"/v1/m%2565", "/%2576%31/me", "/v1%252fme", "/v1/%252e%252e/me", "/v1/a%25b",
		"/v1/me%3b", "/v1/me%3Bx=y", "/v1/m%c0%ae", "/v1/%c0%af", "/v1/%ff", "/v1/%e0%80%af", "/v1/%ed%a0%80", "/v1/mé", "/v1/me\u2215",
		"/%41pi/auth/ok", "/api/%61uth/ok", "/api/auth/%6fk", "/api/auth/list%2dsessions", "/api/auth/list-sessions%7e", "/api/auth/%5fok",
	}
	if len(others) < 60 {
		t.Errorf("only %d spellings", len(others))
	}
	for _, path := range plainOnes {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			t.Fatal(err)
		}
		if !plain(u, false) {
			t.Errorf("%q was refused", path)
		}
	}
	for _, path := range others {
		// What net/http cannot parse it answers with 400 by itself.
		if u, err := url.ParseRequestURI(path); err == nil && plain(u, false) {
			t.Errorf("%q was taken for plain", path)
		}
		// A middleware may hand on a URL that never was a text.
		if path != "" && plain(&url.URL{Path: "/v1/me", RawPath: path}, false) && path != "/v1/me" {
			t.Errorf("raw path %q beside another path was taken for plain", path)
		}
	}
	if plain(&url.URL{Opaque: "/v1/me"}, false) {
		t.Error("an opaque URL was taken for plain")
	}
}

// In OPA's API a name may contain a slash. Nothing else is let through there.
func TestEscapedSlashesArePartsOfNamesWhereTheyMayBe(t *testing.T) {
	for path, want := range map[string]bool{
		"/v1/data/app/a%2Fb": true, "/v1/data/a%2fb": true, "/v1/data/%2e%2e/x": false, "/v1/data/a%5cb": false, "/v1/data//a": false,
		"/v1/data/a%252fb": false, "/v1/data/../me": false, "/v1/data/a%00": false,
	} {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := plain(u, true); got != want {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
}

// However a path that is plain is cleaned on the way, it stays the same path.
func FuzzPlainPathsMeanOneThing(f *testing.F) {
	for _, seed := range []string{"/v1/me", "//v1/me", "/v1/%6de", "/v1/x/../me", "/v1%2fme"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || !plain(u, false) {
			return
		}
		// Whoever normalises a plain path ends up with the same path.
		joined, err := url.JoinPath("http://h", u.EscapedPath())
		if err != nil {
			t.Fatal(err)
		}
		again, err := url.Parse(joined)
		if err != nil {
			t.Fatal(err)
		}
		if again.Path != u.Path && again.Path+"/" != u.Path {
			t.Errorf("%q is plain, and means %q after cleaning", path, again.Path)
		}
	})
}
