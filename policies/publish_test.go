package policies_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/store"
)

var program = authn.System("test")

// press is a database with instances that publish to it.
type press struct {
	*testing.T
	db    *store.DB
	admin authn.Principal
	who   authn.User
}

// instance is one of them.
type instance struct {
	*policies.Library
	engine *authz.Engine
	authn  *authn.Service
	log    *audit.Log
}

func newPress(t *testing.T) *press {
	t.Helper()
	db, err := store.Open(t.Context(), "sqlite::memory:")
	must(t, err)
	t.Cleanup(func() { db.Close() })
	return &press{T: t, db: db}
}

func (p *press) open(change ...func(*policies.Options)) *instance {
	p.Helper()
	i := &instance{log: audit.NewLog(p.db, audit.Options{})}
	i.engine = authz.NewEngine(authz.Options{Recorder: i.log})
	var err error
	i.authn, err = authn.New(authn.Options{}, p.db, i.engine)
	must(p.T, err)
	o := policies.Options{Engine: i.engine, Store: p.db, Shadows: p.db, Users: i.authn}
	for _, f := range change {
		f(&o)
	}
	i.Library, err = policies.Open(p.Context(), o)
	must(p.T, err)
	if p.who.ID == "" {
		p.who, err = i.authn.CreateUser(p.Context(), program, authn.NewUser{Name: "Ann", Email: "ann@example.com", Roles: []string{"admin"}, RolesGiven: true})
		must(p.T, err)
		_, secret, err := i.authn.CreateKey(p.Context(), program, authn.NewKey{OwnerID: p.who.ID, Permissions: authz.Permissions{"*": {"*"}}})
		must(p.T, err)
		p.admin, err = i.authn.Authenticate(p.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: secret})
		must(p.T, err)
	}
	return i
}

// good is a bundle with nothing wrong in it.
func good(change ...string) map[string]string {
	files := map[string]string{
		"document.rego": `package app.document

allow if {
	input.action.name == "read"
	input.resource.properties.owner == input.principal.id
}
`,
		"document_test.rego": `package app.document_test

import data.app.document

test_owners_read if {
	document.allow with input as {"principal": {"id": "u1"}, "action": {"name": "read"}, "resource": {"type": "document", "properties": {"owner": "u1"}}}
}
`,
		"data.json": `{"roles": {"editor": {"document": ["read", "write"]}}}`,
	}
	for i := 0; i < len(change); i += 2 {
		if change[i+1] == "" {
			delete(files, change[i])
			continue
		}
		files[change[i]] = change[i+1]
	}
	return files
}

func (i *instance) allows(t *testing.T, action string) bool {
	t.Helper()
	s, err := authz.NewSubject(authz.Identity{Type: "user", ID: "u1", Credential: authz.CredentialSession,
		User: &authz.UserFacts{ID: "u1"}, Session: &authz.SessionFacts{ID: "s1"}})
	must(t, err)
	d, err := i.engine.Decide(t.Context(), authz.Request{Subject: s, Action: authz.Action{Name: action},
		Resource: authz.Resource{Type: "document", Properties: map[string]any{"owner": "u1"}}})
	must(t, err)
	return d.Allow
}

func TestPublishedPolicyIsInForceEverywhere(t *testing.T) {
	p := newPress(t)
	here, there := p.open(), p.open()
	if here.allows(t, "read") {
		t.Fatal("allowed by the built-in rules")
	}
	none := ""
	first, err := here.Publish(t.Context(), p.admin, policies.Upload{Files: good(), Note: "owners read", Expect: &none})
	must(t, err)
	if first.Sequence != 1 || first.Parent != "" || first.Note != "owners read" || first.By.ID != p.who.ID || first.Tests.Count != 1 || first.Tests.Coverage != 100 {
		t.Errorf("published %+v", first)
	}
	if !here.allows(t, "read") || here.Status().Published != first.Revision || here.Status().Revision != first.PolicyRevision {
		t.Errorf("not in force where it was published: %+v", here.Status())
	}
	if there.allows(t, "read") {
		t.Error("in force elsewhere before anybody told")
	}
	there.Forget("user", "u1")
	must(t, there.Settled(t.Context()))
	if there.allows(t, "read") {
		t.Error("a change to a user was taken for one to the policy")
	}
	there.Forget("policy", first.Revision)
	must(t, there.Settled(t.Context()))
	if !there.allows(t, "read") || there.Status().Revision != first.PolicyRevision || there.Status().Published != first.Revision {
		t.Errorf("not in force elsewhere: %+v", there.Status())
	}
	// Whoever starts later begins with it.
	if later := p.open(); !later.allows(t, "read") || later.Bundle().Roles["editor"] == nil {
		t.Error("not in force after a start")
	}
	evs, err := p.db.Events(t.Context(), 1)
	must(t, err)
	if ev := evs[0]; ev.Kind != "policy.publish" || ev.TargetID != first.Revision || ev.Actor.ID != p.who.ID || ev.DecisionID == "" || ev.Details["note"] != "owners read" {
		t.Errorf("event %+v", ev)
	}
}

// Whatever is wrong with a bundle is one clear message, and the policy before
// stays in force.
func TestWhatIsWrongIsStoppedAtPublish(t *testing.T) {
	p := newPress(t)
	here, there := p.open(func(o *policies.Options) { o.MinCoverage = 80 }), p.open()
	first, err := here.Publish(t.Context(), p.admin, policies.Upload{Files: good()})
	must(t, err)
	there.Forget("policy", "")
	must(t, there.Settled(t.Context()))
	for name, c := range map[string]struct {
		files   map[string]string
		step    string
		message string
	}{
		"a typo in input":           {good("document.rego", "package app.document\n\nallow if input.principal.rolez == 1\n"), policies.StepCheck, "document.rego:3:10: "},
		"a typo in a role":          {good("document.rego", "package app.document\n\nallow if \"edtor\" in input.principal.roles\n"), policies.StepCheck, `document.rego:3:10: `},
		"an unsafe built-in":        {good("document.rego", "package app.document\n\nallow if http.send({\"method\": \"get\", \"url\": \"http://x\"}).status_code == 200\n"), policies.StepCheck, "document.rego:3:10: "},
		"a write into data.ostiary": {good("more.rego", "package ostiary\n\nallowed := true\n"), policies.StepCheck, "more.rego:1:1: package ostiary: data.ostiary is reserved to Ostiary"},
		"a syntax error":            {good("document.rego", "package app.document\n\nallow {"), policies.StepCheck, "document.rego:3:"},
		"a bad table":               {good("data.json", `{"roles": {"a,b": {}}}`), policies.StepCheck, `data.json`},
		"a failing test":            {good("more_test.rego", "package app.more_test\n\ntest_fails if 1 == 2\n"), policies.StepTest, "more_test.rego:3: test_fails failed"},
		"low coverage":              {good("document_test.rego", ""), policies.StepTest, "the tests reach 0.0 % of the lines; 80.0 % are required"},
		"a lock-out by roles":       {good("data.json", `{"roles": {"admin": {"user": ["list"]}}}`), policies.StepLockout, "nobody who may publish now could publish the next policy"},
		"a lock-out by rules": {good("policy.rego", "package app.policy\n\ndeny contains \"closed\" if input.action.name == \"publish\"\n", "policy_test.rego",
			"package app.policy_test\n\ntest_closed if count(data.app.policy.deny) == 1 with input.action.name as \"publish\"\n"), policies.StepLockout, "nobody who may publish"},
		"a path out of it":        {map[string]string{"../x.rego": "package x\n"}, policies.StepCheck, `"../x.rego" is not the path of a file in a bundle`},
		"a hidden file":           {map[string]string{".x/y.rego": "package x\n"}, policies.StepCheck, `".x/y.rego" is not`},
		"another file":            {map[string]string{"main.go": "package x\n"}, policies.StepCheck, "main.go: only *.rego"},
		"a file that is a folder": {map[string]string{"a.rego": "package a\n", "a.rego/b.rego": "package b\n"}, policies.StepCheck, "a.rego: is a file and a folder"},
		"too much":                {map[string]string{"a.rego": "package a\n# " + strings.Repeat("x", policies.MaxBytes)}, policies.StepCheck, "a revision has at most"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, dryRun := range []bool{true, false} {
				_, err := here.Publish(t.Context(), p.admin, policies.Upload{Files: c.files, DryRun: dryRun})
				refused, ok := errors.AsType[*policies.RefusedError](err)
				if !ok || refused.Step != c.step || !strings.HasPrefix(err.Error(), c.message) || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %v, want at step %s, as one line: %s", err, c.step, c.message)
				}
			}
			for _, i := range []*instance{here, there} {
				i.Forget("policy", "")
				must(t, i.Settled(t.Context()))
				if s := i.Status(); s.Published != first.Revision || s.Err != nil || !i.allows(t, "read") {
					t.Errorf("the policy before is not in force: %+v", s)
				}
			}
		})
	}
	ps, err := here.History(t.Context(), p.admin, 0, 0)
	must(t, err)
	if len(ps) != 1 {
		t.Errorf("%d publications", len(ps))
	}
}

func TestDryRunPublishesNothing(t *testing.T) {
	p := newPress(t)
	i := p.open()
	would, err := i.Publish(t.Context(), p.admin, policies.Upload{Files: good(), DryRun: true})
	must(t, err)
	if i.allows(t, "read") || i.Status().Published != "" {
		t.Error("in force")
	}
	did, err := i.Publish(t.Context(), p.admin, policies.Upload{Files: good()})
	must(t, err)
	if would.Revision != did.Revision || would.PolicyRevision != did.PolicyRevision || would.Sequence != did.Sequence {
		t.Errorf("would be %+v, is %+v", would, did)
	}
}

// Of two who publish at once one is told, whether they said what they expect or not.
func TestOnePublisherIsToldOfTheOther(t *testing.T) {
	p := newPress(t)
	here, there := p.open(), p.open()
	first, err := here.Publish(t.Context(), p.admin, policies.Upload{Files: good()})
	must(t, err)
	second, err := there.Publish(t.Context(), p.admin, policies.Upload{Files: good("data.json", ""), Expect: &first.Revision})
	must(t, err)
	_, err = here.Publish(t.Context(), p.admin, policies.Upload{Files: good("data.json", `{"roles": {}}`), Expect: &first.Revision})
	overtaken, ok := errors.AsType[*policies.OvertakenError](err)
	if !ok || overtaken.InForce.Revision != second.Revision || !strings.Contains(err.Error(), "user "+p.who.ID+" published revision "+second.Revision) {
		t.Errorf("expected the first: %v", err)
	}
	var all sync.WaitGroup
	errs := make([]error, 8)
	for n := range errs {
		i := p.open()
		all.Go(func() {
			_, errs[n] = i.Publish(t.Context(), p.admin, policies.Upload{Files: good("data.json", `{"roles": {"r`+string(rune('a'+n))+`": {}}}`), Expect: &second.Revision})
		})
	}
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if _, ok := errors.AsType[*policies.OvertakenError](err); !ok {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d of them published", won)
	}
}

func TestRollback(t *testing.T) {
	p := newPress(t)
	i := p.open()
	if _, err := i.Rollback(t.Context(), p.admin, "", "", nil); !errors.Is(err, policies.ErrNoRevision) {
		t.Errorf("before anything was published: %v", err)
	}
	first, err := i.Publish(t.Context(), p.admin, policies.Upload{Files: good()})
	must(t, err)
	if _, err := i.Rollback(t.Context(), p.admin, "", "", nil); !errors.Is(err, policies.ErrNoRevision) {
		t.Errorf("to before the first: %v", err)
	}
	second, err := i.Publish(t.Context(), p.admin, policies.Upload{Files: good("document.rego", "package app.document\n\nallow if input.action.name == \"write\"\n", "document_test.rego", "")})
	must(t, err)
	if i.allows(t, "read") {
		t.Fatal("the second is not in force")
	}
	back, err := i.Rollback(t.Context(), p.admin, "", "oops", &second.Revision)
	must(t, err)
	if back.Revision != first.Revision || back.Sequence != 3 || back.Parent != second.Revision || !i.allows(t, "read") {
		t.Errorf("rolled back to %+v", back)
	}
	// By the revision that decisions carry.
	again, err := i.Rollback(t.Context(), p.admin, second.PolicyRevision, "", nil)
	must(t, err)
	if again.Revision != second.Revision || i.allows(t, "read") {
		t.Errorf("rolled back to %+v", again)
	}
	if _, err := i.Rollback(t.Context(), p.admin, "nonsense", "", nil); !errors.Is(err, policies.ErrNoRevision) {
		t.Errorf("to nothing: %v", err)
	}
	ps, err := i.History(t.Context(), p.admin, 4, 2)
	must(t, err)
	if len(ps) != 2 || ps[0].Note != "oops" || ps[1].Revision != second.Revision {
		t.Errorf("history %+v", ps)
	}
	r, err := i.Revision(t.Context(), p.admin, first.Revision)
	must(t, err)
	if !maps.Equal(r.Files, good()) || r.Tests.Count != 1 {
		t.Errorf("revision %+v", r)
	}
}

func TestPublishingNeedsPermission(t *testing.T) {
	p := newPress(t)
	i := p.open()
	bob, err := i.authn.CreateUser(t.Context(), program, authn.NewUser{Name: "Bob", Email: "bob@example.com"})
	must(t, err)
	_, secret, err := i.authn.CreateKey(t.Context(), program, authn.NewKey{OwnerID: bob.ID, Permissions: authz.Permissions{"*": {"*"}}})
	must(t, err)
	caller, err := i.authn.Authenticate(t.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: secret})
	must(t, err)
	_, secret, err = i.authn.CreateKey(t.Context(), program, authn.NewKey{OwnerID: p.who.ID, Permissions: authz.Permissions{"user": {"*"}, "role": {"*"}, "policies": {"*"}}})
	must(t, err)
	narrow, err := i.authn.Authenticate(t.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: secret})
	must(t, err)
	ctx := t.Context()
	for name, do := range map[string]func(authn.Principal) error{
		"publish": func(c authn.Principal) error { _, err := i.Publish(ctx, c, policies.Upload{Files: good()}); return err },
		"dry run": func(c authn.Principal) error {
			_, err := i.Publish(ctx, c, policies.Upload{Files: good(), DryRun: true})
			return err
		},
		"rollback":    func(c authn.Principal) error { _, err := i.Rollback(ctx, c, "", "", nil); return err },
		"set role":    func(c authn.Principal) error { _, err := i.SetRole(ctx, c, "r", nil, policies.Upload{}); return err },
		"delete role": func(c authn.Principal) error { _, err := i.DeleteRole(ctx, c, "r", policies.Upload{}); return err },
		"history":     func(c authn.Principal) error { _, err := i.History(ctx, c, 0, 0); return err },
		"revision":    func(c authn.Principal) error { _, err := i.Revision(ctx, c, ""); return err },
		"check":       func(c authn.Principal) error { _, err := i.Check(ctx, c, good()); return err },
		"test":        func(c authn.Principal) error { _, err := i.Test(ctx, c, good()); return err },
	} {
		if err := do(caller); !errors.Is(err, authz.ErrDenied) {
			t.Errorf("%s: got %v, want a denial", name, err)
		}
		if err := do(narrow); !errors.Is(err, authz.ErrDenied) {
			t.Errorf("%s with a key of an administrator that is not granted it: got %v, want a denial", name, err)
		}
		if err := do(authn.Principal{}); !errors.Is(err, authn.ErrUnauthenticated) {
			t.Errorf("%s by nobody: %v", name, err)
		}
	}
	// What is not kept with a revision is not kept with the record of a denial either.
	for _, note := range []string{strings.Repeat("ä", policies.MaxNote+1), "a\x00b", "\xff"} {
		_, err := i.Publish(ctx, caller, policies.Upload{Files: good(), Note: note})
		if invalid, ok := errors.AsType[*authn.InvalidError](err); !ok || invalid.Field != "note" {
			t.Errorf("a note of %d bytes: %v", len(note), err)
		}
	}
}

// What was published can stop being good for an instance: another version of the
// program, say. It goes on under the policy before, and says so.
func TestInstanceKeepsWhatItHasIfItCannotFollow(t *testing.T) {
	p := newPress(t)
	here, there := p.open(), p.open(func(o *policies.Options) { o.Store = altered{o.Store, ""} })
	published, err := here.Publish(t.Context(), p.admin, policies.Upload{Files: good()})
	must(t, err)
	there.Forget("policy", published.Revision)
	if err := there.Settled(t.Context()); !errors.Is(err, authn.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, authn.ErrUnavailable)
	}
	if s := there.Status(); s.Err == nil || s.Published != "" || there.allows(t, "read") || !strings.Contains(s.Err.Error(), "not those that were published") {
		t.Errorf("status %+v", s)
	}
}

// An instance that starts while it cannot follow denies everything, until what is
// published is mended; and that is possible through it.
func TestInstanceStartsWithoutAPolicyAndIsMended(t *testing.T) {
	p := newPress(t)
	here := p.open()
	first, err := here.Publish(t.Context(), p.admin, policies.Upload{Files: good()})
	must(t, err)
	for name, mend := range map[string]func(i *instance) (policies.Publication, error){
		"published": func(i *instance) (policies.Publication, error) {
			return i.Publish(t.Context(), program, policies.Upload{Files: good("data.json", "")})
		},
		"rolled back": func(i *instance) (policies.Publication, error) {
			return i.Rollback(t.Context(), program, first.Revision, "", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad, err := here.Publish(t.Context(), p.admin, policies.Upload{Files: good("data.json", `{"x": "`+name+`"}`)})
			must(t, err)
			broken := func(o *policies.Options) { o.Store = altered{o.Store, bad.Revision} }
			i := p.open(broken)
			if s := i.Status(); s.Err == nil || s.Revision != "" || i.engine.Policy() != nil || i.allows(t, "read") {
				t.Fatalf("in force: %+v", s)
			}
			bundle, by := i.InForce()
			d, err := by.Decide(t.Context(), authz.Request{Action: authz.Action{Name: "read"}})
			if err != nil || d.Allow || d.Reasons[0].Code != authz.CodeUnavailable || len(bundle.Source.Modules) != 0 {
				t.Errorf("decided %+v, %v", d, err)
			}
			if err := i.Settled(t.Context()); !errors.Is(err, authn.ErrUnavailable) {
				t.Errorf("settled: %v", err)
			}
			// Nobody but the program may, whatever they might otherwise.
			if _, err := i.Publish(t.Context(), p.admin, policies.Upload{Files: good()}); !errors.Is(err, authn.ErrUnavailable) {
				t.Errorf("publish by an administrator: %v", err)
			}
			// What would lock them out is no way out.
			_, err = i.Publish(t.Context(), program, policies.Upload{Files: good("data.json", `{"roles": {"admin": {}}}`)})
			if refused, ok := errors.AsType[*policies.RefusedError](err); !ok || refused.Step != policies.StepLockout {
				t.Errorf("publish a lock-out: %v", err)
			}
			if _, err := i.SetRole(t.Context(), program, "r", nil, policies.Upload{}); err == nil {
				t.Error("a role was set in files that cannot be read")
			}
			got, err := mend(i)
			must(t, err)
			if s := i.Status(); s.Err != nil || s.Published != got.Revision || !i.allows(t, "read") || got.Parent != bad.Revision {
				t.Errorf("not mended: %+v", s)
			}
			if there := p.open(broken); there.Status().Err != nil || !there.allows(t, "read") {
				t.Errorf("not mended elsewhere: %+v", there.Status())
			}
		})
	}
}

// That the settings are no settings is nothing that could be published away.
func TestInstanceWithBadSettingsDoesNotStart(t *testing.T) {
	p := newPress(t)
	_, err := p.open().Publish(t.Context(), p.admin, policies.Upload{Files: good()})
	must(t, err)
	_, err = policies.Open(t.Context(), policies.Options{Engine: authz.NewEngine(authz.Options{}), Store: p.db, Settings: map[string]any{"admin_roles": 1}})
	if err == nil || !strings.Contains(err.Error(), "admin_roles") {
		t.Errorf("got %v", err)
	}
}

// altered has other files than were published.
type altered struct {
	policies.Store
	only string // of this revision, if not empty
}

func (u altered) PolicyRevision(ctx context.Context, name string) (policies.Revision, error) {
	r, err := u.Store.PolicyRevision(ctx, name)
	if u.only != "" && r.ID != u.only {
		return r, err
	}
	r.Files = good("data.json", `{"roles": {"user": {"*": ["*"]}}}`)
	return r, err
}

func TestWithoutStoreNothingIsPublished(t *testing.T) {
	e := authz.NewEngine(authz.Options{})
	l, err := policies.Open(t.Context(), policies.Options{Engine: e})
	must(t, err)
	if _, err := l.Publish(t.Context(), program, policies.Upload{Files: good()}); !errors.Is(err, policies.ErrNotPublished) {
		t.Errorf("publish: %v", err)
	}
	if _, err := l.SetRole(t.Context(), program, "r", nil, policies.Upload{}); !errors.Is(err, policies.ErrNotPublished) {
		t.Errorf("set role: %v", err)
	}
	if _, err := l.Check(t.Context(), program, good()); err != nil {
		t.Errorf("check needs none: %v", err)
	}
}

// Recorded decisions have their say before a bundle is published: what is
// configured holds whatever is asked for, and only what is meant gets through.
func TestReplayGate(t *testing.T) {
	p := newPress(t)
	log := audit.NewLog(p.db, audit.Options{})
	here := p.open(func(o *policies.Options) { o.Decisions = log.Reader() })
	_, err := here.Publish(t.Context(), p.admin, policies.Upload{Files: good("data.json", actions)})
	must(t, err)
	for range 4 {
		here.allows(t, "read")
		here.allows(t, "share")
	}
	must(t, here.log.Flush(t.Context()))
	flips := []policies.Expectation{{Flip: policies.DenyToAllow, Action: "share"}}
	day := 24 * time.Hour
	gated := func(set policies.ReplayGate, records int) *instance {
		return p.open(func(o *policies.Options) { o.Decisions, o.Replay, o.ReplayRecords = log.Reader(), set, records })
	}
	configured := gated(policies.ReplayGate{Since: day}, 0)
	strict := gated(policies.ReplayGate{Since: day, FailOn: policies.FailOnAny}, 0)
	for name, c := range map[string]struct {
		i    *instance
		in   policies.ReplayGate
		want string // in the refusal; "" is published
	}{
		"nothing is asked":                 {here, policies.ReplayGate{}, ""},
		"asked for":                        {here, policies.ReplayGate{Since: day}, "4 decisions would flip, deny-to-allow: document:share by no role: app, was role_missing"},
		"meant":                            {here, policies.ReplayGate{Since: day, FailOn: policies.FailOnAny, Expect: flips}, ""},
		"any":                              {here, policies.ReplayGate{Since: day, FailOn: policies.FailOnAny}, "4 decisions would flip"},
		"none":                             {here, policies.ReplayGate{Since: day, FailOn: policies.FailOnNone}, ""},
		"meant, and does not come":         {here, policies.ReplayGate{Since: day, Expect: append(flips, policies.Expectation{Action: "slow"})}, `expected, and did not happen: {"action":"slow"}`},
		"configured":                       {configured, policies.ReplayGate{}, "4 decisions would flip"},
		"configured, and asked for less":   {configured, policies.ReplayGate{Since: time.Nanosecond, FailOn: policies.FailOnNone}, "4 decisions would flip"},
		"configured, and meant":            {configured, policies.ReplayGate{Expect: flips}, ""},
		"configured any, and asked for it": {strict, policies.ReplayGate{FailOn: policies.DenyToAllow}, "4 decisions would flip"},
		"expectations without a time":      {here, policies.ReplayGate{Expect: flips}, "replay/since: is needed"},
		"failures that are none":           {here, policies.ReplayGate{Since: day, FailOn: "some"}, `replay/failOn: "some" is none of`},
		"expectations that say nothing":    {here, policies.ReplayGate{Since: day, Expect: []policies.Expectation{{}}}, "replay/expect/0: "},
	} {
		got, err := c.i.Publish(t.Context(), p.admin, policies.Upload{Files: readers(), DryRun: true, Replay: c.in})
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		case c.want == "" && (got.Replay != nil) != (c.i != here || c.in.Since > 0):
			t.Errorf("%s: report %+v", name, got.Replay)
		}
		if refused, ok := errors.AsType[*policies.RefusedError](err); ok && (refused.Step != policies.StepReplay || refused.Replay == nil || refused.Replay.DenyToAllow != 4 || refused.Replay.Records < 8) {
			t.Errorf("%s: refusal %+v", name, refused.Replay)
		}
	}
	// Roles are edited to change answers, so these are not asked.
	if _, err := configured.SetRole(t.Context(), p.admin, "user", authz.Permissions{"document": {"share"}}, policies.Upload{DryRun: true}); err != nil {
		t.Errorf("a role: %v", err)
	}
	// The newest are looked at, and it is said that there are more.
	few := gated(policies.ReplayGate{Since: day, FailOn: policies.FailOnNone}, 3)
	got, err := few.Publish(t.Context(), p.admin, policies.Upload{Files: readers()})
	must(t, err)
	if got.Replay == nil || got.Replay.Records != 3 || got.Replay.Limited != "records" {
		t.Errorf("limited: %+v", got.Replay)
	}
	kept, err := here.History(t.Context(), p.admin, 0, 1)
	must(t, err)
	if r := kept[0].Replay; r == nil || r.Records != 3 || r.PolicyRevision != got.PolicyRevision {
		t.Errorf("kept: %+v", r)
	}
	if _, err := p.open().Publish(t.Context(), p.admin, policies.Upload{Files: good(), Replay: policies.ReplayGate{Since: day}}); err == nil || !strings.Contains(err.Error(), "no decisions to replay") {
		t.Errorf("without decisions: %v", err)
	}
}
