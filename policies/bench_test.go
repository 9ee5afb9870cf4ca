package policies_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/store"
)

// What one decision of the built-in rules costs.
func BenchmarkDecide(b *testing.B) {
	engines := map[string]*authz.Engine{
		"compiled": authz.NewEngine(authz.Options{Memo: -1}),
		"topdown":  authz.NewEngine(authz.Options{Topdown: true}), // OPA's evaluator, with all that its public API offers
		"memo":     authz.NewEngine(authz.Options{}),
	}
	for _, e := range engines {
		if _, err := policies.Open(b.Context(), policies.Options{Engine: e}); err != nil {
			b.Fatal(err)
		}
	}
	ann := authz.Identity{
		Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialSession, Roles: []string{"user", "admin"},
		User:    &authz.UserFacts{ID: "u1", Name: "ann"},
		Session: &authz.SessionFacts{ID: "s1", FreshUntil: time.Now().Add(time.Hour)},
	}
	key := ann
	key.Credential, key.Session = authz.CredentialAPIKey, nil
	key.Key = &authz.KeyFacts{ID: "k1", Name: "System", Permissions: authz.Permissions{"user": {"list"}}}
	list := authz.Request{Action: authz.Action{Name: "list"}, Resource: authz.Resource{Type: "user"}}
	own := authz.Request{Action: authz.Action{Name: "get"}, Resource: authz.Resource{Type: "user", ID: "u1"}}
	ban := authz.Request{Action: authz.Action{Name: "ban"}, Resource: authz.Resource{Type: "user", ID: "u2", Properties: map[string]any{"lastAdmin": false}}}
	for _, bm := range []struct {
		name  string
		who   authz.Identity
		what  authz.Request
		allow bool
	}{
		{"role", ann, list, true},
		{"guarded", ann, ban, true},
		{"self", func() authz.Identity { p := ann; p.Roles = []string{"user"}; return p }(), own, true},
		{"key", key, list, true},
		{"denied", key, ban, false},
	} {
		subject, err := authz.NewSubject(bm.who)
		if err != nil {
			b.Fatal(err)
		}
		bm.what.Subject = subject
		// The reference: OPA's own prepared query over the same bundle, fed with
		// the same input as a map.
		b.Run(bm.name+"/prepared", func(b *testing.B) {
			q := prepared(b)
			b.ReportAllocs()
			for b.Loop() {
				rs, err := q.Eval(context.Background(), rego.EvalInput(bm.what.Document(nil, time.Now())))
				if err != nil || len(rs) != 1 || rs[0].Expressions[0].Value.(map[string]any)["allow"] != bm.allow {
					b.Fatalf("got %+v, %v", rs, err)
				}
			}
		})
		for _, way := range []string{"topdown", "compiled", "memo"} {
			b.Run(bm.name+"/"+way, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					d, err := engines[way].Decide(context.Background(), bm.what)
					if err != nil || d.Allow != bm.allow {
						b.Fatalf("got %+v, %v", d, err)
					}
				}
			})
		}
	}
}

// What a decision allocates is bounded: its id, its reasons and the parts of the
// input that the rules read.
func TestDecisionAllocatesLittle(t *testing.T) {
	open := func(memo int) *authz.Engine {
		e := authz.NewEngine(authz.Options{Recheck: -1, Memo: memo})
		if _, err := policies.Open(t.Context(), policies.Options{Engine: e}); err != nil {
			t.Fatal(err)
		}
		return e
	}
	subject, err := authz.NewSubject(authz.Identity{
		Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialAPIKey, Roles: []string{"user", "admin"},
		User: &authz.UserFacts{ID: "u1", Name: "ann"},
		Key:  &authz.KeyFacts{ID: "k1", Name: "System", Permissions: authz.Permissions{"user": {"list"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := authz.Request{Subject: subject, Action: authz.Action{Name: "list"}, Resource: authz.Resource{Type: "user"}}
	// And some for what the race detector has pools forget.
	for _, tt := range []struct {
		name string
		e    *authz.Engine
		most float64
	}{{"evaluated", open(-1), 6 + 8}, {"remembered", open(0), 2 + 2}} {
		if n := testing.AllocsPerRun(200, func() {
			if d, err := tt.e.Decide(context.Background(), r); err != nil || !d.Allow {
				t.Fatal(d, err)
			}
		}); n > tt.most {
			t.Errorf("%s: %v allocations, want at most %v", tt.name, n, tt.most)
		}
	}
}

func prepared(b *testing.B) rego.PreparedEvalQuery {
	bundle, err := policies.Load(nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	options := []func(*rego.Rego){
		rego.Query("data.ostiary.decision"),
		rego.Store(inmem.NewFromObject(bundle.Source.Data)),
	}
	for name, text := range bundle.Source.Modules {
		options = append(options, rego.Module(name, text))
	}
	q, err := rego.New(options...).PrepareForEval(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return q
}

// How many recorded decisions a second a candidate can be asked, read from a file
// of SQLite as the command reads them.
func BenchmarkReplay(b *testing.B) {
	w := generate(b, 10_000)
	db, err := store.Open(b.Context(), "sqlite:"+filepath.Join(b.TempDir(), "o.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	if err := db.WriteRecords(b.Context(), w.records); err != nil {
		b.Fatal(err)
	}
	candidate := compiled(b, map[string]string{"d.rego": after, "data.json": rolesAfter})
	for b.Loop() {
		got, err := policies.Replay(b.Context(), candidate, func(yield func(audit.Record, error) bool) {
			if err := db.EachRecord(b.Context(), audit.Query{}, func(r audit.Record) error {
				yield(r, nil)
				return nil
			}); err != nil {
				yield(audit.Record{}, err)
			}
		})
		if err != nil || got.Replayed != len(w.records) {
			b.Fatalf("%+v %v", got, err)
		}
	}
	b.ReportMetric(float64(b.N*len(w.records))/b.Elapsed().Seconds(), "records/s")
}
