package policies

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// Limits of shadows.
const (
	DefaultShadowTime = 24 * time.Hour
	MaxShadowTime     = 30 * 24 * time.Hour

	// shadowQueue is how many decisions wait for the one worker. What comes while
	// it is full is counted, and not asked.
	shadowQueue = 1024
	// shadowPause is how often reports are written, if there is anything new.
	shadowPause = 5 * time.Second
	// mostAgainst is how many policies in force are told apart in memory.
	mostAgainst = 4
	// mostReports is how many reports are read to show a shadow.
	mostReports = 1000
)

// Why there is no shadow to show, to stop or to start.
var (
	ErrNoShadow        = errors.New("there is no shadow")
	ErrShadowElsewhere = errors.New("policies come from files: name the candidate's folder in policy.shadow, or set policy.source to database")
)

// Shadow is a candidate that is asked, beside the policy in force, what live
// decisions are about. It changes no answer and no record.
type Shadow struct {
	ID             string
	Revision       string // of its files, as published ones are named; empty for a folder
	PolicyRevision string // what decisions would carry
	StartedAt      time.Time
	EndsAt         time.Time // zero for a folder: as long as it is configured
	By             audit.Actor
	Note           string
}

// Running reports whether s runs at now, wherever policies come from the database.
func (s Shadow) Running(now time.Time) bool { return s.ID != "" && s.EndsAt.After(now) }

// ShadowReport says what a shadow would have answered instead of a policy in force.
type ShadowReport struct {
	Against string    `json:"against"` // the revision that decisions carried
	At      time.Time `json:"at"`      // of the newest decision
	// Dropped counts decisions that it was not asked about, because too many
	// waited.
	Dropped int `json:"dropped"`
	ReplayReport
}

// ShadowStore is where shadows are kept, with what became of them.
type ShadowStore interface {
	// StartShadow keeps r unless it is there, and s; what runs ends. With the
	// event or not at all.
	StartShadow(ctx context.Context, r Revision, s Shadow, ev audit.Event) error
	// EndShadow ends what runs, with the event or not at all; [authn.ErrNotFound].
	EndShadow(ctx context.Context, at time.Time, ev audit.Event) error
	// Shadow returns the one of an id, or with none the newest; [authn.ErrNotFound].
	Shadow(ctx context.Context, id string) (Shadow, error)
	// WriteShadowReport replaces the report of an id, and keeps s unless it is there.
	WriteShadowReport(ctx context.Context, s Shadow, id string, r ShadowReport) error
	// ShadowReports returns the reports of a shadow, the newest first.
	ShadowReports(ctx context.Context, shadow string, limit int) ([]ShadowReport, error)
}

// ShadowCounts is what shadows did since the start.
type ShadowCounts struct {
	Running                              bool
	Asked, NotReplayable, Dropped        uint64
	DenyToAllow, AllowToDeny, OtherCodes uint64
}

// shadows is what a Library knows of the one that runs.
type shadows struct {
	current atomic.Pointer[shadowing]
	changed chan struct{} // rings when it is another one

	asked, notReplayable, dropped        atomic.Uint64
	denyToAllow, allowToDeny, otherCodes atomic.Uint64
}

// shadowing is a shadow at work.
type shadowing struct {
	Shadow
	policy *authz.Policy
	queue  chan authz.Outcome
	// The rest is the worker's.
	against map[string]*comparison
}

// comparison is what came of one shadow and one policy in force, on this instance.
type comparison struct {
	id      string
	tally   *tally
	at      time.Time
	dropped int
	dirty   bool
}

// ShadowCounts tells what shadows did here.
func (l *Library) ShadowCounts() ShadowCounts {
	s := &l.shadows
	return ShadowCounts{
		Running: s.current.Load() != nil, Asked: s.asked.Load(), NotReplayable: s.notReplayable.Load(), Dropped: s.dropped.Load(),
		DenyToAllow: s.denyToAllow.Load(), AllowToDeny: s.allowToDeny.Load(), OtherCodes: s.otherCodes.Load(),
	}
}

// cast has s asked about what is decided from now on, or with a nil policy nobody.
func (l *Library) cast(s Shadow, policy *authz.Policy) {
	if policy == nil {
		if l.shadows.current.Swap(nil) != nil {
			l.options.Engine.Watch(nil)
			l.options.Log.Info("shadow ended")
		}
	} else {
		at := &shadowing{Shadow: s, policy: policy, queue: make(chan authz.Outcome, shadowQueue), against: map[string]*comparison{}}
		sample := cmp.Or(l.options.ShadowSample, 1)
		l.shadows.current.Store(at)
		l.options.Engine.Watch(func(o authz.Outcome) {
			if sample < 1 && mathrand.Float64() >= sample {
				return
			}
			select {
			case at.queue <- o:
			default:
				l.shadows.dropped.Add(1)
			}
		})
		l.options.Log.Info("shadow begins", "revision", s.PolicyRevision, "ends", s.EndsAt)
	}
	select {
	case l.shadows.changed <- struct{}{}:
	default: // it is ringing already
	}
}

// runShadow asks whatever shadow there is, until ctx ends.
func (l *Library) runShadow(ctx context.Context) {
	defer l.options.Engine.Watch(nil)
	tick := time.NewTicker(shadowPause)
	defer tick.Stop()
	var at *shadowing
	var queue chan authz.Outcome
	var lost uint64 // that a report has
	var failing bool
	write := func() {
		// What was found is kept also at the end.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shadowPause)
		defer cancel()
		err := l.writeShadow(ctx, at, &lost)
		if err != nil && !failing {
			l.options.Log.Error("report of the shadow not written yet", "error", err)
		}
		failing = err != nil
	}
	for {
		if now := l.shadows.current.Load(); now != at {
			if at != nil {
				l.catchUp(at)
				write()
			}
			at, queue, lost = now, nil, l.shadows.dropped.Load()
			if at != nil {
				queue = at.queue
			}
		}
		select {
		case <-ctx.Done():
			if at != nil {
				l.catchUp(at)
				write()
			}
			return
		case <-l.shadows.changed:
		case o := <-queue:
			l.compare(at, o)
		case <-tick.C:
			if at != nil && !at.EndsAt.IsZero() && !at.Running(l.now()) && l.shadows.current.Load() == at {
				l.cast(Shadow{}, nil)
			} else if at != nil {
				write()
			}
		}
	}
}

// catchUp asks what waits, as far as there is time for it.
func (l *Library) catchUp(at *shadowing) {
	for until := time.Now().Add(replayDeadline); time.Now().Before(until); {
		select {
		case o := <-at.queue:
			l.compare(at, o)
		default:
			return
		}
	}
	l.shadows.dropped.Add(uint64(len(at.queue)))
}

// compare asks at what o is about.
func (l *Library) compare(at *shadowing, o authz.Outcome) {
	var d authz.Decision
	why := ""
	switch {
	case hasReason(o.Decision.Reasons, authz.CodeUnavailable, authz.CodeDeadline):
		why = unanswered
	default:
		var err error
		if d, err = at.policy.Retry(context.Background(), o, replayDeadline); err != nil {
			why = err.Error()
		}
	}
	c := at.against[o.Decision.Revision]
	if c == nil {
		if len(at.against) >= mostAgainst {
			oldest := ""
			for name, c := range at.against {
				if oldest == "" || c.at.Before(at.against[oldest].at) {
					oldest = name
				}
			}
			delete(at.against, oldest)
		}
		c = &comparison{id: rand.Text(), tally: newTally(at.PolicyRevision)}
		at.against[o.Decision.Revision] = c
	}
	before := c.tally.report
	c.tally.count(answeredAs(&o), d, why)
	if o.Decision.Time.After(c.at) {
		c.at = o.Decision.Time
	}
	c.dirty = true
	after := c.tally.report
	l.shadows.asked.Add(1)
	l.shadows.notReplayable.Add(uint64(1 - (after.Replayed - before.Replayed)))
	l.shadows.denyToAllow.Add(uint64(after.DenyToAllow - before.DenyToAllow))
	l.shadows.allowToDeny.Add(uint64(after.AllowToDeny - before.AllowToDeny))
	l.shadows.otherCodes.Add(uint64(after.OtherReasons - before.OtherReasons))
}

// answeredAs is what a report says of an outcome.
func answeredAs(o *authz.Outcome) answered {
	id := authz.Anonymous.Identity()
	if o.Request.Subject != nil {
		id = o.Request.Subject.Identity()
	}
	return answered{o.Decision.ID, o.Decision.Allow, codes(o.Decision.Reasons), strings.Join(slices.Sorted(slices.Values(id.Roles)), " "),
		o.Request.Action.Name, o.Request.Resource.Type}
}

// writeShadow writes what is new. Drops since the last time are those of the
// newest comparison.
func (l *Library) writeShadow(ctx context.Context, at *shadowing, lost *uint64) error {
	if l.options.Shadows == nil {
		return nil
	}
	var newest *comparison
	for _, c := range at.against {
		if newest == nil || c.at.After(newest.at) {
			newest = c
		}
	}
	if dropped := l.shadows.dropped.Load(); newest != nil && dropped > *lost {
		newest.dropped, newest.dirty = newest.dropped+int(dropped-*lost), true
		*lost = dropped
	}
	for revision, c := range at.against {
		if !c.dirty {
			continue
		}
		r := ShadowReport{Against: revision, At: c.at.UTC().Truncate(time.Millisecond), Dropped: c.dropped, ReplayReport: c.tally.done()}
		if err := l.options.Shadows.WriteShadowReport(ctx, at.Shadow, c.id, r); err != nil {
			return err
		}
		c.dirty = false
	}
	return nil
}

// followShadow casts the shadow that the store says is running. One that cannot be
// compiled here is not cast, and the log says why.
func (l *Library) followShadow(ctx context.Context) error {
	if l.options.Shadows == nil || l.options.Store == nil {
		return nil
	}
	s, err := l.options.Shadows.Shadow(ctx, "")
	if errors.Is(err, authn.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what is shadowed: %w", err)
	}
	l.casting.Lock()
	defer l.casting.Unlock()
	if !s.Running(l.now()) {
		l.cast(Shadow{}, nil)
		return nil
	}
	if at := l.shadows.current.Load(); at != nil && at.ID == s.ID {
		return nil
	}
	var policy *authz.Policy
	r, err := l.revision(ctx, s.Revision)
	if err == nil {
		fsys, mistakes := filesystem(r.Files)
		if err = errors.Join(mistakes...); err == nil {
			_, policy, err = compile(ctx, fsys, l.options.Settings)
		}
	}
	if err != nil {
		if !errors.Is(err, authn.ErrUnavailable) && ctx.Err() == nil {
			l.options.Log.Error("shadow not begun", "revision", s.Revision, "error", oneLine(err))
			err = nil
		}
		l.cast(Shadow{}, nil)
		return err
	}
	l.cast(s, policy)
	return nil
}

// shadowFolder casts what is in the folder, unless it is cast already.
func (l *Library) shadowFolder(ctx context.Context) error {
	dir, err := filepath.EvalSymlinks(l.options.ShadowDir)
	if err != nil {
		return fmt.Errorf("read the shadow's folder: %w", err)
	}
	b, policy, err := compile(ctx, os.DirFS(dir), l.options.Settings)
	if err != nil {
		return err
	}
	l.casting.Lock()
	defer l.casting.Unlock()
	revision := b.Source.Revision
	if at := l.shadows.current.Load(); at != nil && at.PolicyRevision == revision {
		return nil
	}
	// The same files are the same shadow, on all instances and after a restart.
	l.cast(Shadow{ID: "folder-" + revision, PolicyRevision: revision, StartedAt: l.now(), By: audit.Actor{Type: "system", ID: "configuration"}}, policy)
	return nil
}

// ShadowStart says what to shadow: files, or a revision that is stored.
type ShadowStart struct {
	Files    map[string]string
	Revision string
	For      time.Duration // default [DefaultShadowTime], at most [MaxShadowTime]
	Note     string
}

// StartShadow has a candidate asked on all instances about what is decided from
// now on, in place of another. Files are checked and tested as [Library.Publish]
// does, a revision was. policy:publish. *[RefusedError], [ErrNoRevision],
// [ErrShadowElsewhere].
func (l *Library) StartShadow(ctx context.Context, caller authn.Principal, in ShadowStart) (Shadow, error) {
	decision, err := l.mayShadow(ctx, caller, "start-shadow", in.Note)
	if err != nil {
		return Shadow{}, err
	}
	if in.For = cmp.Or(in.For, DefaultShadowTime); in.For < time.Second || in.For > MaxShadowTime {
		return Shadow{}, &authn.InvalidError{Field: "for", Reason: fmt.Sprintf("must be from 1s to %s", MaxShadowTime)}
	}
	if err := checkNote(in.Note); err != nil {
		return Shadow{}, err
	}
	fresh := in.Revision == ""
	if !fresh {
		r, err := l.revision(ctx, in.Revision)
		if err != nil {
			return Shadow{}, err
		}
		in.Files = r.Files
	}
	c, err := l.uploaded(ctx, in.Files, fresh, fresh)
	if err != nil {
		return Shadow{}, err
	}
	now := l.now()
	s := Shadow{
		ID: rand.Text(), Revision: c.revision.ID, PolicyRevision: c.bundle.Source.Revision, StartedAt: now, EndsAt: now.Add(in.For),
		By: caller.Actor(), Note: in.Note,
	}
	ev := audit.Event{
		ID: rand.Text(), At: now, Kind: "policy.start-shadow", Actor: s.By, TargetType: "policy", TargetID: s.Revision, DecisionID: decision,
		Details: map[string]any{"shadow": s.ID, "revision": s.Revision, "policyRevision": s.PolicyRevision, "note": s.Note, "endsAt": s.EndsAt.Format(time.RFC3339)},
	}
	if err := l.options.Shadows.StartShadow(ctx, c.revision, s, ev); err != nil {
		return Shadow{}, fmt.Errorf("start shadow: %w", err)
	}
	l.casting.Lock()
	defer l.casting.Unlock()
	if at := l.shadows.current.Load(); at == nil || !at.StartedAt.After(s.StartedAt) {
		l.cast(s, c.policy)
	}
	return s, nil
}

// StopShadow ends what runs, on all instances. policy:publish. [ErrNoShadow],
// [ErrShadowElsewhere].
func (l *Library) StopShadow(ctx context.Context, caller authn.Principal) error {
	decision, err := l.mayShadow(ctx, caller, "stop-shadow", "")
	if err != nil {
		return err
	}
	now := l.now()
	err = l.options.Shadows.EndShadow(ctx, now, audit.Event{
		ID: rand.Text(), At: now, Kind: "policy.stop-shadow", Actor: caller.Actor(), TargetType: "policy", DecisionID: decision,
	})
	if errors.Is(err, authn.ErrNotFound) {
		return ErrNoShadow
	}
	if err != nil {
		return fmt.Errorf("stop shadow: %w", err)
	}
	return l.followShadow(ctx)
}

func (l *Library) mayShadow(ctx context.Context, caller authn.Principal, name, note string) (decision string, err error) {
	if decision, err = authn.Permit(ctx, l.options.Engine, caller, "publish", operation{name: name, note: note}.resource()); err != nil {
		return "", err
	}
	if l.options.Store == nil || l.options.Shadows == nil {
		return "", ErrShadowElsewhere
	}
	return decision, nil
}

// ShowShadow returns the shadow that runs here, or else the newest, and what all
// instances found: one report for each policy that was in force, the newest
// first. policy:read. [ErrNoShadow].
func (l *Library) ShowShadow(ctx context.Context, caller authn.Principal) (s Shadow, running bool, reports []ShadowReport, err error) {
	if _, err := authn.Permit(ctx, l.options.Engine, caller, "read", authz.Resource{Type: "policy"}); err != nil {
		return Shadow{}, false, nil, err
	}
	if l.options.Shadows == nil {
		return Shadow{}, false, nil, ErrNoShadow
	}
	at := l.shadows.current.Load()
	id := ""
	if at != nil && l.options.ShadowDir != "" {
		id = at.ID
	}
	s, err = l.options.Shadows.Shadow(ctx, id)
	switch {
	case errors.Is(err, authn.ErrNotFound) && id != "":
		s = at.Shadow // nothing was decided yet
	case errors.Is(err, authn.ErrNotFound):
		return Shadow{}, false, nil, ErrNoShadow
	case err != nil:
		return Shadow{}, false, nil, fmt.Errorf("read shadow: %w", err)
	}
	all, err := l.options.Shadows.ShadowReports(ctx, s.ID, mostReports)
	if err != nil {
		return Shadow{}, false, nil, fmt.Errorf("read reports of the shadow: %w", err)
	}
	tallies := map[string]*tally{}
	reports = []ShadowReport{}
	for _, r := range all {
		t := tallies[r.Against]
		if t == nil {
			t = newTally(r.PolicyRevision)
			tallies[r.Against] = t
			reports = append(reports, ShadowReport{Against: r.Against, At: r.At})
		}
		t.add(r.ReplayReport)
		i := slices.IndexFunc(reports, func(o ShadowReport) bool { return o.Against == r.Against })
		reports[i].Dropped += r.Dropped
	}
	for i := range reports {
		reports[i].ReplayReport = tallies[reports[i].Against].done()
	}
	return s, id != "" || s.Running(l.now()), reports, nil
}
