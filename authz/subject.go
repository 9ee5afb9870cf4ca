package authz

import (
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// How a subject is known: the values of Subject.Credential.
const (
	CredentialNone     = "none"
	CredentialSession  = "session"
	CredentialAPIKey   = "api_key"
	CredentialAsserted = "asserted"
)

// Types of subjects that Ostiary itself knows. Applications assert others.
const (
	TypeUser           = "user"
	TypeServiceAccount = "service_account"
	TypeAnonymous      = "anonymous"
)

// Identity describes a subject: the principal of the input document, as
// plain data. Empty members are left out of the document where the input
// schema says so.
type Identity struct {
	Type       string
	ID         string
	Credential string
	Roles      []string
	User       *UserFacts
	Session    *SessionFacts
	Key        *KeyFacts
	Properties map[string]any // asserted subjects only
	AssertedBy *Asserter      // asserted subjects only
}

// UserFacts is what policies see of a user.
type UserFacts struct {
	ID, Name, Email string
	EmailVerified   bool
	Username        string
	Banned          bool
	CreatedAt       time.Time
	Attributes      map[string]any
}

// SessionFacts is what policies see of a session.
type SessionFacts struct {
	ID                   string
	CreatedAt, ExpiresAt time.Time
	// FreshUntil is when the session stops standing for a recent sign-in;
	// input.principal.session.fresh is computed from it at decision time.
	// Zero: never fresh.
	FreshUntil     time.Time
	ImpersonatedBy string
}

// KeyFacts is what policies see of an API key: the one at work, or the one
// that a session was obtained with.
type KeyFacts struct {
	ID, Name    string
	Permissions Permissions
	Metadata    any
	CreatedAt   time.Time
	ExpiresAt   time.Time // zero: never
}

// Asserter says who vouches for an asserted subject.
type Asserter struct{ Type, ID, KeyID string }

// Subject is an [Identity] in the form that policies read. It is built once
// per principal, never changes, and is shared by all decisions about it.
type Subject struct {
	identity Identity
	stale    *ast.Term // the principal while its session is not fresh, or has none
	fresh    *ast.Term // the principal while its session is fresh, or nil
}

// Anonymous is the subject of requests without a credential.
var Anonymous = must(NewSubject(Identity{Type: TypeAnonymous, Credential: CredentialNone}))

func must(s *Subject, err error) *Subject {
	if err != nil {
		panic(err)
	}
	return s
}

// NewSubject prepares id for policies. It fails if a map in it holds a value
// that is not JSON.
func NewSubject(id Identity) (*Subject, error) {
	return nil, fmt.Errorf("unimplemented")
}

// Identity returns what the subject was made of. The caller must not change it.
func (s *Subject) Identity() Identity { return s.identity }
