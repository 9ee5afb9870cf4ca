package ostiary_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-chi/chi/v5"
	"go.uber.org/goleak"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/betterauth"
	"github.com/ostiary/ostiary/server/opa"
	"github.com/ostiary/ostiary/server/request"
)

func open(t testing.TB, o ostiary.Options) *ostiary.Ostiary {
	t.Helper()
	if o.Database == "" {
		o.Database = "sqlite::memory:"
	}
	i, err := ostiary.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	return i
}

var program = authn.System("test")

// userWithKey makes a user with a role, and a key of theirs.
func userWithKey(t testing.TB, o *ostiary.Ostiary, role string, grants authz.Permissions) (authn.User, authn.Secret) {
	t.Helper()
	u, err := o.Authn().CreateUser(t.Context(), program, authn.NewUser{Name: "Ann", Email: "ann@example.com", Roles: []string{role}, RolesGiven: true})
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := o.Authn().CreateKey(t.Context(), program, authn.NewKey{OwnerID: u.ID, Permissions: grants})
	if err != nil {
		t.Fatal(err)
	}
	return u, key
}

func TestCloseEndsEveryGoroutine(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, database := range []string{"sqlite::memory:", "sqlite:" + filepath.Join(t.TempDir(), "o.db")} {
		o, err := ostiary.Open(t.Context(), ostiary.Options{Database: database, PoliciesDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		_, key := userWithKey(t, o, "admin", authz.Permissions{"*": {"*"}})
		if _, err := o.Authn().Authenticate(t.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: key}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // closing twice is harmless
			if err := o.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// mistakes are those that Open found. Every one has its type.
func mistakes(err error) (all []*ostiary.OptionError) {
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		all = append(all, e.(*ostiary.OptionError))
	}
	return all
}

func TestOpenReportsEveryMistake(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	_, err := ostiary.Open(t.Context(), ostiary.Options{
		Database: "mysql://nowhere",
		Secrets:  []string{"short"},
		Policies: fstest.MapFS{"broken.rego": {Data: []byte("package app.document\n\nallow if {")}},
		Authn:    authn.Options{PasswordMin: 20, PasswordMax: 10},
		Request:  request.Options{TrustedProxies: []string{"here"}},
		Origins:  []string{"nowhere"},

		ForwardProxies: []string{"there"},
	})
	if err == nil {
		t.Fatal("opened")
	}
	for _, want := range []string{"database: ", "secret", "broken.rego:3", "Password"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	}
	fields := map[string]string{}
	for _, wrong := range mistakes(err) {
		fields[wrong.Field] = wrong.Reason
	}
	for _, field := range []string{"Database", "Secrets", "Policies", "Authn.PasswordMax", "Request.TrustedProxies", "ForwardProxies", "Origins"} {
		if fields[field] == "" {
			t.Errorf("nothing is said of %s: %v", field, fields)
		}
	}
}

// What only the HTTP API makes something of is reported with the rest.
func TestOpenReportsMistakesOfTheHTTPAPI(t *testing.T) {
	_, err := ostiary.Open(t.Context(), ostiary.Options{
		Database: "mysql://nowhere",
		Secrets:  []string{strings.Repeat("s", 32)},
		OPA:      opa.Options{Entrypoints: []string{"ostiary/decision"}},
		Auth:     betterauth.Options{BasePath: "auth/"},
	})
	for _, field := range []string{"Database", "OPA.Entrypoints", "Auth.BasePath"} {
		if !slices.ContainsFunc(mistakes(err), func(e *ostiary.OptionError) bool { return e.Field == field }) {
			t.Errorf("nothing is said of %s: %v", field, err)
		}
	}
}

// Whoever changes the database, what is remembered here notices.
func TestChangeByAnotherProcessIsNoticed(t *testing.T) {
	database := "sqlite:" + filepath.Join(t.TempDir(), "o.db")
	here, there := open(t, ostiary.Options{Database: database}), open(t, ostiary.Options{Database: database})
	u, key := userWithKey(t, here, "admin", authz.Permissions{"*": {"*"}})
	use := func() error {
		_, err := here.Authn().Authenticate(t.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: key})
		return err
	}
	if err := use(); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Authn().CreateUser(t.Context(), program, authn.NewUser{Name: "Other", Email: "other@example.com", Roles: []string{"admin"}, RolesGiven: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := there.Authn().Ban(t.Context(), program, u.ID, "", 0); err != nil {
		t.Fatal(err)
	}
	banned := time.Now()
	for {
		err := use()
		if errors.Is(err, authn.ErrOwnerBanned) {
			break
		}
		if err != nil {
			t.Fatalf("got %v, want success or %v", err, authn.ErrOwnerBanned)
		}
		if time.Since(banned) > 2*time.Second {
			t.Fatal("the ban was not noticed within the lease")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestTwoInstancesShareNothing(t *testing.T) {
	a, b := open(t, ostiary.Options{}), open(t, ostiary.Options{})
	_, key := userWithKey(t, a, "admin", authz.Permissions{"*": {"*"}})
	if _, err := b.Authn().Authenticate(t.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: key}); !errors.Is(err, authn.ErrBadCredential) {
		t.Errorf("a key of another instance: got %v, want %v", err, authn.ErrBadCredential)
	}
}

func TestRequireTellsNotKnownFromNotAllowed(t *testing.T) {
	o := open(t, ostiary.Options{})
	_, key := userWithKey(t, o, "admin", authz.Permissions{"user": {"list"}})
	reached := 0
	handler := func(action string) http.Handler {
		return o.Require(action, func(*http.Request) authz.Resource { return authz.Resource{Type: "user"} })(
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				reached++
				if ostiary.PrincipalFrom(r.Context()).User().Name != "Ann" {
					t.Error("the handler does not find the caller")
				}
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Errorf("flush through the middleware: %v", err)
				}
			}))
	}
	tests := []struct {
		name, action string
		header       http.Header
		want         int
	}{
		{"allowed", "list", http.Header{"X-Api-Key": {key.Reveal()}}, 200},
		{"not granted", "delete", http.Header{"X-Api-Key": {key.Reveal()}}, 403},
		{"no credential", "list", nil, 401},
		{"bad credential", "list", http.Header{"X-Api-Key": {key.Reveal() + "x"}}, 401},
		{"two credentials", "list", http.Header{"X-Api-Key": {key.Reveal()}, "Authorization": {"Bearer other"}}, 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := reached
			r := httptest.NewRequest("GET", "/", nil)
			r.Header = tt.header
			w := httptest.NewRecorder()
			handler(tt.action).ServeHTTP(w, r)
			if w.Code != tt.want {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, tt.want)
			}
			if (reached > before) != (tt.want == 200) {
				t.Errorf("handler reached: %v", reached > before)
			}
			if tt.want == 401 && w.Header().Get("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
			if (tt.want == 200 || tt.want == 403) && w.Header().Get("Ostiary-Decision") == "" {
				t.Error("no Ostiary-Decision")
			}
		})
	}
}

// The same middleware protects routes of chi, whose patterns name the resource.
func TestRequireProtectsRoutesOfChi(t *testing.T) {
	o := open(t, ostiary.Options{Policies: fstest.MapFS{"document.rego": {Data: []byte(
		"package app.document\n\nallow if input.resource.id == \"open\"\n")}}})
	_, key := userWithKey(t, o, "user", authz.Permissions{"document": {"read"}})
	router := chi.NewRouter()
	router.With(o.Require("read", func(r *http.Request) authz.Resource {
		return authz.Resource{Type: "document", ID: chi.URLParam(r, "id")}
	})).Get("/documents/{id}", func(w http.ResponseWriter, r *http.Request) {})
	for id, want := range map[string]int{"open": 200, "closed": 403} {
		r := httptest.NewRequest("GET", "/documents/"+id, nil)
		r.Header.Set("x-api-key", key.Reveal())
		w := httptest.NewRecorder()
		router.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: got %d %s, want %d", id, w.Code, w.Body, want)
		}
	}
}

func TestDecisionsAreOnRecordWhenToldOf(t *testing.T) {
	o := open(t, ostiary.Options{})
	d, err := o.Decide(t.Context(), authz.Request{Action: authz.Action{Name: "list"}, Resource: authz.Resource{Type: "user"}})
	if err != nil || d.Allow {
		t.Fatalf("got %v %v, want a denial", d.Allow, err)
	}
	r, err := o.Decisions().Record(t.Context(), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	if r.Allow || len(r.Reasons) == 0 || r.Reasons[0].Code != "unauthenticated" {
		t.Errorf("got %+v", r)
	}
}

// The instance outlives the context it was opened with.
func TestContextBoundsOpeningAlone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o, err := ostiary.Open(ctx, ostiary.Options{Database: "sqlite::memory:"})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	cancel()
	if err := o.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	userWithKey(t, o, "admin", nil)
}

// A request that names the revision of a write is judged by it, on whichever
// instance, even at once.
func TestRevisionOfAWriteIsReachedElsewhere(t *testing.T) {
	database := "sqlite:" + filepath.Join(t.TempDir(), "o.db")
	// Nothing but the request makes the other instance look: its tick is slow.
	here := open(t, ostiary.Options{Database: database})
	there := open(t, ostiary.Options{Database: database, Lease: time.Hour})
	u, key := userWithKey(t, here, "user", authz.Permissions{"*": {"*"}})
	ask := func(atLeast string) int {
		r := httptest.NewRequest("GET", "/v1/me", nil)
		r.Header.Set("x-api-key", key.Reveal())
		if atLeast != "" {
			r.Header.Set("Ostiary-At-Least", atLeast)
		}
		w := httptest.NewRecorder()
		there.Handler().ServeHTTP(w, r)
		return w.Code
	}
	for range 20 {
		for _, ban := range []bool{false, true} {
			var receipt audit.Receipt
			ctx := audit.WithReceipt(t.Context(), &receipt)
			want := http.StatusOK
			var err error
			if ban {
				want = http.StatusUnauthorized
				_, err = here.Authn().Ban(ctx, program, u.ID, "", 0)
			} else {
				_, err = here.Authn().Unban(ctx, program, u.ID)
			}
			if err != nil || receipt.Revision == "" {
				t.Fatalf("revision %q, %v", receipt.Revision, err)
			}
			if got := ask(receipt.Revision); got != want {
				t.Fatalf("banned %t: got %d at revision %s, want %d", ban, got, receipt.Revision, want)
			}
		}
	}
}
