package ostiary_test

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/internal/pgtest"
	"github.com/ostiary/ostiary/policies"
)

// Rules that hang on all that an answer can hang on: the clock in both its forms,
// chance, what is stored, what was asked, numbers and texts as they were sent.
var fickle = fstest.MapFS{
	"document.rego": {Data: []byte(`package app.document

allow contains "owner" if input.resource.properties.owner == input.principal.id

allow contains "lucky" if rand.intn(input.resource.id, 3) == 1

allow contains "even" if (time.now_ns() / 1000) % 2 == 0

allow contains "known" if {
	input.principal.known
	input.resource.known
}

allow contains "cleared" if input.principal.properties.clearance >= input.resource.properties.level

deny contains {"code": "odd", "message": sprintf("%v", [input.context.time])} if {
	input.action.name == "write"
	substring(input.context.time, 22, 1) in {"1", "3", "5", "7", "9"}
}

deny contains {"code": "number", "message": format_int(input.context.n, 10)} if input.context.n > 1e15

deny contains {"code": "replaced", "message": "the text is not what was sent"} if contains(input.context.userAgent, "\ufffd")

deny contains {"code": "name", "message": "x"} if contains(input.resource.id, "\ufffd")

deny contains {"code": "broken", "message": "x"} if to_number(input.action.properties.n) == 7

context["token"] := uuid.rfc4122("x")
`)},
	"route.rego": {Data: []byte(`package app.route

allow if input.principal.credential == "api_key"
`)},
	"data.json": {Data: []byte(`{
	"roles": {"editor": {"document": ["read", "write"], "site": ["use"]}, "auditor": {"decision": ["read"], "route": ["GET"]}},
	"routes": [
		{"method": "*", "pattern": "/*", "permission": "site:use"},
		{"method": "*", "pattern": "/public/*", "permission": "public"},
		{"method": "*", "pattern": "/d/{id}", "permission": "document:read"}
	]
}`)},
}

// each yields the records of a log.
func each(t testing.TB, log audit.Store) iter.Seq2[audit.Record, error] {
	return func(yield func(audit.Record, error) bool) {
		if err := log.EachRecord(t.Context(), audit.Query{}, func(r audit.Record) error {
			yield(r, nil)
			return nil
		}); err != nil {
			yield(audit.Record{}, err)
		}
	}
}

// crowd asks an instance, over HTTP and in Go, about everything and in the name
// of everybody, n times. It returns how many of the questions no policy can be
// asked.
func crowd(t testing.TB, o *ostiary.Ostiary, n int) (impossible int) {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var headers []string
	var ids []string
	for i, role := range []string{"admin", "editor", "auditor", "user"} {
		name := fmt.Sprint("p", i)
		u, err := o.Authn().CreateUser(t.Context(), program, authn.NewUser{Name: name, Email: name + "@example.com", Password: "correct-horse-1", Roles: []string{role}, RolesGiven: true})
		ok(err)
		ids = append(ids, u.ID)
		_, _, err = o.Directory().Put(t.Context(), program, directory.Entity{Type: "document", ID: fmt.Sprint("d", i), Properties: map[string]any{"owner": u.ID, "level": i}})
		ok(err)
		_, _, err = o.Directory().Put(t.Context(), program, directory.Entity{Type: "robot", ID: fmt.Sprint("r", i), Properties: map[string]any{"clearance": i}})
		ok(err)
		in, err := o.Authn().SignIn(t.Context(), authn.Principal{}, authn.SignIn{Email: name + "@example.com", Password: "correct-horse-1"})
		ok(err)
		headers = append(headers, "Authorization: Bearer "+in.Session.Token.Reveal())
		for _, grants := range []authz.Permissions{nil, {"*": {"*"}}, {"document": {"read"}}, {"document": {"*"}, "access": {"evaluate"}}, {"route": {"GET"}}, {"site": {"use"}, "session": {"create"}}} {
			_, secret, err := o.Authn().CreateKey(t.Context(), program, authn.NewKey{OwnerID: u.ID, Permissions: grants, Metadata: json.RawMessage(`{"n":1.50}`)})
			ok(err)
			headers = append(headers, "X-Api-Key: "+secret.Reveal())
			if grants["*"] != nil || grants["session"] != nil {
				p, err := o.Authn().Authenticate(t.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: secret})
				ok(err)
				if session, err := o.Authn().SignInKey(t.Context(), p, authn.Device{}); err == nil {
					headers = append(headers, "Authorization: Bearer "+session.Session.Token.Reveal())
				}
			}
		}
	}
	headers = append(headers, "X-Nobody: 1")
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	send := func(method, path string, body any, more ...string) {
		text, err := json.Marshal(body)
		ok(err)
		req := httptest.NewRequest(method, path, strings.NewReader(string(text)))
		req.Header.Set("Content-Type", "application/json")
		for _, h := range append(more, pick(headers...)) {
			name, value, _ := strings.Cut(h, ": ")
			req.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		o.Handler().ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	}
	number := func() json.Number {
		return json.Number(pick("1", "1.0", "1e3", "9007199254740993", "123456789012345678901234567890", "1.5e300", "-0", "0.1"))
	}
	agents := []string{"User-Agent: curl", "User-Agent: caf\xe9", "User-Agent: \xff\xfe\xfd", "User-Agent: é"}
	for range n {
		kind := pick("document", "document", "document", "user", "route", "site", "x/ÿ\x00")
		resource := map[string]any{"type": kind, "id": pick("d0", "d1", "d2", "d3", "other", ids[0], "/d/1")}
		if r.IntN(2) == 0 {
			resource["properties"] = map[string]any{"owner": pick(ids...), "level": number(), "permission": pick("document:read", "site:use", "public", ""), "nested": map[string]any{"a": []any{nil, true, number()}}}
		}
		action := pick("read", "write", "GET", "list")
		about := map[string]any{"n": number(), "time": "never", "deep": []any{[]any{}}}
		switch r.IntN(6) {
		case 0, 1:
			send("POST", "/v1/authorize", map[string]any{"action": action, "resource": resource, "context": about}, pick(agents...))
		case 2:
			send("POST", "/access/v1/evaluation", map[string]any{
				"subject":  map[string]any{"type": pick("user", "robot", "stranger"), "id": pick(ids[1], "r0", "r3", "who"), "properties": map[string]any{"clearance": number()}},
				"action":   map[string]any{"name": action, "properties": map[string]any{"n": pick("1", "7", "x")}},
				"resource": resource, "context": about,
			})
		case 3:
			send("GET", "/forward-auth/caddy", nil, "Ostiary-Forward-Secret: "+forwardSecret, "X-Forwarded-Method: "+pick("GET", "POST", "HEAD"),
				"X-Forwarded-Uri: "+pick("/", "/public/x", "/d/1", "/d/%C3%A9?q=%ff", "/elsewhere"), "X-Forwarded-Host: app.test", "X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.9", pick(agents...))
		case 4:
			send("GET", pick("/v1/me", "/v1/decisions?limit=1", "/v1/roles", "/api/auth/admin/list-users", "/v1/entities/document/d1"), nil)
		case 5:
			subject, err := authz.NewSubject(authz.Identity{Type: "user", ID: pick(ids...), Credential: authz.CredentialSession, Roles: []string{"editor"}, Session: &authz.SessionFacts{
				ID: "s", FreshUntil: time.Now().Add(time.Duration(r.IntN(5)-2) * time.Millisecond), ImpersonatedBy: pick("", ids[0]),
			}})
			ok(err)
			id := pick(ids[0], "d1", "d2", "\xff")
			if id == "\xff" {
				impossible++
			}
			_, err = o.Decide(t.Context(), authz.Request{Subject: subject, Action: authz.Action{Name: action}, Resource: authz.Resource{
				Type: pick("document", "document", "user", "session"), ID: id, Properties: map[string]any{"level": 1e21, "owner": ids[0], "n": int64(1) << 60},
			}, Context: map[string]any{"n": 1e21, "list": []string{"a"}}})
			ok(err)
		}
	}
	return impossible
}

const forwardSecret = "a-secret-that-proxies-send-0123456789"

// A policy that is asked again, about what it was asked, says what it said:
// whoever asked, in whatever way, whatever its answer hangs on, and wherever the
// record was kept.
func TestRecordsReplayExactly(t *testing.T) {
	n := 2_000
	if testing.Short() {
		n = 300
	}
	for _, kind := range []string{"sqlite", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			database := "sqlite::memory:"
			if kind == "postgres" {
				database = pgtest.Schema(t)
			}
			o := open(t, ostiary.Options{Database: database, Secrets: []string{strings.Repeat("s", 32)}, Policies: fickle, ForwardSecrets: []string{forwardSecret}})
			impossible := crowd(t, o, n)
			same := compiled(t, fickle)
			check := func(where string, records iter.Seq2[audit.Record, error]) {
				got, err := policies.Replay(t.Context(), same, records)
				if err != nil {
					t.Fatal(err)
				}
				if got.Records < n/2 || got.Replayed != got.Records-impossible || len(got.Flips) != 0 || got.OtherReasons != 0 || len(got.NotReplayable) != 1 || got.NotReplayable[0].Why != "the input was not recorded" {
					text, _ := json.MarshalIndent(got, "", "  ")
					t.Errorf("%s: %s", where, text)
					for _, f := range got.Flips {
						r, _ := o.Decisions().Record(t.Context(), f.Examples[0])
						text, _ := json.Marshal(r.Document())
						t.Logf("%s", text)
					}
				}
			}
			check("from the database", each(t, o.Decisions()))
			file, err := os.Create(filepath.Join(t.TempDir(), "export"))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			out, err := audit.NewExport(file, time.Now(), time.Time{}, time.Time{}, audit.NoHash)
			if err != nil {
				t.Fatal(err)
			}
			for r, err := range each(t, o.Decisions()) {
				if err == nil {
					err = out.Write(r)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := out.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := file.Seek(0, 0); err != nil {
				t.Fatal(err)
			}
			check("from an export", audit.ReadExport(file))
		})
	}
}

func compiled(t testing.TB, files fstest.MapFS) *authz.Policy {
	t.Helper()
	b, err := policies.Load(files, ostiary.Options{}.PolicySettings())
	if err != nil {
		t.Fatal(err)
	}
	p, err := authz.Compile(t.Context(), b.Source)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What a mask hid is not guessed: it is counted, by what was hidden. What is left
// replays exactly.
func TestMaskedRecordsAreCountedByCause(t *testing.T) {
	masking := maps.Clone(fickle)
	masking["mask.rego"] = &fstest.MapFile{Data: []byte(`package system.log

mask contains "/input/context/ip" if input.input.action.name == "write"

mask contains {"op": "upsert", "path": "/input/resource/id", "value": "-"} if input.input.resource.type == "user"

mask contains "/nd_builtin_cache" if input.input.resource.id == "d1"

mask contains 7 if input.input.resource.type == "route"

drop if input.input.resource.id == "d2"
`)}
	half := 0.5
	o := open(t, ostiary.Options{Policies: masking, ForwardSecrets: []string{forwardSecret}, Audit: audit.Options{Sample: &half}})
	crowd(t, o, 1_000)
	want, records := map[string]int{}, 0
	for r, err := range each(t, o.Decisions()) {
		if err != nil {
			t.Fatal(err)
		}
		records++
		switch hidden := append(r.Erased, r.Masked...); {
		case r.MaskFailure != "":
			want["the input was taken out because the mask failed"]++
		case len(hidden) > 0:
			slices.Sort(hidden)
			want["parts are masked: "+strings.Join(hidden, ", ")]++
		case r.Input == nil:
			want["the input was not recorded"]++
		}
	}
	got, err := policies.Replay(t.Context(), compiled(t, masking), each(t, o.Decisions()))
	if err != nil {
		t.Fatal(err)
	}
	causes, hidden := map[string]int{}, 0
	for _, o := range got.NotReplayable {
		causes[o.Why] += o.Count
		hidden += o.Count
	}
	if !maps.Equal(causes, want) || len(want) < 6 {
		t.Errorf("not replayable: got %v, want %v", causes, want)
	}
	if got.Records != records || got.Replayed != records-hidden || got.Replayed == 0 || len(got.Flips) != 0 || got.OtherReasons != 0 {
		t.Errorf("report %+v of %d records", got, records)
	}
}
