package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/client"
	"github.com/ostiary/ostiary/ostiarytest"
)

// post sends a key to page, as the browser of whoever has the page open.
func post(page, key string, change func(*http.Request)) (int, string) {
	r, err := http.NewRequest("POST", page, strings.NewReader(url.Values{"key": {key}}.Encode()))
	if err != nil {
		return 0, err.Error()
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if change != nil {
		change(r)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(body)
}

func TestSignInWithAKey(t *testing.T) {
	s := ostiarytest.New(t, ostiarytest.Policies(fstest.MapFS{"document.rego": {Data: []byte("package app.document\n\nallow if input.principal.user\n")}}))
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	ann := s.User("Ann")
	key := func(grants authz.Permissions) (id, secret string) {
		t.Helper()
		k, hidden, err := s.Authn().CreateKey(t.Context(), ostiarytest.Program, authn.NewKey{OwnerID: ann.ID, Permissions: grants})
		if err != nil {
			t.Fatal(err)
		}
		return k.ID, hidden.Reveal()
	}
	reading, reader := key(authz.Permissions{"session": {"create"}, "document": {"read"}})
	_, guest := key(authz.Permissions{"session": {"create"}})
	_, stranger := key(authz.Permissions{"document": {"read"}})

	signedIn := func(key string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var browser sync.WaitGroup
		defer browser.Wait()
		token, err := signIn(ctx, srv.URL, func(page string) {
			browser.Go(func() {
				for _, tt := range []struct {
					what, page, key string
					change          func(*http.Request)
					want            int
				}{
					{"a bad key", page, "ost_nonsense", nil, http.StatusForbidden},
					{"a key that may not sign in", page, stranger, nil, http.StatusForbidden},
					{"another path", page + "x", key, nil, http.StatusNotFound},
					{"a form of another site", page, key, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, http.StatusForbidden},
					{"another name", page, key, func(r *http.Request) { r.Host = "evil.example" }, http.StatusMisdirectedRequest},
					{"a key", page, key, nil, http.StatusOK},
				} {
					if status, body := post(tt.page, tt.key, tt.change); status != tt.want || strings.Contains(body, tt.key) {
						t.Errorf("%s: %d %s, want %d", tt.what, status, body, tt.want)
					}
				}
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	check := func(token string, want bool, kind error) {
		t.Helper()
		name, may, err := mayRead(t.Context(), srv.URL, token)
		if may != want || !errors.Is(err, kind) || err == nil && name != "Ann" {
			t.Errorf("%q may read: %t, %v; want %t, %v", name, may, err, want, kind)
		}
	}
	token := signedIn(reader)
	check(token, true, nil)
	check(signedIn(guest), false, nil) // the session has the grants of the key

	if err := s.Authn().DeleteKey(t.Context(), ostiarytest.Program, reading); err != nil {
		t.Fatal(err)
	}
	check(token, false, client.ErrUnauthenticated) // and ends with it

	srv.Close()
	check(token, false, client.ErrUnavailable)
	if _, err := exchange(t.Context(), srv.URL, guest); err == nil {
		t.Error("signed in without a service")
	}
}
