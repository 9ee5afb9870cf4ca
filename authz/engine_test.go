package authz_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authz"
)

// minimal is a policy as small as one can be: it answers what its rule says.
func minimal(decision string) authz.Source {
	return authz.Source{
		Revision: "r1",
		Modules: map[string]string{"policy.rego": `package ostiary

permissions := {"user": ["list"]}

own_permissions := {}

` + decision},
		Data: map[string]any{"roles": map[string]any{"admin": map[string]any{"user": []any{"list"}}}},
	}
}

const allowAll = `decision := {"allow": true, "reasons": [{"code": "test", "message": "anything goes"}], "context": {}}`

func compile(t testing.TB, src authz.Source) *authz.Policy {
	t.Helper()
	p, err := authz.Compile(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func engine(t testing.TB, src authz.Source, o authz.Options) *authz.Engine {
	t.Helper()
	e := authz.NewEngine(o)
	e.Swap(compile(t, src))
	return e
}

func decide(t testing.TB, e *authz.Engine, r authz.Request) authz.Decision {
	t.Helper()
	d, err := e.Decide(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func subject(t testing.TB, id authz.Identity) *authz.Subject {
	t.Helper()
	s, err := authz.NewSubject(id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var listUsers = authz.Request{Action: authz.Action{Name: "list"}, Resource: authz.Resource{Type: "user"}}

func TestIDsOfDecisionsAreUniqueAndBeginWithTheirTime(t *testing.T) {
	now := time.UnixMilli(1<<40 - 2000) // digits carry over meanwhile
	e := engine(t, minimal(`decision := {"allow": true, "reasons": [], "context": {}}`), authz.Options{Clock: func() time.Time { return now }, Memo: -1})
	seen, before := map[string]bool{}, ""
	for range 4000 {
		now = now.Add(time.Millisecond)
		first, second := decide(t, e, listUsers).ID, decide(t, e, listUsers).ID
		if seen[first] || seen[second] || first == second {
			t.Fatalf("%s or %s is there twice", first, second)
		}
		seen[first], seen[second] = true, true
		if len(first) != 26 || strings.Trim(first, "234567ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			t.Fatalf("%s is not of 26 digits", first)
		}
		if first <= before || second <= before {
			t.Fatalf("%s and %s are not after %s", first, second, before)
		}
		before = max(first, second)
	}
}

func TestZeroDecisionDenies(t *testing.T) {
	if (authz.Decision{}).Allow {
		t.Error("the zero Decision allows")
	}
}

// Whatever goes wrong with a policy, the answer is a denial that says so.
func TestFailingPolicyDeniesWithItsReason(t *testing.T) {
	slow := `decision := {"allow": true, "reasons": [{"code": "slow", "message": "slow"}]} if {
	count([x | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); x := a * b]) > 0
}`
	tests := []struct{ name, decision, code string }{
		{"undefined", `decision := {"allow": true} if input.nothing`, authz.CodePolicyError},
		{"not an object", `decision := true`, authz.CodePolicyError},
		{"allow missing", `decision := {"reasons": []}`, authz.CodePolicyError},
		{"allow not a boolean", `decision := {"allow": "true", "reasons": []}`, authz.CodePolicyError},
		{"denial without a reason", `decision := {"allow": false, "reasons": []}`, authz.CodePolicyError},
		{"reason without a code", `decision := {"allow": true, "reasons": [{"message": "m"}]}`, authz.CodePolicyError},
		{"reason without a message", `decision := {"allow": true, "reasons": [{"code": "c", "message": 1}]}`, authz.CodePolicyError},
		{"reason not an object", `decision := {"allow": true, "reasons": ["because"]}`, authz.CodePolicyError},
		{"reason with a member without a name", `decision := {"allow": true, "reasons": [{"code": "c", "message": "m", 1: 2}]}`, authz.CodePolicyError},
		{"reasons not a list", `decision := {"allow": true, "reasons": "because"}`, authz.CodePolicyError},
		{"context not an object", `decision := {"allow": true, "reasons": [], "context": 1}`, authz.CodePolicyError},
		{"conflicting rules", `decision := {"allow": true, "reasons": []} if input.action.name == "list"

decision := {"allow": false, "reasons": []} if input.resource.type == "user"`, authz.CodePolicyError},
		{"a built-in fails in a rule that forbids", `decision := {"allow": true, "reasons": []} if not forbidden

forbidden if to_number(input.action.name) > 1`, authz.CodePolicyError},
		{"too slow", slow, authz.CodeDeadline},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := engine(t, minimal(tt.decision), authz.Options{Deadline: 50 * time.Millisecond})
			d := decide(t, e, listUsers)
			if d.Allow || len(d.Reasons) != 1 || d.Reasons[0].Code != tt.code {
				t.Errorf("got allow=%v %v, want a denial with %s", d.Allow, d.Reasons, tt.code)
			}
		})
	}
}

// A reason says all that the policy says in it.
func TestReasonsHaveTheirDetails(t *testing.T) {
	e := engine(t, minimal(`decision := {"allow": false, "reasons": {
	{"code": "a", "message": "m", "permission": "p", "until": {"day": 1}},
	{"code": "b", "message": "m"},
}}`), authz.Options{})
	want := []authz.Reason{
		{Code: "a", Message: "m", Permission: "p", Details: map[string]any{"until": map[string]any{"day": json.Number("1")}}},
		{Code: "b", Message: "m"},
	}
	if d := decide(t, e, listUsers); !reflect.DeepEqual(d.Reasons, want) {
		t.Errorf("got %+v", d.Reasons)
	}
}

// Whatever the time is spent on, until it is looked at for the first time.
func TestADeadlineCountsFromTheBeginning(t *testing.T) {
	for _, topdown := range []bool{false, true} {
		e := engine(t, minimal(`decision := {"allow": true, "reasons": [{"code": "a", "message": "b"}]} if {
	every i in numbers.range(1, 20) { i < 30 }
}`), authz.Options{Deadline: time.Nanosecond, Topdown: topdown, Recheck: -1})
		if d := decide(t, e, listUsers); d.Allow || d.Reasons[0].Code != authz.CodeDeadline {
			t.Errorf("topdown %v: got %+v", topdown, d)
		}
	}
}

// A policy that never ends does, once whoever asked is gone.
func TestNothingIsDecidedForNobody(t *testing.T) {
	const deadline = 30 * time.Second
	e := engine(t, minimal(`decision := {"allow": true, "reasons": [{"code": "slow", "message": "slow"}]} if {
	some a in numbers.range(1, 1000000)
	some b in numbers.range(1, 1000000)
	a + b < 0
}`), authz.Options{Deadline: deadline})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	began := time.Now()
	if d, err := e.Decide(ctx, listUsers); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) >= deadline {
		t.Errorf("after %s: %+v, %v", time.Since(began), d, err)
	}
}

func TestWithoutPolicyEverythingIsDenied(t *testing.T) {
	d := decide(t, authz.NewEngine(authz.Options{}), listUsers)
	if d.Allow || len(d.Reasons) != 1 || d.Reasons[0].Code != authz.CodeUnavailable {
		t.Errorf("got %+v, want a denial with %s", d, authz.CodeUnavailable)
	}
}

// A policy that allows everything still can't give a key what it lacks.
func TestPolicyNeverWidensAKey(t *testing.T) {
	e := engine(t, minimal(allowAll), authz.Options{})
	key := func(grants authz.Permissions) *authz.Subject {
		return subject(t, authz.Identity{Type: "user", ID: "u1", Credential: authz.CredentialAPIKey,
			Key: &authz.KeyFacts{ID: "k1", Name: "System", Permissions: grants}})
	}
	tests := []struct {
		name   string
		grants authz.Permissions
		want   bool
	}{
		{"no grants", nil, false},
		{"another action", authz.Permissions{"user": {"get"}}, false},
		{"another type", authz.Permissions{"session": {"list"}}, false},
		{"the permission", authz.Permissions{"user": {"get", "list"}}, true},
		{"all actions", authz.Permissions{"user": {"*"}}, true},
		{"all types", authz.Permissions{"*": {"list"}}, true},
		{"an empty list", authz.Permissions{"user": {}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := listUsers
			r.Subject = key(tt.grants)
			d := decide(t, e, r)
			if d.Allow != tt.want {
				t.Fatalf("got allow=%v %v, want %v", d.Allow, d.Reasons, tt.want)
			}
			if !tt.want && (d.Reasons[0].Code != authz.CodeGrantMissing || d.Reasons[0].Permission != "user:list") {
				t.Errorf("got %+v, want %s of user:list", d.Reasons[0], authz.CodeGrantMissing)
			}
		})
	}
}

// What a table maps a request to is a permission of it as its own is; a key
// needs one of them.
func TestPolicyNeverWidensAKeyByAMappedPermission(t *testing.T) {
	e := engine(t, minimal(allowAll), authz.Options{})
	for _, tt := range []struct {
		grants authz.Permissions
		mapped string
		allow  bool
	}{
		{authz.Permissions{"document": {"read"}}, "document:read", true},
		{authz.Permissions{"route": {"GET"}}, "document:read", true},
		{authz.Permissions{"route": {"GET"}}, "public", true},
		{authz.Permissions{"*": {"read"}}, "document:read", true},
		{authz.Permissions{"document": {"read:all"}}, "document:read:all", true},
		{authz.Permissions{"document": {"read"}}, "document:write", false},
		{authz.Permissions{"document": {"read"}}, "", false},
		{authz.Permissions{"document": {"read"}, "public": {""}}, "public", false},
		{nil, "document:read", false},
	} {
		d := decide(t, e, authz.Request{
			Subject: subject(t, authz.Identity{Type: "user", ID: "u1", Credential: authz.CredentialAPIKey, Key: &authz.KeyFacts{ID: "k1", Permissions: tt.grants}}),
			Action:  authz.Action{Name: "GET"}, Resource: authz.Resource{Type: "route"}, Mapped: tt.mapped,
		})
		if d.Allow != tt.allow || !d.Allow && d.Reasons[0].Code != authz.CodeGrantMissing {
			t.Errorf("granted %v, mapped to %q: got %+v", tt.grants, tt.mapped, d)
		}
	}
}

func TestPoliciesSeeTheInputDocument(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 6e6, time.UTC)
	s := subject(t, authz.Identity{
		Type: "user", ID: "u1", Credential: authz.CredentialSession, Roles: []string{"admin", "support"},
		User: &authz.UserFacts{ID: "u1", Name: "Ann", Email: "ann@example.com", Username: "ann",
			CreatedAt: now, Attributes: map[string]any{"team": "red"}},
		Session: &authz.SessionFacts{ID: "s1", CreatedAt: now, ExpiresAt: now.Add(time.Hour), FreshUntil: now.Add(time.Minute)},
	})
	const want = `{
	"principal": {
		"type": "user", "id": "u1", "credential": "session", "roles": ["admin", "support"],
		"user": {"id": "u1", "name": "Ann", "email": "ann@example.com", "emailVerified": false, "username": "ann",
			"banned": false, "createdAt": "2030-01-02T03:04:05.006Z", "attributes": {"team": "red"}},
		"session": {"id": "s1", "createdAt": "2030-01-02T03:04:05.006Z", "expiresAt": "2030-01-02T04:04:05.006Z", "fresh": true},
	},
	"action": {"name": "read", "properties": {"why": "audit"}},
	"resource": {"type": "document", "id": "d1", "properties": {"owner": "u1"}},
	"context": {"ip": "192.0.2.1", "method": "GET", "path": "/d", "userAgent": "test", "time": "2030-01-02T03:04:05.006Z", "tenant": "t1"},
}`
	e := engine(t, minimal(`decision := {"allow": true, "reasons": [{"code": "same", "message": "same"}]} if input == `+want+`

else := {"allow": false, "reasons": [{"code": "differs", "message": json.marshal(input)}]}`),
		authz.Options{Clock: func() time.Time { return now }})
	ctx := authz.WithFacts(t.Context(), &authz.Facts{IP: "192.0.2.1", UserAgent: "test", Method: "GET", Path: "/d"})
	r := authz.Request{
		Subject:  s,
		Action:   authz.Action{Name: "read", Properties: map[string]any{"why": "audit"}},
		Resource: authz.Resource{Type: "document", ID: "d1", Properties: map[string]any{"owner": "u1"}},
		// The caller of an HTTP request can't choose the address a policy sees.
		Context: map[string]any{"tenant": "t1", "ip": "203.0.113.9"},
	}
	d, err := e.Decide(ctx, r)
	if err != nil || !d.Allow {
		t.Errorf("got %v %+v", err, d.Reasons)
	}
}

func TestCallerCannotFillInWhatIsNotKnownOfTheRequest(t *testing.T) {
	e := engine(t, minimal(`decision := {"allow": true, "reasons": [{"code": "seen", "message": "seen"}]} if input.context.ip

else := {"allow": false, "reasons": [{"code": "unknown", "message": "no address"}]}`), authz.Options{})
	r := listUsers
	r.Context = map[string]any{"ip": "192.0.2.1"}
	d, err := e.Decide(authz.WithFacts(t.Context(), &authz.Facts{}), r)
	if err != nil || d.Allow {
		t.Errorf("got %v, allow=%v; want a denial", err, d.Allow)
	}
	// A program that asks for itself says what it likes.
	if d := decide(t, e, r); !d.Allow {
		t.Error("the program's own context did not count")
	}
}

// What is known of the request that asks about somebody is not known of them.
func TestContextOfAnAssertedSubjectIsTheApplications(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	e := engine(t, minimal(`decision := {"allow": true, "reasons": [], "context": input.context}`), authz.Options{Clock: func() time.Time { return now }})
	asserted := subject(t, authz.Identity{Type: "user", ID: "ann", Credential: authz.CredentialAsserted})
	ctx := authz.WithFacts(t.Context(), &authz.Facts{IP: "192.0.2.1", UserAgent: "gateway", Method: "POST", Path: "/access/v1/evaluation"})
	for _, said := range []map[string]any{nil, {"ip": "203.0.113.9", "device": "phone", "time": "1985-10-26T01:22-07:00"}} {
		r := authz.Request{Subject: asserted, Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "record", ID: "1"}, Context: said}
		want := map[string]any{}
		maps.Copy(want, said)
		want["time"] = "2026-01-02T03:04:05.000Z"
		d, err := e.Decide(ctx, r)
		if err != nil || !reflect.DeepEqual(d.Context, want) {
			t.Errorf("said %v: policies saw %v, %v; want %v", said, d.Context, err, want)
		}
		if doc := r.Document(authz.FactsFrom(ctx), now)["context"]; !reflect.DeepEqual(doc, want) {
			t.Errorf("said %v: on record as %v, want %v", said, doc, want)
		}
	}
}

func TestSessionStopsBeingFreshWithTime(t *testing.T) {
	for _, rule := range []string{"input.principal.session.fresh == true", "whole(input.principal)", "part(input.principal.session)"} {
		now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		e := engine(t, minimal(`decision := {"allow": true, "reasons": [{"code": "fresh", "message": "fresh"}]} if `+rule+`

else := {"allow": false, "reasons": [{"code": "stale", "message": "stale"}]}

whole(principal) if principal.session.fresh == true

part(session) if session.fresh == true`),
			authz.Options{Clock: func() time.Time { return now }})
		r := listUsers
		r.Subject = subject(t, authz.Identity{Type: "user", ID: "u1", Credential: authz.CredentialSession,
			Session: &authz.SessionFacts{ID: "s1", FreshUntil: now.Add(time.Minute)}})
		for range 2 {
			if d := decide(t, e, r); !d.Allow {
				t.Errorf("%s: before FreshUntil: got %v", rule, d.Reasons)
			}
			now = now.Add(time.Minute)
			if d := decide(t, e, r); d.Allow {
				t.Errorf("%s: at FreshUntil: still fresh", rule)
			}
			now = now.Add(-time.Minute)
		}
	}
}

type recorder struct {
	mu       sync.Mutex
	failures []error
	allows   []bool
	refuse   error
}

func (r *recorder) Record(_ context.Context, o authz.Outcome) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, o.Failure)
	r.allows = append(r.allows, o.Decision.Allow)
	return r.refuse
}

func TestEveryOutcomeIsRecorded(t *testing.T) {
	rec := &recorder{}
	e := engine(t, minimal(allowAll), authz.Options{Recorder: rec})
	decide(t, e, listUsers)
	e.Swap(compile(t, minimal(`decision := {"allow": true, "reasons": [{"code": "m"}]}`)))
	decide(t, e, listUsers)
	e.Swap(nil)
	decide(t, e, listUsers)
	if len(rec.allows) != 3 || !rec.allows[0] || rec.allows[1] || rec.allows[2] {
		t.Fatalf("recorded %v, want allow, deny, deny", rec.allows)
	}
	if rec.failures[0] != nil || rec.failures[1] == nil || rec.failures[2] == nil {
		t.Errorf("failures %v, want none, one, one", rec.failures)
	}
}

func TestDecisionThatCannotBeRecordedIsDenied(t *testing.T) {
	e := engine(t, minimal(allowAll), authz.Options{Recorder: &recorder{refuse: errors.New("full")}})
	d := decide(t, e, listUsers)
	if d.Allow || d.Reasons[0].Code != authz.CodeUnavailable {
		t.Errorf("got %+v, want a denial with %s", d, authz.CodeUnavailable)
	}
}

func TestEndedContextIsAnErrorNotAnAnswer(t *testing.T) {
	e := engine(t, minimal(allowAll), authz.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d, err := e.Decide(ctx, listUsers); !errors.Is(err, context.Canceled) || d.Allow {
		t.Errorf("got %v %v, want a denial and %v", d.Allow, err, context.Canceled)
	}
}

func TestCompileNamesEveryMistakeAndItsPlace(t *testing.T) {
	tests := []struct {
		name string
		src  func() authz.Source
		want []string
	}{
		{"syntax", func() authz.Source {
			src := minimal(allowAll)
			src.Modules["a.rego"] = "package a\n\nx := {"
			src.Modules["b.rego"] = "package b\n\ny := 1 +"
			return src
		}, []string{"a.rego:3", "b.rego:3"}},
		{"unsafe variable", func() authz.Source {
			src := minimal(allowAll)
			src.Modules["a.rego"] = "package a\n\nx if y == 1"
			return src
		}, []string{"a.rego:3:6: ", "y is unsafe"}},
		{"network", func() authz.Source {
			src := minimal(allowAll)
			src.Modules["a.rego"] = "package a\n\nx := http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1\"})"
			return src
		}, []string{"a.rego:3:6: ", "http.send"}},
		{"environment", func() authz.Source {
			src := minimal(allowAll)
			src.Modules["a.rego"] = "package a\n\nx := opa.runtime()"
			return src
		}, []string{"a.rego:3:6: ", "opa.runtime"}},
		{"data under a rule", func() authz.Source {
			src := minimal(allowAll)
			src.Data["ostiary"] = map[string]any{"decision": map[string]any{"allow": true}}
			return src
		}, []string{"policy.rego", "conflict"}},
		{"no decision", func() authz.Source {
			return authz.Source{Modules: map[string]string{"a.rego": "package a\n\nx := 1"}}
		}, []string{"data.ostiary.decision"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := authz.Compile(t.Context(), tt.src())
			if err == nil {
				t.Fatal("compiled")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
		})
	}
}

// A batch is shared among cores: its answers, and what is told of them, keep the
// order of the questions, and all are of one time.
func TestBatchIsAnsweredInOrder(t *testing.T) {
	src := minimal(`decision := {"allow": input.action.name in {"a", "c"}, "reasons": [{"code": input.resource.id, "message": "it"}], "context": {}}`)
	recorder := &recorded{}
	e := engine(t, src, authz.Options{Recorder: recorder})
	var told []string
	ctx := authz.WithFacts(t.Context(), &authz.Facts{Decided: func(d authz.Decision) { told = append(told, d.ID) }})
	batch := make([]authz.Request, 100)
	for i := range batch {
		batch[i] = listUsers
		batch[i].Resource.ID = fmt.Sprint(i)
		batch[i].Action.Name = string(rune('a' + i%3))
	}
	ds, err := e.DecideAll(ctx, batch)
	if err != nil || len(ds) != len(batch) || len(told) != len(batch) {
		t.Fatalf("%d decisions, %d told, %v", len(ds), len(told), err)
	}
	for i, d := range ds {
		if d.Reasons[0].Code != fmt.Sprint(i) || d.Allow != (i%3 != 1) || told[i] != d.ID {
			t.Errorf("%d: %+v, told %s", i, d, told[i])
		}
	}
	if n := recorder.count(); n != len(batch) {
		t.Errorf("%d records", n)
	}
	for i, d := range ds {
		if !d.Time.Equal(ds[0].Time) {
			t.Errorf("%d is of %s, the first of %s", i, d.Time, ds[0].Time)
		}
	}

	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if ds, err := e.DecideAll(ctx, batch); !errors.Is(err, context.Canceled) || ds != nil {
		t.Errorf("given up: %d decisions, %v", len(ds), err)
	}
}

// What breaks in the part of a batch that another goroutine has breaks in the
// caller's, who can recover from it.
func TestBatchPanicsWhereItWasAsked(t *testing.T) {
	e := engine(t, minimal(allowAll), authz.Options{Recorder: breaking{}})
	batch := make([]authz.Request, 100)
	for i := range batch {
		batch[i] = listUsers
	}
	defer func() {
		if failure, _ := recover().(string); !strings.HasPrefix(failure, "broken") {
			t.Errorf("recovered %q", failure)
		}
	}()
	_, err := e.DecideAll(t.Context(), batch)
	t.Errorf("returned %v", err)
}

type recorded struct {
	mu sync.Mutex
	n  int
}

func (r *recorded) Record(context.Context, authz.Outcome) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	return nil
}

func (r *recorded) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

type breaking struct{}

func (breaking) Record(context.Context, authz.Outcome) error { panic("broken") }

func TestBatchIsDecidedUnderOnePolicy(t *testing.T) {
	e := engine(t, minimal(allowAll), authz.Options{})
	deny := minimal(`decision := {"allow": false, "reasons": [{"code": "no", "message": "no"}]}`)
	deny.Revision = "r2"
	policies := []*authz.Policy{compile(t, minimal(allowAll)), compile(t, deny)}
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				e.Swap(policies[i%2])
			}
		}
	})
	batch := make([]authz.Request, 20)
	for i := range batch {
		batch[i] = listUsers
	}
	for range 50 {
		ds, err := e.DecideAll(t.Context(), batch)
		if err != nil {
			t.Fatal(err)
		}
		one := e.Now()
		for range batch {
			d, err := one.Decide(t.Context(), listUsers)
			if err != nil {
				t.Fatal(err)
			}
			ds = append(ds, d)
		}
		for _, d := range ds[len(batch):] {
			if d.Revision != ds[len(batch)].Revision {
				t.Fatalf("mixed answer, one by one: %s in a batch of %s", d.Revision, ds[len(batch)].Revision)
			}
		}
		ds = ds[:len(batch)]
		for _, d := range ds {
			if d.Revision != ds[0].Revision || d.Allow != (d.Revision == "r1") {
				t.Fatalf("mixed answer: %s allow=%v in a batch of %s", d.Revision, d.Allow, ds[0].Revision)
			}
		}
	}
	close(stop)
	swapping.Wait()
}

// Subjects and data are shared by goroutines; the race detector watches.
func TestOneSubjectServesManyGoroutines(t *testing.T) {
	e := engine(t, minimal(`decision := {"allow": true, "reasons": [{"code": r, "message": json.marshal(data.roles)} | some r in input.principal.roles]} if {
	some k, v in input.principal.user.attributes
	json.marshal(input.principal) != ""
}`), authz.Options{})
	r := listUsers
	r.Subject = subject(t, authz.Identity{Type: "user", ID: "u1", Credential: authz.CredentialSession, Roles: []string{"z", "a", "m"},
		User: &authz.UserFacts{ID: "u1", Attributes: map[string]any{"z": "1", "a": "2", "m": map[string]any{"y": 1, "b": 2}}}})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				if d, err := e.Decide(context.Background(), r); err != nil || !d.Allow {
					t.Errorf("got %v %+v", err, d)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestExplainNamesTheRulesThatHeldAndFailed(t *testing.T) {
	e := engine(t, minimal(`decision := {"allow": false, "reasons": [r | some r in reasons]}

reasons contains {"code": "held", "message": "this held"} if {
	input.action.name == "list"
}

reasons contains {"code": "failed", "message": "this did not"} if {
	input.action.name == "get"
}`), authz.Options{})
	x, err := e.Explain(t.Context(), listUsers)
	if err != nil {
		t.Fatal(err)
	}
	if x.Decision.Allow || x.Decision.Reasons[0].Code != "held" {
		t.Errorf("decision %+v", x.Decision)
	}
	find := func(rules []authz.Rule, line int) bool {
		for _, r := range rules {
			if r.File == "policy.rego" && r.Line == line && r.Name == "data.ostiary.reasons" {
				return true
			}
		}
		return false
	}
	if !find(x.Fired, 9) || find(x.Failed, 9) {
		t.Errorf("line 9 held: fired %v, failed %v", x.Fired, x.Failed)
	}
	if !find(x.Failed, 13) || find(x.Fired, 13) {
		t.Errorf("line 13 failed: fired %v, failed %v", x.Fired, x.Failed)
	}
}

func TestPermissionsAllows(t *testing.T) {
	p := authz.Permissions{"user": {"list"}, "session": {"*"}, "*": {"read"}}
	tests := []struct {
		typ, action string
		want        bool
	}{
		{"user", "list", true}, {"user", "delete", false}, {"session", "anything", true},
		{"document", "read", true}, {"document", "write", false}, {"", "", false},
	}
	for _, tt := range tests {
		if got := p.Allows(tt.typ, tt.action); got != tt.want {
			t.Errorf("%s:%s: got %v, want %v", tt.typ, tt.action, got, tt.want)
		}
	}
}
