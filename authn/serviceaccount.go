package authn

import (
	"context"
	"fmt"

	"github.com/ostiary/ostiary/audit"
)

// NewServiceAccount is a service account to create, and its first key.
type NewServiceAccount struct {
	Name       string
	Roles      []string
	Attributes map[string]any
	Key        *NewKey // nil: a key without grants
}

// CreateServiceAccount: user:create (and set-role), apiKey:create. Account
// and key are stored together or not at all. The Secret is shown this once.
// Errors are those of [Service.CreateUser] and [Service.CreateKey].
func (s *Service) CreateServiceAccount(ctx context.Context, caller Principal, in NewServiceAccount) (User, APIKey, Secret, error) {
	fail := func(err error) (User, APIKey, Secret, error) { return User{}, APIKey{}, "", err }
	account := NewUser{Name: in.Name, Roles: in.Roles, ServiceAccount: true, Attributes: in.Attributes}
	created, err := s.permitNewUser(ctx, caller, account)
	if err != nil {
		return fail(err)
	}
	u, err := s.newUser(account)
	if err != nil {
		return fail(err)
	}
	if u.ID, err = s.store.NewID(ctx, "user"); err != nil {
		return fail(fmt.Errorf("create service account: %w", err))
	}
	var first NewKey
	if in.Key != nil {
		first = *in.Key
	}
	first.OwnerID = u.ID
	keyed, err := s.permitNewKey(ctx, caller, &first)
	if err != nil {
		return fail(err)
	}
	k, secret, err := s.newKey(caller, first)
	if err != nil {
		return fail(err)
	}
	if k.ID, err = s.store.NewID(ctx, "key"); err != nil {
		return fail(fmt.Errorf("create service account: %w", err))
	}
	events := []audit.Event{
		s.event(caller, "user.create", "user", u.ID, created, userDetails(&u)),
		s.event(caller, "key.create", "apiKey", k.ID, keyed, keyDetails(&k)),
	}
	if err := s.store.CreateServiceAccount(ctx, u, &k, events); err != nil {
		return fail(fmt.Errorf("create service account: %w", taken(err)))
	}
	s.Forget("user", u.ID) // that there was nobody
	return u, k, secret, nil
}
