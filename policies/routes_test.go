package policies_test

import (
	"strings"
	"testing"

	"github.com/ostiary/ostiary/policies"
)

func TestTheMostSpecificRouteCounts(t *testing.T) {
	// Written from the least to the most specific, and read in both orders.
	entries := []string{
		`{"method": "*", "pattern": "/*", "permission": "site:any"}`,
		`{"method": "GET", "pattern": "/*", "permission": "site:get"}`,
		`{"method": "*", "pattern": "/", "permission": "home:any"}`,
		`{"method": "GET", "pattern": "/users/*", "permission": "public"}`,
		`{"method": "GET", "pattern": "/users/{id}", "permission": "user:get"}`,
		`{"method": "*", "pattern": "/users/{id}", "permission": "user:change"}`,
		`{"method": "*", "pattern": "/users/me", "permission": "self:any"}`,
		`{"method": "GET", "pattern": "/users/{id}/keys", "permission": "key:list"}`,
		`{"method": "GET", "pattern": "/users/me/*", "permission": "self:rest"}`,
		`{"method": "HEAD", "pattern": "/users", "permission": "user:count"}`,
		`{"method": "GET", "pattern": "/users", "permission": "user:list"}`,
		`{"method": "GET", "pattern": "/a b/ü", "permission": "odd:get"}`,
	}
	backwards := make([]string, len(entries))
	for i, e := range entries {
		backwards[len(entries)-1-i] = e
	}
	tests := []struct{ method, path, want string }{
		{"GET", "/", "home:any"},
		{"GET", "/x", "site:get"},
		{"HEAD", "/x", "site:get"},
		{"POST", "/x/y", "site:any"},
		{"GET", "/users", "user:list"},
		{"HEAD", "/users", "user:count"},
		{"POST", "/users", "site:any"},
		{"GET", "/users/1", "user:get"},
		{"HEAD", "/users/1", "user:get"},
		{"DELETE", "/users/1", "user:change"},
		{"GET", "/users/me", "self:any"},
		{"GET", "/users/1/keys", "key:list"},
		{"GET", "/users/me/keys", "self:rest"}, // from the left, the literal is the narrower
		{"GET", "/users/1/other", "public"},
		{"GET", "/Users/1", "site:get"},
		{"GET", "/a b/ü", "odd:get"},
	}
	for _, order := range [][]string{entries, backwards} {
		b := mustLoad(t, folder("data.json", `{"routes": [`+strings.Join(order, ",")+`]}`), nil)
		for _, tt := range tests {
			var segments []string
			if tt.path != "/" {
				segments = strings.Split(tt.path[1:], "/")
			}
			if got, _ := b.Routes.Permission(tt.method, segments); got != tt.want {
				t.Errorf("%s %s: got %q, want %q", tt.method, tt.path, got, tt.want)
			}
		}
	}
}

func TestARouteWithoutAnEntryStandsForNothing(t *testing.T) {
	b := mustLoad(t, folder("data.yaml", "routes:\n- {method: GET, pattern: /a/*, permission: public}\n"), nil)
	if p, ok := b.Routes.Permission("GET", []string{"b"}); ok {
		t.Errorf("got %q", p)
	}
	if p, ok := b.Routes.Permission("POST", []string{"a"}); ok {
		t.Errorf("got %q", p)
	}
	// What the trailing slash of /a/ leads to is below /a/*, too.
	if p, ok := b.Routes.Permission("GET", []string{"a"}); !ok || p != policies.PublicRoute {
		t.Errorf("got %q, %t", p, ok)
	}
	if _, ok := mustLoad(t, nil, nil).Routes.Permission("GET", nil); ok {
		t.Error("the built-in bundle has routes")
	}
}
