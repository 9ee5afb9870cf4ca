package authn

import (
	"errors"
	"time"

	"github.com/ostiary/ostiary/access"
)

// What callers act on. The HTTP surfaces have one table each that words them.
var (
	// ErrBadCredential reports a credential that proves nothing: unknown,
	// malformed, expired or revoked session, unknown key.
	ErrBadCredential = access.ErrBadCredential
	// ErrUnauthenticated reports that the call needs a signed-in caller.
	ErrUnauthenticated = access.ErrUnauthenticated
	ErrUnavailable     = access.ErrUnavailable
	ErrBusy            = errors.New("too many password checks at once") // try again shortly
	ErrNotFound        = errors.New("not found")                        // of a [Store]; users and keys have their own
	ErrLastAdmin       = errors.New("this is the last administrator")

	// A key that its holder may be told about.
	ErrKeyDisabled   = errors.New("key is disabled")
	ErrKeyExpired    = errors.New("key has expired")
	ErrKeySuperseded = errors.New("key has been rotated away")
	ErrOwnerBanned   = errors.New("owner is banned")
	ErrOwnerMissing  = errors.New("owner does not exist")
	ErrRateLimited   = errors.New("key has reached its rate limit") // wrapped in *RetryError
	ErrUsageExceeded = errors.New("key has no uses left")

	// Users.
	ErrUserNotFound     = errors.New("user not found")
	ErrUserBanned       = errors.New("user is banned") // at sign-in and impersonation
	ErrWrongPassword    = errors.New("wrong password") // of the signed-in person
	ErrBadLogin         = errors.New("unknown user or wrong password")
	ErrNoPassword       = errors.New("user has no password")
	ErrEmailNotVerified = errors.New("email is not verified")
	ErrEmailTaken       = errors.New("email is taken")
	ErrUsernameTaken    = errors.New("username is taken")
	ErrBadEmail         = errors.New("invalid email")
	ErrUsernameShort    = errors.New("username is too short")
	ErrUsernameLong     = errors.New("username is too long")
	ErrUsernameInvalid  = errors.New("username is invalid")
	ErrPasswordShort    = errors.New("password is too short")
	ErrPasswordLong     = errors.New("password is too long")
	ErrUnknownRole      = errors.New("role does not exist")
	ErrSelf             = errors.New("not on oneself") // ban or remove oneself
	ErrNotFresh         = errors.New("session is not fresh")
	ErrNotImpersonating = errors.New("not impersonating")
	ErrAdminGone        = errors.New("the impersonating administrator does not exist")
	ErrAdminSessionGone = errors.New("the impersonating administrator's session is gone")
	ErrThrottled        = errors.New("too many failed attempts") // wrapped in *RetryError
	ErrSignUpClosed     = errors.New("sign-up is closed")
	ErrNothingToChange  = errors.New("nothing to change")
	ErrSameEmail        = errors.New("email is the same")

	// Keys.
	ErrKeyNotFound     = errors.New("key not found") // or not the caller's
	ErrKeyNameLength   = errors.New("key name is too short or too long")
	ErrKeyNameRequired = errors.New("key name is required")
	ErrKeyPrefixLength = errors.New("key prefix is too short or too long")
	ErrKeyPrefix       = errors.New("key prefix has characters other than letters, digits, _ and -")
	ErrKeyExpiryShort  = errors.New("key would expire too soon")
	ErrKeyExpiryLong   = errors.New("key would expire too late")
	ErrKeyExpiryFixed  = errors.New("key expiry cannot be chosen")
	ErrMetadataOff     = errors.New("key metadata is disabled")
	ErrMetadataType    = errors.New("key metadata must be an object")
	ErrRefillAmount    = errors.New("refill interval without amount")
	ErrRefillInterval  = errors.New("refill amount without interval")
)

// ConflictError reports that a unique value is taken.
type ConflictError struct{ Field string } // "email", "username", "id", "token"

func (e *ConflictError) Error() string { return e.Field + " is taken" }

// RetryError wraps ErrRateLimited or ErrThrottled with the time to wait.
type RetryError struct {
	Err error
	In  time.Duration
}

func (e *RetryError) Error() string { return e.Err.Error() }
func (e *RetryError) Unwrap() error { return e.Err }

// InvalidError reports a value that a room refuses, and why.
type InvalidError struct{ Field, Reason string }

func (e *InvalidError) Error() string { return e.Field + ": " + e.Reason }
