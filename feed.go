package ostiary

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary/store"
)

// feed carries the changes that others make to what is remembered here. It is
// the only reader of the table changes.
type feed struct {
	db     *store.DB
	forget func(kind, id string)
	lease  time.Duration
	log    *slog.Logger

	last   int64              // the highest sequence number seen
	seen   map[int64]struct{} // those within overlap of last
	looked atomic.Int64       // when the last look was completed, in Unix nanoseconds
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
	f.looked.Store(time.Now().UnixNano())
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
	begun := time.Now()
	changes, err := f.db.Changes(ctx, max(0, f.last-overlap), most)
	if err != nil {
		return err
	}
	if len(changes) == most || begun.Sub(time.Unix(0, f.looked.Load())) > f.lease {
		// After a gap nothing that is remembered can be trusted.
		f.forget("", "")
	}
	for _, c := range changes {
		if _, again := f.seen[c.Seq]; again || c.Seq <= f.last-overlap {
			continue
		}
		f.forget(c.Kind, c.ID)
		f.seen[c.Seq] = struct{}{}
		f.last = max(f.last, c.Seq)
	}
	for seq := range f.seen {
		if seq <= f.last-overlap {
			delete(f.seen, seq)
		}
	}
	f.looked.Store(begun.UnixNano())
	return nil
}
