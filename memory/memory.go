// Package memory remembers what was read from the store, until it changes.
//
// A [Cache] says of each value which rows it was built on. Whoever learns that
// a row changed calls [Cache.Forget], and no value that was built on it is used
// again. A read that began before something was forgotten is not remembered
// after it: without that, a slow read could bring back what was revoked.
//
// What carries the changes of others to Forget can stop. [Cache.TrustUntil]
// bounds how long what is remembered is used without word from it.
package memory

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// Ref names a row that a value was built on. Of kinds there are few.
type Ref struct{ Kind, ID string }

// Cache remembers values by key. Its methods are safe for concurrent use. It
// starts no goroutine.
//
// A read takes no lock that all cores share. The index says what each entry
// was built on; it is the truth about what may still be used: an entry that
// was forgotten is marked, so that it stops counting wherever it still lies.
type Cache[K comparable, V any] struct {
	entries *otter.Cache[K, *entry[K, V]] // nil: nothing is remembered
	life    time.Duration
	refs    func(K, V) []Ref
	// trusted is until when what is remembered may be used; nil for ever. It
	// keeps its monotonic reading: a wall clock that is set back must not
	// lengthen it.
	trusted atomic.Pointer[time.Time]

	forgets atomic.Uint64 // how many there were; written under mu
	mu      sync.Mutex
	index   map[string]map[string]built[K, V] // by kind and id
}

// built are the entries that were built on a row: on most rows one, for which
// a set would take more than the entry does.
type built[K comparable, V any] struct {
	first  *entry[K, V]
	others map[*entry[K, V]]struct{} // nil if there are none
}

type entry[K comparable, V any] struct {
	key   K
	value V
	until time.Time
	gone  atomic.Bool
}

// New returns a cache of at most size values, each used for at most life. A
// size of zero or less remembers nothing. refs tells the rows that a value was
// built on, the same ones each time.
func New[K comparable, V any](size int, life time.Duration, refs func(K, V) []Ref) *Cache[K, V] {
	c := &Cache[K, V]{life: life, refs: refs, index: map[string]map[string]built[K, V]{}}
	if size > 0 {
		c.entries = otter.Must(&otter.Options[K, *entry[K, V]]{
			MaximumSize: size,
			// In the caller's goroutine: nothing here outlives a call. The
			// handler may run under otter's own lock, so mu is never held while
			// otter is called.
			Executor:   func(f func()) { f() },
			OnDeletion: func(e otter.DeletionEvent[K, *entry[K, V]]) { c.drop(e.Value) },
		})
	}
	return c
}

// Generation identifies the time before the next forget. It is taken before
// the store is read.
func (c *Cache[K, V]) Generation() uint64 { return c.forgets.Load() }

// Get returns what is remembered under k and may be used at now.
func (c *Cache[K, V]) Get(k K, now time.Time) (v V, ok bool) {
	if !c.Trusts(now) {
		return v, false
	}
	e, ok := c.entries.GetIfPresent(k)
	if !ok || e.gone.Load() || !now.Before(e.until) {
		return v, false
	}
	return e.value, true
}

// Trusts reports whether what is remembered may be used.
func (c *Cache[K, V]) Trusts(now time.Time) bool {
	t := c.trusted.Load()
	return c.entries != nil && (t == nil || now.Before(*t))
}

// TrustUntil bounds the use of what is remembered, until a later call moves the
// bound. Without a call there is none.
func (c *Cache[K, V]) TrustUntil(t time.Time) { c.trusted.Store(&t) }

// Put remembers v unless something was forgotten since generation.
func (c *Cache[K, V]) Put(generation uint64, k K, v V, now time.Time) {
	if c.entries == nil {
		return
	}
	e := &entry[K, V]{key: k, value: v, until: now.Add(c.life)}
	c.mu.Lock()
	if c.forgets.Load() != generation {
		c.mu.Unlock()
		return
	}
	for _, r := range c.refs(k, v) {
		if c.index[r.Kind] == nil {
			c.index[r.Kind] = map[string]built[K, V]{}
		}
		c.index[r.Kind][r.ID] = c.index[r.Kind][r.ID].with(e)
	}
	c.mu.Unlock()
	// A forget from here on finds e in the index and marks it.
	c.entries.Set(k, e)
}

// Forget drops what was built on a row that changed. An empty id means all rows
// of the kind, an empty kind everything.
func (c *Cache[K, V]) Forget(kind, id string) {
	var gone []*entry[K, V]
	c.mu.Lock()
	c.forgets.Add(1)
	mark := func(e *entry[K, V]) {
		if e != nil && !e.gone.Swap(true) {
			gone = append(gone, e)
		}
	}
	markRow := func(b built[K, V]) {
		mark(b.first)
		for e := range b.others {
			mark(e)
		}
	}
	markRows := func(rows map[string]built[K, V]) {
		for _, b := range rows {
			markRow(b)
		}
	}
	switch {
	case kind == "":
		for _, rows := range c.index {
			markRows(rows)
		}
	case id == "":
		markRows(c.index[kind])
	default:
		markRow(c.index[kind][id])
	}
	for _, e := range gone {
		c.unindex(e)
	}
	c.mu.Unlock()
	// Only memory is at stake here: an entry that replaced a forgotten one may
	// go too, and is read again.
	for _, e := range gone {
		c.entries.Invalidate(e.key)
	}
}

// drop takes an entry that was evicted or replaced out of the index.
func (c *Cache[K, V]) drop(e *entry[K, V]) {
	e.gone.Store(true)
	c.mu.Lock()
	c.unindex(e)
	c.mu.Unlock()
}

func (c *Cache[K, V]) unindex(e *entry[K, V]) {
	for _, r := range c.refs(e.key, e.value) {
		rows := c.index[r.Kind]
		if b := rows[r.ID].without(e); b.first != nil {
			rows[r.ID] = b
		} else {
			delete(rows, r.ID)
		}
	}
}

func (b built[K, V]) with(e *entry[K, V]) built[K, V] {
	switch {
	case b.first == nil || b.first == e:
		b.first = e
	case b.others == nil:
		b.others = map[*entry[K, V]]struct{}{e: {}}
	default:
		b.others[e] = struct{}{}
	}
	return b
}

func (b built[K, V]) without(e *entry[K, V]) built[K, V] {
	if b.first == e {
		b.first = nil
		for other := range b.others {
			b.first = other
			break
		}
		e = b.first
	}
	if delete(b.others, e); len(b.others) == 0 {
		b.others = nil
	}
	return b
}
