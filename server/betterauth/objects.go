package betterauth

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/ostiary/ostiary/authn"
)

// date is a time as JavaScript writes it.
type date time.Time

const dateLayout = "2006-01-02T15:04:05.000Z"

func (d date) MarshalText() ([]byte, error) {
	return time.Time(d).UTC().AppendFormat(nil, dateLayout), nil
}

// MarshalJSONTo is MarshalText without an allocation, for the package that answers.
func (d date) MarshalJSONTo(e *jsontext.Encoder) error {
	return e.WriteValue(time.Time(d).UTC().AppendFormat(e.AvailableBuffer(), `"`+dateLayout+`"`))
}

func dateOrNull(t *time.Time) *date {
	if t == nil {
		return nil
	}
	d := date(*t)
	return &d
}

// UserObject is a user as the API shows it: every column, null where it is empty.
type UserObject struct {
	Name            string  `json:"name"`
	Email           string  `json:"email"`
	EmailVerified   bool    `json:"emailVerified"`
	Image           *string `json:"image"`
	CreatedAt       date    `json:"createdAt"`
	UpdatedAt       date    `json:"updatedAt"`
	Username        *string `json:"username"`
	DisplayUsername *string `json:"displayUsername"`
	Role            *string `json:"role"`
	Banned          bool    `json:"banned"`
	BanReason       *string `json:"banReason"`
	BanExpires      *date   `json:"banExpires"`
	ID              string  `json:"id"`
}

// NewUserObject shows u.
func NewUserObject(u authn.User) UserObject {
	return UserObject{
		Name: u.Name, Email: u.Email, EmailVerified: u.EmailVerified, Image: u.Image,
		CreatedAt: date(u.CreatedAt), UpdatedAt: date(u.UpdatedAt),
		Username: u.Username, DisplayUsername: u.DisplayUsername,
		Role: u.Role, Banned: u.Banned, BanReason: u.BanReason, BanExpires: dateOrNull(u.BanExpires), ID: u.ID,
	}
}

type sessionObject struct {
	ExpiresAt      date    `json:"expiresAt"`
	Token          string  `json:"token"`
	CreatedAt      date    `json:"createdAt"`
	UpdatedAt      date    `json:"updatedAt"`
	IPAddress      *string `json:"ipAddress"`
	UserAgent      *string `json:"userAgent"`
	UserID         string  `json:"userId"`
	ImpersonatedBy *string `json:"impersonatedBy"`
	ID             string  `json:"id"`
}

// newSessionObject shows the token only if showToken; else the id stands in
// for it.
func newSessionObject(s authn.Session, showToken bool) sessionObject {
	o := sessionObject{
		ExpiresAt: date(s.ExpiresAt), Token: s.ID, CreatedAt: date(s.CreatedAt), UpdatedAt: date(s.UpdatedAt),
		IPAddress: s.IPAddress, UserAgent: s.UserAgent, UserID: s.UserID, ImpersonatedBy: s.ImpersonatedBy, ID: s.ID,
	}
	if showToken {
		o.Token = s.Token.Reveal()
	}
	return o
}

// virtualSession is what get-session answers to an API key.
type virtualSession struct {
	ID        string  `json:"id"`
	Token     string  `json:"token"`
	UserID    string  `json:"userId"`
	UserAgent *string `json:"userAgent"`
	IPAddress *string `json:"ipAddress"`
	CreatedAt date    `json:"createdAt"`
	UpdatedAt date    `json:"updatedAt"`
	ExpiresAt date    `json:"expiresAt"`
}

// KeyObject is an API key as the API shows it: every member, null where it is
// empty.
type KeyObject struct {
	ConfigID            string         `json:"configId"`
	Name                *string        `json:"name"`
	Start               *string        `json:"start"`
	ReferenceID         string         `json:"referenceId"`
	Prefix              *string        `json:"prefix"`
	Key                 string         `json:"key,omitempty"` // the secret, when it was just made
	RefillInterval      *int64         `json:"refillInterval"`
	RefillAmount        *int64         `json:"refillAmount"`
	LastRefillAt        *date          `json:"lastRefillAt"`
	Enabled             bool           `json:"enabled"`
	RateLimitEnabled    bool           `json:"rateLimitEnabled"`
	RateLimitTimeWindow *int64         `json:"rateLimitTimeWindow"`
	RateLimitMax        *int64         `json:"rateLimitMax"`
	RequestCount        int64          `json:"requestCount"`
	Remaining           *int64         `json:"remaining"`
	LastRequest         *date          `json:"lastRequest"`
	ExpiresAt           *date          `json:"expiresAt"`
	CreatedAt           date           `json:"createdAt"`
	UpdatedAt           date           `json:"updatedAt"`
	Permissions         any            `json:"permissions"` // null or an object
	Metadata            jsontext.Value `json:"metadata"`
	ID                  string         `json:"id"`
}

// NewKeyObject shows k. secret is shown with it where it was just made, and
// empty otherwise.
func NewKeyObject(k authn.APIKey, secret authn.Secret) KeyObject {
	o := KeyObject{
		ConfigID: k.ConfigID, Name: k.Name, Start: k.Start, ReferenceID: k.OwnerID, Prefix: k.Prefix, Key: secret.Reveal(),
		RefillInterval: k.RefillInterval, RefillAmount: k.RefillAmount, LastRefillAt: dateOrNull(k.LastRefillAt),
		Enabled: k.Enabled, RateLimitEnabled: k.RateLimitEnabled, RateLimitTimeWindow: k.RateLimitTimeWindow,
		RateLimitMax: k.RateLimitMax, RequestCount: k.RequestCount, Remaining: k.Remaining,
		LastRequest: dateOrNull(k.LastRequest), ExpiresAt: dateOrNull(k.ExpiresAt),
		CreatedAt: date(k.CreatedAt), UpdatedAt: date(k.UpdatedAt),
		Metadata: jsontext.Value("null"), ID: k.ID,
	}
	if k.Permissions != nil {
		o.Permissions = k.Permissions
	}
	if len(k.Metadata) > 0 {
		o.Metadata = jsontext.Value(k.Metadata)
	}
	return o
}

type accountObject struct {
	AccountID  string   `json:"accountId"`
	ProviderID string   `json:"providerId"`
	UserID     string   `json:"userId"`
	CreatedAt  date     `json:"createdAt"`
	UpdatedAt  date     `json:"updatedAt"`
	ID         string   `json:"id"`
	Scopes     []string `json:"scopes"`
}

type statusObject struct {
	Status bool `json:"status"`
}

type successObject struct {
	Success bool `json:"success"`
}

type userAnswer struct {
	User UserObject `json:"user"`
}

type sessionAnswer struct {
	Session sessionObject `json:"session"`
	User    UserObject    `json:"user"`
}
