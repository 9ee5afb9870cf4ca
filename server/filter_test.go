package server_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/ostiary/ostiary/authz"
)

var shelves = fstest.MapFS{
	"book.rego": {Data: []byte(`package app.book

allow if input.resource.properties.owner == input.principal.id

allow if {
	input.action.name == "borrow"
	input.resource.properties.public
	not input.resource.properties.lent == true
}

allow if {
	input.action.name == "count"
	count(input.resource.properties.pages) > 3
}

deny contains "too heavy" if input.resource.properties.weight > 10
`)},
	"data.json": {Data: []byte(`{"roles": {"librarian": {"book": ["burn"]}}}`)},
}

const bookColumns = `"fields":{"id":{"column":"b.id","type":"text"},"properties.owner":{"column":"b.owner_id","type":"text"},` +
	`"properties.public":{"type":"boolean","column":"public"},"properties.lent":{"type":"boolean","column":"lent"},"properties.weight":{"type":"number","column":"b.weight"}}`

func TestFilterSaysWhichRowsTheCallerMay(t *testing.T) {
	h := open(t, shelves)
	ann := h.user(t, "ann")
	_, key := h.key(t, ann, authz.Permissions{"book": {"read", "borrow", "count", "burn"}})
	librarian := h.user(t, "lib", "librarian")
	_, burner := h.key(t, librarian, authz.Permissions{"book": {"burn"}})

	for _, c := range []struct {
		name, key, body string
		matches, sql    string
		args            string
	}{
		{"postgres", key, `{"action":"read","resource":{"type":"book"},"target":"sql+postgresql",` + bookColumns + `}`, "some",
			`(("b"."owner_id" IS NOT NULL AND "b"."owner_id" = $1 AND "b"."owner_id" COLLATE "C" = $2) AND NOT (("b"."weight" IS NOT NULL AND "b"."weight" > $3)))`,
			`["ANN","ANN",10]`},
		{"mysql", key, `{"action":"read","resource":{"type":"book"},"target":"sql+mysql",` + bookColumns + `}`, "some",
			"((`b`.`owner_id` IS NOT NULL AND `b`.`owner_id` = ? AND CAST(`b`.`owner_id` AS BINARY) = ?) AND NOT ((`b`.`weight` IS NOT NULL AND `b`.`weight` > ?)))",
			`["ANN","ANN",10]`},
		{"what every one has", key, `{"action":"read","resource":{"type":"book","properties":{"weight":3}},"target":"sql+sqlite",` + bookColumns + `}`, "some",
			`("b"."owner_id" IS NOT NULL AND "b"."owner_id" = ? AND "b"."owner_id" COLLATE BINARY = ?)`, `["ANN","ANN"]`},
		{"by role", burner, `{"action":"burn","resource":{"type":"book","properties":{"weight":3}},"target":"sql+sqlite",` + bookColumns + `}`, "all", "1 = 1", "null"},
		{"not granted", burner, `{"action":"read","resource":{"type":"book"},"target":"sql+sqlite",` + bookColumns + `}`, "none", "1 = 0", "null"},
		{"nobody", "", `{"action":"read","resource":{"type":"book"},"target":"sql+sqlite",` + bookColumns + `}`, "none", "1 = 0", "null"},
		{"unknown type", key, `{"action":"read","resource":{"type":"film"},"target":"sql+sqlite",` + bookColumns + `}`, "none", "1 = 0", "null"},
	} {
		var headers []string
		if c.key != "" {
			headers = append(headers, "x-api-key: "+c.key)
		}
		got := h.do(t, "POST", "/v1/filter", c.body, headers...)
		var f struct {
			Matches, SQL string
			Args         json.RawMessage
		}
		if got.StatusCode != 200 {
			t.Errorf("%s: %d %s", c.name, got.StatusCode, got.body)
			continue
		}
		got.decode(t, &f)
		args := strings.ReplaceAll(string(f.Args), ann.ID, "ANN")
		if args == "" {
			args = "null"
		}
		if f.Matches != c.matches || f.SQL != c.sql || args != c.args {
			t.Errorf("%s: got %s %s %s\nwant %s %s %s", c.name, f.Matches, f.SQL, args, c.matches, c.sql, c.args)
		}
	}

	var ucast struct{ UCAST json.RawMessage }
	h.do(t, "POST", "/v1/filter", `{"action":"read","resource":{"type":"book","properties":{"weight":1}},"target":"ucast",`+bookColumns+`}`, "x-api-key: "+key).decode(t, &ucast)
	want := `{"operator":"and","type":"compound","value":[{"field":"properties.owner","operator":"ne","type":"field","value":null},{"field":"properties.owner","operator":"eq","type":"field","value":"` + ann.ID + `"}]}`
	if string(ucast.UCAST) != want {
		t.Errorf("got %s\nwant %s", ucast.UCAST, want)
	}
}

func TestPolicyThatIsNoFilterIsRefusedWithWhatCannotBeSaid(t *testing.T) {
	h := open(t, shelves)
	_, key := h.key(t, h.user(t, "ann", "librarian", "admin"), authz.Permissions{"book": {"*"}, "policy": {"read"}})
	got := h.do(t, "POST", "/v1/filter", `{"action":"count","resource":{"type":"book"},"target":"ucast",`+bookColumns+`}`, "x-api-key: "+key)
	if got.StatusCode != 422 || !strings.Contains(got.body, `"NOT_A_FILTER"`) || !strings.Contains(got.body, "count(input.resource.properties.pages)") {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	// Who may not read the policy is not told its expressions.
	got = h.do(t, "POST", "/v1/filter", `{"action":"count","resource":{"type":"book"},"target":"ucast",`+bookColumns+`}`)
	if got.StatusCode != 422 || strings.Contains(got.body, "pages") {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	// A field without a column cannot be asked about.
	got = h.do(t, "POST", "/v1/filter", `{"action":"read","resource":{"type":"book"},"target":"ucast","fields":{"properties.weight":{"type":"number"}}}`, "x-api-key: "+key)
	if got.StatusCode != 422 || !strings.Contains(got.body, "input.resource.properties.owner") {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

func TestMalformedFilterRequestsSayWhere(t *testing.T) {
	h := open(t, shelves)
	for _, c := range []struct{ body, says string }{
		{`{"resource":{"type":"book"},"target":"ucast","fields":{}}`, "/action"},
		{`{"action":"read","target":"ucast","fields":{}}`, "/resource/type"},
		{`{"action":"read","resource":{"type":"book","id":"b1"},"target":"ucast","fields":{}}`, "/resource/id"},
		{`{"action":"read","resource":{"type":"book"},"target":"ucast"}`, "/fields"},
		{`{"action":"read","resource":{"type":"book"},"target":"sql+oracle","fields":{}}`, "/target"},
		{`{"action":"read","resource":{"type":"book"},"fields":{}}`, "/target"},
		{`{"action":"read","resource":{"type":"book"},"target":"ucast","fields":{"owner":{"type":"text"}}}`, "properties.NAME"},
		{`{"action":"read","resource":{"type":"book"},"target":"ucast","fields":{"properties.owner":{"type":"uuid"}}}`, "boolean, number and text"},
		{`{"action":"read","resource":{"type":"book"},"target":"ucast","fields":{"id":{"type":"number"}}}`, "ids are text"},
		{`{"action":"read","resource":{"type":"book"},"target":"sql+sqlite","fields":{"properties.owner":{"type":"text","column":"owner; DROP TABLE book"}}}`, "columns"},
		{`{"action":"read","resource":{"type":"book"},"target":"ucast","fields":{` + manyFields(101) + `}}`, "more than 100"},
	} {
		got := h.do(t, "POST", "/v1/filter", c.body)
		if got.StatusCode != 400 || !strings.Contains(got.body, c.says) {
			t.Errorf("%s: %d %s", c.body, got.StatusCode, got.body)
		}
	}
}

func manyFields(n int) string {
	var fields []string
	for i := range n {
		fields = append(fields, `"properties.f`+strings.Repeat("x", i)+`":{"type":"text"}`)
	}
	return strings.Join(fields, ",")
}
