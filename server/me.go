package server

import (
	"math"
	"net/http"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

type me struct {
	// Principal is what policies read as input.principal.
	Principal map[string]any `json:"principal"`
	permitted
	Limits *limits `json:"limits,omitempty"` // of the key at work
}

// permitted is what somebody may do, as enforced: narrowed by the grants of the
// key at work.
type permitted struct {
	Permissions authz.Permissions `json:"permissions"` // on anything
	Own         authz.Permissions `json:"own"`         // on one's own account, sessions and keys
}

func (s *server) permitted(c *call, who *authz.Subject) (p permitted, err error) {
	if p.Permissions, err = s.Engine.Permissions(c.ctx, who); err == nil {
		p.Own, err = s.Engine.OwnPermissions(c.ctx, who)
	}
	if err != nil {
		return permitted{}, unavailable(err)
	}
	return p, nil
}

// me says who the caller is, never by what secret.
func (s *server) me(c *call) error {
	subject := c.caller.Subject()
	may, err := s.permitted(c, subject)
	if err != nil {
		return err
	}
	out := me{Principal: subject.Document(s.Clock()), permitted: may}
	// What is left is known where a use was just counted.
	if subject.Identity().Credential == authz.CredentialAPIKey {
		out.Limits = limitsOf(c.caller)
	}
	return answer(c.w, http.StatusOK, out)
}

type limits struct {
	Remaining *int64     `json:"remaining"` // null: unlimited
	Refill    *refill    `json:"refill"`
	RateLimit *rateLimit `json:"rateLimit"`
}

type refill struct {
	Amount   int64 `json:"amount"`
	Interval int64 `json:"interval"` // milliseconds
	At       stamp `json:"at"`       // from when on the next use refills
}

type rateLimit struct {
	Max       int64 `json:"max"`
	Window    int64 `json:"window"` // milliseconds
	Remaining int64 `json:"remaining"`
	ResetsAt  stamp `json:"resetsAt"`
}

// limitsOf tells what is left of the caller's key, after this use of it.
func limitsOf(caller authn.Principal) *limits {
	k := caller.Key()
	l := &limits{Remaining: k.Remaining}
	if k.Remaining != nil && k.RefillAmount != nil && k.RefillInterval != nil {
		since := k.CreatedAt
		if k.LastRefillAt != nil {
			since = *k.LastRefillAt
		}
		l.Refill = &refill{*k.RefillAmount, *k.RefillInterval, stamp(since.Add(milliseconds(*k.RefillInterval)))}
	}
	if ends := caller.WindowEnds(); !ends.IsZero() {
		l.RateLimit = &rateLimit{*k.RateLimitMax, *k.RateLimitTimeWindow, max(0, *k.RateLimitMax-k.RequestCount), stamp(ends)}
	}
	return l
}

func milliseconds(n int64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
}
