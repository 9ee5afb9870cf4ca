package authn

import (
	"crypto/sha256"
	"time"

	"github.com/maypok86/otter/v2"
)

// throttle counts failures in fixed windows. Its memory is bounded: under a
// flood it forgets what fails least.
type throttle struct {
	limit  int
	window time.Duration
	counts *otter.Cache[digest, failures]
}

type failures struct {
	n     int
	until time.Time
}

// newThrottle returns nil, which never refuses, if limit is negative.
func newThrottle(limit int, window time.Duration) *throttle {
	if limit < 0 {
		return nil
	}
	return &throttle{limit, window, otter.Must(&otter.Options[digest, failures]{
		MaximumSize: 100_000,
		Executor:    func(f func()) { f() },
	})}
}

// check refuses what has failed too often. Empty names are not counted.
func (t *throttle) check(name string, now time.Time) error {
	if t == nil || name == "" {
		return nil
	}
	f, ok := t.counts.GetIfPresent(sha256.Sum256([]byte(name)))
	if !ok || f.n < t.limit || !now.Before(f.until) {
		return nil
	}
	return &RetryError{Err: ErrThrottled, In: f.until.Sub(now)}
}

func (t *throttle) failed(name string, now time.Time) {
	if t == nil || name == "" {
		return
	}
	t.counts.Compute(sha256.Sum256([]byte(name)), func(f failures, found bool) (failures, otter.ComputeOp) {
		if !found || !now.Before(f.until) {
			f = failures{until: now.Add(t.window)}
		}
		f.n++
		return f, otter.WriteOp
	})
}

func (t *throttle) clear(name string) {
	if t != nil && name != "" {
		t.counts.Invalidate(sha256.Sum256([]byte(name)))
	}
}
