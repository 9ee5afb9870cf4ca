package forwardauth_test

import (
	"errors"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ostiary/ostiary/internal/spellings"
	"github.com/ostiary/ostiary/server/forwardauth"
)

func TestTargetsInOneSpelling(t *testing.T) {
	long := "/" + strings.Repeat("x", 8<<10-1)
	tests := []struct {
		target, path string
		segments     []string
		query        string
	}{
		{"/", "/", []string{}, ""},
		{"/?a=b", "/", []string{}, "a=b"},
		{"/a", "/a", []string{"a"}, ""},
		{"/a/", "/a", []string{"a"}, ""},
		{"/a/b?c=/../d;e", "/a/b", []string{"a", "b"}, "c=/../d;e"},
		{"/a?b?c", "/a", []string{"a"}, "b?c"},
		{"/%61/%7E", "/a/~", []string{"a", "~"}, ""},
		{"/a%20b", "/a%20b", []string{"a b"}, ""},
		{"/caf%c3%a9", "/caf%C3%A9", []string{"café"}, ""},
		{"/a:b@c,d=e&f+g$!*'()", "/a:b@c,d=e&f+g$!*'()", []string{"a:b@c,d=e&f+g$!*'()"}, ""},
		{"/%3a%40%2c%3d%26%2b%24", "/:@,=&+$", []string{":@,=&+$"}, ""},
		{`/"<>[]^{|}` + "`", "/%22%3C%3E%5B%5D%5E%7B%7C%7D%60", []string{`"<>[]^{|}` + "`"}, ""},
		{"/a..b/..c/d../.e", "/a..b/..c/d../.e", []string{"a..b", "..c", "d..", ".e"}, ""},
		{"/%e5%8c%97%ef%bc%88%ef%bc%89e%cc%81", "/%E5%8C%97%EF%BC%88%EF%BC%89e%CC%81", []string{"北（）e\u0301"}, ""},
		{"/ADMIN", "/ADMIN", []string{"ADMIN"}, ""},
		{"http://app.test/a?b", "/a", []string{"a"}, "b"},
		{"HTTP://APP.test:80/a", "/a", []string{"a"}, ""},
		{"http://app.test/", "/", []string{}, ""},
		{long, long, []string{long[1:]}, ""},
	}
	for _, tt := range tests {
		got, err := forwardauth.ReadTarget(tt.target, "http", "app.test")
		if err != nil || got.Path != tt.path || !slices.Equal(got.Segments, tt.segments) || got.Query != tt.query || got.Raw != tt.target {
			t.Errorf("%q: got %+v, %v; want %q %q %q", tt.target, got, err, tt.path, tt.segments, tt.query)
		}
	}
}

func TestAmbiguousTargetsAreRefused(t *testing.T) {
	for _, target := range []string{
		"", "a", "*", "?a", "//", "//a", "/a//", "/a//b", "/.", "/..", "/a/.", "/a/../b", "/...", "/%2e", "/%2e%2E/a", "/a/%2e%2e%2e",
		"/a%2fb", "/a%5cb", `/a\b`, "/a;b", "/a%3bb", "/a%3fb", "/a%23b", "/a#b", "/a?b#c", "/a%25", "/a%252e", "/a%00", "/a%1f", "/a%7f", "/a%c2%85",
		"/a b", "/a\tb", "/%20a", "/a%20", "/a%e3%80%80", "/a%", "/a%2", "/a%zz", "/a%+1", "/%ff", "/%c0%ae", "/%ed%a0%80", "/é", "/a?é", "/a?\x00",
		"/%ef%bc%8e%ef%bc%8e/a", "/a%ef%bc%8fb", "/a%ef%bc%bcb", "/a%ef%bc%85b", "/a%ef%bc%9fb", "/a%ef%bc%83b", "/%ef%bd%81", "/%e2%84%aa", "/a%e2%80%a5b",
		"https://app.test/a", "http://other.test/a", "http://app.test", "http://app.test?/a", "http://u@app.test/a", "http:///a", "ws://app.test/a", "http:/a",
		"app.test:443", "/" + strings.Repeat("x", 8<<10),
	} {
		if got, err := forwardauth.ReadTarget(target, "http", "app.test"); !errors.Is(err, forwardauth.ErrAmbiguous) || got.Path != "" {
			t.Errorf("%q: got %+v, %v", target, got, err)
		}
	}
}

// Whatever gets past the gate means to the most careless application what it
// means to the policy.
func TestNoSpellingIsReadInAnotherWayThanItIsJudged(t *testing.T) {
	all := spellings.Attacks("app.test")
	if len(all) < 60 {
		t.Fatalf("only %d spellings", len(all))
	}
	passed := 0
	for _, target := range all {
		got, err := forwardauth.ReadTarget(target, "http", "app.test")
		if err != nil {
			continue
		}
		passed++
		if len(got.Segments) == 0 || got.Segments[0] != "admin" {
			for _, reading := range spellings.Readings(target) {
				if strings.HasPrefix(reading, "/admin") {
					t.Errorf("%q is judged as %s, and can be read as %s", target, got.Path, reading)
					break
				}
			}
		}
	}
	if passed == 0 || passed > 15 {
		t.Errorf("%d of %d spellings are let through to be judged", passed, len(all))
	}
}

func FuzzTarget(f *testing.F) {
	for _, target := range spellings.Attacks("app.test") {
		f.Add(target)
	}
	for _, target := range []string{"/", "/a/b", "/a%20b?c", "/caf%c3%a9/", "/%61", "/a:b@c"} {
		f.Add(target)
	}
	f.Fuzz(func(t *testing.T, target string) {
		got, err := forwardauth.ReadTarget(target, "http", "app.test")
		if err != nil {
			return
		}
		again, err := forwardauth.ReadTarget(got.Path, "http", "app.test")
		if err != nil || again.Path != got.Path || !slices.Equal(again.Segments, got.Segments) {
			t.Errorf("%q: %q is not canonical: %+v, %v", target, got.Path, again, err)
		}
		want := "/" + strings.Join(got.Segments, "/")
		if path.Clean(want) != want || !utf8.ValidString(want) {
			t.Errorf("%q: %q is not clean", target, want)
		}
		// As net/http has it, with a slash at the end or without.
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatalf("%q: net/url: %v", target, err)
		}
		if strings.TrimSuffix(u.Path, "/") != strings.TrimSuffix(want, "/") || u.RawQuery != got.Query {
			t.Errorf("%q: net/url has %q ? %q, and we %q ? %q", target, u.Path, u.RawQuery, want, got.Query)
		}
		// As the most careless have it; what they fold and trim inside a segment
		// does not lead to another one.
		for _, reading := range spellings.Readings(target) {
			if n := strings.Count(reading, "/"); n != strings.Count(want, "/") && want != "/" {
				t.Errorf("%q is judged as %q, and can be read as %q", target, want, reading)
			}
		}
	})
}
