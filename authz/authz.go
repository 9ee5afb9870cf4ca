// Package authz decides whether somebody may do something, and says why.
//
// A [Request] names a [Subject], an [Action] and a [Resource]. An [Engine]
// evaluates the Rego [Policy] in force over them and answers with a
// [Decision]. The zero Decision denies, and so does every failure: a policy
// that is missing, that breaks or that is too slow yields a denial whose
// reason says so.
//
// # Narrowing
//
// A policy can never give an API key more than the key's own grants: the
// engine applies [Subject] grants after Rego has answered, whatever it
// answered.
//
// The words are those of package access, by the same names. Beside it the
// package imports no other room of the project: a program that wants decisions
// without HTTP or a database uses authz and policies alone.
package authz

import (
	"context"

	"github.com/ostiary/ostiary/access"
)

// What is asked and answered; see package access.
type (
	Permissions  = access.Permissions
	Action       = access.Action
	Resource     = access.Resource
	Request      = access.Request
	Reason       = access.Reason
	Decision     = access.Decision
	DeniedError  = access.DeniedError
	Decider      = access.Decider
	Facts        = access.Facts
	Subject      = access.Subject
	Identity     = access.Identity
	UserFacts    = access.UserFacts
	SessionFacts = access.SessionFacts
	KeyFacts     = access.KeyFacts
	Asserter     = access.Asserter
)

// Reason codes of the engine itself, ways to be known, and types of subjects;
// see package access.
const (
	CodePolicyError  = access.CodePolicyError
	CodeDeadline     = access.CodeDeadline
	CodeUnavailable  = access.CodeUnavailable
	CodeGrantMissing = access.CodeGrantMissing

	CredentialNone     = access.CredentialNone
	CredentialSession  = access.CredentialSession
	CredentialAPIKey   = access.CredentialAPIKey
	CredentialAsserted = access.CredentialAsserted

	TypeUser           = access.TypeUser
	TypeServiceAccount = access.TypeServiceAccount
	TypeAnonymous      = access.TypeAnonymous
)

// ErrDenied is what every *[DeniedError] is.
var ErrDenied = access.ErrDenied

// Anonymous is the subject of requests without a credential.
var Anonymous = access.Anonymous

// Texts returns list as JSON values, the form in which policies read it.
func Texts(list []string) []any { return access.Texts(list) }

// WithFacts returns a context under which decisions see f.
func WithFacts(ctx context.Context, f *Facts) context.Context { return access.WithFacts(ctx, f) }

// FactsFrom returns the facts in ctx, or nil.
func FactsFrom(ctx context.Context) *Facts { return access.FactsFrom(ctx) }

// Outcome is a decision with all that it was made of and by.
type Outcome struct {
	Request  Request
	Decision Decision
	Facts    *Facts // of the call it was made for, or nil
	// Policy is what decided; nil if none was in force. It masks what is kept.
	Policy *Policy
	// Nondeterminism is empty for a policy that uses no such built-ins.
	Nondeterminism Nondeterminism
	Failure        error // why no policy answered
}

// Recorder keeps decisions. Record must not block for long and must not keep
// references to the request's maps after it returns unless they are never
// changed again. An error makes the engine deny (strict recording).
type Recorder interface {
	Record(ctx context.Context, o Outcome) error
}
