package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// The vectors in testdata/authzen, and some of our own, against the examples.
// A member of a case that is not known here fails the test: what is not
// understood is not tested.
func TestAuthZEN(t *testing.T) {
	binary := build(t)
	for _, c := range []struct {
		example string
		files   []string
	}{
		{"certification", []string{"certification-cases", "conformance-suite-part1", "edge-cases-part1", "own-cases"}},
		{"todo", []string{"todo-decisions-part1"}},
		{"gateway", []string{"gateway-decisions-part1"}},
		{"search", []string{"search-results-part1", "idp-results-part1"}},
	} {
		t.Run(c.example, func(t *testing.T) {
			t.Parallel()
			z := startAuthZEN(t, binary, c.example)
			if c.example == "certification" {
				t.Run("every endpoint", z.everyEndpoint)
			} else {
				t.Run("model", func(t *testing.T) { z.model(t, c.example) })
			}
			for _, file := range c.files {
				t.Run(file, func(t *testing.T) {
					cases := readCases(t, file)
					for _, id := range slices.Sorted(maps.Keys(cases)) {
						t.Run(id, func(t *testing.T) { z.play(t, cases, id) })
					}
				})
			}
		})
	}
}

// authZEN is a service with an example in it.
type authZEN struct {
	url, key, admin string
	other           string // a key of another owner
	narrow          string // a key that may not ask about others
}

const identifier = "https://pdp.example.com"

func startAuthZEN(t *testing.T, binary, example string) *authZEN {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("../examples/authzen", example))
	if err != nil {
		t.Fatal(err)
	}
	signing := filepath.Join(t.TempDir(), "signing.pem")
	if out, err := exec.CommandContext(t.Context(), "openssl", "genpkey", "-algorithm", "ed25519", "-out", signing).CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	s := start(t, binary, "OSTIARY_BASE_URL="+identifier, "OSTIARY_POLICIES="+filepath.Join(dir, "policies"), "OSTIARY_AUTHZEN_SIGNING_KEY="+signing, "OSTIARY_LOG_LEVEL=warn")
	env := map[string]string{}
	for _, line := range s.env {
		name, value, _ := strings.Cut(line, "=")
		env[name] = value
	}
	run := func(stdin string, args ...string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), s.env...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				t.Fatalf("ostiary %q: %v\n%s", args, err, exit.Stderr)
			}
			t.Fatal(err)
		}
		return out
	}
	run("", "entity", "import", filepath.Join(dir, "entities.json"))
	key := func(owner, permissions string) string {
		t.Helper()
		var made struct{ Key string }
		if err := json.Unmarshal(run("", "key", "create", "--user", owner, "--name", "pep", "--permissions", permissions, "--json"), &made); err != nil {
			t.Fatal(err)
		}
		return made.Key
	}
	run("the password of another", "user", "create", "--email", "other@example.test", "--name", "Other", "--role", "admin", "--password-stdin", "--json")
	const asking = `{"access":["evaluate","search"]}`
	return &authZEN{
		url: env["BASE_URL"], admin: env["ADMIN_KEY"], key: key(env["ADMIN_EMAIL"], asking),
		other: key("other@example.test", asking), narrow: key(env["ADMIN_EMAIL"], `{"record":["*"],"user":["*"]}`),
	}
}

// testCase is a case as in the files.
type testCase map[string]json.RawMessage

// readCases reads the cases of a file, by id. A file is an object that has
// lists of them.
func readCases(t *testing.T, file string) map[string]testCase {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../testdata/authzen", file+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	all := map[string]testCase{}
	for name, list := range doc {
		if name == "about" {
			continue
		}
		var cases []testCase
		if err := json.Unmarshal(list, &cases); err != nil {
			t.Fatalf("%s: %s: %v", file, name, err)
		}
		for _, c := range cases {
			var id string
			decode(t, c["id"], &id)
			if all[id] != nil {
				t.Fatalf("%s: %s is there twice", file, id)
			}
			all[id] = c
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s: no cases", file)
	}
	return all
}

func decode(t *testing.T, text []byte, v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

// question is a request of a case.
type question struct {
	method, path string
	header       http.Header
	body         []byte
}

func (z *authZEN) path(endpoint string) string {
	if endpoint == "metadata" {
		return "/.well-known/authzen-configuration"
	}
	return "/access/v1/" + endpoint
}

func (z *authZEN) question(endpoint string, body any) question {
	q := question{method: "POST", path: z.path(endpoint), header: http.Header{}}
	q.header.Set("Content-Type", "application/json")
	q.header.Set("Authorization", "Bearer "+z.key)
	if body != nil {
		q.body, _ = json.Marshal(body)
	}
	return q
}

// reply is what came back.
type reply struct {
	*http.Response
	raw  []byte
	body map[string]any // nil unless it is an object
}

func (z *authZEN) ask(t *testing.T, q question) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), q.method, z.url+q.path, bytes.NewReader(q.body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = q.header.Clone()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	a := reply{Response: resp}
	if a.raw, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(a.raw))
	d.UseNumber()
	_ = d.Decode(&a.body) // checked where a body is expected
	return a
}

// play plays one case and those that it refers to.
func (z *authZEN) play(t *testing.T, cases map[string]testCase, id string) {
	c := maps.Clone(cases[id])
	take := func(name string, v any) bool {
		raw, there := c[name]
		delete(c, name)
		if there {
			decode(t, raw, v)
		}
		return there
	}
	for _, remark := range []string{"id", "why", "what", "strength", "variant", "sublevel"} {
		delete(c, remark)
	}
	var applies string
	if take("applies", &applies) {
		if applies != "if tenants have own identifiers" {
			t.Fatalf("applies: %q is not known", applies)
		}
		t.Skip("there are no tenants in this service; server.TestIdentifiersWithAPath has some")
	}
	var endpoint string
	take("endpoint", &endpoint)
	q := z.question(endpoint, nil)
	if endpoint == "metadata" {
		q.header = http.Header{} // public
	}
	take("method", &q.method)
	take("path", &q.path)
	var headers map[string]*string
	take("headers", &headers)
	for name, value := range headers {
		q.header.Del(name)
		if value != nil {
			q.header.Set(name, *value)
		}
	}
	var credentials string
	if take("credentials", &credentials) {
		switch credentials {
		case "none":
			q.header.Del("Authorization")
		case "wrong":
			q.header.Set("Authorization", "Bearer "+z.key[:len(z.key)-1]+flip(z.key))
		default:
			t.Fatalf("credentials: %q is not known", credentials)
		}
	}
	var body json.RawMessage
	if take("body", &body) {
		q.body = z.resolve(t, cases, endpoint, body)
	}
	var raw, generate string
	if take("raw_body", &raw) {
		q.body = []byte(raw)
	}
	if take("generate", &generate) {
		q.body = generated(t, generate)
	}
	var disputed string
	var expect testCase
	take("expect", &expect)
	if take("disputed", &disputed) {
		// As it stands it is against the specification; what is binding is body_later.
		if !take("body_later", &body) {
			t.Fatal("disputed, and no body_later")
		}
		q.body = body
	}
	repeat := 1
	take("repeat", &repeat)

	first := z.ask(t, q)
	answers := []reply{first}
	for range repeat - 1 {
		answers = append(answers, z.ask(t, q))
	}
	var pages []reply
	var paginate, observe string
	if take("paginate", &paginate) {
		if paginate != "to the end" {
			t.Fatalf("paginate: %q is not known", paginate)
		}
		pages = z.pages(t, q)
	}
	if take("observe", &observe) {
		z.observe(t, observe, first)
	}
	if len(c) > 0 {
		t.Fatalf("members that are not known: %v", slices.Sorted(maps.Keys(c)))
	}
	for name, want := range expect {
		check, known := expectations[name]
		if !known {
			t.Fatalf("expect.%s is not known", name)
		}
		for _, a := range answers {
			if err := check(&exchange{t, z, q, a, answers, pages}, want); err != nil {
				t.Errorf("%s: %v\n%d %s", name, err, a.StatusCode, a.raw[:min(len(a.raw), 500)])
			}
		}
	}
	if len(expect) == 0 {
		t.Error("nothing is expected")
	}
}

// flip returns another last character, so that a key becomes another key.
func flip(key string) string {
	if strings.HasSuffix(key, "a") {
		return "b"
	}
	return "a"
}

// resolve puts a token where body has a remark about one in angle brackets.
func (z *authZEN) resolve(t *testing.T, cases map[string]testCase, endpoint string, body json.RawMessage) []byte {
	t.Helper()
	var doc map[string]any
	decode(t, body, &doc)
	page, _ := doc["page"].(map[string]any)
	remark, _ := page["token"].(string)
	if !strings.HasPrefix(remark, "<") {
		return body
	}
	of := maps.Clone(doc)
	of["page"] = map[string]any{"limit": 1}
	switch remark {
	case "<next_token of c-4-5-1>":
		decode(t, cases["c-4-5-1"]["body"], &of)
	case "<next_token of the same request with limit 1>":
	case "<next_token of the read request with limit 1>":
		of["action"] = map[string]any{"name": "read"}
	case "<next_token of a subject search>":
		endpoint = "search/subject"
		of["resource"] = map[string]any{"type": "record", "id": "record-1"}
	default:
		var other map[string]any
		if name, ok := strings.CutPrefix(strings.TrimSuffix(remark, ">"), "<next_token of "); ok && cases[name] != nil {
			decode(t, cases[name]["body"], &other)
			decode(t, cases[name]["endpoint"], &endpoint)
			of = other
			break
		}
		t.Fatalf("token: %q is not known", remark)
	}
	token := nextToken(z.ask(t, z.question(endpoint, of)))
	if token == "" {
		t.Fatalf("there is no %s", remark)
	}
	page["token"] = token
	resolved, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return resolved
}

func nextToken(a reply) string {
	page, _ := a.body["page"].(map[string]any)
	token, _ := page["next_token"].(string)
	return token
}

func generated(t *testing.T, what string) []byte {
	t.Helper()
	body := map[string]any{
		"subject": map[string]any{"type": "user", "id": "alice"}, "action": map[string]any{"name": "write"},
		"resource": map[string]any{"type": "record", "id": "record-1"},
	}
	items := func(n int) []any {
		list := make([]any, n)
		for i := range list {
			list[i] = map[string]any{"subject": map[string]any{"type": "user", "id": []string{"alice", "bob"}[i%2]}}
		}
		return list
	}
	switch what {
	case "context.pad = a string of 64 MiB":
		body["context"] = map[string]any{"pad": strings.Repeat("x", 64<<20)}
	case "200 items: even index alice, odd index bob; action write, resource record-1":
		body["evaluations"] = items(200)
	case "1000 items: even index alice, odd index bob; action write, resource record-1":
		body["evaluations"] = items(1000)
	case "1001 items":
		body["evaluations"] = items(1001)
	default:
		t.Fatalf("generate: %q is not known", what)
	}
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// observe looks at what the policy saw, in the record of the last decision.
func (z *authZEN) observe(t *testing.T, what string, a reply) {
	t.Helper()
	if what != "the policy input of item 2 has no ip" {
		t.Fatalf("observe: %q is not known", what)
	}
	q := z.question("", nil)
	q.method, q.path = "GET", "/v1/decisions/"+a.Header.Get("Ostiary-Decision")
	q.header.Set("Authorization", "Bearer "+z.admin)
	var record struct {
		Input struct{ Context map[string]any }
	}
	got := z.ask(t, q)
	if got.StatusCode != 200 {
		t.Fatalf("record: %d %s", got.StatusCode, got.raw)
	}
	decode(t, got.raw, &record)
	if names := slices.Sorted(maps.Keys(record.Input.Context)); !slices.Equal(names, []string{"time"}) {
		t.Errorf("the policy saw the context %v, want nothing but the time", record.Input.Context)
	}
}

// pages follows the tokens of a search to its end.
func (z *authZEN) pages(t *testing.T, q question) []reply {
	t.Helper()
	var body map[string]any
	decode(t, q.body, &body)
	page, _ := body["page"].(map[string]any)
	if page == nil {
		page = map[string]any{}
		body["page"] = page
	}
	var all []reply
	for range 100 {
		q.body, _ = json.Marshal(body)
		a := z.ask(t, q)
		all = append(all, a)
		if page["token"] = nextToken(a); page["token"] == "" {
			return all
		}
	}
	t.Fatal("the pages do not end")
	return nil
}

// exchange is what an expectation looks at.
type exchange struct {
	t       *testing.T
	z       *authZEN
	q       question
	a       reply // one of answers
	answers []reply
	pages   []reply
}

func (x *exchange) list(name string) ([]any, error) {
	list, ok := x.a.body[name].([]any)
	if !ok {
		return nil, fmt.Errorf("%s is not an array", name)
	}
	return list, nil
}

func (x *exchange) decisions() ([]bool, error) {
	list, err := x.list("evaluations")
	if err != nil {
		return nil, err
	}
	got := make([]bool, len(list))
	for i, item := range list {
		d, ok := item.(map[string]any)["decision"].(bool)
		if !ok {
			return nil, fmt.Errorf("item %d has no decision", i)
		}
		got[i] = d
	}
	return got, nil
}

func (x *exchange) page() (map[string]any, bool, error) {
	v, there := x.a.body["page"]
	page, ok := v.(map[string]any)
	if there && !ok {
		return nil, true, errors.New("page is not an object")
	}
	return page, there, nil
}

// parsed is a value as decode leaves it.
func (x *exchange) parsed(want json.RawMessage) any {
	x.t.Helper()
	var v any
	decode(x.t, want, &v)
	return v
}

func has(list []any, v any) bool {
	return slices.ContainsFunc(list, func(o any) bool { return reflect.DeepEqual(o, v) })
}

func sameSet(a, b []any) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(v any) bool { return !has(b, v) }) && !slices.ContainsFunc(b, func(v any) bool { return !has(a, v) })
}

type expectation = func(x *exchange, want json.RawMessage) error

// holds is an expectation that is only ever true, or "should": which is as much
// here, since we do what should be done.
func holds(check func(x *exchange) error) expectation {
	return func(x *exchange, want json.RawMessage) error {
		if s := string(want); s != "true" && s != `"should"` {
			return fmt.Errorf("%s is not known", want)
		}
		return check(x)
	}
}

var expectations map[string]expectation

func init() {
	expectations = map[string]expectation{
		"status": func(x *exchange, want json.RawMessage) error {
			var list []int
			if err := json.Unmarshal(want, &list); err != nil {
				list = make([]int, 1)
				decode(x.t, want, &list[0])
			}
			if !slices.Contains(list, x.a.StatusCode) {
				return fmt.Errorf("want %d", list)
			}
			return nil
		},
		"content_type": func(x *exchange, want json.RawMessage) error {
			got, _, err := mime.ParseMediaType(x.a.Header.Get("Content-Type"))
			if err != nil || got != x.parsed(want) {
				return fmt.Errorf("got %q, want %s", got, want)
			}
			return nil
		},
		"decision": func(x *exchange, want json.RawMessage) error {
			if _, there := x.a.body["evaluations"]; there || x.a.body["decision"] != x.parsed(want) {
				return fmt.Errorf("want %s alone", want)
			}
			return nil
		},
		"decision_is_boolean": holds(func(x *exchange) error {
			if _, ok := x.a.body["decision"].(bool); !ok {
				return errors.New("it is not")
			}
			return nil
		}),
		"context_if_present_is_object": holds(func(x *exchange) error {
			if v, there := x.a.body["context"]; there {
				if _, ok := v.(map[string]any); !ok {
					return errors.New("it is not")
				}
			}
			return nil
		}),
		"response_headers": func(x *exchange, want json.RawMessage) error {
			var headers map[string]string
			decode(x.t, want, &headers)
			for name, value := range headers {
				if got := x.a.Header.Values(name); len(got) != 1 || got[0] != value {
					return fmt.Errorf("%s: got %q, want %q", name, got, value)
				}
			}
			return nil
		},
		"response_header_present": func(x *exchange, want json.RawMessage) error {
			var headers map[string]string
			decode(x.t, want, &headers)
			for name := range headers {
				if x.a.Header.Get(name) == "" {
					return fmt.Errorf("%s is not there", name)
				}
			}
			return nil
		},
		"evaluations": func(x *exchange, want json.RawMessage) error {
			var list []bool
			decode(x.t, want, &list)
			got, err := x.decisions()
			if err != nil || !slices.Equal(got, list) {
				return fmt.Errorf("got %v %v, want %v", got, err, list)
			}
			return nil
		},
		"if_200_evaluations": func(x *exchange, want json.RawMessage) error {
			if x.a.StatusCode != 200 {
				return nil
			}
			return expectations["evaluations"](x, want)
		},
		"evaluations_length": func(x *exchange, want json.RawMessage) error {
			got, err := x.decisions()
			if err != nil || fmt.Sprint(len(got)) != string(want) {
				return fmt.Errorf("got %d %v, want %s", len(got), err, want)
			}
			return nil
		},
		"evaluations_pattern": func(x *exchange, want json.RawMessage) error {
			if x.parsed(want) != "true for even index, false for odd index" {
				return fmt.Errorf("%s is not known", want)
			}
			var asked struct{ Evaluations []any }
			decode(x.t, x.q.body, &asked)
			got, err := x.decisions()
			if err != nil || len(got) != len(asked.Evaluations) {
				return fmt.Errorf("got %d, %v; asked %d", len(got), err, len(asked.Evaluations))
			}
			for i, d := range got {
				if d != (i%2 == 0) {
					return fmt.Errorf("item %d: %v", i, d)
				}
			}
			return nil
		},
		"items_exact": func(x *exchange, want json.RawMessage) error {
			got, err := x.list("evaluations")
			if err != nil || !reflect.DeepEqual(got, x.parsed(want)) {
				return fmt.Errorf("got %v %v, want %s", got, err, want)
			}
			return nil
		},
		"top_level_decision_absent": holds(func(x *exchange) error {
			if _, there := x.a.body["decision"]; there {
				return errors.New("it is there")
			}
			return nil
		}),
		"results_include": func(x *exchange, want json.RawMessage) error {
			got, err := x.list("results")
			if err != nil {
				return err
			}
			for _, v := range x.parsed(want).([]any) {
				if !has(got, v) {
					return fmt.Errorf("%v is missing", v)
				}
			}
			return nil
		},
		"results_exclude": func(x *exchange, want json.RawMessage) error {
			got, err := x.list("results")
			if err != nil {
				return err
			}
			for _, v := range x.parsed(want).([]any) {
				if has(got, v) {
					return fmt.Errorf("%v is there", v)
				}
			}
			return nil
		},
		"results_set":   resultsSet,
		"results_exact": resultsSet,
		"all_results_type": func(x *exchange, want json.RawMessage) error {
			got, err := x.list("results")
			for _, v := range got {
				if v.(map[string]any)["type"] != x.parsed(want) {
					return fmt.Errorf("got %v", v)
				}
			}
			return err
		},
		"results_keys": func(x *exchange, want json.RawMessage) error {
			got, err := x.list("results")
			if err != nil || len(got) == 0 {
				return fmt.Errorf("no results: %v", err)
			}
			for _, v := range got {
				names := []any{}
				for name := range v.(map[string]any) {
					names = append(names, name)
				}
				if !sameSet(names, x.parsed(want).([]any)) {
					return fmt.Errorf("got %v", names)
				}
			}
			return nil
		},
		"page_present": holds(func(x *exchange) error {
			if _, there, err := x.page(); err != nil || !there {
				return fmt.Errorf("it is not: %v", err)
			}
			return nil
		}),
		"page_absent": holds(func(x *exchange) error {
			if _, there, _ := x.page(); there {
				return errors.New("it is there")
			}
			return nil
		}),
		"page_if_present_is_object": holds(func(x *exchange) error {
			_, _, err := x.page()
			return err
		}),
		"next_token_is_string": holds(func(x *exchange) error {
			page, _, _ := x.page()
			if _, ok := page["next_token"].(string); !ok {
				return errors.New("it is not")
			}
			return nil
		}),
		"next_token_if_present_is_string": holds(func(x *exchange) error {
			page, _, _ := x.page()
			if v, there := page["next_token"]; there {
				if _, ok := v.(string); !ok {
					return errors.New("it is not")
				}
			}
			return nil
		}),
		"next_token": func(x *exchange, want json.RawMessage) error {
			page, _, _ := x.page()
			if page["next_token"] != x.parsed(want) {
				return fmt.Errorf("got %v, want %s", page["next_token"], want)
			}
			return nil
		},
		"page_first_key_if_present": holds(func(x *exchange) error {
			if _, there, _ := x.page(); there && !bytes.HasPrefix(x.a.raw, []byte(`{"page":`)) {
				return errors.New("it is not")
			}
			return nil
		}),
		"concatenation_equals_unpaged": holds(func(x *exchange) error {
			var body map[string]any
			decode(x.t, x.q.body, &body)
			delete(body, "page")
			q := x.q
			q.body, _ = json.Marshal(body)
			whole, _ := x.z.ask(x.t, q).body["results"].([]any)
			var all []any
			for _, p := range x.pages {
				results, _ := p.body["results"].([]any)
				all = append(all, results...)
			}
			if len(x.pages) < 2 || !reflect.DeepEqual(all, whole) {
				return fmt.Errorf("%d pages have %v, want %v", len(x.pages), all, whole)
			}
			return nil
		}),
		"last_next_token": func(x *exchange, want json.RawMessage) error {
			page, _ := x.pages[len(x.pages)-1].body["page"].(map[string]any)
			if page["next_token"] != x.parsed(want) {
				return fmt.Errorf("got %v", page["next_token"])
			}
			return nil
		},
		"identical": func(x *exchange, want json.RawMessage) error {
			if len(x.answers) < 2 {
				return errors.New("nothing is repeated")
			}
			clean := func(a reply) map[string]any {
				body := maps.Clone(a.body)
				if page, ok := body["page"].(map[string]any); ok {
					page = maps.Clone(page)
					delete(page, "next_token")
					body["page"] = page
				}
				return body
			}
			same := !slices.ContainsFunc(x.answers, func(a reply) bool { return !bytes.Equal(a.raw, x.a.raw) })
			switch x.parsed(want) {
			case "body":
			case "body, results as multiset, next_token value ignored":
				// The order is the same too.
				same = !slices.ContainsFunc(x.answers, func(a reply) bool { return !reflect.DeepEqual(clean(a), clean(x.a)) })
			default:
				return fmt.Errorf("%s is not known", want)
			}
			if !same {
				return errors.New("they are not")
			}
			return nil
		},
		"policy_decision_point_equals_base_url": holds(func(x *exchange) error {
			if x.a.body["policy_decision_point"] != identifier {
				return fmt.Errorf("want %s", identifier)
			}
			return nil
		}),
		"https_urls": func(x *exchange, want json.RawMessage) error {
			for _, name := range x.parsed(want).([]any) {
				name, optional := strings.CutSuffix(name.(string), "?")
				v, there := x.a.body[name]
				if url, ok := v.(string); (there || !optional) && (!ok || !strings.HasPrefix(url, identifier+"/")) {
					return fmt.Errorf("%s is %v", name, v)
				}
			}
			return nil
		},
		"capabilities_if_present_is_string_array": holds(func(x *exchange) error {
			v, there := x.a.body["capabilities"]
			list, ok := v.([]any)
			if there && (!ok || slices.ContainsFunc(list, func(v any) bool { _, ok := v.(string); return !ok })) {
				return errors.New("it is not")
			}
			return nil
		}),
		"signed_metadata_if_present_is_verifiable_jwt_with_iss": holds(verified),
		"no_empty_members": holds(func(x *exchange) error {
			for name, v := range x.a.body {
				switch v := v.(type) {
				case nil:
					return fmt.Errorf("%s is null", name)
				case string:
					if v == "" {
						return fmt.Errorf("%s is empty", name)
					}
				case []any:
					if len(v) == 0 {
						return fmt.Errorf("%s is empty", name)
					}
				}
			}
			return nil
		}),
		"advertised_endpoints_answer": holds(func(x *exchange) error {
			n := 0
			for name, v := range x.a.body {
				if !strings.HasSuffix(name, "_endpoint") {
					continue
				}
				n++
				q := x.z.question("", map[string]any{
					"subject": map[string]any{"type": "user", "id": "alice"}, "action": map[string]any{"name": "read"},
					"resource": map[string]any{"type": "record", "id": "record-1"},
				})
				q.path = strings.TrimPrefix(v.(string), identifier)
				if got := x.z.ask(x.t, q); got.StatusCode != 200 {
					return fmt.Errorf("%s: %d %s", v, got.StatusCode, got.raw)
				}
			}
			if n != 5 {
				return fmt.Errorf("%d endpoints", n)
			}
			return nil
		}),
	}
}

func resultsSet(x *exchange, want json.RawMessage) error {
	got, err := x.list("results")
	if err != nil || !sameSet(got, x.parsed(want).([]any)) {
		return fmt.Errorf("got %v %v, want %s", got, err, want)
	}
	return nil
}
