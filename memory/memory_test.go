package memory_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary/memory"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// pair is built on two rows.
type pair struct{ a, b string }

func cache(size int) *memory.Cache[string, pair] {
	return memory.New(size, time.Minute, func(_ string, p pair) []memory.Ref { return []memory.Ref{{Kind: "a", ID: p.a}, {Kind: "b", ID: p.b}} })
}

func TestAValueIsUsedUntilOneOfItsRowsChanges(t *testing.T) {
	for _, tt := range []struct {
		kind, id string
		left     string
	}{
		{"a", "1", "y"}, {"b", "1", "x"}, {"b", "2", "y"}, {"a", "3", "x y"}, {"c", "1", "x y"},
		{"a", "", ""}, {"c", "", "x y"}, {"", "", ""}, {"", "1", ""},
	} {
		c := cache(10)
		c.Put(c.Generation(), "x", pair{"1", "2"}, now)
		c.Put(c.Generation(), "y", pair{"2", "1"}, now)
		c.Forget(tt.kind, tt.id)
		left := ""
		for _, k := range []string{"x", "y"} {
			if _, ok := c.Get(k, now); ok {
				left += " " + k
			}
		}
		if want := tt.left; want != "" && left != " "+want || want == "" && left != "" {
			t.Errorf("forget %q %q: got %q left, want %q", tt.kind, tt.id, left, tt.left)
		}
	}
}

func TestAReadThatBeganBeforeAForgetIsNotRemembered(t *testing.T) {
	c := cache(10)
	generation := c.Generation()
	c.Forget("other", "row")
	c.Put(generation, "x", pair{"1", "2"}, now)
	if _, ok := c.Get("x", now); ok {
		t.Error("it was remembered")
	}
	c.Put(c.Generation(), "x", pair{"1", "2"}, now)
	if _, ok := c.Get("x", now); !ok {
		t.Error("a later one was not")
	}
}

func TestNothingIsUsedBeyondItsLifeOrTheLease(t *testing.T) {
	c := cache(10)
	c.Put(c.Generation(), "x", pair{}, now)
	for _, tt := range []struct {
		at     time.Time
		lease  time.Time
		usable bool
	}{
		{now, time.Time{}, true},
		{now.Add(time.Minute - 1), time.Time{}, true},
		{now.Add(time.Minute), time.Time{}, false},
		{now, now, false},
		{now, now.Add(1), true},
		{now.Add(time.Second), now.Add(1), false},
	} {
		if !tt.lease.IsZero() {
			c.TrustUntil(tt.lease)
		}
		if _, ok := c.Get("x", tt.at); ok != tt.usable {
			t.Errorf("at %v with a lease until %v: got %v", tt.at, tt.lease, ok)
		}
	}
	if c := cache(0); c.Trusts(now) {
		t.Error("a cache without room is trusted")
	} else {
		c.Put(c.Generation(), "x", pair{}, now)
		c.Forget("", "")
		if _, ok := c.Get("x", now); ok {
			t.Error("a cache without room remembers")
		}
	}
}

func TestACacheIsNotLargerThanItMayBe(t *testing.T) {
	c := cache(8)
	for i := range 1000 {
		c.Put(c.Generation(), fmt.Sprint(i), pair{fmt.Sprint(i), "b"}, now)
	}
	n := 0
	for i := range 1000 {
		if _, ok := c.Get(fmt.Sprint(i), now); ok {
			n++
		}
	}
	if n == 0 || n > 8 {
		t.Errorf("%d are remembered", n)
	}
}

// Values that share a row are forgotten with it, all that are left when some of
// them went before.
func TestValuesThatShareARowAreForgottenTogether(t *testing.T) {
	for n := range 5 {
		for went := range 1 << n {
			c := cache(10)
			for i := range n {
				c.Put(c.Generation(), fmt.Sprint(i), pair{fmt.Sprint(i), "shared"}, now)
			}
			c.Put(c.Generation(), "other", pair{"other", "own"}, now)
			for i := range n {
				if went>>i&1 == 1 {
					c.Forget("a", fmt.Sprint(i))
				}
			}
			for i := range n {
				if _, ok := c.Get(fmt.Sprint(i), now); ok != (went>>i&1 == 0) {
					t.Fatalf("%d of %b of %d: remembered: %v", i, went, n, ok)
				}
			}
			c.Forget("b", "shared")
			for i := range n {
				if _, ok := c.Get(fmt.Sprint(i), now); ok {
					t.Fatalf("%d of %d is remembered when %b went before", i, n, went)
				}
			}
			if _, ok := c.Get("other", now); !ok {
				t.Fatalf("what has nothing to do with it was forgotten")
			}
		}
	}
}

// Nobody who asks after a forget has returned is given what was read before it.
func TestNobodyIsGivenWhatWasForgotten(t *testing.T) {
	c := cache(4) // small, so that entries are evicted as well
	var truth atomic.Int64
	var busy sync.WaitGroup
	stop := make(chan bool)
	read := func(k string) int64 {
		if p, ok := c.Get(k, now); ok {
			var n int64
			_, _ = fmt.Sscan(p.b, &n)
			return n
		}
		generation := c.Generation()
		n := truth.Load()
		c.Put(generation, k, pair{"row", fmt.Sprint(n)}, now)
		return n
	}
	for i := range 4 {
		busy.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-stop:
					return
				default:
					read(fmt.Sprint((i + j) % 8))
				}
			}
		})
	}
	for i := range 3000 {
		want := truth.Add(1)
		c.Forget("a", "row")
		if got := read(fmt.Sprint(i % 8)); got < want {
			t.Fatalf("got %d after %d", got, want)
		}
	}
	close(stop)
	busy.Wait()
}
