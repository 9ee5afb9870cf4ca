// Package directory knows the subjects and resources that applications ask about.
//
// An [Entity] is a subject or resource that an application has told of: a type,
// an id and properties. What is stored fills what a question leaves out.
// [Service.Assert] makes a subject of somebody whom a caller merely names;
// [Service.Subjects], [Service.Resources] and [Service.Actions] answer with
// everything of a kind for which a decision would allow.
package directory

import (
	"context"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// Entity is a subject or a resource as an application describes it.
type Entity struct {
	Type, ID   string
	Properties map[string]any // JSON values, never nil
	UpdatedAt  time.Time
}

// Ref names a subject that is asked about, and what the asker says of it.
type Ref struct {
	Type, ID   string
	Properties map[string]any
}

// Store is what Service needs from storage. Reads of unknown entities answer
// authn.ErrNotFound. Methods that take an [audit.Event] commit the change and
// the event together or not at all, and note the revision in the context's
// [audit.Receipt].
type Store interface {
	Entity(ctx context.Context, typ, id string) (Entity, error)
	// Entities returns what q selects, ascending by id, byte by byte.
	Entities(ctx context.Context, q EntityQuery) ([]Entity, error)
	// EntityTypes lists the types of which there are entities.
	EntityTypes(ctx context.Context) ([]string, error)
	// PutEntities makes or replaces entities, all or none.
	PutEntities(ctx context.Context, es []Entity, ev audit.Event) (created int, err error)
	DeleteEntity(ctx context.Context, typ, id string, ev audit.Event) error
}

// EntityQuery selects entities of one type.
type EntityQuery struct {
	Type  string
	After string // ids greater than this one
	Limit int
}

// Search asks for all subjects, or all resources, of a type that a decision
// would allow. The id of what is searched is not looked at.
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
	IDs []string // ascending, byte by byte
	// Next continues the search behind this page; empty if the list is complete.
	Next string
	// Revision is that of the policy which answered.
	Revision string
}

// Service keeps entities, asserts subjects and searches.
type Service struct{}

// Assert returns the subject that caller names, as somebody who is merely said to
// be asking. action is "evaluate" or "search": the caller needs access:evaluate or
// access:search, and is asked about with the type, id and properties that it
// asserts, so a policy may refuse some. A stored user brings roles and
// attributes; a stored entity brings its properties; what the caller says is laid
// over stored properties. Somebody unknown is a subject without roles.
func (s *Service) Assert(ctx context.Context, caller authn.Principal, action string, subject Ref) (*authz.Subject, error) {
	panic("unimplemented")
}

// Subjects answers with the ids of subjects of type q.Subject.Type.
func (s *Service) Subjects(ctx context.Context, caller authn.Principal, q Search) (Found, error) {
	panic("unimplemented")
}

// Resources answers with the ids of resources of type q.Resource.Type.
func (s *Service) Resources(ctx context.Context, caller authn.Principal, q Search) (Found, error) {
	panic("unimplemented")
}

// Actions answers with the names of the actions that q.Subject may do to
// q.Resource, sorted. The candidates are data.actions[type] and the names that the
// tables of roles have for the type.
func (s *Service) Actions(ctx context.Context, caller authn.Principal, q Search) ([]string, error) {
	panic("unimplemented")
}
