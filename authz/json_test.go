package authz_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/authz"
)

func decoded(t *testing.T, text []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if d.More() {
		t.Fatalf("%s: is more than one value", text)
	}
	return v
}

// same fails unless got is the JSON of v, to the digit.
func same(t *testing.T, got []byte, gotErr error, v any) {
	t.Helper()
	want, wantErr := json.Marshal(v)
	if (gotErr != nil) != (wantErr != nil) {
		t.Fatalf("%#v: got error %v, want %v", v, gotErr, wantErr)
	}
	if gotErr == nil && !reflect.DeepEqual(decoded(t, got), decoded(t, want)) {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestValuesAreAppendedAsPackageJSONWritesThem(t *testing.T) {
	for _, v := range []any{
		nil, true, false, "", "plain", "a\"\\/\b\f\n\r\t\x00\x1f\x7f\u2028<&>é😀", "\xff\xfe.\xc3", "é\xff",
		7, int64(math.MinInt64), 1.5, 1e21, math.NaN(), uint8(3), time.Unix(0, 0),
		json.Number("0"), json.Number("-0"), json.Number("00"), json.Number("-"), json.Number("12345678901234567890"), json.Number("1.50e3"),
		json.Number("1e400"), json.Number(""), json.Number("x"), json.Number(" 1"), json.Number("+1"),
		[]any{}, []any(nil), []any{"a", nil, []any{false}}, []string{"a"},
		map[string]any{}, map[string]any(nil), map[string]any{"b": 1, "a": map[string]any{"\n": "x"}, "": nil, "é": "é"}, map[string]any{"\xff": 1},
		[]any{func() {}}, map[string]any{"a": math.Inf(1)}, struct{ X int }{1},
	} {
		got, err := authz.AppendJSON(nil, v, nil)
		same(t, got, err, v)
	}
	for range 3000 {
		v := anything(4)
		got, err := authz.AppendJSON([]byte("before"), v, nil)
		same(t, got[len("before"):], err, v)
	}
}

// What packages disagree about is the caller's, wherever it stands.
func TestOtherValuesAreLeftToTheCaller(t *testing.T) {
	other := func(b []byte, v any) ([]byte, error) { return fmt.Appendf(b, "<%v>", v), nil }
	got, err := authz.AppendJSON(nil, []any{"a", 1.5, map[string]any{"b": []any{"\xff", json.Number("1.0"), []any(nil)}}}, other)
	if want := `["a",<1.5>,{"b":[<` + "\xff" + `>,<1.0>,<[]>]}]`; string(got) != want || err != nil {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func TestReasonsAreAppendedAsPackageJSONWritesThem(t *testing.T) {
	for range 1000 {
		r := access.Reason{Code: words(), Message: words(), Permission: words(), Details: properties()}
		got, err := authz.AppendReason(nil, &r, nil)
		same(t, got, err, r)
	}
}

// What is recorded without the document is what the policy saw.
func TestDocumentIsAppendedAsItIs(t *testing.T) {
	for range 3000 {
		r, facts, now := question()
		got, err := authz.AppendDocument(nil, &r, facts, now)
		same(t, got, err, r.Document(facts, now))
	}
}

// The principal, which is written again and again, is so as it is by then.
func TestPrincipalIsAppendedAsItIsByThen(t *testing.T) {
	now := time.UnixMilli(1e12)
	session := &access.SessionFacts{ID: "s", FreshUntil: now.Add(time.Hour)}
	for _, credential := range []string{"session", authz.CredentialAsserted} {
		s, err := authz.NewSubject(access.Identity{Type: "user", ID: "u", Credential: credential, Session: session, Properties: map[string]any{"a": "b"}})
		if err != nil {
			t.Fatal(err)
		}
		r := access.Request{Subject: s, Action: access.Action{Name: "read"}, Resource: access.Resource{Type: "document"}}
		for _, later := range []time.Duration{0, 0, time.Hour, 2 * time.Hour, 0} {
			got, err := authz.AppendDocument(nil, &r, nil, now.Add(later))
			same(t, got, err, r.Document(nil, now.Add(later)))
		}
	}
}

func FuzzDocumentIsAppendedAsItIs(f *testing.F) {
	f.Add("api_key", "u1", "é\x00\"", `{"ip":"x","time":1,"n":[1.50,null]}`, int64(0))
	f.Add("asserted", "\xff", "", `{"":{}}`, int64(1))
	f.Fuzz(func(t *testing.T, credential, name, text, doc string, at int64) {
		var m map[string]any
		d := json.NewDecoder(strings.NewReader(doc))
		d.UseNumber()
		if d.Decode(&m) != nil {
			m = nil
		}
		now := time.UnixMilli(at % 1e14)
		by := access.Asserter{Type: name, ID: text}
		who := access.NewSubject(access.Identity{
			Type: text, ID: name, Credential: credential, Roles: []string{name, text}, Properties: m, AssertedBy: &by, Known: at%2 == 0,
			User:    &access.UserFacts{ID: name, Name: text, Email: text, Username: name, CreatedAt: now, Attributes: m},
			Session: &access.SessionFacts{ID: name, FreshUntil: now.Add(time.Duration(at % 3)), ImpersonatedBy: text},
			Key:     &access.KeyFacts{ID: text, Permissions: access.Permissions{name: {text}, text: nil}, Metadata: m, ExpiresAt: now},
		}, nil)
		facts := &access.Facts{IP: text, UserAgent: name, Method: credential, Path: text}
		r := access.Request{
			Subject: who, Action: access.Action{Name: name, Properties: m}, Context: m,
			Resource: access.Resource{Type: text, ID: name, Properties: m, Known: at%2 == 0},
		}
		got, err := authz.AppendDocument(nil, &r, facts, now)
		same(t, got, err, r.Document(facts, now))
	})
}

// question is a request with more or less of all that there can be.
func question() (access.Request, *access.Facts, time.Time) {
	now := time.UnixMilli(rand.Int64N(4e12)).Add(time.Duration(rand.IntN(1e9)))
	instant := func() (at time.Time) {
		if chance() {
			at = now.Add(time.Duration(rand.Int64N(1e12)-5e11) * time.Nanosecond).In(time.FixedZone("", 3600))
		}
		return at
	}
	list := func() (list []string) {
		for range rand.IntN(3) {
			list = append(list, words())
		}
		return list
	}
	r := access.Request{
		Action:   access.Action{Name: words(), Properties: properties()},
		Resource: access.Resource{Type: words(), ID: words(), Properties: properties(), Known: chance()},
		Context:  properties(),
	}
	if chance() {
		id := access.Identity{
			Type: words(), ID: words(), Roles: list(), Properties: properties(), Known: chance(),
			Credential: []string{access.CredentialAPIKey, access.CredentialSession, access.CredentialAsserted}[rand.IntN(3)],
		}
		if chance() {
			id.User = &access.UserFacts{ID: words(), Name: words(), Email: words(), EmailVerified: chance(), Username: words(), Banned: chance(), CreatedAt: instant(), Attributes: properties()}
		}
		if chance() {
			id.Session = &access.SessionFacts{ID: words(), CreatedAt: instant(), ExpiresAt: instant(), FreshUntil: instant(), ImpersonatedBy: words()}
		}
		if chance() {
			id.Key = &access.KeyFacts{ID: words(), Name: words(), Metadata: anything(2), CreatedAt: instant(), ExpiresAt: instant()}
			if chance() {
				id.Key.Permissions = access.Permissions{words(): list(), words(): list(), "document": list()}
			}
		}
		if chance() {
			id.AssertedBy = &access.Asserter{Type: words(), ID: words(), KeyID: words()}
		}
		r.Subject = access.NewSubject(id, nil)
	}
	var facts *access.Facts
	if chance() {
		facts = &access.Facts{IP: words(), UserAgent: words(), Method: words(), Path: words()}
	}
	return r, facts, now
}

func chance() bool { return rand.IntN(2) == 0 }

func words() string {
	all := []string{"", "read", "ip", "time", "a b", "é", "\x00", "\xff\xff", "\"<\\>&", "\u2028", "😀", "\n\t\x1f", "{", "x{"}
	return all[rand.IntN(len(all))] + all[rand.IntN(len(all))]
}

func properties() map[string]any {
	switch rand.IntN(4) {
	case 0:
		return nil
	case 1:
		return map[string]any{}
	}
	m := map[string]any{}
	for range rand.IntN(4) {
		m[words()] = anything(2)
	}
	return m
}

// anything is a JSON value, at most so deep.
func anything(depth int) any {
	switch n := rand.IntN(11); {
	case n == 0:
		return nil
	case n == 1:
		return chance()
	case n == 2:
		return rand.IntN(1000) - 500
	case n == 3:
		return rand.NormFloat64() * math.Pow(10, float64(rand.IntN(60)-30))
	case n == 4:
		return json.Number([]string{"-12", "1.50", "1E+9", "12345678901234567890"}[rand.IntN(4)])
	case n < 8 || depth == 0:
		return words()
	case n < 9:
		list := []any{}
		for range rand.IntN(4) {
			list = append(list, anything(depth-1))
		}
		return list
	}
	m := map[string]any{}
	for range rand.IntN(4) {
		m[words()] = anything(depth - 1)
	}
	return m
}
