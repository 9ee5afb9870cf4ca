package authz_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authz"
)

// telling is a policy that says what it reads at paths, so that every difference
// in what it reads is one in what it answers.
func telling(paths []string) authz.Source {
	var rules, members strings.Builder
	for i, path := range paths {
		fmt.Fprintf(&rules, "default p%d := \"undefined\"\n\np%d := %s\n\n", i, i, path)
		fmt.Fprintf(&members, "%q: p%d, ", path, i)
	}
	return minimal(`decision := {"allow": true, "reasons": [{"code": "ok", "message": "ok", "read": context}], "context": context} if input.action.name != "denied"
else := {"allow": false, "reasons": [{"code": "no", "message": "no"}], "context": context}

context := {` + members.String() + `"n": 1}

` + rules.String())
}

// readable are the paths that policies of the tests read.
var readable = []string{
	"input.principal", "input.principal.id", "input.principal.roles", "input.principal.session.fresh", "input.principal.user.banned", "input.principal.user.attributes.plan",
	"input.action", "input.action.name", "input.action.properties", "input.action.properties.x", "input.action.name.x",
	"input.resource", "input.resource.type", "input.resource.id", "input.resource.known", "input.resource.properties", "input.resource.properties.x",
	"input.resource.properties.x.y", "input.resource.properties.owner", "input.resource.properties.absent",
	"input.context.ip", "input.context.userAgent", "input.context.path", "input.context.x", "input.context.x.y", "input.context.time.x", "input.nothing",
}

// world is what decisions depend on, and what changes it.
type world struct {
	random   *rand.Rand
	now      atomic.Int64
	entities map[string]any // of resources, as an application stored them
	people   []*authz.Subject
}

func (w *world) one(n int) int { return w.random.IntN(n) }

func (w *world) value() any {
	values := []any{
		nil, true, false, "", "y", "s1y", 0, 1, int64(1), 1.0, 1.5, json.Number("1"), json.Number("1e3"), json.Number("12345678901234567890"),
		[]any{}, []any{"a", "b"}, []any{"ab"}, []any{[]any{"a"}, "b"}, map[string]any{}, map[string]any{"y": "z"}, map[string]any{"y": nil},
		map[string]any{"y": map[string]any{"a": "b"}}, map[string]any{"a": "b", "c": "d"}, map[string]any{"a": "bc", "d": ""}, "\x00", strings.Repeat("long", 300),
	}
	return values[w.one(len(values))]
}

func (w *world) properties() map[string]any {
	switch w.one(4) {
	case 0:
		return nil
	case 1:
		return map[string]any{"unread": w.value()}
	}
	m := map[string]any{"x": w.value()}
	if w.one(2) == 0 {
		m["owner"] = fmt.Sprint("u", w.one(2))
	}
	return m
}

func (w *world) person(t *testing.T) *authz.Subject {
	id := authz.Identity{
		Type: authz.TypeUser, ID: fmt.Sprint("u", w.one(2)), Credential: authz.CredentialSession,
		Roles:   [][]string{nil, {"user"}, {"admin", "user"}}[w.one(3)],
		User:    &authz.UserFacts{ID: "u", Name: "ann", Banned: w.one(3) == 0, Attributes: map[string]any{"plan": w.one(2)}},
		Session: &authz.SessionFacts{ID: "s", FreshUntil: time.Unix(w.now.Load()+int64(w.one(40)), 0)},
	}
	switch w.one(6) {
	case 0:
		id.Credential, id.Session = authz.CredentialAPIKey, nil
		id.Key = &authz.KeyFacts{ID: "k", Name: "ci", Permissions: []authz.Permissions{nil, {"user": {"list"}}, {"*": {"*"}}}[w.one(3)]}
	case 1:
		id.Credential, id.Session, id.Properties = authz.CredentialAsserted, nil, map[string]any{"plan": w.one(2)}
	}
	return subject(t, id)
}

func (w *world) request() (context.Context, authz.Request) {
	r := authz.Request{
		Subject:  w.people[w.one(len(w.people))],
		Action:   authz.Action{Name: []string{"list", "get", "denied", "ban", "\xff"}[w.one(5)], Properties: w.properties()},
		Resource: authz.Resource{Type: []string{"user", "document"}[w.one(2)], ID: []string{"", "u0", "u1"}[w.one(3)], Properties: w.properties()},
		Mapped:   []string{"", "", "user:list", "user:ban"}[w.one(4)],
	}
	if w.one(8) == 0 {
		r.Resource.Properties = map[string]any{"unread": func() {}}
	}
	if w.one(3) == 0 {
		r.Context = map[string]any{"x": w.value(), "ip": "said", "time": "said"}
	}
	ctx := context.Background()
	if w.one(2) == 0 {
		ctx = authz.WithFacts(ctx, &authz.Facts{IP: []string{"", "192.0.2.1"}[w.one(2)], UserAgent: []string{"", "curl", "\xff"}[w.one(3)], Path: "/x"})
	}
	return ctx, r
}

// What is remembered is what the policy would answer: whatever it reads, whoever
// asks, whatever was changed before (roles, bans, grants, an entity, the policy),
// also when a session is not fresh any more, and whatever was done to answers
// that were given.
func TestRememberedAnswersAreFreshOnes(t *testing.T) {
	for seed := range uint64(8) {
		w := &world{random: rand.New(rand.NewPCG(seed, 1)), entities: map[string]any{}}
		w.now.Store(1788264000)
		clock := func() time.Time { return time.Unix(w.now.Load(), 0) }
		describe := func(_ context.Context, r authz.Resource, _ string) (authz.Resource, error) {
			if x, ok := w.entities[r.ID]; ok {
				r.Known = true
				r.Properties = map[string]any{"x": x, "owner": "stored"}
			}
			return r, nil
		}
		remembering := authz.NewEngine(authz.Options{Clock: clock, Describe: describe, Memo: 200, Recheck: -1, Deadline: time.Minute})
		fresh := authz.NewEngine(authz.Options{Clock: clock, Describe: describe, Memo: -1, Recheck: -1, Deadline: time.Minute})
		var all []*authz.Policy
		if seed < 2 {
			for _, p := range bundles(t) {
				if why := p.Analysis().Impure(); why == "" {
					all = append(all, p)
				}
			}
		} else {
			for i := range 4 {
				paths := slices.Clone(readable)
				w.random.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
				src := telling(paths[:1+w.one(4)])
				src.Revision = fmt.Sprint("r", i)
				all = append(all, compile(t, src))
			}
		}
		swap := func() {
			p := all[w.one(len(all))]
			if p.Analysis().Impure() != "" || p.Analysis().Refused != "" {
				t.Fatalf("%+v", p.Analysis())
			}
			remembering.Swap(p)
			fresh.Swap(p)
		}
		swap()
		w.people = []*authz.Subject{nil, w.person(t), w.person(t)}
		for range 2000 {
			switch w.one(60) {
			case 0:
				w.people[1+w.one(2)] = w.person(t) // the same person, with something else of them
			case 1:
				w.now.Add(int64(w.one(10)))
			case 2:
				w.entities[fmt.Sprint("u", w.one(2))] = w.value()
			case 3:
				delete(w.entities, fmt.Sprint("u", w.one(2)))
			case 4:
				if w.one(5) == 0 {
					swap()
				}
			}
			ctx, r := w.request()
			got, err1 := remembering.Decide(ctx, r)
			want, err2 := fresh.Decide(ctx, r)
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			if got.Allow != want.Allow || !reflect.DeepEqual(got.Reasons, want.Reasons) || !reflect.DeepEqual(got.Context, want.Context) || !got.Time.Equal(want.Time) || got.Revision != want.Revision {
				t.Fatalf("seed %d: %+v\nremembered %+v\nfresh      %+v", seed, r, got, want)
			}
			// What the asker does to an answer is the asker's own.
			for i := range got.Reasons {
				got.Reasons[i].Message = "spoilt"
				for k := range got.Reasons[i].Details {
					got.Reasons[i].Details[k] = "spoilt"
				}
			}
			for k := range got.Context {
				got.Context[k] = "spoilt"
			}
		}
		if hits, misses := remembering.MemoStats(); hits < 100 || misses == 0 {
			t.Errorf("seed %d: %d hits, %d misses: this tests nothing", seed, hits, misses)
		}
		if hits, _ := fresh.MemoStats(); hits > 0 {
			t.Errorf("seed %d: %d hits without a memo", seed, hits)
		}
	}
}

// The built-in rules, and those of the examples that do not look at a clock, are
// remembered; a policy that may answer differently is not.
func TestBuiltinRulesAreRemembered(t *testing.T) {
	all := bundles(t)
	if why := all["builtin"].Analysis().Impure(); why != "" {
		t.Errorf("built-in: %s", why)
	}
	remembered := 0
	for name, p := range all {
		e := authz.NewEngine(authz.Options{Recheck: -1})
		e.Swap(p)
		decide(t, e, listUsers)
		decide(t, e, listUsers)
		hits, _ := e.MemoStats()
		if pure := p.Analysis().Impure() == ""; pure != (hits == 1) {
			t.Errorf("%s: pure: %v, hits: %d", name, pure, hits)
		}
		remembered += int(hits)
	}
	if remembered < len(all)/2 {
		t.Errorf("only %d of %d bundles are remembered", remembered, len(all))
	}
}

func TestWhatIsNotRemembered(t *testing.T) {
	slow := minimal(`decision := {"allow": true, "reasons": [{"code": "slow", "message": "slow"}]} if {
	count([x | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); x := a * b]) > 0
}`)
	session := authz.Identity{Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialSession}
	asserted := authz.Identity{Type: "device", ID: "d1", Credential: authz.CredentialAsserted}
	for _, tt := range []struct {
		name    string
		src     authz.Source
		options authz.Options
		who     authz.Identity
		what    func(*authz.Request)
		hits    uint64
	}{
		{"an answer", minimal(allowAll), authz.Options{}, session, nil, 2},
		{"an answer with a large question that nobody reads", minimal(allowAll), authz.Options{}, session, func(r *authz.Request) { r.Resource.ID = strings.Repeat("x", 1000) }, 2},
		{"where nothing is to be", minimal(allowAll), authz.Options{Memo: -1}, session, nil, 0},
		{"by OPA's evaluator", minimal(allowAll), authz.Options{Topdown: true}, session, nil, 0},
		{"by the clock", minimal(`decision := {"allow": time.now_ns() > 0, "reasons": [{"code": "x", "message": "x"}]}`), authz.Options{}, session, nil, 0},
		{"by chance", minimal(`decision := {"allow": rand.intn("x", 2) < 2, "reasons": [{"code": "x", "message": "x"}]}`), authz.Options{}, session, nil, 0},
		{"by the time of the call", minimal(`decision := {"allow": input.context.time != "", "reasons": [{"code": "x", "message": "x"}]}`), authz.Options{}, session, nil, 0},
		{"a failure", minimal(`decision := {"allow": to_number(input.action.name) == 1, "reasons": [{"code": "x", "message": "x"}]}`), authz.Options{}, session, nil, 0},
		{"no answer", minimal(`decision := {"allow": true} if input.action.name == "nothing"`), authz.Options{}, session, nil, 0},
		{"the end of a deadline", slow, authz.Options{Deadline: 20 * time.Millisecond}, session, nil, 0},
		{"an answer that the program left to OPA", func() authz.Source {
			src := minimal(`decision := {"allow": data.list[input.resource.properties.n] == "b", "reasons": [{"code": "x", "message": "x"}]}`)
			src.Data["list"] = []any{"a", "b"}
			return src
		}(), authz.Options{}, session, func(r *authz.Request) { r.Resource.Properties = map[string]any{"n": 1.5} }, 0},
		{"about somebody asserted", minimal(allowAll), authz.Options{}, asserted, nil, 0},
		{"a question that is no JSON", minimal(allowAll), authz.Options{}, session, func(r *authz.Request) { r.Resource.Properties = map[string]any{"x": func() {}} }, 0},
		{"a name that is no text", minimal(allowAll), authz.Options{}, session, func(r *authz.Request) { r.Resource.ID = "\xff" }, 0},
		{"a large question", minimal(`decision := {"allow": true, "reasons": [], "context": {"x": input.resource.properties.x}}`), authz.Options{}, session,
			func(r *authz.Request) { r.Resource.Properties = map[string]any{"x": strings.Repeat("x", 1000)} }, 0},
		{"a large answer", minimal(`decision := {"allow": true, "reasons": [{"code": "x", "message": concat("", [x | some n in numbers.range(1000, 2100); x := "x"; n > 0])}]}`), authz.Options{}, session, nil, 0},
		{"a large answer in many parts", minimal(`decision := {"allow": true, "reasons": [], "context": {"x": numbers.range(1, 100)}}`), authz.Options{}, session, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.options.Recheck = -1
			e := engine(t, tt.src, tt.options)
			r := listUsers
			r.Subject = subject(t, tt.who)
			if tt.what != nil {
				tt.what(&r)
			}
			for range 3 {
				decide(t, e, r)
			}
			if hits, _ := e.MemoStats(); hits != tt.hits {
				t.Errorf("%d of 3 answers were remembered ones, want %d", hits, tt.hits)
			}
		})
	}
}

// Each decision is one of its own: with its id, its time, its record, and whoever
// watches told of it.
func TestRememberedAnswersAreDecisionsOfTheirOwn(t *testing.T) {
	var recorded keeper
	now := time.Unix(1788264000, 0)
	e := engine(t, minimal(allowAll), authz.Options{Recorder: &recorded, Recheck: -1, Clock: func() time.Time { now = now.Add(time.Second); return now }})
	watched, told := 0, 0
	e.Watch(func(authz.Outcome) { watched++ })
	ctx := authz.WithFacts(t.Context(), &authz.Facts{Decided: func(authz.Decision) { told++ }})
	seen := map[string]bool{}
	var last time.Time
	for i := range 4 {
		r := listUsers
		r.Context = map[string]any{"i": i} // which the policy does not read, and the record has
		d, err := e.Decide(ctx, r)
		if err != nil || !d.Allow || d.Revision != "r1" {
			t.Fatalf("%+v %v", d, err)
		}
		if seen[d.ID] || !d.Time.After(last) {
			t.Errorf("%d: id %s, time %v, not of its own", i, d.ID, d.Time)
		}
		seen[d.ID], last = true, d.Time
		o := recorded.outcomes[i]
		if o.Decision.ID != d.ID || o.Request.Context["i"] != i || o.Policy == nil {
			t.Errorf("%d: recorded %+v", i, o)
		}
	}
	if hits, _ := e.MemoStats(); hits != 3 || watched != 4 || told != 4 {
		t.Errorf("%d hits, %d watched, %d told, want 3, 4 and 4", hits, watched, told)
	}
}

type keeper struct{ outcomes []authz.Outcome }

func (r *keeper) Record(_ context.Context, o authz.Outcome) error {
	r.outcomes = append(r.outcomes, o)
	return nil
}

// A remembered answer that is wrong is found out by sampling: the stricter of the
// two counts, and nothing is remembered from then on.
func TestWrongMemoryIsFoundOut(t *testing.T) {
	const deny = `decision := {"allow": false, "reasons": [{"code": "no", "message": "no"}]}`
	for _, tt := range []struct{ name, then, now string }{{"it allowed", allowAll, deny}, {"it denied", deny, allowAll}} {
		var log bytes.Buffer
		p := compile(t, minimal(tt.then))
		e := authz.NewEngine(authz.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		e.RecheckEach(4)
		e.Swap(p)
		decide(t, e, listUsers)
		p.Become(compile(t, minimal(tt.now)))
		for range 2 {
			if d := decide(t, e, listUsers); d.Allow != (tt.then == allowAll) {
				t.Fatalf("%s: not a remembered answer", tt.name)
			}
		}
		if d := decide(t, e, listUsers); d.Allow || d.Reasons[0].Code != "no" {
			t.Errorf("%s: got %v when it was found out, want the denial", tt.name, d)
		}
		if checked, disagreed := e.Rechecks(); checked != 1 || disagreed != 1 {
			t.Errorf("%s: %d checked, %d disagreed, want 1 and 1", tt.name, checked, disagreed)
		}
		for range 6 {
			if d := decide(t, e, listUsers); d.Allow != (tt.now == allowAll) {
				t.Errorf("%s: afterwards still remembered", tt.name)
			}
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
			t.Errorf("%s: told %d times: %s", tt.name, n, &log)
		}
	}
}

// While policies are exchanged under load, each decision is what the policy says
// that it names, and one that begins after an exchange is by the new policy.
func TestExchangingPoliciesForgets(t *testing.T) {
	sources := []string{allowAll, `decision := {"allow": false, "reasons": [{"code": "no", "message": "no"}]}`}
	var all []*authz.Policy
	for i := range 2 {
		src := minimal(sources[i])
		src.Revision = fmt.Sprint("r", i)
		all = append(all, compile(t, src))
	}
	e := authz.NewEngine(authz.Options{Recheck: 50, Deadline: time.Minute})
	e.Swap(all[0])
	var over atomic.Bool
	var askers sync.WaitGroup
	people := []*authz.Subject{nil, subject(t, authz.Identity{Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialSession})}
	for n := range 4 {
		askers.Go(func() {
			for i := 0; !over.Load(); i++ {
				r := listUsers
				r.Subject, r.Resource.ID = people[(i+n)%2], fmt.Sprint(i%7)
				d, err := e.Decide(context.Background(), r)
				if err != nil || d.Allow != (d.Revision == "r0") {
					t.Errorf("%+v %v", d, err)
					return
				}
			}
		})
	}
	for i := range 200 {
		e.Swap(all[i%2])
		if d := decide(t, e, listUsers); d.Revision != fmt.Sprint("r", i%2) || d.Allow != (i%2 == 0) {
			t.Fatalf("exchange %d: got %+v", i, d)
		}
		time.Sleep(time.Millisecond)
	}
	over.Store(true)
	askers.Wait()
	if hits, _ := e.MemoStats(); hits == 0 {
		t.Error("nothing was remembered: this tests nothing")
	}
	if _, disagreed := e.Rechecks(); disagreed != 0 {
		t.Errorf("%d disagreements", disagreed)
	}
}
