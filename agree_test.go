package ostiary_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/client"
	"github.com/ostiary/ostiary/guard"
	"github.com/ostiary/ostiary/ostiarytest"
)

// world is made up: tables of roles, rules, people and their keys.
type world struct {
	*rand.Rand
	s *ostiarytest.Service
	t *testing.T

	allowed, denied int
}

var (
	agreeMethods = []string{"GET", "POST", "DELETE"}
	agreePaths   = []string{"/a", "/b", "/b/c"}
	agreeRoles   = []string{"reader", "writer", "guest"}
)

// some returns a random part of list.
func (w *world) some(list []string) []string {
	part := []string{}
	for _, v := range list {
		if w.IntN(2) == 0 {
			part = append(part, v)
		}
	}
	return part
}

func (w *world) permissions() authz.Permissions {
	switch w.IntN(4) {
	case 0:
		return authz.Permissions{}
	case 1:
		return authz.Permissions{"*": {"*"}}
	}
	return authz.Permissions{"route": w.some(agreeMethods), "document": {"GET"}}
}

func (w *world) pick(list []string) string { return list[w.IntN(len(list))] }

func (w *world) policies() fstest.MapFS {
	tables := map[string]any{"roles": map[string]any{}}
	for _, r := range agreeRoles {
		tables["roles"].(map[string]any)[r] = w.permissions()
	}
	// Who asks AuthZEN's questions.
	tables["roles"].(map[string]any)["asker"] = authz.Permissions{"access": {"evaluate"}}
	data, err := json.Marshal(tables)
	if err != nil {
		w.t.Fatal(err)
	}
	return fstest.MapFS{
		"data.json": {Data: data},
		"route.rego": {Data: []byte(fmt.Sprintf(`package app.route

allow if {
	input.resource.id == %q
	input.action.name == %q
}

allow if {
	input.principal.user.name == "user1"
	startswith(input.resource.id, %q)
}

deny contains {"code": "shut", "message": "it is shut"} if {
	input.resource.id == %q
	%q in input.principal.roles
}
`, w.pick(agreePaths), w.pick(agreeMethods), w.pick(agreePaths), w.pick(agreePaths), w.pick(agreeRoles)))},
	}
}

// told is a decision and its reasons, for comparing.
func told(allow bool, reasons []authz.Reason) string {
	text, _ := json.Marshal(reasons)
	return fmt.Sprintf("%t %s", allow, text)
}

// recorded is what the record of a decision says, which must agree with what
// the surface itself did.
func (w *world) recorded(id string, allow bool) string {
	r, err := w.s.Decisions().Record(w.t.Context(), id)
	if err != nil || r.Allow != allow {
		w.t.Fatalf("record of %q: %v %v, want %v", id, r.Allow, err, allow)
	}
	return told(r.Allow, r.Reasons)
}

func (w *world) do(r *http.Request, status int, into any) http.Header {
	rec := httptest.NewRecorder()
	w.s.Handler().ServeHTTP(rec, r)
	if status != 0 && rec.Code != status {
		w.t.Fatalf("%s: %d %s", r.URL.Path, rec.Code, rec.Body)
	}
	if into != nil {
		if err := json.Unmarshal(rec.Body.Bytes(), into); err != nil {
			w.t.Fatal(err)
		}
	}
	h := rec.Header().Clone()
	h.Set("Status", fmt.Sprint(rec.Code))
	return h
}

func (w *world) post(who ostiarytest.Caller, path, body string) *http.Request {
	r := w.s.Request(who, "POST", path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return r
}

func (w *world) admitted(s guard.Service, who ostiarytest.Caller, method, path string) string {
	_, d, err := s.Admit(w.s.Request(who, method, path, nil), authz.Action{Name: method}, authz.Resource{Type: "route", ID: path})
	if err != nil && !errors.Is(err, access.ErrDenied) {
		w.t.Fatal(err)
	}
	if d.Allow {
		w.allowed++
	} else {
		w.denied++
	}
	return told(d.Allow, d.Reasons)
}

// Whoever asks, by whatever way, is told the same, for the same reasons.
func TestAllSurfacesAgree(t *testing.T) {
	allowed, denied := 0, 0
	for range 3 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := &world{Rand: rand.New(rand.NewPCG(seed, 7)), t: t}
			w.s = ostiarytest.New(t, ostiarytest.Policies(w.policies()), ostiarytest.With(func(o *ostiary.Options) {
				o.ForwardProxies = []string{"192.0.2.1"} // where httptest's requests come from
			}))
			srv := httptest.NewServer(w.s.Handler())
			t.Cleanup(srv.Close)
			remote, err := client.New(client.Options{URL: srv.URL})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { remote.Close() })
			// AuthZEN's questions are asked by a key as by a session.
			person := w.s.User("asker", "asker")
			askers := []ostiarytest.Caller{person.Key(authz.Permissions{"access": {"evaluate"}}), person.Session()}
			bare := person.Key(nil)
			secret := w.s.Request(askers[0], "GET", "/", nil).Header.Get("X-Api-Key")
			program, err := client.New(client.Options{URL: srv.URL, Key: secret})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { program.Close() })
			for n := range 2 {
				u := w.s.User(fmt.Sprintf("user%d", n), append(w.some(agreeRoles), w.pick(agreeRoles))...)
				grants := w.permissions()
				for _, who := range []ostiarytest.Caller{u.Session(), u.Key(grants), w.s.Nobody()} {
					for _, method := range agreeMethods {
						for _, path := range agreePaths {
							want := w.admitted(w.s, who, method, path)
							compare := func(by, got string) {
								t.Helper()
								if got != want {
									t.Errorf("%s, %s %s: %s says %s, the SDK %s", who, method, path, by, got, want)
								}
							}
							compare("the client", w.admitted(remote, who, method, path))

							var native struct {
								Allow   bool
								Reasons []authz.Reason
							}
							w.do(w.post(who, "/v1/authorize", fmt.Sprintf(`{"action": %q, "resource": {"type": "route", "id": %q}}`, method, path)), 200, &native)
							compare("HTTP", told(native.Allow, native.Reasons))

							proxied := w.s.Request(who, "GET", "/forward-auth/caddy", nil)
							for name, value := range map[string]string{"Method": method, "Uri": path, "Host": "example.com", "Proto": "https", "For": "203.0.113.7"} {
								proxied.Header.Set("X-Forwarded-"+name, value)
							}
							h := w.do(proxied, 0, nil)
							compare("forward-auth", w.recorded(h.Get("Ostiary-Decision"), h.Get("Status") == "200"))
						}
					}
				}
				// Whom AuthZEN is asked about is named and presents nothing, so there is no
				// asking about a key there: the answer is that about a session.
				for _, method := range agreeMethods {
					for _, path := range agreePaths {
						want := w.admitted(w.s, u.Session(), method, path)
						question := fmt.Sprintf(`{"subject": {"type": "user", "id": %q}, "action": {"name": %q}, "resource": {"type": "route", "id": %q}}`, u.ID, method, path)
						for _, asker := range askers {
							var zen struct {
								Decision bool
								Reasons  []authz.Reason
							}
							r := w.post(asker, "/access/v1/evaluation", question)
							r.Header.Set("Ostiary-Reasons", "tell")
							h := w.do(r, 200, &zen)
							if got, record := told(zen.Decision, zen.Reasons), w.recorded(h.Get("Ostiary-Decision"), zen.Decision); got != want || record != want {
								t.Errorf("%s, %s %s: AuthZEN says %s to %s, on record is %s, the SDK %s", u.Name, method, path, got, asker, record, want)
							}
						}
						w.do(w.post(bare, "/access/v1/evaluation", question), 403, nil)
						d, err := program.Decide(t.Context(), authz.Request{
							Subject: program.Named("user", u.ID, nil), Action: authz.Action{Name: method}, Resource: authz.Resource{Type: "route", ID: path},
						})
						if got := told(d.Allow, d.Reasons); err != nil || got != want {
							t.Errorf("%s, %s %s: the client says %s of who is named, %v, the SDK %s", u.Name, method, path, got, err, want)
						}
						// A key does what its owner may, and it was granted.
						key := w.admitted(w.s, u.Key(grants), method, path)
						if may := d.Allow && grants.Allows("route", method); strings.HasPrefix(key, "true") != may {
							t.Errorf("%s, %s %s: a key with %v says %s, its owner %t", u.Name, method, path, grants, key, d.Allow)
						}
					}
				}
			}
			allowed, denied = allowed+w.allowed, denied+w.denied
		})
	}
	if allowed < 10 || denied < 10 {
		t.Errorf("%d decisions allow and %d deny: that shows nothing", allowed, denied)
	}
}
