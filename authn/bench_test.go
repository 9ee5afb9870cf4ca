package authn_test

import (
	"testing"

	"github.com/ostiary/ostiary/authn"
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
