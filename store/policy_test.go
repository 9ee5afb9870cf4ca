package store

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/policies"
)

func TestPublicationsAreReadAsTheyWereWritten(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		mark, err := db.Mark(t.Context())
		must(t, err)
		none, err := db.Publications(t.Context(), 0, 10)
		must(t, err)
		if len(none) != 0 {
			t.Errorf("before the first: %v", none)
		}
		r := policies.Revision{ID: "r1", Files: map[string]string{"a.rego": "package a\n# ? ä ' \x00\n"}, CreatedAt: base, Tests: policies.Tested{Count: 3, Coverage: 87.5}}
		first := policies.Publication{
			Sequence: 1, Revision: "r1", PolicyRevision: "p1", At: base, Note: "why",
			By: audit.Actor{Type: "user", ID: "u1", Credential: "session"}, Tests: r.Tests,
		}
		must(t, db.Publish(t.Context(), r, first, event("policy.publish")))
		if got := changesSince(t, db, &mark); got != "policy r1" {
			t.Errorf("changes: got %q", got)
		}
		// The same files again are the same revision, as it was.
		r.Published = true
		second := first
		second.Sequence, second.PolicyRevision, second.Parent = 2, "p2", "r1"
		again := policies.Revision{ID: "r1", Files: r.Files, CreatedAt: base.AddDate(1, 0, 0)}
		must(t, db.Publish(t.Context(), again, second, event("policy.publish")))
		got, err := db.Publications(t.Context(), 0, 10)
		must(t, err)
		diff(t, "publications", got, []policies.Publication{second, first})
		got, err = db.Publications(t.Context(), 2, 10)
		must(t, err)
		diff(t, "before the second", got, []policies.Publication{first})
		for _, name := range []string{"r1", "p1", "p2"} {
			got, err := db.PolicyRevision(t.Context(), name)
			must(t, err)
			diff(t, name, got, r)
		}
		_, err = db.PolicyRevision(t.Context(), "r2")
		wantErr(t, "unknown", err, authn.ErrNotFound)
	})
}

// Of any number who follow the same publication one is written, with its event.
func TestOnePublicationFollowsAnother(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		errs := make([]error, 8)
		var all sync.WaitGroup
		for i := range errs {
			id := string(rune('a' + i))
			all.Go(func() {
				errs[i] = db.Publish(t.Context(), policies.Revision{ID: id, Files: map[string]string{}, CreatedAt: base},
					policies.Publication{Sequence: 1, Revision: id, At: base}, event("policy.publish"))
			})
		}
		all.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if _, ok := errors.AsType[*authn.ConflictError](err); !ok {
				t.Error(err)
			}
		}
		evs, err := db.Events(t.Context(), 10)
		must(t, err)
		if won != 1 || len(evs) != 1 {
			t.Errorf("%d published, with %d events", won, len(evs))
		}
	})
}

// What was published stays as it was, whoever has the database open; and files that
// are not those of their name are not published under it.
func TestWhatWasPublishedIsNeverChanged(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		r := policies.Revision{ID: "r1", Files: map[string]string{"a.rego": "package a"}, CreatedAt: base}
		p := policies.Publication{Sequence: 1, Revision: "r1", PolicyRevision: "p1", At: base}
		must(t, db.Publish(t.Context(), r, p, event("policy.publish")))
		statements := []string{
			`UPDATE ostiary_policy_revision SET "files" = '{}'`, `DELETE FROM ostiary_policy_revision`,
			`UPDATE ostiary_policy SET "revision" = 'r1', "seq" = 2`, `DELETE FROM ostiary_policy WHERE "seq" = 1`,
		}
		if db.dialect.name == "postgres" {
			statements = append(statements, `TRUNCATE ostiary_policy, ostiary_policy_revision`)
		}
		for _, s := range statements {
			if _, err := db.writer.NewRaw(s).Exec(t.Context()); err == nil || !strings.Contains(err.Error(), "what was published is never changed") {
				t.Errorf("%s: %v", s, err)
			}
		}
		p.Sequence = 2
		r.Files = map[string]string{"a.rego": "package b"}
		if err := db.Publish(t.Context(), r, p, event("policy.publish")); err == nil || !strings.Contains(err.Error(), "with other files") {
			t.Errorf("other files of the same name: %v", err)
		}
		got, err := db.Publications(t.Context(), 0, 10)
		must(t, err)
		if len(got) != 1 {
			t.Errorf("publications: %+v", got)
		}
	})
}
