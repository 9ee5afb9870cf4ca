package store

import (
	"errors"
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
		second := first
		second.Sequence, second.PolicyRevision, second.Parent = 2, "p2", "r1"
		must(t, db.Publish(t.Context(), policies.Revision{ID: "r1", CreatedAt: base.AddDate(1, 0, 0)}, second, event("policy.publish")))
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
