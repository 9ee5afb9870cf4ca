package guard_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/client"
	"github.com/ostiary/ostiary/guard"
	"github.com/ostiary/ostiary/ostiarytest"
)

func open(t *testing.T) (*ostiarytest.Service, ostiarytest.Caller) {
	t.Helper()
	s := ostiarytest.New(t, ostiarytest.Policies(fstest.MapFS{"page.rego": {Data: []byte("package app.page\n\nallow if input.resource.id in {\"welcome\", \"plans\"}\n")}}))
	return s, s.User("Ann").Key(access.Permissions{"*": {"*"}})
}

func page(id string) func(*http.Request) access.Resource {
	return func(*http.Request) access.Resource { return access.Resource{Type: "page", ID: id} }
}

// careless is a service that forgets to say that it denies.
type careless struct{ guard.Service }

func (c careless) Admit(r *http.Request, action access.Action, resource access.Resource) (context.Context, access.Decision, error) {
	ctx, d, _ := c.Service.Admit(r, action, resource)
	return ctx, d, nil
}

// Nothing passes that is not allowed, whatever a service, a route or the function
// that names the resource does wrong.
func TestMistakesLetNobodyThrough(t *testing.T) {
	s, key := open(t)
	for name, tt := range map[string]struct {
		s        guard.Service
		resource func(*http.Request) access.Resource
		want     int // 0: no answer
	}{
		"allowed":               {s, page("welcome"), 200},
		"denied":                {s, page("secret"), 403},
		"a denial and no error": {careless{s}, page("secret"), 403},
		"no decision and no error": {careless{s}, func(*http.Request) access.Resource {
			return access.Resource{Type: "page", Properties: map[string]any{"c": make(chan int)}}
		}, 403},
		"no resource":              {s, page(""), 403},
		"no type":                  {s, guard.OfType(""), 500},
		"a path nobody matched":    {s, guard.ByPath("page", "id"), 500},
		"a pattern nobody matched": {s, guard.ByPattern("page"), 500},
		"a panic":                  {s, func(*http.Request) access.Resource { panic("no row") }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			reached := false
			h := guard.Require(tt.s, "read", tt.resource)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
			got := 0
			func() {
				defer func() { _ = recover() }()
				got = s.Do(h, key, "GET", "/", nil).Code
			}()
			if got != tt.want || reached != (tt.want == 200) {
				t.Errorf("got %d, reached %t; want %d", got, reached, tt.want)
			}
		})
	}
}

// One route may ask two questions. Both have to be answered, and the answer names
// the last decision.
func TestQuestionsAddUp(t *testing.T) {
	s, key := open(t)
	for _, tt := range []struct {
		outer, inner string
		want         int
	}{{"welcome", "plans", 200}, {"welcome", "secret", 403}, {"secret", "plans", 403}} {
		h := guard.Require(s, "read", page(tt.outer))(guard.Require(s, "read", page(tt.inner))(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, guard.PrincipalFrom(r.Context()).Subject().Identity().User.Name)
		})))
		w := s.Do(h, key, "GET", "/", nil)
		ids := w.Header()[guard.DecisionHeader]
		if w.Code != tt.want || len(ids) != 1 {
			t.Fatalf("%s, then %s: got %d, decisions %q; want %d", tt.outer, tt.inner, w.Code, ids, tt.want)
		}
		about := tt.inner
		if tt.outer == "secret" {
			about = tt.outer
		}
		if r, err := s.Decisions().Record(t.Context(), ids[0]); err != nil || r.Resource.ID != about {
			t.Errorf("%s, then %s: the answer names a decision about %q, %v", tt.outer, tt.inner, r.Resource.ID, err)
		}
	}
}

// What is refused is answered before its body is read, or even sent.
func TestRefusedBodiesAreNotRead(t *testing.T) {
	s, _ := open(t)
	srv := httptest.NewServer(guard.Require(s, "read", page("secret"))(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") })))
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: example\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 401 ") {
		t.Errorf("got %q, %v; want a refusal and no leave to go on", line, err)
	}
}

// What http.ResponseController can do with a connection it can do behind the
// middleware, with HTTP/1.1 and HTTP/2, with an embedded instance and a remote one.
func TestResponseControllerReachesTheConnection(t *testing.T) {
	s, key := open(t)
	service := httptest.NewServer(s.Handler())
	defer service.Close()
	remote, err := client.New(client.Options{URL: service.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	for _, by := range []guard.Service{s, remote} {
		for _, two := range []bool{false, true} {
			said := make(chan error, 1)
			srv := httptest.NewUnstartedServer(guard.Require(by, "read", page("welcome"))(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c := http.NewResponseController(w)
				for _, err := range []error{c.SetReadDeadline(time.Now().Add(time.Minute)), c.SetWriteDeadline(time.Now().Add(time.Minute)), c.EnableFullDuplex()} {
					if err != nil {
						said <- err
						return
					}
				}
				// Full duplex: the answer begins before the question has ended.
				_, err := io.WriteString(w, "begun\n")
				if err == nil {
					err = c.Flush()
				}
				if err == nil {
					_, err = io.Copy(w, r.Body)
				}
				said <- err
			})))
			srv.EnableHTTP2 = two
			srv.StartTLS()
			body, write := io.Pipe()
			q := s.Request(key, "POST", srv.URL, body)
			q.RequestURI = ""
			res, err := srv.Client().Do(q)
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(res.Body)
			if line, err := lines.ReadString('\n'); line != "begun\n" || res.ProtoMajor == 2 != two {
				t.Errorf("%T, %s: got %q, %v", by, res.Proto, line, err)
			}
			fmt.Fprint(write, "the rest")
			write.Close()
			rest, err := io.ReadAll(lines)
			if handler := <-said; string(rest) != "the rest" || err != nil || handler != nil {
				t.Errorf("%T, %s: got %q, %v; the handler %v", by, res.Proto, rest, err, handler)
			}
			res.Body.Close()
			srv.Close()
		}
	}
}

// What the program put into the context of a request is still there; and who is
// not behind the middleware finds nobody.
func TestContextIsTheRequests(t *testing.T) {
	s, key := open(t)
	type mine struct{}
	var got any
	var who guard.Principal
	h := guard.Require(s, "read", page("welcome"))(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got, who = r.Context().Value(mine{}), guard.PrincipalFrom(r.Context())
	}))
	r := s.Request(key, "GET", "/", nil)
	if p := guard.PrincipalFrom(r.Context()); p != nil {
		t.Errorf("before it: %v", p)
	}
	h.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithValue(r.Context(), mine{}, "kept")))
	if p, ok := who.(authn.Principal); got != "kept" || !ok || p.User().Name != "Ann" {
		t.Errorf("got %v, %v", got, who)
	}
	header := http.Header{}
	if guard.Note(t.Context(), header, access.Decision{}); len(header) > 0 {
		t.Errorf("noted %v of nothing", header)
	}
}
