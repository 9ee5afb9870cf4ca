package policies_test

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

// workload is generated decisions of the real engine, kept in memory.
type workload struct {
	audit.Store
	records []audit.Record
	flips   map[string]string // by id: what a person who reads the five changes expects
}

func (w *workload) WriteRecords(_ context.Context, records []audit.Record) error {
	for i := range records {
		d := records[i].Document()
		r, err := d.Record()
		if err != nil {
			return err
		}
		w.records = append(w.records, r)
	}
	return nil
}

func (w *workload) all() iter.Seq2[audit.Record, error] {
	return func(yield func(audit.Record, error) bool) {
		for _, r := range w.records {
			if !yield(r, nil) {
				return
			}
		}
	}
}

const before = `package app.document

allow if {
	input.action.name == "read"
	input.resource.properties.owner == input.principal.id
}

deny contains {"code": "closed", "message": "closed at night"} if {
	input.action.name == "write"
	time.clock(time.parse_rfc3339_ns(input.context.time))[0] < 6
}
`

const rolesBefore = `{"roles": {
	"editor": {"document": ["read", "write"], "folder": ["list"]},
	"viewer": {"document": ["read"]},
	"auditor": {"report": ["read", "export"]}
}}`

// Five changes: owners share too; viewers do not read; night begins an hour
// earlier; editors delete folders; auditors do not export.
const after = `package app.document

allow if {
	input.action.name in {"read", "share"}
	input.resource.properties.owner == input.principal.id
}

deny contains {"code": "closed", "message": "closed at night"} if {
	input.action.name == "write"
	time.clock(time.parse_rfc3339_ns(input.context.time))[0] < 7
}
`

const rolesAfter = `{"roles": {
	"editor": {"document": ["read", "write"], "folder": ["list", "delete"]},
	"viewer": {},
	"auditor": {"report": ["read"]}
}}`

func compiled(t testing.TB, files map[string]string) *authz.Policy {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	b, err := policies.Load(fsys, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := authz.Compile(t.Context(), b.Source)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// generate decides n questions under the policy before.
func generate(t testing.TB, n int) *workload {
	t.Helper()
	w := &workload{flips: map[string]string{}}
	log := audit.NewLog(w, audit.Options{Buffer: 4*n + 10_000, Strict: true})
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	now := start
	engine := authz.NewEngine(authz.Options{Recorder: log, Clock: func() time.Time { return now }})
	engine.Swap(compiled(t, map[string]string{"d.rego": before, "data.json": rolesBefore}))
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	for range n {
		now = now.Add(time.Duration(r.IntN(600)) * time.Second)
		id := authz.Identity{Type: authz.TypeUser, ID: fmt.Sprint("u", r.IntN(20)), Roles: []string{pick("editor", "viewer", "auditor")}}
		id.User = &authz.UserFacts{ID: id.ID}
		granted := true
		kind := pick("document", "document", "folder", "report")
		action := map[string][]string{"document": {"read", "write", "share"}, "folder": {"list", "delete"}, "report": {"read", "export"}}[kind]
		verb := pick(action...)
		if r.IntN(3) == 0 {
			granted = r.IntN(2) == 0
			id.Credential, id.Key = authz.CredentialAPIKey, &authz.KeyFacts{ID: "k", Name: "K", Permissions: authz.Permissions{"other": {"*"}}}
			if granted {
				id.Key.Permissions[kind] = []string{verb}
			}
		} else {
			id.Credential, id.Session = authz.CredentialSession, &authz.SessionFacts{ID: "s"}
		}
		subject, err := authz.NewSubject(id)
		if err != nil {
			t.Fatal(err)
		}
		owner := fmt.Sprint("u", r.IntN(20))
		role, own := id.Roles[0], owner == id.ID
		d, err := engine.Decide(t.Context(), authz.Request{
			Subject: subject, Action: authz.Action{Name: verb}, Resource: authz.Resource{Type: kind, ID: "x", Properties: map[string]any{"owner": owner}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if !granted {
			continue
		}
		switch question := kind + ":" + verb; {
		case question == "document:share" && own, question == "folder:delete" && role == "editor":
			w.flips[d.ID] = policies.DenyToAllow + " " + question
		case question == "document:read" && role == "viewer" && !own,
			question == "document:write" && role == "editor" && now.Hour() == 6,
			question == "report:export" && role == "auditor":
			w.flips[d.ID] = policies.AllowToDeny + " " + question
		}
	}
	if err := log.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(w.records) != n || log.Lost() > 0 {
		t.Fatalf("%d of %d recorded", len(w.records), n)
	}
	return w
}

// Of many decisions exactly those flip that the changes are about, and what
// cannot be replayed is counted, not guessed. OSTIARY_REPLAY sets how many.
func TestReplayFindsExactlyWhatFlips(t *testing.T) {
	n := 3_000
	if testing.Short() {
		n = 500
	}
	if text := os.Getenv("OSTIARY_REPLAY"); text != "" {
		if _, err := fmt.Sscan(text, &n); err != nil {
			t.Fatal(err)
		}
	}
	w := generate(t, n)
	same, err := policies.Replay(t.Context(), compiled(t, map[string]string{"d.rego": before, "data.json": rolesBefore}), w.all())
	must(t, err)
	if same.Replayed != n || len(same.Flips) != 0 || same.OtherReasons != 0 || len(same.NotReplayable) != 0 {
		t.Errorf("under the policy itself: %+v", same)
	}
	// Some of them cannot be replayed, for reasons of three kinds.
	expected, hidden := map[string]int{}, map[string]int{}
	for i := range w.records {
		r := &w.records[i]
		switch {
		case i%40 == 1:
			r.Masked = []string{"/input/principal/id"}
			hidden["parts are masked: /input/principal/id"]++
		case i%40 == 2:
			r.Erased, r.Input, r.MaskFailure = []string{"/input"}, nil, "mask.rego:3"
			hidden["the input was taken out because the mask failed"]++
		case i%40 == 3:
			r.Reasons = []authz.Reason{{Code: authz.CodeDeadline}}
			hidden["no policy had answered"]++
		default:
			if flip := w.flips[r.ID]; flip != "" {
				expected[flip]++
			}
		}
	}
	start := time.Now()
	got, err := policies.Replay(t.Context(), compiled(t, map[string]string{"d.rego": after, "data.json": rolesAfter}), w.all())
	must(t, err)
	t.Logf("%d decisions in %s", n, time.Since(start))
	missing := 0
	causes := map[string]int{}
	for _, o := range got.NotReplayable {
		causes[o.Why] = o.Count
		missing += o.Count
	}
	if !maps.Equal(causes, hidden) {
		t.Errorf("not replayable:\n got %v\nwant %v", causes, hidden)
	}
	flips := map[string]int{}
	for _, f := range got.Flips {
		flips[f.Flip+" "+f.ResourceType+":"+f.Action] += f.Count
		if len(f.Examples) == 0 || f.Roles == "" || f.Is == "" || f.Was == "" {
			t.Errorf("group %+v", f)
		}
	}
	if !maps.Equal(flips, expected) || len(expected) != 5 {
		t.Errorf("flips:\n got %v\nwant %v", flips, expected)
	}
	if !slices.IsSortedFunc(got.Flips, func(a, b policies.Flips) int { return strings.Compare(b.Flip, a.Flip) }) {
		t.Error("deny-to-allow does not come first")
	}
	if got.Records != n || got.Replayed != n-missing || got.DenyToAllow+got.AllowToDeny == 0 {
		t.Errorf("report %+v", got)
	}
}

func TestWhatCannotBeReplayedIsNotGuessed(t *testing.T) {
	w := generate(t, 8)
	w.records[0].Masked = []string{"/input/principal/user/email"}
	w.records[1].Erased = []string{"/input/context/ip"}
	w.records[2].Input = nil
	w.records[3].Reasons = []authz.Reason{{Code: authz.CodeDeadline, Message: "late"}}
	w.records[4].Input = map[string]any{"principal": map[string]any{}}
	w.records[5].MaskFailure = "mask.rego:3"
	got, err := policies.Replay(t.Context(), compiled(t, map[string]string{"d.rego": before, "data.json": rolesBefore}), w.all())
	must(t, err)
	if got.Records != 8 || got.Replayed != 2 || len(got.NotReplayable) != 6 || len(got.Flips) != 0 {
		t.Errorf("report %+v", got)
	}
}

func TestChanceIsNotReplayed(t *testing.T) {
	w := generate(t, 100)
	chance := "package app.document\n\nallow if rand.intn(\"x\", 2) == 1\n"
	got, err := policies.Replay(t.Context(), compiled(t, map[string]string{"d.rego": chance, "data.json": rolesBefore}), w.all())
	must(t, err)
	if len(got.NotReplayable) != 1 || !strings.Contains(got.NotReplayable[0].Why, "chance: rand.intn") || got.Replayed+got.NotReplayable[0].Count != 100 || got.Replayed == 0 {
		t.Errorf("report %+v", got)
	}
}

func TestExpectations(t *testing.T) {
	w := generate(t, 1000)
	got, err := policies.Replay(t.Context(), compiled(t, map[string]string{"d.rego": after, "data.json": rolesAfter}), w.all())
	must(t, err)
	missed := got.Expect([]policies.Expectation{
		{Flip: policies.DenyToAllow, ResourceType: "folder", Role: "editor"},
		{Flip: policies.DenyToAllow, ResourceType: "report"},
	})
	if len(missed) != 1 || missed[0].ResourceType != "report" {
		t.Errorf("missed %v", missed)
	}
	for _, f := range got.Flips {
		if f.Expected != (f.ResourceType == "folder") {
			t.Errorf("%+v", f)
		}
	}
	for _, wrong := range []policies.Expectation{{}, {Flip: "deny"}} {
		if wrong.Check() == nil {
			t.Errorf("%+v is accepted", wrong)
		}
	}
}
