package authn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// uses are those of keys with limits, granted in portions by the store and
// spent from memory.
//
// The store has counted them already, so whatever becomes of them no more
// uses are accepted than the limits allow, over all instances. They are kept
// apart from principals: a new name for the owner must not cost a portion.
type uses struct {
	keys    sync.Map      // of key id to *keyUses
	forgets atomic.Uint64 // of keys

	mu     sync.Mutex
	unused []Unused // waits to be returned
}

type keyUses struct {
	turn chan struct{} // held by the one who asks the store for more

	mu   sync.Mutex
	lot  *lot // nil: none
	gone bool // not in the map any more
}

// lot is a portion that was granted.
type lot struct {
	Spend
	left    int64
	since   time.Time
	refills time.Time // when the quota is filled up again; zero if never
}

// lotLife is how long a portion may lie in memory. It bounds how long lists
// elsewhere show less than is left.
const lotLife = 10 * time.Second

// good reports whether l may be spent at now: neither limit has begun anew.
func (l *lot) good(now time.Time) bool {
	return now.Sub(l.since).Abs() < lotLife &&
		(l.WindowEnds.IsZero() || now.Before(l.WindowEnds)) &&
		(l.refills.IsZero() || now.Before(l.refills))
}

func newLot(s Spend, now time.Time) *lot {
	l := &lot{Spend: s, left: s.Granted, since: now}
	if k := &s.Key; k.Remaining != nil && k.RefillInterval != nil && k.RefillAmount != nil && *k.RefillInterval > 0 && *k.RefillAmount > 0 {
		since := k.CreatedAt
		if k.LastRefillAt != nil {
			since = *k.LastRefillAt
		}
		l.refills = since.Add(time.Duration(*k.RefillInterval) * time.Millisecond)
	}
	return l
}

// take spends one use at now, and answers with the key as it is then.
func (l *lot) take(now time.Time) *APIKey {
	l.left--
	k := l.Key
	k.RequestCount -= l.left // what is in memory was not used yet
	if l.WindowEnds.IsZero() {
		k.RequestCount = l.Key.RequestCount // counts nothing
	}
	if k.Remaining != nil {
		remaining := *k.Remaining + l.left
		k.Remaining = &remaining
	}
	if k.LastRequest == nil || k.LastRequest.Before(now) {
		k.LastRequest = &now
	}
	return &k
}

func (u *uses) of(id string) *keyUses {
	if k, ok := u.keys.Load(id); ok {
		return k.(*keyUses)
	}
	k, _ := u.keys.LoadOrStore(id, &keyUses{turn: make(chan struct{}, 1)})
	return k.(*keyUses)
}

// take spends a use from memory; nil if there is none.
func (u *uses) take(k *keyUses, now time.Time) (*APIKey, time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lot == nil {
		return nil, time.Time{}
	}
	if !k.lot.good(now) {
		u.retire(k)
		return nil, time.Time{}
	}
	key, ends := k.lot.take(now), k.lot.WindowEnds
	if k.lot.left == 0 {
		k.lot = nil
	}
	return key, ends
}

// put keeps what is left of l, unless a key was forgotten since forgets.
func (u *uses) put(k *keyUses, l *lot, forgets uint64) {
	if l.left == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lot = l
	if k.gone || u.forgets.Load() != forgets {
		u.retire(k)
	}
}

// retire has k's lot returned. k.mu is held.
func (u *uses) retire(k *keyUses) {
	if l := k.lot; l != nil && l.left > 0 {
		u.mu.Lock()
		u.unused = append(u.unused, Unused{
			KeyID: l.Key.ID, Uses: l.left, Limits: l.Limits, WindowEnds: l.WindowEnds, LastRefillAt: l.Key.LastRefillAt,
		})
		u.mu.Unlock()
	}
	k.lot = nil
}

// forget gives up what is in memory of a key, or of all if id is empty.
func (u *uses) forget(id string) {
	u.forgets.Add(1)
	give := func(k *keyUses) {
		k.mu.Lock()
		u.retire(k)
		k.mu.Unlock()
	}
	if id != "" {
		if k, ok := u.keys.Load(id); ok {
			give(k.(*keyUses))
		}
		return
	}
	u.keys.Range(func(_, k any) bool { give(k.(*keyUses)); return true })
}

// use counts one use of the key that p presented. Keys without limits cost no
// write: that they were used is noted in memory. Others cost one for a
// portion of uses.
func (s *Service) use(ctx context.Context, p *principal, presented time.Time) (*principal, error) {
	if !p.key.Limited() {
		s.touches.note(p, presented)
		return p, nil
	}
	now := s.now() // to find somebody may have taken its time
	if !s.cache.Trusts(s.o.Clock()) {
		// The limits may have been set anew, unnoticed.
		spent, err := s.spend(ctx, p, now, 1)
		if err != nil {
			return nil, err
		}
		return p.after(&spent.Key, spent.WindowEnds), nil
	}
	k := s.uses.of(p.key.ID)
	if key, ends := s.uses.take(k, now); key != nil {
		s.touches.note(p, now)
		return p.after(key, ends), nil
	}
	// One asks for all who wait, or each would get a portion.
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("count a use of a key: %w: %w", ErrUnavailable, ctx.Err())
	}
	now = s.now()
	if key, ends := s.uses.take(k, now); key != nil {
		return p.after(key, ends), nil
	}
	forgets := s.uses.forgets.Load()
	spent, err := s.spend(ctx, p, now, maxPortion)
	if err != nil {
		return nil, err
	}
	l := newLot(spent, now)
	key := l.take(now)
	s.uses.put(k, l, forgets)
	return p.after(key, spent.WindowEnds), nil
}

func (s *Service) spend(ctx context.Context, p *principal, now time.Time, most int64) (Spend, error) {
	spent, err := s.store.SpendKey(ctx, p.key.ID, now, most)
	switch {
	case errors.Is(err, ErrNotFound):
		err = ErrBadCredential
	case err != nil:
		err = fmt.Errorf("count a use of a key: %w", err)
	case errors.Is(spent.Refused, ErrRateLimited):
		err = &RetryError{Err: ErrRateLimited, In: spent.RetryIn}
	default:
		err = spent.Refused
	}
	return spent, err
}

// after is p after a use of its key.
func (p *principal) after(key *APIKey, windowEnds time.Time) *principal {
	after := *p
	after.key, after.windowEnds = key, windowEnds
	return &after
}

// ReturnUses gives back to the store what was granted of the limits of keys
// and lies unused for a while; with all, everything. A program calls it every
// few seconds, and at the end. While the store is away, it is kept for the next
// time.
func (s *Service) ReturnUses(ctx context.Context, all bool) error {
	now := s.now()
	s.uses.keys.Range(func(id, v any) bool {
		k := v.(*keyUses)
		k.mu.Lock()
		defer k.mu.Unlock()
		if all || k.lot != nil && !k.lot.good(now) {
			s.uses.retire(k)
		}
		if k.lot == nil {
			k.gone = true
			s.uses.keys.CompareAndDelete(id, k)
		}
		return true
	})
	s.uses.mu.Lock()
	unused := s.uses.unused
	s.uses.unused = nil
	s.uses.mu.Unlock()
	if len(unused) == 0 {
		return nil
	}
	err := s.store.ReturnUses(ctx, unused)
	if errors.Is(err, ErrUnavailable) {
		s.uses.mu.Lock()
		s.uses.unused = append(s.uses.unused, unused...)
		s.uses.mu.Unlock()
	}
	return err
}
