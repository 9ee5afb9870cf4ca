package authz_test

import (
	"context"
	"reflect"
	"testing"

	"github.com/ostiary/ostiary/authz"
)

type outcomes struct{ all []authz.Outcome }

func (o *outcomes) Record(_ context.Context, out authz.Outcome) error {
	o.all = append(o.all, out)
	return nil
}

func TestOutcomeHasWhatChanceAnswered(t *testing.T) {
	rec := &outcomes{}
	e := engine(t, minimal(`decision := {"allow": true, "reasons": [], "context": {"n": rand.intn("x", 1000000), "t": time.now_ns()}}`), authz.Options{Recorder: rec})
	d := decide(t, e, listUsers)
	doc, err := rec.all[0].Nondeterminism.Document()
	if err != nil {
		t.Fatal(err)
	}
	if got := doc["rand.intn"].(map[string]any)[`["x",1000000]`]; got != d.Context["n"] {
		t.Errorf("got %v, want %v in %v", got, d.Context["n"], doc)
	}
	again, err := authz.ReadNondeterminism(doc)
	if err != nil {
		t.Fatal(err)
	}
	if doc2, err := again.Document(); err != nil || !reflect.DeepEqual(doc, doc2) {
		t.Errorf("got %v, %v, want %v", doc2, err, doc)
	}
	for _, wrong := range []map[string]any{{"a": 1}, {"a": map[string]any{"no list": 1}}} {
		if _, err := authz.ReadNondeterminism(wrong); err == nil {
			t.Errorf("%v was read", wrong)
		}
	}

	e.Swap(compile(t, minimal(allowAll)))
	decide(t, e, listUsers)
	if doc, err := rec.all[1].Nondeterminism.Document(); doc != nil || err != nil {
		t.Errorf("without chance: %v, %v", doc, err)
	}
}
