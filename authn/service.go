package authn

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/ostiary/ostiary/authz"
)

var errUnimplemented = errors.New("unimplemented")

// Engine is what Service asks. *authz.Engine is one.
type Engine interface {
	authz.Decider
	// Permissions: see authz.Engine.Permissions.
	Permissions(ctx context.Context, s *authz.Subject) (authz.Permissions, error)
}

// Options configures a Service. The zero value works; see each member for
// its default.
type Options struct {
	Clock func() time.Time // default time.Now
	Log   *slog.Logger     // default discards

	// Sessions.
	SessionLife        time.Duration // default 7 days
	SessionUpdateAge   time.Duration // a session used this long after its last extension is extended; default 1 day
	SessionNeverSlides bool
	FreshAge           *time.Duration // default 1 day; 0 is always fresh
	ShortSessionLife   time.Duration  // "don't remember"; default 1 day
	ImpersonationLife  time.Duration  // default 1 hour

	// People.
	SignUpDisabled       bool // the policy can close sign-up too
	RequireVerifiedEmail bool
	AutoSignInDisabled   bool     // after sign-up
	DefaultRole          string   // default "user"
	AdminRoles           []string // who counts as an administrator; default ["admin"]
	AdminIDs             []string // users who are administrators whatever their role
	// KnownRoles, if set, refuses the assignment of a role for which it is false.
	KnownRoles       func(role string) bool
	DefaultBanReason string        // default "No reason"
	DefaultBanLife   time.Duration // default: for ever
	PasswordMin      int           // UTF-16 units; default 8
	PasswordMax      int           // default 128
	UsernameMin      int           // default 3
	UsernameMax      int           // default 30

	// Keys.
	Keys KeyOptions

	// HashMemory bounds what password hashing uses at once, in bytes
	// (one hash takes 32 MiB); default 256 MiB, never less than one hash.
	HashMemory int64
	HashWait   time.Duration // how long a caller waits for its turn before ErrBusy; default 5s

	// Throttle of failed sign-ins; zero is the default, negative is off.
	FailuresPerAccount int           // default 10
	FailuresPerAddress int           // default 100
	FailureWindow      time.Duration // default 15 minutes

	CacheSize int           // principals remembered; default 100,000; negative: none
	CacheTTL  time.Duration // the longest a principal is remembered unasked; default 1 minute
}

// KeyOptions configures API keys.
type KeyOptions struct {
	Prefix               *string // default "ost_"
	NameRequired         bool
	NameMin, NameMax     int           // default 1, 32
	PrefixMin, PrefixMax int           // default 1, 32
	StartLength          int           // characters of the secret that are shown; default 6
	Length               int           // of the random part of keys whose prefix is not ours, at least; default 64
	DefaultLife          time.Duration // default: none
	MinLife, MaxLife     time.Duration // default 1 day, 365 days
	ExpiryFixed          bool          // refuse a chosen expiry
	MetadataDisabled     bool
	DefaultPermissions   authz.Permissions
	// A key without its own limit gets this one; zero is none.
	RateLimitDisabled bool
	RateLimitMax      int64
	RateLimitWindow   time.Duration
	Retention         time.Duration // ended keys are kept this long; default 90 days
}

// Service knows who is calling and manages users, sessions and keys.
// Its methods are safe for concurrent use.
type Service struct{}

// New returns a Service over store that asks engine. It reports every mistake
// in o at once, as *[InvalidError]s joined.
func New(o Options, store Store, engine Engine) (*Service, error) { return nil, errUnimplemented }

// ---- Who is calling ----

// Kind is a kind of credential.
type Kind int

const (
	NoCredential Kind = iota
	SessionToken      // from a cookie whose signature was verified, or a bearer token
	APIKeySecret      // from a key header
	Bearer            // either of them
)

// Credential is what a request presents.
type Credential struct {
	Kind   Kind
	Secret Secret
}

// Principal is who is calling, proven. The zero Principal is anonymous.
type Principal struct{ p *principal }

type principal struct {
	user    *User
	session *Session
	key     *APIKey
	subject *authz.Subject
	system  string
}

// System is the program itself acting under a name, for its own purposes. It
// is not asked about; what it does is on record under that name.
func System(name string) Principal { return Principal{&principal{system: name}} }

// IsSystem reports whether p was made by System.
func (p Principal) IsSystem() bool { return p.p != nil && p.p.system != "" }

// Anonymous reports whether nobody is known to be calling.
func (p Principal) Anonymous() bool { return p.p == nil }

// User returns the user, or nil.
func (p Principal) User() *User {
	if p.p == nil {
		return nil
	}
	return p.p.user
}

// Session returns the session of a session principal, or nil.
func (p Principal) Session() *Session {
	if p.p == nil {
		return nil
	}
	return p.p.session
}

// Key returns the API key at work: presented, or the one that the session
// was obtained with; or nil.
func (p Principal) Key() *APIKey {
	if p.p == nil {
		return nil
	}
	return p.p.key
}

// Subject returns p as policies see it.
func (p Principal) Subject() *authz.Subject {
	if p.p == nil || p.p.subject == nil {
		return authz.Anonymous
	}
	return p.p.subject
}

// Authenticate resolves c. NoCredential is anonymous and no error. A good key
// with limits has one use counted. Errors: ErrBadCredential, a key error
// (ErrKeyDisabled, ErrKeyExpired, ErrKeySuperseded, ErrOwnerBanned,
// ErrOwnerMissing, ErrRateLimited in a *RetryError, ErrUsageExceeded), ErrUnavailable.
func (s *Service) Authenticate(ctx context.Context, c Credential) (Principal, error) {
	return Principal{}, errUnimplemented
}

// Forget drops what is remembered of a row that changed. kind is "user",
// "session" or "key"; an empty id means all of the kind, an empty kind everything.
func (s *Service) Forget(kind, id string) {}

// Describe fills in what the store knows of a resource of a built-in type
// (user, session, apiKey); what the store knows wins over r's properties.
// Other types are returned as they are.
func (s *Service) Describe(ctx context.Context, r authz.Resource, action string) (authz.Resource, error) {
	return r, errUnimplemented
}

// ---- Sign-up and sign-in ----

// SignUp is a request to create one's own account.
type SignUp struct {
	Name, Email     string
	Password        Secret
	Image           *string
	Username        *string // as typed
	DisplayUsername *string
	DontRemember    bool
	Device          Device
}

// Device is where a session lives.
type Device struct{ IPAddress, UserAgent string }

// SignedIn is a new session. Session is nil where sign-up does not sign in.
type SignedIn struct {
	User    User
	Session *Session
}

// SignUp creates an account and signs in. With RequireVerifiedEmail or
// AutoSignInDisabled there is no session, and a taken email looks like
// success (User is then made up).
func (s *Service) SignUp(ctx context.Context, caller Principal, in SignUp) (SignedIn, error) {
	return SignedIn{}, errUnimplemented
}

// SignIn is a request to sign in with a password.
type SignIn struct {
	Email, Username string // one of them; Username as typed
	Password        Secret
	DontRemember    bool
	Device          Device
}

// SignIn signs in with a password. Errors: ErrBadLogin, ErrEmailNotVerified,
// ErrUserBanned, ErrThrottled in a *RetryError, ErrBusy, a denial, and those of bad input.
func (s *Service) SignIn(ctx context.Context, caller Principal, in SignIn) (SignedIn, error) {
	return SignedIn{}, errUnimplemented
}

// SignInKey exchanges the API key that caller presented for a session: one
// that carries the key's grants as they are at each use, is never fresh, and
// ends with the key.
func (s *Service) SignInKey(ctx context.Context, caller Principal, d Device) (SignedIn, error) {
	return SignedIn{}, errUnimplemented
}

// SignOut ends the caller's session, if it has one.
func (s *Service) SignOut(ctx context.Context, caller Principal) error { return errUnimplemented }

// Extend extends the caller's session if it is due (sliding expiry), and
// reports whether it did. dontRemember is the holder's wish that it not be.
func (s *Service) Extend(ctx context.Context, caller Principal, dontRemember bool) (Session, bool, error) {
	return Session{}, false, errUnimplemented
}

// ---- Sessions ----

// Sessions lists the sessions of userID (the caller's own if empty), oldest first.
// session:list. Whether tokens may be shown to caller: see ShowsTokens.
func (s *Service) Sessions(ctx context.Context, caller Principal, userID string) ([]Session, error) {
	return nil, errUnimplemented
}

// Fresh reports whether p's session stands for a recent sign-in.
func (s *Service) Fresh(p Principal) bool { return false }

// ShowsTokens reports whether session tokens of userID may be shown to p: only to the
// person's own interactive session, never to a key or through one. It is
// also false while impersonating.
func (s *Service) ShowsTokens(p Principal, userID string) bool { return false }

// RevokeSession ends the session with this token, if it belongs to userID
// (empty: to anybody, as administrators may). session:revoke. An unknown
// token is no error.
func (s *Service) RevokeSession(ctx context.Context, caller Principal, userID string, token Secret) error {
	return errUnimplemented
}

// RevokeSessionByID is RevokeSession for those who are not shown tokens.
func (s *Service) RevokeSessionByID(ctx context.Context, caller Principal, id string) error {
	return errUnimplemented
}

// RevokeSessions ends all sessions of userID; with keepOwn all but the caller's.
func (s *Service) RevokeSessions(ctx context.Context, caller Principal, userID string, keepOwn bool) error {
	return errUnimplemented
}

// ---- One's own account ----

// ChangePassword: user:change-password. With revokeOthers every session ends
// and a new one is returned.
func (s *Service) ChangePassword(ctx context.Context, caller Principal, current, next Secret, revokeOthers bool, d Device) (User, *Session, error) {
	return User{}, nil, errUnimplemented
}

// VerifyPassword checks the caller's own password: nil or ErrWrongPassword.
func (s *Service) VerifyPassword(ctx context.Context, caller Principal, password Secret) error {
	return errUnimplemented
}

// ChangeEmail: user:change-email. A taken address is silently left alone.
func (s *Service) ChangeEmail(ctx context.Context, caller Principal, email string) (User, error) {
	return User{}, errUnimplemented
}

// DeleteOwn deletes the caller's account: user:delete on oneself. Without a
// password the session must be fresh (ErrNotFresh).
func (s *Service) DeleteOwn(ctx context.Context, caller Principal, password *Secret) error {
	return errUnimplemented
}

// Accounts lists the caller's ways of signing in.
func (s *Service) Accounts(ctx context.Context, caller Principal) ([]Account, error) {
	return nil, errUnimplemented
}

// ---- Users, for those who may ----

// NewUser is a user to create.
type NewUser struct {
	Name, Email     string
	Password        Secret   // empty: no password
	Roles           []string // nil: the default role
	RolesGiven      bool     // Roles were asked for (set-role is needed), even if empty
	EmailVerified   bool
	Image           *string
	Username        *string
	DisplayUsername *string
	Banned          *bool
	BanReason       *string
	BanExpires      *time.Time
	BanGiven        bool // a ban member was asked for (ban is needed)
	CreatedAt       *time.Time
	UpdatedAt       *time.Time
	ServiceAccount  bool
	Attributes      map[string]any
}

// CreateUser: user:create, and set-role or ban where asked for.
func (s *Service) CreateUser(ctx context.Context, caller Principal, in NewUser) (User, error) {
	return User{}, errUnimplemented
}

// UserQuery selects users. Field names are those of the columns
// ("email", "createdAt", additional columns too). Search and Filter are
// combined with AND.
type UserQuery struct {
	SearchField, SearchOperator, SearchValue string // contains, starts_with, ends_with
	Filter                                   *UserFilter
	SortBy                                   string // empty: insertion order
	SortDescending                           bool
	Limit, Offset                            int // Limit 0 is 100
}

// UserFilter compares a field. Operators: eq ne lt lte gt gte in not_in
// contains starts_with ends_with. Values are text as typed, parsed by the field's type.
type UserFilter struct {
	Field, Operator string
	Values          []string
}

// Users: user:list.
func (s *Service) Users(ctx context.Context, caller Principal, q UserQuery) ([]User, int, error) {
	return nil, 0, errUnimplemented
}

// User: user:get. ErrUserNotFound.
func (s *Service) User(ctx context.Context, caller Principal, id string) (User, error) {
	return User{}, errUnimplemented
}

// FindUser is User by id or email.
func (s *Service) FindUser(ctx context.Context, caller Principal, idOrEmail string) (User, error) {
	return User{}, errUnimplemented
}

// UserChange is what to change of a user. A nil member stays as it is; a
// member that points to a nil pointer becomes NULL.
type UserChange struct {
	Name            *string
	Email           *string
	EmailVerified   *bool
	Image           **string
	Username        **string // as typed
	DisplayUsername **string
	Roles           *[]string
	Banned          *bool
	BanReason       **string
	BanExpires      **time.Time
	CreatedAt       *time.Time
	UpdatedAt       *time.Time
	Attributes      map[string]any
}

// UpdateUser: user:update, and set-role, ban, set-email for those members. An
// empty id is the caller's own.
func (s *Service) UpdateUser(ctx context.Context, caller Principal, id string, c UserChange) (User, error) {
	return User{}, errUnimplemented
}

// UsernameAvailable reports whether nobody has the username, or why nobody can.
func (s *Service) UsernameAvailable(ctx context.Context, username string) (bool, error) {
	return false, errUnimplemented
}

// CheckUsername reports what is wrong with a username as typed: nil,
// ErrUsernameShort, ErrUsernameLong or ErrUsernameInvalid.
func (s *Service) CheckUsername(username string) error { return errUnimplemented }

// SetRoles: user:set-role.
func (s *Service) SetRoles(ctx context.Context, caller Principal, id string, roles []string) (User, error) {
	return User{}, errUnimplemented
}

// SetPassword: user:set-password. The user's sessions end.
func (s *Service) SetPassword(ctx context.Context, caller Principal, id string, password Secret) error {
	return errUnimplemented
}

// Ban: user:ban. The user's sessions end. Empty reason and zero life are the defaults.
func (s *Service) Ban(ctx context.Context, caller Principal, id, reason string, life time.Duration) (User, error) {
	return User{}, errUnimplemented
}

// Unban: user:ban.
func (s *Service) Unban(ctx context.Context, caller Principal, id string) (User, error) {
	return User{}, errUnimplemented
}

// RemoveUser: user:delete. Sessions, accounts and keys go with the user.
func (s *Service) RemoveUser(ctx context.Context, caller Principal, id string) error {
	return errUnimplemented
}

// Impersonate: user:impersonate, and impersonate-admins for administrators.
func (s *Service) Impersonate(ctx context.Context, caller Principal, id string, d Device) (SignedIn, error) {
	return SignedIn{}, errUnimplemented
}

// StopImpersonating ends the caller's impersonated session and returns the
// administrator's own, whose token the caller kept.
func (s *Service) StopImpersonating(ctx context.Context, caller Principal, admin Secret) (SignedIn, error) {
	return SignedIn{}, errUnimplemented
}

// ---- API keys ----

// NewKey is a key to create. Nil members take the defaults.
type NewKey struct {
	OwnerID     string // empty: the caller
	Name        *string
	Prefix      *string
	ExpiresIn   *time.Duration
	NoExpiry    bool // explicitly never, whatever the default
	Metadata    json.RawMessage
	Permissions authz.Permissions
	Limits      KeyLimits
}

// KeyLimits are the limits of a key; nil members stay as they are.
type KeyLimits struct {
	Remaining           **int64
	RefillAmount        **int64
	RefillInterval      **int64 // milliseconds
	RateLimitEnabled    *bool
	RateLimitTimeWindow **int64 // milliseconds
	RateLimitMax        **int64
}

// CreateKey: apiKey:create on the owner. The Secret is shown this once.
func (s *Service) CreateKey(ctx context.Context, caller Principal, in NewKey) (APIKey, Secret, error) {
	return APIKey{}, "", errUnimplemented
}

// NewServiceAccount is a service account to create, and its first key.
type NewServiceAccount struct {
	Name       string
	Roles      []string
	Attributes map[string]any
	Key        *NewKey // nil: a key without grants
}

// CreateServiceAccount: user:create (and set-role), apiKey:create. Account
// and key are stored together or not at all.
func (s *Service) CreateServiceAccount(ctx context.Context, caller Principal, in NewServiceAccount) (User, APIKey, Secret, error) {
	return User{}, APIKey{}, "", errUnimplemented
}

// KeyQuery selects keys.
type KeyQuery struct {
	OwnerID        string // empty: the caller's
	ConfigID       string
	SortBy         string // a member of the wire's key object; *InvalidError if unknown
	SortDescending bool
	Limit, Offset  int // Limit negative: 100
}

// Keys: apiKey:read.
func (s *Service) Keys(ctx context.Context, caller Principal, q KeyQuery) ([]APIKey, int, error) {
	return nil, 0, errUnimplemented
}

// Key: apiKey:read. ErrKeyNotFound also for a key that caller may not know of.
func (s *Service) Key(ctx context.Context, caller Principal, id string) (APIKey, error) {
	return APIKey{}, errUnimplemented
}

// KeyChange is what to change of a key; nil members stay.
type KeyChange struct {
	OwnerID     string // if set, the key must belong to this user
	Name        *string
	Enabled     *bool
	ExpiresIn   **time.Duration // nil inside: no expiry
	Metadata    json.RawMessage
	Permissions *authz.Permissions // nil inside: none
	Limits      KeyLimits
}

// UpdateKey: apiKey:update.
func (s *Service) UpdateKey(ctx context.Context, caller Principal, id string, c KeyChange) (APIKey, error) {
	return APIKey{}, errUnimplemented
}

// RotateKey: apiKey:rotate. The old secret works overlap longer.
func (s *Service) RotateKey(ctx context.Context, caller Principal, id string, overlap time.Duration) (APIKey, Secret, error) {
	return APIKey{}, "", errUnimplemented
}

// DeleteKey: apiKey:delete.
func (s *Service) DeleteKey(ctx context.Context, caller Principal, id string) error {
	return errUnimplemented
}

// Verification is what a key was found to be.
type Verification struct {
	Err   error // nil, ErrBadCredential (unknown), a key error, or ErrInsufficient
	Key   *APIKey
	Owner *User
}

// ErrInsufficient reports that a key, or its owner, lacks a permission asked about.
var ErrInsufficient = errors.New("insufficient permissions")

// VerifyKey: apiKey:verify. It counts a use, as presenting the key would,
// unless the permissions asked about are missing.
func (s *Service) VerifyKey(ctx context.Context, caller Principal, key Secret, want authz.Permissions) (Verification, error) {
	return Verification{}, errUnimplemented
}

// DeleteEndedKeys removes keys that ended longer ago than the retention.
// It is for System callers.
func (s *Service) DeleteEndedKeys(ctx context.Context, caller Principal) (int, error) {
	return 0, errUnimplemented
}

// FlushTouches writes when keys were last used.
func (s *Service) FlushTouches(ctx context.Context) error { return errUnimplemented }
