package ostiary_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
)

// features permits what the application says of a user.
var features = fstest.MapFS{"invoice.rego": {Data: []byte(`package app.invoice

allow if input.principal.user.attributes.features.billing == "editor"
`)}}

var editInvoices = authz.Action{Name: "edit"}

// enriched is an instance whose application tells of users by tell, and the key of one.
func enriched(t *testing.T, o ostiary.Options) (*ostiary.Ostiary, authn.User, func() int) {
	t.Helper()
	o.Policies = features
	i := open(t, o)
	u, key := userWithKey(t, i, "user", authz.Permissions{"invoice": {"edit"}})
	guarded := i.Require("edit", func(*http.Request) authz.Resource { return authz.Resource{Type: "invoice"} })(
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	return i, u, func() int {
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set("x-api-key", key.Reveal())
		w := httptest.NewRecorder()
		guarded.ServeHTTP(w, r)
		return w.Code
	}
}

func billing(role string) map[string]any {
	return map[string]any{"features": map[string]string{"billing": role}}
}

// settle waits until word of the user's making has come back and is forgotten.
func settle(t *testing.T, edit func() int, asked *atomic.Int64) {
	t.Helper()
	for before := int64(-1); before != asked.Load(); time.Sleep(200 * time.Millisecond) {
		before = asked.Load()
		if got := edit(); got != http.StatusOK {
			t.Fatalf("got %d, want 200", got)
		}
	}
}

// Policies see what the application tells of callers and of those who are only
// named; it is asked once, until the user is forgotten.
func TestEnrichedAttributesAreSeenByPolicies(t *testing.T) {
	var asked atomic.Int64
	var role atomic.Value
	role.Store("editor")
	o, u, edit := enriched(t, ostiary.Options{Enrich: func(_ context.Context, who authz.Identity) (map[string]any, error) {
		asked.Add(1)
		if who.User.Name != "Ann" {
			t.Errorf("asked about %+v", who)
		}
		return billing(role.Load().(string)), nil
	}})
	settle(t, edit, &asked)
	before := asked.Load()
	for range 3 {
		if got := edit(); got != http.StatusOK {
			t.Fatalf("got %d, want 200", got)
		}
	}
	if n := asked.Load() - before; n != 0 {
		t.Errorf("asked %d times about who was remembered", n)
	}
	named := func() bool {
		who, err := o.Directory().Assert(t.Context(), program, "evaluate", directory.Ref{Type: "user", ID: u.ID})
		if err != nil {
			t.Fatal(err)
		}
		d, err := o.Decide(t.Context(), authz.Request{Subject: who, Action: editInvoices, Resource: authz.Resource{Type: "invoice"}})
		return err == nil && d.Allow
	}
	if first := named(); !first || !named() { // the second time from memory
		t.Error("what is told of a user is not seen when somebody names them")
	}
	role.Store("viewer")
	o.Authn().Forget("user", u.ID)
	if got := edit(); got != http.StatusForbidden || named() {
		t.Errorf("after it changed: got %d and %t, want 403 and false", got, named())
	}
}

// Whoever cannot be told about is not let in: without an answer, with one that
// comes too late, and with one that is none.
func TestUserWhoCannotBeEnrichedIsNotKnown(t *testing.T) {
	for name, tell := range map[string]func(ctx context.Context) (map[string]any, error){
		"error": func(context.Context) (map[string]any, error) { return billing("editor"), errors.New("away") },
		"slow": func(ctx context.Context) (map[string]any, error) {
			<-ctx.Done()
			return billing("editor"), nil
		},
		"deaf": func(context.Context) (map[string]any, error) {
			time.Sleep(300 * time.Millisecond)
			return billing("editor"), nil
		},
		"panic": func(context.Context) (map[string]any, error) { panic("no such table") },
		"not JSON": func(context.Context) (map[string]any, error) {
			return map[string]any{"features": make(chan int)}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			var well atomic.Bool
			o, u, edit := enriched(t, ostiary.Options{
				EnrichDeadline: 20 * time.Millisecond,
				Enrich: func(ctx context.Context, _ authz.Identity) (map[string]any, error) {
					if well.Load() {
						return billing("editor"), nil
					}
					return tell(ctx)
				},
			})
			if got := edit(); got != http.StatusServiceUnavailable {
				t.Errorf("got %d, want 503", got)
			}
			if _, err := o.Directory().Assert(t.Context(), program, "evaluate", directory.Ref{Type: "user", ID: u.ID}); !errors.Is(err, authn.ErrUnavailable) {
				t.Errorf("named: got %v, want %v", err, authn.ErrUnavailable)
			}
			// Nothing of the failure is remembered.
			well.Store(true)
			if got := edit(); got != http.StatusOK {
				t.Errorf("after it: got %d, want 200", got)
			}
		})
	}
}

// An application that never answers keeps nobody waiting, and is asked so many times
// at once and no more. When it wakes up, all is well.
func TestEnricherThatHangsIsBounded(t *testing.T) {
	const deadline = 50 * time.Millisecond
	awake := make(chan struct{})
	var asked atomic.Int64
	o, u, edit := enriched(t, ostiary.Options{EnrichDeadline: deadline, Enrich: func(context.Context, authz.Identity) (map[string]any, error) {
		asked.Add(1)
		<-awake
		return billing("editor"), nil
	}})
	var wg sync.WaitGroup
	began := time.Now()
	for range 300 {
		wg.Go(func() {
			if _, err := o.Authn().Identity(t.Context(), u.ID); !errors.Is(err, authn.ErrUnavailable) {
				t.Errorf("got %v, want %v", err, authn.ErrUnavailable)
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took > 100*deadline {
		t.Errorf("took %v", took)
	}
	if got := asked.Load(); got != 128 {
		t.Errorf("asked %d times at once, want 128", got)
	}
	if got := edit(); got != http.StatusServiceUnavailable {
		t.Errorf("while it hangs: got %d, want 503", got)
	}
	close(awake)
	for range 100 {
		if edit() == http.StatusOK {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("nobody is let in after it woke up")
}

// A search of many users does not wait for them one after the other.
func TestSearchEnrichesSeveralAtOnce(t *testing.T) {
	var slow atomic.Bool
	const each = 20 * time.Millisecond
	o, _, _ := enriched(t, ostiary.Options{Enrich: func(ctx context.Context, who authz.Identity) (map[string]any, error) {
		if slow.Load() {
			time.Sleep(each)
		}
		if who.User.Name == "Odd" {
			return billing("viewer"), nil
		}
		return billing("editor"), nil
	}})
	for i := range 63 {
		in := newUser(fmt.Sprintf("u%d@example.com", i), "user")
		if i == 0 {
			in.Name = "Odd"
		}
		if _, err := o.Authn().CreateUser(t.Context(), program, in); err != nil {
			t.Fatal(err)
		}
	}
	slow.Store(true)
	began := time.Now()
	found, err := o.Directory().Subjects(t.Context(), program, directory.Search{
		Subject: directory.Ref{Type: "user"}, Action: editInvoices, Resource: authz.Resource{Type: "invoice"}, Limit: 100,
	})
	if err != nil || len(found.IDs) != 63 {
		t.Errorf("found %d, %v; want 63", len(found.IDs), err)
	}
	if took := time.Since(began); took > 64*each/2 {
		t.Errorf("took %v, one by one is %v", took, 64*each)
	}
}

// What the application does with its maps afterwards is its own business.
func TestEnrichedAttributesAreCopied(t *testing.T) {
	mine := map[string]any{"features": map[string]any{"billing": "editor"}}
	var asked atomic.Int64
	_, _, edit := enriched(t, ostiary.Options{Enrich: func(context.Context, authz.Identity) (map[string]any, error) {
		asked.Add(1)
		return mine, nil
	}})
	settle(t, edit, &asked)
	clear(mine["features"].(map[string]any))
	if got := edit(); got != http.StatusOK {
		t.Errorf("got %d, want 200", got)
	}
}
