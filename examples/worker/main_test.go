package main

import (
	"errors"
	"net/http/httptest"
	"os"
	"slices"
	"testing"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/client"
	"github.com/ostiary/ostiary/ostiarytest"
)

func TestJobsAreDoneForThoseWhoMay(t *testing.T) {
	s := ostiarytest.New(t, ostiarytest.Policies(os.DirFS("policies")))
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	worker := func(grants authz.Permissions) *client.Client {
		t.Helper()
		_, _, secret, err := s.Authn().CreateServiceAccount(t.Context(), ostiarytest.Program, authn.NewServiceAccount{
			Name: "worker", Roles: []string{"evaluator"}, Key: &authn.NewKey{Permissions: grants},
		})
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.New(client.Options{URL: srv.URL, Key: secret.Reveal(), Retries: -1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := worker(authz.Permissions{"access": {"evaluate"}})
	ann, bob := s.User("Ann", "accountant"), s.User("Bob")
	queue := []job{{ann.ID, "1"}, {bob.ID, "2"}, {"nobody", "3"}, {ann.ID, "4"}}
	var done []string
	export := func(j job) { done = append(done, j.invoice) }
	check := func(c *client.Client, left int, kind error, want ...string) {
		t.Helper()
		done = nil
		rest, err := work(t.Context(), c, queue, export)
		if len(rest) != left || !errors.Is(err, kind) || !slices.Equal(done, want) {
			t.Errorf("%v are done, %v are left: %v; want %v, %d, %v", done, rest, err, want, left, kind)
		}
	}
	check(c, 0, nil, "1", "4")
	check(worker(nil), 4, client.ErrDenied) // with a key that may not ask

	// What Ann ordered while she might is not done any more.
	if _, err := s.Authn().Ban(t.Context(), ostiarytest.Program, ann.ID, "left", 0); err != nil {
		t.Fatal(err)
	}
	check(c, 0, nil)

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(c, 4, client.ErrUnavailable)
	srv.Close()
	check(c, 4, client.ErrUnavailable)
}
