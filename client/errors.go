package client

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
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
	// ErrUnavailable: there is no answer now, and may be one later. Whether a
	// write was done is then not known.
	ErrUnavailable = access.ErrUnavailable
	// ErrNotFound: what the call is about is not there, or not for the caller to
	// know of.
	ErrNotFound = errors.New("not found")
	// ErrConflict: what is there stands in the way: an address or a name that is
	// taken, another revision than was expected, a role that somebody has.
	ErrConflict = errors.New("conflict")
)

// Error is what a service said instead of an answer, or why it said nothing.
type Error struct {
	Status   int             // of HTTP; 0: there was no answer
	Code     string          // stable: "KEY_EXPIRED"; empty if it was not Ostiary that answered, and where its API has none
	Detail   string          // for people
	Decision string          // the id of the decision that it rests on, if one was made
	Reasons  []access.Reason // of a denial
	Mistakes []Mistake       // in what was sent, as of policies that are not put in force
	// RetryAfter is how long to wait at least before asking again; 0: not said.
	RetryAfter time.Duration
	Err        error // what went wrong on the way

	challenge string // WWW-Authenticate
}

// Mistake is one thing that is wrong with what was sent.
type Mistake struct {
	Pointer string `json:"pointer"` // into the body (RFC 6901); of a file, "/files/" and its path
	Message string `json:"message"`
}

func (e *Error) Error() string {
	switch {
	case e.Status == 0:
		return fmt.Sprintf("ask the service: %v", e.Err)
	case e.Code == "" && e.Detail != "":
		return fmt.Sprintf("ask the service: %s", e.Detail)
	case e.Code == "":
		return fmt.Sprintf("ask the service: it answers %d %s", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("ask the service: %s: %s", e.Code, e.Detail)
}

func (e *Error) Unwrap() error { return e.Err }

// Is tells what kind of error e is.
func (e *Error) Is(target error) bool {
	if slices.Contains(taken, e.Code) {
		return target == ErrConflict
	}
	switch e.Status {
	case http.StatusNotFound:
		if e.Code != "" { // else it is the path that nobody knows
			return target == ErrNotFound
		}
	case http.StatusConflict:
		return target == ErrConflict
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

// taken are the codes of the Better Auth API that stand for a conflict.
var taken = []string{"USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL", "USERNAME_IS_ALREADY_TAKEN"}

// invalid is a question that the service is not asked.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
