package policies

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// Which flips are a failure, beside [DenyToAllow].
const (
	FailOnAny  = "any"
	FailOnNone = "none"
)

// strictness orders what can be said of failures.
var strictness = []string{FailOnNone, DenyToAllow, FailOnAny}

// CheckFailOn reports whether text says which flips are a failure.
func CheckFailOn(text string) error {
	if !slices.Contains(strictness, text) {
		return fmt.Errorf("%q is none of %s, any, none", text, DenyToAllow)
	}
	return nil
}

// Limits of replaying where decisions are made. The newest decisions come first, so
// what is beyond is older.
const (
	DefaultGateRecords = 100_000
	DefaultReplaySince = 24 * time.Hour
	MaxExpectations    = 1000
	gateTime           = 20 * time.Second
	// mostKept is how many groups a publication keeps of its report.
	mostKept = 50
)

// ReplayGate says what recorded decisions have to say of a bundle before it is
// published.
type ReplayGate struct {
	Since  time.Duration // how old they are at most; zero: nothing is asked
	FailOn string        // DenyToAllow (default), FailOnAny or FailOnNone
	// Expect has the flips that are meant. One that does not come is a failure too.
	Expect []Expectation
}

// Decisions are what was decided. [audit.Store] has them.
type Decisions interface {
	Records(ctx context.Context, q audit.Query) ([]audit.Record, error)
}

// Fails reports whether f is a failure to whom failOn says what is.
func (f Flips) Fails(failOn string) bool {
	return !f.Expected && (failOn == FailOnAny || failOn == DenyToAllow && f.Flip == DenyToAllow)
}

// Failures words what of r is a failure to whom failOn says what is, and which
// expectations were missed.
func (r *ReplayReport) Failures(failOn string) []error {
	if failOn == FailOnNone {
		return nil
	}
	var all []error
	for _, f := range r.Flips {
		if f.Fails(failOn) {
			all = append(all, fmt.Errorf("%d decisions would flip, %s: %s:%s by %s: %s, was %s (%s)", f.Count, f.Flip, f.ResourceType, f.Action,
				cmp.Or(f.Roles, "no role"), f.Is, f.Was, strings.Join(f.Examples, ", ")))
		}
	}
	for _, e := range r.Missed {
		text, _ := json.Marshal(e)
		all = append(all, fmt.Errorf("expected, and did not happen: %s", text))
	}
	return all
}

// gate asks c what was decided before. What the configuration demands holds
// whatever is asked for; a request can demand more, and say what is meant.
func (l *Library) gate(ctx context.Context, c *candidate, asked ReplayGate) (*ReplayReport, error) {
	set := l.options.Replay
	since := max(set.Since, asked.Since)
	if since == 0 {
		if asked.FailOn != "" || len(asked.Expect) > 0 {
			return nil, &authn.InvalidError{Field: "replay/since", Reason: "is needed to replay anything"}
		}
		return nil, nil
	}
	if err := l.replayable(asked.Expect, "replay/"); err != nil {
		return nil, err
	}
	failOn := cmp.Or(asked.FailOn, DenyToAllow)
	if err := CheckFailOn(failOn); err != nil {
		return nil, &authn.InvalidError{Field: "replay/failOn", Reason: err.Error()}
	}
	if set.Since > 0 {
		if configured := cmp.Or(set.FailOn, DenyToAllow); asked.FailOn == "" || slices.Index(strictness, configured) > slices.Index(strictness, failOn) {
			failOn = configured
		}
	}
	report, err := l.rehearse(ctx, c, since, asked.Expect)
	if err != nil {
		return nil, err
	}
	failures := report.Failures(failOn)
	if slow := slices.IndexFunc(report.NotReplayable, func(o Obstacle) bool { return o.Why == tooSlow }); slow >= 0 && failOn != FailOnNone {
		failures = append(failures, fmt.Errorf("%s for %d decisions", tooSlow, report.NotReplayable[slow].Count))
	}
	report.Flips = report.Flips[:min(len(report.Flips), mostKept)]
	report.NotReplayable = report.NotReplayable[:min(len(report.NotReplayable), mostKept)]
	if len(failures) > 0 {
		return nil, &RefusedError{Step: StepReplay, Mistakes: failures, Replay: &report}
	}
	return &report, nil
}

// Replay asks files, checked as for publishing, what was decided since, by default
// [DefaultReplaySince], and says which answers would be others. It changes nothing,
// and has the limits of replaying before publishing. policy:test, and decision:read
// because the report names decisions. What cannot be in force is a *[RefusedError].
func (l *Library) Replay(ctx context.Context, caller authn.Principal, files map[string]string, since time.Duration, expected []Expectation) (ReplayReport, error) {
	if _, err := authn.Permit(ctx, l.options.Engine, caller, "test", authz.Resource{Type: "policy"}); err != nil {
		return ReplayReport{}, err
	}
	if _, err := authn.Permit(ctx, l.options.Engine, caller, "read", authz.Resource{Type: "decision"}); err != nil {
		return ReplayReport{}, err
	}
	if err := l.replayable(expected, ""); err != nil {
		return ReplayReport{}, err
	}
	c, err := l.uploaded(ctx, files, true, false)
	if err != nil {
		return ReplayReport{}, err
	}
	return l.rehearse(ctx, c, cmp.Or(since, DefaultReplaySince), expected)
}

// replayable reports what stands in the way of replaying; in is where expected is.
func (l *Library) replayable(expected []Expectation, in string) error {
	if l.options.Decisions == nil {
		return &authn.InvalidError{Field: strings.TrimSuffix(in, "/"), Reason: "there are no decisions to replay"}
	}
	if len(expected) > MaxExpectations {
		return &authn.InvalidError{Field: in + "expect", Reason: fmt.Sprintf("has more than %d expectations", MaxExpectations)}
	}
	for i, e := range expected {
		if err := e.Check(); err != nil {
			return &authn.InvalidError{Field: fmt.Sprintf("%sexpect/%d", in, i), Reason: err.Error()}
		}
	}
	return nil
}

// rehearse asks c what was decided since, and marks what is expected. One at a time,
// and not on all cores: what is asked here competes with what is decided.
func (l *Library) rehearse(ctx context.Context, c *candidate, since time.Duration, expected []Expectation) (ReplayReport, error) {
	done, err := l.alone(ctx)
	if err != nil {
		return ReplayReport{}, err
	}
	defer done()
	limited := ""
	report, err := replay(ctx, c.policy, l.recent(ctx, since, &limited), max(1, runtime.GOMAXPROCS(0)/2))
	if err != nil {
		return ReplayReport{}, err
	}
	report.Limited = limited
	report.Missed = report.Expect(expected)
	return report, nil
}

// alone waits until nobody else tries a candidate here.
func (l *Library) alone(ctx context.Context) (done func(), err error) {
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// recent yields what was decided since, the newest first, until there is too much
// of it; then limited says of what.
func (l *Library) recent(ctx context.Context, since time.Duration, limited *string) iter.Seq2[audit.Record, error] {
	return func(yield func(audit.Record, error) bool) {
		q := audit.Query{Since: l.now().Add(-since), Limit: 500}
		until := time.Now().Add(gateTime)
		left := cmp.Or(l.options.ReplayRecords, DefaultGateRecords)
		for {
			records, err := l.options.Decisions.Records(ctx, q)
			if errors.Is(err, audit.ErrNotFound) {
				return // so old that it was deleted meanwhile
			}
			if err != nil {
				yield(audit.Record{}, err)
				return
			}
			for _, r := range records {
				switch {
				case left == 0:
					*limited = "records"
					return
				case time.Now().After(until):
					*limited = "time"
					return
				case !yield(r, nil):
					return
				}
				left--
				q.Before = r.ID
			}
			if len(records) < q.Limit {
				return
			}
		}
	}
}

var _ Decisions = audit.Store(nil)
