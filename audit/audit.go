// Package audit keeps what happened.
//
// An [Event] is a change or a sign-in. It is written in the transaction of
// the change, or the change does not happen. A [Record] is a decision; a
// [Log] buffers records and writes them in batches shortly after. When its
// buffer is full, records are counted as lost or, in strict mode, the
// decision is refused.
//
// Secrets cannot get into either: the type that carries them prints and
// marshals as "[redacted]", and neither has a field for one.
package audit

import (
	"context"
	"errors"
	"time"

	"github.com/ostiary/ostiary/authz"
)

// ErrNotFound reports that there is no such record.
var ErrNotFound = errors.New("not found")

// Actor is who did it.
type Actor struct {
	Type           string // as authz.Subject's types, or "system"
	ID             string
	Credential     string
	KeyID          string // the key at work, if any
	ImpersonatedBy string // the administrator behind an impersonated session
}

// Event is a change. Kinds read "user.create", "session.revoke".
type Event struct {
	ID         string
	At         time.Time
	Kind       string
	Actor      Actor
	TargetType string
	TargetID   string
	DecisionID string // the decision that permitted it; empty for the system itself
	Details    map[string]any
}

// Record is a decision as it is kept: all that is needed to replay it.
type Record struct {
	ID        string
	At        time.Time
	Allow     bool
	Revision  string // of the policy
	Actor     Actor
	Action    string
	Resource  authz.Resource
	Input     map[string]any // the input document as the policy saw it
	Reasons   []authz.Reason
	Failure   string // why no policy answered, if none did
	RequestID string
	Masked    []string // JSON pointers of what was taken out of Input
}

// Query selects records, newest first. Zero members do not restrict.
type Query struct {
	PrincipalID, KeyID       string
	Action                   string
	ResourceType, ResourceID string
	Allow                    *bool
	Code, Revision           string
	Since, Until             time.Time
	Before                   string // keyset paging: records older than this id
	Limit                    int    // default 50, at most 500
}

// Store is where records are kept.
type Store interface {
	WriteRecords(ctx context.Context, records []Record) error
	// Record returns ErrNotFound for an unknown id.
	Record(ctx context.Context, id string) (Record, error)
	Records(ctx context.Context, q Query) ([]Record, error)
	Events(ctx context.Context, limit int) ([]Event, error)
	// DeleteRecords removes records older than before, and reports how many.
	DeleteRecords(ctx context.Context, before time.Time) (int, error)
}

// Receipt is what a write leaves behind: the revision of the store after it.
type Receipt struct{ Revision string }

type receiptKey struct{}

// WithReceipt returns a context under which the store notes each commit in r.
func WithReceipt(ctx context.Context, r *Receipt) context.Context {
	return context.WithValue(ctx, receiptKey{}, r)
}

// ReceiptFrom returns the receipt in ctx, or nil.
func ReceiptFrom(ctx context.Context) *Receipt {
	r, _ := ctx.Value(receiptKey{}).(*Receipt)
	return r
}
