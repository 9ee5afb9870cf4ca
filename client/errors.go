package client

import (
	"fmt"
	"net/http"
	"time"

	"github.com/ostiary/ostiary/access"
)

// What errors of a Client are, for errors.Is.
var (
	// ErrUnauthenticated: a credential is missing or is not good. One that was
	// presented is access.ErrBadCredential as well.
	ErrUnauthenticated = access.ErrUnauthenticated
	// ErrDenied: the policy says no. errors.As finds an *access.DeniedError with
	// the decision, or an *[Error] with the reasons if the program itself may not ask.
	ErrDenied = access.ErrDenied
	// ErrInvalid: the question is not as it must be; asking again is of no use.
	ErrInvalid = access.ErrInvalid
	// ErrLimited: the key has reached a limit; see [Error.RetryAfter].
	ErrLimited = access.ErrLimited
	// ErrUnavailable: there is no answer now, and may be one later.
	ErrUnavailable = access.ErrUnavailable
)

// Error is what a service said instead of an answer, or why it said nothing.
type Error struct {
	Status  int             // of HTTP; 0: there was no answer
	Code    string          // stable: "KEY_EXPIRED"; empty if it was not Ostiary that answered
	Detail  string          // for people
	Reasons []access.Reason // with 403 DENIED
	// RetryAfter is how long to wait at least before asking again; 0: not said.
	RetryAfter time.Duration
	Err        error // what went wrong on the way

	challenge string // WWW-Authenticate
}

func (e *Error) Error() string {
	switch {
	case e.Status == 0:
		return fmt.Sprintf("ask the service: %v", e.Err)
	case e.Code == "":
		return fmt.Sprintf("ask the service: it answers %d %s", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("ask the service: %s: %s", e.Code, e.Detail)
}

func (e *Error) Unwrap() error { return e.Err }

// Is tells what kind of error e is.
func (e *Error) Is(target error) bool {
	switch e.Status {
	case http.StatusUnauthorized:
		return target == access.ErrUnauthenticated || target == access.ErrBadCredential && e.Code != "UNAUTHENTICATED"
	case http.StatusForbidden:
		return target == access.ErrDenied
	case http.StatusTooManyRequests:
		return target == ErrLimited
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return target == ErrInvalid
	}
	// Also what cannot be: an answer of somebody else, a redirect.
	return target == access.ErrUnavailable
}

// invalid is a question that the service is not asked.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
