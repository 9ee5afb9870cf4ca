package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

func TestEventIsReadAsItWasWritten(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ev := audit.Event{
			ID: "e1", At: base, Kind: "user.create",
			Actor:      audit.Actor{Type: "user", ID: "a", Credential: "session", KeyID: "k", ImpersonatedBy: "i"},
			TargetType: "user", TargetID: "u1", DecisionID: "d1", Details: map[string]any{"fields": []any{"name"}},
		}
		must(t, db.CreateUser(t.Context(), someone("u1"), "", ev))
		later := event("later")
		later.At = base.Add(time.Second)
		must(t, db.CreateUser(t.Context(), someone("u2"), "", later))
		evs, err := db.Events(t.Context(), 0)
		must(t, err)
		diff(t, "events", evs, []audit.Event{later, ev})
		evs, err = db.Events(t.Context(), 1)
		must(t, err)
		diff(t, "newest", evs, []audit.Event{later})
	})
}

func TestEventWithoutIDOrTimeGetsThem(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		must(t, db.CreateUser(t.Context(), someone("u1"), "", audit.Event{Kind: "user.create"}))
		evs, err := db.Events(t.Context(), 1)
		must(t, err)
		if len(evs[0].ID) != 32 || time.Since(evs[0].At).Abs() > time.Minute {
			t.Errorf("got %+v", evs[0])
		}
	})
}

func record(id string, at time.Time) audit.Record {
	return audit.Record{
		ID: id, At: at, Action: "read", Resource: authz.Resource{Type: "document"}, Actor: audit.Actor{Type: "user", ID: "u1"},
		Reasons: []authz.Reason{},
	}
}

func TestRecordIsReadAsItWasWritten(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		full := audit.Record{
			ID: "r1", At: base, Allow: true, Revision: "rev",
			Actor:  audit.Actor{Type: "user", ID: "u1", Credential: "api_key", KeyID: "k1", ImpersonatedBy: "x"},
			Action: "read", Resource: authz.Resource{Type: "document", ID: "d1", Properties: map[string]any{"owner": "u1"}},
			// An integer beyond what a float holds: a replay needs all digits.
			Input: map[string]any{"n": json.Number("12345678901234567890"), "s": "it's",
				"resource": map[string]any{"properties": map[string]any{"owner": "u1"}}},
			Reasons: []authz.Reason{{Code: "role", Message: "m", Permission: "p", Details: map[string]any{"a": "b"}}},
			Failure: "f", RequestID: "q", DataRevision: 1 << 40, Context: map[string]any{"c": "d"},
			AssertedBy:     audit.Asserter{Type: "service_account", ID: "s", KeyID: "k2"},
			NDBuiltinCache: map[string]any{"rand.intn": map[string]any{`["a",2]`: json.Number("1")}},
			Erased:         []string{"/input/x"}, Masked: []string{"/input/y"}, MaskFailure: "a.rego:1",
		}
		must(t, db.WriteRecords(ctx, []audit.Record{full, record("r2", base)}))
		got, err := db.Record(ctx, "r1")
		must(t, err)
		diff(t, "full", got, full)
		got, err = db.Record(ctx, "r2")
		must(t, err)
		diff(t, "bare", got, record("r2", base))
	})
}

// However many there are, and whatever some of them have that others have not.
func TestRecordsAreWrittenTogether(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		for _, n := range []int{1, 7, 8, 63, 64, 65, 1001} {
			var all []audit.Record
			for i := range n {
				r := record(fmt.Sprintf("n%04d-%04d", n, i), base.Add(time.Duration(i)*time.Millisecond))
				r.Allow, r.DataRevision, r.Action = i%2 == 0, int64(i), fmt.Sprintf("act %d", i)
				r.Input = map[string]any{"i": json.Number(fmt.Sprint(i)), "o": []any{"<é\x00>"}}
				if i%50 == 1 {
					r.Context, r.Masked, r.Failure = map[string]any{"i": json.Number(fmt.Sprint(i))}, []string{"/input/i"}, "f"
				}
				if i%70 == 2 {
					r.Actor.ImpersonatedBy, r.AssertedBy.ID, r.Mapped = "a", "b", "c"
				}
				all = append(all, r)
			}
			must(t, db.WriteRecords(t.Context(), append(slices.Clone(all), all[0], all[n-1])))
			var got []audit.Record
			must(t, db.EachRecord(t.Context(), audit.Query{}, func(r audit.Record) error {
				got = append(got, r)
				return nil
			}))
			diff(t, fmt.Sprint(n, " records"), got, all)
			_, err := db.DeleteRecords(t.Context(), base.Add(time.Hour))
			must(t, err)
		}
	})
}

func TestBatchThatFailsLeavesNothing(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		var all []audit.Record
		for i := range 100 {
			all = append(all, record(fmt.Sprint("r", i), base))
		}
		all[90].Context = map[string]any{"n": math.NaN()}
		if err := db.WriteRecords(t.Context(), all); err == nil || !strings.Contains(err.Error(), "r90") {
			t.Errorf("got %v, want an error that names the record", err)
		}
		rs, err := db.Records(t.Context(), audit.Query{})
		must(t, err)
		if len(rs) != 0 {
			t.Errorf("%d records of it are there", len(rs))
		}
		all[90].Context = nil
		must(t, db.WriteRecords(t.Context(), all))
	})
}

// Whatever names somebody asks about.
func TestRecordOfOddNamesIsWritten(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		odd := record("r1", base)
		odd.Action, odd.Actor.ID, odd.Resource.Type, odd.Resource.ID = "re\x00ad", "u\x001", "docu\x00ment", "d\x001"
		odd.Reasons = []authz.Reason{{Code: "c\x00", Message: "m\x00"}}
		odd.Input = map[string]any{"action": "re\x00ad"}
		bytes := record("r3", base)
		for _, s := range []*string{
			&bytes.Action, &bytes.Mapped, &bytes.Failure, &bytes.RequestID, &bytes.Revision, &bytes.MaskFailure, &bytes.Resource.Type, &bytes.Resource.ID,
			&bytes.Actor.Type, &bytes.Actor.ID, &bytes.Actor.Credential, &bytes.Actor.KeyID, &bytes.Actor.ImpersonatedBy,
			&bytes.AssertedBy.Type, &bytes.AssertedBy.ID, &bytes.AssertedBy.KeyID,
		} {
			*s = "a\xff\xfe\x00"
		}
		bytes.Reasons = []authz.Reason{{Code: "c\xff", Message: "\xff"}}
		bytes.Input, bytes.Context = map[string]any{"\xff": "\xff\x00"}, map[string]any{"c": "\xff"}
		must(t, db.WriteRecords(t.Context(), []audit.Record{odd, record("r2", base), bytes}))
		got, err := db.Record(t.Context(), "r3")
		must(t, err)
		if want := "a\ufffd\ufffd\x00"; got.Action != want || got.Failure != want || got.AssertedBy.KeyID != want {
			t.Errorf("got %+v", got)
		}
		got, err = db.Record(t.Context(), "r1")
		must(t, err)
		diff(t, "record", got, odd)
		for q, want := range map[audit.Query]string{
			{Action: odd.Action, PrincipalID: odd.Actor.ID, ResourceType: odd.Resource.Type, ResourceID: odd.Resource.ID, Code: "c\x00"}: "r1",
			{Action: "a\ufffd\ufffd\x00", Code: "c\ufffd", Revision: "a\ufffd\ufffd\x00", AssertedBy: "a\ufffd\ufffd\x00"}:               "r3",
		} {
			found, err := db.Records(t.Context(), q)
			must(t, err)
			if len(found) != 1 || found[0].ID != want {
				t.Errorf("%+v: got %d records, want %s", q, len(found), want)
			}
		}
	})
}

// A batch whose fate is unknown may be written again.
func TestRecordsAreWrittenOnce(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		must(t, db.WriteRecords(ctx, nil))
		must(t, db.WriteRecords(ctx, []audit.Record{record("r1", base)}))
		must(t, db.WriteRecords(ctx, []audit.Record{record("r1", base)}))
		must(t, db.WriteRecords(ctx, []audit.Record{record("r2", base), record("r1", base)}))
		got, err := db.Records(ctx, audit.Query{})
		must(t, err)
		diff(t, "records", got, []audit.Record{record("r2", base), record("r1", base)})
	})
}

func TestRecordsArePagedByTheLastOneSeen(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		var all []audit.Record
		for i := range 450 {
			all = append(all, record(fmt.Sprintf("r%03d", i), base.Add(time.Duration(i/7)*time.Millisecond)))
		}
		must(t, db.WriteRecords(ctx, all))
		var got []string
		q := audit.Query{Limit: 40}
		for {
			page, err := db.Records(ctx, q)
			must(t, err)
			if len(page) == 0 {
				break
			}
			for _, r := range page {
				got = append(got, r.ID)
			}
			q.Before = page[len(page)-1].ID
		}
		if len(got) != len(all) {
			t.Fatalf("got %d records, want %d", len(got), len(all))
		}
		for i, id := range got {
			if want := all[len(all)-1-i].ID; id != want {
				t.Fatalf("at %d: got %s, want %s", i, id, want)
			}
		}
		page, err := db.Records(ctx, audit.Query{})
		must(t, err)
		if len(page) != 50 {
			t.Errorf("default page: got %d, want 50", len(page))
		}
	})
}

func TestRecordQueriesRestrictByWhatIsSet(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		a, b := record("a", base), record("b", base.Add(time.Second))
		a.AssertedBy.ID = "s1"
		a.Allow, a.Actor.KeyID, a.Resource.ID, a.Revision = true, "k1", "d1", "one"
		b.Actor.ID, b.Action, b.Resource.Type, b.Revision = "u2", "write", "folder", "two"
		b.Reasons = []authz.Reason{{Code: "role_missing"}, {Code: "other"}}
		must(t, db.WriteRecords(ctx, []audit.Record{a, b}))
		for name, c := range map[string]struct {
			q    audit.Query
			want string
		}{
			"all":            {audit.Query{}, "ba"},
			"principal":      {audit.Query{PrincipalID: "u2"}, "b"},
			"key":            {audit.Query{KeyID: "k1"}, "a"},
			"asserter":       {audit.Query{AssertedBy: "s1"}, "a"},
			"after":          {audit.Query{After: "a"}, "b"},
			"oldest first":   {audit.Query{OldestFirst: true}, "ab"},
			"action":         {audit.Query{Action: "write"}, "b"},
			"resource type":  {audit.Query{ResourceType: "document"}, "a"},
			"resource":       {audit.Query{ResourceType: "document", ResourceID: "d1"}, "a"},
			"allowed":        {audit.Query{Allow: ptr(true)}, "a"},
			"denied":         {audit.Query{Allow: ptr(false)}, "b"},
			"first code":     {audit.Query{Code: "role_missing"}, "b"},
			"second code":    {audit.Query{Code: "other"}, "b"},
			"part of a code": {audit.Query{Code: "role"}, ""},
			"no wildcards":   {audit.Query{Code: "role%"}, ""},
			"revision":       {audit.Query{Revision: "one"}, "a"},
			"since":          {audit.Query{Since: base.Add(time.Second)}, "b"},
			"until":          {audit.Query{Until: base.Add(time.Second)}, "a"},
			"before":         {audit.Query{Before: "b"}, "a"},
			"both":           {audit.Query{PrincipalID: "u1", Action: "write"}, ""},
		} {
			rs, err := db.Records(ctx, c.q)
			must(t, err)
			var got string
			for _, r := range rs {
				got += r.ID
			}
			if got != c.want {
				t.Errorf("%s: got %q, want %q", name, got, c.want)
			}
		}
		n, err := db.DeleteRecords(ctx, base.Add(time.Second))
		must(t, err)
		if _, err := db.Record(ctx, "b"); err != nil || n != 1 {
			t.Errorf("deleted %d, the newer one: %v", n, err)
		}
	})
}

func TestEachRecordIsToldOnceAndTheOldestFirst(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		var all []audit.Record
		for i := range 1234 {
			all = append(all, record(fmt.Sprintf("r%04d", i), base.Add(time.Duration(i/7)*time.Millisecond)))
		}
		must(t, db.WriteRecords(ctx, all))
		for _, c := range []struct {
			q    audit.Query
			want []audit.Record
		}{
			{audit.Query{}, all},
			{audit.Query{Limit: 700}, all[:700]},
			{audit.Query{Limit: 500}, all[:500]},
			{audit.Query{After: "r0009", Before: "r1200"}, all[10:1200]},
			{audit.Query{Since: base.Add(time.Millisecond), Until: base.Add(2 * time.Millisecond)}, all[7:14]},
			{audit.Query{PrincipalID: "nobody"}, nil},
		} {
			var got []audit.Record
			must(t, db.EachRecord(ctx, c.q, func(r audit.Record) error {
				got = append(got, r)
				if len(got) == 500 {
					// Retention may take what a page ended with.
					_, err := db.DeleteRecords(ctx, base)
					return err
				}
				return nil
			}))
			diff(t, fmt.Sprintf("%+v", c.q), got, c.want)
		}
		enough := errors.New("enough")
		if err := db.EachRecord(ctx, audit.Query{}, func(audit.Record) error { return enough }); !errors.Is(err, enough) {
			t.Errorf("got %v, want the error of the function", err)
		}
		for _, q := range []audit.Query{{Before: "unknown"}, {After: "unknown"}} {
			if err := db.EachRecord(ctx, q, nil); !errors.Is(err, audit.ErrNotFound) {
				t.Errorf("%+v: got %v, want %v", q, err, audit.ErrNotFound)
			}
		}
	})
}
