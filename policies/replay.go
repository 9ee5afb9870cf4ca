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
	// Limited says of what there was too much to look at older decisions:
	// "records" or "time"; empty if it was not.
	Limited string `json:"limited,omitempty"`
	// Missed are expectations to which nothing came.
	Missed []Expectation `json:"missed,omitempty"`
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

// What a report names: so many decisions of a group, so many groups of flips and of
// obstacles, names of so many bytes. What is beyond is counted as groups of others.
const (
	mostExamples = 3
	mostGroups   = 1000
	mostName     = 200
	others       = "…"
)

// Replay asks candidate what records were about, each at its own time, and
// compares. What a record does not hold whole is never guessed: it is counted as
// not replayable, with the reason. It changes nothing and records nothing. It
// keeps all cores busy, and few records in memory at a time.
func Replay(ctx context.Context, candidate *authz.Policy, records iter.Seq2[audit.Record, error]) (ReplayReport, error) {
	return replay(ctx, candidate, records, runtime.GOMAXPROCS(0))
}

// replayed is a batch of records and, once it is done, what became of them.
type replayed struct {
	records   []audit.Record
	decisions []authz.Decision
	why       []string
	done      chan struct{}
}

// batchOfRecords is how many records are handed to a worker at once.
const batchOfRecords = 256

// replay is Replay by so many workers.
func replay(ctx context.Context, candidate *authz.Policy, records iter.Seq2[audit.Record, error], workers int) (ReplayReport, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	todo := make(chan *replayed, workers)
	inOrder := make(chan *replayed, 2*workers) // so that a report names the first examples
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			for b := range todo {
				b.decide(ctx, candidate)
				close(b.done)
			}
		})
	}
	t := newTally(candidate.Revision())
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		for b := range inOrder {
			<-b.done
			for i := range b.records {
				t.count(answeredIn(&b.records[i]), b.decisions[i], b.why[i])
			}
		}
	}()
	var batch []audit.Record
	hand := func() bool {
		b := &replayed{records: batch, decisions: make([]authz.Decision, len(batch)), why: make([]string, len(batch)), done: make(chan struct{})}
		batch = nil
		inOrder <- b
		todo <- b
		return ctx.Err() == nil
	}
	for record, err := range records {
		if err != nil {
			stop(fmt.Errorf("read decisions: %w", err))
			break
		}
		if batch == nil {
			batch = make([]audit.Record, 0, batchOfRecords)
		}
		if batch = append(batch, record); len(batch) == batchOfRecords && !hand() {
			break
		}
	}
	hand()
	close(todo)
	close(inOrder)
	working.Wait()
	<-counted
	if ctx.Err() != nil {
		return ReplayReport{}, context.Cause(ctx)
	}
	return t.done(), nil
}

// replayDeadline bounds one evaluation, as [authz.Options.Deadline] does by default.
const replayDeadline = time.Second

// decide asks candidate what b's records are about, until ctx ends.
func (b *replayed) decide(ctx context.Context, candidate *authz.Policy) {
	for i := range b.records {
		r := &b.records[i]
		if b.why[i] = unfit(r); b.why[i] != "" {
			continue
		}
		nd, err := authz.ReadNondeterminism(r.NDBuiltinCache)
		if err == nil {
			b.decisions[i], err = candidate.Replay(ctx, authz.Recorded{Document: r.Input, Mapped: r.Mapped, At: r.At, Nondeterminism: nd}, replayDeadline)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			b.why[i] = err.Error()
		}
	}
}

// What stands in the way that has to be known again.
const (
	tooSlow    = "the candidate took longer than it may"
	unanswered = "no policy had answered"
)

func hasReason(list []authz.Reason, codes ...string) bool {
	return slices.ContainsFunc(list, func(r authz.Reason) bool { return slices.Contains(codes, r.Code) })
}

// unfit says why a record cannot be replayed, or nothing.
func unfit(r *audit.Record) string {
	if why := r.Incomplete(); why != "" {
		return why
	}
	if hasReason(r.Reasons, authz.CodeUnavailable, authz.CodeDeadline) {
		return unanswered
	}
	return ""
}

// answered is what a report says of a decision that was made.
type answered struct {
	id                          string
	allow                       bool
	codes                       string
	roles, action, resourceType string
}

func answeredIn(r *audit.Record) answered {
	return answered{r.ID, r.Allow, codes(r.Reasons), rolesIn(r.Input), r.Action, r.Resource.Type}
}

// flip is what the flips of a group have in common.
type flip struct{ flip, was, is, roles, action, resourceType string }

// tally counts answers and what others they would have been.
type tally struct {
	report    ReplayReport
	flips     map[flip]*Flips
	obstacles map[string]*Obstacle
}

func newTally(policyRevision string) *tally {
	return &tally{report: ReplayReport{PolicyRevision: policyRevision}, flips: map[flip]*Flips{}, obstacles: map[string]*Obstacle{}}
}

// obstacle counts a decision that could not be made again.
func (t *tally) obstacle(o Obstacle) {
	at := t.obstacles[o.Why]
	if at == nil {
		if len(t.obstacles) >= mostGroups {
			o.Why = others
			at = t.obstacles[others]
		}
		if at == nil {
			at = &Obstacle{Why: o.Why}
			t.obstacles[o.Why] = at
		}
	}
	at.Count, at.Examples = at.Count+o.Count, examples(at.Examples, o.Examples...)
}

// flipped counts flips.
func (t *tally) flipped(f Flips) {
	key := flip{f.Flip, short(f.Was), short(f.Is), short(f.Roles), short(f.Action), short(f.ResourceType)}
	group := t.flips[key]
	if group == nil {
		if len(t.flips) >= mostGroups {
			key = flip{f.Flip, others, others, others, others, others}
			group = t.flips[key]
		}
		if group == nil {
			group = &Flips{Flip: key.flip, Was: key.was, Is: key.is, Roles: key.roles, Action: key.action, ResourceType: key.resourceType}
			t.flips[key] = group
		}
	}
	group.Count, group.Examples = group.Count+f.Count, examples(group.Examples, f.Examples...)
}

// count counts what became of a decision: d, or why not.
func (t *tally) count(was answered, d authz.Decision, why string) {
	t.report.Records++
	if why == "" && hasReason(d.Reasons, authz.CodeDeadline) {
		// Perhaps for want of a core: that says nothing about the rules.
		why = tooSlow
	}
	if why != "" {
		t.obstacle(Obstacle{Why: why, Count: 1, Examples: []string{was.id}})
		return
	}
	t.report.Replayed++
	is := codes(d.Reasons)
	if was.allow == d.Allow {
		if was.codes != is {
			t.report.OtherReasons++
		}
		return
	}
	f := Flips{Flip: AllowToDeny, Was: was.codes, Is: is, Roles: was.roles, Action: was.action, ResourceType: was.resourceType, Count: 1, Examples: []string{was.id}}
	if d.Allow {
		f.Flip = DenyToAllow
		t.report.DenyToAllow++
	} else {
		t.report.AllowToDeny++
	}
	t.flipped(f)
}

// add counts what another report counted.
func (t *tally) add(r ReplayReport) {
	t.report.Records += r.Records
	t.report.Replayed += r.Replayed
	t.report.DenyToAllow += r.DenyToAllow
	t.report.AllowToDeny += r.AllowToDeny
	t.report.OtherReasons += r.OtherReasons
	for _, o := range r.NotReplayable {
		t.obstacle(o)
	}
	for _, f := range r.Flips {
		t.flipped(f)
	}
}

func short(name string) string {
	if len(name) <= mostName {
		return name
	}
	return strings.ToValidUTF8(name[:mostName], "") + others
}

func examples(list []string, ids ...string) []string {
	return append(list, ids[:min(len(ids), mostExamples-len(list))]...)
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

// done returns a report of what was counted until now.
func (t *tally) done() ReplayReport {
	r := t.report
	r.NotReplayable, r.Flips = []Obstacle{}, []Flips{}
	for _, o := range t.obstacles {
		r.NotReplayable = append(r.NotReplayable, *o)
	}
	slices.SortFunc(r.NotReplayable, func(a, b Obstacle) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Why, b.Why))
	})
	for _, f := range t.flips {
		r.Flips = append(r.Flips, *f)
	}
	slices.SortFunc(r.Flips, func(a, b Flips) int {
		return cmp.Or(
			cmp.Compare(b.Flip, a.Flip), // deny-to-allow before allow-to-deny
			cmp.Compare(b.Count, a.Count), cmp.Compare(a.ResourceType, b.ResourceType), cmp.Compare(a.Action, b.Action),
			cmp.Compare(a.Roles, b.Roles), cmp.Compare(a.Was, b.Was), cmp.Compare(a.Is, b.Is))
	})
	return r
}

// Expectation says of some flips that they are intended. Members that are empty
// fit all.
type Expectation struct {
	Flip         string `json:"flip,omitempty"`
	Was          string `json:"was,omitempty"`  // a code among the reasons on record
	Is           string `json:"is,omitempty"`   // a code among the candidate's
	Role         string `json:"role,omitempty"` // among the principal's
	Action       string `json:"action,omitempty"`
	ResourceType string `json:"resourceType,omitempty"`
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
