// Package directory knows the subjects and resources that applications ask about.
//
// An [Entity] is a subject or resource that an application has told of: a type,
// an id and properties. What is stored fills what a question leaves out
// ([Service.Describe], which the engine calls).
// [Service.Assert] makes a subject of somebody whom a caller merely names;
// [Service.Subjects], [Service.Resources] and [Service.Actions] answer with
// everything of a kind for which a decision would allow.
//
// Every method that takes the caller asks the engine whether that caller may,
// before anything is said about what exists.
//
// # Users
//
// A user that the store knows wins over an entity of type "user" with the same
// id, which is then not looked at. Of Ostiary's other own types there are no
// entities: nobody can write what the built-in rules go by.
//
// # Caching
//
// Entities, that there are none, and the types of which there are any are
// remembered, so that a decision does not read the store. Each change forgets
// what it is about: after the commit, and before the method that made it
// returns. Changes made by others arrive through [Service.Forget].
package directory

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/memory"
)

// Store is what Service needs from storage. Reads of unknown entities answer
// authn.ErrNotFound. Methods that take an [audit.Event] commit the change and
// the event together or not at all, and note the revision in the context's
// [audit.Receipt].
type Store interface {
	Entity(ctx context.Context, typ, id string) (Entity, error)
	// Entities returns what q selects, ascending by id, byte by byte.
	Entities(ctx context.Context, q EntityQuery) ([]Entity, error)
	// Matches is Entities, and tells of each whether the filter is sure of it.
	// The filter's fields are "id" and those below "properties".
	Matches(ctx context.Context, q EntityQuery) (es []Entity, sure []bool, err error)
	// EntityTypes lists the types of which there are entities, ascending byte
	// by byte.
	EntityTypes(ctx context.Context) ([]string, error)
	// PutEntities makes or replaces entities, all or none, no two of which have
	// the same type and id, and reports how many there were not before.
	PutEntities(ctx context.Context, es []Entity, ev audit.Event) (created int, err error)
	DeleteEntity(ctx context.Context, typ, id string, ev audit.Event) error
}

// EntityQuery selects entities of one type.
type EntityQuery struct {
	Type   string
	After  string // ids greater than this one
	Limit  int
	Filter *authz.Filter // entities for which Maybe holds; nil: all
}

// Options configures a Service. The zero value works.
type Options struct {
	Clock func() time.Time // default time.Now
	// Protected names properties of subjects that only the store may tell:
	// what a caller asserts of them is ignored.
	Protected []string
	// Actions returns the names of the actions that there are on a type, which
	// are the candidates of [Service.Actions]. nil: there are none.
	Actions func(resourceType string) []string

	CacheSize int           // entities remembered; default 100,000; negative: none
	CacheTTL  time.Duration // the longest one is remembered unasked; default 1 minute

	// One search judges at most so many candidates, and takes up the next one
	// for at most so long. Then it answers with what it has found.
	SearchCandidates int           // default 10,000
	SearchTime       time.Duration // default 5s
	// SearchRecheck says which of the results that a filter is sure of are
	// judged all the same: one in so many. Default 1,000; 1: all; negative: none.
	SearchRecheck int
	Log           *slog.Logger // default discards
}

// Service keeps entities, asserts subjects and searches. Its methods are safe
// for concurrent use. It starts no goroutine.
type Service struct {
	o      Options
	store  Store
	engine *authz.Engine
	users  *authn.Service
	cache  *cache
	known  memory.Value[map[string]bool] // the types of which there are entities

	rechecked, disagreed atomic.Uint64
}

// Rechecks reports how many results that a filter was sure of were judged all the
// same, and how many of these the policy denied: they are left out, and each is an
// error in the log.
func (s *Service) Rechecks() (checked, disagreed uint64) {
	return s.rechecked.Load(), s.disagreed.Load()
}

// New returns a Service over store that asks engine, and users about users.
func New(o Options, store Store, engine *authz.Engine, users *authn.Service) (*Service, error) {
	if store == nil || engine == nil || users == nil {
		return nil, errors.New("directory: New needs a store, an engine and users")
	}
	for _, d := range []struct {
		field string
		value int64
	}{{"CacheTTL", int64(o.CacheTTL)}, {"SearchCandidates", int64(o.SearchCandidates)}, {"SearchTime", int64(o.SearchTime)}} {
		if d.value < 0 {
			return nil, &authn.InvalidError{Field: d.field, Reason: "is negative"}
		}
	}
	if slices.Contains(o.Protected, "") {
		return nil, &authn.InvalidError{Field: "Protected", Reason: "has an empty name"}
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Actions == nil {
		o.Actions = func(string) []string { return nil }
	}
	o.CacheSize = cmp.Or(o.CacheSize, 100_000)
	o.CacheTTL = cmp.Or(o.CacheTTL, time.Minute)
	o.SearchCandidates = cmp.Or(o.SearchCandidates, 10_000)
	o.SearchTime = cmp.Or(o.SearchTime, 5*time.Second)
	o.SearchRecheck = cmp.Or(o.SearchRecheck, 1000)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{o: o, store: store, engine: engine, users: users, cache: memory.New(o.CacheSize, o.CacheTTL, refs)}, nil
}

// Describe fills in what is known of a resource. Of a user, a session and a key
// what the store knows wins (see [authn.Service.Describe]); of everything else
// an entity's properties fill those that r leaves out, one by one.
func (s *Service) Describe(ctx context.Context, r authz.Resource, action string) (authz.Resource, error) {
	r.Known = false
	if r.ID == "" {
		return r, nil
	}
	switch r.Type {
	case "user", "session", "apiKey":
		described, err := s.users.Describe(ctx, r, action)
		if err != nil || described.Known || r.Type != "user" {
			return described, err
		}
		r = described
	}
	e, err := s.entity(ctx, r.Type, r.ID)
	if err != nil || e == nil {
		return r, err
	}
	return describe(r, e), nil
}

// describe lays what r says over what is stored.
func describe(r authz.Resource, e *Entity) authz.Resource {
	r.Properties, r.Known = overlay(e.Properties, r.Properties), true
	return r
}

// overlay returns the members of both, of those in both the one of above. It
// changes neither, but may return one of them.
func overlay(below, above map[string]any) map[string]any {
	switch {
	case len(above) == 0:
		return below
	case len(below) == 0:
		return above
	}
	merged := make(map[string]any, len(below)+len(above))
	maps.Copy(merged, below)
	maps.Copy(merged, above)
	return merged
}

func (s *Service) permit(ctx context.Context, caller authn.Principal, action string, r authz.Resource) (string, error) {
	return authn.Permit(ctx, s.engine, caller, action, r)
}

// event describes a change by caller, permitted by the decision.
func (s *Service) event(caller authn.Principal, kind, id, decision string, details map[string]any) audit.Event {
	return audit.Event{
		ID: rand.Text(), At: s.now(), Kind: kind, Actor: caller.Actor(),
		TargetType: "entity", TargetID: id, DecisionID: decision, Details: details,
	}
}

// now is the time in the precision in which the tables keep it.
func (s *Service) now() time.Time { return s.o.Clock().UTC().Truncate(time.Millisecond) }
