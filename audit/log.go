package audit

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary/authz"
)

// Options configures a Log. The zero value works.
type Options struct {
	// Buffer is how many decisions may wait to be written; default 20,000.
	Buffer int
	// Interval is how long one waits at most; default 200ms.
	Interval time.Duration
	// Strict refuses decisions that could not be kept, instead of counting
	// them as lost.
	Strict bool
	Log    *slog.Logger // default discards
}

// Log keeps decisions: an [authz.Recorder] that never waits for storage.
type Log struct {
	store    Store
	interval time.Duration
	strict   bool
	log      *slog.Logger

	// Decisions wait in shards, so that cores that decide at the same time
	// rarely meet at one lock.
	shards []shard
	each   int // how many a shard holds at most
	wake   chan struct{}

	writing sync.Mutex // one batch at a time, in order
	failing atomic.Bool
	lost    atomic.Uint64
	written atomic.Uint64
}

type shard struct {
	mu      sync.Mutex
	waiting []entry
	_       [64]byte // keeps neighbours out of one cache line
}

type entry struct {
	request  authz.Request
	decision authz.Decision
	facts    *authz.Facts
	failure  error
}

// ErrFull reports that a decision could not be kept.
var ErrFull = errors.New("decision log is full or its storage is away")

// batch is how many records go into one write.
const batch = 500

// NewLog returns a Log that writes to store while [Log.Run] runs.
func NewLog(store Store, o Options) *Log {
	if o.Buffer <= 0 {
		o.Buffer = 20_000
	}
	if o.Interval <= 0 {
		o.Interval = 200 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	n := min(4*runtime.GOMAXPROCS(0), o.Buffer)
	return &Log{
		store: store, interval: o.Interval, strict: o.Strict, log: o.Log,
		shards: make([]shard, n), each: o.Buffer / n, wake: make(chan struct{}, 1),
	}
}

// Record implements [authz.Recorder]. It shares the maps of r.
func (l *Log) Record(ctx context.Context, r authz.Request, d authz.Decision, failure error) error {
	if l.strict && l.failing.Load() {
		return ErrFull
	}
	s := &l.shards[rand.IntN(len(l.shards))]
	s.mu.Lock()
	if len(s.waiting) >= l.each {
		s.mu.Unlock()
		if l.strict {
			return ErrFull
		}
		l.lost.Add(1)
		return nil
	}
	s.waiting = append(s.waiting, entry{r, d, authz.FactsFrom(ctx), failure})
	half := len(s.waiting) == l.each/2
	s.mu.Unlock()
	if half {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// Run writes what waits until ctx ends, and then what is left.
func (l *Log) Run(ctx context.Context) {
	tick := time.NewTicker(l.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := l.Flush(last); err != nil {
				l.log.Error("decisions lost at the end", "count", l.Waiting(), "error", err)
			}
			return
		case <-tick.C:
		case <-l.wake:
		}
		if err := l.Flush(ctx); err != nil && ctx.Err() == nil {
			l.log.Error("decisions not written yet", "waiting", l.Waiting(), "error", err)
		}
	}
}

// Flush writes what waits now. What can't be written keeps waiting.
func (l *Log) Flush(ctx context.Context) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	for i := range l.shards {
		s := &l.shards[i]
		for {
			entries := s.head()
			if len(entries) == 0 {
				break
			}
			records := make([]Record, len(entries))
			for j, e := range entries {
				records[j] = e.record()
			}
			if err := l.store.WriteRecords(ctx, records); err != nil {
				l.failing.Store(true)
				return err
			}
			s.drop(len(entries))
			l.written.Add(uint64(len(entries)))
		}
	}
	l.failing.Store(false)
	return nil
}

// head returns the oldest entries that wait; they stay until drop.
func (s *shard) head() []entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting[:min(batch, len(s.waiting))]
}

func (s *shard) drop(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A copy, so that what was written can be collected.
	s.waiting = append([]entry(nil), s.waiting[n:]...)
}

// Lost counts the decisions that were not kept.
func (l *Log) Lost() uint64 { return l.lost.Load() }

// Written counts the decisions that were.
func (l *Log) Written() uint64 { return l.written.Load() }

// Waiting counts the decisions that are not written yet.
func (l *Log) Waiting() int {
	n := 0
	for i := range l.shards {
		l.shards[i].mu.Lock()
		n += len(l.shards[i].waiting)
		l.shards[i].mu.Unlock()
	}
	return n
}

func (e entry) record() Record {
	id := authz.Anonymous.Identity()
	if e.request.Subject != nil {
		id = e.request.Subject.Identity()
	}
	r := Record{
		ID: e.decision.ID, At: e.decision.Time, Allow: e.decision.Allow, Revision: e.decision.Revision,
		Actor: ActorOf(id), Action: e.request.Action.Name, Resource: e.request.Resource,
		Input:   e.request.Document(e.facts, e.decision.Time),
		Reasons: e.decision.Reasons,
	}
	if e.failure != nil {
		r.Failure = e.failure.Error()
	}
	if e.facts != nil {
		r.RequestID = e.facts.RequestID
	}
	return r
}

// ActorOf returns the actor that id describes.
func ActorOf(id authz.Identity) Actor {
	a := Actor{Type: id.Type, ID: id.ID, Credential: id.Credential}
	if id.Key != nil {
		a.KeyID = id.Key.ID
	}
	if id.Session != nil {
		a.ImpersonatedBy = id.Session.ImpersonatedBy
	}
	return a
}

// Reader returns the store with this log in front: what waits is written
// before records are read, so that whoever was told a decision's id finds it.
func (l *Log) Reader() Store { return reader{l.store, l} }

type reader struct {
	Store
	log *Log
}

func (r reader) Record(ctx context.Context, id string) (Record, error) {
	if err := r.log.Flush(ctx); err != nil {
		return Record{}, err
	}
	return r.Store.Record(ctx, id)
}

func (r reader) Records(ctx context.Context, q Query) ([]Record, error) {
	if err := r.log.Flush(ctx); err != nil {
		return nil, err
	}
	return r.Store.Records(ctx, q)
}

func (r reader) EachRecord(ctx context.Context, q Query, f func(Record) error) error {
	if err := r.log.Flush(ctx); err != nil {
		return err
	}
	return r.Store.EachRecord(ctx, q, f)
}
