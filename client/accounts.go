package client

import (
	"context"
	"encoding/json"
	"net/url"
	"strconv"
	"time"

	"github.com/ostiary/ostiary/access"
)

// Authn manages users, sessions and keys, in the words of the HTTP API.
//
// Each method takes who asks: a [Principal] of [Client.Authenticate], of
// [PrincipalFrom], or the program itself ([Client.Program]). That one's
// credential is sent, no other, and the policy is asked about it. Nobody is
// [ErrUnauthenticated].
//
// A write is sent once; see [ErrUnavailable].
type Authn struct{ c *Client }

// Authn manages users, sessions and keys of the service.
func (c *Client) Authn() Authn { return Authn{c} }

// Secret is text that must not be seen; it prints and marshals as "[redacted]".
type Secret = access.Secret

// User is a person or a service account. What there is none of is zero; times are
// UTC, in milliseconds.
type User struct {
	ID              string    `json:"id"`
	Name            string    `json:"name"`
	Email           string    `json:"email"`
	EmailVerified   bool      `json:"emailVerified"`
	Image           string    `json:"image"`
	CreatedAt       time.Time `json:"createdAt"`
	UpdatedAt       time.Time `json:"updatedAt"`
	Username        string    `json:"username"`
	DisplayUsername string    `json:"displayUsername"`
	Role            string    `json:"role"` // several are separated by commas
	Banned          bool      `json:"banned"`
	BanReason       string    `json:"banReason"`
	BanExpires      time.Time `json:"banExpires"` // zero: never

	// These are told with a service account that is made and a key that is
	// verified, and not otherwise.
	ServiceAccount bool           `json:"serviceAccount"`
	Attributes     map[string]any `json:"attributes"`
}

type userDocument struct {
	User User `json:"user"`
}

// UserQuery selects users; its zero value the first hundred of all. Search and
// filter are combined with AND. Fields are called as in [User]'s JSON, attributes by
// their names.
type UserQuery struct {
	SearchValue    string
	SearchField    string // "email" (default) or "name"
	SearchOperator string // "contains" (default), "starts_with" or "ends_with"

	FilterField    string   // default "email"
	FilterOperator string   // eq (default) ne lt lte gt gte in not_in contains starts_with ends_with
	FilterValues   []string // one, or several of in and not_in; none: no filter

	SortBy         string
	SortDescending bool
	Limit, Offset  int // Limit 0: the service's own
}

func (q *UserQuery) values() (url.Values, error) {
	v := url.Values{}
	several := q.FilterOperator == "in" || q.FilterOperator == "not_in"
	switch n := len(q.FilterValues); {
	case n == 0 && q.FilterField+q.FilterOperator != "":
		// To the service it would be no filter, and that everybody.
		return nil, invalid("a filter needs a value")
	case n > 1 && !several:
		return nil, invalid("only in and not_in take several values")
	case n == 1 && several:
		// A list is told from a text by being repeated.
		v.Add("filterValue", q.FilterValues[0])
	}
	for _, value := range q.FilterValues {
		v.Add("filterValue", value)
	}
	for name, value := range map[string]string{
		"searchValue": q.SearchValue, "searchField": q.SearchField, "searchOperator": q.SearchOperator,
		"filterField": q.FilterField, "filterOperator": q.FilterOperator,
	} {
		setText(v, name, value)
	}
	setPage(v, q.SortBy, q.SortDescending, q.Limit, q.Offset)
	return v, nil
}

func setText(v url.Values, name, value string) {
	if value != "" {
		v.Set(name, value)
	}
}

func setNumber(v url.Values, name string, n int64) {
	if n != 0 {
		v.Set(name, strconv.FormatInt(n, 10))
	}
}

func setPage(v url.Values, by string, descending bool, limit, offset int) {
	setText(v, "sortBy", by)
	if descending {
		v.Set("sortDirection", "desc")
	}
	setNumber(v, "limit", int64(limit))
	setNumber(v, "offset", int64(offset))
}

// Users lists users, and tells how many there are in all: user:list. Those whom
// the policy denies to list are left out, and do not count.
func (a Authn) Users(ctx context.Context, caller Principal, q UserQuery) ([]User, int, error) {
	v, err := q.values()
	if err != nil {
		return nil, 0, err
	}
	out, err := call[struct {
		Users []User `json:"users"`
		Total int    `json:"total"`
	}](ctx, a.c, caller, reads("GET", a.c.auth+"/admin/list-users?"+v.Encode()), nil)
	return out.Users, out.Total, err
}

// User: user:get. [ErrNotFound].
func (a Authn) User(ctx context.Context, caller Principal, id string) (User, error) {
	return call[User](ctx, a.c, caller, reads("GET", a.c.auth+"/admin/get-user?"+url.Values{"id": {id}}.Encode()), nil)
}

// NewUser is a person to create.
type NewUser struct {
	Name, Email string
	Password    Secret   // empty: none, and no sign-in with one
	Roles       []string // none: the default one
	// Data has further members of [User]'s JSON ("username", "emailVerified"), and
	// attributes.
	Data map[string]any
}

// CreateUser: user:create, and user:set-role for roles that are named. An address
// or a username that is taken is [ErrConflict].
func (a Authn) CreateUser(ctx context.Context, caller Principal, in NewUser) (User, error) {
	out, err := call[userDocument](ctx, a.c, caller, writes("POST", a.c.auth+"/admin/create-user"), struct {
		Name     string         `json:"name"`
		Email    string         `json:"email"`
		Password string         `json:"password,omitempty"`
		Role     []string       `json:"role,omitempty"`
		Data     map[string]any `json:"data,omitempty"`
	}{in.Name, in.Email, in.Password.Reveal(), in.Roles, in.Data})
	return out.User, err
}

// UpdateUser: user:update, and set-role, set-email or ban for members that need
// it. change has members of [User]'s JSON, and attributes; null removes one. On
// oneself, too, it takes a role.
func (a Authn) UpdateUser(ctx context.Context, caller Principal, id string, change map[string]any) (User, error) {
	return call[User](ctx, a.c, caller, writes("POST", a.c.auth+"/admin/update-user"), map[string]any{"userId": id, "data": change})
}

// SetRoles: user:set-role.
func (a Authn) SetRoles(ctx context.Context, caller Principal, id string, roles []string) (User, error) {
	out, err := call[userDocument](ctx, a.c, caller, writes("POST", a.c.auth+"/admin/set-role"), map[string]any{"userId": id, "role": append([]string{}, roles...)})
	return out.User, err
}

// SetPassword: user:set-password. The user's sessions end.
func (a Authn) SetPassword(ctx context.Context, caller Principal, id string, password Secret) error {
	_, err := call[none](ctx, a.c, caller, writes("POST", a.c.auth+"/admin/set-user-password"), map[string]any{"userId": id, "newPassword": password.Reveal()})
	return err
}

// Ban: user:ban. The user's sessions end, and the user's keys stop. An empty
// reason and a zero life are the service's defaults.
func (a Authn) Ban(ctx context.Context, caller Principal, id, reason string, life time.Duration) (User, error) {
	in := map[string]any{"userId": id}
	if reason != "" {
		in["banReason"] = reason
	}
	if life != 0 {
		in["banExpiresIn"] = life.Seconds()
	}
	out, err := call[userDocument](ctx, a.c, caller, writes("POST", a.c.auth+"/admin/ban-user"), in)
	return out.User, err
}

// Unban: user:ban.
func (a Authn) Unban(ctx context.Context, caller Principal, id string) (User, error) {
	out, err := call[userDocument](ctx, a.c, caller, writes("POST", a.c.auth+"/admin/unban-user"), map[string]any{"userId": id})
	return out.User, err
}

// RemoveUser: user:delete. Sessions, accounts and keys go with the user.
func (a Authn) RemoveUser(ctx context.Context, caller Principal, id string) error {
	_, err := call[none](ctx, a.c, caller, writes("POST", a.c.auth+"/admin/remove-user"), map[string]any{"userId": id})
	return err
}

// Session is a session without its token.
type Session struct {
	ID             string    `json:"id"`
	UserID         string    `json:"userId"`
	CreatedAt      time.Time `json:"createdAt"`
	UpdatedAt      time.Time `json:"updatedAt"`
	ExpiresAt      time.Time `json:"expiresAt"`
	IPAddress      string    `json:"ipAddress"`
	UserAgent      string    `json:"userAgent"`
	ImpersonatedBy string    `json:"impersonatedBy"` // the id of the administrator; empty: nobody
}

// Sessions lists the sessions of a user: session:list. An empty userID is the
// caller's own; to name oneself takes a role, as to name anybody.
func (a Authn) Sessions(ctx context.Context, caller Principal, userID string) ([]Session, error) {
	if userID == "" {
		return call[[]Session](ctx, a.c, caller, reads("GET", a.c.auth+"/list-sessions"), nil)
	}
	out, err := call[struct {
		Sessions []Session `json:"sessions"`
	}](ctx, a.c, caller, reads("POST", a.c.auth+"/admin/list-user-sessions"), map[string]any{"userId": userID})
	return out.Sessions, err
}

// RevokeSession ends the session with this id, whosever it is: session:revoke, by
// role. One that is not there is no error.
func (a Authn) RevokeSession(ctx context.Context, caller Principal, id string) error {
	_, err := call[none](ctx, a.c, caller, writes("POST", a.c.auth+"/admin/revoke-user-session"), map[string]any{"sessionToken": id})
	return err
}

// RevokeOwnSession ends one of the caller's own: session:revoke. One that is not
// there, or is somebody else's, is no error.
func (a Authn) RevokeOwnSession(ctx context.Context, caller Principal, id string) error {
	_, err := call[none](ctx, a.c, caller, writes("POST", a.c.auth+"/revoke-session"), map[string]any{"token": id})
	return err
}

// RevokeSessions ends all sessions of a user: session:revoke. userID is as in
// [Authn.Sessions].
func (a Authn) RevokeSessions(ctx context.Context, caller Principal, userID string) error {
	path, in := "/admin/revoke-user-sessions", map[string]any{"userId": userID}
	if userID == "" {
		path, in = "/revoke-sessions", map[string]any{}
	}
	_, err := call[none](ctx, a.c, caller, writes("POST", a.c.auth+path), in)
	return err
}

// Key is an API key without its secret. What there is none of is zero; times are
// UTC, in milliseconds.
type Key struct {
	ID          string             `json:"id"`
	Name        string             `json:"name"`
	Start       string             `json:"start"` // the first characters of the secret
	Prefix      string             `json:"prefix"`
	OwnerID     string             `json:"referenceId"` // the id of the user
	Enabled     bool               `json:"enabled"`
	CreatedAt   time.Time          `json:"createdAt"`
	UpdatedAt   time.Time          `json:"updatedAt"`
	ExpiresAt   time.Time          `json:"expiresAt"` // zero: never
	Permissions access.Permissions `json:"permissions"`
	Metadata    json.RawMessage    `json:"metadata"` // any JSON; "null": none

	RateLimitEnabled    bool      `json:"rateLimitEnabled"`
	RateLimitTimeWindow *int64    `json:"rateLimitTimeWindow"` // milliseconds
	RateLimitMax        *int64    `json:"rateLimitMax"`
	RequestCount        int64     `json:"requestCount"`   // in the current window
	LastRequest         time.Time `json:"lastRequest"`    // zero: never
	Remaining           *int64    `json:"remaining"`      // nil: unlimited
	RefillInterval      *int64    `json:"refillInterval"` // milliseconds
	RefillAmount        *int64    `json:"refillAmount"`   // what Remaining becomes after each interval
	LastRefillAt        time.Time `json:"lastRefillAt"`
}

// issued is a key with its secret.
type issued struct {
	Key
	Secret string `json:"key"`
}

// NewKey is a key to create. What is zero takes the service's default.
type NewKey struct {
	OwnerID     string // empty: the caller
	Name        string
	Prefix      string
	ExpiresIn   time.Duration // at least a second
	Metadata    any           // an object or a list
	Permissions access.Permissions
}

// document is the key in the words of the wire, but for its owner.
func (in *NewKey) document() map[string]any {
	doc := map[string]any{}
	for name, text := range map[string]string{"name": in.Name, "prefix": in.Prefix} {
		if text != "" {
			doc[name] = text
		}
	}
	if in.ExpiresIn != 0 {
		doc["expiresIn"] = in.ExpiresIn.Seconds()
	}
	if in.Metadata != nil {
		doc["metadata"] = in.Metadata
	}
	if in.Permissions != nil {
		doc["permissions"] = in.Permissions
	}
	return doc
}

// CreateKey: apiKey:create on the owner. The grants must be within what the
// caller may. The Secret is told this once.
func (a Authn) CreateKey(ctx context.Context, caller Principal, in NewKey) (Key, Secret, error) {
	doc := in.document()
	if in.OwnerID != "" {
		doc["userId"] = in.OwnerID
	}
	out, err := call[issued](ctx, a.c, caller, writes("POST", a.c.auth+"/api-key/create"), doc)
	return out.Key, Secret(out.Secret), err
}

// Key: apiKey:read. [ErrNotFound], also of a key that the caller may not know of.
func (a Authn) Key(ctx context.Context, caller Principal, id string) (Key, error) {
	return call[Key](ctx, a.c, caller, reads("GET", a.c.auth+"/api-key/get?"+url.Values{"id": {id}}.Encode()), nil)
}

// KeyQuery selects keys.
type KeyQuery struct {
	OwnerID        string // empty: the caller's
	SortBy         string // a member of [Key]'s JSON
	SortDescending bool
	Limit, Offset  int // Limit 0: 100
}

// Keys lists keys of one owner, and tells how many there are in all: apiKey:read.
// Those that the policy denies to read are left out, and do not count.
func (a Authn) Keys(ctx context.Context, caller Principal, q KeyQuery) ([]Key, int, error) {
	v := url.Values{}
	setText(v, "userId", q.OwnerID)
	setPage(v, q.SortBy, q.SortDescending, q.Limit, q.Offset)
	out, err := call[struct {
		Keys  []Key `json:"apiKeys"`
		Total int   `json:"total"`
	}](ctx, a.c, caller, reads("GET", a.c.auth+"/api-key/list?"+v.Encode()), nil)
	return out.Keys, out.Total, err
}

// KeyChange is what to change of a key; nil members stay.
type KeyChange struct {
	OwnerID     string // whose key it is; empty: the caller's
	Name        *string
	Enabled     *bool
	ExpiresIn   *time.Duration     // from now; zero: it does not expire any more
	Metadata    any                // an object or a list
	Permissions access.Permissions // empty, and not nil: none
}

// UpdateKey: apiKey:update. [ErrNotFound], also of a key of somebody else than
// c.OwnerID says.
func (a Authn) UpdateKey(ctx context.Context, caller Principal, id string, c KeyChange) (Key, error) {
	doc := map[string]any{"keyId": id}
	if c.OwnerID != "" {
		doc["userId"] = c.OwnerID
	}
	if c.Name != nil {
		doc["name"] = *c.Name
	}
	if c.Enabled != nil {
		doc["enabled"] = *c.Enabled
	}
	if c.ExpiresIn != nil {
		doc["expiresIn"] = nil
		if *c.ExpiresIn != 0 {
			doc["expiresIn"] = c.ExpiresIn.Seconds()
		}
	}
	if c.Metadata != nil {
		doc["metadata"] = c.Metadata
	}
	if c.Permissions != nil {
		doc["permissions"] = c.Permissions
	}
	return call[Key](ctx, a.c, caller, writes("POST", a.c.auth+"/api-key/update"), doc)
}

// RotateKey gives a key a new secret: apiKey:rotate. The old one works overlap
// longer. [ErrNotFound].
func (a Authn) RotateKey(ctx context.Context, caller Principal, id string, overlap time.Duration) (Key, Secret, error) {
	out, err := call[issued](ctx, a.c, caller, writes("POST", a.c.auth+"/api-key/rotate"), map[string]any{"keyId": id, "overlap": overlap.Seconds()})
	return out.Key, Secret(out.Secret), err
}

// DeleteKey: apiKey:delete. [ErrNotFound].
func (a Authn) DeleteKey(ctx context.Context, caller Principal, id string) error {
	_, err := call[none](ctx, a.c, caller, writes("POST", a.c.auth+"/api-key/delete"), map[string]any{"keyId": id})
	return err
}

// Verification is what a key is worth.
type Verification struct {
	Valid bool `json:"valid"`
	// Code is VALID, NOT_FOUND, DISABLED, EXPIRED, SUPERSEDED, OWNER_BANNED,
	// RATE_LIMITED, USAGE_EXCEEDED or INSUFFICIENT_PERMISSIONS.
	Code       string        `json:"code"`
	Key        *Key          `json:"key"`  // nil with NOT_FOUND
	User       *User         `json:"user"` // the owner; nil with NOT_FOUND
	RetryAfter time.Duration `json:"-"`    // with RATE_LIMITED
}

// VerifyKey tells what a key that the program was shown is worth: apiKey:verify. It
// counts a use of the key, as presenting it would, unless a permission that is
// asked about is missing. want may be nil. A bad key is an answer, no error.
func (a Authn) VerifyKey(ctx context.Context, caller Principal, key Secret, want access.Permissions) (Verification, error) {
	in := map[string]any{"key": key.Reveal()}
	if want != nil {
		in["permissions"] = want
	}
	out, err := call[struct {
		Verification
		RetryAfter int64 `json:"retryAfter"` // seconds
	}](ctx, a.c, caller, reads("POST", "/v1/keys/verify"), in)
	out.Verification.RetryAfter = time.Duration(out.RetryAfter) * time.Second
	return out.Verification, err
}

// NewServiceAccount is an account that is no person, and its first key.
type NewServiceAccount struct {
	Name       string
	Roles      []string
	Attributes map[string]any
	Key        NewKey // its OwnerID is not looked at: the account is the owner
	Limits     KeyLimits
}

// KeyLimits are the limits of a key; nil and zero members are none, or the service's default.
type KeyLimits struct {
	Remaining       *int64 // uses
	RefillAmount    int64  // uses, every RefillInterval; both or neither
	RefillInterval  time.Duration
	RateLimitMax    int64 // uses within each RateLimitWindow; both or neither
	RateLimitWindow time.Duration
}

// CreateServiceAccount makes an account and its first key, or neither:
// user:create, apiKey:create and, with roles, user:set-role. The Secret is told
// this once.
func (a Authn) CreateServiceAccount(ctx context.Context, caller Principal, in NewServiceAccount) (User, Key, Secret, error) {
	key := in.Key.document()
	if in.Limits.Remaining != nil {
		key["remaining"] = *in.Limits.Remaining
	}
	for name, n := range map[string]int64{
		"refillAmount": in.Limits.RefillAmount, "refillInterval": in.Limits.RefillInterval.Milliseconds(),
		"rateLimitMax": in.Limits.RateLimitMax, "rateLimitTimeWindow": in.Limits.RateLimitWindow.Milliseconds(),
	} {
		if n != 0 {
			key[name] = n
		}
	}
	doc := map[string]any{"name": in.Name, "key": key}
	if in.Roles != nil {
		doc["role"] = in.Roles
	}
	if in.Attributes != nil {
		doc["attributes"] = in.Attributes
	}
	out, err := call[struct {
		User User   `json:"user"`
		Key  issued `json:"key"`
	}](ctx, a.c, caller, writes("POST", "/v1/service-accounts"), doc)
	return out.User, out.Key.Key, Secret(out.Key.Secret), err
}

// Permissions returns what the caller may do by roles, and what it may do with its
// own whatever its roles, both as enforced: narrowed by the grants of the key at
// work.
func (c *Client) Permissions(ctx context.Context, caller Principal) (byRole, own access.Permissions, err error) {
	out, err := call[permissionsDocument](ctx, c, caller, reads("GET", "/v1/me"), nil)
	return out.Permissions, out.Own, err
}

type permissionsDocument struct {
	Permissions access.Permissions `json:"permissions"`
	Own         access.Permissions `json:"own"`
}
