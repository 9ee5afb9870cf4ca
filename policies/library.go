package policies

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// Options configures a Library.
type Options struct {
	Engine   *authz.Engine // told of each new policy
	FS       fs.FS         // the author's bundle, or nil
	Dir      string        // instead of FS: a folder that is watched for changes
	Store    Store         // instead of both: revisions that are published
	Courier  Courier       // instead of all: brings bundles from elsewhere
	Settings map[string]any
	// Shadows is where shadows are kept. nil: there are none but of ShadowDir, and
	// only counted.
	Shadows ShadowStore
	// ShadowDir is a folder with a candidate that is asked beside the policy in
	// force, and watched; not with Store, which says what is shadowed.
	ShadowDir string
	// ShadowSample is the part of the decisions that a shadow is asked about;
	// default all.
	ShadowSample float64
	// Users is who is asked about before a revision is published: somebody has to
	// be left who may publish the next one. nil: only the publisher is.
	Users Users
	// MinCoverage is how many per cent of the author's lines the tests of a
	// revision have to reach. Zero: none, and no tests are needed.
	MinCoverage float64
	// Replay is what recorded Decisions have to say of a bundle before it is
	// published, of which ReplayRecords (default [DefaultGateRecords]) are looked at.
	Replay        ReplayGate
	ReplayRecords int
	Decisions     Decisions
	Log           *slog.Logger
	Clock         func() time.Time // default time.Now
	// Swapped, if set, is called after each new policy is in force.
	Swapped func(revision string)
}

// Users knows who holds roles. *[authn.Service] does.
type Users interface {
	Holders(ctx context.Context, r authn.AdminRule, limit int) ([]authz.Identity, error)
}

// Library keeps the policy in force. Its methods are safe for concurrent use.
type Library struct {
	options Options
	turn    chan struct{} // held by the one who checks a bundle that was sent
	reload  sync.Mutex    // one reload at a time, so that the newest files win
	current atomic.Pointer[inForce]

	// Of a store: how often it was said that something was published, how often
	// that was looked at, and the bell for it.
	told, looked atomic.Uint64
	bell         chan struct{}

	accepted accepted // of a courier; with the turn of reload

	casting sync.Mutex // one change of the shadow at a time
	shadows shadows
}

type inForce struct {
	bundle      Bundle
	policy      *authz.Policy // what it was compiled to; nil if nothing is in force
	publication Publication   // zero if it was not published
	status      Status
}

// Status tells what is in force.
type Status struct {
	Revision string
	Loaded   time.Time
	// Published is the name of the published revision, or that of the bundle
	// brought by a courier, that it was made from; empty if it was not.
	Published string
	// Err is why the newest files, or what was published last, are not in force,
	// or nil.
	Err error
}

// Open loads, compiles and puts in force, or fails. If what was published does not
// load or compile, which after a change of the program can be, or if a courier
// brings nothing that does, it does not fail: until there is something else nothing
// is in force, so that the engine denies everything, and Status says why.
func Open(ctx context.Context, o Options) (*Library, error) {
	if o.Engine == nil {
		return nil, errors.New("policies: Options.Engine is nil")
	}
	sources := 0
	for _, given := range []bool{o.FS != nil, o.Dir != "", o.Store != nil, o.Courier != nil} {
		if given {
			sources++
		}
	}
	if sources > 1 {
		return nil, errors.New("policies: Options has more than one of FS, Dir, Store and Courier")
	}
	if o.ShadowDir != "" && o.Store != nil {
		return nil, errors.New("policies: Options has both of ShadowDir and Store")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	l := &Library{options: o, turn: make(chan struct{}, 1), bell: make(chan struct{}, 1), shadows: shadows{changed: make(chan struct{}, 1)}}
	l.current.Store(&inForce{})
	if err := l.first(ctx); err != nil {
		return nil, err
	}
	if o.ShadowDir != "" {
		if err := l.shadowFolder(ctx); err != nil {
			return nil, fmt.Errorf("shadow: %w", err)
		}
	}
	if err := l.followShadow(ctx); err != nil {
		return nil, err // the store is away
	}
	return l, nil
}

// first puts the first policy in force. That what was published cannot be is no
// error: there has to be a service by which something else is published.
func (l *Library) first(ctx context.Context) error {
	if l.options.Courier != nil {
		return l.begin(ctx)
	}
	b, p, err := l.read(ctx)
	if err == nil {
		err = l.enforce(ctx, b, p)
	}
	if err == nil || l.options.Store == nil || ctx.Err() != nil || errors.Is(err, authn.ErrUnavailable) {
		return err
	}
	if _, wrong := Load(nil, l.options.Settings); wrong != nil {
		return wrong // whatever was published
	}
	l.settle(Status{}, err)
	return nil
}

// Reload loads again now. On failure the policy before stays in force, and
// Status says why. Files that are what they were change nothing. A courier comes
// when it comes: of what it brought last the error is returned.
func (l *Library) Reload(ctx context.Context) error {
	if l.options.Courier != nil {
		return l.Status().Err
	}
	l.reload.Lock()
	defer l.reload.Unlock()
	before := l.current.Load()
	b, p, err := l.read(ctx)
	if err == nil && b.Source.Revision != before.status.Revision {
		err = l.enforce(ctx, b, p)
	}
	if ctx.Err() != nil {
		return ctx.Err() // says nothing about the files
	}
	if err == nil {
		now := *l.current.Load()
		now.publication, now.status.Published = p, p.Revision
		l.current.Store(&now)
	}
	l.settle(before.status, err)
	return err
}

// settle notes whether the newest is in force, and says so if that is news.
func (l *Library) settle(before Status, err error) {
	now := *l.current.Load()
	now.status.Err = err
	l.current.Store(&now)
	revision := now.status.Revision
	switch again := err != nil && before.Err != nil && before.Err.Error() == err.Error(); {
	case again:
	case err != nil && revision == "":
		l.options.Log.Error("policy not loaded, everything is denied", "error", oneLine(err))
	case err != nil && revision != before.Revision:
		l.options.Log.Error("policy loaded, but not kept", "revision", revision, "error", oneLine(err))
	case err != nil:
		l.options.Log.Error("policy not loaded, the one before stays in force", "revision", revision, "error", oneLine(err))
	case revision != before.Revision:
		l.options.Log.Info("policy loaded", "revision", revision)
	case before.Err != nil:
		l.options.Log.Info("policy files are again those in force", "revision", revision)
	}
}

func (l *Library) read(ctx context.Context) (Bundle, Publication, error) {
	author := l.options.FS
	switch {
	case l.options.Store != nil:
		return l.readPublished(ctx)
	case l.options.Dir != "":
		// Resolved once, so that a link that is swapped meanwhile does not mix
		// the old files with the new.
		dir, err := filepath.EvalSymlinks(l.options.Dir)
		if err != nil {
			return Bundle{}, Publication{}, fmt.Errorf("read the policy folder: %w", err)
		}
		author = os.DirFS(dir)
	}
	b, err := Load(author, l.options.Settings)
	return b, Publication{}, err
}

func (l *Library) readPublished(ctx context.Context) (Bundle, Publication, error) {
	newest, err := l.newest(ctx)
	if err != nil {
		return Bundle{}, Publication{}, err
	}
	if now := l.current.Load(); now.status.Revision != "" && now.publication.Sequence == newest.Sequence && now.publication.Revision == newest.Revision {
		return now.bundle, newest, nil
	}
	from, err := l.base(ctx, newest)
	if err != nil {
		return Bundle{}, Publication{}, err
	}
	fsys, mistakes := filesystem(from.files)
	if len(mistakes) > 0 {
		return Bundle{}, Publication{}, fmt.Errorf("revision %s: %w", from.Revision, errors.Join(mistakes...))
	}
	b, err := Load(fsys, l.options.Settings)
	if err != nil {
		return Bundle{}, Publication{}, fmt.Errorf("revision %s: %w", from.Revision, err)
	}
	return b, from.Publication, nil
}

// compile is [Load] and [authz.Compile].
func compile(ctx context.Context, author fs.FS, settings map[string]any) (Bundle, *authz.Policy, error) {
	b, err := Load(author, settings)
	if err != nil {
		return Bundle{}, nil, err
	}
	p, err := authz.Compile(ctx, b.Source)
	return b, p, err
}

func (l *Library) enforce(ctx context.Context, b Bundle, from Publication) error {
	p, err := authz.Compile(ctx, b.Source)
	if err != nil {
		return err
	}
	l.swap(b, p, from)
	return nil
}

func (l *Library) swap(b Bundle, p *authz.Policy, from Publication) {
	// The bundle first: who sees the new policy decide finds it here too.
	l.current.Store(&inForce{b, p, from, Status{Revision: b.Source.Revision, Loaded: time.Now().UTC(), Published: from.Revision}})
	l.options.Engine.Swap(p)
	if l.options.Swapped != nil {
		l.options.Swapped(b.Source.Revision)
	}
}

// Forget is told of every change in the store, as rooms are that remember what
// they read from it. A publication is looked at shortly after.
func (l *Library) Forget(kind, _ string) {
	if l.options.Store == nil || kind != "policy" && kind != "" {
		return
	}
	l.told.Add(1)
	select {
	case l.bell <- struct{}{}:
	default: // it is ringing already
	}
}

// TrustUntil does nothing: a policy is in force until the next one is.
func (l *Library) TrustUntil(time.Time) {}

// Settled returns once what Forget was told of is in force here, or with an
// error that is [authn.ErrUnavailable] if it is not.
func (l *Library) Settled(ctx context.Context) error {
	if told := l.told.Load(); told != l.looked.Load() {
		if err := l.follow(ctx); err == nil {
			l.looked.Store(told)
		}
	}
	if l.options.Store == nil {
		return nil
	}
	if err := l.Status().Err; err != nil {
		return fmt.Errorf("%w: %w", authn.ErrUnavailable, err)
	}
	return nil
}

// follow looks at what was published and at what is shadowed.
func (l *Library) follow(ctx context.Context) error {
	return errors.Join(l.Reload(ctx), l.followShadow(ctx))
}

// retry is how long after a failure the store is read again.
const retry = time.Second

// watchStore looks at what was published whenever it is told to.
func (l *Library) watchStore(ctx context.Context) {
	var failed error
	for {
		var again <-chan time.Time
		if errors.Is(l.Status().Err, authn.ErrUnavailable) || errors.Is(failed, authn.ErrUnavailable) {
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
			return
		case <-l.bell:
		case <-again:
		}
		told := l.told.Load()
		if told == l.looked.Load() && again == nil {
			continue
		}
		// A failure is in the log and in Status.
		if failed = l.follow(ctx); failed == nil {
			l.looked.Store(told)
		}
	}
}

// Status is safe for concurrent use.
func (l *Library) Status() Status { return l.current.Load().status }

// Bundle returns the bundle in force. The caller must not change it.
func (l *Library) Bundle() Bundle { return l.current.Load().bundle }

// InForce returns the bundle in force and who answers by it, whatever comes into
// force meanwhile: for questions that are made from the one and put to the other.
func (l *Library) InForce() (Bundle, authz.Decider) {
	now := l.current.Load()
	return now.bundle, l.options.Engine.Under(now.policy)
}

// oneLine joins the lines of an error that lists several mistakes.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
}
