package directory_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
)

// records is a policy with something of everything: what is stored of subject
// and resource, what is said, and what is denied.
var records = files{"record.rego": `package app.record

allow if {
	input.action.name == "view"
	input.principal.known
	input.principal.properties.department == input.resource.properties.department
}

allow if {
	input.action.name in {"view", "edit"}
	input.resource.properties.owner == input.principal.id
}

# Not to be said as a condition.
allow if {
	input.action.name == "weigh"
	lower(input.resource.properties.department) == "legal"
}

deny contains "archived" if {
	input.action.name == "edit"
	input.resource.properties.status == "archived"
}
`, "data.json": `{"actions": {"record": ["view", "edit", "delete"]}}`}

func stocked(h *house) {
	h.put(map[string]map[string]any{
		"user/alice": {"department": "Sales"}, "user/bob": {"department": "Legal"}, "user/Zoe": {"department": "Sales"},
		"robot/r2": {"department": "Sales"},
		"record/1": {"department": "Sales", "owner": "alice"}, "record/10": {"department": "Legal", "owner": "alice"},
		"record/2": {"department": "Sales", "status": "archived", "owner": "alice"}, "record/ä/ö": {"department": "Sales"},
	})
}

// What a search lists is what single evaluations with the same values permit,
// of all that there is.
func TestAListIsWhatEvaluationsPermit(t *testing.T) {
	each(t, records, func(t *testing.T, h *house) {
		stocked(h)
		sales := h.user(func(u *authn.NewUser) {
			u.ServiceAccount, u.Attributes = true, map[string]any{"department": "Sales"}
		})
		var people []string
		for _, id := range must(h.users.Identities(t.Context(), "", 100))(t) {
			people = append(people, id.ID)
		}
		if !slices.Contains(people, sales.ID) {
			t.Fatal("the service account is missing")
		}
		ids := map[string][]string{
			"user": append([]string{"alice", "bob", "Zoe", "nobody"}, people...), "robot": {"r2", "nobody"},
			"service_account": people, "record": {"1", "10", "2", "ä/ö", "nothing"}, "nothing": {"x"},
		}
		allowed := func(subject directory.Ref, action string, r authz.Resource) bool {
			who := must(h.Assert(t.Context(), h.key, "evaluate", subject))(t)
			d := must(h.engine.Decide(t.Context(), authz.Request{Subject: who, Action: authz.Action{Name: action}, Resource: r}))(t)
			return d.Allow
		}
		results := 0
		for _, action := range []string{"view", "edit", "delete"} {
			for typ, candidates := range ids {
				for _, said := range []map[string]any{nil, {"department": "Legal"}} {
					for _, record := range ids["record"] {
						r := authz.Resource{Type: "record", ID: record}
						want := []string{}
						for _, id := range candidates {
							if (typ != "service_account" || id == sales.ID) && allowed(directory.Ref{Type: typ, ID: id, Properties: said}, action, r) && id != "nobody" {
								want = append(want, id)
							}
						}
						slices.Sort(want)
						got := must(h.Subjects(t.Context(), h.key, directory.Search{
							Subject: directory.Ref{Type: typ, ID: "ignored", Properties: said}, Action: authz.Action{Name: action}, Resource: r, Limit: 100,
						}))(t)
						same(t, fmt.Sprintf("%s who may %s %s, %v", typ, action, record, said), got.IDs, want)
						results += len(got.IDs)
					}
				}
			}
			for _, who := range []directory.Ref{{Type: "user", ID: "alice"}, {Type: "user", ID: sales.ID}, {Type: "robot", ID: "r2"}, {Type: "robot", ID: "c3"}} {
				for _, said := range []map[string]any{nil, {"owner": "alice"}, {"status": "active"}} {
					want := []string{}
					for _, id := range ids["record"] {
						if id != "nothing" && allowed(who, action, authz.Resource{Type: "record", ID: id, Properties: said}) {
							want = append(want, id)
						}
					}
					slices.Sort(want)
					got := must(h.Resources(t.Context(), h.key, directory.Search{
						Subject: who, Action: authz.Action{Name: action}, Resource: authz.Resource{Type: "record", ID: "ignored", Properties: said}, Limit: 100,
					}))(t)
					same(t, fmt.Sprintf("what %s may %s, %v", who.ID, action, said), got.IDs, want)
					if got.Next != "" || got.Revision != h.engine.Policy().Revision() {
						t.Errorf("got %+v", got)
					}
					results += len(got.IDs)
				}
			}
		}
		if results < 20 {
			t.Errorf("only %d results: the test shows nothing", results)
		}
		for id, want := range map[string][]string{"1": {"edit", "view"}, "2": {"view"}, "ä/ö": {"view"}, "nothing": {}} {
			got := must(h.Actions(t.Context(), h.key, directory.Search{Subject: directory.Ref{Type: "user", ID: "alice"}, Resource: authz.Resource{Type: "record", ID: id}}))(t)
			same(t, "actions on "+id, got, want)
		}
	})
}

// Pages in order make up the whole, and the last one says that it is.
func TestPagesPartitionTheResult(t *testing.T) {
	each(t, records, func(t *testing.T, h *house) {
		stocked(h)
		q := directory.Search{Subject: directory.Ref{Type: "user", ID: "alice"}, Action: authz.Action{Name: "view"}, Resource: authz.Resource{Type: "record"}}
		all := []string{"1", "10", "2", "ä/ö"}
		for limit := 1; limit <= 5; limit++ {
			q.Limit, q.After = limit, ""
			var got []string
			pages := 0
			for {
				found := must(h.Resources(t.Context(), h.key, q))(t)
				got = append(got, found.IDs...)
				pages++
				if q.After = found.Next; q.After == "" {
					break
				}
			}
			same(t, fmt.Sprint("by ", limit), got, all)
			if want := (len(all) + limit - 1) / limit; pages != want {
				t.Errorf("by %d: %d pages, want %d", limit, pages, want)
			}
		}
		_, err := h.Resources(t.Context(), h.key, directory.Search{Subject: q.Subject, Resource: q.Resource})
		refused(t, err, "limit")
	})
}

// The work for one page is bounded, in candidates and in time, and a search that
// was broken off can be continued.
func TestASearchIsBounded(t *testing.T) {
	for name, set := range map[string]func(*directory.Options){
		"candidates": func(o *directory.Options) { o.SearchCandidates = 2 },
		"time":       func(o *directory.Options) { o.SearchTime = time.Nanosecond },
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, "sqlite::memory:", records, set)
			stocked(h)
			q := directory.Search{Subject: directory.Ref{Type: "user", ID: "bob"}, Action: authz.Action{Name: "weigh"}, Resource: authz.Resource{Type: "record"}, Limit: 10}
			var got []string
			pages := 0
			for {
				found := must(h.Resources(t.Context(), h.key, q))(t)
				got = append(got, found.IDs...)
				if pages++; pages > 10 {
					t.Fatal("no end")
				}
				if q.After = found.Next; q.After == "" {
					break
				}
			}
			same(t, "result", got, []string{"10"})
			if pages < 3 {
				t.Errorf("%d pages", pages)
			}
		})
	}
}

// On record is that somebody searched, not each candidate.
func TestASearchIsOneRecord(t *testing.T) {
	h := open(t, "sqlite::memory:", records)
	stocked(h)
	q := directory.Search{Subject: directory.Ref{Type: "user", ID: "alice"}, Action: authz.Action{Name: "view"}, Resource: authz.Resource{Type: "record", ID: "1"}, Limit: 10}
	for name, search := range map[string]func() error{
		"subjects":  func() error { _, err := h.Subjects(t.Context(), h.key, q); return err },
		"resources": func() error { _, err := h.Resources(t.Context(), h.key, q); return err },
		"actions":   func() error { _, err := h.Actions(t.Context(), h.key, q); return err },
	} {
		h.records.requests = nil
		if err := search(); err != nil {
			t.Fatal(err)
		}
		if len(h.records.requests) != 1 {
			t.Fatalf("%s: %d records", name, len(h.records.requests))
		}
		r := h.records.requests[0]
		if r.Resource.Permission(r.Action.Name) != "access:search" {
			t.Errorf("%s: %s", name, r.Resource.Permission(r.Action.Name))
		}
	}
	mute := h.caller(authz.Permissions{"access": {"evaluate"}, "entity": {"read"}}, "admin")
	_, err := h.Subjects(t.Context(), mute, q)
	denied(t, err, "grant_missing")
	_, err = h.Resources(t.Context(), mute, q)
	denied(t, err, "grant_missing")
	_, err = h.Actions(t.Context(), mute, q)
	denied(t, err, "grant_missing")
}

// A search whose request ended has no result, rather than a shorter one.
func TestASearchThatIsGivenUpHasNoResult(t *testing.T) {
	h := open(t, "sqlite:"+t.TempDir()+"/test.db", records)
	stocked(h)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := h.Resources(ctx, system, directory.Search{Subject: directory.Ref{Type: "robot", ID: "r2"}, Action: authz.Action{Name: "view"}, Resource: authz.Resource{Type: "record"}, Limit: 10})
	if err == nil {
		t.Error("no error")
	}
}

// What a filter selects is decided all the same now and then, and the decision wins.
func TestAFilterThatDisagreesIsNoticed(t *testing.T) {
	q := directory.Search{Subject: directory.Ref{Type: "user", ID: "alice"}, Action: authz.Action{Name: "view"}, Resource: authz.Resource{Type: "record"}, Limit: 10}
	for _, c := range []struct {
		recheck            int
		sure               bool
		results            []string
		checked, disagreed uint64
	}{
		{1, false, []string{"1", "10", "2", "ä/ö"}, 4, 0},
		{1, true, []string{"1", "10", "2", "ä/ö"}, 5, 1},
		{-1, true, []string{"1", "10", "2", "3", "ä/ö"}, 0, 0},
	} {
		h := open(t, "sqlite::memory:", records, func(o *directory.Options) { o.SearchRecheck = c.recheck })
		stocked(h)
		h.put(map[string]map[string]any{"record/3": {"department": "Legal", "owner": "bob"}})
		h.db.sure = c.sure
		found, err := h.Resources(t.Context(), h.key, q)
		if err != nil {
			t.Fatal(err)
		}
		checked, disagreed := h.Rechecks()
		if !slices.Equal(found.IDs, c.results) || checked != c.checked || disagreed != c.disagreed {
			t.Errorf("%+v: found %q, %d checked, %d disagreed", c, found.IDs, checked, disagreed)
		}
	}
}
