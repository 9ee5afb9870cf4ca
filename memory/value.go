package memory

import (
	"sync/atomic"
	"time"
)

// Value remembers one value, as a [Cache] does many, for those who see to it that
// it is not used without trust. The zero Value remembers nothing yet. Its methods
// are safe for concurrent use, and none takes a lock.
type Value[V any] struct {
	forgets atomic.Uint64
	last    atomic.Pointer[remembered[V]]
}

type remembered[V any] struct {
	value      V
	until      time.Time
	generation uint64
}

// Generation identifies the time before the next forget. It is taken before the
// store is read.
func (v *Value[V]) Generation() uint64 { return v.forgets.Load() }

// Get returns what is remembered and may be used at now.
func (v *Value[V]) Get(now time.Time) (value V, ok bool) {
	r := v.last.Load()
	if r == nil || r.generation != v.forgets.Load() || !now.Before(r.until) {
		return value, false
	}
	return r.value, true
}

// Put remembers value until then, unless it is forgotten before, or something was
// since generation.
func (v *Value[V]) Put(generation uint64, value V, until time.Time) {
	v.last.Store(&remembered[V]{value, until, generation})
}

// Forget has nothing used that was read before now.
func (v *Value[V]) Forget() { v.forgets.Add(1) }
