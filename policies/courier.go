package policies

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Courier brings bundles from where somebody else publishes them. What it
// brings is what it says it is: whoever made it and however large it may be is the
// courier's business.
type Courier interface {
	// Kept returns what was accepted last, as it was kept, or nil if nothing is.
	Kept(ctx context.Context) (*Delivery, error)
	// Fetch looks once, and returns what take says to what there is.
	Fetch(ctx context.Context, take Take) error
	// Run looks again and again until ctx ends, which is no error.
	Run(ctx context.Context, take Take) error
}

// Take is told of each look of a courier: a bundle; nil if what was taken last is
// still the newest; or an error. It returns why the newest is not in force, so that
// the courier brings it again.
type Take func(ctx context.Context, d *Delivery, err error) error

// Delivery is a bundle that was brought.
type Delivery struct {
	Name  string // that its maker gave it
	Files map[string]string
	// Sequence rises from bundle to bundle; 0 says nothing about that.
	Sequence int64
	// Keep makes it what [Courier.Kept] returns.
	Keep func() error
}

// accepted is what was last put in force of what a courier brought.
type accepted struct {
	digest   string
	sequence int64
	kept     bool
}

// firstLook is how long a courier may take at the start, if it has kept nothing.
const firstLook = 10 * time.Second

// begin puts in force what the courier kept or, without, what it finds. If there is
// neither, nothing is in force until it brings something.
func (l *Library) begin(ctx context.Context) error {
	if _, wrong := Load(nil, l.options.Settings); wrong != nil {
		return wrong // whatever it brings
	}
	d, err := l.options.Courier.Kept(ctx)
	if err != nil {
		err = fmt.Errorf("read the bundle that was kept: %w", err)
	} else if d != nil {
		err = l.accept(ctx, d, false)
	}
	if err != nil {
		l.settle(Status{}, err)
	}
	if l.Status().Revision != "" {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, firstLook)
	defer cancel()
	_ = l.options.Courier.Fetch(limited, l.take) // a failure is in the log and in Status
	if s := l.Status(); s.Revision == "" && s.Err == nil {
		l.settle(s, errors.New("no bundle has come yet"))
	}
	return ctx.Err()
}

func (l *Library) take(ctx context.Context, d *Delivery, err error) error {
	l.reload.Lock()
	defer l.reload.Unlock()
	before := l.Status()
	if err == nil && d != nil {
		err = l.accept(ctx, d, true)
	}
	if ctx.Err() != nil {
		return ctx.Err() // says nothing about the bundle
	}
	l.settle(before, err)
	return err
}

// accept puts d in force, unless something newer was. What has just arrived is
// checked with all care; what was kept had been, perhaps by an earlier version of
// the program that knew less.
func (l *Library) accept(ctx context.Context, d *Delivery, arrived bool) error {
	id, last, now := digest(d.Files), l.accepted, l.Status()
	switch {
	case d.Sequence < last.sequence:
		return fmt.Errorf("bundle %q has sequence %d, but %d was in force: what is older is not taken", d.Name, d.Sequence, last.sequence)
	case d.Sequence == last.sequence && d.Sequence > 0 && id != last.digest:
		return fmt.Errorf("bundle %q has sequence %d like the one before, and other files: each bundle needs a higher one", d.Name, d.Sequence)
	case now.Revision != "" && id == last.digest && d.Sequence == last.sequence && last.kept:
		return nil
	}
	c, err := l.candidate(ctx, d.Files, arrived, false)
	if !arrived {
		// What is older than this is not taken, whether this can be in force or not.
		l.accepted = accepted{id, d.Sequence, true}
	}
	if err != nil {
		return fmt.Errorf("bundle %q: %w", d.Name, err)
	}
	if c.bundle.Source.Revision != now.Revision {
		l.swap(c.bundle, c.policy, Publication{Revision: d.Name})
	} else {
		same := *l.current.Load()
		same.status.Published = d.Name
		l.current.Store(&same)
	}
	l.accepted = accepted{id, d.Sequence, !arrived}
	if !arrived {
		return nil
	}
	if err := d.Keep(); err != nil {
		return fmt.Errorf("bundle %q is in force, but could not be kept: %w", d.Name, err)
	}
	l.accepted.kept = true
	return nil
}
