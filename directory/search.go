package directory

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// Search asks for all subjects, or all resources, of a type that a decision
// would allow. The id of what is searched is not looked at; its properties are
// said of each candidate.
type Search struct {
	Subject  Ref
	Action   authz.Action
	Resource authz.Resource
	Context  map[string]any
	After    string // continue behind this id
	Limit    int    // most results; at least 1
}

// Found is one page of a search.
type Found struct {
	IDs []string // ascending, byte by byte; never nil
	// Next continues the search behind this page; empty if the list is complete.
	// A page can have fewer than Limit ids, even none, and be continued: the
	// work for one page is bounded.
	Next string
	// Revision is that of the policy which answered.
	Revision string
}

// Subjects answers with the ids of subjects of type q.Subject.Type: of the
// entities and, for "user" and "service_account", of the accounts those for
// which an evaluation with the same other values would allow. access:search.
func (s *Service) Subjects(ctx context.Context, caller authn.Principal, q Search) (Found, error) {
	about := Ref{Type: q.Subject.Type, Properties: q.Subject.Properties}
	if err := s.permitAssert(ctx, caller, "search", about); err != nil {
		return Found{}, err
	}
	target, err := s.Describe(ctx, q.Resource, q.Action.Name)
	if err != nil {
		return Found{}, err
	}
	judge := s.engine.Judge()
	accounts := q.Subject.Type == authz.TypeUser || q.Subject.Type == authz.TypeServiceAccount
	stored, err := s.asserted(caller, about, nil, &Entity{})
	if err != nil {
		return Found{}, err
	}
	filter, err := judge.Filter(ctx, authz.Request{Subject: stored, Action: q.Action, Resource: target, Context: q.Context}, authz.UnknownSubject, fieldKind)
	if err != nil {
		return Found{}, err
	}
	return s.search(ctx, judge, q.Subject.Type, accounts, &filter, q, func(c *candidate) (bool, error) {
		if c.account != nil && !goesBy(c.account, q.Subject.Type) {
			return false, nil
		}
		about.ID = c.id
		subject, err := s.asserted(caller, about, c.account, c.entity)
		if err != nil {
			return false, err
		}
		d, err := judge.Decide(ctx, authz.Request{Subject: subject, Action: q.Action, Resource: target, Described: true, Context: q.Context})
		return d.Allow, err
	})
}

// Resources answers with the ids of resources of type q.Resource.Type: of the
// entities and, for "user", of the users those for which an evaluation with the
// same other values would allow. access:search.
func (s *Service) Resources(ctx context.Context, caller authn.Principal, q Search) (Found, error) {
	subject, err := s.Assert(ctx, caller, "search", q.Subject)
	if err != nil {
		return Found{}, err
	}
	if q.Resource.Type == authz.TypeUser {
		q.Resource = authn.Sayable(q.Resource)
	}
	judge := s.engine.Judge()
	filter, err := judge.Filter(ctx, authz.Request{Subject: subject, Action: q.Action, Context: q.Context,
		Resource: authz.Resource{Type: q.Resource.Type, Properties: q.Resource.Properties, Known: true}}, authz.UnknownResource, fieldKind)
	if err != nil {
		return Found{}, err
	}
	return s.search(ctx, judge, q.Resource.Type, q.Resource.Type == authz.TypeUser, &filter, q, func(c *candidate) (bool, error) {
		r := authz.Request{Subject: subject, Action: q.Action, Context: q.Context,
			Resource: authz.Resource{Type: q.Resource.Type, ID: c.id, Properties: q.Resource.Properties}}
		if c.entity != nil {
			r.Resource, r.Described = describe(r.Resource, c.entity), true
		}
		d, err := judge.Decide(ctx, r)
		return d.Allow, err
	})
}

// Actions answers with the names of the actions that q.Subject may do to
// q.Resource, sorted; see [Options.Actions] for the candidates. access:search.
func (s *Service) Actions(ctx context.Context, caller authn.Principal, q Search) ([]string, error) {
	subject, err := s.Assert(ctx, caller, "search", q.Subject)
	if err != nil {
		return nil, err
	}
	judge := s.engine.Judge()
	allowed := []string{}
	candidates := slices.Sorted(slices.Values(s.o.Actions(q.Resource.Type)))
	for _, action := range slices.Compact(candidates) {
		d, err := judge.Decide(ctx, authz.Request{Subject: subject, Action: authz.Action{Name: action}, Resource: q.Resource, Context: q.Context})
		if err != nil {
			return nil, err
		}
		if d.Allow {
			allowed = append(allowed, action)
		}
	}
	return allowed, nil
}

// candidate is something that a search judges: an entity or, for type "user",
// an account.
type candidate struct {
	id      string
	entity  *Entity
	account *authz.Identity
	told    bool // the filter is sure of it
}

// fieldKind: an entity has an id, and properties of any kind.
func fieldKind(f authz.Field) authz.FieldKind {
	if f[0] == "id" && len(f) == 1 {
		return authz.AlwaysText
	}
	for _, name := range f[1:] {
		// What not every database can look for.
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' }) {
			return authz.Untold
		}
	}
	if f[0] == "properties" && len(f) > 1 {
		return authz.AnyJSON
	}
	return authz.Untold
}

// atOnce is how many candidates are read at once.
const atOnce = 500

// search goes through the candidates of a type: the entities for which the filter
// may hold and, if accounts are among them, all of the table of users. Those that
// the filter is sure of are results, the others are judged one by one. It goes on
// behind the last result of a page until it finds the first of the next, so that a
// page that is the last one says so.
func (s *Service) search(ctx context.Context, judge authz.Judge, typ string, accounts bool, filter *authz.Filter, q Search, allows func(*candidate) (bool, error)) (Found, error) {
	if q.Limit < 1 {
		return Found{}, &authn.InvalidError{Field: "limit", Reason: "must be at least 1"}
	}
	found := Found{IDs: []string{}, Revision: judge.Revision()}
	end := s.deadline(ctx)
	after, exact := q.After, filter.Exact()
	for judged := 0; ; {
		limit := min(atOnce, s.o.SearchCandidates-judged)
		if exact && !accounts {
			limit = min(limit, q.Limit-len(found.IDs)+1)
		}
		page, err := s.candidates(ctx, typ, accounts, filter, after, limit)
		if err != nil {
			return Found{}, err
		}
		for i := range page {
			c := &page[i]
			ok := c.told
			if !ok || s.recheck() {
				if ok, err = allows(c); err != nil {
					return Found{}, err
				}
				if c.told {
					s.rechecked.Add(1)
				}
				if c.told && !ok {
					s.disagreed.Add(1)
					s.o.Log.ErrorContext(ctx, "a filter selects what the policy denies", "type", typ, "action", q.Action.Name, "revision", found.Revision, "filter", filter.Sure.String())
				}
			}
			if ok && len(found.IDs) == q.Limit {
				found.Next = found.IDs[q.Limit-1]
				return found, nil
			}
			after = page[i].id
			if ok {
				found.IDs = append(found.IDs, after)
			}
			if judged++; judged >= s.o.SearchCandidates || !time.Now().Before(end) {
				found.Next = after
				return found, nil
			}
		}
		if len(page) < limit {
			return found, nil
		}
	}
}

// deadline is when a search takes up no more candidates: in time for an answer
// before ctx ends.
func (s *Service) deadline(ctx context.Context) time.Time {
	now := time.Now()
	end := now.Add(s.o.SearchTime)
	if d, ok := ctx.Deadline(); ok {
		if soon := now.Add(d.Sub(now) * 3 / 4); soon.Before(end) {
			return soon
		}
	}
	return end
}

// candidates returns those whose ids are greater than after, ascending byte by
// byte, limit of them if there are as many.
func (s *Service) candidates(ctx context.Context, typ string, accounts bool, filter *authz.Filter, after string, limit int) ([]candidate, error) {
	var all []candidate
	if accounts {
		ids, err := s.users.Identities(ctx, after, limit)
		if err != nil {
			return nil, err
		}
		for i := range ids {
			all = append(all, candidate{id: ids[i].ID, account: &ids[i]})
		}
	}
	if checkType("", typ) == nil && filter.Maybe.Op != authz.Never {
		es, sure, err := s.store.Matches(ctx, EntityQuery{Type: typ, After: after, Limit: limit, Filter: filter})
		if err != nil {
			return nil, fmt.Errorf("list entities: %w", err)
		}
		for i := range es {
			all = append(all, candidate{id: es[i].ID, entity: &es[i], told: sure[i]})
		}
	}
	// Accounts come first of those with the same id: they win. What either
	// source has left out comes behind all that it gave.
	slices.SortStableFunc(all, func(a, b candidate) int { return strings.Compare(a.id, b.id) })
	all = slices.CompactFunc(all, func(a, b candidate) bool { return a.id == b.id })
	return all[:min(len(all), limit)], nil
}

// recheck reports whether a result that a filter is sure of shall be judged, too.
func (s *Service) recheck() bool { return s.o.SearchRecheck > 0 && rand.IntN(s.o.SearchRecheck) == 0 }
