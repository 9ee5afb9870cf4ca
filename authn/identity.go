package authn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/memory"
)

// maxRemembered bounds the ids that are remembered, so that nobody fills memory
// with long ones.
const maxRemembered = 256

// known remembers users by id, for questions about somebody who is not calling.
// nil stands for nobody.
type known = memory.Cache[string, *account]

// account is a user with all attributes that policies see.
type account struct {
	user       *User
	attributes map[string]any
}

func (a *account) identity(s *Service) authz.Identity {
	id := s.identity(a.user)
	id.User.Attributes = a.attributes
	return id
}

func newKnown(o *Options) *known {
	return memory.New(o.CacheSize, o.CacheTTL, func(id string, _ *account) []memory.Ref { return []memory.Ref{{Kind: "user", ID: id}} })
}

// Identity returns what policies see of the user with this id: everything but
// a credential and what goes with one, which are the caller's to add.
// ErrUserNotFound. Nobody is asked for permission: what is done with it needs
// one of its own.
func (s *Service) Identity(ctx context.Context, id string) (authz.Identity, error) {
	who, err := s.remembered(ctx, id)
	if err != nil {
		return authz.Identity{}, err
	}
	if who == nil {
		return authz.Identity{}, ErrUserNotFound
	}
	return who.identity(s), nil
}

// Holders returns what policies see of users, banned ones too, that have one of
// the roles or one of the ids of r, at most limit, as [Service.Identity] does. They
// are read anew.
func (s *Service) Holders(ctx context.Context, r AdminRule, limit int) ([]authz.Identity, error) {
	if slices.Contains(r.Roles, s.o.DefaultRole) {
		r.Roles = append(slices.Clone(r.Roles), "")
	}
	us, err := s.store.Holders(ctx, r, limit)
	if err != nil {
		return nil, fmt.Errorf("find holders of roles: %w", err)
	}
	return s.identities(ctx, us)
}

func (s *Service) remembered(ctx context.Context, id string) (*account, error) {
	if strings.ContainsRune(id, 0) { // no store could be asked
		return nil, nil
	}
	now := s.o.Clock()
	if a, ok := s.known.Get(id, now); ok {
		return a, nil
	}
	// Before the read, so that a change that lands after it wins.
	generation := s.known.Generation()
	var found *account
	u, err := s.store.User(ctx, id)
	switch {
	case err == nil && u.ID == id: // a collation that folds case finds somebody else
		who := s.identity(&u)
		if err := s.enrich(ctx, &who); err != nil {
			return nil, err
		}
		found = &account{&u, who.User.Attributes}
	case err != nil && !errors.Is(err, ErrNotFound):
		return nil, fmt.Errorf("find user: %w", err)
	}
	if len(id) <= maxRemembered {
		s.known.Put(generation, id, found, now)
	}
	return found, nil
}

// Identities is Identity for the users whose ids are greater than after,
// ascending byte by byte, at most limit.
func (s *Service) Identities(ctx context.Context, after string, limit int) ([]authz.Identity, error) {
	users, err := s.store.UsersAfter(ctx, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return s.identities(ctx, users)
}

func (s *Service) identity(u *User) authz.Identity {
	return authz.Identity{
		Type:  u.subjectType(),
		ID:    u.ID,
		Roles: s.roles(u),
		User: &authz.UserFacts{
			ID: u.ID, Name: u.Name, Email: u.Email, EmailVerified: u.EmailVerified,
			Username: value(u.Username), Banned: u.BannedAt(s.now()), CreatedAt: u.CreatedAt, Attributes: u.Attributes,
		},
	}
}
