package policies_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

// watching runs what runs beside, until the function that it returns is called.
func watching(t *testing.T, ls ...*policies.Library) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, l := range ls {
		running.Go(func() {
			if err := l.Watch(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return stop
}

const actions = `{"roles": {"editor": {"document": ["read", "write"]}}, "actions": {"document": ["read", "write", "share", "slow"]}}`

// readers is good with a rule by which everybody reads, and bobs else.
func readers() map[string]string {
	return good("data.json", actions, "document.rego", "package app.document\n\nallow if input.action.name in {\"read\", \"share\"}\n",
		"document_test.rego", "package app.document_test\n\ntest_all_read if data.app.document.allow with input as {\"action\": {\"name\": \"read\"}}\n")
}

// A shadow is asked on all instances what is decided there; what it would have
// answered changes nothing, is kept and counted.
func TestShadowIsAskedBesideThePolicyInForce(t *testing.T) {
	p := newPress(t)
	here, there := p.open(), p.open()
	first, err := here.Publish(t.Context(), p.admin, policies.Upload{Files: good()})
	must(t, err)
	s, err := here.StartShadow(t.Context(), p.admin, policies.ShadowStart{Files: readers(), Note: "all share"})
	must(t, err)
	there.Forget("policy", s.ID)
	must(t, there.Settled(t.Context()))
	stop := watching(t, here.Library, there.Library)
	for _, i := range []*instance{here, there} {
		for range 10 {
			if !i.allows(t, "read") || i.allows(t, "share") || i.allows(t, "write") {
				t.Fatal("an answer is the shadow's")
			}
		}
	}
	stop()
	got, running, reports, err := here.ShowShadow(t.Context(), program)
	must(t, err)
	if !running || got.ID != s.ID || got.Note != "all share" || got.By.ID != p.who.ID || got.Revision == "" || got.EndsAt.Sub(got.StartedAt) != policies.DefaultShadowTime {
		t.Errorf("shadow %+v, running %v", got, running)
	}
	if len(reports) != 1 {
		t.Fatalf("reports %+v", reports)
	}
	r := reports[0]
	if r.Against != first.PolicyRevision || r.PolicyRevision != s.PolicyRevision || r.Records != 60 || r.Replayed != 60 || r.Dropped != 0 ||
		r.DenyToAllow != 20 || r.AllowToDeny != 0 || len(r.NotReplayable) != 0 {
		t.Errorf("report %+v", r)
	}
	if f := r.Flips[0]; len(r.Flips) != 1 || f.Flip != policies.DenyToAllow || f.Was != "role_missing" || f.Is != "app" || f.Action != "share" || f.Count != 20 || len(f.Examples) != 3 {
		t.Errorf("flips %+v", r.Flips)
	}
	if c := here.ShadowCounts(); c.Asked != 30 || c.DenyToAllow != 10 || c.Dropped != 0 {
		t.Errorf("counts %+v", c)
	}
	// It was never in force, so that is not gone back to.
	if _, err := here.Rollback(t.Context(), p.admin, s.Revision, "", nil); !errors.Is(err, policies.ErrNoRevision) {
		t.Errorf("rolled back to what was only a shadow: %v", err)
	}

	must(t, here.StopShadow(t.Context(), p.admin))
	if here.ShadowCounts().Running {
		t.Error("runs where it was stopped")
	}
	there.Forget("policy", s.ID)
	must(t, there.Settled(t.Context()))
	if there.ShadowCounts().Running {
		t.Error("runs elsewhere")
	}
	if err := here.StopShadow(t.Context(), p.admin); !errors.Is(err, policies.ErrNoShadow) {
		t.Errorf("stopped again: %v", err)
	}
	_, running, reports, err = there.ShowShadow(t.Context(), program)
	must(t, err)
	if running || len(reports) != 1 || reports[0].DenyToAllow != 20 {
		t.Errorf("after it was stopped: running %v, %+v", running, reports)
	}
	evs, err := p.db.Events(t.Context(), 2)
	must(t, err)
	if evs[0].Kind != "policy.stop-shadow" || evs[1].Kind != "policy.start-shadow" || evs[1].DecisionID == "" || evs[1].Actor.ID != p.who.ID {
		t.Errorf("events %+v", evs)
	}
}

// What is compared with one policy in force is not mixed with what is compared
// with the next, and who starts later begins with the shadow.
func TestShadowIsComparedWithEachPolicyInForce(t *testing.T) {
	p := newPress(t)
	here := p.open()
	_, err := here.StartShadow(t.Context(), p.admin, policies.ShadowStart{Files: readers()})
	must(t, err)
	stop := watching(t, here.Library)
	here.allows(t, "read")
	_, err = here.Publish(t.Context(), p.admin, policies.Upload{Files: readers()})
	must(t, err)
	for range 3 {
		here.allows(t, "read")
	}
	stop()
	later := p.open()
	stop = watching(t, later.Library)
	later.allows(t, "share")
	stop()
	_, _, reports, err := later.ShowShadow(t.Context(), program)
	must(t, err)
	if len(reports) != 2 || reports[0].Replayed != 4 || reports[0].DenyToAllow != 0 || reports[1].DenyToAllow != 1 {
		t.Errorf("reports %+v", reports)
	}
}

// A shadow sees the clock, the chance and the request of the decision itself.
func TestShadowAnswersTheSameToTheSame(t *testing.T) {
	fickle := good("chance.rego", `package app.document

allow if rand.intn(input.resource.type, 2) == 1

allow if (time.now_ns() % 7) < 3

deny contains {"code": "agent", "message": input.context.userAgent} if input.context.userAgent != "caf\ufffd"

context["token"] := uuid.rfc4122("x")
`)
	p := newPress(t)
	here := p.open()
	_, err := here.Publish(t.Context(), p.admin, policies.Upload{Files: fickle})
	must(t, err)
	_, err = here.StartShadow(t.Context(), p.admin, policies.ShadowStart{Revision: here.Status().Published})
	must(t, err)
	stop := watching(t, here.Library)
	ctx := authz.WithFacts(t.Context(), &authz.Facts{UserAgent: "caf\xe9"})
	keyed, err := authz.NewSubject(authz.Identity{Type: "user", ID: "u1", Credential: authz.CredentialAPIKey, Key: &authz.KeyFacts{ID: "k", Permissions: authz.Permissions{"site": {"use"}}}})
	must(t, err)
	for range 200 {
		for _, r := range []authz.Request{
			{Resource: authz.Resource{Type: "document", ID: "d"}},
			{Subject: keyed, Resource: authz.Resource{Type: "document", ID: "d"}},
			{Subject: keyed, Resource: authz.Resource{Type: "route", ID: "/"}, Mapped: "site:use"},
		} {
			r.Action.Name = "read"
			_, err := here.engine.Decide(ctx, r)
			must(t, err)
		}
	}
	stop()
	_, _, reports, err := here.ShowShadow(t.Context(), program)
	must(t, err)
	if r := reports[0]; r.Replayed != 600 || r.Dropped != 0 || len(r.Flips) != 0 || r.OtherReasons != 0 || len(r.NotReplayable) != 0 {
		t.Errorf("report %+v", r)
	}
}

// A candidate that is slow holds nothing up: what it takes too long for is
// counted, and so is what it has no time for.
func TestSlowShadowIsOffThePath(t *testing.T) {
	slow := good("data.json", actions, "slow.rego", `package app.document

allow if {
	input.action.name == "slow"
	every i in numbers.range(1, 5000) { every j in numbers.range(1, 5000) { i * j > 0 } }
}
`)
	p := newPress(t)
	here := p.open()
	_, err := here.StartShadow(t.Context(), p.admin, policies.ShadowStart{Files: slow})
	must(t, err)
	stop := watching(t, here.Library)
	start := time.Now()
	const n = 1500
	for range n {
		here.allows(t, "slow")
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("%d decisions took %s", n, took)
	}
	stop()
	_, _, reports, err := here.ShowShadow(t.Context(), program)
	must(t, err)
	r := reports[0]
	if r.Dropped == 0 || r.Dropped+r.Records != n || len(r.Flips) != 0 || len(r.NotReplayable) != 1 || r.NotReplayable[0].Why != "the candidate took longer than it may" {
		t.Errorf("report %+v", r)
	}
	if c := here.ShadowCounts(); c.Dropped != uint64(r.Dropped) || c.NotReplayable == 0 {
		t.Errorf("counts %+v", c)
	}
}

func TestShadowIsRefused(t *testing.T) {
	p := newPress(t)
	here := p.open()
	for name, c := range map[string]struct {
		in   policies.ShadowStart
		want string
	}{
		"that does not compile":     {policies.ShadowStart{Files: good("x.rego", "package x\n\ny := z\n")}, "x.rego:3:6"},
		"with a failing test":       {policies.ShadowStart{Files: good("x_test.rego", "package x_test\n\ntest_a if 1 == 2\n")}, "x_test.rego:3: test_a failed"},
		"of a revision that is not": {policies.ShadowStart{Revision: "none"}, "there is no such revision: none"},
		"for too long":              {policies.ShadowStart{Files: good(), For: policies.MaxShadowTime + 1}, "for"},
		"for no time":               {policies.ShadowStart{Files: good(), For: -1}, "for"},
		"with a note too long":      {policies.ShadowStart{Files: good(), Note: strings.Repeat("x", 2001)}, "note"},
	} {
		if _, err := here.StartShadow(t.Context(), p.admin, c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	bob, err := here.authn.CreateUser(t.Context(), program, authn.NewUser{Name: "Bob", Email: "bob@example.com"})
	must(t, err)
	_, secret, err := here.authn.CreateKey(t.Context(), program, authn.NewKey{OwnerID: bob.ID, Permissions: authz.Permissions{"*": {"*"}}})
	must(t, err)
	bobs, err := here.authn.Authenticate(t.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: secret})
	must(t, err)
	if _, err := here.StartShadow(t.Context(), bobs, policies.ShadowStart{Files: good()}); !errors.Is(err, authz.ErrDenied) {
		t.Errorf("start by somebody: %v", err)
	}
	if err := here.StopShadow(t.Context(), bobs); !errors.Is(err, authz.ErrDenied) {
		t.Errorf("stop by somebody: %v", err)
	}
	if _, _, _, err := here.ShowShadow(t.Context(), bobs); !errors.Is(err, authz.ErrDenied) {
		t.Errorf("show to somebody: %v", err)
	}
	if _, _, _, err := here.ShowShadow(t.Context(), program); !errors.Is(err, policies.ErrNoShadow) || here.ShadowCounts().Running {
		t.Errorf("after nothing was started: %v", err)
	}
	files, err := policies.Open(t.Context(), policies.Options{Engine: authz.NewEngine(authz.Options{})})
	must(t, err)
	if _, err := files.StartShadow(t.Context(), program, policies.ShadowStart{Files: good()}); !errors.Is(err, policies.ErrShadowElsewhere) {
		t.Errorf("where policies come from files: %v", err)
	}
}

// A shadow that nobody stops ends by itself, and one follows another.
func TestShadowEnds(t *testing.T) {
	p := newPress(t)
	var mu sync.Mutex
	now := time.Now()
	here := p.open(func(o *policies.Options) {
		o.Clock = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	first, err := here.StartShadow(t.Context(), p.admin, policies.ShadowStart{Files: good(), For: time.Hour})
	must(t, err)
	mu.Lock()
	now = now.Add(time.Second)
	mu.Unlock()
	second, err := here.StartShadow(t.Context(), p.admin, policies.ShadowStart{Files: readers(), For: time.Hour})
	must(t, err)
	got, err := p.db.Shadow(t.Context(), first.ID)
	must(t, err)
	if !got.EndsAt.Equal(second.StartedAt) {
		t.Errorf("the first ends %s, the second begins %s", got.EndsAt, second.StartedAt)
	}
	mu.Lock()
	now = now.Add(time.Hour)
	mu.Unlock()
	if _, running, _, err := here.ShowShadow(t.Context(), program); running || err != nil {
		t.Errorf("running %v, %v", running, err)
	}
	if err := here.StopShadow(t.Context(), program); !errors.Is(err, policies.ErrNoShadow) {
		t.Errorf("stopped after its end: %v", err)
	}
	here.Forget("policy", "")
	must(t, here.Settled(t.Context()))
	if here.ShadowCounts().Running {
		t.Error("still asked")
	}
	if later := p.open(func(o *policies.Options) { o.Clock = func() time.Time { return now } }); later.ShadowCounts().Running {
		t.Error("asked after a start")
	}
}

// With policies from files the candidate is a folder: it is watched, and one that
// is broken leaves the one before.
func TestShadowOfAFolder(t *testing.T) {
	p := newPress(t)
	dir := t.TempDir()
	write := func(text string) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(dir, "document.rego"), []byte(text), 0o600))
	}
	write("package app.document\n\nallow if {\n")
	var log buffer
	options := policies.Options{Engine: authz.NewEngine(authz.Options{Recorder: audit.NewLog(p.db, audit.Options{})}), Shadows: p.db, ShadowDir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))}
	if _, err := policies.Open(t.Context(), options); err == nil || !strings.Contains(err.Error(), "shadow: document.rego:4") {
		t.Errorf("opened with a broken shadow: %v", err)
	}
	write(readers()["document.rego"])
	l, err := policies.Open(t.Context(), options)
	must(t, err)
	stop := watching(t, l)
	i := &instance{Library: l, engine: options.Engine}
	i.allows(t, "share")
	shown, running, _, err := l.ShowShadow(t.Context(), program)
	must(t, err)
	if !running || shown.Revision != "" || shown.PolicyRevision == "" {
		t.Errorf("shadow %+v", shown)
	}
	wait := func(what string, ok func() bool) {
		t.Helper()
		for until := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("%s: waited in vain\n%s", what, strings.Join(log.lines(), "\n"))
			}
		}
	}
	write("package app.document\n\nallow if {\n")
	wait("broken", func() bool { return strings.Contains(strings.Join(log.lines(), "\n"), "shadow not loaded, the one before goes on") })
	i.allows(t, "share")
	wait("asked", func() bool { return l.ShadowCounts().Asked == 2 })
	write(good()["document.rego"])
	wait("mended", func() bool {
		now, _, _, err := l.ShowShadow(t.Context(), program)
		return err == nil && now.PolicyRevision != shown.PolicyRevision
	})
	i.allows(t, "share")
	stop()
	_, _, reports, err := l.ShowShadow(t.Context(), program)
	must(t, err)
	if len(reports) != 1 || reports[0].Replayed != 1 || reports[0].DenyToAllow != 0 {
		t.Errorf("of the mended: %+v", reports)
	}
	before, err := p.db.ShadowReports(t.Context(), shown.ID, 10)
	must(t, err)
	if len(before) != 1 || before[0].DenyToAllow != 2 {
		t.Errorf("of the one before: %+v", before)
	}
}
