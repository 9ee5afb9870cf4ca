package authz_test

import (
	"strings"
	"testing"

	"github.com/ostiary/ostiary/authz"
)

func path(t testing.TB, text string) authz.Path {
	t.Helper()
	p, err := authz.ParsePath(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A rule that compares paths cannot be got round by another spelling.
func TestPathsHaveOneSpelling(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "",
		"/":                     "",
		"app/document/allow":    "app/document/allow",
		"/app//document/allow/": "app/document/allow",
		"app/%64ocument":        "app/document",
		"a%2Fb/c":               "a%2Fb/c",
		"a%2fb":                 "a%2Fb",
		"a%252Fb":               "a%252Fb",
		"list/01":               "list/1",
		"list/+1":               "list/1",
		"list/-1":               "list/-1",
		"list/1.5":              "list/1.5",
		"50%":                   "50%25",
	} {
		if got := path(t, text).String(); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	for _, text := range []string{`a"b`, "a%22b", strings.Repeat("a/", 65)} {
		if _, err := authz.ParsePath(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

func TestPathsLeadIntoValues(t *testing.T) {
	value := map[string]any{"list": []any{"zero", map[string]any{"x": true, "1": "text"}}}
	for text, want := range map[string]any{"list/0": "zero", "list/1/x": true, "list/2": nil, "list/-1": nil, "list/x": nil, "x": nil, "list/0/x": nil, "list/1/1": nil} {
		got, ok := path(t, text).In(value)
		if got != want || ok != (want != nil) {
			t.Errorf("%s: got %v %v, want %v", text, got, ok, want)
		}
	}
	if rest, ok := path(t, "a/b/c").Below(path(t, "a/b")); !ok || rest.String() != "c" {
		t.Errorf("got %q %v, want c", rest, ok)
	}
	if _, ok := path(t, "ab/c").Below(path(t, "a")); ok {
		t.Error("ab is not below a")
	}
}

func FuzzPath(f *testing.F) {
	for _, seed := range []string{"app/document/allow", "a%2Fb", "01", "%", "a//b/", "+1", "1.0", "%31"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := authz.ParsePath(text)
		if err != nil {
			return
		}
		again, err := authz.ParsePath(p.String())
		if err != nil || again.String() != p.String() || again.Reference() != p.Reference() {
			t.Errorf("%q: %q is read as %q (%v)", text, p, again, err)
		}
		if strings.HasPrefix(p.String(), "/") || strings.Contains(p.String(), "//") {
			t.Errorf("%q: %q", text, p)
		}
	})
}
