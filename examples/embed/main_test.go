package main

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

func TestOwnersReadTheirDocuments(t *testing.T) {
	rules, err := fs.Sub(files, "policies")
	if err != nil {
		t.Fatal(err)
	}
	o, err := ostiary.Open(t.Context(), ostiary.Options{Database: "sqlite::memory:", Policies: rules})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	key := func(email string, grants authz.Permissions) string {
		t.Helper()
		me := authn.System("test")
		u, err := o.Authn().FindUser(t.Context(), me, email)
		if err != nil {
			u, err = o.Authn().CreateUser(t.Context(), me, authn.NewUser{Email: email, Name: strings.TrimSuffix(email, "@example.com")})
		}
		if err != nil {
			t.Fatal(err)
		}
		_, secret, err := o.Authn().CreateKey(t.Context(), me, authn.NewKey{OwnerID: u.ID, Permissions: grants})
		if err != nil {
			t.Fatal(err)
		}
		return secret.Reveal()
	}
	read := authz.Permissions{"document": {"read"}}
	ann := key("ann@example.com", read)

	handler := routes(o)
	for _, tt := range []struct {
		name, key string
		status    int
		body      string
	}{
		{"the owner", ann, http.StatusOK, "welcome, read by ann\n"},
		{"the owner, with a key that was not granted it", key("ann@example.com", nil), http.StatusForbidden, "grant_missing"},
		{"somebody else", key("bob@example.com", read), http.StatusForbidden, "role_missing"},
		{"nobody", "", http.StatusUnauthorized, ""},
		{"a bad key", "ost_nonsense", http.StatusUnauthorized, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/documents/welcome", nil)
			if tt.key != "" {
				r.Header.Set("x-api-key", tt.key)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
				t.Errorf("got %d %q, want %d %q", w.Code, w.Body, tt.status, tt.body)
			}
			if tt.status == http.StatusUnauthorized && w.Header().Get("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
		})
	}

	t.Run("the HTTP API is there", func(t *testing.T) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", "/api/auth/ok", nil))
		if w.Code != http.StatusOK {
			t.Errorf("got %d, want 200", w.Code)
		}
	})

	t.Run("nobody is let in when it is closed", func(t *testing.T) {
		r := httptest.NewRequest("GET", "/documents/welcome", nil)
		r.Header.Set("x-api-key", ann)
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code == http.StatusOK || !strings.Contains(strings.ToLower(w.Body.String()), "unavailable") {
			t.Errorf("got %d %q", w.Code, w.Body)
		}
	})
}
