package e2e_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/server"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/opa"
)

// The same policy in both.
var twins = map[string]string{
	"things.rego": `package things

# METADATA
# entrypoint: true
# labels:
#   area: documents
allow if input.user == "ann"

# METADATA
# entrypoint: true
answer := {"text": "a<b & é", "number": 12345678901234567890.123, "list": [1, [2, 3], {"x": "y"}], "set": {"b", "a"}, "null": null, "false": false}

# METADATA
# entrypoint: true
never if input.nothing == 1

# METADATA
# entrypoint: true
no := false

# METADATA
# entrypoint: true
echo := input

# METADATA
# entrypoint: true
conflict := 1 if input.a

conflict := 2 if input.b

# METADATA
# entrypoint: true
divided := 1 / input.by

# METADATA
# entrypoint: true
noted if {
	trace("looking")
	some role in data.roles_of[input.user]
	role == "editor"
}

# METADATA
# entrypoint: true
long := [sprintf("line %d of a long answer", [i]) | some i in numbers.range(1, 100)]

# METADATA
# entrypoint: true
by_name["a/b"] := 1

by_name["plain"] := 2

hidden := 1
`,
	"whole.rego": `# METADATA
# entrypoint: true
package whole

x := 1

y if input.z

f(a) := a + 1
`,
	"main.rego": `package system

# METADATA
# entrypoint: true
main := {"you": input}
`,
	"filters.rego": `package filters

# METADATA
# entrypoint: true
# scope: document
# compile:
#   unknowns: [input.documents]
include if {
	input.documents.owner == input.user
}

include if {
	input.admin
}

include if {
	input.documents.size > 10
	not input.documents.state == "secret"
}

# METADATA
# entrypoint: true
listed if input.documents.team in data.teams

# METADATA
# entrypoint: true
untranslatable if lower(input.documents.name) == "x"

# METADATA
# entrypoint: true
related if {
	some r in data.rels
	r.user == input.user
	input.documents.id == r.document
}

# METADATA
# entrypoint: true
# compile:
#   unknowns: [input.documents]
#   mask_rule: masks
masked if input.documents.open == true

masks.documents.title.replace.value := "***" if not input.admin

# METADATA
# entrypoint: true
null_owner if input.documents.owner == null
`,
}

var twinData = map[string]any{
	"roles_of": map[string]any{"ann": []any{"reader", "editor"}},
	"teams":    []any{"red", "blue"},
	"rels":     []any{map[string]any{"user": "ann", "document": "d1"}, map[string]any{"user": "ann", "document": "d2"}},
}

// opaExchange is a request that both are sent.
type opaExchange struct {
	method, path, body string
	headers            []string // "Name: value"
	loose              bool     // status and code are the same; the words are not
	ours               string   // what we answer, where OPA does otherwise for no good reason
}

const (
	undefined = `^200 \{"decision_id":"\w+"\}$`
	sqlType   = "Accept: application/vnd.opa.sql.postgresql+json"
	allUCAST  = "Accept: application/vnd.opa.ucast.all+json"
	several   = "Accept: application/vnd.opa.multitarget+json"
	unknown   = `"unknowns":["input.documents"]`
)

var exchanges = []opaExchange{
	// What is defined, and what is not.
	{method: "POST", path: "/v1/data/things/allow", body: `{"input":{"user":"ann"}}`},
	{method: "POST", path: "/v1/data/things/allow/", body: `{"input":{"user":"ann"}}`, ours: `^200 .*"result":true`},
	{method: "POST", path: "/v1/data/things/allow", body: `{"input":{"user":"bob"}}`},
	{method: "POST", path: "/v1/data/things/no", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/answer", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/answer/list/1/0", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/answer/list/2/x", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/answer/list/9", body: `{"input":{}}`, ours: undefined},
	{method: "POST", path: "/v1/data/things/answer/list/x", body: `{"input":{}}`, ours: undefined},
	{method: "POST", path: "/v1/data/things/answer/null", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/answer/false", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/answer/nothing/below", body: `{"input":{}}`, ours: undefined},
	{method: "POST", path: "/v1/data/things/answer/set/a", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/never", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/missing", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/nothing/at/all", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/by_name/a%2Fb", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/by_name/a/b", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/by_name/plain", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/whole", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/whole", body: `{"input":{"z":true}}`},
	{method: "POST", path: "/v1/data/whole/f", body: `{"input":{}}`, ours: undefined},
	{method: "POST", path: "/v1/data/roles_of/ann/1", body: `{"input":{}}`}, // declared by the configuration
	// Input, present and absent, and how it is written.
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":{"n":12345678901234567890,"f":1.10,"e":1e400,"t":"\u00e9\ud83d\ude00"}}`},
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":"text"}`},
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":false}`},
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":[]}`},
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":1,"input":2}`},
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":{"a":1,"a":2}}`},
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":{}} and more`},
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":{},"com.example/meta":{"a":1}}`},
	{method: "POST", path: "/v1/data/things/echo", body: "{\"input\":\"\xff\"}"},
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":null}`},
	{method: "POST", path: "/v1/data/things/answer", body: `{"input":null}`},
	{method: "POST", path: "/v1/data/things/answer", body: `{}`},
	{method: "POST", path: "/v1/data/things/answer", body: `null`},
	{method: "POST", path: "/v1/data/things/answer"},
	{method: "POST", path: "/v1/data/things/answer", body: "  "},
	{method: "POST", path: "/v1/data/missing"},
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":{"user":"ann"}}`, headers: []string{"Content-Type: text/plain"}},
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":{"user":"ann"}}`, headers: []string{"Content-Type: "}},
	{method: "POST", path: "/v1/data/things/echo", body: "input:\n  user: ann\n  n: 1.50\n", headers: []string{"Content-Type: application/x-yaml"}},
	{method: "POST", path: "/v1/data/things/answer", headers: []string{"Content-Type: application/yaml"}},
	{method: "POST", path: "/v1/data/things/echo", body: "input: [", headers: []string{"Content-Type: application/yaml"}, loose: true},
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":{"user":"ann"}}`, headers: []string{"Content-Encoding: gzip"}},
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":`},
	{method: "POST", path: "/v1/data/things/echo", body: `{"input":x}`},
	{method: "POST", path: "/v1/data/things/echo", body: `[1]`, loose: true},
	{method: "POST", path: "/v1/data/things/echo", body: `"x"`, loose: true},
	{method: "GET", path: "/v1/data/things/allow"},
	{method: "GET", path: "/v1/data/things/answer"},
	{method: "GET", path: "/v1/data/things/missing"},
	{method: "GET", path: "/v1/data/things/allow?input=%7B%22user%22%3A%22ann%22%7D"},
	{method: "GET", path: "/v1/data/things/echo?input=1&input=2"},
	{method: "GET", path: "/v1/data/things/echo?input=null"},
	{method: "GET", path: "/v1/data/things/echo?input=", loose: true},
	{method: "GET", path: "/v1/data/things/echo?input=%7B", loose: true},
	{method: "GET", path: "/v1/data/things/echo?input=1%202", loose: true},
	// Parameters.
	{method: "POST", path: "/v1/data/things/answer?pretty", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/answer?pretty=TRUE", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/answer?pretty=1", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/answer?pretty=false&pretty=true", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/answer?unknown=1", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/echo?metrics", body: `{"input":1}`}, // compiles the query
	{method: "POST", path: "/v1/data/things/echo?metrics", body: `{"input":1}`}, // does not
	{method: "POST", path: "/v1/data/things/missing?metrics=true", body: `{"input":1}`, loose: true},
	{method: "POST", path: "/v1/data/things/allow?rule_labels", body: `{"input":{"user":"ann"}}`, ours: `"rule_labels":\[\{"area":"documents"\}\]`}, // theirs has no annotations
	{method: "POST", path: "/v1/data/things/noted?explain=off", body: `{"input":{"user":"ann"}}`},
	{method: "POST", path: "/v1/data/things/noted?explain=nonsense", body: `{"input":{"user":"ann"}}`},
	{method: "POST", path: "/v1/data/things/noted?explain=notes", body: `{"input":{"user":"ann"}}`},
	{method: "POST", path: "/v1/data/things/noted?explain=fails", body: `{"input":{"user":"ann"}}`},
	{method: "POST", path: "/v1/data/things/noted?explain=full", body: `{"input":{"user":"ann"}}`},
	{method: "POST", path: "/v1/data/things/noted?explain=debug", body: `{"input":{"user":"ann"}}`},
	{method: "POST", path: "/v1/data/things/noted?explain=notes&pretty", body: `{"input":{"user":"ann"}}`},
	{method: "POST", path: "/v1/data/things/noted?explain=fails&pretty", body: `{"input":{"user":"ann"}}`},
	{method: "POST", path: "/v1/data/things/noted?explain=full&pretty", body: `{"input":{"user":"ann"}}`},
	{method: "POST", path: "/v1/data/things/noted?explain=debug&pretty", body: `{"input":{"user":"ann"}}`},
	{method: "POST", path: "/v1/data/things/noted?explain=notes", body: `{"input":{"user":"bob"}}`},
	{method: "POST", path: "/v1/data/things/noted?explain=fails", body: `{"input":{"user":"bob"}}`},
	{method: "POST", path: "/v1/data/things/noted?explain=full", body: `{"input":{"user":"bob"}}`},
	{method: "POST", path: "/v1/data/things/noted?explain=full&pretty", body: `{"input":{"user":"bob"}}`},
	{method: "POST", path: "/v1/data/things/answer?explain=notes", body: `{"input":{}}`},
	{method: "POST", path: "/v1/data/things/answer?explain=notes&pretty", body: `{"input":{}}`},
	{method: "GET", path: "/v1/data/things/noted?explain=full&input=%7B%22user%22%3A%22ann%22%7D"},
	// What fails.
	{method: "POST", path: "/v1/data/things/conflict", body: `{"input":{"a":1,"b":1}}`},
	{method: "POST", path: "/v1/data/things/divided", body: `{"input":{"by":0}}`},
	{method: "POST", path: "/v1/data/things/divided?strict-builtin-errors", body: `{"input":{"by":0}}`},
	{method: "POST", path: "/v1/data/things/divided?strict-builtin-errors=true", body: `{"input":{"by":2}}`},
	{method: "GET", path: "/v1/data/things/divided?strict-builtin-errors&input=%7B%22by%22%3A0%7D"},
	// Version 0, and the default decision.
	{method: "POST", path: "/v0/data/things/allow", body: `{"user":"ann"}`},
	{method: "POST", path: "/v0/data/things/allow", body: `{"user":"bob"}`},
	{method: "POST", path: "/v0/data/things/missing", body: `{}`},
	{method: "POST", path: "/v0/data/things/answer?pretty", body: `{}`},
	{method: "POST", path: "/v0/data/things/echo", body: `null`},
	{method: "POST", path: "/v0/data/things/echo"},
	{method: "POST", path: "/v0/data/things/echo", body: `{`, loose: true},
	{method: "POST", path: "/v0/data/things/conflict", body: `{"a":1,"b":1}`},
	{method: "POST", path: "/", body: `{"a":1}`},
	{method: "POST", path: "/?pretty", body: `{"a":1}`},
	// Compression.
	{method: "POST", path: "/v1/data/things/long", body: `{"input":{}}`, headers: []string{"Accept-Encoding: gzip"}},
	{method: "POST", path: "/v1/data/things/answer", body: `{"input":{}}`, headers: []string{"Accept-Encoding: gzip"}},
	{method: "POST", path: "/v1/data/things/long", body: `{"input":{}}`, headers: []string{"Accept-Encoding: deflate"}},
	{method: "POST", path: "/v1/data/things/long", body: `{"input":{}}`, headers: []string{"Accept-Encoding: gzip;q=0"}},
	{method: "GET", path: "/v1/data/things/long", headers: []string{"Accept-Encoding: br, gzip;q=0.5"}},
	// Filters.
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"user":"ann"}}`, headers: []string{sqlType}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"user":"ann"}}`, headers: []string{allUCAST}},
	{method: "POST", path: "/v1/compile/filters/include?pretty", body: `{"input":{"user":"ann"}}`, headers: []string{"Accept: application/vnd.opa.sql.sqlite+json"}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"user":"ann"}}`, headers: []string{"Accept: application/vnd.opa.sql.mysql+json"}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"user":"ann"}}`, headers: []string{"Accept: application/vnd.opa.sql.sqlserver+json"}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"user":"ann"}}`, headers: []string{"Accept: application/vnd.opa.ucast.minimal+json"}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"user":"ann"}}`, headers: []string{"Accept: application/vnd.opa.ucast.linq+json"}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"user":"ann"}}`, headers: []string{"Accept: application/vnd.opa.ucast.prisma+json"}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"admin":true}}`, headers: []string{sqlType}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"admin":true}}`, headers: []string{allUCAST}},
	{method: "POST", path: "/v1/compile/filters/listed", body: `{` + unknown + `}`, headers: []string{sqlType}},
	{method: "POST", path: "/v1/compile/filters/listed", body: `{` + unknown + `}`, headers: []string{"Accept: application/vnd.opa.ucast.minimal+json"}},
	{method: "POST", path: "/v1/compile/filters/listed", body: `{"unknowns":["input.document"]}`, headers: []string{sqlType}},
	{method: "POST", path: "/v1/compile/filters/untranslatable", body: `{` + unknown + `}`, headers: []string{sqlType}},
	{method: "POST", path: "/v1/compile/filters/related", body: `{"input":{"user":"ann"},` + unknown + `}`, headers: []string{sqlType}},
	{method: "POST", path: "/v1/compile/filters/related", body: `{"input":{"user":"bob"},` + unknown + `}`, headers: []string{sqlType}},
	{method: "POST", path: "/v1/compile/filters/masked", body: `{"input":{"user":"bob"}}`, headers: []string{sqlType}},
	{method: "POST", path: "/v1/compile/filters/masked", body: `{"input":{"admin":true}}`, headers: []string{allUCAST}},
	{method: "POST", path: "/v1/compile/filters/null_owner", body: `{` + unknown + `}`, headers: []string{sqlType}},
	{method: "POST", path: "/v1/compile/filters/missing", body: `{` + unknown + `}`, headers: []string{sqlType}},
	{method: "POST", path: "/v1/compile/filters/include", headers: []string{sqlType}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"options":{"targetDialects":["sql+postgresql","ucast+prisma"]}}`, headers: []string{several}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"user":"ann"},"options":{"targetSQLTableMappings":{"postgresql":{"documents":{"$self":"docs","owner":"owner_id"}}}}}`, headers: []string{sqlType}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"user":"ann"},"options":{"targetSQLTableMappings":{"postgresql":{"documents":{"$self":1}}}}}`, headers: []string{sqlType}, loose: true},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"user":"ann"}}`},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"user":"ann"}}`, headers: []string{"Accept: */*"}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"user":"ann"}}`, headers: []string{"Accept: text/plain"}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"input":{"user":"ann"}}`, headers: []string{"Accept: a/b, c/d"}},
	{method: "POST", path: "/v1/compile/filters/include", body: `{"unknowns":["input."]}`, headers: []string{sqlType}, loose: true},
	{method: "POST", path: "/v1/compile/filters/include", body: `{`, headers: []string{sqlType}, loose: true},
	// Ad hoc queries.
	{method: "POST", path: "/v1/query", body: `{"query":"x = 1; y = data.things.no"}`},
	{method: "POST", path: "/v1/query", body: `{"query":"some i; x := data.teams[i]"}`},
	{method: "POST", path: "/v1/query", body: `{"query":"input.user == \"ann\"","input":{"user":"ann"}}`},
	{method: "POST", path: "/v1/query", body: `{"query":"input.user == \"ann\""}`},
	{method: "POST", path: "/v1/query", body: `{"query":"x :="}`},
	{method: "POST", path: "/v1/query", body: `{"query":"x = x + 1"}`}, // of two, OPA says first now one, now the other
	{method: "POST", path: "/v1/query", body: `{"query":"undefined_function(1)"}`},
	{method: "POST", path: "/v1/query", body: `{"query":"data.things.conflict","input":{"a":1,"b":1}}`},
	{method: "POST", path: "/v1/query?explain=full&pretty", body: `{"query":"x = 1"}`},
	{method: "POST", path: "/v1/query?metrics", body: `{"query":"x = 1"}`},
	{method: "GET", path: "/v1/query?q=x%3D1"},
	{method: "GET", path: "/v1/query"},
	{method: "GET", path: "/v1/query?q=", loose: true},
	{method: "POST", path: "/v1/query", body: `{}`, loose: true},
	// Policies and health.
	{method: "GET", path: "/v1/policies/things.rego"},
	{method: "GET", path: "/v1/policies/missing.rego"},
	{method: "GET", path: "/health"},
	{method: "GET", path: "/health?bundles"},
	{method: "GET", path: "/health?plugins&bundles=true"},
}

// To everything that both can answer, this service gives OPA's answer: its
// status, its media type, and its body to the byte, but for ids and times.
func TestAnswersAreThoseOfOPA(t *testing.T) {
	theirs, ours, key := twinsOf(t)
	for _, x := range exchanges {
		name := x.method + " " + x.path + " " + x.body + " " + strings.Join(x.headers, " ")
		want, got := send(t, theirs, x, ""), send(t, ours, x, key)
		if x.ours != "" {
			if answer := fmt.Sprint(got.status, " ", strings.TrimSpace(got.body)); !regexp.MustCompile(x.ours).MatchString(answer) {
				t.Errorf("%s: got %s, want %s", name, answer, x.ours)
			}
			if got.status == want.status && reflect.DeepEqual(got.normal(t), want.normal(t)) {
				t.Errorf("%s: OPA answers so too", name)
			}
			continue
		}
		if got.status != want.status {
			t.Errorf("%s: status %d, want %d\n%s\nwant\n%s", name, got.status, want.status, got.body, want.body)
			continue
		}
		for _, h := range []string{"Content-Type", "Content-Encoding"} {
			if got.header.Get(h) != want.header.Get(h) {
				t.Errorf("%s: %s %q, want %q", name, h, got.header.Get(h), want.header.Get(h))
			}
		}
		wantBody, gotBody := want.normal(t), got.normal(t)
		if x.loose {
			if code(wantBody) != code(gotBody) {
				t.Errorf("%s: got\n%s\nwant\n%s", name, got.body, want.body)
			}
			continue
		}
		if !reflect.DeepEqual(gotBody, wantBody) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got.body, want.body)
		}
		if indented(got.body) != indented(want.body) {
			t.Errorf("%s: indented differently", name)
		}
	}
}

// twinsOf starts OPA's own server and this service with the same policy.
func twinsOf(t *testing.T) (theirs, ours http.Handler, key string) {
	t.Helper()
	ctx := t.Context()
	store := inmem.NewFromObject(maps.Clone(twinData))
	manager, err := plugins.New([]byte(`{}`), "test", store)
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { manager.Stop(context.WithoutCancel(ctx)) })
	s, err := server.New().WithAddresses([]string{"127.0.0.1:0"}).WithStore(store).WithManager(manager).
		WithDecisionIDFactory(func() string { return "id" }).Init(ctx)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(twinData)
	if err != nil {
		t.Fatal(err)
	}
	bundle := fstest.MapFS{"data.json": {Data: data}}
	for name, text := range twins {
		bundle[name] = &fstest.MapFile{Data: []byte(text)}
		w := httptest.NewRecorder()
		s.Handler.ServeHTTP(w, httptest.NewRequest("PUT", "/v1/policies/"+name, strings.NewReader(text)))
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %s", name, w.Body)
		}
	}

	o, err := ostiary.Open(ctx, ostiary.Options{
		Database: "sqlite::memory:", Secrets: []string{strings.Repeat("s", 32)}, Policies: bundle,
		OPA: opa.Options{Query: true, Entrypoints: []string{"roles_of", "things/by_name"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	system := authn.System("test")
	owner, err := o.Authn().CreateUser(ctx, system, authn.NewUser{Name: "Root", Email: "root@example.test", Roles: []string{"admin"}, RolesGiven: true})
	if err != nil {
		t.Fatal(err)
	}
	_, secret, err := o.Authn().CreateKey(ctx, system, authn.NewKey{
		OwnerID: owner.ID, Permissions: authz.Permissions{"access": {"evaluate"}, "policy": {"read", "test"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.Handler, o.Handler(), secret.Reveal()
}

type opaReply struct {
	status int
	header http.Header
	body   string
}

func send(t *testing.T, h http.Handler, x opaExchange, key string) opaReply {
	t.Helper()
	body := x.body
	if slices.Contains(x.headers, "Content-Encoding: gzip") {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		io.WriteString(z, body)
		z.Close()
		body = b.String()
	}
	r := httptest.NewRequest(x.method, x.path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	for _, header := range x.headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	answer := opaReply{w.Code, w.Result().Header, w.Body.String()}
	if answer.header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		answer.body = string(plain)
	}
	return answer
}

// normal is the body without what differs from call to call.
func (r opaReply) normal(t *testing.T) any {
	t.Helper()
	if r.body == "" {
		return nil
	}
	// Variables that the compiler made up are numbered over all modules.
	body := regexp.MustCompile(`__local\d+__`).ReplaceAllString(r.body, "__local__")
	d := json.NewDecoder(strings.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	if _, ok := m["decision_id"]; ok {
		m["decision_id"] = "an id"
	}
	if metrics, ok := m["metrics"].(map[string]any); ok {
		for name := range metrics {
			metrics[name] = "a number"
		}
	}
	if result, ok := m["result"].(map[string]any); ok && result["raw"] != nil {
		delete(result, "ast") // theirs has been compiled
	}
	comparable(m["explanation"])
	return v
}

// comparable takes out of an explanation the annotations, which only we read,
// and puts variables in an order that does not depend on their numbers.
func comparable(v any) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			comparable(item)
		}
	case map[string]any:
		delete(v, "annotations")
		for _, item := range v {
			comparable(item)
		}
		if locals, ok := v["locals"].([]any); ok {
			slices.SortFunc(locals, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	}
}

func code(v any) any {
	m, _ := v.(map[string]any)
	return m["code"]
}

func indented(body string) bool { return strings.Contains(body, "\n  ") }
