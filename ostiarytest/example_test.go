package ostiarytest_test

import (
	"os"
	"testing"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/ostiarytest"
)

func Example() {
	_ = func(t *testing.T) {
		s := ostiarytest.New(t, ostiarytest.Policies(os.DirFS("policies")))
		ann := s.User("ann", "editor")
		doc := authz.Resource{Type: "document", ID: "d1", Properties: map[string]any{"owner": ann.ID}}
		s.Allowed(t, ann.Session(), "read", doc)
		s.Denied(t, ann.Key(nil), "read", doc, "grant_missing")
	}
}
