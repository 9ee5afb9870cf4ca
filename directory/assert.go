package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// Ref names a subject that is asked about, and what the asker says of it.
type Ref struct {
	Type, ID   string
	Properties map[string]any
}

// Assert returns the subject that caller names, as somebody who is merely said to
// be asking. action is "evaluate" or "search": the caller needs access:evaluate or
// access:search, and is asked about with the type, id and properties that it
// asserts, so a policy may refuse some. A stored user brings roles and
// attributes; a stored entity brings its properties; what the caller says is laid
// over stored properties, except [Options.Protected] ones. Somebody unknown is a
// subject without roles.
//
// A service account is a user, so it is found under both types; its own is
// what policies see. A person is no service account, and not found under that
// type.
func (s *Service) Assert(ctx context.Context, caller authn.Principal, action string, subject Ref) (*authz.Subject, error) {
	if err := s.permitAssert(ctx, caller, action, subject); err != nil {
		return nil, err
	}
	id, known, err := s.account(ctx, subject.Type, subject.ID)
	if err != nil {
		return nil, err
	}
	if known {
		return s.asserted(caller, subject, &id, nil)
	}
	e, err := s.entity(ctx, subject.Type, subject.ID)
	if err != nil {
		return nil, err
	}
	return s.asserted(caller, subject, nil, e)
}

func (s *Service) permitAssert(ctx context.Context, caller authn.Principal, action string, subject Ref) error {
	about := map[string]any{"type": subject.Type}
	if subject.ID != "" {
		about["id"] = subject.ID
	}
	if len(subject.Properties) > 0 {
		about["properties"] = subject.Properties
	}
	_, err := s.permit(ctx, caller, action, authz.Resource{Type: "access", Properties: map[string]any{"subject": about}})
	return err
}

// account returns the user or service account that goes by typ and id.
func (s *Service) account(ctx context.Context, typ, id string) (authz.Identity, bool, error) {
	if id == "" || typ != authz.TypeUser && typ != authz.TypeServiceAccount {
		return authz.Identity{}, false, nil
	}
	found, err := s.users.Identity(ctx, id)
	switch {
	case errors.Is(err, authn.ErrUserNotFound):
		return authz.Identity{}, false, nil
	case err != nil:
		return authz.Identity{}, false, err
	}
	return found, goesBy(&found, typ), nil
}

// goesBy reports whether an account is found under typ.
func goesBy(account *authz.Identity, typ string) bool {
	return typ == authz.TypeUser || typ == account.Type
}

// asserted builds the subject of an account, an entity, or neither.
func (s *Service) asserted(caller authn.Principal, subject Ref, account *authz.Identity, e *Entity) (*authz.Subject, error) {
	by := caller.Actor()
	id := authz.Identity{Type: subject.Type, ID: subject.ID}
	var stored map[string]any
	switch {
	case account != nil:
		id, stored = *account, account.User.Attributes
	case e != nil:
		stored = e.Properties
	}
	id.Credential, id.Known = authz.CredentialAsserted, account != nil || e != nil
	id.AssertedBy = &authz.Asserter{Type: by.Type, ID: by.ID, KeyID: by.KeyID}
	id.Properties = overlay(stored, s.unprotected(subject.Properties))
	made, err := authz.NewSubject(id)
	if err != nil {
		return nil, fmt.Errorf("assert: %w", err)
	}
	return made, nil
}

// unprotected returns properties without those that only the store may tell.
func (s *Service) unprotected(properties map[string]any) map[string]any {
	copied := false
	for _, p := range s.o.Protected {
		if _, said := properties[p]; !said {
			continue
		}
		if !copied {
			properties, copied = maps.Clone(properties), true
		}
		delete(properties, p)
	}
	return properties
}

// Assertions are those that one caller makes while one request is answered.
// Each subject is asserted once, however often it is named.
type Assertions struct {
	service *Service
	caller  authn.Principal
	action  string

	mu   sync.Mutex
	made map[string]assertion
}

type assertion struct {
	subject *authz.Subject
	err     error
}

// maxAssertions bounds what one request remembers; beyond it each is made anew.
const maxAssertions = 1000

// Assertions begins to remember what caller asserts for action. It is for one
// request: nothing that changes meanwhile is noticed.
func (s *Service) Assertions(caller authn.Principal, action string) *Assertions {
	return &Assertions{service: s, caller: caller, action: action, made: map[string]assertion{}}
}

// Subject is [Service.Assert]. A denial is remembered too, other failures are
// not. It is safe for concurrent use.
func (a *Assertions) Subject(ctx context.Context, subject Ref) (*authz.Subject, error) {
	key, err := json.Marshal([]any{subject.Type, subject.ID, subject.Properties}) // members sorted
	if err != nil {
		return nil, &authn.InvalidError{Field: "subject", Reason: "is not JSON"}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if m, ok := a.made[string(key)]; ok {
		return m.subject, m.err
	}
	made, err := a.service.Assert(ctx, a.caller, a.action, subject)
	if len(a.made) < maxAssertions && (err == nil || errors.Is(err, authz.ErrDenied)) {
		a.made[string(key)] = assertion{made, err}
	}
	return made, err
}
