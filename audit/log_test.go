package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

// memory is storage that can be away.
type memory struct {
	audit.Store
	mu      sync.Mutex
	records []audit.Record
	away    error
}

func (m *memory) WriteRecords(_ context.Context, records []audit.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away != nil {
		return m.away
	}
	m.records = append(m.records, records...)
	return nil
}

func (m *memory) Record(_ context.Context, id string) (audit.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.records {
		if r.ID == id {
			return r, nil
		}
	}
	return audit.Record{}, audit.ErrNotFound
}

var request = authz.Request{Action: authz.Action{Name: "list"}, Resource: authz.Resource{Type: "user"}}

func decision(i int) authz.Decision {
	return authz.Decision{ID: fmt.Sprint("d", i), Allow: true, Time: time.Unix(int64(i), 0), Revision: "r1",
		Reasons: []authz.Reason{{Code: "role", Message: "role admin permits user:list"}}}
}

func TestEachDecisionIsWrittenOnce(t *testing.T) {
	m := &memory{}
	l := audit.NewLog(m, audit.Options{Interval: time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	var run, all sync.WaitGroup
	run.Go(func() { l.Run(ctx) })
	for g := range 8 {
		all.Go(func() {
			for i := range 500 {
				if err := l.Record(ctx, authz.Outcome{Request: request, Decision: decision(g*500 + i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	cancel()
	run.Wait()
	seen := map[string]bool{}
	for _, r := range m.records {
		if seen[r.ID] {
			t.Errorf("%s written twice", r.ID)
		}
		seen[r.ID] = true
	}
	if len(seen) != 4000 || l.Lost() != 0 || l.Written() != 4000 {
		t.Errorf("written %d (counted %d), lost %d, want 4000 and 0", len(seen), l.Written(), l.Lost())
	}
}

// busy is storage during whose writes more is decided.
type busy struct {
	memory
	log     *audit.Log
	decided int
}

func (b *busy) WriteRecords(ctx context.Context, records []audit.Record) error {
	for range records {
		b.decided++
		if err := b.log.Record(ctx, authz.Outcome{Request: request, Decision: decision(b.decided)}); err != nil {
			return err
		}
	}
	return b.memory.WriteRecords(ctx, records)
}

// A flush ends, however much is decided meanwhile: whoever reads waits for it.
func TestFlushWritesWhatWaitsWhenItBegins(t *testing.T) {
	b := &busy{}
	b.log = audit.NewLog(b, audit.Options{})
	const n = 3000
	for b.decided < n {
		b.decided++
		if err := b.log.Record(t.Context(), authz.Outcome{Request: request, Decision: decision(b.decided)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.log.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range b.records {
		seen[r.ID] = true
	}
	for i := range n {
		if !seen[decision(i+1).ID] {
			t.Fatalf("%s waited and is not written", decision(i+1).ID)
		}
	}
	if len(b.records) != n || b.log.Waiting() != n || b.log.Written() != n {
		t.Errorf("%d are written (counted %d), %d wait, want %d of each", len(b.records), b.log.Written(), b.log.Waiting(), n)
	}
}

func TestFullBufferCountsWhatIsLost(t *testing.T) {
	m := &memory{}
	l := audit.NewLog(m, audit.Options{Buffer: 8})
	for i := range 1000 {
		if err := l.Record(t.Context(), authz.Outcome{Request: request, Decision: decision(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if kept := l.Waiting(); kept > 8 || uint64(1000-kept) != l.Lost() {
		t.Errorf("%d wait and %d are lost of 1000", kept, l.Lost())
	}
}

func TestStrictLogRefusesWhatItCannotKeep(t *testing.T) {
	m := &memory{away: errors.New("disk full")}
	l := audit.NewLog(m, audit.Options{Strict: true})
	if err := l.Record(t.Context(), authz.Outcome{Request: request, Decision: decision(1)}); err != nil {
		t.Fatalf("before anything failed: %v", err)
	}
	if err := l.Flush(t.Context()); err == nil {
		t.Fatal("flush to storage that is away succeeded")
	}
	if err := l.Record(t.Context(), authz.Outcome{Request: request, Decision: decision(2)}); !errors.Is(err, audit.ErrFull) {
		t.Errorf("storage away: got %v, want %v", err, audit.ErrFull)
	}
	m.away = nil
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Record(t.Context(), authz.Outcome{Request: request, Decision: decision(3)}); err != nil {
		t.Errorf("storage back: %v", err)
	}
	if len(m.records) != 1 || m.records[0].ID != "d1" {
		t.Errorf("what waited was not written: %v", m.records)
	}
}

func TestReaderFindsWhatWasJustDecided(t *testing.T) {
	l := audit.NewLog(&memory{}, audit.Options{})
	if err := l.Record(t.Context(), authz.Outcome{Request: request, Decision: decision(7)}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Reader().Record(t.Context(), "d7"); err != nil {
		t.Error(err)
	}
}

func TestRecordHoldsWhatReplayNeeds(t *testing.T) {
	m := &memory{}
	l := audit.NewLog(m, audit.Options{})
	s, err := authz.NewSubject(authz.Identity{Type: "user", ID: "u1", Credential: authz.CredentialSession, Roles: []string{"admin"},
		Session: &authz.SessionFacts{ID: "s1", ImpersonatedBy: "u0"}, Key: &authz.KeyFacts{ID: "k1"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := authz.WithFacts(t.Context(), &authz.Facts{IP: "192.0.2.1", RequestID: "q1"})
	r := authz.Request{Subject: s, Action: authz.Action{Name: "delete"}, Resource: authz.Resource{Type: "document", ID: "d", Properties: map[string]any{"owner": "u1"}}}
	if err := l.Record(ctx, authz.Outcome{Request: r, Decision: decision(9), Facts: authz.FactsFrom(ctx), Failure: errors.New("broken")}); err != nil {
		t.Fatal(err)
	}
	if err := l.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	got := m.records[0]
	if a := got.Actor; a.ID != "u1" || a.ImpersonatedBy != "u0" || a.KeyID != "k1" || a.Credential != "session" {
		t.Errorf("actor %+v", a)
	}
	if got.Failure != "broken" || got.RequestID != "q1" || got.Revision != "r1" {
		t.Errorf("got %+v", got)
	}
	line, err := got.AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	var kept struct{ Input json.RawMessage }
	if err := json.Unmarshal(line, &kept); err != nil {
		t.Fatal(err)
	}
	if want, err := json.Marshal(r.Document(authz.FactsFrom(ctx), decision(9).Time)); err != nil || string(kept.Input) != string(want) {
		t.Errorf("input %s, %v, want %s", kept.Input, err, want)
	}
	if why := got.Incomplete(); why != "" {
		t.Error(why)
	}
	text := fmt.Sprint(got.Document().Input)
	for _, want := range []string{"192.0.2.1", "impersonatedBy:u0", "owner:u1", "name:delete", "1970-01-01T00:00:09.000Z"} {
		if !strings.Contains(text, want) {
			t.Errorf("input %s lacks %q", text, want)
		}
	}
}
