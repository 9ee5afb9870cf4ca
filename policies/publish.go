package policies

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing/fstest"
	"time"
	"unicode/utf8"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// Limits of a revision and of what is asked about revisions.
const (
	MaxFiles   = 1000
	MaxBytes   = 3 << 20 // of all files with their names
	MaxName    = 512     // bytes of a file's name
	MaxNote    = 2000    // characters
	MaxHistory = 200     // publications on one page
)

// Store is where revisions are kept. What is there is never changed.
type Store interface {
	// Publications returns publications, the newest first, which is the one in
	// force: those with a lower sequence than before, or all if before is 0.
	Publications(ctx context.Context, before int64, limit int) ([]Publication, error)
	// PolicyRevision returns the revision with an ID, or that was published as a
	// PolicyRevision; [authn.ErrNotFound].
	PolicyRevision(ctx context.Context, name string) (Revision, error)
	// Publish keeps r unless it is there, and p, with the event or not at all.
	// If there is a publication with p's sequence, it is an [authn.ConflictError].
	Publish(ctx context.Context, r Revision, p Publication, ev audit.Event) error
}

// Revision is an author's bundle as it was published.
type Revision struct {
	ID        string            // digest of the files: the same files have the same one
	Files     map[string]string // path → text, tests included
	Tests     Tested
	CreatedAt time.Time
	Published bool // ever; otherwise it was shadowed alone
}

// Tested is what became of a bundle's tests, all of which passed.
type Tested struct {
	Count    int
	Coverage float64 // per cent of the author's lines
}

// Publication says that a revision was put in force.
type Publication struct {
	Sequence int64 // 1, 2, 3, …; the highest is in force
	Revision string
	// PolicyRevision is what decisions carried where it was published: the digest
	// of the files with the built-in ones and the settings.
	PolicyRevision string
	Parent         string // the revision that was in force before; empty for none
	At             time.Time
	By             audit.Actor
	Note           string
	Tests          Tested
	// Replay is what came of asking it what was decided before; nil if that was
	// not done.
	Replay *ReplayReport
}

// Why there is nothing to publish to, or a name that is none.
var (
	// ErrNotPublished reports that the policies are not in the database, so that
	// they are changed elsewhere.
	ErrNotPublished = errors.New("policies come from elsewhere: publish them there, or set policy.source to database")
	ErrNoRevision   = errors.New("there is no such revision")
)

// Steps of publishing at which a bundle can be refused.
const (
	StepCheck   = "check"   // it does not load, compile or type-check
	StepTest    = "test"    // a test fails, or they cover too little
	StepLockout = "lockout" // nobody would be left to publish the next one
	StepReplay  = "replay"  // it answers otherwise what was decided before
)

// RefusedError says why a bundle cannot be put in force. The policy before
// stays.
type RefusedError struct {
	Step     string
	Mistakes []error       // each begins with its place, where it has one
	Replay   *ReplayReport // of StepReplay
}

func (e *RefusedError) Error() string { return errors.Join(e.Mistakes...).Error() }

// Unwrap returns the mistakes.
func (e *RefusedError) Unwrap() []error { return e.Mistakes }

// OvertakenError says that another revision is in force than was expected.
type OvertakenError struct{ InForce Publication }

func (e *OvertakenError) Error() string {
	if e.InForce.Revision == "" {
		return "no revision was published yet"
	}
	by := strings.TrimSpace(e.InForce.By.Type + " " + e.InForce.By.ID)
	return fmt.Sprintf("%s published revision %s at %s; look at it, then publish again", by, e.InForce.Revision, e.InForce.At.UTC().Format(time.RFC3339))
}

// Upload is a bundle to publish.
type Upload struct {
	Files map[string]string // path → text
	Note  string
	// Expect, if set, is the revision that has to be in force, "" for none.
	// Otherwise it is the one that is when the call begins.
	Expect *string
	DryRun bool // do everything but publish
	// Replay demands more of what was decided before than the configuration, or
	// says what is meant.
	Replay ReplayGate
}

// Files reads what of a folder belongs to a revision: what [Load] reads, and
// tests. It fails if that is more than a revision may hold.
func Files(fsys fs.FS) (map[string]string, error) {
	files := map[string]string{}
	total := 0
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name != "." && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir() || !ofBundle(name):
			return nil
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		if total += len(name) + len(text); total > MaxBytes {
			return tooMuch()
		}
		files[name] = string(text)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the policy folder: %w", err)
	}
	return files, nil
}

// ofBundle reports whether a file of this name has a part in a bundle.
func ofBundle(name string) bool {
	base := path.Base(name)
	return path.Ext(base) == ".rego" || base == "data.json" || base == "data.yaml" || base == "data.yml"
}

func tooMuch() error {
	return fmt.Errorf("a revision has at most %d files and %d bytes", MaxFiles, MaxBytes)
}

// uploaded is candidate of what a caller sends, which may be no more than a
// revision holds.
func (l *Library) uploaded(ctx context.Context, files map[string]string, fresh, tested bool) (*candidate, error) {
	total := 0
	for name, text := range files {
		total += len(name) + len(text)
	}
	if len(files) > MaxFiles || total > MaxBytes {
		return nil, &RefusedError{Step: StepCheck, Mistakes: []error{tooMuch()}}
	}
	return l.candidate(ctx, files, fresh, tested)
}

// filesystem checks what was uploaded and returns it as files.
func filesystem(files map[string]string) (fs.FS, []error) {
	// In memory; what is in testing/fstest is not for tests alone.
	fsys := fstest.MapFS{}
	var mistakes []error
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := files[name]
		hidden := slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool { return strings.HasPrefix(part, ".") })
		switch {
		case !fs.ValidPath(name) || hidden || len(name) > MaxName || strings.ContainsAny(name, "\\\x00\n\r"):
			mistakes = append(mistakes, fmt.Errorf("%q is not the path of a file in a bundle", name))
		case !ofBundle(name):
			mistakes = append(mistakes, fmt.Errorf("%s: only *.rego, data.json and data.yaml belong to a bundle", name))
		case !utf8.ValidString(text):
			mistakes = append(mistakes, fmt.Errorf("%s: is not UTF-8", name))
		}
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	for name := range files {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, both := files[dir]; both {
				mistakes = append(mistakes, fmt.Errorf("%s: is a file and a folder", dir))
			}
		}
	}
	return fsys, mistakes
}

// digest names files by what they hold.
func digest(files map[string]string) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, s := range []string{name, files[name]} {
			var n [8]byte
			binary.BigEndian.PutUint64(n[:], uint64(len(s)))
			h.Write(n[:])
			h.Write([]byte(s))
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// candidate is a bundle that could be put in force.
type candidate struct {
	revision Revision
	bundle   Bundle
	policy   *authz.Policy
	warnings []Finding
}

// testTime bounds the tests of one bundle.
const testTime = 20 * time.Second

// candidate compiles files. If fresh says so, it checks them before with all
// care; if tested does, it runs their tests. One at a time: what is compiled here
// competes with what is decided.
func (l *Library) candidate(ctx context.Context, files map[string]string, fresh, tested bool) (*candidate, error) {
	done, err := l.alone(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	fsys, mistakes := filesystem(files)
	if len(mistakes) > 0 {
		return nil, &RefusedError{Step: StepCheck, Mistakes: mistakes}
	}
	c := &candidate{revision: Revision{ID: digest(files), Files: files, CreatedAt: l.now()}, warnings: []Finding{}}
	if fresh {
		report := Check(ctx, fsys, l.options.Settings)
		for _, f := range report.Findings {
			if f.Warning {
				c.warnings = append(c.warnings, f)
			} else {
				mistakes = append(mistakes, f)
			}
		}
	}
	if len(mistakes) == 0 {
		c.bundle, c.policy, err = compile(ctx, fsys, l.options.Settings)
		mistakes = mistakesOf(err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(mistakes) > 0 {
		return nil, &RefusedError{Step: StepCheck, Mistakes: mistakes}
	}
	if !tested {
		return c, nil
	}
	return c, l.runTests(ctx, c, fsys)
}

// runTests runs the candidate's tests.
func (l *Library) runTests(ctx context.Context, c *candidate, fsys fs.FS) error {
	limited, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	report, err := Test(limited, fsys, l.options.Settings, TestOptions{Coverage: true})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil:
		return &RefusedError{Step: StepTest, Mistakes: []error{fmt.Errorf("the tests take longer than %s", testTime)}}
	case err != nil:
		return &RefusedError{Step: StepCheck, Mistakes: mistakesOf(err)}
	}
	c.revision.Tests.Count = len(report.Tests)
	if len(report.Tests) > 0 {
		c.revision.Tests.Coverage = report.Coverage.Percent
	}
	var mistakes []error
	for _, t := range report.Tests {
		if t.Outcome == "pass" || t.Outcome == "skip" {
			continue
		}
		err := fmt.Errorf("%s:%d: %s failed", t.File, t.Line, t.Name)
		if len(t.Cases) > 0 {
			err = fmt.Errorf("%w: %s", err, strings.Join(t.Cases, ", "))
		}
		if t.Message != "" {
			err = fmt.Errorf("%w: %s", err, strings.Join(strings.Fields(t.Message), " "))
		}
		mistakes = append(mistakes, err)
	}
	if got, want := c.revision.Tests.Coverage, l.options.MinCoverage; len(mistakes) == 0 && got < want {
		mistakes = []error{fmt.Errorf("the tests reach %.1f %% of the lines; %.1f %% are required", got, want)}
	}
	if len(mistakes) > 0 {
		return &RefusedError{Step: StepTest, Mistakes: mistakes}
	}
	return nil
}

// mistakesOf takes joined errors apart.
func mistakesOf(err error) []error {
	if err == nil {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range many.Unwrap() {
			all = append(all, mistakesOf(e)...)
		}
		return all
	}
	return []error{err}
}

// operation is what somebody wants to do to the policies, as decisions see it.
type operation struct {
	name    string // "publish", "rollback", "set-role" or "delete-role"
	note    string
	expect  *string
	dryRun  bool
	replay  *ReplayGate    // nil: nothing is replayed, as for what changes answers on purpose
	details map[string]any // of the decision and of the event
	target  string         // of the event: the role; empty for the revision
	last    func() error   // if set, what could have changed while the candidate was tried
}

// edits reports whether the files are made from those in force.
func (o operation) edits() bool { return o.target != "" }

func (o operation) resource() authz.Resource {
	properties := map[string]any{"operation": o.name, "note": o.note, "dryRun": o.dryRun}
	maps.Copy(properties, o.details)
	return authz.Resource{Type: "policy", Properties: properties}
}

// Publish checks and tests a bundle and puts it in force, here before it
// returns, and elsewhere as soon as they learn of it. policy:publish. What is
// refused is a *[RefusedError]; who was overtaken by another gets an
// *[OvertakenError].
func (l *Library) Publish(ctx context.Context, caller authn.Principal, in Upload) (Publication, error) {
	return l.publish(ctx, caller, operation{name: "publish", note: in.Note, expect: in.Expect, dryRun: in.DryRun, replay: &in.Replay},
		func(*base) (map[string]string, bool, error) { return in.Files, true, nil })
}

// Rollback puts a revision in force that was before: the one that is named, or
// with an empty name the one that was in force before this one. It is compiled
// again, but neither checked with more care nor tested. policy:publish. [ErrNoRevision].
func (l *Library) Rollback(ctx context.Context, caller authn.Principal, revision, note string, expect *string) (Publication, error) {
	op := operation{name: "rollback", note: note, expect: expect, details: map[string]any{"to": revision}}
	return l.publish(ctx, caller, op, func(b *base) (map[string]string, bool, error) {
		if revision = cmp.Or(revision, b.Parent); revision == "" {
			return nil, false, fmt.Errorf("%w: nothing was in force before", ErrNoRevision)
		}
		r, err := l.revision(ctx, revision)
		if err == nil && !r.Published {
			err = fmt.Errorf("%w that was in force: %s", ErrNoRevision, revision)
		}
		return r.Files, false, err
	})
}

func checkNote(note string) error {
	if utf8.RuneCountInString(note) > MaxNote || !utf8.ValidString(note) || strings.ContainsRune(note, 0) {
		return &authn.InvalidError{Field: "note", Reason: fmt.Sprintf("must be text of at most %d characters", MaxNote)}
	}
	return nil
}

// base is what a change begins with.
type base struct {
	Publication
	files map[string]string
}

func (l *Library) publish(ctx context.Context, caller authn.Principal, op operation, change func(*base) (files map[string]string, fresh bool, err error)) (Publication, error) {
	// Before the question, in whose record it is.
	if err := checkNote(op.note); err != nil {
		return Publication{}, err
	}
	decision, err := authn.Permit(ctx, l.options.Engine, caller, "publish", op.resource())
	if err != nil {
		return Publication{}, err
	}
	if l.options.Store == nil {
		return Publication{}, ErrNotPublished
	}
	newest, err := l.newest(ctx)
	if err != nil {
		return Publication{}, err
	}
	from, err := l.base(ctx, newest)
	if err != nil && (op.edits() || errors.Is(err, authn.ErrUnavailable) || ctx.Err() != nil) {
		return Publication{}, err
	}
	// Otherwise its files cannot be read. That is to be mended by what follows it.
	if op.expect != nil && *op.expect != from.Revision && (*op.expect == "" || *op.expect != from.PolicyRevision) {
		return Publication{}, &OvertakenError{from.Publication}
	}
	files, fresh, err := change(from)
	if err != nil {
		return Publication{}, err
	}
	c, err := l.uploaded(ctx, files, fresh, fresh)
	if err != nil {
		return Publication{}, err
	}
	if err := l.keepsPublisher(ctx, caller, c); err != nil {
		return Publication{}, err
	}
	var replayed *ReplayReport
	if op.replay != nil {
		if replayed, err = l.gate(ctx, c, *op.replay); err != nil {
			return Publication{}, err
		}
	}
	p := Publication{
		Sequence: from.Sequence + 1, Revision: c.revision.ID, PolicyRevision: c.bundle.Source.Revision, Parent: from.Revision,
		At: l.now(), By: caller.Actor(), Note: op.note, Tests: c.revision.Tests, Replay: replayed,
	}
	if op.last != nil {
		if err := op.last(); err != nil {
			return Publication{}, err
		}
	}
	if op.dryRun {
		return p, nil
	}
	ev := audit.Event{
		ID: rand.Text(), At: p.At, Kind: "policy." + op.name, Actor: p.By, TargetType: "policy", TargetID: p.Revision, DecisionID: decision,
		Details: map[string]any{
			"revision": p.Revision, "policyRevision": p.PolicyRevision, "parent": p.Parent, "note": p.Note,
			"files": changedFiles(from.files, files), "roles": changedRoles(l.Bundle().Roles, c.bundle.Roles),
		},
	}
	maps.Copy(ev.Details, op.details)
	if op.target != "" {
		ev.Kind, ev.TargetType, ev.TargetID = "role."+strings.TrimSuffix(op.name, "-role"), "role", op.target
	}
	err = l.options.Store.Publish(ctx, c.revision, p, ev)
	if _, overtaken := errors.AsType[*authn.ConflictError](err); overtaken {
		now, err := l.newest(ctx)
		if err != nil {
			return Publication{}, err
		}
		return Publication{}, &OvertakenError{now}
	}
	if err != nil {
		return Publication{}, fmt.Errorf("publish revision %s: %w", p.Revision, err)
	}
	l.published(p, c)
	return p, nil
}

// published puts in force here what was just published, unless something newer
// is already.
func (l *Library) published(p Publication, c *candidate) {
	l.reload.Lock()
	defer l.reload.Unlock()
	if l.current.Load().publication.Sequence >= p.Sequence {
		return
	}
	l.swap(c.bundle, c.policy, p)
	l.options.Log.Info("policy published", "revision", p.PolicyRevision, "published", p.Revision)
}

// newest reads what is in force, wherever it was published; the zero Publication
// if nothing was.
func (l *Library) newest(ctx context.Context) (Publication, error) {
	ps, err := l.options.Store.Publications(ctx, 0, 1)
	if err != nil {
		return Publication{}, fmt.Errorf("read what is published: %w", err)
	}
	if len(ps) == 0 {
		return Publication{}, nil
	}
	return ps[0], nil
}

// base reads the files of a publication, of which the zero one has none.
func (l *Library) base(ctx context.Context, p Publication) (*base, error) {
	if p.Revision == "" {
		return &base{files: map[string]string{}}, nil
	}
	r, err := l.revision(ctx, p.Revision)
	return &base{p, r.Files}, err
}

// revision reads a revision, and makes sure that it is the one it says it is.
func (l *Library) revision(ctx context.Context, name string) (Revision, error) {
	r, err := l.options.Store.PolicyRevision(ctx, name)
	if errors.Is(err, authn.ErrNotFound) {
		return Revision{}, fmt.Errorf("%w: %s", ErrNoRevision, name)
	}
	if err == nil && digest(r.Files) != r.ID {
		err = errors.New("its files are not those that were published")
	}
	if err != nil {
		return Revision{}, fmt.Errorf("read revision %s: %w", name, err)
	}
	return r, nil
}

// History returns publications, the newest first: those before a sequence, or
// all if it is 0; at most [MaxHistory]. policy:read.
func (l *Library) History(ctx context.Context, caller authn.Principal, before int64, limit int) ([]Publication, error) {
	if err := l.readable(ctx, caller); err != nil {
		return nil, err
	}
	ps, err := l.options.Store.Publications(ctx, before, min(cmp.Or(max(limit, 0), 50), MaxHistory))
	if err != nil {
		return nil, fmt.Errorf("read what was published: %w", err)
	}
	return ps, nil
}

// Revision returns a revision by its ID or by the revision that decisions carry;
// with an empty name the one in force. policy:read. [ErrNoRevision].
func (l *Library) Revision(ctx context.Context, caller authn.Principal, name string) (Revision, error) {
	if err := l.readable(ctx, caller); err != nil {
		return Revision{}, err
	}
	if name == "" {
		p, err := l.newest(ctx)
		if err == nil && p.Revision == "" {
			err = fmt.Errorf("%w: none was published yet", ErrNoRevision)
		}
		if err != nil {
			return Revision{}, err
		}
		name = p.Revision
	}
	return l.revision(ctx, name)
}

func (l *Library) readable(ctx context.Context, caller authn.Principal) error {
	if _, err := authn.Permit(ctx, l.options.Engine, caller, "read", authz.Resource{Type: "policy"}); err != nil {
		return err
	}
	if l.options.Store == nil {
		return ErrNotPublished
	}
	return nil
}

// Trial is what came of trying files.
type Trial struct {
	Revision string // that the files would be
	Tests    Tested
	Warnings []Finding
}

// Check reports what [Library.Publish] would refuse files for before it ran
// their tests, as a *[RefusedError]. policy:test.
func (l *Library) Check(ctx context.Context, caller authn.Principal, files map[string]string) (Trial, error) {
	return l.try(ctx, caller, files, false)
}

// Test is Check, and runs the tests. policy:test.
func (l *Library) Test(ctx context.Context, caller authn.Principal, files map[string]string) (Trial, error) {
	return l.try(ctx, caller, files, true)
}

func (l *Library) try(ctx context.Context, caller authn.Principal, files map[string]string, tested bool) (Trial, error) {
	if _, err := authn.Permit(ctx, l.options.Engine, caller, "test", authz.Resource{Type: "policy"}); err != nil {
		return Trial{}, err
	}
	c, err := l.uploaded(ctx, files, true, tested)
	if err != nil {
		return Trial{}, err
	}
	return Trial{c.revision.ID, c.revision.Tests, c.warnings}, nil
}

// changedFiles names what was added, removed and changed.
func changedFiles(before, after map[string]string) map[string]any {
	out := map[string]any{}
	note := func(kind, name string) {
		list, _ := out[kind].([]any)
		out[kind] = append(list, name)
	}
	for _, name := range union(before, after) {
		was, had := before[name]
		is, has := after[name]
		switch {
		case !had:
			note("added", name)
		case !has:
			note("removed", name)
		case was != is:
			note("changed", name)
		}
	}
	return out
}

// changedRoles has of each role that is not what it was what it was and is;
// null for a role that is not there.
func changedRoles(before, after map[string]authz.Permissions) map[string]any {
	out := map[string]any{}
	for _, name := range union(before, after) {
		was, had := before[name]
		is, has := after[name]
		if had == has && maps.EqualFunc(was, is, slices.Equal) {
			continue
		}
		change := map[string]any{"before": nil, "after": nil}
		if had {
			change["before"] = was.Document()
		}
		if has {
			change["after"] = is.Document()
		}
		out[name] = change
	}
	return out
}

func union[V any](a, b map[string]V) []string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]V{}
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

// now is the time in the precision in which the tables keep it.
func (l *Library) now() time.Time { return l.options.Clock().UTC().Truncate(time.Millisecond) }
