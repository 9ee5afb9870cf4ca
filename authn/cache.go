package authn

import (
	"context"
	"sync"
	"time"

	"github.com/maypok86/otter/v2/stats"
	"golang.org/x/sync/singleflight"

	"github.com/ostiary/ostiary/memory"
)

// cache remembers principals by the digest of their credential.
type cache struct {
	*memory.Cache[digest, *principal]
	flight singleflight.Group
	hits   *stats.Counter
}

func newCache(size int, life time.Duration) *cache {
	return &cache{
		Cache: memory.New(size, life, func(_ digest, p *principal) []memory.Ref { return p.refs() }),
		hits:  stats.NewCounter(),
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
