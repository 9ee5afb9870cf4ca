package authz

import (
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/authz/compiled"
)

// terms are a subject as policies read it, built once.
type terms struct {
	stale *ast.Term // the principal when its session is not fresh, or when it has none
	fresh *ast.Term // the principal while its session is fresh; nil if it never is
}

// NewSubject prepares id for policies. It fails if a map in it holds a value
// that is not JSON. The maps and slices in id must not change afterwards.
func NewSubject(id Identity) (*Subject, error) {
	t := &terms{}
	var err error
	if t.stale, err = term(id.Document(false)); err != nil {
		return nil, fmt.Errorf("subject %s %q: %w", id.Type, id.ID, err)
	}
	if id.Session != nil && !id.Session.FreshUntil.IsZero() {
		if t.fresh, err = term(id.Document(true)); err != nil {
			return nil, fmt.Errorf("subject %s %q: %w", id.Type, id.ID, err)
		}
	}
	return access.NewSubject(id, t), nil
}

var anonymous = func() *terms {
	id := Anonymous.Identity()
	t, err := term(id.Document(false))
	if err != nil {
		panic(err)
	}
	return &terms{stale: t}
}()

// principal is s as policies read it at now. A subject that [NewSubject] did not
// prepare, such as one of a remote service, means nothing here.
func principal(s *Subject, now time.Time) (*ast.Term, error) {
	t, ok := s.Prepared().(*terms)
	switch {
	case s == Anonymous:
		t = anonymous
	case !ok:
		return nil, fmt.Errorf("subject %s %q was made by another service", s.Identity().Type, s.Identity().ID)
	}
	if t.fresh != nil && now.Before(s.Identity().Session.FreshUntil) {
		return t.fresh, nil
	}
	return t.stale, nil
}

// grants returns the grants of the key at work, and whether there is one.
func grants(s *Subject) (Permissions, bool) {
	key := s.Identity().Key
	if key == nil {
		return nil, false
	}
	return key.Permissions, true
}

// term turns JSON values into a term that goroutines may share.
func term(v any) (*ast.Term, error) {
	value, err := ast.InterfaceToValue(v)
	if err != nil {
		return nil, err
	}
	compiled.Seal(value)
	return ast.NewTerm(value), nil
}
