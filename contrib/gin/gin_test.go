package ostiarygin_test

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/fstest"

	"github.com/gin-gonic/gin"

	"github.com/ostiary/ostiary/access"
	ostiarygin "github.com/ostiary/ostiary/contrib/gin"
	"github.com/ostiary/ostiary/ostiarytest"
)

var rules = fstest.MapFS{"document.rego": {Data: []byte("package app.document\n\nallow if input.resource.id == \"open\"\n")},
	"path.rego": {Data: []byte("package app.path\n\nallow if input.resource.id == \"/paths/:id\"\n")}}

func TestRoutesOfGin(t *testing.T) {
	gin.SetMode(gin.TestMode)
	s := ostiarytest.New(t, ostiarytest.Policies(rules))
	key := s.User("Ann").Key(access.Permissions{"*": {"*"}})
	r := gin.New()
	reached := false
	show := func(c *gin.Context) {
		reached = true
		c.String(http.StatusOK, ostiarygin.Principal(c).Subject().Identity().User.Name)
	}
	r.GET("/documents/:id", ostiarygin.Require(s, "read", ostiarygin.ByParam("document", "id")), show)
	r.GET("/paths/:id", ostiarygin.Require(s, "read", ostiarygin.ByRoute("path")), show)
	r.GET("/wrong/:id", ostiarygin.Require(s, "read", ostiarygin.ByParam("document", "nmae")), show)
	r.GET("/users", ostiarygin.Require(s, "list", ostiarygin.OfType("user")), show)
	bad := revoked(t, s)
	for _, tt := range []struct {
		who    ostiarytest.Caller
		path   string
		status int
	}{
		{key, "/documents/open", 200},
		{key, "/documents/closed", 403},
		{key, "/paths/x", 200},
		{key, "/wrong/open", 500},
		{key, "/users", 403},
		{s.Nobody(), "/documents/closed", 401},
		{bad, "/documents/open", 401},
	} {
		reached = false
		w := s.Do(r, tt.who, "GET", tt.path, nil)
		if w.Code != tt.status || reached != (tt.status == 200) {
			t.Errorf("%s %s: got %d %s, want %d", tt.who, tt.path, w.Code, w.Body, tt.status)
		}
		if (w.Code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
			t.Errorf("%s: WWW-Authenticate %q", tt.path, w.Header().Get("WWW-Authenticate"))
		}
		if w.Code < 500 && tt.who != bad && w.Header().Get("Ostiary-Decision") == "" {
			t.Errorf("%s: no Ostiary-Decision", tt.path)
		}
	}
}

// Events reach their reader while the handler still runs.
func TestEventsStreamThroughGin(t *testing.T) {
	gin.SetMode(gin.TestMode)
	s := ostiarytest.New(t, ostiarytest.Policies(rules))
	key := s.User("Ann").Key(access.Permissions{"*": {"*"}})
	heard := make(chan struct{})
	r := gin.New()
	r.GET("/documents/:id", ostiarygin.Require(s, "read", ostiarygin.ByParam("document", "id")), func(c *gin.Context) {
		c.SSEvent("", "one")
		c.Writer.Flush()
		<-heard
		c.SSEvent("", "two")
	})
	srv := httptest.NewServer(r)
	defer srv.Close()
	q := s.Request(key, "GET", srv.URL+"/documents/open", nil)
	q.RequestURI = ""
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "data:one\n" {
			break
		}
	}
	close(heard)
	if rest, err := io.ReadAll(lines); err != nil || len(rest) == 0 {
		t.Errorf("got %q, %v", rest, err)
	}
}

// revoked is a caller whose session is over.
func revoked(t *testing.T, s *ostiarytest.Service) ostiarytest.Caller {
	t.Helper()
	u := s.User("Bob")
	who := u.Session()
	if err := s.Authn().RevokeSessions(t.Context(), ostiarytest.Program, u.ID, false); err != nil {
		t.Fatal(err)
	}
	return who
}
