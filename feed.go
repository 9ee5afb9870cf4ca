package ostiary

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
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
	rooms []remembering
	lease time.Duration
	clock func() time.Time
	log   *slog.Logger

	begun atomic.Uint64                 // how many looks have begun
	last  atomic.Pointer[completedLook] // the newest one that was completed

	// turn is held by the one who looks, and guards what follows.
	turn chan struct{}
	mark store.Mark
	seen map[int64]struct{} // the numbers that the last look was told
}

// remembering is a room that remembers what it read from the store.
type remembering interface {
	Forget(kind, id string)
	TrustUntil(t time.Time)
}

type completedLook struct {
	number   uint64 // it was the how-manieth to begin
	at       time.Time
	revision int64 // the newest number there was
}

// most is how many changes one look reads. Behind that, forgetting everything
// is cheaper than catching up.
const most = 10_000

func newFeed(db *store.DB, lease time.Duration, clock func() time.Time, log *slog.Logger, rooms ...remembering) *feed {
	f := &feed{db: db, rooms: rooms, lease: lease, clock: clock, log: log, turn: make(chan struct{}, 1)}
	f.last.Store(&completedLook{})
	return f
}

// begin takes what is there as known: nothing is remembered yet.
func (f *feed) begin(ctx context.Context) (err error) {
	at := f.clock()
	if f.mark, err = f.db.Mark(ctx); err == nil {
		f.completed(&completedLook{at: at, revision: f.mark.Last})
	}
	return err
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
		if err := f.fresh(ctx); err != nil && ctx.Err() == nil {
			f.log.Error("changes could not be read", "error", err)
		}
	}
}

// fresh returns when a look that began after the call is completed. Callers
// at once share one.
func (f *feed) fresh(ctx context.Context) error {
	// A look that hangs must not keep the others from trying.
	ctx, cancel := context.WithTimeout(ctx, f.lease)
	defer cancel()
	before := f.begun.Load()
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if f.last.Load().number > before {
		return nil
	}
	return f.look(ctx)
}

// look reads what changed and has it forgotten.
func (f *feed) look(ctx context.Context) error {
	// The lease runs from before the read: what is committed after it is not
	// in the answer.
	this := &completedLook{number: f.begun.Add(1), at: f.clock()}
	changes, mark, err := f.db.Changes(ctx, f.mark, most)
	if err != nil {
		return err
	}
	if len(changes) == most || this.at.Sub(f.last.Load().at) > f.lease {
		// After a gap nothing that is remembered can be trusted.
		f.forget("", "")
	}
	seen := make(map[int64]struct{}, len(changes))
	for _, c := range changes {
		seen[c.Seq] = struct{}{}
		if _, again := f.seen[c.Seq]; !again {
			f.forget(c.Kind, c.ID)
		}
	}
	// Whatever the next look is told a second time was in this one.
	f.mark, f.seen = mark, seen
	this.revision = mark.Last
	f.completed(this)
	return nil
}

func (f *feed) completed(l *completedLook) {
	f.last.Store(l)
	for _, room := range f.rooms {
		room.TrustUntil(l.at.Add(f.lease))
	}
}

func (f *feed) forget(kind, id string) {
	for _, room := range f.rooms {
		room.Forget(kind, id)
	}
}

// state is how long ago the last completed look began, and the newest change
// that it knew of.
func (f *feed) state() (age time.Duration, revision int64) {
	l := f.last.Load()
	return f.clock().Sub(l.at), l.revision
}

// reach returns once the changes up to revision are known here, or with an
// error that is authn.ErrUnavailable if that takes longer than the lease.
//
// It always looks: that a higher number is known does not mean that a lower
// one is, whose transaction was committed later.
func (f *feed) reach(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, f.lease)
	defer cancel()
	for {
		if err := f.fresh(ctx); err != nil {
			return fmt.Errorf("%w: revision %d: %w", authn.ErrUnavailable, revision, err)
		}
		if f.last.Load().revision >= revision {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: revision %d is not known here", authn.ErrUnavailable, revision)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
