package ostiary

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/store"
)

// feed carries the changes that others make to what is remembered here. It is
// the only reader of the table changes.
//
// Each look that is completed renews a lease. When it has run out, nothing
// that is remembered is used: that bounds how long a credential that was
// revoked elsewhere can live here, whatever becomes of the feed.
type feed struct {
	db    *store.DB
	authn *authn.Service
	lease time.Duration
	clock func() time.Time
	log   *slog.Logger

	mu     sync.Mutex         // one look at a time
	last   int64              // the highest sequence number seen
	seen   map[int64]struct{} // those within overlap of last
	looked time.Time          // when the last completed look began
}

// overlap is how far back each look begins: sequence numbers are given when a
// row is written and become visible when it is committed, so a lower number
// can appear after a higher one.
const overlap = 1000

// most is how many changes one look reads. Behind that, forgetting everything
// is cheaper than catching up.
const most = 10 * overlap

func (f *feed) begin(ctx context.Context) error {
	last, err := f.db.LastChange(ctx)
	if err != nil {
		return err
	}
	f.last, f.seen = last, map[int64]struct{}{}
	f.renew(f.clock())
	return nil
}

func (f *feed) run(ctx context.Context) {
	// The tick catches what the bell missed, several times within a lease.
	tick := time.NewTicker(f.lease / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.db.Bell():
		case <-tick.C:
		}
		if err := f.look(ctx); err != nil && ctx.Err() == nil {
			f.log.Error("changes could not be read", "error", err)
		}
	}
}

// look reads what changed and has it forgotten.
func (f *feed) look(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	// The lease runs from before the read: what is committed after it is not
	// in the answer.
	begun := f.clock()
	changes, err := f.db.Changes(ctx, max(0, f.last-overlap), most)
	if err != nil {
		return err
	}
	if len(changes) == most || begun.Sub(f.looked) > f.lease {
		// After a gap nothing that is remembered can be trusted.
		f.authn.Forget("", "")
	}
	for _, c := range changes {
		if _, again := f.seen[c.Seq]; again || c.Seq <= f.last-overlap {
			continue
		}
		f.authn.Forget(c.Kind, c.ID)
		f.seen[c.Seq] = struct{}{}
		f.last = max(f.last, c.Seq)
	}
	for seq := range f.seen {
		if seq <= f.last-overlap {
			delete(f.seen, seq)
		}
	}
	f.renew(begun)
	return nil
}

func (f *feed) renew(begun time.Time) {
	f.looked = begun
	f.authn.TrustUntil(begun.Add(f.lease))
}

// age is how long ago the last completed look began.
func (f *feed) age() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clock().Sub(f.looked)
}

// reach returns once the changes up to revision are known here, or with an
// error that is authn.ErrUnavailable if that takes longer than the lease.
func (f *feed) reach(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, f.lease)
	defer cancel()
	for !f.knows(revision) {
		if err := f.look(ctx); err != nil {
			return fmt.Errorf("%w: revision %d: %w", authn.ErrUnavailable, revision, err)
		}
		if f.knows(revision) {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: revision %d is not known here", authn.ErrUnavailable, revision)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

func (f *feed) knows(revision int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last >= revision
}
