package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jwt"
)

type doc = map[string]any

// Whatever can be wrong with a request, at every endpoint.
func (z *authZEN) everyEndpoint(t *testing.T) {
	subject := doc{"type": "user", "id": "alice"}
	action := doc{"name": "read"}
	resource := doc{"type": "record", "id": "record-1"}
	type endpoint struct {
		name string
		body doc
		// What the endpoint needs: members of the body, as "subject.id".
		needs []string
	}
	endpoints := []endpoint{
		{"evaluation", doc{"subject": subject, "action": action, "resource": resource},
			[]string{"subject", "subject.type", "subject.id", "action", "action.name", "resource", "resource.type", "resource.id"}},
		{"evaluations", doc{"subject": subject, "action": action, "resource": resource}, // the single form
			[]string{"subject", "subject.type", "subject.id", "action", "action.name", "resource", "resource.type", "resource.id"}},
		{"search/subject", doc{"subject": doc{"type": "user"}, "action": action, "resource": resource},
			[]string{"subject", "subject.type", "action", "action.name", "resource", "resource.type", "resource.id"}},
		{"search/resource", doc{"subject": subject, "action": action, "resource": doc{"type": "record"}},
			[]string{"subject", "subject.type", "subject.id", "action", "action.name", "resource", "resource.type"}},
		{"search/action", doc{"subject": subject, "resource": resource},
			[]string{"subject", "subject.type", "subject.id", "resource", "resource.type", "resource.id"}},
	}
	for _, e := range endpoints {
		t.Run(e.name, func(t *testing.T) {
			right := z.ask(t, z.question(e.name, e.body))
			if right.StatusCode != 200 || right.body == nil {
				t.Fatalf("the right request: %d %s", right.StatusCode, right.raw)
			}
			check := func(name string, status int, change func(q *question)) reply {
				t.Helper()
				q := z.question(e.name, e.body)
				q.header.Set("X-Request-ID", "every / "+name)
				change(&q)
				got := z.ask(t, q)
				if got.StatusCode != status || got.Header.Get("X-Request-ID") != "every / "+name {
					t.Errorf("%s: got %d, X-Request-ID %q; want %d\n%s", name, got.StatusCode, got.Header.Get("X-Request-ID"), status, got.raw)
				}
				if failure, _ := got.body["error"].(doc); status != 200 && q.method != "HEAD" &&
					(failure == nil || failure["status"] != json.Number(fmt.Sprint(status)) || failure["message"] == "" || got.Header.Get("Content-Type") != "application/json") {
					t.Errorf("%s: not an error as there should be: %s", name, got.raw)
				}
				if status == 200 && !bytes.Equal(got.raw, right.raw) {
					t.Errorf("%s: got %s, want %s", name, got.raw, right.raw)
				}
				return got
			}
			raw := func(text string) func(*question) { return func(q *question) { q.body = []byte(text) } }
			text, _ := json.Marshal(e.body)
			whole := string(text)
			inside := whole[:len(whole)-1]

			for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"} {
				got := check(method, 405, func(q *question) { q.method = method })
				if got.Header.Get("Allow") != "POST" {
					t.Errorf("%s: Allow %q", method, got.Header.Get("Allow"))
				}
			}
			for _, media := range []string{"", "text/plain", "application/jsonp", "application/json-seq", "application/problem+json", "text/json", "application/x-www-form-urlencoded", "*/*"} {
				check("content type: "+media+".", 400, func(q *question) {
					q.header.Del("Content-Type")
					if media != "" {
						q.header.Set("Content-Type", media)
					}
				})
			}
			for _, media := range []string{"application/json; charset=utf-8", "Application/JSON; Charset=UTF-8", "application/json;charset=\"utf-8\"", "application/json;"} {
				check("content type: "+media+".", 200, func(q *question) { q.header.Set("Content-Type", media) })
			}
			for _, authorization := range []string{"", "Bearer", "Bearer wrong", "Basic cGVwOnNlY3JldA==", "Bearer " + z.key[:len(z.key)-1] + flip(z.key)} {
				for _, body := range []string{whole, "not JSON"} {
					got := check("authorization: "+authorization+".", 401, func(q *question) {
						q.body = []byte(body)
						q.header.Del("Authorization")
						if authorization != "" {
							q.header.Set("Authorization", authorization)
						}
					})
					if challenge := got.Header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge, `Bearer realm="ostiary"`) {
						t.Errorf("authorization %q: WWW-Authenticate %q", authorization, challenge)
					}
				}
			}
			check("the key in its own header", 200, func(q *question) {
				q.header.Del("Authorization")
				q.header.Set("X-Api-Key", z.key)
			})
			for name, text := range map[string]string{
				"empty":                   "",
				"white space":             " \n",
				"a bracket missing":       inside,
				"a comma too many":        inside + ",}",
				"a comment":               whole + " // so",
				"text behind":             whole + " x",
				"another object behind":   whole + whole,
				"array":                   "[" + whole + "]",
				"text":                    `"alice"`,
				"number":                  "1",
				"true":                    "true",
				"null":                    "null",
				"a byte order mark":       "\ufeff" + whole,
				"single quotes":           strings.ReplaceAll(whole, `"`, "'"),
				"not UTF-8":               inside + ",\"x\":\"\xff\"}",
				"overlong UTF-8":          inside + ",\"x\":\"\xc0\xaf\"}",
				"UTF-16":                  utf16(whole),
				"lone surrogate":          inside + `,"x":"\ud800"}`,
				"lone low surrogate":      inside + `,"x":"\udc00"}`,
				"surrogates in disorder":  inside + `,"x":"\udc00\ud800"}`,
				"surrogate in a name":     inside + `,"\ud800":1}`,
				"a member twice":          inside + `,"x":1,"x":1}`,
				"a member twice, escaped": inside + `,"xy":1,"\u0078y":1}`,
				"a subject twice":         inside + `,"subject":{"type":"user","id":"bob"}}`,
				"a subject twice, escaped": inside +
					`,"\u0073ubject":{"type":"user","id":"bob"}}`,
				"a member twice, inside": inside + `,"x":{"y":[{"z":1,"z":2}]}}`,
				"a control character":    inside + ",\"x\":\"\x00\"}",
				"a number with a zero":   inside + `,"x":01}`,
				"a number that is none":  inside + `,"x":NaN}`,
				"a number too large":     inside + `,"x":1e400}`,
				"too deep":               inside + `,"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + "}",
				"context that is text":   inside + `,"context":"x"}`,
				"context that is a list": inside + `,"context":[]}`,
				"context that is false":  inside + `,"context":false}`,
			} {
				check(name, 400, raw(text))
			}
			for name, text := range map[string]string{
				"white space around":   " \n\t" + whole + "\r\n ",
				"unknown members":      inside + `,"foo":"bar","futureField":{"nested":true},"Subject":5,"x":null}`,
				"a pair of surrogates": inside + `,"x":"\ud83d\ude00"}`,
				"deep":                 inside + `,"x":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + "}",
				"an integer of 20 digits": inside +
					`,"context":{"n":12345678901234567890}}`,
				"context":            inside + `,"context":{"time":"2025-06-27T18:03-07:00","ip":"192.168.1.1"}}`,
				"context of null":    inside + `,"context":null}`,
				"context of nothing": inside + `,"context":{}}`,
			} {
				check(name, 200, raw(text))
			}
			check("a query", 200, func(q *question) { q.path += "?subject=bob" })
			check("a body too large", 413, func(q *question) { q.body = []byte(inside + `,"x":"` + strings.Repeat("x", 2<<20) + `"}`) })
			check("a slash behind", 404, func(q *question) { q.path += "/" })
			check("something behind", 404, func(q *question) { q.path += "/x" })

			for _, path := range e.needs {
				for what, value := range map[string]any{"missing": nil, "null": json.RawMessage("null"), "a number": 5, "a list": []any{}, "true": true, "wrong": []any{"x"}} {
					name, member, inner := strings.Cut(path, ".")
					if what == "wrong" {
						value = "x"
						if inner {
							value = doc{}
						}
					}
					check(path+" "+what, 400, func(q *question) {
						changed := maps.Clone(e.body)
						at, key := changed, name
						if inner {
							at = maps.Clone(changed[name].(doc))
							changed[name], key = at, member
						}
						if delete(at, key); what != "missing" {
							at[key] = value
						}
						q.body, _ = json.Marshal(changed)
					})
				}
			}
			for _, name := range []string{"subject", "action", "resource"} {
				if e.body[name] == nil {
					continue
				}
				with := func(member string, value any) func(*question) {
					return func(q *question) {
						changed := maps.Clone(e.body)
						entity := maps.Clone(changed[name].(doc))
						entity[member] = value
						changed[name] = entity
						q.body, _ = json.Marshal(changed)
					}
				}
				for _, value := range []any{nil, "x", 7, []any{}, false} {
					check(fmt.Sprintf("%s.properties is %v", name, value), 400, with("properties", value))
				}
				check(name+".properties empty", 200, with("properties", doc{}))
				check(name+".properties unrelated", 200, with("properties", doc{"shoe": json.Number("12345678901234567890.1"), "a": doc{"b": []any{nil, true}}}))
				check(name+" with members that are not known", 200, with("customAttr", "ignored"))
				check(name+" with what was an attribute once", 200, with("status", "archived"))
				check(name+" with a role beside the properties", 200, with("role", "admin"))
			}
			for _, id := range []string{"x", "with space", "tab\there", `{"a":"b"}`, strings.Repeat("x", 1000), "grüße", "\xe4", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"} {
				q := z.question(e.name, e.body)
				q.header["X-Request-Id"] = []string{id}
				if got := z.ask(t, q).Header.Get("X-Request-Id"); got != id {
					t.Errorf("X-Request-ID %q came back as %q", id, got)
				}
			}
			first := z.ask(t, z.question(e.name, e.body))
			if first.Header.Get("X-Request-Id") == "" || first.Header.Get("Ostiary-Decision") == "" || first.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("headers: %v", first.Header)
			}
		})
	}
	t.Run("a key without the grant", func(t *testing.T) {
		for _, e := range endpoints {
			q := z.question(e.name, e.body)
			q.header.Set("Authorization", "Bearer "+z.narrow)
			if got := z.ask(t, q); got.StatusCode != 403 {
				t.Errorf("%s: got %d %s", e.name, got.StatusCode, got.raw)
			}
		}
	})
	t.Run("tokens", z.tokens)
	t.Run("metadata", z.metadata)
}

func utf16(s string) string {
	var b strings.Builder
	for _, r := range s {
		b.WriteByte(0)
		b.WriteRune(r)
	}
	return b.String()
}

// A page token is good for the very request that it was given for, and its caller.
func (z *authZEN) tokens(t *testing.T) {
	searches := map[string]doc{
		"search/subject":  {"subject": doc{"type": "user"}, "action": doc{"name": "read"}, "resource": doc{"type": "record", "id": "record-1"}},
		"search/resource": {"subject": doc{"type": "user", "id": "alice"}, "action": doc{"name": "read"}, "resource": doc{"type": "record"}},
		"search/action":   {"subject": doc{"type": "user", "id": "alice"}, "resource": doc{"type": "record", "id": "record-1"}},
	}
	for endpoint, body := range searches {
		body["context"] = doc{"a": 1}
		first := func(page doc) doc {
			b := maps.Clone(body)
			b["page"] = page
			return b
		}
		page := doc{"limit": 1, "properties": doc{"sort": "id"}}
		a := z.ask(t, z.question(endpoint, first(page)))
		token := nextToken(a)
		if token == "" {
			t.Errorf("%s: no second page: %s", endpoint, a.raw)
			continue
		}
		again := func(name string, status int, change func(b, page doc)) reply {
			t.Helper()
			p := maps.Clone(page)
			p["token"] = token
			b := first(p)
			change(b, p)
			got := z.ask(t, z.question(endpoint, b))
			if got.StatusCode != status {
				t.Errorf("%s, %s: got %d %s, want %d", endpoint, name, got.StatusCode, got.raw, status)
			}
			return got
		}
		second := again("as it is", 200, func(b, p doc) {})
		again("no limit", 200, func(b, p doc) { delete(p, "limit") })
		again("a limit of 1.0", 200, func(b, p doc) { p["limit"] = json.Number("1.0") })
		again("with what is ignored", 200, func(b, p doc) { p["x"], b["y"] = 1, 2 })
		if results, _ := second.body["results"].([]any); len(results) != 1 || reflect.DeepEqual(second.body["results"], a.body["results"]) {
			t.Errorf("%s: pages %s and %s", endpoint, a.raw, second.raw)
		}
		again("another limit", 400, func(b, p doc) { p["limit"] = 2 })
		again("no page properties", 400, func(b, p doc) { delete(p, "properties") })
		again("other page properties", 400, func(b, p doc) { p["properties"] = doc{"sort": "name"} })
		again("another context", 400, func(b, p doc) { b["context"] = doc{"a": 2} })
		again("no context", 400, func(b, p doc) { delete(b, "context") })
		again("another subject", 400, func(b, p doc) { b["subject"] = doc{"type": "user", "id": "bob", "properties": doc{"role": "admin"}} })
		again("another resource", 400, func(b, p doc) {
			b["resource"] = doc{"type": "record", "id": "record-2", "properties": doc{"status": "archived"}}
		})
		if endpoint != "search/action" {
			again("another action", 400, func(b, p doc) { b["action"] = doc{"name": "write"} })
			again("action properties", 400, func(b, p doc) { b["action"] = doc{"name": "read", "properties": doc{"a": 1}} })
		}
		again("garbage", 400, func(b, p doc) { p["token"] = "garbage" })
		again("a line break in it", 400, func(b, p doc) { p["token"] = token[:4] + "\n" + token[4:] })
		again("cut", 400, func(b, p doc) { p["token"] = token[:len(token)-1] })
		again("padded", 400, func(b, p doc) { p["token"] = token + "=" })
		for other, body := range searches {
			if other == endpoint {
				continue
			}
			b := maps.Clone(body)
			b["page"] = doc{"token": token}
			if got := z.ask(t, z.question(other, b)); got.StatusCode != 400 {
				t.Errorf("a token of %s at %s: got %d %s", endpoint, other, got.StatusCode, got.raw)
			}
		}
		q := z.question(endpoint, first(doc{"token": token, "properties": doc{"sort": "id"}}))
		q.header.Set("Authorization", "Bearer "+z.other)
		if got := z.ask(t, q); got.StatusCode != 400 {
			t.Errorf("%s: another's token: got %d %s", endpoint, got.StatusCode, got.raw)
		}
	}
}

func (z *authZEN) metadata(t *testing.T) {
	ask := func(headers ...string) reply {
		t.Helper()
		q := question{method: "GET", path: z.path("metadata"), header: http.Header{}}
		for i := 0; i < len(headers); i += 2 {
			q.header.Set(headers[i], headers[i+1])
		}
		return z.ask(t, q)
	}
	for _, headers := range [][]string{nil, {"X-Forwarded-Host", "evil.example"}, {"Forwarded", "host=evil.example"}, {"X-Forwarded-Proto", "http"}} {
		got := ask(headers...)
		if got.StatusCode != 200 || got.body["policy_decision_point"] != identifier || got.Header.Get("Cache-Control") != "max-age=3600" {
			t.Errorf("%v: got %d %s %v", headers, got.StatusCode, got.raw, got.Header)
		}
		if bytes.Contains(got.raw, []byte("evil")) {
			t.Errorf("%v: got %s", headers, got.raw)
		}
	}
	got := ask("X-Request-ID", "a b")
	if got.Header.Get("X-Request-ID") != "a b" {
		t.Errorf("X-Request-ID: %v", got.Header)
	}
	q := question{method: "GET", path: z.path("metadata") + "/tenant", header: http.Header{}}
	if got := z.ask(t, q); got.StatusCode != 404 {
		t.Errorf("an identifier that is not ours: got %d %s", got.StatusCode, got.raw)
	}
}

// verified checks the signed metadata by the published keys.
func verified(x *exchange) error {
	signed, ok := x.a.body["signed_metadata"].(string)
	if !ok {
		return errors.New("it is not there, though a key is configured")
	}
	q := question{method: "GET", path: strings.TrimPrefix(x.a.body["jwks_uri"].(string), identifier), header: http.Header{}}
	keys, err := jwk.Parse(x.z.ask(x.t, q).raw)
	if err != nil {
		return err
	}
	for i := range keys.Len() {
		key, _ := keys.Key(i)
		if private, err := jwk.IsPrivateKey(key); err != nil || private {
			return fmt.Errorf("a private key is published: %v", err)
		}
	}
	token, err := jwt.Parse([]byte(signed), jwt.WithKeySet(keys), jwt.WithIssuer(identifier))
	if err != nil {
		return err
	}
	for name, want := range x.a.body {
		var got any
		if name == "signed_metadata" {
			if token.Has(name) {
				return errors.New("it holds itself")
			}
			continue
		}
		if err := token.Get(name, &got); err != nil || got != want {
			return fmt.Errorf("%s: got %v %v, want %v", name, got, err, want)
		}
	}
	return nil
}

// model compares every question that an example can be asked with an answer that
// is worked out here, from the prose of the interop scenarios.
func (z *authZEN) model(t *testing.T, example string) {
	read := func(name string, v any) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join("../testdata/authzen", name))
		if err != nil {
			t.Fatal(err)
		}
		decode(t, text, v)
	}
	evaluate := func(want bool, subject, action, resource doc) {
		t.Helper()
		got := z.ask(t, z.question("evaluation", doc{"subject": subject, "action": action, "resource": resource}))
		if got.StatusCode != 200 || string(got.raw) != fmt.Sprintf(`{"decision":%v}`, want) {
			t.Errorf("%v %v %v: got %d %s, want %v", subject, action, resource, got.StatusCode, got.raw, want)
		}
	}
	type person struct {
		PID, ID, Email   string
		Roles            []string
		Role, Department string
		Owner            string
	}
	var data struct{ Users, Records []person }
	if example == "search" {
		read("search-entities.json", &data)
	} else {
		read("todo-entities.json", &data)
	}
	in := func(p person, roles ...string) bool {
		return slices.ContainsFunc(roles, func(r string) bool { return slices.Contains(p.Roles, r) })
	}
	switch example {
	case "todo":
		for _, p := range data.Users {
			subject := doc{"type": "user", "id": p.PID}
			todo := doc{"type": "todo", "id": "todo-1"}
			evaluate(true, subject, doc{"name": "can_read_user"}, doc{"type": "user", "id": "beth@the-smiths.com"})
			evaluate(true, subject, doc{"name": "can_read_user"}, doc{"type": "user", "id": data.Users[0].PID})
			evaluate(true, subject, doc{"name": "can_read_todos"}, todo)
			evaluate(in(p, "admin", "editor"), subject, doc{"name": "can_create_todo"}, todo)
			evaluate(false, subject, doc{"name": "can_fly"}, todo)
			for _, owner := range data.Users {
				own := p.Email == owner.Email && in(p, "editor")
				todo := doc{"type": "todo", "id": "7240d0db", "properties": doc{"ownerID": owner.Email}}
				evaluate(in(p, "evil_genius") || own, subject, doc{"name": "can_update_todo"}, todo)
				evaluate(in(p, "admin") || own, subject, doc{"name": "can_delete_todo"}, todo)
			}
			got := z.ask(t, z.question("evaluation", doc{"subject": subject, "action": doc{"name": "can_update_todo"}, "resource": doc{}}))
			if got.StatusCode != 400 {
				t.Errorf("a todo that does not exist: got %d %s", got.StatusCode, got.raw)
			}
			// As published, with defaults that are empty.
			want := fmt.Sprintf(`{"evaluations":[{"decision":%v},{"decision":%v}]}`, in(p, "evil_genius") || p.ID == "morty@the-citadel.com", in(p, "evil_genius"))
			got = z.ask(t, z.question("evaluations", doc{"subject": subject, "action": doc{"name": "can_update_todo"}, "resource": doc{}, "context": doc{},
				"evaluations": []any{
					doc{"resource": doc{"type": "todo", "id": "1", "properties": doc{"ownerID": "morty@the-citadel.com"}}},
					doc{"resource": doc{"type": "todo", "id": "2", "properties": doc{"ownerID": "jerry@the-smiths.com"}}},
				}}))
			if string(got.raw) != want {
				t.Errorf("%s: got %s, want %s", p.ID, got.raw, want)
			}
		}
		evaluate(false, doc{"type": "user", "id": "nobody"}, doc{"name": "can_read_todos"}, doc{"type": "todo", "id": "todo-1"})
	case "gateway":
		for _, p := range data.Users {
			for _, route := range []string{"/users/{userId}", "/todos", "/todos/{todoId}", "/"} {
				for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
					want := false
					switch method + " " + route {
					case "GET /users/{userId}", "GET /todos":
						want = true
					case "POST /todos", "DELETE /todos/{todoId}":
						want = in(p, "admin", "editor")
					case "PUT /todos/{todoId}":
						want = in(p, "evil_genius", "editor")
					}
					evaluate(want, doc{"type": "identity", "id": p.PID}, doc{"name": method}, doc{"type": "route", "id": route})
				}
			}
		}
		evaluate(false, doc{"type": "identity", "id": "nobody"}, doc{"name": "GET"}, doc{"type": "route", "id": "/todos"})
		evaluate(false, doc{"type": "user", "id": data.Users[0].PID}, doc{"name": "GET"}, doc{"type": "route", "id": "/todos"})
	case "search":
		may := func(p, r person, action string) bool {
			same, manager, owner := p.Department == r.Department, p.Role == "manager", p.ID == r.Owner
			return action == "view" && (owner || same || manager) || action == "edit" && (owner || manager && same) || action == "delete" && owner
		}
		search := func(endpoint string, body doc, want []any) {
			t.Helper()
			got := z.ask(t, z.question("search/"+endpoint, body))
			results, _ := got.body["results"].([]any)
			if got.StatusCode != 200 || !sameSet(results, want) || !bytes.HasPrefix(got.raw, []byte(`{"results":[`)) {
				t.Errorf("%s %v: got %d %s, want %v", endpoint, body, got.StatusCode, got.raw, want)
			}
		}
		actions := []string{"view", "edit", "delete", "levitate"}
		for _, action := range actions {
			for _, r := range data.Records {
				want := []any{}
				for _, p := range data.Users {
					if may(p, r, action) {
						want = append(want, doc{"type": "user", "id": p.ID})
					}
				}
				search("subject", doc{"subject": doc{"type": "user"}, "action": doc{"name": action}, "resource": doc{"type": "record", "id": r.ID}}, want)
			}
			for _, p := range data.Users {
				want := []any{}
				for _, r := range data.Records {
					if may(p, r, action) {
						want = append(want, doc{"type": "record", "id": r.ID})
					}
				}
				search("resource", doc{"subject": doc{"type": "user", "id": p.ID}, "action": doc{"name": action}, "resource": doc{"type": "record"}}, want)
			}
		}
		for _, p := range data.Users {
			for _, r := range data.Records {
				want := []any{}
				for _, action := range actions {
					if may(p, r, action) {
						want = append(want, doc{"name": action})
					}
				}
				search("action", doc{"subject": doc{"type": "user", "id": p.ID}, "resource": doc{"type": "record", "id": r.ID}}, want)
			}
		}
		search("subject", doc{"subject": doc{"type": "user"}, "action": doc{"name": "view"}, "resource": doc{"type": "record", "id": "999"}}, nil)
		search("resource", doc{"subject": doc{"type": "user", "id": "nobody"}, "action": doc{"name": "view"}, "resource": doc{"type": "record"}}, nil)
		search("action", doc{"subject": doc{"type": "user", "id": "nobody"}, "resource": doc{"type": "record", "id": "101"}}, nil)
	}
}
