package directory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/memory"
)

// name names an entity.
type name struct{ typ, id string }

// String is as the store's changes have it. No type has a slash.
func (n name) String() string { return n.typ + "/" + n.id }

// The cache has the entities that the store was asked for, nil for those that it
// does not know.
type cache = memory.Cache[name, *Entity]

func refs(n name, _ *Entity) []memory.Ref {
	return []memory.Ref{{Kind: "entity", ID: n.String()}}
}

// Forget drops what is remembered of an entity that changed: kind "entity", the
// id "type/id". An empty id means all, an empty kind everything. Other kinds
// are nothing that is remembered here.
func (s *Service) Forget(kind, id string) {
	if kind != "" && kind != "entity" {
		return
	}
	s.cache.Forget(kind, id)
	// It may be the first of its type. To find out is one cheap read.
	s.known.Forget()
}

// TrustUntil bounds the use of what is remembered, as [authn.Service.TrustUntil].
func (s *Service) TrustUntil(t time.Time) { s.cache.TrustUntil(t) }

// entity returns the entity, or nil if there is none. Nobody may change it.
func (s *Service) entity(ctx context.Context, typ, id string) (*Entity, error) {
	now := s.o.Clock()
	if s.cache.Trusts(now) {
		// Most ask about nothing but what they say themselves.
		types, err := s.types(ctx, now)
		if err != nil || !types[typ] {
			return nil, err
		}
	}
	n := name{typ, id}
	if e, ok := s.cache.Get(n, now); ok {
		return e, nil
	}
	if !possible(typ, id) {
		return nil, nil
	}
	// Before the read, so that a change that lands after it wins.
	generation := s.cache.Generation()
	var found *Entity
	e, err := s.store.Entity(ctx, typ, id)
	switch {
	case err == nil:
		found = &e
	case !errors.Is(err, authn.ErrNotFound):
		return nil, fmt.Errorf("find entity: %w", err)
	}
	s.cache.Put(generation, n, found, now)
	return found, nil
}

// types returns the types of which there are entities.
func (s *Service) types(ctx context.Context, now time.Time) (map[string]bool, error) {
	if types, ok := s.known.Get(now); ok {
		return types, nil
	}
	generation := s.known.Generation()
	list, err := s.store.EntityTypes(ctx)
	if err != nil {
		return nil, fmt.Errorf("list types of entities: %w", err)
	}
	types := make(map[string]bool, len(list))
	for _, t := range list {
		types[t] = true
	}
	s.known.Put(generation, types, now.Add(s.o.CacheTTL))
	return types, nil
}
