package authn

import (
	"context"
	"time"

	"github.com/ostiary/ostiary/audit"
)

// Store is what Service needs from storage. Every method that takes an
// [audit.Event] commits the change and the event together or not at all, and
// notes the new revision in the context's [audit.Receipt]. Reads of unknown
// rows answer ErrNotFound; a duplicate answers *[ConflictError]; a store that
// can't be reached answers an error that is ErrUnavailable.
type Store interface {
	UserStore
	SessionStore
	KeyStore
	// NewID makes the id of a "user", "session" or "key" that is to be created.
	// Ids are texts; what can be none of a row is the id of an unknown row.
	NewID(ctx context.Context, kind string) (string, error)
}

// UserStore keeps users and their accounts.
type UserStore interface {
	User(ctx context.Context, id string) (User, error)
	UserByEmail(ctx context.Context, email string) (User, error)       // exact; callers lower-case
	UserByUsername(ctx context.Context, username string) (User, error) // exact; callers normalise
	// Users returns one page and the number of all matches.
	Users(ctx context.Context, q UserQuery) ([]User, int, error)
	// UsersAfter returns the users whose ids are greater than after, ascending
	// byte by byte, at most limit.
	UsersAfter(ctx context.Context, after string, limit int) ([]User, error)
	// OtherAdmin reports whether a user other than id, not banned, has one
	// of the roles or one of the ids of r.
	OtherAdmin(ctx context.Context, id string, r AdminRule) (bool, error)
	// Holders returns the users, banned ones too, that have one of the roles or
	// one of the ids of r, at most limit. The role "" is that of users who have
	// none.
	Holders(ctx context.Context, r AdminRule, limit int) ([]User, error)

	// CreateUser stores u and, unless passwordHash is empty, its credential
	// account.
	CreateUser(ctx context.Context, u User, passwordHash string, ev audit.Event) error
	// UpdateUser reads the user, lets change change it and writes back what
	// differs, in one transaction. An error of change rolls back and is
	// returned as it is. Attributes without a column of that name are ignored.
	UpdateUser(ctx context.Context, id string, change func(*User) error, also UserEffects, ev audit.Event) (User, error)
	// DeleteUser removes the user with sessions, accounts and keys.
	DeleteUser(ctx context.Context, id string, keep *AdminRule, ev audit.Event) error

	Accounts(ctx context.Context, userID string) ([]Account, error)
	// Password returns the stored hash of the user's credential account;
	// ErrNotFound if there is no such account or no hash in it.
	Password(ctx context.Context, userID string) (string, error)
	// SetPassword replaces or creates the credential account.
	SetPassword(ctx context.Context, userID, hash string, also UserEffects, ev audit.Event) error
}

// AdminRule says who counts as an administrator.
type AdminRule struct{ Roles, IDs []string }

// UserEffects is what else happens in the transaction of a change to a user.
type UserEffects struct {
	// EndSessions deletes all the user's sessions, except the one with the
	// token KeepSession.
	EndSessions bool
	KeepSession Secret
	// NewSession, if set, is created in the same transaction, after EndSessions.
	NewSession *Session
	// KeepAdmin, if set, makes the change fail with ErrLastAdmin (and roll
	// back) if the user was a not-banned administrator by the rule before and,
	// after the change, no user is. Two such changes at once cannot both win.
	KeepAdmin *AdminRule
}

// SessionStore keeps sessions.
type SessionStore interface {
	// SessionByToken returns the session, its user, and the key that it was
	// obtained with, in one round trip. key is nil if it was obtained without
	// one; a key that no longer exists makes it ErrNotFound.
	SessionByToken(ctx context.Context, token Secret) (s Session, u User, key *APIKey, err error)
	Session(ctx context.Context, id string) (Session, error)
	// Sessions lists a user's sessions, oldest first, expired ones included.
	Sessions(ctx context.Context, userID string) ([]Session, error)
	CreateSession(ctx context.Context, s Session, ev audit.Event) error
	// ExtendSession moves the end of a live session. It is no event.
	ExtendSession(ctx context.Context, id string, expiresAt, updatedAt time.Time) error
	// DeleteSessions removes what f selects and reports how many there were;
	// with none, no event is written.
	DeleteSessions(ctx context.Context, f SessionFilter, ev audit.Event) (int, error)
}

// SessionFilter selects sessions. The zero filter selects none; set members
// are combined with AND.
type SessionFilter struct {
	ID       string
	Token    Secret
	UserID   string
	NotToken Secret
}

// KeyStore keeps API keys.
type KeyStore interface {
	// KeyByDigest returns the key whose current or superseded secret has this
	// digest, with its owner, in one round trip. A key whose owner does not
	// exist is returned with a zero User. If the digest is that of a
	// superseded secret, supersededAt is when it stops working.
	KeyByDigest(ctx context.Context, digest string) (k APIKey, owner User, supersededAt *time.Time, err error)
	Key(ctx context.Context, id string) (APIKey, error)
	// Keys returns one page and the number of all matches.
	Keys(ctx context.Context, q KeyQuery) ([]APIKey, int, error)
	CreateKey(ctx context.Context, k APIKey, ev audit.Event) error
	// CreateServiceAccount stores the account and its first key in one
	// transaction.
	CreateServiceAccount(ctx context.Context, u User, k *APIKey, evs []audit.Event) error
	// UpdateKey is as UpdateUser.
	UpdateKey(ctx context.Context, id string, change func(*APIKey) error, ev audit.Event) (APIKey, error)
	// RotateKey gives the key a new digest and start; the old digest works
	// until overlapEnds and is remembered as superseded after that.
	RotateKey(ctx context.Context, id, digest string, start *string, overlapEnds time.Time, ev audit.Event) (APIKey, error)
	DeleteKey(ctx context.Context, id string, ev audit.Event) error
	// DeleteKeysExpiredBefore removes keys that ended before t, and digests
	// superseded before t.
	DeleteKeysExpiredBefore(ctx context.Context, t time.Time, ev audit.Event) (int, error)

	// SpendKey counts uses of the key at now, at least one and at most most,
	// exactly, however many do so at once: first the rate limit, then the
	// quota; a refusal by one leaves the other untouched. It never grants more
	// than [Portion] of what both still allow. See [Spend] for the outcome.
	SpendKey(ctx context.Context, id string, now time.Time, most int64) (Spend, error)
	// ReturnUses takes back what was granted and not used, as far as nobody
	// set the limits, or the limits' own time ran out, since. Keys that are gone
	// are passed over.
	ReturnUses(ctx context.Context, unused []Unused) error
	// TouchKeys notes when keys were last used. It never moves a time back.
	TouchKeys(ctx context.Context, used map[string]time.Time) error
}

// Spend is the outcome of counting uses.
type Spend struct {
	Granted int64         // how many; 0 if refused
	Refused error         // nil, ErrRateLimited or ErrUsageExceeded
	RetryIn time.Duration // with ErrRateLimited: until the window ends
	Key     APIKey        // after all of them
	// Limits changes whenever somebody sets the limits, rather than counts.
	Limits int64
	// WindowEnds is when the rate limit's window ends; zero without a limit.
	WindowEnds time.Time
}

// Unused is what is left of uses that were granted.
type Unused struct {
	KeyID string
	Uses  int64
	// As in the Spend that granted them.
	Limits       int64
	WindowEnds   time.Time
	LastRefillAt *time.Time
}

// maxPortion is the most uses that are granted at once.
const maxPortion = 256

// Portion is how many uses may be granted at once when this many are left: few
// enough that those that lie unused somewhere don't matter, and one by one
// when it comes to the last.
func Portion(left int64) int64 { return min(max(1, left/64), maxPortion) }
