package authzen

import (
	stdjson "encoding/json"
	"math"
	"net/http"
	"slices"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/directory"
)

// Results is the answer to a search. Elements are bare: callers compare them.
type Results[T any] struct {
	Page    *NextPage `json:"page,omitempty"` // first, so that readers of a stream know at once
	Results []T       `json:"results"`        // never null
}

// NextPage says how to go on.
type NextPage struct {
	NextToken string `json:"next_token"` // empty at the end
}

// Entity is a subject or a resource that was found.
type Entity struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}

// ActionName is an action that was found.
type ActionName struct {
	Name string `json:"name"`
}

// SearchSubject answers which subjects of a type may do something to a resource.
func (s *Surface) SearchSubject(r *http.Request, caller authn.Principal) (any, error) {
	q, err := s.search(r, caller, "subject")
	if err != nil {
		return nil, err
	}
	return entities(s, q, q.Subject.Type, func() (directory.Found, error) {
		return s.directory.Subjects(r.Context(), caller, q.Search)
	})
}

// SearchResource answers to which resources of a type a subject may do something.
func (s *Surface) SearchResource(r *http.Request, caller authn.Principal) (any, error) {
	q, err := s.search(r, caller, "resource")
	if err != nil {
		return nil, err
	}
	return entities(s, q, q.Resource.Type, func() (directory.Found, error) {
		return s.directory.Resources(r.Context(), caller, q.Search)
	})
}

// SearchAction answers what a subject may do to a resource.
func (s *Surface) SearchAction(r *http.Request, caller authn.Principal) (any, error) {
	q, err := s.search(r, caller, "action")
	if err != nil {
		return nil, err
	}
	return answer(s, q, func(name string) ActionName { return ActionName{name} }, func() (directory.Found, error) {
		before := s.engine.Judge().Revision()
		names, err := s.directory.Actions(r.Context(), caller, q.Search)
		if err != nil {
			return directory.Found{}, err
		}
		// All of them at once, so the pages are cut here.
		begin, at := slices.BinarySearch(names, q.After)
		if at {
			begin++
		}
		names = names[begin:]
		found := directory.Found{IDs: names, Revision: before}
		if len(names) > q.Limit {
			found.IDs, found.Next = names[:q.Limit], names[q.Limit-1]
		}
		return found, nil
	})
}

// search is what a search asks, and for which page.
type search struct {
	directory.Search
	request  []byte // all that has to stay the same from page to page
	paged    bool   // the caller speaks of pages
	nothing  bool   // there is nothing to find
	revision string // of the policy that answered the pages before; empty: there are none
}

// search reads a search for what: subject, resource or action.
func (s *Surface) search(r *http.Request, caller authn.Principal, what string) (q search, err error) {
	body, err := s.decode(r)
	if err != nil {
		return q, err
	}
	subject, err := body.entity("subject", what == "subject")
	if err != nil {
		return q, err
	}
	if what != "action" { // one that is sent along is not looked at
		if q.Action, err = body.action(); err != nil {
			return q, err
		}
	}
	resource, err := body.entity("resource", what == "resource")
	if err != nil {
		return q, err
	}
	if q.Context, err = body.context(); err != nil {
		return q, err
	}
	q.Subject, q.Resource = subject.ref(), resource.resource()

	page, err := body.member("page")
	if err != nil {
		return q, err
	}
	q.paged = page != nil
	properties, err := page.properties("page")
	if err != nil {
		return q, err
	}
	// The caller is in it: a token is of no use to somebody else.
	who := caller.Subject().Identity()
	q.request, err = stdjson.Marshal([]any{what, who.Type, who.ID, q.Subject, q.Action, q.Resource.Type, q.Resource.ID, q.Resource.Properties, q.Context, properties})
	if err != nil {
		return q, err
	}
	limit, limited, err := page.limit()
	if err != nil {
		return q, err
	}
	token, err := page.token()
	if err != nil {
		return q, err
	}
	q.Limit = min(limit, MaxPage)
	if token == "" {
		if !limited {
			q.Limit = MaxPage
		}
	} else {
		p, err := s.tokens.open(token, q.request, s.clock())
		if err != nil {
			return q, err
		}
		if limited && q.Limit != p.Limit {
			return q, bad("page.limit: must be as in the request for the first page, or left out")
		}
		q.Limit, q.After, q.revision = p.Limit, string(p.After), p.Revision
	}
	// Nothing is called by an empty name. Whether the caller may search is asked all
	// the same.
	q.nothing = q.Limit == 0 ||
		what != "subject" && q.Subject.ID == "" ||
		what != "action" && q.Action.Name == "" ||
		what != "resource" && q.Resource.ID == "" ||
		q.Subject.Type == "" || q.Resource.Type == ""
	q.Limit = max(q.Limit, 1)
	return q, nil
}

// limit returns how many results a page is to have at most, if that is said.
func (o object) limit() (limit int, limited bool, err error) {
	v, there := o["limit"]
	if !there {
		return 0, false, nil
	}
	n, ok := v.(stdjson.Number)
	if !ok {
		return 0, false, bad("page.limit: must be a whole number")
	}
	f, err := n.Float64()
	if err != nil || f < 0 || f != math.Trunc(f) { // JSON has one kind of numbers: 1.0 is whole
		return 0, false, bad("page.limit: must be a whole number, 0 or more")
	}
	return int(min(f, MaxPage)), true, nil
}

// token returns the token of a page behind the first; empty for the first.
func (o object) token() (string, error) {
	v, there := o["token"]
	if !there {
		return "", nil
	}
	token, ok := v.(string)
	if !ok {
		return "", bad("page.token: must be a string")
	}
	return token, nil
}

func entities(s *Surface, q search, typ string, find func() (directory.Found, error)) (any, error) {
	return answer(s, q, func(id string) Entity { return Entity{typ, id} }, find)
}

// answer words what find finds.
func answer[T any](s *Surface, q search, word func(string) T, find func() (directory.Found, error)) (any, error) {
	found, err := find()
	if err != nil {
		return nil, err
	}
	if q.revision != "" && q.revision != found.Revision {
		return nil, bad("page.token: the policy has changed since; begin again")
	}
	if q.nothing {
		found.IDs, found.Next = nil, ""
	}
	a := Results[T]{Results: make([]T, len(found.IDs))}
	for i, id := range found.IDs {
		a.Results[i] = word(id)
	}
	if q.paged || found.Next != "" {
		a.Page = &NextPage{}
	}
	if found.Next != "" {
		token, err := s.tokens.seal(position{Limit: q.Limit, After: []byte(found.Next), Revision: found.Revision}, q.request, s.clock())
		if err != nil {
			return nil, err
		}
		a.Page.NextToken = token
	}
	return a, nil
}
