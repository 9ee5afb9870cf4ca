package authn

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/maypok86/otter/v2/stats"
	"golang.org/x/sync/singleflight"
)

// cache remembers principals by the digest of their credential.
//
// A read takes no lock that all cores share. The index says what each entry
// was built on; it is the truth about what may still be used: an entry that
// was forgotten is marked, so that it stops counting wherever it still lies.
type cache struct {
	entries *otter.Cache[digest, *entry] // nil: nothing is remembered
	ttl     time.Duration
	flight  singleflight.Group
	hits    *stats.Counter
	// trusted is until when what is remembered may be used; nil for ever. It
	// keeps its monotonic reading: a wall clock that is set back must not
	// lengthen it.
	trusted atomic.Pointer[time.Time]

	forgets atomic.Uint64 // how many there were; written under mu
	mu      sync.Mutex
	index   map[ref]map[*entry]struct{}
}

// ref names a row.
type ref struct{ kind, id string }

type entry struct {
	digest digest
	p      *principal
	until  time.Time
	gone   atomic.Bool
}

func newCache(size int, ttl time.Duration) *cache {
	c := &cache{ttl: ttl, index: map[ref]map[*entry]struct{}{}, hits: stats.NewCounter()}
	if size > 0 {
		c.entries = otter.Must(&otter.Options[digest, *entry]{
			MaximumSize: size,
			// In the caller's goroutine: nothing here outlives a call. The
			// handler may run under otter's own lock, so mu is never held while
			// otter is called.
			Executor:   func(f func()) { f() },
			OnDeletion: func(e otter.DeletionEvent[digest, *entry]) { c.drop(e.Value) },
		})
	}
	return c
}

// generation identifies the time before the next forget.
func (c *cache) generation() uint64 { return c.forgets.Load() }

func (c *cache) get(d digest, now time.Time) *principal {
	if !c.trusts(now) {
		return nil
	}
	e, ok := c.entries.GetIfPresent(d)
	if !ok || e.gone.Load() || !now.Before(e.until) {
		return nil
	}
	return e.p
}

// trusts reports whether what is remembered may be used.
func (c *cache) trusts(now time.Time) bool {
	t := c.trusted.Load()
	return c.entries != nil && (t == nil || now.Before(*t))
}

// put remembers p unless something was forgotten since generation.
func (c *cache) put(generation uint64, d digest, p *principal, now time.Time) {
	if c.entries == nil {
		return
	}
	e := &entry{digest: d, p: p, until: now.Add(c.ttl)}
	c.mu.Lock()
	if c.forgets.Load() != generation {
		c.mu.Unlock()
		return
	}
	for _, r := range p.refs() {
		if c.index[r] == nil {
			c.index[r] = map[*entry]struct{}{}
		}
		c.index[r][e] = struct{}{}
	}
	c.mu.Unlock()
	// A forget from here on finds e in the index and marks it.
	c.entries.Set(d, e)
}

func (c *cache) forget(kind, id string) {
	var gone []*entry
	c.mu.Lock()
	c.forgets.Add(1)
	mark := func(entries map[*entry]struct{}) {
		for e := range entries {
			if !e.gone.Swap(true) {
				gone = append(gone, e)
			}
		}
	}
	if kind != "" && id != "" {
		mark(c.index[ref{kind, id}])
	} else {
		for r, entries := range c.index {
			if kind == "" || kind == r.kind {
				mark(entries)
			}
		}
	}
	for _, e := range gone {
		c.unindex(e)
	}
	c.mu.Unlock()
	// Only memory is at stake here: an entry that replaced a forgotten one may
	// go too, and is read again.
	for _, e := range gone {
		c.entries.Invalidate(e.digest)
	}
}

// drop takes an entry that was evicted or replaced out of the index.
func (c *cache) drop(e *entry) {
	e.gone.Store(true)
	c.mu.Lock()
	c.unindex(e)
	c.mu.Unlock()
}

func (c *cache) unindex(e *entry) {
	for _, r := range e.p.refs() {
		delete(c.index[r], e)
		if len(c.index[r]) == 0 {
			delete(c.index, r)
		}
	}
}

// touches gathers when keys without limits were used, so that a use costs no
// write.
type touches struct {
	mu   sync.Mutex
	used map[string]time.Time
}

// note remembers a use of p's key, to the second: a key in steady use takes
// the lock once a second, not once a request.
func (t *touches) note(p *principal, now time.Time) {
	ms := now.UnixMilli()
	last := p.noted.Load()
	if ms-last < 1000 || !p.noted.CompareAndSwap(last, ms) {
		return
	}
	t.merge(map[string]time.Time{p.key.ID: now.UTC().Truncate(time.Millisecond)})
}

func (t *touches) merge(used map[string]time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.used == nil {
		t.used = map[string]time.Time{}
	}
	for id, at := range used {
		if at.After(t.used[id]) {
			t.used[id] = at
		}
	}
}

// FlushTouches writes when keys were last used. What cannot be written is kept
// for the next time.
func (s *Service) FlushTouches(ctx context.Context) error {
	s.touches.mu.Lock()
	used := s.touches.used
	s.touches.used = nil
	s.touches.mu.Unlock()
	if len(used) == 0 {
		return nil
	}
	if err := s.store.TouchKeys(ctx, used); err != nil {
		s.touches.merge(used)
		return err
	}
	return nil
}
