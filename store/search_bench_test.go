package store

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/internal/pgtest"
)

// searched are n decisions, from the ith of those that BenchmarkSearchRecords reads.
func searched(i, n int) []audit.Record {
	random := rand.New(rand.NewPCG(1, uint64(i)))
	all := make([]audit.Record, n)
	for k := range all {
		i := i + k
		r := record(strconv.FormatInt(base.UnixMilli()+int64(i), 32)+strconv.FormatUint(random.Uint64(), 32), base.Add(time.Duration(i)*time.Millisecond))
		r.Actor.ID, r.Resource.ID, r.Allow = fmt.Sprint("u", random.IntN(2000)), fmt.Sprint("d", random.IntN(50_000)), i%10 != 0
		r.Actor.KeyID, r.RequestID, r.Revision = fmt.Sprint("k", r.Actor.ID), strconv.FormatUint(random.Uint64(), 32), "bf6fbefb135ed8c43983bc481c50b265"
		r.Reasons = []authz.Reason{{Code: "role", Message: "role reader permits document:read"}}
		if !r.Allow {
			r.Reasons[0] = authz.Reason{Code: "role_missing", Message: "no role permits document:read", Permission: "document:read"}
		}
		if i%67_000 == 500 {
			r.Actor.ID, r.Reasons[0].Code = "rare", "seldom"
		}
		r.Input = map[string]any{
			"action": map[string]any{"name": r.Action, "properties": map[string]any{}}, "context": map[string]any{"ip": "192.0.2.1", "time": r.At.Format(instantLayout)},
			"principal": map[string]any{"id": r.Actor.ID, "type": "user", "credential": "api_key", "roles": []any{"user", "editor", "reader"},
				"user": map[string]any{"id": r.Actor.ID, "name": "Ann", "email": r.Actor.ID + "@example.com", "emailVerified": true, "attributes": map[string]any{"n": json.Number("1")}}},
			"resource": map[string]any{"type": "document", "id": r.Resource.ID, "properties": map[string]any{}},
		}
		all[k] = r
	}
	return all
}

// BenchmarkSearchRecords is reading from 200,000 decisions, one each millisecond.
func BenchmarkSearchRecords(b *testing.B) {
	const many = 200_000
	middle := searched(many/2, 2000)[0].ID
	for name, dsn := range map[string]string{"sqlite": sqliteFile(b), "postgres": pgtest.Schema(b)} {
		db := open(b, dsn)
		for i := 0; i < many; i += 2000 {
			must(b, db.WriteRecords(b.Context(), searched(i, 2000)))
		}
		for _, c := range []struct {
			name string
			q    audit.Query
			want int
		}{
			{"first page", audit.Query{}, 50},
			{"page in the middle", audit.Query{Before: middle}, 50},
			{"rare principal", audit.Query{PrincipalID: "rare"}, 3},
			{"common principal", audit.Query{PrincipalID: "u7"}, 50},
			{"denied with a common code", audit.Query{Allow: ptr(false), Code: "role_missing"}, 50},
			{"denied with a rare code", audit.Query{Allow: ptr(false), Code: "seldom"}, 3},
			{"principal never denied so", audit.Query{PrincipalID: "u7", Code: "seldom"}, 0},
			{"resource", audit.Query{ResourceType: "document", ResourceID: "d77"}, -1},
		} {
			b.Run(name+"/"+c.name, func(b *testing.B) {
				for b.Loop() {
					rs, err := db.Records(b.Context(), c.q)
					if must(b, err); len(rs) != c.want && c.want >= 0 {
						b.Fatal(len(rs), " records")
					}
				}
			})
		}
		b.Run(name+"/by id", func(b *testing.B) {
			for b.Loop() {
				_, err := db.Record(b.Context(), middle)
				must(b, err)
			}
		})
		b.Run(name+"/each", func(b *testing.B) {
			for b.Loop() {
				n := 0
				must(b, db.EachRecord(b.Context(), audit.Query{Limit: 20_000}, func(audit.Record) error { n++; return nil }))
				if n != 20_000 {
					b.Fatal(n)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/20_000, "ns/record")
		})
	}
}
