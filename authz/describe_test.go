package authz_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/authz"
)

// openOnly allows what is known to be open.
const openOnly = `decision := {"allow": true, "reasons": []} if {
	input.resource.known == true
	input.resource.properties.state == "open"
}

else := {"allow": false, "reasons": [{"code": "closed", "message": "it is not open"}]}`

// kept is what was recorded.
type kept struct{ requests []authz.Request }

func (k *kept) Record(_ context.Context, o authz.Outcome) error {
	k.requests = append(k.requests, o.Request)
	return nil
}

// described is an engine that knows document d, and counts how often it is
// asked.
func described(t *testing.T) (*authz.Engine, *kept, *int) {
	t.Helper()
	k, asked := &kept{}, new(int)
	return engine(t, minimal(openOnly), authz.Options{Recorder: k, Describe: func(_ context.Context, r authz.Resource, action string) (authz.Resource, error) {
		*asked++
		if r.Known {
			t.Error("the asker's word on what is known was passed on")
		}
		if r.ID == "d" && action == "read" {
			r.Known, r.Properties = true, map[string]any{"state": "open"}
		}
		return r, nil
	}}), k, asked
}

func ask(id string) authz.Request {
	return authz.Request{Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "document", ID: id}}
}

// Every way to ask meets what is known of the resource, and the record has what
// the policy saw.
func TestEveryQuestionMeetsWhatIsKnown(t *testing.T) {
	e, k, _ := described(t)
	if d := decide(t, e, ask("d")); !d.Allow {
		t.Errorf("Decide: %+v", d)
	}
	ds, err := e.DecideAll(t.Context(), []authz.Request{ask("x"), ask("d")})
	if err != nil || ds[0].Allow || !ds[1].Allow {
		t.Errorf("DecideAll: %+v, %v", ds, err)
	}
	if x, err := e.Explain(t.Context(), ask("d")); err != nil || !x.Decision.Allow {
		t.Errorf("Explain: %+v, %v", x, err)
	}
	if d, err := e.Judge().Decide(t.Context(), ask("d")); err != nil || !d.Allow {
		t.Errorf("Judge: %+v, %v", d, err)
	}
	if len(k.requests) != 3 {
		t.Fatalf("%d records: what is judged has none, what is decided has", len(k.requests))
	}
	for i, known := range []any{true, nil, true} {
		resource := k.requests[i].Document(nil, time.Time{})["resource"].(map[string]any)
		if resource["known"] != known || (known == true) != (resource["properties"].(map[string]any)["state"] == "open") {
			t.Errorf("record %d: %v", i, resource)
		}
	}
}

// What a request says itself is known is so only if the program described it.
func TestOnlyADescribedResourceIsKnownByItsWord(t *testing.T) {
	e, _, asked := described(t)
	r := ask("x")
	r.Resource.Known, r.Resource.Properties = true, map[string]any{"state": "open"}
	if decide(t, e, r).Allow {
		t.Error("the asker's word counted")
	}
	before := *asked
	r.Described = true
	if !decide(t, e, r).Allow || *asked != before {
		t.Error("the program's word did not count")
	}
	plain := engine(t, minimal(openOnly), authz.Options{})
	r.Described = false
	if decide(t, plain, r).Allow {
		t.Error("the asker's word counted where nobody describes")
	}
	r = ask("")
	r.Resource.Known, r.Resource.Properties = true, map[string]any{"state": "open"}
	if decide(t, e, r).Allow || *asked != before {
		t.Error("a type as a whole was known")
	}
}

// While nobody can say what is known there is no decision, and no record.
func TestWithoutADescriptionThereIsNoDecision(t *testing.T) {
	away := errors.New("away")
	k := &kept{}
	e := engine(t, minimal(allowAll), authz.Options{Recorder: k, Describe: func(_ context.Context, r authz.Resource, _ string) (authz.Resource, error) {
		return r, away
	}})
	if d, err := e.Decide(t.Context(), ask("d")); !errors.Is(err, away) || d.Allow {
		t.Errorf("Decide: %+v, %v", d, err)
	}
	if ds, err := e.DecideAll(t.Context(), []authz.Request{ask(""), ask("d")}); !errors.Is(err, away) || ds != nil {
		t.Errorf("DecideAll: %+v, %v", ds, err)
	}
	if _, err := e.Explain(t.Context(), ask("d")); !errors.Is(err, away) {
		t.Errorf("Explain: %v", err)
	}
	if d, err := e.Judge().Decide(t.Context(), ask("d")); !errors.Is(err, away) || d.Allow {
		t.Errorf("Judge: %+v, %v", d, err)
	}
	if !decide(t, e, ask("")).Allow {
		t.Error("what nothing is known of was not decided")
	}
	for _, r := range k.requests {
		if r.Resource.ID != "" {
			t.Errorf("on record: %+v", r)
		}
	}
}

// What a batch asks twice in a row is looked up once, unless it is asked differently.
func TestABatchDescribesTheSameResourceOnce(t *testing.T) {
	e, _, asked := described(t)
	other := ask("d")
	other.Action.Name = "write"
	told := ask("d") // all that there is to know
	told.Described = true
	another := ask("d")
	another.Resource.Type = "folder"
	said := ask("d")
	said.Resource.Properties = map[string]any{"state": "closed"}
	ds, err := e.DecideAll(t.Context(), []authz.Request{ask("d"), ask("d"), other, said, said, ask("d"), ask("d"), ask("d"), ask("e"), other, ask("d"), told, ask("d"), another})
	if err != nil || *asked != 10 {
		t.Errorf("described %d times, want 10 (%v)", *asked, err)
	}
	for i, allow := range []bool{true, true, false, true, true, true, true, true, false, false, true, false, true, true} {
		if ds[i].Allow != allow {
			t.Errorf("%d: got %v, want %v", i, ds[i].Allow, allow)
		}
	}
}

// A judge keeps to the policy that was in force when it was made.
func TestAJudgeKeepsToOnePolicy(t *testing.T) {
	e := authz.NewEngine(authz.Options{})
	none := e.Judge()
	e.Swap(compile(t, minimal(allowAll)))
	judge := e.Judge()
	e.Swap(compile(t, minimal(openOnly)))
	for name, tt := range map[string]struct {
		judge    authz.Judge
		allow    bool
		revision string
	}{"before any": {none, false, ""}, "before the last": {judge, true, "r1"}, "now": {e.Judge(), false, "r1"}} {
		d, err := tt.judge.Decide(t.Context(), ask("x"))
		if err != nil || d.Allow != tt.allow || tt.judge.Revision() != tt.revision {
			t.Errorf("%s: %+v, %v, %q", name, d, err, tt.judge.Revision())
		}
	}
	key := subject(t, authz.Identity{Type: "user", ID: "u", Credential: authz.CredentialAPIKey, Key: &authz.KeyFacts{ID: "k", Name: "k"}})
	r := ask("x")
	r.Subject = key
	if d, err := judge.Decide(t.Context(), r); err != nil || d.Allow {
		t.Errorf("a judge widened a key: %+v, %v", d, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := judge.Decide(ctx, ask("x")); err == nil {
		t.Error("a judge answered somebody who is gone")
	}
}

// A subject that was made elsewhere, as of a remote service, has no form that a
// policy could read: nothing is allowed to it, not even what is to anybody.
func TestSubjectMadeElsewhereIsDenied(t *testing.T) {
	e := engine(t, minimal(`decision := {"allow": true, "reasons": []}`), authz.Options{})
	stranger := access.NewSubject(authz.Identity{Type: "user", ID: "u"}, "another service's")
	d, err := e.Decide(t.Context(), authz.Request{Subject: stranger, Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "document"}})
	if err != nil {
		t.Fatal(err)
	}
	if d.Allow || d.Reasons[0].Code != authz.CodePolicyError {
		t.Errorf("got %t %v, want a denial with %s", d.Allow, d.Reasons, authz.CodePolicyError)
	}
}
