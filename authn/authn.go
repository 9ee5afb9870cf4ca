// Package authn establishes who is calling.
//
// A request presents a [Credential]. [Service.Authenticate] turns it into a
// [Principal] or refuses it. Nothing else makes a Principal that stands for
// somebody, so holding one is proof. What is merely said about somebody is an
// [authz.Subject] and can never be taken for the caller.
//
// Every managing method takes the caller and asks the engine whether that
// caller may, so HTTP, the SDK and the command line meet the same rule in the
// same line. A program that acts in its own name says so with [System].
//
// # Secrets
//
// Of keys only digests are stored; of passwords, scrypt hashes. A [Secret]
// leaves this package when it is issued, and prints, logs and marshals as
// "[redacted]".
//
// # Caching
//
// Principals are remembered by the digest of their credential. Each change to
// a user, session or key forgets what was built on it: after the commit, and
// before the method that changed it returns. Changes made by others arrive
// through [Service.Forget].
package authn

import (
	"encoding/json"
	"log/slog"
	"time"

	"github.com/ostiary/ostiary/authz"
)

// Secret is text that must not be seen: it prints, logs and marshals as
// "[redacted]".
type Secret string

const redacted = "[redacted]"

func (s Secret) String() string               { return redacted }
func (s Secret) GoString() string             { return redacted }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// Reveal returns the text itself.
func (s Secret) Reveal() string { return string(s) }

// User is a person or a service account. Nil members are NULL in the store.
// Times have millisecond precision and are UTC.
type User struct {
	ID              string
	Name            string
	Email           string // lower case
	EmailVerified   bool
	Image           *string
	CreatedAt       time.Time
	UpdatedAt       time.Time
	Username        *string // normalised
	DisplayUsername *string
	Role            *string // comma-separated; nil is the default role
	Banned          bool
	BanReason       *string
	BanExpires      *time.Time
	ServiceAccount  bool
	// Attributes are the additional columns of the user table, and what a
	// service account was created with. JSON values.
	Attributes map[string]any
}

// BannedAt reports whether a ban is in force at t.
func (u *User) BannedAt(t time.Time) bool {
	return u.Banned && (u.BanExpires == nil || u.BanExpires.After(t))
}

// Account is a way of signing in. Only password accounts
// (ProviderID "credential") are made here.
type Account struct {
	ID, ProviderID, AccountID, UserID string
	CreatedAt, UpdatedAt              time.Time
}

// Session is a signed-in browser or device.
type Session struct {
	ID             string
	Token          Secret
	UserID         string
	CreatedAt      time.Time
	UpdatedAt      time.Time
	ExpiresAt      time.Time
	IPAddress      *string
	UserAgent      *string
	ImpersonatedBy *string // the administrator's user id
	// KeyID and KeyDigest name the API key, and the very secret of it, that
	// the session was obtained with. Empty otherwise.
	KeyID, KeyDigest string
	// Fixed sessions do not slide: they end at ExpiresAt however much they
	// are used (don't-remember, impersonation, from a key).
	Fixed bool
	// NotFresh sessions never stand for a recent sign-in.
	NotFresh bool
}

// APIKey is a key without its secret.
type APIKey struct {
	ID                  string
	ConfigID            string
	OwnerID             string // column referenceId
	Name                *string
	Start               *string // the first characters of the secret
	Prefix              *string
	Digest              string // base64url SHA-256 of the secret
	Enabled             bool
	CreatedAt           time.Time
	UpdatedAt           time.Time
	ExpiresAt           *time.Time
	Permissions         authz.Permissions // nil: none were given
	Metadata            json.RawMessage   // any JSON; nil is null
	RateLimitEnabled    bool
	RateLimitTimeWindow *int64 // milliseconds
	RateLimitMax        *int64
	RequestCount        int64 // in the current window
	LastRequest         *time.Time
	Remaining           *int64 // nil: unlimited
	RefillInterval      *int64 // milliseconds
	RefillAmount        *int64
	LastRefillAt        *time.Time
}

// Limited reports whether a use of the key has to be counted.
func (k *APIKey) Limited() bool {
	return k.Remaining != nil ||
		k.RateLimitEnabled && k.RateLimitTimeWindow != nil && k.RateLimitMax != nil
}
