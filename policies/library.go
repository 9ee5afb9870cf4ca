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

	"github.com/ostiary/ostiary/authz"
)

// Options configures a Library.
type Options struct {
	Engine   *authz.Engine // told of each new policy
	FS       fs.FS         // the author's bundle, or nil
	Dir      string        // instead of FS: a folder that is watched for changes
	Settings map[string]any
	Log      *slog.Logger
	// Swapped, if set, is called after each new policy is in force.
	Swapped func(revision string)
}

// Library keeps the policy in force. Its methods are safe for concurrent use.
type Library struct {
	options Options
	reload  sync.Mutex // one reload at a time, so that the newest files win
	current atomic.Pointer[inForce]
}

type inForce struct {
	bundle Bundle
	status Status
}

// Status tells what is in force.
type Status struct {
	Revision string
	Loaded   time.Time
	// Err is why the newest files are not in force, or nil.
	Err error
}

// Open loads, compiles and puts in force, or fails.
func Open(ctx context.Context, o Options) (*Library, error) {
	if o.Engine == nil {
		return nil, errors.New("policies: Options.Engine is nil")
	}
	if o.FS != nil && o.Dir != "" {
		return nil, errors.New("policies: Options has both FS and Dir")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Library{options: o}
	b, err := l.read()
	if err != nil {
		return nil, err
	}
	if err := l.enforce(ctx, b); err != nil {
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
	b, err := l.read()
	if err == nil && b.Source.Revision != before.status.Revision {
		err = l.enforce(ctx, b)
	}
	if ctx.Err() != nil {
		return ctx.Err() // says nothing about the files
	}
	now := *l.current.Load()
	now.status.Err = err
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

func (l *Library) read() (Bundle, error) {
	author := l.options.FS
	if l.options.Dir != "" {
		// Resolved once, so that a link that is swapped meanwhile does not mix
		// the old files with the new.
		dir, err := filepath.EvalSymlinks(l.options.Dir)
		if err != nil {
			return Bundle{}, fmt.Errorf("read the policy folder: %w", err)
		}
		author = os.DirFS(dir)
	}
	return Load(author, l.options.Settings)
}

func (l *Library) enforce(ctx context.Context, b Bundle) error {
	p, err := authz.Compile(ctx, b.Source)
	if err != nil {
		return err
	}
	// The bundle first: who sees the new policy decide finds it here too.
	l.current.Store(&inForce{b, Status{Revision: b.Source.Revision, Loaded: time.Now().UTC()}})
	l.options.Engine.Swap(p)
	if l.options.Swapped != nil {
		l.options.Swapped(b.Source.Revision)
	}
	return nil
}

// Status is safe for concurrent use.
func (l *Library) Status() Status { return l.current.Load().status }

// Bundle returns the bundle in force. The caller must not change it.
func (l *Library) Bundle() Bundle { return l.current.Load().bundle }

// oneLine joins the lines of an error that lists several mistakes.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
}
