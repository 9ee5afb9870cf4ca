package directory_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
)

// A decision reads the store once, and not at all about types that are not
// there.
func TestWhatWasReadIsRemembered(t *testing.T) {
	h := open(t, "sqlite::memory:", nil)
	h.put(map[string]map[string]any{"document/d1": {"a": 1}})
	u := h.user()
	ask := func() {
		for _, r := range [][2]string{{"document", "d1"}, {"document", "none"}, {"folder", "f"}, {"folder", "g"}} {
			h.resource(r[0], r[1], nil)
		}
		for _, id := range []string{u.ID, "nobody"} {
			must(h.Assert(t.Context(), system, "evaluate", directory.Ref{Type: "user", ID: id}))(t)
		}
		must(h.Assert(t.Context(), system, "evaluate", directory.Ref{Type: "robot", ID: "r2"}))(t)
	}
	ask()
	if e, ty := h.db.entities.Load(), h.db.types.Load(); e != 2 || ty != 1 {
		t.Errorf("%d entities and %d times the types were read", e, ty)
	}
	before := h.db.all()
	ask()
	if n := h.db.all() - before; n != 0 {
		t.Errorf("%d reads again", n)
	}
	// Once nobody vouches for it any more, nothing that is remembered counts.
	h.TrustUntil(time.Now().Add(-time.Second))
	h.users.TrustUntil(time.Now().Add(-time.Second))
	before = h.db.all()
	ask()
	if n := h.db.all() - before; n < 6 {
		t.Errorf("only %d reads without a lease", n)
	}
	cold := open(t, "sqlite::memory:", nil, func(o *directory.Options) { o.CacheSize = -1 })
	for range 2 {
		cold.resource("document", "d", nil)
	}
	if n := cold.db.entities.Load(); n != 2 {
		t.Errorf("%d reads without a cache", n)
	}
}

// Each change counts from when the call that made it returns: of an entity that
// was there, that was not, of the first of its type, and of an import.
func TestAChangeCountsAtOnce(t *testing.T) {
	each(t, nil, func(t *testing.T, h *house) {
		state := func(id string) any { return h.resource("document", id, nil)["properties"].(map[string]any)["state"] }
		same(t, "none", state("a"), nil)
		h.put(map[string]map[string]any{"document/a": {"state": "new"}}) // the first of its type
		same(t, "put", state("a"), "new")
		same(t, "another", state("b"), nil)
		h.put(map[string]map[string]any{"document/a": {"state": "changed"}, "document/b": {"state": "late"}})
		same(t, "changed", state("a"), "changed")
		same(t, "late", state("b"), "late")
		must(h.Import(t.Context(), system, []directory.Entity{{Type: "document", ID: "a", Properties: map[string]any{"state": "imported"}}, {Type: "document", ID: "c", Properties: map[string]any{"state": "imported"}}}))(t)
		same(t, "imported", []any{state("a"), state("c")}, []any{"imported", "imported"})
		if err := h.Delete(t.Context(), system, "document", "a"); err != nil {
			t.Fatal(err)
		}
		same(t, "deleted", state("a"), nil)
	})
}

// Changes of others count once they are told, by the name that the store notes
// them under; users who were nobody before included.
func TestAChangeOfOthersCountsOnceItIsTold(t *testing.T) {
	each(t, nil, func(t *testing.T, h *house) {
		known := func() []any {
			p := must(h.Assert(t.Context(), system, "evaluate", directory.Ref{Type: "user", ID: "u1"}))(t).Identity()
			return []any{h.resource("document", "a/b", nil)["known"], p.Known}
		}
		same(t, "before", known(), []any{nil, false})
		mark := must(h.db.Mark(t.Context()))(t)
		event := h.event("key.create")
		event.ID = "other"
		must(h.db.PutEntities(t.Context(), []directory.Entity{{Type: "document", ID: "a/b"}}, event))(t)
		event.ID = "another"
		if err := h.db.CreateUser(t.Context(), authn.User{ID: "u1", Name: "x", Email: "x@example.com"}, "", event); err != nil {
			t.Fatal(err)
		}
		same(t, "not told", known(), []any{nil, false})
		changes, _, err := h.db.Changes(t.Context(), mark, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			h.Forget(c.Kind, c.ID)
			h.users.Forget(c.Kind, c.ID)
		}
		same(t, "told", known(), []any{true, true})
	})
}

// A read that was under way when something changed is not what is remembered.
func TestASlowReadDoesNotBringBackWhatChanged(t *testing.T) {
	h := open(t, "sqlite:"+t.TempDir()+"/test.db", nil)
	h.put(map[string]map[string]any{"document/d": {"state": "open"}})
	reading, changed := make(chan bool), make(chan bool)
	h.db.hold = func() { reading <- true; <-changed }
	done := make(chan any)
	go func() {
		r, _ := h.Describe(t.Context(), authz.Resource{Type: "document", ID: "d"}, "read")
		done <- r.Properties["state"]
	}()
	<-reading
	h.db.hold = nil
	h.put(map[string]map[string]any{"document/d": {"state": "closed"}})
	close(changed)
	same(t, "the slow read", <-done, "open")
	same(t, "the next one", h.resource("document", "d", nil)["properties"], map[string]any{"state": "closed"})
}

// Whoever asks after a change was made sees it, whatever others do meanwhile.
func TestNobodySeesAnOldEntityAfterAChange(t *testing.T) {
	h := open(t, "sqlite:"+t.TempDir()+"/test.db", nil)
	var busy sync.WaitGroup
	stop := make(chan bool)
	for range 4 {
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := h.Describe(t.Context(), authz.Resource{Type: fmt.Sprint("t", i%3), ID: fmt.Sprint(i % 5)}, "read"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 200 {
		typ, id := fmt.Sprint("t", i%3), fmt.Sprint(i%5)
		if _, _, err := h.Put(t.Context(), system, directory.Entity{Type: typ, ID: id, Properties: map[string]any{"i": i}}); err != nil {
			t.Fatal(err)
		}
		r, err := h.Describe(t.Context(), authz.Resource{Type: typ, ID: id}, "read")
		if err != nil || fmt.Sprint(r.Properties["i"]) != fmt.Sprint(i) {
			t.Fatalf("%d: got %v, %v", i, r.Properties, err)
		}
		if i%7 == 0 {
			if err := h.Delete(t.Context(), system, typ, id); err != nil {
				t.Fatal(err)
			}
			if r, err := h.Describe(t.Context(), authz.Resource{Type: typ, ID: id}, "read"); err != nil || r.Known {
				t.Fatalf("%d: deleted, and got %v, %v", i, r, err)
			}
		}
	}
	close(stop)
	busy.Wait()
}

// While the store is away there is no decision about what it might know.
func TestWithoutTheStoreThereIsNoDecision(t *testing.T) {
	h := open(t, "sqlite:"+t.TempDir()+"/test.db", files{"document.rego": "package app.document\n\nallow := true\n"})
	r := authz.Request{Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "document", ID: "d"}}
	if d := must(h.engine.Decide(t.Context(), r))(t); !d.Allow {
		t.Fatal(d.Reasons)
	}
	h.Forget("", "")
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err := h.engine.Decide(t.Context(), r); err == nil || d.Allow {
		t.Errorf("got %+v, %v", d, err)
	}
	if _, err := h.engine.DecideAll(t.Context(), []authz.Request{r}); err == nil {
		t.Error("of several: no error")
	}
	if _, err := h.engine.Explain(t.Context(), r); err == nil {
		t.Error("explained")
	}
}
