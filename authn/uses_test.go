package authn_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
)

func limited(remaining, perMinute int64) func(*authn.NewKey) {
	return func(k *authn.NewKey) {
		if remaining > 0 {
			k.Limits.Remaining = pointer(&remaining)
		}
		if perMinute > 0 {
			k.Limits.RateLimitMax, k.Limits.RateLimitTimeWindow = pointer(&perMinute), pointer(pointer(int64(60000)))
		}
	}
}

// A use costs no write as long as many are left, and is counted exactly all
// the same.
func TestManyUsesCostFewWrites(t *testing.T) {
	h := open(t)
	k, secret := h.key(h.user("Ann"), nil, limited(10_000, 0))
	before := h.reads.spends.Load()
	for i := range int64(1000) {
		if left := *h.asKey(secret).Key().Remaining; left != 10_000-i-1 {
			t.Fatalf("use %d: %d are left", i+1, left)
		}
	}
	if writes := h.reads.spends.Load() - before; writes > 20 {
		t.Errorf("1000 uses cost %d writes", writes)
	}
	if err := h.ReturnUses(h.Context(), true); err != nil {
		t.Fatal(err)
	}
	if left := *must(h.db.Key(h.Context(), k.ID))(h).Remaining; left != 9000 {
		t.Errorf("in the row %d are left, want 9000", left)
	}
}

// All are accepted that may be, and no more, whatever lies in memory.
func TestLimitIsExactWithPortions(t *testing.T) {
	for name, limit := range map[string]func(*authn.NewKey){"quota": limited(500, 0), "rate": limited(0, 500), "both": limited(500, 700)} {
		h := open(t)
		_, secret := h.key(h.user("Ann"), nil, limit)
		var wg sync.WaitGroup
		var accepted atomic.Int64
		for range 64 {
			wg.Go(func() {
				for {
					_, err := h.authenticate(authn.APIKeySecret, secret)
					if errors.Is(err, authn.ErrUsageExceeded) || errors.Is(err, authn.ErrRateLimited) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					accepted.Add(1)
				}
			})
		}
		wg.Wait()
		if accepted.Load() != 500 {
			t.Errorf("%s: %d accepted, want 500", name, accepted.Load())
		}
	}
}

// What was granted under other limits is worth nothing under new ones.
func TestNewLimitsCountAtOnce(t *testing.T) {
	h := open(t)
	k, secret := h.key(h.user("Ann"), nil, limited(100_000, 0))
	h.asKey(secret)
	if _, err := h.UpdateKey(h.Context(), system, k.ID, authn.KeyChange{Limits: authn.KeyLimits{Remaining: pointer(pointer(int64(2)))}}); err != nil {
		t.Fatal(err)
	}
	// Even though what was left of the portion is returned only now.
	if err := h.ReturnUses(h.Context(), true); err != nil {
		t.Fatal(err)
	}
	h.asKey(secret)
	h.asKey(secret)
	h.refused(authn.APIKeySecret, secret, authn.ErrUsageExceeded)
}

// A portion is of one window: what is left of it is not worth anything in the
// next one, and is not missing there either.
func TestPortionEndsWithItsWindow(t *testing.T) {
	h := open(t)
	k, secret := h.key(h.user("Ann"), nil, limited(0, 640))
	h.asKey(secret) // of a portion of 10
	h.advance(time.Minute)
	accepted := 0
	for {
		if _, err := h.authenticate(authn.APIKeySecret, secret); err != nil {
			is(t, err, authn.ErrRateLimited)
			break
		}
		accepted++
	}
	if accepted != 640 {
		t.Errorf("%d accepted in the second window, want 640", accepted)
	}
	if err := h.ReturnUses(h.Context(), true); err != nil {
		t.Fatal(err)
	}
	if n := must(h.db.Key(h.Context(), k.ID))(h).RequestCount; n != 640 {
		t.Errorf("counted %d, want 640", n)
	}
}

// Unused portions come back by themselves, so that other instances have them.
func TestUnusedPortionIsReturned(t *testing.T) {
	h := open(t)
	k, secret := h.key(h.user("Ann"), nil, limited(64_000, 64_000))
	h.asKey(secret)
	row := func() (int64, int64) {
		k := must(h.db.Key(h.Context(), k.ID))(h)
		return *k.Remaining, k.RequestCount
	}
	if remaining, _ := row(); remaining != 64_000-256 {
		t.Fatalf("%d are left", remaining)
	}
	for _, step := range []struct {
		wait      time.Duration
		remaining int64
	}{{0, 64_000 - 256}, {11 * time.Second, 63_999}} {
		h.advance(step.wait)
		if err := h.ReturnUses(h.Context(), false); err != nil {
			t.Fatal(err)
		}
		if remaining, count := row(); remaining != step.remaining || count != 64_000-step.remaining {
			t.Errorf("after %v: remaining %d, counted %d; want %d", step.wait, remaining, count, step.remaining)
		}
	}
}

// When it is not known what changed elsewhere, nothing is spent from memory.
func TestNothingIsSpentFromMemoryWithoutTheLease(t *testing.T) {
	h := open(t)
	_, secret := h.key(h.user("Ann"), nil, limited(64_000, 0))
	h.asKey(secret)
	h.TrustUntil(h.now())
	before := h.reads.spends.Load()
	h.asKey(secret)
	h.asKey(secret)
	if writes := h.reads.spends.Load() - before; writes != 2 {
		t.Errorf("2 uses cost %d writes", writes)
	}
}
