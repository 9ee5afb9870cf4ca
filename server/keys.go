package server

import (
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// stamp is a time in the one form in which times are told: UTC, milliseconds.
type stamp time.Time

func (t stamp) MarshalJSONTo(e *jsontext.Encoder) error {
	return e.WriteToken(jsontext.String(time.Time(t).UTC().Format("2006-01-02T15:04:05.000Z")))
}

// keyDocument is the key object of the Better Auth API: all members, null
// where there is nothing.
type keyDocument struct {
	ID                  string             `json:"id"`
	ConfigID            string             `json:"configId"`
	Name                *string            `json:"name"`
	Start               *string            `json:"start"`
	Prefix              *string            `json:"prefix"`
	ReferenceID         string             `json:"referenceId"`
	Enabled             bool               `json:"enabled"`
	CreatedAt           stamp              `json:"createdAt"`
	UpdatedAt           stamp              `json:"updatedAt"`
	ExpiresAt           *stamp             `json:"expiresAt"`
	Permissions         *authz.Permissions `json:"permissions"`
	Metadata            jsontext.Value     `json:"metadata"`
	RateLimitEnabled    bool               `json:"rateLimitEnabled"`
	RateLimitTimeWindow *int64             `json:"rateLimitTimeWindow"`
	RateLimitMax        *int64             `json:"rateLimitMax"`
	RequestCount        int64              `json:"requestCount"`
	LastRequest         *stamp             `json:"lastRequest"`
	Remaining           *int64             `json:"remaining"`
	RefillInterval      *int64             `json:"refillInterval"`
	RefillAmount        *int64             `json:"refillAmount"`
	LastRefillAt        *stamp             `json:"lastRefillAt"`

	// Secret is there once, in the answer to the call that made the key.
	Secret string `json:"key,omitempty"`
}

func documentOfKey(k *authn.APIKey) *keyDocument {
	d := &keyDocument{
		ID: k.ID, ConfigID: k.ConfigID, Name: k.Name, Start: k.Start, Prefix: k.Prefix, ReferenceID: k.OwnerID,
		Enabled: k.Enabled, CreatedAt: stamp(k.CreatedAt), UpdatedAt: stamp(k.UpdatedAt), ExpiresAt: (*stamp)(k.ExpiresAt),
		Metadata: jsontext.Value(k.Metadata), RateLimitEnabled: k.RateLimitEnabled, RateLimitTimeWindow: k.RateLimitTimeWindow,
		RateLimitMax: k.RateLimitMax, RequestCount: k.RequestCount, LastRequest: (*stamp)(k.LastRequest), Remaining: k.Remaining,
		RefillInterval: k.RefillInterval, RefillAmount: k.RefillAmount, LastRefillAt: (*stamp)(k.LastRefillAt),
	}
	if k.Permissions != nil {
		d.Permissions = &k.Permissions
	}
	if len(d.Metadata) == 0 {
		d.Metadata = jsontext.Value("null")
	}
	return d
}

// userDocument is the user object of the Better Auth API, and what is ours of it.
type userDocument struct {
	ID              string         `json:"id"`
	Name            string         `json:"name"`
	Email           string         `json:"email"`
	EmailVerified   bool           `json:"emailVerified"`
	Image           *string        `json:"image"`
	CreatedAt       stamp          `json:"createdAt"`
	UpdatedAt       stamp          `json:"updatedAt"`
	Username        *string        `json:"username"`
	DisplayUsername *string        `json:"displayUsername"`
	Role            *string        `json:"role"`
	Banned          bool           `json:"banned"`
	BanReason       *string        `json:"banReason"`
	BanExpires      *stamp         `json:"banExpires"`
	ServiceAccount  bool           `json:"serviceAccount"`
	Attributes      map[string]any `json:"attributes"`
}

func documentOfUser(u *authn.User) *userDocument {
	return &userDocument{
		ID: u.ID, Name: u.Name, Email: u.Email, EmailVerified: u.EmailVerified, Image: u.Image,
		CreatedAt: stamp(u.CreatedAt), UpdatedAt: stamp(u.UpdatedAt), Username: u.Username, DisplayUsername: u.DisplayUsername,
		Role: u.Role, Banned: u.Banned, BanReason: u.BanReason, BanExpires: (*stamp)(u.BanExpires),
		ServiceAccount: u.ServiceAccount, Attributes: u.Attributes,
	}
}

type verifyKeyRequest struct {
	Key         field[string]            `json:"key"`
	Permissions field[authz.Permissions] `json:"permissions"`
}

type verifyKeyResponse struct {
	Valid bool          `json:"valid"`
	Code  string        `json:"code"`
	Key   *keyDocument  `json:"key"`
	User  *userDocument `json:"user"`
	// RetryAfter is with RATE_LIMITED: seconds until the window ends.
	RetryAfter int `json:"retryAfter,omitzero"`
}

// verdicts words what a key was found to be.
var verdicts = []struct {
	err  error
	code string
}{
	{authn.ErrKeyDisabled, "DISABLED"},
	{authn.ErrKeyExpired, "EXPIRED"},
	{authn.ErrKeySuperseded, "SUPERSEDED"},
	{authn.ErrOwnerBanned, "OWNER_BANNED"},
	{authn.ErrRateLimited, "RATE_LIMITED"},
	{authn.ErrUsageExceeded, "USAGE_EXCEEDED"},
	{authn.ErrInsufficient, "INSUFFICIENT_PERMISSIONS"},
	// A key whose owner is gone opens nothing and belongs to nobody.
	{authn.ErrOwnerMissing, "NOT_FOUND"},
	{authn.ErrBadCredential, "NOT_FOUND"},
}

// verifyKey tells a service what a key that it was shown is worth.
func (s *server) verifyKey(c *call) error {
	in, err := decode[verifyKeyRequest](s, c)
	if err != nil {
		return err
	}
	if in.Key.value == "" {
		return invalid("/key", "is required")
	}
	if err := validGrants("/permissions", in.Permissions.value); err != nil {
		return err
	}
	v, err := s.Authn.VerifyKey(c.ctx, c.caller, authn.Secret(in.Key.value), in.Permissions.value)
	if err != nil {
		return err
	}
	out := verifyKeyResponse{Valid: v.Err == nil, Code: "VALID"}
	if v.Err != nil {
		out.Code = ""
		for _, verdict := range verdicts {
			if errors.Is(v.Err, verdict.err) {
				out.Code = verdict.code
				break
			}
		}
		if out.Code == "" {
			return v.Err // not about the key
		}
		if retry, ok := errors.AsType[*authn.RetryError](v.Err); ok {
			out.RetryAfter = int(math.Ceil(retry.In.Seconds()))
		}
	}
	if out.Code != "NOT_FOUND" {
		if v.Key != nil {
			out.Key = documentOfKey(v.Key)
		}
		if v.Owner != nil {
			out.User = documentOfUser(v.Owner)
		}
	}
	return answer(c.w, http.StatusOK, out)
}

// validGrants refuses grants that name nothing.
func validGrants(at string, grants authz.Permissions) error {
	for t, actions := range grants {
		pointer := jsontext.Pointer(at).AppendToken(t)
		if t == "" {
			return invalid(at, "must not name an empty type")
		}
		for _, a := range actions {
			if a == "" {
				return invalid(string(pointer), "must not name an empty action")
			}
		}
	}
	return nil
}

type serviceAccountRequest struct {
	Name       field[string] `json:"name"`
	Role       roles         `json:"role"`
	Attributes object        `json:"attributes"`
	Key        field[newKey] `json:"key"`
}

// roles is one role or a list of them.
type roles struct {
	names []string
	set   bool
}

func (r *roles) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	r.set = true
	if d.PeekKind() == '"' {
		token, err := d.ReadToken()
		if err != nil {
			return err
		}
		r.names = []string{token.String()}
		return nil
	}
	if d.PeekKind() != '[' {
		return wrongType(d, "must be a role or a list of roles")
	}
	return json.UnmarshalDecode(d, &r.names)
}

type newKey struct {
	Name                field[string]            `json:"name"`
	Prefix              field[string]            `json:"prefix"`
	ExpiresIn           nullable[float64]        `json:"expiresIn"` // seconds
	Metadata            jsontext.Value           `json:"metadata"`
	Permissions         field[authz.Permissions] `json:"permissions"`
	Remaining           nullable[int64]          `json:"remaining"`
	RefillAmount        nullable[int64]          `json:"refillAmount"`
	RefillInterval      nullable[int64]          `json:"refillInterval"` // milliseconds
	RateLimitEnabled    field[bool]              `json:"rateLimitEnabled"`
	RateLimitTimeWindow nullable[int64]          `json:"rateLimitTimeWindow"` // milliseconds
	RateLimitMax        nullable[int64]          `json:"rateLimitMax"`
}

// key checks k and words it for package authn. at is where it stands.
func (k *newKey) key(at string) (*authn.NewKey, error) {
	out := &authn.NewKey{Permissions: k.Permissions.value}
	if err := validGrants(at+"/permissions", k.Permissions.value); err != nil {
		return nil, err
	}
	if k.Name.set {
		out.Name = &k.Name.value
	}
	if k.Prefix.set {
		out.Prefix = &k.Prefix.value
	}
	if len(k.Metadata) > 0 && k.Metadata.Kind() != 'n' {
		out.Metadata = []byte(k.Metadata)
	}
	if e := k.ExpiresIn; e.set {
		switch {
		case e.value == nil:
			out.NoExpiry = true
		case *e.value < 1 || *e.value > math.MaxInt64/float64(time.Second)/2:
			return nil, invalid(at+"/expiresIn", "must be at least 1 second")
		default:
			d := time.Duration(*e.value * float64(time.Second))
			out.ExpiresIn = &d
		}
	}
	for _, n := range []struct {
		name string
		low  int64
		from *nullable[int64]
		to   ***int64
	}{
		{"/remaining", 0, &k.Remaining, &out.Limits.Remaining},
		{"/refillAmount", 1, &k.RefillAmount, &out.Limits.RefillAmount},
		{"/refillInterval", 1, &k.RefillInterval, &out.Limits.RefillInterval},
		{"/rateLimitTimeWindow", 1, &k.RateLimitTimeWindow, &out.Limits.RateLimitTimeWindow},
		{"/rateLimitMax", 1, &k.RateLimitMax, &out.Limits.RateLimitMax},
	} {
		if !n.from.set {
			continue
		}
		if v := n.from.value; v != nil && (*v < n.low || *v > 1<<53) {
			return nil, invalid(at+n.name, "must be at least %d", n.low)
		}
		*n.to = &n.from.value
	}
	if k.RateLimitEnabled.set {
		out.Limits.RateLimitEnabled = &k.RateLimitEnabled.value
	}
	return out, nil
}

// createServiceAccount makes an account that is no person, and its first key.
func (s *server) createServiceAccount(c *call) error {
	in, err := decode[serviceAccountRequest](s, c)
	if err != nil {
		return err
	}
	if in.Name.value == "" {
		return invalid("/name", "is required")
	}
	account := authn.NewServiceAccount{Name: in.Name.value, Attributes: in.Attributes}
	if in.Role.set {
		account.Roles = in.Role.names
		for _, role := range in.Role.names {
			if role == "" {
				return invalid("/role", "must not be empty")
			}
		}
	}
	if in.Key.set {
		if account.Key, err = in.Key.value.key("/key"); err != nil {
			return err
		}
	}
	user, key, secret, err := s.Authn.CreateServiceAccount(c.ctx, c.caller, account)
	if err != nil {
		return err
	}
	shown := documentOfKey(&key)
	shown.Secret = secret.Reveal()
	return answer(c.w, http.StatusCreated, struct {
		User *userDocument `json:"user"`
		Key  *keyDocument  `json:"key"`
	}{documentOfUser(&user), shown})
}
