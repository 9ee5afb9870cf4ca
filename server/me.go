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
	// Permissions hold on anything, Own on one's own account, sessions and
	// keys. Both are as enforced: narrowed by the grants of the key at work.
	Permissions authz.Permissions `json:"permissions"`
	Own         authz.Permissions `json:"own"`
	Limits      *limits           `json:"limits,omitempty"` // of the key at work
}

// me says who the caller is, never by what secret.
func (s *server) me(c *call) error {
	subject := c.caller.Subject()
	permissions, err := s.Engine.Permissions(c.ctx, subject)
	if err != nil {
		return unavailable(err)
	}
	own, err := s.Engine.OwnPermissions(c.ctx, subject)
	if err != nil {
		return unavailable(err)
	}
	now := s.Clock()
	out := me{Principal: subject.Document(now), Permissions: permissions, Own: own}
	if key := c.caller.Key(); key != nil {
		out.Limits = limitsOf(key, now)
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
}

// limitsOf tells what is left of k, after this use of it.
func limitsOf(k *authn.APIKey, now time.Time) *limits {
	l := &limits{Remaining: k.Remaining}
	if k.Remaining != nil && k.RefillAmount != nil && k.RefillInterval != nil {
		since := k.CreatedAt
		if k.LastRefillAt != nil {
			since = *k.LastRefillAt
		}
		l.Refill = &refill{*k.RefillAmount, *k.RefillInterval, stamp(since.Add(milliseconds(*k.RefillInterval)))}
	}
	if k.RateLimitEnabled && k.RateLimitMax != nil && k.RateLimitTimeWindow != nil {
		l.RateLimit = &rateLimit{Max: *k.RateLimitMax, Window: *k.RateLimitTimeWindow, Remaining: max(0, *k.RateLimitMax-k.RequestCount)}
	}
	return l
}

func milliseconds(n int64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
}
