package audit_test

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

// value is what text says in JSON, with all digits of its numbers.
func value(t *testing.T, text []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil || d.More() {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

func TestRecordIsAppendedAsItsDocument(t *testing.T) {
	at := time.Date(2026, 2, 3, 4, 5, 6, 7e6, time.FixedZone("", 3600))
	odd := "<é&\x00\xff\xfe\u2028\"\\>"
	for name, r := range map[string]audit.Record{
		"bare": {},
		"full": {
			ID: "r1", At: at, Allow: true, Revision: "rev", DataRevision: math.MaxInt64,
			Actor:      audit.Actor{Type: "user", ID: "u1", Credential: "asserted", KeyID: "k", ImpersonatedBy: "x"},
			AssertedBy: audit.Asserter{Type: "service_account", ID: "s", KeyID: "k1"},
			Action:     "read", Resource: authz.Resource{Type: "document", ID: "d1"}, Mapped: "document:read",
			Input: map[string]any{"n": json.Number("12345678901234567890.10e400"), "f": 1e21, "i": 1 << 53, "l": []any{nil, true, map[string]any(nil)}},
			Reasons: []authz.Reason{{Code: "role", Message: "m", Permission: "p", Details: map[string]any{"a": "b"}}, {Code: "other"},
				{Code: "third", Details: map[string]any{}}},
			Context: map[string]any{"c": "d"}, Failure: "f", RequestID: "q",
			NDBuiltinCache: map[string]any{"rand.intn": map[string]any{`["a",2]`: json.Number("1")}},
		},
		"masked": {
			ID: "r2", At: at, Reasons: []authz.Reason{}, Input: map[string]any{}, Context: map[string]any{}, AssertedBy: audit.Asserter{KeyID: "k"},
			Erased: []string{"/input/x", "/input/y"}, Masked: []string{"/input/z"}, MaskFailure: "a.rego:1",
		},
		"odd": {
			ID: odd, Revision: odd, Actor: audit.Actor{Type: odd, ID: odd, Credential: odd, KeyID: odd, ImpersonatedBy: odd},
			AssertedBy: audit.Asserter{Type: odd, ID: odd, KeyID: odd}, Action: odd, Resource: authz.Resource{Type: odd, ID: odd}, Mapped: odd,
			Input: map[string]any{odd: odd, "<": "\x00"}, Reasons: []authz.Reason{{Code: odd, Message: odd, Permission: odd, Details: map[string]any{odd: odd}}},
			Context: map[string]any{odd: odd}, Failure: odd, RequestID: odd, NDBuiltinCache: map[string]any{odd: odd},
			Erased: []string{odd}, Masked: []string{odd, odd}, MaskFailure: odd,
		},
	} {
		t.Run(name, func(t *testing.T) { wantDocument(t, &r) })
	}
}

func wantDocument(t *testing.T, r *audit.Record) {
	t.Helper()
	want, err := json.Marshal(r.Document())
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.AppendJSON([]byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	got = got[len("before"):]
	if !reflect.DeepEqual(value(t, got), value(t, want)) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !bytes.HasPrefix(got, []byte(`{"id":"`)) || bytes.ContainsAny(got, "\n") {
		t.Errorf("not a line that begins with the id: %s", got)
	}
}

// On its way to the store a record has its input only as what it is made of.
func TestRecordOfTheLogIsAppendedAsItsDocument(t *testing.T) {
	m := &memory{}
	l := audit.NewLog(m, audit.Options{})
	s, err := authz.NewSubject(authz.Identity{Type: "user", ID: "u1", Credential: "session"})
	if err != nil {
		t.Fatal(err)
	}
	r := authz.Request{Subject: s, Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "document", ID: "d", Properties: map[string]any{"owner": "u1"}}}
	if err := l.Record(t.Context(), authz.Outcome{Request: r, Decision: decision(1), Facts: &authz.Facts{IP: "192.0.2.1", RequestID: "q"}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.records[0].Input != nil {
		t.Error("its input was made")
	}
	wantDocument(t, &m.records[0])
}

func TestRecordThatIsNoJSONIsNotAppended(t *testing.T) {
	for name, r := range map[string]audit.Record{
		"input":   {Input: map[string]any{"n": math.NaN()}},
		"context": {Context: map[string]any{"n": math.Inf(1)}},
		"reasons": {Reasons: []authz.Reason{{Details: map[string]any{"n": make(chan int)}}, {Code: "c"}}},
		"cache":   {NDBuiltinCache: map[string]any{"n": json.Number("NaN")}},
	} {
		if b, err := r.AppendJSON(nil); err == nil || strings.Contains(err.Error(), "%!") {
			t.Errorf("%s: got %s, %v", name, b, err)
		}
	}
}
