package authn

import (
	"context"
	"fmt"

	"github.com/ostiary/ostiary/authz"
)

// page is a page of a list, and how such a list is read.
type page[T any] struct {
	offset, limit int
	// read reads a page, and how many there are, of those for which where
	// holds; nil: of all.
	read     func(where *authz.Condition, offset, limit int) ([]T, int, error)
	resource func(*T) authz.Resource // as decisions see it
}

// A list that no condition can be made for is judged one by one, as long as it has
// at most so many candidates, read so many at once.
const (
	maxJudged = 10_000
	atOnce    = 500
)

// listed reads the page of what caller may do action to, one by one: of a list, all
// of which the caller has been permitted to ask for. r is what is so of every one
// of them. A filter of the policy is asked of the store; what it does not tell is
// decided.
func listed[T any](ctx context.Context, s *Service, caller Principal, action string, r authz.Resource, fields authz.Fields, p page[T]) ([]T, int, error) {
	if caller.IsSystem() {
		return p.read(nil, p.offset, p.limit)
	}
	judge := s.engine.Judge()
	question := authz.Request{Subject: caller.Subject(), Action: authz.Action{Name: action}, Resource: r, Described: true}
	f, err := judge.Filter(ctx, question, authz.UnknownResource, fields.Kind)
	switch {
	case err != nil:
		return nil, 0, err
	case f.Sure.Op == authz.Always:
		return p.read(nil, p.offset, p.limit)
	case f.Exact():
		// A page is short, so a mistake of the filter need not be shown.
		found, n, err := p.read(&f.Sure, p.offset, p.limit)
		if err != nil {
			return nil, 0, err
		}
		shown := found[:0]
		for i := range found {
			question.Resource = p.resource(&found[i])
			d, err := judge.Decide(ctx, question)
			switch {
			case err != nil:
				return nil, 0, err
			case d.Allow:
				shown = append(shown, found[i])
			default:
				s.o.Log.ErrorContext(ctx, "a filter selects what the policy denies", "type", r.Type, "action", action, "revision", d.Revision, "filter", f.Sure.String())
			}
		}
		return shown, n, nil
	}
	var allowed []T
	for offset := 0; ; offset += atOnce {
		candidates, n, err := p.read(&f.Maybe, offset, atOnce)
		if err != nil {
			return nil, 0, err
		}
		if n > maxJudged {
			return nil, 0, fmt.Errorf("%w: the policy decides about each of %d candidates, more than %d", ErrUnavailable, n, maxJudged)
		}
		for i := range candidates {
			question.Resource = p.resource(&candidates[i])
			d, err := judge.Decide(ctx, question)
			if err != nil {
				return nil, 0, err
			}
			if d.Allow {
				allowed = append(allowed, candidates[i])
			}
		}
		if len(candidates) < atOnce {
			break
		}
	}
	total := len(allowed)
	from := min(max(p.offset, 0), total)
	return allowed[from:min(from+max(p.limit, 0), total)], total, nil
}
