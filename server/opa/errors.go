package opa

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/request"
)

// Codes of errors, which are OPA's.
const (
	codeInternal         = "internal_error"
	codeEvaluation       = "evaluation_error"
	codeUnauthorized     = "unauthorized"
	codeInvalidParameter = "invalid_parameter"
	codeInvalidOperation = "invalid_operation"
	codeNotFound         = "resource_not_found"
	codeUndefined        = "undefined_document"
)

// apiError is an answer that is none, in OPA's form.
type apiError struct {
	Code    string            `json:"code"`
	Message string            `json:"message"`
	Errors  []json.RawMessage `json:"errors,omitempty"`

	status     int
	challenge  string
	retryAfter time.Duration
}

func (e *apiError) Error() string { return e.Code + ": " + e.Message }

func invalid(message string) error {
	return &apiError{status: http.StatusBadRequest, Code: codeInvalidParameter, Message: message}
}

func notFound(message string) error {
	return &apiError{status: http.StatusNotFound, Code: codeNotFound, Message: message}
}

const realm = `Bearer realm="ostiary"`

// failures is the one table from the failures of the rooms to what is said
// here. What is not in it is a 500 whose text stays in our log.
var failures = []struct {
	err     error
	status  int
	code    string
	message string
}{
	{request.ErrAmbiguous, 400, codeInvalidParameter, "two different credentials were sent; send one"},
	{request.ErrTooLarge, 400, codeInvalidParameter, "request body too large"},
	{request.ErrTooDeep, 400, codeInvalidParameter, "the document is nested too deeply"},
	{authn.ErrUnauthenticated, 401, codeUnauthorized, "this call needs a credential"},
	{authn.ErrKeyDisabled, 401, codeUnauthorized, "the API key is disabled"},
	{authn.ErrKeyExpired, 401, codeUnauthorized, "the API key has expired"},
	{authn.ErrKeySuperseded, 401, codeUnauthorized, "the API key has been rotated; use its new secret"},
	{authn.ErrOwnerBanned, 401, codeUnauthorized, "the owner of the credential is banned"},
	{authn.ErrOwnerMissing, 401, codeUnauthorized, "the owner of the credential does not exist"},
	{authn.ErrBadCredential, 401, codeUnauthorized, "the credential is not valid"},
	{authn.ErrRateLimited, 429, codeInvalidOperation, "the API key has reached its rate limit"},
	{authn.ErrThrottled, 429, codeInvalidOperation, "too many failed attempts"},
	{authn.ErrUsageExceeded, 429, codeInvalidOperation, "the API key has no uses left"},
	{authn.ErrUnavailable, 503, codeInternal, "the service cannot answer at the moment"},
	{authn.ErrBusy, 503, codeInternal, "the service is busy"},
	{authz.ErrNoPolicy, 503, codeInternal, "no policy is in force"},
	{authz.ErrExplanationTooLong, 500, codeInternal, authz.ErrExplanationTooLong.Error()},
	{context.Canceled, 503, codeInternal, "the request was given up"},
	{context.DeadlineExceeded, 503, codeInternal, "the request took too long"},
}

func (c *call) fail(err error) {
	e := wording(err, c.caller)
	if e.status >= 500 {
		var id string
		if f := authz.FactsFrom(c.ctx); f != nil {
			id = f.RequestID
		}
		if rego, ok := errors.AsType[*authz.RegoError](err); ok {
			// The caller is told what failed. The text can quote the input.
			c.Log.WarnContext(c.ctx, "a policy could not answer", "stage", string(rego.Stage), "request", id)
		} else {
			c.Log.ErrorContext(c.ctx, "request failed", "surface", "opa", "error", err, "request", id)
		}
	}
	e.write(c.w)
}

func wording(err error, caller authn.Principal) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	if denied, ok := errors.AsType[*authz.DeniedError](err); ok {
		e := &apiError{status: http.StatusForbidden, Code: codeUnauthorized, Message: denied.Error()}
		for _, r := range denied.Decision.Reasons {
			reason, _ := json.Marshal(authz.Reason{Code: r.Code, Message: r.Message, Permission: r.Permission})
			e.Errors = append(e.Errors, reason)
		}
		if caller.Anonymous() {
			e.status, e.challenge = http.StatusUnauthorized, realm
		}
		return e
	}
	if e, ok := errors.AsType[*authz.RegoError](err); ok {
		out := &apiError{status: http.StatusInternalServerError, Code: codeInternal, Errors: e.Details}
		if e.Stage != authz.Evaluating {
			out.status, out.Code = http.StatusBadRequest, codeInvalidParameter
		}
		out.Message = "error(s) occurred while " + string(e.Stage) + " query"
		return out
	}
	if e, ok := errors.AsType[*authn.InvalidError](err); ok {
		return &apiError{status: http.StatusBadRequest, Code: codeInvalidParameter, Message: e.Error()}
	}
	for _, f := range failures {
		if !errors.Is(err, f.err) {
			continue
		}
		e := &apiError{status: f.status, Code: f.code, Message: f.message}
		switch f.status {
		case http.StatusUnauthorized:
			e.challenge = realm
			if f.err != authn.ErrUnauthenticated {
				e.challenge += `, error="invalid_token"`
			}
		case http.StatusServiceUnavailable:
			e.retryAfter = time.Second
		}
		if retry, ok := errors.AsType[*authn.RetryError](err); ok {
			e.retryAfter = cmp.Or(retry.In, time.Second)
		}
		return e
	}
	return &apiError{status: http.StatusInternalServerError, Code: codeInternal, Message: "something went wrong here; the log knows more"}
}

func (e *apiError) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if e.challenge != "" {
		h.Set("WWW-Authenticate", e.challenge)
	}
	if e.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retryAfter.Seconds()))))
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetIndent("", "  ")
	_ = enc.Encode(e) // its members are text, and JSON already
	w.WriteHeader(e.status)
	w.Write(body.Bytes())
}

// WriteError answers a request to this surface that failed with err before it
// was routed, or that broke.
func (h *Handler) WriteError(w http.ResponseWriter, err error) {
	wording(err, authn.Principal{}).write(w)
}

// NotFound answers a path of this surface at which nothing is.
func (h *Handler) NotFound(w http.ResponseWriter, r *http.Request) {
	h.WriteError(w, notFound("there is nothing at this path"))
}

// MethodNotAllowed answers a method that is not offered, writes above all:
// data and policies are changed by the bundle. The caller has set Allow.
func (h *Handler) MethodNotAllowed(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	message := "this path does not take " + r.Method
	switch r.Method {
	case http.MethodPut, http.MethodPatch, http.MethodDelete:
		message = "data and policies are changed by the policy bundle, not here"
	}
	(&apiError{status: http.StatusMethodNotAllowed, Code: codeInvalidOperation, Message: message}).write(w)
}
