// Package next_test runs the tests of the back end against an instance.
package next_test

import (
	"bytes"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/ostiarytest"
)

func TestBackEnd(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("this test needs Node: ", err)
	}
	for _, file := range []string{"server.mjs", "server.test.mjs"} { // so that a change of them is not answered from the cache
		if _, err := os.Stat(file); err != nil {
			t.Fatal(err)
		}
	}
	s := ostiarytest.New(t, ostiarytest.Policies(os.DirFS("../policies/owners")))
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	ann, read := s.User("Ann"), authz.Permissions{"document": {"read"}}
	key := func(u *ostiarytest.User, grants authz.Permissions) string {
		return s.Request(u.Key(grants), "GET", "/", nil).Header.Get("X-Api-Key")
	}
	cmd := exec.CommandContext(t.Context(), node, "--test", "--test-reporter=spec", "server.test.mjs")
	cmd.Env = append(os.Environ(), "OSTIARY_URL="+srv.URL, "ANN="+ann.ID,
		"ANN_KEY="+key(ann, read), "BARE_KEY="+key(ann, nil), "BOB_KEY="+key(s.User("Bob"), read))
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("tests 0\n")) {
		t.Errorf("%v\n%s", err, out)
	}
}
