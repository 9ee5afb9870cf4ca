package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

const secret = "4711-0815"

// logged is what the store and a sink are given of one decision about a document
// with a secret, under a policy with these rules about records.
func logged(t *testing.T, allow bool, rules string) []audit.Record {
	t.Helper()
	p, err := authz.Compile(t.Context(), authz.Source{Revision: "r1", Modules: map[string]string{
		"policy.rego": "package ostiary\npermissions := {}\nown_permissions := {}\ndecision := {}",
		"log.rego":    "package system.log\n" + rules,
	}})
	if err != nil {
		t.Fatal(err)
	}
	m, told := &memory{}, &memory{}
	l := audit.NewLog(m, audit.Options{Sinks: []audit.Sink{sink{told}}})
	s, err := authz.NewSubject(authz.Identity{Type: "user", ID: "ann", Credential: authz.CredentialAsserted, AssertedBy: &authz.Asserter{Type: "service_account", ID: "app", KeyID: "k9"}})
	if err != nil {
		t.Fatal(err)
	}
	properties := map[string]any{"pin": secret, "parts": []any{secret + "a", "open", secret + "b"}, "a b": secret, "x/y": secret}
	o := authz.Outcome{
		Policy: p,
		Request: authz.Request{Subject: s, Action: authz.Action{Name: "read"},
			Resource: authz.Resource{Type: "document", ID: secret, Properties: properties}},
		Decision: authz.Decision{ID: "d1", Allow: allow, Time: time.Unix(1, 0), Context: map[string]any{"pin": secret},
			Reasons: []authz.Reason{{Code: "why", Message: "pin " + secret}}},
	}
	if !allow {
		o.Failure = errors.New("cannot parse " + secret)
	}
	if err := l.Record(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.Run(ctx)
	if got := properties["pin"]; got != secret || len(properties["parts"].([]any)) != 3 {
		t.Errorf("the application's own map was changed: %v", properties)
	}
	if fmt.Sprint(m.records) != fmt.Sprint(told.records) {
		t.Errorf("the sink was told %v, the store %v", told.records, m.records)
	}
	return m.records
}

type sink struct{ *memory }

func (s sink) Write(ctx context.Context, records []audit.Record) error {
	return s.WriteRecords(ctx, records)
}
func (sink) Close(context.Context) error { return nil }

func text(t *testing.T, r audit.Record) string {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const everything = `mask contains p if some p in ["/input/resource/properties", "/input/resource/id", "/result/reasons/0/message", "/result/context"]`

func TestWhatIsMaskedIsNowhereInTheRecord(t *testing.T) {
	for name, rules := range map[string]string{
		"removed":        everything,
		"replaced":       `mask contains {"op": "upsert", "path": p, "value": "***"} if some p in ["/input", "/result", "/nd_builtin_cache"]`,
		"one by one":     `mask contains p if some p in ["/input/resource/id", "/input/resource/properties/pin", "/input/resource/properties/parts/0", "/input/resource/properties/parts/2", "/input/resource/properties/a%20b", "/input/resource/properties/x~1y", "/result"]`,
		"by an object":   `mask contains {"op": "remove", "path": p} if some p in ["/input", "/result"]`,
		"a failing one":  `mask contains p if { p := "/input/action"; to_number(input.input.resource.id) > 0 }`,
		"no path":        `mask contains "/labels"`,
		"no set":         `mask := 7`,
		"an unknown op":  `mask contains {"op": "hide", "path": "/input"}`,
		"an endless one": `mask contains p if { p := "/input"; some i in numbers.range(1, 100000); some j in numbers.range(1, 100000); i * j == 0 }`,
	} {
		for _, allow := range []bool{true, false} {
			t.Run(fmt.Sprint(name, " ", allow), func(t *testing.T) {
				got := logged(t, allow, rules)
				if len(got) != 1 {
					t.Fatalf("%d records", len(got))
				}
				r := got[0]
				if s := text(t, r); strings.Contains(s, secret) {
					t.Errorf("in the record: %s", s)
				}
				if len(r.Erased)+len(r.Masked) == 0 {
					t.Error("the record does not say that something is missing")
				}
				if r.ID != "d1" || r.Allow != allow || r.At.Unix() != 1 {
					t.Errorf("more than was masked is gone: %+v", r)
				}
			})
		}
	}
}

func TestWhatIsNotMaskedStays(t *testing.T) {
	r := logged(t, true, `mask contains "/input/resource/properties/parts/0"
mask contains "/input/resource/properties/parts/2"
mask contains {"op": "upsert", "path": "/input/resource/properties/new/pin", "value": 1}
mask contains "/input/nothing/here"`)[0]
	if got := fmt.Sprint(r.Resource.Properties["parts"], r.Resource.Properties["new"]); got != "[open] map[pin:1]" {
		t.Errorf("properties %v", r.Resource.Properties)
	}
	if fmt.Sprint(r.Erased) != "[/input/resource/properties/parts/2 /input/resource/properties/parts/0]" || fmt.Sprint(r.Masked) != "[/input/resource/properties/new/pin]" {
		t.Errorf("erased %v, masked %v", r.Erased, r.Masked)
	}
	if r.Actor.ID != "ann" || r.AssertedBy != (audit.Asserter{Type: "service_account", ID: "app", KeyID: "k9"}) || r.Resource.ID != secret || r.Context["pin"] != secret {
		t.Errorf("got %+v", r)
	}
}

func TestFailedMaskHidesEverythingAndSaysWhere(t *testing.T) {
	r := logged(t, true, `mask contains p if { p := "/input/action"; to_number(input.input.resource.id) > 0 }`)[0]
	if !strings.Contains(r.MaskFailure, "log.rego:2") || r.Input != nil || r.Actor.ID != "" || len(r.Reasons) != 1 || r.Reasons[0].Code != "why" {
		t.Errorf("got %+v", r)
	}
}

func TestOnlyAllowsAreDropped(t *testing.T) {
	for rules, want := range map[string][2]int{
		`drop if true`: {0, 1},
		`drop if input.result.reasons[0].code == 1`: {1, 1},
		`drop if to_number("x") > 1`:                {1, 1},
	} {
		if got := [2]int{len(logged(t, true, rules)), len(logged(t, false, rules))}; got != want {
			t.Errorf("%s: kept %v of an allow and a denial, want %v", rules, got, want)
		}
	}
}

func TestDenialsAreAlwaysKeptAndAllowsAreSampled(t *testing.T) {
	m, part := &memory{}, 0.1
	l := audit.NewLog(m, audit.Options{Sample: &part})
	for i := range 4000 {
		d := decision(i)
		d.Allow = i%2 == 0
		if err := l.Record(t.Context(), authz.Outcome{Request: request, Decision: d}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	allows := 0
	for _, r := range m.records {
		if r.Allow {
			allows++
		}
	}
	if denials := len(m.records) - allows; denials != 2000 || allows < 100 || allows > 320 || int(l.Sampled()) != 2000-allows {
		t.Errorf("kept %d denials and %d allows, counted %d as left out", denials, allows, l.Sampled())
	}
}

// stuck is a sink that takes nothing until it is let go.
type stuck struct {
	sink
	gone chan struct{}
}

func (s stuck) Write(ctx context.Context, records []audit.Record) error {
	select {
	case <-s.gone:
		return s.sink.Write(ctx, records)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestSinkThatIsAwayHoldsNothingUp(t *testing.T) {
	m, away, there := &memory{}, stuck{sink{&memory{}}, make(chan struct{})}, sink{&memory{}}
	l := audit.NewLog(m, audit.Options{Strict: true, Buffer: 1000, Sinks: []audit.Sink{away, there}})
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { l.Run(ctx) })
	for i := range 20 {
		for range 100 {
			if err := l.Record(ctx, authz.Outcome{Request: request, Decision: decision(i)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	close(away.gone)
	cancel()
	run.Wait()
	if len(m.records) != 2000 || l.Lost() != 0 {
		t.Errorf("the store has %d, %d are lost", len(m.records), l.Lost())
	}
	if got := uint64(len(away.records)) + uint64(len(there.records)) + l.Untold(); got != 4000 || l.Untold() == 0 {
		t.Errorf("told %d and %d, and counted %d as untold", len(away.records), len(there.records), l.Untold())
	}
}

// Whatever ends the writer, the file is one chain.
func TestFileIsOneChainOverRestartsAndRotations(t *testing.T) {
	name := filepath.Join(t.TempDir(), "decisions.log")
	open := func() *audit.File {
		f, err := audit.OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	write := func(f *audit.File) {
		if err := f.Write(t.Context(), some(3)); err != nil {
			t.Fatal(err)
		}
	}
	f := open()
	write(f)
	must(t, f.Close(t.Context()))
	write(open()) // and killed, in the middle of a line
	raw, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = raw.WriteString(`{"seq":4,"prev":"` + strings.Repeat("x", 10_000))
	must(t, errors.Join(err, raw.Close()))
	f = open()
	write(f)
	must(t, os.Rename(name, name+".1"))
	write(f)
	must(t, f.Reopen())
	write(f)
	must(t, f.Close(t.Context()))

	sums := make([]audit.ExportSummary, 2)
	for i, name := range []string{name + ".1", name} {
		text, err := os.ReadFile(name)
		must(t, err)
		sums[i], err = audit.VerifyExport(strings.NewReader(string(text)), func(f *audit.Fault) { t.Errorf("%s: %v", name, f) })
		must(t, err)
	}
	if sums[0].Records != 12 || sums[0].Heads != 3 || sums[0].Broken != 1 || sums[1].Records != 3 || sums[1].First != sums[0].Last {
		t.Errorf("got %+v", sums)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	must(t, os.WriteFile(name, []byte("precious\n"), 0o600))
	if _, err := audit.OpenFile(name); err == nil {
		t.Error("a file of another kind was opened")
	}
	if text, _ := os.ReadFile(name); string(text) != "precious\n" {
		t.Errorf("a file of another kind became %q", text)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
