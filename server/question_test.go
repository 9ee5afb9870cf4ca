package server

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The same questions as package json reads them.
type (
	asJSONReadsThem struct {
		Action      actionByJSON               `json:"action"`
		Resource    field[resourceByJSON]      `json:"resource"`
		Context     object                     `json:"context"`
		Checks      field[[]checkByJSON]       `json:"checks"`
		Permissions field[map[string][]string] `json:"permissions"`
		Explain     field[bool]                `json:"explain"`
	}
	checkByJSON struct {
		Action   actionByJSON          `json:"action"`
		Resource field[resourceByJSON] `json:"resource"`
		Context  object                `json:"context"`
	}
	resourceByJSON struct {
		Type       field[string] `json:"type"`
		ID         field[string] `json:"id"`
		Properties object        `json:"properties"`
	}
	actionByJSON action
)

func (a *actionByJSON) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	a.set = true
	switch d.PeekKind() {
	case '"':
		return json.UnmarshalDecode(d, &a.name)
	case '{':
		var long struct {
			Name       field[string] `json:"name"`
			Properties object        `json:"properties"`
		}
		err := json.UnmarshalDecode(d, &long)
		a.name, a.properties = long.Name.value, long.Properties
		return err
	}
	return wrongType(d, "must be text or an object with a name")
}

func resourceOf(r field[resourceByJSON]) resource {
	return resource{text(r.value.Type), text(r.value.ID), r.value.Properties, r.set}
}

func (in *asJSONReadsThem) question() authorizeRequest {
	out := authorizeRequest{
		Action: action(in.Action), Resource: resourceOf(in.Resource), Context: in.Context,
		Permissions: in.Permissions, Explain: in.Explain, Checks: checks{n: len(in.Checks.value), set: in.Checks.set},
	}
	for _, c := range in.Checks.value[:min(maxChecks, len(in.Checks.value))] {
		out.Checks.value = append(out.Checks.value, check{action(c.Action), resourceOf(c.Resource), c.Context})
	}
	return out
}

// What is asked is read as package json would read it, and mistakes are told in
// the same words, at the same place.
func FuzzQuestionsAreReadAsPackageJSONReadsThem(f *testing.F) {
	for _, seed := range []string{
		`{"action":"read","resource":{"type":"document","id":"d1","properties":{"a":[1,"b",null,true,{}]}},"context":{"c":-1.5e3},"explain":true}`,
		`{"checks":[{"action":{"name":"a","properties":{"x":1}},"resource":{"type":"t"}},{"action":"a","resource":{"type":"t"},"context":{}},null]}`,
		`{"permissions":{"user":["list",null],"x":null}}`, `{"\u0061ction":"a\n","resource":{"typ\u0065":"\ud83d\ude00"}}`,
		``, ` `, `null`, `{`, `[]`, `[`, `"x`, `7`, `{"action"`, `{"action":`, `{"action":"a"`, `{"action":"a",`, `{"action":"a"} x`,
		`{"resource":[}`, `{"resource":["a"`, `{"resource":"`, `{"resource":null}`, `{"resource":nul}`, `{"resource":{"type":[1,}}`, `{"resource":{"type":{"a":1,"a":2}}}`,
		`{"resource":{"type":"a","type":"b"}}`, `{"resource":{"id":7}}`, `{"resource":{"id":tru}}`, `{"resource":{"":1}}`, `{"":1}`, `{"a/b~c":1}`, `{1:2}`,
		`{"checks":{}}`, `{"checks":[`, `{"checks":[{"resource":7}]}`, `{"checks":[7,8]}`, `{"checks":[{"explain":true}]}`, `{"checks":null}`, `{"checks":[],"checks":[]}`,
		`{"action":{"name":7}}`, `{"action":{"name":null}}`, `{"action":{"x":1}}`, `{"action":[1,]}`, `{"action":{"name":"a","name":"b"}}`, "{\"action\":\"\xff\"}", "{\"\xff\":1}",
		`{"checks":[` + strings.Repeat(`{},`, maxChecks) + `{"action":"a"}]}`, `{"checks":[` + strings.Repeat(`{},`, maxChecks) + `7]}`,
		`{"context":{"n":9007199254740993}}`, `{"context":[]}`, `{"explain":1}`, `{"explain":null}`, `{"Action":"a"}`, `{"action":"\ud800"}`, `{"action" "a"}`, `{,}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var got authorizeRequest
		var want asJSONReadsThem
		gotErr := json.Unmarshal(bytes.Clone(text), &got, json.RejectUnknownMembers(true))
		wantErr := json.Unmarshal(text, &want, json.RejectUnknownMembers(true))
		switch {
		case gotErr == nil && wantErr == nil:
			if q := want.question(); !reflect.DeepEqual(got, q) {
				t.Errorf("%s:\n got %+v\nwant %+v", text, got, q)
			}
		case gotErr == nil || wantErr == nil:
			t.Errorf("%s:\n got %v\nwant %v", text, gotErr, wantErr)
		default:
			if g, w := said(gotErr), said(wantErr); g != w {
				t.Errorf("%s:\n got %s\nwant %s", text, g, w)
			}
		}
	})
}

// What a policy says is written as package json writes it.
func TestWhatPoliciesSayIsWrittenAsPackageJSONWritesIt(t *testing.T) {
	for _, v := range []any{
		nil, true, "", "a\"\\\n\u2028<&>\x00😀", stdjson.Number("1.50e3"), stdjson.Number("12345678901234567890"), 7, 1.5, int64(-3),
		[]any{}, []any(nil), []any{"a", nil, []any{false}}, map[string]any{}, map[string]any(nil),
		map[string]any{"b": 1, "a": map[string]any{"\n": "x", "é": []any{stdjson.Number("0")}}, "": nil, "B": struct {
			X int `json:"x"`
		}{1}},
		"\xff", map[string]any{"\xff": 1}, []any{func() {}}, stdjson.Number("x"), stdjson.Number(" 1"), stdjson.Number("1 "), stdjson.Number(""), stdjson.Number("true"), stdjson.Number("1e400"), stdjson.Number("-0"),
	} {
		var w decisionWriter
		want, wantErr := encode(v)
		if err := w.value(v); (err != nil) != (wantErr != nil) || err == nil && string(w.b) != string(want) {
			t.Errorf("%#v: got %s, %v; want %s, %v", v, w.b, err, want, wantErr)
		}
	}
}

// said is what the answer says of a mistake.
func said(err error) string {
	p, ok := errors.AsType[*Problem](malformed(err))
	if !ok {
		return err.Error()
	}
	var b strings.Builder
	for _, e := range p.Errors {
		b.WriteString(e.Pointer + " " + e.Message + ";")
	}
	return b.String()
}
