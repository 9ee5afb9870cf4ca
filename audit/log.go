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
	// them as lost. It is about the store; sinks are never waited for.
	Strict bool
	// Sample is the part of the allowed decisions that is kept; default 1. Those
	// that were denied are always kept.
	Sample *float64
	// Sinks are told what is kept, each as soon as it can take it. Elsewhere
	// keeps decisions in the sinks alone.
	Sinks     []Sink
	Elsewhere bool
	// DataRevision tells the newest change of the store that is known. It is
	// called with each decision and must be quick. nil: not known.
	DataRevision func() int64
	Log          *slog.Logger // default discards
}

// Log keeps decisions: an [authz.Recorder] that never waits for storage.
type Log struct {
	store    Store
	interval time.Duration
	strict   bool
	sample   float64
	known    func() int64
	sinks    []*outlet
	log      *slog.Logger

	// Decisions wait in shards, so that cores that decide at the same time
	// rarely meet at one lock.
	shards []shard
	each   int // how many a shard holds at most
	wake   chan struct{}

	writing sync.Mutex // one batch at a time, in order
	// What Flush has made of decisions that wait and told to the sinks, until the
	// store has it.
	ready batchOf

	failing atomic.Bool
	lost    atomic.Uint64
	written atomic.Uint64
	sampled atomic.Uint64
	dropped atomic.Uint64
}

type shard struct {
	mu      sync.Mutex
	waiting []*entry
	_       [64]byte // keeps neighbours out of one cache line
}

// batchOf is what came of the heads of all shards.
type batchOf struct {
	entries []int // of each shard
	records []Record
}

// entry is a decision that waits. It has facts of its own, so that it holds on
// to nothing else of the request: neither what answers it nor its connection.
type entry struct {
	authz.Outcome
	facts authz.Facts
	known int64
}

func newEntry(o authz.Outcome, known int64) *entry {
	e := &entry{Outcome: o, known: known}
	if o.Facts != nil {
		e.facts = *o.Facts
		e.facts.Decided = nil
		e.Facts = &e.facts
	}
	return e
}

// outlet is what waits for a sink.
type outlet struct {
	sink    Sink
	waiting chan []Record
	lost    atomic.Uint64
}

// ErrFull reports that a decision could not be kept.
var ErrFull = errors.New("decision log is full or its storage is away")

// batch is how many records go into one write, and usually one block of the store: the
// more, the less each of them takes there.
const batch = 2000

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
	l := &Log{
		store: store, interval: o.Interval, strict: o.Strict, sample: 1, known: o.DataRevision, log: o.Log,
		shards: make([]shard, n), each: o.Buffer / n, wake: make(chan struct{}, 1),
	}
	if o.Sample != nil {
		l.sample = *o.Sample
	}
	if o.Elsewhere {
		l.store = elsewhere{store}
	}
	for _, s := range o.Sinks {
		l.sinks = append(l.sinks, &outlet{sink: s, waiting: make(chan []Record, max(1, o.Buffer/batch))})
	}
	return l
}

// elsewhere reads from a store that nothing is written to.
type elsewhere struct{ Store }

func (elsewhere) WriteRecords(context.Context, []Record) error { return nil }

// Record implements [authz.Recorder]. It shares the maps of the request.
func (l *Log) Record(_ context.Context, o authz.Outcome) error {
	if l.sample < 1 && o.Decision.Allow && rand.Float64() >= l.sample {
		l.sampled.Add(1)
		return nil
	}
	var known int64
	if l.known != nil {
		known = l.known()
	}
	if l.strict && l.failing.Load() {
		return ErrFull
	}
	e := newEntry(o, known) // before the lock, under which a pointer is kept and nothing is copied
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
	s.waiting = append(s.waiting, e)
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
	var running sync.WaitGroup
	// Sinks end after the last batch, or when that takes too long.
	telling, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	for _, o := range l.sinks {
		running.Go(func() { l.tell(telling, o) })
	}
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
			context.AfterFunc(last, stop)
			for _, o := range l.sinks {
				close(o.waiting)
			}
			running.Wait()
			return
		case <-tick.C:
		case <-l.wake:
		}
		if err := l.Flush(ctx); err != nil && ctx.Err() == nil {
			l.log.Error("decisions not written yet", "waiting", l.Waiting(), "error", err)
		}
	}
}

// tell writes what waits for a sink.
func (l *Log) tell(ctx context.Context, o *outlet) {
	for records := range o.waiting {
		err := ctx.Err()
		if err == nil {
			err = o.sink.Write(ctx, records)
		}
		if err != nil {
			o.lost.Add(uint64(len(records)))
			l.log.Error("decisions not told to a sink", "count", len(records), "error", err)
		}
	}
	if err := o.sink.Close(ctx); err != nil {
		l.log.Error("sink of decisions not closed", "error", err)
	}
}

// Flush writes what waits now. What can't be written keeps waiting.
func (l *Log) Flush(ctx context.Context) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	left := make([]int, len(l.shards))
	for i := range l.shards {
		left[i] = l.shards[i].count()
	}
	for {
		if l.ready.entries == nil {
			counts, entries := l.heads(left)
			if len(entries) == 0 {
				break
			}
			records, err := l.records(ctx, entries)
			if err != nil {
				return err
			}
			l.ready = batchOf{counts, records}
			l.offer(records)
		}
		if err := l.store.WriteRecords(ctx, l.ready.records); err != nil {
			l.failing.Store(true)
			return err
		}
		for i, n := range l.ready.entries {
			l.shards[i].drop(n)
			left[i] -= n
		}
		l.written.Add(uint64(len(l.ready.records)))
		l.ready = batchOf{}
	}
	l.failing.Store(false)
	return nil
}

// heads returns the oldest entries that wait, a batch of them at most, and how many
// are of each shard: of none more than are left. They stay until drop.
func (l *Log) heads(left []int) (counts []int, entries []*entry) {
	counts = make([]int, len(l.shards))
	// As many of each: nobody's buffer runs full while another's is emptied.
	each := max(1, batch/len(l.shards))
	for i := range l.shards {
		head := l.shards[i].head(min(each, left[i]))
		counts[i] = len(head)
		entries = append(entries, head...)
	}
	return counts, entries
}

// offer hands records to the sinks that have room for them.
func (l *Log) offer(records []Record) {
	if len(records) == 0 {
		return
	}
	for _, o := range l.sinks {
		select {
		case o.waiting <- records:
		default:
			o.lost.Add(uint64(len(records)))
		}
	}
}

// ruleTime is what a rule about one record may take.
const ruleTime = time.Second

// records makes of entries what is kept of them.
func (l *Log) records(ctx context.Context, entries []*entry) ([]Record, error) {
	records := make([]Record, 0, len(entries))
	for _, e := range entries {
		// In its place, because a record is large.
		records = append(records, Record{})
		r, drop := &records[len(records)-1], false
		e.tell(r)
		masking := e.Policy != nil && e.Policy.Masking()
		if masking || len(l.sinks) > 0 {
			r.Input, r.decided = r.input(), nil // once for all that need it
		}
		if masking {
			drop = l.rules(ctx, e.Policy, r)
			if err := ctx.Err(); err != nil {
				return nil, err // says nothing about the rules
			}
		}
		if drop {
			l.dropped.Add(1)
			records = records[:len(records)-1]
		}
	}
	return records, nil
}

// rules has the policy that decided mask r. A rule that fails hides all, and
// keeps the record. Denials are never dropped.
func (l *Log) rules(ctx context.Context, p *authz.Policy, r *Record) (drop bool) {
	event, err := r.event()
	if err == nil && r.Allow {
		if drop, err = p.Drops(ctx, event, r.At, ruleTime); err != nil {
			l.log.Warn("the rule that drops records of decisions failed", "decision", r.ID, "error", err)
			drop, err = false, nil
		}
	}
	if drop {
		return true
	}
	var masks []authz.Mask
	if err == nil {
		masks, err = p.Masks(ctx, event, r.At, ruleTime)
	}
	if err != nil {
		l.log.Warn("the rule that masks records of decisions failed, all is masked", "decision", r.ID, "error", err)
		r.withhold(err.Error())
		return false
	}
	r.mask(event, masks)
	return false
}

func (s *shard) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting)
}

// head returns the oldest n entries that wait; they stay until drop.
func (s *shard) head(n int) []*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting[:n]
}

func (s *shard) drop(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := copy(s.waiting, s.waiting[n:])
	clear(s.waiting[left:]) // so that what was written can be collected
	s.waiting = s.waiting[:left]
}

// Lost counts the decisions that were not kept.
func (l *Log) Lost() uint64 { return l.lost.Load() }

// Written counts the decisions that were.
func (l *Log) Written() uint64 { return l.written.Load() }

// Sampled counts the allowed decisions that were left out by chance.
func (l *Log) Sampled() uint64 { return l.sampled.Load() }

// Dropped counts the decisions that a rule dropped.
func (l *Log) Dropped() uint64 { return l.dropped.Load() }

// Untold counts the records that a sink was not told: it was away or too slow.
func (l *Log) Untold() (n uint64) {
	for _, o := range l.sinks {
		n += o.lost.Load()
	}
	return n
}

// Waiting counts the decisions that are not written yet.
func (l *Log) Waiting() int {
	n := 0
	for i := range l.shards {
		n += l.shards[i].count()
	}
	return n
}

// tell makes r the record of e.
func (e *entry) tell(r *Record) {
	id := authz.Anonymous.Identity()
	if e.Request.Subject != nil {
		id = e.Request.Subject.Identity()
	}
	*r = Record{
		ID: e.Decision.ID, At: e.Decision.Time, Allow: e.Decision.Allow, Revision: e.Decision.Revision, DataRevision: e.known,
		Actor: ActorOf(id), Action: e.Request.Action.Name, Resource: e.Request.Resource, Mapped: e.Request.Mapped,
		Reasons: e.Decision.Reasons, Context: e.Decision.Context,
		decided: e,
	}
	if id.AssertedBy != nil {
		r.AssertedBy = Asserter(*id.AssertedBy)
	}
	// What it cannot say is missing, and a replay will see that it is.
	r.NDBuiltinCache, _ = e.Nondeterminism.Document()
	if e.Failure != nil {
		r.Failure = e.Failure.Error()
	}
	if errors.Is(e.Failure, authz.ErrNotJSON) {
		// Nor can it be kept: it would hold up all that wait behind it.
		r.decided, r.Resource.Properties = nil, nil
	}
	if e.Facts != nil {
		r.RequestID = e.Facts.RequestID
	}
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
