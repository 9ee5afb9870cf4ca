package store

import (
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/policies"
)

func TestShadowsAreReadAsTheyWereWritten(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		mark, err := db.Mark(t.Context())
		must(t, err)
		_, err = db.Shadow(t.Context(), "")
		wantErr(t, "before the first", err, authn.ErrNotFound)
		wantErr(t, "end of none", db.EndShadow(t.Context(), base, event("policy.stop-shadow")), authn.ErrNotFound)
		r := policies.Revision{ID: "r1", Files: map[string]string{"a.rego": "package a\n"}, CreatedAt: base}
		first := policies.Shadow{
			ID: "s1", Revision: "r1", PolicyRevision: "p1", StartedAt: base, EndsAt: base.Add(time.Hour), Note: "why",
			By: audit.Actor{Type: "user", ID: "u1", Credential: "session"},
		}
		must(t, db.StartShadow(t.Context(), r, first, event("policy.start-shadow")))
		if got := changesSince(t, db, &mark); got != "policy s1" {
			t.Errorf("changes: got %q", got)
		}
		kept, err := db.PolicyRevision(t.Context(), "r1")
		must(t, err)
		diff(t, "revision", kept, r)
		got, err := db.Shadow(t.Context(), "")
		must(t, err)
		diff(t, "shadow", got, first)

		// The next ends it.
		second := first
		second.ID, second.StartedAt = "s2", base.Add(time.Minute)
		must(t, db.StartShadow(t.Context(), r, second, event("policy.start-shadow")))
		first.EndsAt = second.StartedAt
		got, err = db.Shadow(t.Context(), "s1")
		must(t, err)
		diff(t, "the first", got, first)
		must(t, db.EndShadow(t.Context(), base.Add(2*time.Minute), event("policy.stop-shadow")))
		second.EndsAt = base.Add(2 * time.Minute)
		got, err = db.Shadow(t.Context(), "")
		must(t, err)
		diff(t, "the second", got, second)

		// Reports replace those of the same instance; a folder has no start of its own.
		folder := policies.Shadow{ID: "folder", PolicyRevision: "p2", StartedAt: base.Add(time.Hour)}
		report := policies.ShadowReport{Against: "p0", At: base.Add(time.Hour), Dropped: 2}
		report.Flips = []policies.Flips{{Flip: policies.DenyToAllow, Count: 1, Examples: []string{"d1"}}}
		must(t, db.WriteShadowReport(t.Context(), folder, "i1", policies.ShadowReport{Against: "p0", At: base}))
		must(t, db.WriteShadowReport(t.Context(), folder, "i1", report))
		other := policies.ShadowReport{Against: "p0", At: base.Add(time.Minute)}
		must(t, db.WriteShadowReport(t.Context(), folder, "i2", other))
		reports, err := db.ShadowReports(t.Context(), "folder", 10)
		must(t, err)
		diff(t, "reports", reports, []policies.ShadowReport{report, other})
		got, err = db.Shadow(t.Context(), "")
		must(t, err)
		diff(t, "folder", got, folder)

		// They are kept as long as records are.
		n, err := db.DeleteShadows(t.Context(), base.Add(30*time.Minute))
		must(t, err)
		if n != 2 {
			t.Errorf("%d deleted", n)
		}
		reports, err = db.ShadowReports(t.Context(), "folder", 10)
		must(t, err)
		diff(t, "reports that are left", reports, []policies.ShadowReport{report})
	})
}
