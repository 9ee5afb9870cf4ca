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
	"slices"
	"strings"
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
	ID       string
	At       time.Time // the time the policy saw, in milliseconds
	Allow    bool
	Revision string // of the policy
	// DataRevision is the newest change of the store that was known when it was
	// decided (what Ostiary-Revision numbers); 0 if that is not known.
	DataRevision int64
	Actor        Actor
	AssertedBy   Asserter // who vouches for the actor, if somebody does
	Action       string
	Resource     authz.Resource
	Mapped       string // the permission that a table mapped the request to, which its key may need
	// Input is the input document as the policy saw it. On its way to the store a
	// record may be without it: [Record.AppendJSON] and [Record.Document] have it
	// all the same.
	Input     map[string]any
	Reasons   []authz.Reason
	Context   map[string]any // what the policy handed back
	Failure   string         // why no policy answered, if none did
	RequestID string
	// NDBuiltinCache has what built-ins answered whose answer depends on more
	// than their operands, by name and operands; see [authz.Nondeterminism].
	NDBuiltinCache map[string]any

	// Erased and Masked are the JSON pointers of what a mask rule took out and
	// of what it replaced, below /input, /result or /nd_builtin_cache. What of
	// the other members says the same is taken out or replaced with it.
	Erased, Masked []string
	// MaskFailure says where the mask rule failed. All that it could have
	// masked is then erased.
	MaskFailure string

	decided *entry // what the input document is of, until somebody needs Input
}

// input returns Input, which is made if it is not there.
func (r *Record) input() map[string]any {
	if r.decided != nil {
		return r.decided.Request.Document(r.decided.Facts, r.decided.Decision.Time)
	}
	return r.Input
}

// Incomplete says what is missing to decide again what r is about, or nothing.
func (r *Record) Incomplete() string {
	switch {
	case r.MaskFailure != "":
		return "the input was taken out because the mask failed"
	case len(r.Masked)+len(r.Erased) > 0:
		return "parts are masked: " + strings.Join(slices.Sorted(slices.Values(slices.Concat(r.Erased, r.Masked))), ", ")
	case len(r.Input) == 0 && r.decided == nil:
		return "the input was not recorded"
	case r.At.IsZero():
		return "the time was not recorded"
	}
	return ""
}

// Asserter is who vouches for an actor: the application's user or service
// account, and its key.
type Asserter struct{ Type, ID, KeyID string }

// Query selects records. Zero members do not restrict.
type Query struct {
	PrincipalID, KeyID       string
	AssertedBy               string // the asserter's id
	Action                   string
	ResourceType, ResourceID string
	Allow                    *bool
	Code, Revision           string
	Since, Until             time.Time // Since is included, Until is not
	Before                   string    // keyset paging: records older than this id
	After                    string    // and records newer than this id
	OldestFirst              bool      // [Store.EachRecord] always is
	Limit                    int       // default 50, at most 500
}

// Store is where records are kept.
type Store interface {
	// WriteRecords keeps all of records or none. They may be written again after
	// an error, whatever became of them.
	WriteRecords(ctx context.Context, records []Record) error
	// Record returns ErrNotFound for an unknown id.
	Record(ctx context.Context, id string) (Record, error)
	// Records returns the newest first, unless q says otherwise. A Before or
	// After that is unknown is ErrNotFound.
	Records(ctx context.Context, q Query) ([]Record, error)
	// EachRecord calls f with all that q selects, the oldest first, however many
	// they are; without a Limit there is none. It ends with f's error. Memory is
	// bounded, and no transaction is open while f runs.
	EachRecord(ctx context.Context, q Query, f func(Record) error) error
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
