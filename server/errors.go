package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/server/request"
)

// Problem is an answer of the native API that is none: RFC 9457 with a stable
// code, the reasons of a denial and the places of mistakes.
type Problem struct {
	Type    string         `json:"type"`
	Title   string         `json:"title"`
	Status  int            `json:"status"`
	Detail  string         `json:"detail"`
	Code    string         `json:"code"`
	Reasons []authz.Reason `json:"reasons,omitempty"`
	Errors  []FieldError   `json:"errors,omitempty"`
	// Replay is what came of asking a bundle what was decided before.
	Replay *policies.ReplayReport `json:"replay,omitempty"`

	challenge  string        // WWW-Authenticate
	retryAfter time.Duration // Retry-After
}

// FieldError is a mistake and its place: a JSON pointer into the body, or the
// name of a query parameter after "?".
type FieldError struct {
	Pointer string `json:"pointer"`
	Message string `json:"message"`
}

func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// Codes of problems. They are stable; details are for people and may change.
const (
	CodeInvalid              = "INVALID"                // 400: the body or the query is not as it must be; see errors
	CodeAmbiguous            = "AMBIGUOUS_CREDENTIALS"  // 400: two credentials that differ
	CodeUnauthenticated      = "UNAUTHENTICATED"        // 401: the call needs a caller
	CodeBadCredential        = "BAD_CREDENTIAL"         // 401: unknown, malformed, expired or revoked
	CodeKeyDisabled          = "KEY_DISABLED"           // 401
	CodeKeyExpired           = "KEY_EXPIRED"            // 401
	CodeKeySuperseded        = "KEY_SUPERSEDED"         // 401: rotated away
	CodeOwnerBanned          = "OWNER_BANNED"           // 401
	CodeOwnerMissing         = "OWNER_MISSING"          // 401
	CodeDenied               = "DENIED"                 // 403: by policy; see reasons
	CodeCrossOrigin          = "CROSS_ORIGIN"           // 403: a write with a cookie from another site
	CodeNotFresh             = "SESSION_NOT_FRESH"      // 403: sign in again first
	CodeLastAdmin            = "LAST_ADMIN"             // 403: nobody would be left to administer
	CodeNotFound             = "NOT_FOUND"              // 404
	CodeMethodNotAllowed     = "METHOD_NOT_ALLOWED"     // 405
	CodeConflict             = "CONFLICT"               // 409: a unique value is taken
	CodeOvertaken            = "OVERTAKEN"              // 409: another revision is in force than was expected
	CodePoliciesElsewhere    = "POLICIES_ELSEWHERE"     // 409: policies come from elsewhere and are changed there
	CodeRoleInUse            = "ROLE_IN_USE"            // 409: the role is assigned or built in
	CodePayloadTooLarge      = "PAYLOAD_TOO_LARGE"      // 413
	CodeUnsupportedMediaType = "UNSUPPORTED_MEDIA_TYPE" // 415
	CodeNotAFilter           = "NOT_A_FILTER"           // 422: the policy cannot be turned into a filter
	CodeNotExplainable       = "NOT_EXPLAINABLE"        // 422: the record of the decision is not complete
	CodePolicyInvalid        = "POLICY_INVALID"         // 422: the policy does not load, compile or type-check; see errors
	CodePolicyTests          = "POLICY_TESTS"           // 422: a test of the policy fails, or they reach too little
	CodePolicyLockout        = "POLICY_LOCKOUT"         // 422: nobody would be left to publish the next policy
	CodePolicyReplay         = "POLICY_REPLAY"          // 422: recorded decisions would fall otherwise; see replay
	CodeQueryInvalid         = "QUERY_INVALID"          // 422: the query does not parse or compile; see errors
	CodeQueryFailed          = "QUERY_FAILED"           // 422: the query fails, takes too long or comes to too much
	CodeRateLimited          = "RATE_LIMITED"           // 429: see Retry-After
	CodeUsageExceeded        = "USAGE_EXCEEDED"         // 429: the key has no uses left
	CodeInternal             = "INTERNAL"               // 500
	CodeUnavailable          = "UNAVAILABLE"            // 503: see Retry-After
)

// problems is the one table from the failures of the rooms to what is said in
// HTTP. What is not in it is a 500 whose text stays in our log.
var problems = []struct {
	err    error
	status int
	code   string
	detail string
	at     string // the place of the mistake, where there is one
}{
	{request.ErrAmbiguous, 400, CodeAmbiguous, "two different credentials were sent; send one", ""},
	{authn.ErrUnauthenticated, 401, CodeUnauthenticated, "this call needs a credential", ""},
	{authn.ErrKeyDisabled, 401, CodeKeyDisabled, "the API key is disabled", ""},
	{authn.ErrKeyExpired, 401, CodeKeyExpired, "the API key has expired", ""},
	{authn.ErrKeySuperseded, 401, CodeKeySuperseded, "the API key has been rotated; use its new secret", ""},
	{authn.ErrOwnerBanned, 401, CodeOwnerBanned, "the owner of the credential is banned", ""},
	{authn.ErrOwnerMissing, 401, CodeOwnerMissing, "the owner of the credential does not exist", ""},
	{authn.ErrBadCredential, 401, CodeBadCredential, "the credential is not valid", ""},
	{authn.ErrRateLimited, 429, CodeRateLimited, "the API key has reached its rate limit", ""},
	{authn.ErrThrottled, 429, CodeRateLimited, "too many failed attempts", ""},
	{authn.ErrUsageExceeded, 429, CodeUsageExceeded, "the API key has no uses left", ""},
	{authn.ErrUnavailable, 503, CodeUnavailable, "the service cannot answer at the moment", ""},
	{authn.ErrBusy, 503, CodeUnavailable, "the service is busy", ""},
	{context.Canceled, 503, CodeUnavailable, "the request was given up", ""},
	{context.DeadlineExceeded, 503, CodeUnavailable, "the request took too long", ""},
	{request.ErrCrossOrigin, 403, CodeCrossOrigin, "a request that carries a cookie must come from this service's own pages or a trusted origin", ""},
	{authn.ErrNotFresh, 403, CodeNotFresh, "this needs a recent sign-in", ""},
	{authn.ErrLastAdmin, 403, CodeLastAdmin, "this is the last administrator", ""},
	{authn.ErrNotFound, 404, CodeNotFound, "there is no such thing", ""},
	{authn.ErrUserNotFound, 404, CodeNotFound, "there is no such user", ""},
	{authn.ErrKeyNotFound, 404, CodeNotFound, "there is no such API key", ""},
	{audit.ErrNotFound, 404, CodeNotFound, "there is no such record", ""},
	{policies.ErrNoRevision, 404, CodeNotFound, policies.ErrNoRevision.Error(), ""},
	{policies.ErrNoRole, 404, CodeNotFound, policies.ErrNoRole.Error(), ""},
	{policies.ErrNoShadow, 404, CodeNotFound, policies.ErrNoShadow.Error(), ""},
	{policies.ErrShadowElsewhere, 409, CodePoliciesElsewhere, policies.ErrShadowElsewhere.Error(), ""},
	{policies.ErrNotPublished, 409, CodePoliciesElsewhere, policies.ErrNotPublished.Error(), ""},
	{policies.ErrRolesByHand, 409, CodePoliciesElsewhere, policies.ErrRolesByHand.Error(), ""},
	{policies.ErrBuiltinRole, 409, CodeRoleInUse, policies.ErrBuiltinRole.Error(), ""},

	{authn.ErrUnknownRole, 400, CodeInvalid, "there is no such role", "/role"},
	{authn.ErrKeyNameLength, 400, CodeInvalid, "the name is too short or too long", "/key/name"},
	{authn.ErrKeyNameRequired, 400, CodeInvalid, "a name is required", "/key/name"},
	{authn.ErrKeyPrefixLength, 400, CodeInvalid, "the prefix is too short or too long", "/key/prefix"},
	{authn.ErrKeyPrefix, 400, CodeInvalid, "the prefix may have letters, digits, _ and - only", "/key/prefix"},
	{authn.ErrKeyExpiryShort, 400, CodeInvalid, "the key would expire too soon", "/key/expiresIn"},
	{authn.ErrKeyExpiryLong, 400, CodeInvalid, "the key would expire too late", "/key/expiresIn"},
	{authn.ErrKeyExpiryFixed, 400, CodeInvalid, "the expiry of keys cannot be chosen here", "/key/expiresIn"},
	{authn.ErrMetadataOff, 400, CodeInvalid, "metadata of keys is disabled", "/key/metadata"},
	{authn.ErrMetadataType, 400, CodeInvalid, "metadata must be an object", "/key/metadata"},
	{authn.ErrRefillAmount, 400, CodeInvalid, "a refill interval needs an amount", "/key/refillAmount"},
	{authn.ErrRefillInterval, 400, CodeInvalid, "a refill amount needs an interval", "/key/refillInterval"},
}

// WriteError answers a request of caller that failed with err as the native
// API does: with a problem. What clients are not told about is a 500 that says
// nothing; it is the caller's to log. It returns the status.
func WriteError(w http.ResponseWriter, err error, caller authn.Principal) int {
	p := problemOf(err, caller)
	writeProblem(w, p)
	return p.Status
}

func problemOf(err error, caller authn.Principal) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if denied, ok := errors.AsType[*authz.DeniedError](err); ok {
		if caller.Anonymous() {
			p := problem(http.StatusUnauthorized, CodeUnauthenticated, "this call needs a credential")
			p.Reasons = denied.Decision.Reasons
			return p
		}
		p := problem(http.StatusForbidden, CodeDenied, denied.Error())
		p.Reasons = denied.Decision.Reasons
		return p
	}
	if invalid, ok := errors.AsType[*authn.InvalidError](err); ok {
		return invalidAt("/"+invalid.Field, invalid.Reason)
	}
	if conflict, ok := errors.AsType[*authn.ConflictError](err); ok {
		return problem(http.StatusConflict, CodeConflict, conflict.Error())
	}
	if p := policyProblem(err); p != nil {
		return p
	}
	for _, e := range problems {
		if !errors.Is(err, e.err) {
			continue
		}
		if e.at != "" {
			return invalidAt(e.at, e.detail)
		}
		p := problem(e.status, e.code, e.detail)
		if e.status == http.StatusUnauthorized && e.code != CodeUnauthenticated {
			p.challenge = request.ChallengeInvalid
		}
		if retry, ok := errors.AsType[*authn.RetryError](err); ok {
			p.retryAfter = retry.In
		}
		return p
	}
	return problem(http.StatusInternalServerError, CodeInternal, "something went wrong here; the log knows more")
}

func problem(status int, code, detail string) *Problem {
	p := &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Code: code}
	switch status {
	case http.StatusUnauthorized:
		p.challenge = request.Challenge
	case http.StatusServiceUnavailable:
		p.retryAfter = time.Second
	}
	return p
}

// invalidAt is the problem of one mistake at one place.
func invalidAt(pointer, message string) *Problem {
	detail := message
	if pointer != "" {
		detail = pointer + " " + message
	}
	p := problem(http.StatusBadRequest, CodeInvalid, detail)
	p.Errors = []FieldError{{pointer, message}}
	return p
}

func invalid(pointer, format string, args ...any) error {
	return invalidAt(pointer, fmt.Sprintf(format, args...))
}

// setHeader says in h what p says in headers.
func (p *Problem) setHeader(h http.Header) {
	h.Set("Cache-Control", "no-store")
	if p.challenge != "" {
		h.Set("WWW-Authenticate", p.challenge)
	}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(p.retryAfter.Seconds()))))
	}
}

func writeProblem(w http.ResponseWriter, p *Problem) {
	p.setHeader(w.Header())
	w.Header().Set("Content-Type", "application/problem+json")
	body, err := encode(p)
	if err != nil { // a policy's reason that is not JSON
		p.Reasons = nil
		body, _ = encode(p)
	}
	w.WriteHeader(p.Status)
	w.Write(body)
}
