package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/ostiarytest"
)

func TestRolesOfFeaturesCountWithinTheTenant(t *testing.T) {
	rules, err := fs.Sub(files, "policies")
	if err != nil {
		t.Fatal(err)
	}
	var away atomic.Bool // the program's database
	s := ostiarytest.New(t, ostiarytest.Policies(rules), ostiarytest.With(func(o *ostiary.Options) {
		o.Enrich = func(ctx context.Context, who authz.Identity) (map[string]any, error) {
			if away.Load() {
				return nil, errors.New("the database is away")
			}
			return enrich(ctx, who)
		}
	}))
	h := routes(s.Ostiary)
	ann := s.User("Ann", "billing:editor", "projects:manager").Session() // of acme, with the plan gold
	bob := s.User("Bob", "billing:editor", "projects:member").Session()  // of globex, with the plan free
	eve := s.User("Eve", "billing:editor", "admin").Session()            // of no tenant
	for _, tt := range []struct {
		who          ostiarytest.Caller
		method, path string
		status       int
		code         string
	}{
		{ann, "DELETE", "/projects/rocket", http.StatusOK, ""},
		{ann, "POST", "/invoices/2026-1/export", http.StatusOK, ""},
		{ann, "GET", "/projects/plant", http.StatusForbidden, "other_tenant"},
		{ann, "GET", "/invoices/2026-2", http.StatusForbidden, "other_tenant"},
		{ann, "GET", "/invoices/none", http.StatusForbidden, "other_tenant"},
		{bob, "GET", "/projects/plant", http.StatusOK, ""},
		{bob, "DELETE", "/projects/plant", http.StatusForbidden, "role_missing"},
		{bob, "POST", "/invoices/2026-2/export", http.StatusForbidden, "plan"},
		{eve, "GET", "/invoices/2026-1", http.StatusForbidden, "other_tenant"},
		{eve, "GET", "/invoices/none", http.StatusForbidden, "other_tenant"},
		{s.Nobody(), "GET", "/projects/plant", http.StatusUnauthorized, "unauthenticated"},
	} {
		w := s.Do(h, tt.who, tt.method, tt.path, nil)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.code) {
			t.Errorf("%s: %s %s: %d %s, want %d %s", tt.who, tt.method, tt.path, w.Code, w.Body, tt.status, tt.code)
		}
	}

	away.Store(true)
	zoe := s.User("Zoe", "projects:member").Key(authz.Permissions{"*": {"*"}})
	if w := s.Do(h, zoe, "GET", "/projects/plant", nil); w.Code != http.StatusServiceUnavailable {
		t.Errorf("without the program's database: %d %s", w.Code, w.Body)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if w := s.Do(h, bob, "GET", "/projects/plant", nil); w.Code == http.StatusOK || !strings.Contains(strings.ToLower(w.Body.String()), `"unavailable"`) {
		t.Errorf("without an instance: %d %s", w.Code, w.Body)
	}
}

// The rules are two of the recipes, as they are.
func TestRulesAreTheRecipes(t *testing.T) {
	for file, recipe := range map[string]string{"invoice.rego": "features", "project.rego": "tenants"} {
		here, err := files.ReadFile("policies/" + file)
		if err != nil {
			t.Fatal(err)
		}
		there, err := os.ReadFile("../policies/" + recipe + "/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(here, there) {
			t.Errorf("policies/%s is not that of the recipe %s", file, recipe)
		}
	}
}
