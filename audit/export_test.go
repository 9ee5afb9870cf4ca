package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

func exported(t *testing.T, prev string, records ...audit.Record) string {
	t.Helper()
	var b bytes.Buffer
	e, err := audit.NewExport(&b, time.Unix(100, 0), time.Unix(1, 0), time.Time{}, prev)
	for _, r := range records {
		err = errors.Join(err, e.Write(r))
	}
	if err = errors.Join(err, e.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func some(n int) []audit.Record {
	var all []audit.Record
	for i := range n {
		all = append(all, audit.Record{ID: fmt.Sprint("d", i), At: time.Unix(int64(i), 0).UTC(), Action: "read", Reasons: []authz.Reason{}})
	}
	return all
}

func TestExportIsReadAsItWasWritten(t *testing.T) {
	full := audit.Record{
		ID: "r1", At: time.Date(2026, 2, 3, 4, 5, 6, 7e6, time.UTC), Allow: true, Revision: "rev", DataRevision: 12,
		Actor:      audit.Actor{Type: "user", ID: "u1", Credential: "asserted", KeyID: "k", ImpersonatedBy: "x"},
		AssertedBy: audit.Asserter{Type: "service_account", ID: "s", KeyID: "k1"},
		Action:     "read", Resource: authz.Resource{Type: "document", ID: "<d1>", Properties: map[string]any{"n": json.Number("12345678901234567890")}},
		Input:   map[string]any{"resource": map[string]any{"properties": map[string]any{"n": json.Number("12345678901234567890")}}},
		Reasons: []authz.Reason{{Code: "role", Message: "m", Permission: "p", Details: map[string]any{"a": "b"}}},
		Context: map[string]any{"c": "d"}, Failure: "f", RequestID: "q", NDBuiltinCache: map[string]any{"rand.intn": map[string]any{`["a",2]`: json.Number("1")}},
		Erased: []string{"/input/x"}, Masked: []string{"/input/y"}, MaskFailure: "a.rego:1",
	}
	var got []audit.Record
	for r, err := range audit.ReadExport(strings.NewReader(exported(t, audit.NoHash, append(some(2), full)...))) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	if want := append(some(2), full); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestExportShowsWhatWasDoneToIt(t *testing.T) {
	whole := exported(t, audit.NoHash, some(6)...)
	lines := strings.SplitAfter(strings.TrimSuffix(whole, "\n"), "\n")
	lines[len(lines)-1] += "\n"
	other := strings.SplitAfter(exported(t, audit.NoHash, slices.Insert(some(6), 0, audit.Record{ID: "new"})...), "\n")
	join := func(parts ...[]string) string { return strings.Join(slices.Concat(parts...), "") }
	for name, c := range map[string]struct {
		text string
		want string
	}{
		"nothing":                {whole, ""},
		"altered":                {strings.Replace(whole, `"id":"d2"`, `"id":"d9"`, 1), "line 4 was altered: its content does not have its hash"},
		"a space":                {strings.Replace(whole, `"id":"d2"`, `"id": "d2"`, 1), "line 4 was altered: its content does not have its hash"},
		"altered and hashed":     {join(lines[:3], other[3:4], lines[4:]), "line 4 does not follow the line before: one of both was replaced\nline 5 does not follow the line before: one of both was replaced"},
		"removed":                {join(lines[:3], lines[5:]), "the lines numbered 3 to 4 are missing"},
		"one removed":            {join(lines[:1], lines[2:]), "the line numbered 1 is missing"},
		"swapped":                {join(lines[:2], lines[3:4], lines[2:3], lines[4:]), "line 4 is out of order: number 2"},
		"moved":                  {join(lines[:1], lines[4:6], lines[1:4], lines[6:]), "line 4 is out of order: number 1\nline 5 is out of order: number 2\nline 6 is out of order: number 3"},
		"doubled":                {join(lines[:3], lines[2:]), "line 4 is there twice: number 2"},
		"truncated":              {join(lines[:5]), audit.ErrNotEnded.Error()},
		"truncated in a line":    {whole[:len(whole)-10], "line 8 is cut off\n" + audit.ErrNotEnded.Error()},
		"without its head":       {join(lines[1:]), "line 1 stands outside of an export: no head is before it"},
		"empty":                  {"", "it is empty"},
		"something else":         {whole + "{}\n", "line 9 is not a line of an export"},
		"another behind it":      {whole + exported(t, audit.NoHash, some(1)...), "line 9 does not follow the line before: lines are missing or out of order"},
		"its continuation":       {whole + exported(t, lastHash(whole), some(1)...), ""},
		"a killed writer":        {join(lines[:4]) + exported(t, lastHash(lines[3]), some(1)...), ""},
		"a hidden end":           {join(lines[:3]) + exported(t, lastHash(lines[3]), some(1)...), "line 4 does not follow the line before: lines are missing or out of order"},
		"a record after the end": {whole + lines[2], "line 9 stands outside of an export: no head is before it\nline 9 is there twice: number 2"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			sum, err := audit.VerifyExport(strings.NewReader(c.text), func(f *audit.Fault) { got = append(got, f.Error()) })
			if err != nil {
				t.Fatal(err)
			}
			if text := strings.Join(got, "\n"); c.want == "" && text != "" || !strings.HasPrefix(text, c.want) {
				t.Errorf("got:\n%s\nwant:\n%s", text, c.want)
			}
			if c.want == "" && sum.Last != lastHash(c.text) {
				t.Errorf("last hash %s, want %s", sum.Last, lastHash(c.text))
			}
		})
	}
}

func lastHash(text string) string {
	text = strings.TrimSuffix(text, "\"}\n")
	return text[len(text)-64:]
}

func FuzzReadExport(f *testing.F) {
	f.Add([]byte(`{"seq":0,"prev":"","head":{"format":"ostiary.decisions","version":1},"hash":"` + audit.NoHash + "\"}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		faults, records := 0, 0
		for _, err := range audit.ReadExport(bytes.NewReader(text)) {
			if records++; err != nil {
				faults++
			}
		}
		// Nobody stumbles over a text with the right hashes.
		if faults == 0 {
			t.Errorf("%q: no fault in %d records", text, records)
		}
	})
}
