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
	"github.com/ostiary/ostiary/server/betterauth"
)

// stamp is a time in the one form in which times are told: UTC, milliseconds.
type stamp time.Time

func (t stamp) MarshalJSONTo(e *jsontext.Encoder) error {
	return e.WriteToken(jsontext.String(time.Time(t).UTC().Format("2006-01-02T15:04:05.000Z")))
}

// userDocument is the user object of the Better Auth API, and what is ours of it.
type userDocument struct {
	betterauth.UserObject
	ServiceAccount bool           `json:"serviceAccount"`
	Attributes     map[string]any `json:"attributes"`
}

func documentOfUser(u *authn.User) *userDocument {
	return &userDocument{betterauth.NewUserObject(*u), u.ServiceAccount, u.Attributes}
}

type verifyKeyRequest struct {
	Key         field[string]            `json:"key"`
	Permissions field[authz.Permissions] `json:"permissions"`
}

type verifyKeyResponse struct {
	Valid bool                  `json:"valid"`
	Code  string                `json:"code"`
	Key   *betterauth.KeyObject `json:"key"`
	User  *userDocument         `json:"user"`
	// RetryAfter is with RATE_LIMITED: seconds until the window ends.
	RetryAfter int `json:"retryAfter,omitzero"`
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
	out := verifyKeyResponse{Valid: v.Err == nil, Code: v.Code()}
	if out.Code == "" {
		return v.Err
	}
	if retry, ok := errors.AsType[*authn.RetryError](v.Err); ok {
		out.RetryAfter = int(math.Ceil(retry.In.Seconds()))
	}
	if out.Code != "NOT_FOUND" {
		if v.Key != nil {
			shown := betterauth.NewKeyObject(*v.Key, "")
			out.Key = &shown
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
	return answer(c.w, http.StatusCreated, struct {
		User *userDocument        `json:"user"`
		Key  betterauth.KeyObject `json:"key"`
	}{documentOfUser(&user), betterauth.NewKeyObject(key, secret)})
}
