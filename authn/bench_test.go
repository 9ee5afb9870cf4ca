package authn_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

func BenchmarkAuthenticateKeyCached(b *testing.B) {
	h := open(b)
	_, secret := h.key(h.admin, everything)
	benchmarkCached(b, h, authn.Credential{Kind: authn.APIKeySecret, Secret: secret})
}

func BenchmarkAuthenticateSessionCached(b *testing.B) {
	h := open(b)
	benchmarkCached(b, h, authn.Credential{Kind: authn.SessionToken, Secret: h.token(h.admin)})
}

func benchmarkCached(b *testing.B, h *house, c authn.Credential) {
	h.mustAuthenticate(c.Kind, c.Secret)
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := h.Authenticate(b.Context(), c); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := h.Authenticate(b.Context(), c); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkAuthenticateKeyCold(b *testing.B) {
	h := open(b, func(o *authn.Options) { o.CacheSize = -1 })
	_, secret := h.key(h.admin, everything)
	b.ReportAllocs()
	for b.Loop() {
		h.asKey(secret)
	}
}

func TestCachedCredentialsAllocateLittle(t *testing.T) {
	h := open(t)
	_, secret := h.key(h.admin, everything)
	for _, c := range []authn.Credential{{Kind: authn.APIKeySecret, Secret: secret}, {Kind: authn.SessionToken, Secret: h.token(h.admin)}} {
		h.mustAuthenticate(c.Kind, c.Secret)
		if n := testing.AllocsPerRun(1000, func() { h.authenticate(c.Kind, c.Secret) }); n > 2 {
			t.Errorf("kind %d: %v allocations, want at most 2", c.Kind, n)
		}
	}
}

func BenchmarkMemoryOfAPrincipal(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(memoryOfAPrincipal(b, 5000), "B/principal")
	}
	b.ReportMetric(0, "ns/op")
}

// Remembering somebody with three roles and a key takes at most 2 KiB, also when
// decisions were made about all who are remembered.
func TestRememberedPrincipalsTakeLittleMemory(t *testing.T) {
	if each := memoryOfAPrincipal(t, 200); each > 2<<10 {
		t.Errorf("%.0f bytes each", each)
	}
}

// memoryOfAPrincipal is what remembering somebody with three roles and a key costs,
// in bytes of the heap, with what finds and forgets them.
func memoryOfAPrincipal(t testing.TB, people int) float64 {
	h := open(t, func(o *authn.Options) { o.CacheSize = people })
	h.engine = authz.NewEngine(authz.Options{Memo: -1, Clock: h.now})
	h.engine.Swap(must(builtin())(t))
	secrets := make([]authn.Secret, people)
	for i := range secrets {
		u := must(h.CreateUser(t.Context(), system, authn.NewUser{
			Name: "Ann", Email: fmt.Sprintf("ann%d@example.com", i), Roles: []string{"user", "editor", "auditor"}, RolesGiven: true,
		}))(t)
		_, secrets[i] = h.key(u, authz.Permissions{"user": {"list", "get"}, "document": {"read", "write"}})
	}
	h.Forget("", "")
	before := heap()
	for _, secret := range secrets {
		r := authz.Request{Subject: h.asKey(secret).Subject(), Action: authz.Action{Name: "list"}, Resource: authz.Resource{Type: "user"}}
		if d := must(h.engine.Decide(t.Context(), r))(t); len(d.Reasons) == 0 {
			t.Fatal(d)
		}
	}
	// As the program does every few seconds.
	if err := h.FlushTouches(t.Context()); err != nil {
		t.Fatal(err)
	}
	each := float64(heap()-before) / float64(people)
	if hits, _ := h.CacheStats(); hits > 0 {
		t.Fatalf("%d were remembered before", hits)
	}
	for _, secret := range secrets {
		h.asKey(secret)
	}
	if hits, _ := h.CacheStats(); hits != uint64(people) {
		t.Fatalf("%d of %d are remembered", hits, people)
	}
	return each
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // what pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
