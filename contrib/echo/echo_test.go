package ostiaryecho_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/labstack/echo/v4"

	"github.com/ostiary/ostiary/access"
	ostiaryecho "github.com/ostiary/ostiary/contrib/echo"
	"github.com/ostiary/ostiary/ostiarytest"
)

func TestRoutesOfEcho(t *testing.T) {
	s := ostiarytest.New(t, ostiarytest.Policies(fstest.MapFS{
		"document.rego": {Data: []byte("package app.document\n\nallow if input.resource.id == \"open\"\n")},
		"path.rego":     {Data: []byte("package app.path\n\nallow if input.resource.id == \"/paths/:id\"\n")},
	}))
	key := s.User("Ann").Key(access.Permissions{"*": {"*"}})
	e := echo.New()
	reached := false
	show := func(c echo.Context) error {
		reached = true
		c.Response().Flush()
		return c.String(http.StatusOK, ostiaryecho.Principal(c).Subject().Identity().User.Name)
	}
	e.GET("/documents/:id", show, ostiaryecho.Require(s, "read", ostiaryecho.ByParam("document", "id")))
	e.GET("/paths/:id", show, ostiaryecho.Require(s, "read", ostiaryecho.ByRoute("path")))
	e.GET("/wrong/:id", show, ostiaryecho.Require(s, "read", ostiaryecho.ByParam("document", "nmae")))
	e.GET("/users", show, ostiaryecho.Require(s, "list", ostiaryecho.OfType("user")))
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
		w := s.Do(e, tt.who, "GET", tt.path, nil)
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
func TestEventsStreamThroughEcho(t *testing.T) {
	s := ostiarytest.New(t, ostiarytest.Policies(fstest.MapFS{"document.rego": {Data: []byte("package app.document\n\nallow if input.resource.id == \"open\"\n")}}))
	key := s.User("Ann").Key(access.Permissions{"*": {"*"}})
	heard := make(chan struct{})
	e := echo.New()
	e.GET("/documents/:id", func(c echo.Context) error {
		fmt.Fprint(c.Response(), "data: one\n\n")
		c.Response().Flush()
		<-heard
		fmt.Fprint(c.Response(), "data: two\n\n")
		return nil
	}, ostiaryecho.Require(s, "read", ostiaryecho.ByParam("document", "id")))
	srv := httptest.NewServer(e)
	defer srv.Close()
	q := s.Request(key, "GET", srv.URL+"/documents/open", nil)
	q.RequestURI = ""
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	if line, err := lines.ReadString('\n'); line != "data: one\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	close(heard)
	if rest, err := io.ReadAll(lines); err != nil || !strings.Contains(string(rest), "data: two") {
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
