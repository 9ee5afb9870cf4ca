package ostiary_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/guard"
)

func newUser(email, role string) authn.NewUser {
	return authn.NewUser{Name: "Ann", Email: email, Roles: []string{role}, RolesGiven: true}
}

func newKey(owner string, grants authz.Permissions) authn.NewKey {
	return authn.NewKey{OwnerID: owner, Permissions: grants}
}

// ask authenticates with a key and asks for document:read.
func ask(t *testing.T, o *ostiary.Ostiary, key authn.Secret) (authz.Decision, error) {
	p, err := o.Authn().Authenticate(t.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: key})
	if err != nil {
		return authz.Decision{}, err
	}
	return o.Decide(t.Context(), authz.Request{Subject: p.Subject(), Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "document"}})
}

func rules(t *testing.T, dir, allow string) {
	t.Helper()
	name := filepath.Join(dir, "document.rego")
	if err := os.WriteFile(name+".new", []byte("package app.document\n\nallow if "+allow+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// Rules that are replaced while they are asked: each answer is by one revision
// or the other, whole, and none is without an answer. Another instance with
// other rules, in the same process, does not notice.
func TestReloadUnderLoad(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	rules(t, dir, "true")
	o, err := ostiary.Open(t.Context(), ostiary.Options{Database: "sqlite::memory:", PoliciesDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	other, err := ostiary.Open(t.Context(), ostiary.Options{Database: "sqlite::memory:"})
	if err != nil {
		t.Fatal(err)
	}
	grants := authz.Permissions{"document": {"read"}}
	_, key := userWithKey(t, o, "user", grants)
	_, otherKey := userWithKey(t, other, "user", grants)

	var allowing sync.Map // revision → whether it allows
	var over atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !over.Load() {
				d, err := ask(t, o, key)
				if err != nil || d.Revision == "" {
					t.Errorf("got %+v, %v", d, err)
					return
				}
				if was, seen := allowing.LoadOrStore(d.Revision, d.Allow); seen && was != d.Allow {
					t.Errorf("revision %s answered both ways", d.Revision)
				}
				if d, err := ask(t, other, otherKey); err != nil || d.Allow {
					t.Errorf("the other instance: %+v, %v", d, err)
				}
			}
		})
	}
	for i := range 6 {
		rules(t, dir, fmt.Sprintf("%d == %d", i%2, 1))
		if err := o.Policies().Reload(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	over.Store(true)
	wg.Wait()
	n := 0
	allowing.Range(func(any, any) bool { n++; return true })
	if n < 2 {
		t.Errorf("%d revisions were asked; want several", n)
	}
	if err := errors.Join(o.Close(), other.Close()); err != nil {
		t.Error(err)
	}
}

// Whoever still asks while an instance closes gets an answer by the policy or
// none, never one that nobody made, nor a denial for want of a policy; and nothing
// is left running.
func TestCloseUnderLoad(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	rules(t, dir, "true")
	o, err := ostiary.Open(t.Context(), ostiary.Options{Database: "sqlite:" + filepath.Join(dir, "o.db"), PoliciesDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	_, key := userWithKey(t, o, "user", authz.Permissions{"document": {"read"}})
	var closed, over atomic.Bool
	var asked atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !over.Load() {
				after := closed.Load()
				d, err := ask(t, o, key)
				asked.Add(1)
				if d.Allow && (after || err != nil) {
					t.Errorf("allowed: after Close %t, error %v", after, err)
					return
				}
			}
		})
	}
	// A caller who is remembered, and one who has to be looked up, come by a route.
	guarded := o.Require("read", guard.OfType("document"))(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	other, err := o.Authn().CreateUser(t.Context(), program, newUser("bob@example.com", "user"))
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey, err := o.Authn().CreateKey(t.Context(), program, newKey(other.ID, authz.Permissions{"document": {"read"}}))
	if err != nil {
		t.Fatal(err)
	}
	send := func(secret authn.Secret) int {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("x-api-key", secret.Reveal())
		w := httptest.NewRecorder()
		guarded.ServeHTTP(w, r)
		return w.Code
	}
	for _, secret := range []authn.Secret{key, otherKey} {
		wg.Go(func() {
			for !over.Load() {
				if secret == otherKey {
					o.Authn().Forget("user", other.ID)
				}
				after := closed.Load()
				if got := send(secret); got != http.StatusServiceUnavailable && (after || got != http.StatusOK) {
					t.Errorf("by a route: got %d, after Close %t", got, after)
					return
				}
				asked.Add(1)
			}
		})
	}
	for asked.Load() < 100 {
		time.Sleep(time.Millisecond)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	closed.Store(true)
	time.Sleep(20 * time.Millisecond)
	over.Store(true)
	wg.Wait()
	if d, err := o.Decide(t.Context(), authz.Request{Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "document"}}); err != nil || d.Allow {
		t.Errorf("after Close: %+v, %v; want a denial", d, err)
	}
}
