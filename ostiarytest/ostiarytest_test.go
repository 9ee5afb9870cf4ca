package ostiarytest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/guard"
	"github.com/ostiary/ostiary/ostiarytest"
)

var policies = ostiarytest.Policies(fstest.MapFS{"document.rego": {Data: []byte(`package app.document

allow if {
	input.action.name == "read"
	input.resource.properties.owner == input.principal.id
}

deny contains {"code": "sealed", "message": "it is sealed"} if input.resource.properties.sealed
`)}})

var read = authz.Permissions{"document": {"read"}}

func document(owner string) authz.Resource {
	return authz.Resource{Type: "document", ID: "d1", Properties: map[string]any{"owner": owner}}
}

func TestPeopleAndKeysMeetTheRealPolicy(t *testing.T) {
	s := ostiarytest.New(t, policies)
	ann, root := s.User("Ann"), s.User("Root", "admin")
	s.Allowed(t, ann.Session(), "read", document(ann.ID))
	s.Allowed(t, ann.Key(read), "read", document(ann.ID))
	s.Allowed(t, root.Session(), "ban", authz.Resource{Type: "user", ID: ann.ID})
	s.Denied(t, ann.Key(nil), "read", document(ann.ID), "grant_missing")
	s.Denied(t, ann.Session(), "write", document(ann.ID), "role_missing")
	s.Denied(t, s.Nobody(), "read", document(ann.ID), "unauthenticated")
	sealed := document(ann.ID)
	sealed.Properties["sealed"] = true
	s.Denied(t, ann.Session(), "read", sealed, "sealed")
	if _, err := s.Authn().Ban(t.Context(), ostiarytest.Program, ann.ID, "", 0); err != nil {
		t.Fatal(err)
	}
	s.Refused(t, ann.Key(read), authn.ErrOwnerBanned)
}

// Whatever ends by itself ends by the test's clock.
func TestClockIsTheTests(t *testing.T) {
	s := ostiarytest.New(t, policies)
	ann, life := s.User("Ann"), 48*time.Hour
	key := s.Key(authn.NewKey{OwnerID: ann.ID, Permissions: read, ExpiresIn: &life})
	s.Allowed(t, key, "read", document(ann.ID))
	s.Clock.Advance(47 * time.Hour)
	s.Allowed(t, key, "read", document(ann.ID))
	s.Clock.Advance(2 * time.Hour)
	s.Refused(t, key, authn.ErrKeyExpired)
}

func TestRequestsPresentCredentials(t *testing.T) {
	s := ostiarytest.New(t, policies)
	ann := s.User("Ann")
	h := s.Require("read", func(r *http.Request) authz.Resource { return document(ann.ID) })(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, guard.PrincipalFrom(r.Context()).Subject().Identity().Credential)
	}))
	for _, tt := range []struct {
		who    ostiarytest.Caller
		status int
		body   string
	}{
		{ann.Session(), 200, "session"},
		{ann.Key(read), 200, "api_key"},
		{ann.Key(nil), 403, ""},
		{s.Nobody(), 401, ""},
	} {
		w := s.Do(h, tt.who, "GET", "/", nil)
		if w.Code != tt.status || tt.status == 200 && w.Body.String() != tt.body {
			t.Errorf("%s: got %d %s, want %d %s", tt.who, w.Code, w.Body, tt.status, tt.body)
		}
	}
}

// heard is a test that fails, and what it says.
type heard struct {
	testing.TB
	said []string
}

func (h *heard) Helper() {}
func (h *heard) Errorf(format string, args ...any) {
	h.said = append(h.said, fmt.Sprintf(format, args...))
}

func TestAssertionsThatFailSayWhy(t *testing.T) {
	s := ostiarytest.New(t, policies)
	ann := s.User("Ann")
	for _, tt := range []struct {
		name   string
		assert func(t testing.TB)
		want   []string
	}{
		{"denied", func(t testing.TB) { s.Allowed(t, ann.Session(), "read", document("else")) },
			[]string{"Ann (session): document:read on d1: denied, want allowed", "role_missing", "document.rego:5", `input.resource.properties.owner = "else"`}},
		{"allowed", func(t testing.TB) { s.Denied(t, ann.Session(), "read", document(ann.ID)) },
			[]string{"allowed, want denied", "held    document.rego:3"}},
		{"for another reason", func(t testing.TB) { s.Denied(t, ann.Key(nil), "read", document(ann.ID), "sealed") },
			[]string{"denied, but not for sealed", "grant_missing"}},
		{"a good credential", func(t testing.TB) { s.Refused(t, ann.Session(), authn.ErrBadCredential) }, []string{"want bad credential"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &heard{TB: t}
			tt.assert(h)
			if len(h.said) != 1 {
				t.Fatalf("said %q", h.said)
			}
			for _, want := range tt.want {
				if !strings.Contains(h.said[0], want) {
					t.Errorf("got %s\nwant %q in it", h.said[0], want)
				}
			}
		})
	}
}

func TestOptionsOfTheInstance(t *testing.T) {
	s := ostiarytest.New(t, ostiarytest.With(func(o *ostiary.Options) { o.Authn.DefaultRole = "reader" }))
	if u := s.User("Ann"); u.Role == nil || *u.Role != "reader" {
		t.Errorf("got %v", u.Role)
	}
}
