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

// What remembering somebody with three roles and a key costs, in bytes of the heap,
// with what finds and forgets them.
func BenchmarkMemoryOfAPrincipal(b *testing.B) {
	const people = 5000
	h := open(b)
	secrets := make([]authn.Secret, people)
	for i := range secrets {
		u := must(h.CreateUser(b.Context(), system, authn.NewUser{
			Name: "Ann", Email: fmt.Sprintf("ann%d@example.com", i), Roles: []string{"user", "editor", "auditor"}, RolesGiven: true,
		}))(b)
		_, secrets[i] = h.key(u, authz.Permissions{"user": {"list", "get"}, "document": {"read", "write"}})
	}
	for b.Loop() {
		h.Forget("", "")
		before := heap()
		for _, secret := range secrets {
			h.asKey(secret)
		}
		b.ReportMetric(float64(heap()-before)/people, "B/principal")
		runtime.KeepAlive(h)
	}
	b.ReportMetric(0, "ns/op")
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // what pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
