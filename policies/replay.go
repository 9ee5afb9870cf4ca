package policies

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

// Directions in which an answer can flip.
const (
	DenyToAllow = "deny-to-allow"
	AllowToDeny = "allow-to-deny"
)

// ReplayReport says what a policy would have answered to what others were asked.
type ReplayReport struct {
	PolicyRevision string `json:"policyRevision"` // of the candidate
	Records        int    `json:"records"`
	Replayed       int    `json:"replayed"`
	// NotReplayable are the rest, by what stood in the way, the most first.
	NotReplayable []Obstacle `json:"notReplayable"`
	DenyToAllow   int        `json:"denyToAllow"`
	AllowToDeny   int        `json:"allowToDeny"`
	// OtherReasons counts the answers that stayed, for reasons with other codes.
	OtherReasons int `json:"otherReasons"`
	// Flips are groups of answers that are not what they were: denials that would
	// be permitted come first, then the largest groups.
	Flips []Flips `json:"flips"`
}

// Obstacle is why some records could not be replayed.
type Obstacle struct {
	Why      string   `json:"why"`
	Count    int      `json:"count"`
	Examples []string `json:"examples"` // ids of decisions
}

// Flips are answers that flipped in the same way.
type Flips struct {
	Flip         string   `json:"flip"` // DenyToAllow or AllowToDeny
	Was          string   `json:"was"`  // codes of the reasons on record
	Is           string   `json:"is"`   // and of the candidate's
	Roles        string   `json:"roles"`
	Action       string   `json:"action"`
	ResourceType string   `json:"resourceType"`
	Count        int      `json:"count"`
	Examples     []string `json:"examples"` // ids of decisions
	// Expected is set by [ReplayReport.Expect].
	Expected bool `json:"expected"`
}

// mostExamples is how many decisions of a group are named.
const mostExamples = 3

// Replay asks candidate what records were about, each at its own time, and
// compares. What a record does not hold whole is never guessed: it is counted as
// not replayable, with the reason. It changes nothing and records nothing.
func Replay(ctx context.Context, candidate *authz.Policy, records iter.Seq2[audit.Record, error]) (ReplayReport, error) {
	r := replay{policy: candidate, flips: map[flip]*Flips{}, obstacles: map[string]*Obstacle{}}
	r.report.PolicyRevision = candidate.Revision()
	batch := make([]audit.Record, 0, 1024)
	for record, err := range records {
		if err != nil {
			return ReplayReport{}, fmt.Errorf("read decisions: %w", err)
		}
		if batch = append(batch, record); len(batch) == cap(batch) {
			if err := r.add(ctx, batch); err != nil {
				return ReplayReport{}, err
			}
			batch = batch[:0]
		}
	}
	if err := r.add(ctx, batch); err != nil {
		return ReplayReport{}, err
	}
	return r.done(), nil
}

// flip is what the flips of a group have in common.
type flip struct{ flip, was, is, roles, action, resourceType string }

type replay struct {
	policy    *authz.Policy
	report    ReplayReport
	flips     map[flip]*Flips
	obstacles map[string]*Obstacle
}

// replayDeadline bounds one evaluation, as [authz.Options.Deadline] does by default.
const replayDeadline = time.Second

// add replays a batch on all cores, and counts in the order of the records.
func (r *replay) add(ctx context.Context, batch []audit.Record) error {
	type outcome struct {
		decision authz.Decision
		why      string
	}
	outcomes := make([]outcome, len(batch))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(batch)) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(batch) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if outcomes[i].why = unfit(&batch[i]); outcomes[i].why != "" {
					continue
				}
				nd, err := authz.ReadNondeterminism(batch[i].NDBuiltinCache)
				if err == nil {
					outcomes[i].decision, err = r.policy.Replay(ctx, batch[i].Input, batch[i].At, nd, replayDeadline)
				}
				if err != nil {
					outcomes[i].why = err.Error()
				}
			}
		})
	}
	workers.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range batch {
		r.count(&batch[i], outcomes[i].decision, outcomes[i].why)
	}
	return nil
}

// unfit says why a record cannot be replayed, or nothing.
func unfit(r *audit.Record) string {
	has := func(code string) bool {
		return slices.ContainsFunc(r.Reasons, func(reason authz.Reason) bool { return reason.Code == code })
	}
	switch {
	case r.MaskFailure != "":
		return "the input was taken out because the mask failed"
	case len(r.Masked)+len(r.Erased) > 0:
		return "parts are masked: " + strings.Join(slices.Sorted(slices.Values(slices.Concat(r.Erased, r.Masked))), ", ")
	case len(r.Input) == 0:
		return "the input was not recorded"
	case r.At.IsZero():
		return "the time was not recorded"
	case has(authz.CodeUnavailable), has(authz.CodeDeadline):
		return "no policy had answered"
	}
	return ""
}

func (r *replay) count(record *audit.Record, d authz.Decision, why string) {
	r.report.Records++
	if why != "" {
		o := r.obstacles[why]
		if o == nil {
			o = &Obstacle{Why: why}
			r.obstacles[why] = o
		}
		o.Count, o.Examples = o.Count+1, example(o.Examples, record.ID)
		return
	}
	r.report.Replayed++
	was, is := codes(record.Reasons), codes(d.Reasons)
	if record.Allow == d.Allow {
		if was != is {
			r.report.OtherReasons++
		}
		return
	}
	key := flip{AllowToDeny, was, is, rolesIn(record.Input), record.Action, record.Resource.Type}
	if d.Allow {
		key.flip = DenyToAllow
		r.report.DenyToAllow++
	} else {
		r.report.AllowToDeny++
	}
	group := r.flips[key]
	if group == nil {
		group = &Flips{Flip: key.flip, Was: was, Is: is, Roles: key.roles, Action: key.action, ResourceType: key.resourceType}
		r.flips[key] = group
	}
	group.Count, group.Examples = group.Count+1, example(group.Examples, record.ID)
}

func example(list []string, id string) []string {
	if len(list) < mostExamples {
		list = append(list, id)
	}
	return list
}

func codes(reasons []authz.Reason) string {
	list := make([]string, len(reasons))
	for i, r := range reasons {
		list[i] = r.Code
	}
	slices.Sort(list)
	return strings.Join(slices.Compact(list), " ")
}

func rolesIn(input map[string]any) string {
	principal, _ := input["principal"].(map[string]any)
	list, _ := principal["roles"].([]any)
	var roles []string
	for _, role := range list {
		if name, ok := role.(string); ok {
			roles = append(roles, name)
		}
	}
	slices.Sort(roles)
	return strings.Join(roles, " ")
}

func (r *replay) done() ReplayReport {
	r.report.NotReplayable, r.report.Flips = []Obstacle{}, []Flips{}
	for _, o := range r.obstacles {
		r.report.NotReplayable = append(r.report.NotReplayable, *o)
	}
	slices.SortFunc(r.report.NotReplayable, func(a, b Obstacle) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Why, b.Why))
	})
	for _, f := range r.flips {
		r.report.Flips = append(r.report.Flips, *f)
	}
	slices.SortFunc(r.report.Flips, func(a, b Flips) int {
		return cmp.Or(
			cmp.Compare(b.Flip, a.Flip), // deny-to-allow before allow-to-deny
			cmp.Compare(b.Count, a.Count), cmp.Compare(a.ResourceType, b.ResourceType), cmp.Compare(a.Action, b.Action),
			cmp.Compare(a.Roles, b.Roles), cmp.Compare(a.Was, b.Was), cmp.Compare(a.Is, b.Is))
	})
	return r.report
}

// Expectation says of some flips that they are intended. Members that are empty
// fit all.
type Expectation struct {
	Flip         string `json:"flip"`
	Was          string `json:"was"`  // a code among the reasons on record
	Is           string `json:"is"`   // a code among the candidate's
	Role         string `json:"role"` // among the principal's
	Action       string `json:"action"`
	ResourceType string `json:"resourceType"`
}

func (e Expectation) fits(f *Flips) bool {
	among := func(want, list string) bool { return want == "" || slices.Contains(strings.Fields(list), want) }
	return (e.Flip == "" || e.Flip == f.Flip) && (e.Action == "" || e.Action == f.Action) &&
		(e.ResourceType == "" || e.ResourceType == f.ResourceType) &&
		among(e.Was, f.Was) && among(e.Is, f.Is) && among(e.Role, f.Roles)
}

// Check reports whether e could ever fit.
func (e Expectation) Check() error {
	switch {
	case e.Flip != "" && e.Flip != DenyToAllow && e.Flip != AllowToDeny:
		return fmt.Errorf("flip must be %s or %s, not %q", DenyToAllow, AllowToDeny, e.Flip)
	case e == Expectation{}:
		return errors.New("an expectation has to say what it expects")
	}
	return nil
}

// Expect marks the flips that are intended, and returns the expectations that
// nothing fits.
func (r *ReplayReport) Expect(expected []Expectation) (missed []Expectation) {
	for _, e := range expected {
		found := false
		for i := range r.Flips {
			if e.fits(&r.Flips[i]) {
				r.Flips[i].Expected, found = true, true
			}
		}
		if !found {
			missed = append(missed, e)
		}
	}
	return missed
}
