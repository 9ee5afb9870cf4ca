package betterauth

import (
	stdjson "encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/request"
)

// apiError is an answer that is an error. One without a message has no body.
type apiError struct {
	Status  int    `json:"-"`
	Message string `json:"message"`
	Code    string `json:"code,omitempty"`
	Details any    `json:"details,omitempty"`
	// Reasons are of a denial, for who asks for them.
	Reasons jsontext.Value `json:"reasons,omitzero"`
	bare    bool           // no Content-Type either
}

func (e *apiError) Error() string { return strconv.Itoa(e.Status) + " " + e.Message }

func refuse(status int, code, message string) *apiError {
	return &apiError{Status: status, Code: code, Message: message}
}

// challenge is the WWW-Authenticate of a credential that is not good.
const challenge = `Bearer error="invalid_token"`

var (
	errUnauthorized        = refuse(401, "UNAUTHORIZED", "Unauthorized")
	errUnauthorizedSession = refuse(401, "UNAUTHORIZED_SESSION", "Unauthorized or invalid session")
	errUnauthorizedAdmin   = &apiError{Status: 401}
	errCrash               = &apiError{Status: 500, bare: true}
	errTooManyRequests     = &apiError{Status: 429, Message: "Too many requests. Please try again later."}

	// optional, as what a route needs: a credential is read, but none is
	// needed.
	optional = &apiError{}
	// errDead reports a session cookie whose session is over.
	errDead = errors.New("session is over")

	errMissingOrigin      = refuse(403, "MISSING_OR_NULL_ORIGIN", "Missing or null Origin")
	errInvalidOrigin      = refuse(403, "INVALID_ORIGIN", "Invalid origin")
	errCrossSiteLogin     = refuse(403, "CROSS_SITE_NAVIGATION_LOGIN_BLOCKED", "Cross-site navigation login blocked. This request appears to be a CSRF attack.")
	errCallbackURL        = refuse(403, "INVALID_CALLBACK_URL", "Invalid callbackURL")
	errRedirectURL        = refuse(403, "INVALID_REDIRECT_URL", "Invalid redirectURL")
	errErrorCallbackURL   = refuse(403, "INVALID_ERROR_CALLBACK_URL", "Invalid errorCallbackURL")
	errNewUserCallbackURL = refuse(403, "INVALID_NEW_USER_CALLBACK_URL", "Invalid newUserCallbackURL")

	errUserNotFound  = refuse(404, "USER_NOT_FOUND", "User not found")
	errUserExists    = refuse(400, "USER_ALREADY_EXISTS_USE_ANOTHER_EMAIL", "User already exists. Use another email.")
	errUserExists422 = refuse(422, errUserExists.Code, errUserExists.Message)

	errUsernameShort   = refuse(400, "USERNAME_TOO_SHORT", "Username is too short")
	errUsernameLong    = refuse(400, "USERNAME_TOO_LONG", "Username is too long")
	errUsernameInvalid = refuse(400, "INVALID_USERNAME", "Username is invalid")
	errUsernameTaken   = refuse(400, "USERNAME_IS_ALREADY_TAKEN", "Username is already taken. Please try another.")

	errInvalidKey  = refuse(401, "INVALID_API_KEY", "Invalid API key.")
	errShortKey    = refuse(403, errInvalidKey.Code, errInvalidKey.Message)
	errKeyNotFound = refuse(404, "KEY_NOT_FOUND", "API Key not found")
)

// wording is how an error is told to clients.
type wording struct {
	err error
	as  *apiError
}

// words is the table from errors to answers. Routes may put lines before it.
// What is in neither is a 500 whose text stays in our log.
var words = []wording{
	{authn.ErrUnavailable, refuse(503, "UNAVAILABLE", "The service is not available. Please try again.")},
	{authn.ErrBusy, refuse(503, "BUSY", "The service is busy. Please try again.")},
	{request.ErrAmbiguous, refuse(400, "AMBIGUOUS_CREDENTIALS", "The request carries two different credentials")},
	{request.ErrTooLarge, refuse(413, "PAYLOAD_TOO_LARGE", "Request body is too large")},
	{request.ErrTooDeep, refuse(400, "BAD_REQUEST", "Request body is nested too deeply")},
	{request.ErrSyntax, refuse(400, "BAD_REQUEST", "Invalid JSON in request body")},

	{authn.ErrUnauthenticated, errUnauthorized},
	{authn.ErrBadCredential, errUnauthorized},
	{authn.ErrKeyDisabled, refuse(401, "KEY_DISABLED", "API Key is disabled")},
	{authn.ErrKeyExpired, refuse(401, "KEY_EXPIRED", "API Key has expired")},
	{authn.ErrKeySuperseded, refuse(401, "SUPERSEDED", "API Key has been rotated away")},
	{authn.ErrOwnerBanned, refuse(401, "USER_BANNED", "User is banned")},
	{authn.ErrOwnerMissing, refuse(401, "INVALID_REFERENCE_ID_FROM_API_KEY", "The reference id from the API key is invalid.")},
	{authn.ErrUsageExceeded, refuse(429, "USAGE_EXCEEDED", "API Key has reached its usage limit")},

	{authn.ErrSignUpClosed, refuse(400, "EMAIL_PASSWORD_SIGN_UP_DISABLED", "Email and password sign up is not enabled")},
	{authn.ErrBadLogin, refuse(401, "INVALID_EMAIL_OR_PASSWORD", "Invalid email or password")},
	{authn.ErrEmailNotVerified, refuse(403, "EMAIL_NOT_VERIFIED", "Email not verified")},
	{authn.ErrWrongPassword, refuse(400, "INVALID_PASSWORD", "Invalid password")},
	{authn.ErrNoPassword, refuse(400, "CREDENTIAL_ACCOUNT_NOT_FOUND", "Credential account not found")},
	{authn.ErrPasswordShort, refuse(400, "PASSWORD_TOO_SHORT", "Password too short")},
	{authn.ErrPasswordLong, refuse(400, "PASSWORD_TOO_LONG", "Password too long")},
	{authn.ErrBadEmail, refuse(400, "INVALID_EMAIL", "Invalid email")},
	{authn.ErrEmailTaken, errUserExists},
	{authn.ErrSameEmail, &apiError{Status: 400, Message: "Email is the same"}},
	{authn.ErrUsernameShort, errUsernameShort},
	{authn.ErrUsernameLong, errUsernameLong},
	{authn.ErrUsernameInvalid, errUsernameInvalid},
	{authn.ErrUsernameTaken, errUsernameTaken},
	{authn.ErrUnknownRole, refuse(400, "YOU_ARE_NOT_ALLOWED_TO_SET_NON_EXISTENT_VALUE", "You are not allowed to set a non-existent role value")},
	{authn.ErrNotFresh, refuse(403, "SESSION_NOT_FRESH", "Session is not fresh")},
	{authn.ErrLastAdmin, refuse(403, "LAST_ADMIN", "This is the last administrator")},
	{authn.ErrUserNotFound, errUserNotFound},
	{authn.ErrNotImpersonating, &apiError{Status: 400, Message: "You are not impersonating anyone"}},
	{authn.ErrAdminGone, &apiError{Status: 500, Message: "Failed to find user"}},
	{authn.ErrAdminSessionGone, &apiError{Status: 500, Message: "Failed to find admin session"}},

	{authn.ErrKeyNotFound, errKeyNotFound},
	{authn.ErrKeyNameLength, refuse(400, "INVALID_NAME_LENGTH", "The name length is either too large or too small.")},
	{authn.ErrKeyNameRequired, refuse(400, "NAME_REQUIRED", "API Key name is required.")},
	{authn.ErrKeyPrefixLength, refuse(400, "INVALID_PREFIX_LENGTH", "The prefix length is either too large or too small.")},
	{authn.ErrKeyPrefix, invalid("[body.prefix] " + prefixMessage)},
	{authn.ErrKeyExpiryShort, refuse(400, "EXPIRES_IN_IS_TOO_SMALL", "The expiresIn is smaller than the predefined minimum value.")},
	{authn.ErrKeyExpiryLong, refuse(400, "EXPIRES_IN_IS_TOO_LARGE", "The expiresIn is larger than the predefined maximum value.")},
	{authn.ErrKeyExpiryFixed, refuse(400, "KEY_DISABLED_EXPIRATION", "Custom key expiration values are disabled.")},
	{authn.ErrMetadataOff, refuse(400, "METADATA_DISABLED", "Metadata is disabled.")},
	{authn.ErrMetadataType, refuse(400, "INVALID_METADATA_TYPE", "metadata must be an object or undefined")},
	{authn.ErrRefillAmount, refuse(400, "REFILL_AMOUNT_AND_INTERVAL_REQUIRED", "refillAmount is required when refillInterval is provided")},
	{authn.ErrRefillInterval, refuse(400, "REFILL_INTERVAL_AND_AMOUNT_REQUIRED", "refillInterval is required when refillAmount is provided")},
}

// denials words the permissions of the admin plugin where a role is missing.
var denials = map[string]*apiError{
	"user:create":             refuse(403, "YOU_ARE_NOT_ALLOWED_TO_CREATE_USERS", "You are not allowed to create users"),
	"user:list":               refuse(403, "YOU_ARE_NOT_ALLOWED_TO_LIST_USERS", "You are not allowed to list users"),
	"user:get":                refuse(403, "YOU_ARE_NOT_ALLOWED_TO_GET_USER", "You are not allowed to get user"),
	"user:set-role":           refuse(403, "YOU_ARE_NOT_ALLOWED_TO_CHANGE_USERS_ROLE", "You are not allowed to change users role"),
	"user:update":             refuse(403, "YOU_ARE_NOT_ALLOWED_TO_UPDATE_USERS", "You are not allowed to update users"),
	"user:set-email":          refuse(403, "YOU_ARE_NOT_ALLOWED_TO_SET_USERS_EMAIL", "You are not allowed to update users email"),
	"user:set-phone":          refuse(403, "YOU_ARE_NOT_ALLOWED_TO_SET_USERS_PHONE_NUMBER", "You are not allowed to update users phone number"),
	"user:ban":                refuse(403, "YOU_ARE_NOT_ALLOWED_TO_BAN_USERS", "You are not allowed to ban users"),
	"user:impersonate":        refuse(403, "YOU_ARE_NOT_ALLOWED_TO_IMPERSONATE_USERS", "You are not allowed to impersonate users"),
	"user:impersonate-admins": refuse(403, "YOU_CANNOT_IMPERSONATE_ADMINS", "You cannot impersonate admins"),
	"user:delete":             refuse(403, "YOU_ARE_NOT_ALLOWED_TO_DELETE_USERS", "You are not allowed to delete users"),
	"user:set-password":       refuse(403, "YOU_ARE_NOT_ALLOWED_TO_SET_USERS_PASSWORD", "You are not allowed to set users password"),
	"session:list":            refuse(403, "YOU_ARE_NOT_ALLOWED_TO_LIST_USERS_SESSIONS", "You are not allowed to list users sessions"),
	"session:revoke":          refuse(403, "YOU_ARE_NOT_ALLOWED_TO_REVOKE_USERS_SESSIONS", "You are not allowed to revoke users sessions"),
}

const (
	codeRoleMissing = "role_missing"
	codeNotFresh    = "session_not_fresh"
	codeEscalation  = "escalation"
)

// denied words a decision.
func denied(d *authz.DeniedError) *apiError {
	permission := d.Resource.Permission(d.Action)
	if d.Has(codeRoleMissing) {
		if e := denials[permission]; e != nil {
			return e
		}
	}
	if permission == "user:create" && len(d.Decision.Reasons) == 1 && d.Has(codeEscalation) {
		return denials["user:set-role"] // which is what would permit it
	}
	if d.Has(codeNotFresh) {
		return wordsFor(authn.ErrNotFresh)
	}
	if len(d.Decision.Reasons) == 0 {
		return refuse(403, "FORBIDDEN", "Forbidden")
	}
	r := d.Decision.Reasons[0]
	return refuse(403, strings.ToUpper(strings.ReplaceAll(r.Code, "-", "_")), r.Message)
}

func wordsFor(err error) *apiError {
	for _, w := range words {
		if errors.Is(err, w.err) {
			return w.as
		}
	}
	return nil
}

// refusedCredential words why a key or token in a header is not good. An
// unknown one is told apart from nothing.
func refusedCredential(err error) error {
	if errors.Is(err, authn.ErrBadCredential) {
		return errInvalidKey
	}
	return err
}

func isUnavailable(err error) bool {
	return errors.Is(err, authn.ErrUnavailable) || errors.Is(err, authn.ErrBusy)
}

// word finds the answer to an error; nil if there is none.
func (c *call) word(err error) *apiError {
	var e *apiError
	if errors.As(err, &e) {
		return e
	}
	var d *authz.DeniedError
	isDenial := errors.As(err, &d)
	for _, w := range c.route.words {
		if errors.Is(err, w.err) || isDenial && w.err == authn.ErrNotFresh && d.Has(codeNotFresh) {
			return w.as
		}
	}
	if isDenial {
		return denied(d)
	}
	var retry *authn.RetryError
	if errors.As(err, &retry) {
		wait := (retry.In.Microseconds() + 999) / 1000
		if errors.Is(err, authn.ErrRateLimited) {
			return &apiError{Status: 429, Message: "Rate limit exceeded.", Code: "RATE_LIMITED", Details: tryAgain{wait}}
		}
		c.w.Header().Set("X-Retry-After", strconv.FormatInt((wait+999)/1000, 10))
		return errTooManyRequests
	}
	var conflict *authn.ConflictError
	if errors.As(err, &conflict) {
		switch conflict.Field {
		case "email":
			return c.word(authn.ErrEmailTaken)
		case "username":
			return c.word(authn.ErrUsernameTaken)
		}
	}
	var bad *authn.InvalidError
	if errors.As(err, &bad) {
		return invalid("[body." + bad.Field + "] " + bad.Reason)
	}
	if errors.Is(err, authn.ErrUserBanned) {
		return refuse(403, "BANNED_USER", c.s.o.BannedMessage)
	}
	return wordsFor(err)
}

// WriteError answers a request that did not come to its route as this surface
// would.
func WriteError(w http.ResponseWriter, err error) {
	e := wordsFor(err)
	if bad, ok := errors.AsType[*authn.InvalidError](err); ok {
		e = invalid("[headers." + bad.Field + "] " + bad.Reason)
	}
	if e == nil {
		w.WriteHeader(errCrash.Status)
		return
	}
	retryLater(w, e)
	writeJSON(w, e.Status, e)
}

// retryLater says when to come back to a service that is not available.
func retryLater(w http.ResponseWriter, e *apiError) {
	if e.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
}

type tryAgain struct {
	TryAgainIn int64 `json:"tryAgainIn"`
}

// answer writes what the call came to.
func (c *call) answer(out any, err error) {
	h := c.w.Header()
	for _, cookie := range c.cookies {
		h.Add("Set-Cookie", cookie)
	}
	if len(c.cookies) > 0 || !c.caller.Anonymous() {
		h.Set("Cache-Control", "no-store")
	}
	if err == nil {
		writeJSON(c.w, http.StatusOK, out)
		return
	}
	e := c.word(err)
	if e == nil {
		c.s.log.ErrorContext(c.ctx, "request failed", "method", c.r.Method, "path", c.route.path, "error", err)
		e = errCrash
	}
	if d, ok := errors.AsType[*authz.DeniedError](err); ok && request.TellsReasons(c.r) {
		told := *e
		// Values that came out of a policy are encoding/json's. Those that are none
		// are left out.
		told.Reasons, _ = stdjson.Marshal(d.Decision.Reasons)
		e = &told
	}
	if e.Status == http.StatusUnauthorized && (c.place == request.InKeyHeader || c.place == request.InAuthorization) {
		h.Set("WWW-Authenticate", challenge)
	}
	retryLater(c.w, e)
	switch {
	case e.Message != "":
		writeJSON(c.w, e.Status, e)
	case e.bare:
		c.w.WriteHeader(e.Status)
	default:
		h.Set("Content-Type", "application/json")
		c.w.WriteHeader(e.Status)
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body := mustJSON(v)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// mustJSON encodes our own objects, which can't fail.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		panic(err)
	}
	return b
}
