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
	Settings map[string]any
	// Users is who is asked about before a revision is published: somebody has to
	// be left who may publish the next one. nil: only the publisher is.
	Users Users
	// MinCoverage is how many per cent of the author's lines the tests of a
	// revision have to reach. Zero: none, and no tests are needed.
	MinCoverage float64
	Log         *slog.Logger
	Clock       func() time.Time // default time.Now
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
}

type inForce struct {
	bundle      Bundle
	publication Publication // zero if it was not published
	status      Status
}

// Status tells what is in force.
type Status struct {
	Revision string
	Loaded   time.Time
	// Published is the name of the published revision that it was made from;
	// empty if it was not.
	Published string
	// Err is why the newest files, or what was published last, are not in force,
	// or nil.
	Err error
}

// Open loads, compiles and puts in force, or fails.
func Open(ctx context.Context, o Options) (*Library, error) {
	if o.Engine == nil {
		return nil, errors.New("policies: Options.Engine is nil")
	}
	if o.FS != nil && o.Dir != "" || o.Store != nil && (o.FS != nil || o.Dir != "") {
		return nil, errors.New("policies: Options has more than one of FS, Dir and Store")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	l := &Library{options: o, turn: make(chan struct{}, 1), bell: make(chan struct{}, 1)}
	b, p, err := l.read(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.enforce(ctx, b, p); err != nil {
		return nil, err
	}
	return l, nil
}

// Reload loads again now. On failure the policy before stays in force, and
// Status says why. Files that are what they were change nothing.
func (l *Library) Reload(ctx context.Context) error {
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
	now := *l.current.Load()
	now.status.Err = err
	if err == nil {
		now.publication, now.status.Published = p, p.Revision
	}
	l.current.Store(&now)
	switch {
	case err != nil && (before.status.Err == nil || before.status.Err.Error() != err.Error()):
		l.options.Log.Error("policy not loaded, the one before stays in force",
			"revision", before.status.Revision, "error", oneLine(err))
	case err == nil && now.status.Revision != before.status.Revision:
		l.options.Log.Info("policy loaded", "revision", now.status.Revision)
	case err == nil && before.status.Err != nil:
		l.options.Log.Info("policy files are again those in force", "revision", now.status.Revision)
	}
	return err
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
	if now := l.current.Load(); now != nil && now.publication == newest {
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
	l.current.Store(&inForce{b, from, Status{Revision: b.Source.Revision, Loaded: time.Now().UTC(), Published: from.Revision}})
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
		if err := l.Reload(ctx); err == nil {
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

// retry is how long after a failure the store is read again.
const retry = time.Second

// watchStore looks at what was published whenever it is told to.
func (l *Library) watchStore(ctx context.Context) {
	for {
		var again <-chan time.Time
		if errors.Is(l.Status().Err, authn.ErrUnavailable) {
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
		if l.Reload(ctx) == nil {
			l.looked.Store(told)
		}
	}
}

// Status is safe for concurrent use.
func (l *Library) Status() Status { return l.current.Load().status }

// Bundle returns the bundle in force. The caller must not change it.
func (l *Library) Bundle() Bundle { return l.current.Load().bundle }

// oneLine joins the lines of an error that lists several mistakes.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
}
