package authn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/ostiary/ostiary/authz"
)

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

	// Enrich, if set, tells the application's own attributes of a user: roles per
	// feature, the id of a profile. who is what policies see of them so far, and
	// must not be changed. What it returns overlays the stored attributes in
	// input.principal.user.attributes, for callers and for those whom somebody
	// names alike; it is copied, has to be JSON, and is remembered as long as the
	// user is: [Service.Forget] with "user" and an id has it asked again.
	//
	// It is given EnrichDeadline (default 1s) and ought to return when ctx ends: it
	// is waited for no longer, but a call that goes on, which nothing can end, counts
	// among the 128 that there are at once. Searches ask about several users at once. While it fails,
	// is late or panics, the user is not known: ErrUnavailable, never allowed.
	Enrich         func(ctx context.Context, who authz.Identity) (map[string]any, error)
	EnrichDeadline time.Duration

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
	Length               int           // of what follows a prefix that is not ours, at least; default 64, at most 256
	DefaultLife          time.Duration // default: none
	MinLife, MaxLife     time.Duration // default 1 day, 365 days
	ExpiryFixed          bool          // refuse a chosen expiry
	MetadataDisabled     bool
	DefaultPermissions   authz.Permissions
	// A key without its own limit gets this one; zero is none. With
	// RateLimitDisabled it is not in force unless the key says so.
	RateLimitDisabled bool
	RateLimitMax      int64
	RateLimitWindow   time.Duration
	Retention         time.Duration // ended keys are kept this long; default 90 days
}

const day = 24 * time.Hour

// setDefaults fills in what is missing and reports every mistake.
func (o *Options) setDefaults() error {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.SessionLife = cmp.Or(o.SessionLife, 7*day)
	o.SessionUpdateAge = cmp.Or(o.SessionUpdateAge, day)
	if o.FreshAge == nil {
		o.FreshAge = new(time.Duration)
		*o.FreshAge = day
	}
	o.ShortSessionLife = cmp.Or(o.ShortSessionLife, day)
	o.ImpersonationLife = cmp.Or(o.ImpersonationLife, time.Hour)
	o.DefaultRole = cmp.Or(o.DefaultRole, "user")
	if o.AdminRoles == nil {
		o.AdminRoles = []string{"admin"}
	}
	o.DefaultBanReason = cmp.Or(o.DefaultBanReason, "No reason")
	o.PasswordMin = cmp.Or(o.PasswordMin, 8)
	o.PasswordMax = cmp.Or(o.PasswordMax, 128)
	o.UsernameMin = cmp.Or(o.UsernameMin, 3)
	o.UsernameMax = cmp.Or(o.UsernameMax, 30)
	o.HashMemory = max(cmp.Or(o.HashMemory, 256<<20), hashMemory)
	o.HashWait = cmp.Or(o.HashWait, 5*time.Second)
	o.FailuresPerAccount = cmp.Or(o.FailuresPerAccount, 10)
	o.FailuresPerAddress = cmp.Or(o.FailuresPerAddress, 100)
	o.FailureWindow = cmp.Or(o.FailureWindow, 15*time.Minute)
	o.EnrichDeadline = cmp.Or(o.EnrichDeadline, time.Second)
	o.CacheSize = cmp.Or(o.CacheSize, 100_000)
	o.CacheTTL = cmp.Or(o.CacheTTL, time.Minute)
	k := &o.Keys
	if k.Prefix == nil {
		k.Prefix = new(string)
		*k.Prefix = keyPrefix
	}
	k.NameMin = cmp.Or(k.NameMin, 1)
	k.NameMax = cmp.Or(k.NameMax, 32)
	k.PrefixMin = cmp.Or(k.PrefixMin, 1)
	k.PrefixMax = cmp.Or(k.PrefixMax, 32)
	k.StartLength = cmp.Or(k.StartLength, 6)
	k.Length = cmp.Or(k.Length, 64)
	k.MinLife = cmp.Or(k.MinLife, day)
	k.MaxLife = cmp.Or(k.MaxLife, 365*day)
	k.Retention = cmp.Or(k.Retention, 90*day)
	return o.check()
}

func (o *Options) check() error {
	var errs []error
	invalid := func(field, format string, args ...any) {
		errs = append(errs, &InvalidError{field, fmt.Sprintf(format, args...)})
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"SessionLife", o.SessionLife}, {"SessionUpdateAge", o.SessionUpdateAge}, {"FreshAge", *o.FreshAge},
		{"ShortSessionLife", o.ShortSessionLife}, {"ImpersonationLife", o.ImpersonationLife},
		{"DefaultBanLife", o.DefaultBanLife}, {"HashMemory", time.Duration(o.HashMemory)}, {"HashWait", o.HashWait},
		{"FailureWindow", o.FailureWindow}, {"EnrichDeadline", o.EnrichDeadline}, {"CacheTTL", o.CacheTTL},
		{"PasswordMin", time.Duration(o.PasswordMin)}, {"UsernameMin", time.Duration(o.UsernameMin)},
		{"Keys.NameMin", time.Duration(o.Keys.NameMin)}, {"Keys.PrefixMin", time.Duration(o.Keys.PrefixMin)},
		{"Keys.StartLength", time.Duration(o.Keys.StartLength)}, {"Keys.Length", time.Duration(o.Keys.Length)},
		{"Keys.DefaultLife", o.Keys.DefaultLife}, {"Keys.MinLife", o.Keys.MinLife},
		{"Keys.RateLimitMax", time.Duration(o.Keys.RateLimitMax)}, {"Keys.RateLimitWindow", o.Keys.RateLimitWindow},
		{"Keys.Retention", o.Keys.Retention},
	} {
		if d.value < 0 {
			invalid(d.field, "is negative")
		}
	}
	for _, r := range []struct {
		field    string
		min, max int64
	}{
		{"PasswordMax", int64(o.PasswordMin), int64(o.PasswordMax)},
		{"UsernameMax", int64(o.UsernameMin), int64(o.UsernameMax)},
		{"Keys.NameMax", int64(o.Keys.NameMin), int64(o.Keys.NameMax)},
		{"Keys.PrefixMax", int64(o.Keys.PrefixMin), int64(o.Keys.PrefixMax)},
		{"Keys.MaxLife", int64(o.Keys.MinLife), int64(o.Keys.MaxLife)},
	} {
		if r.max < r.min {
			invalid(r.field, "is less than the minimum")
		}
	}
	if o.Keys.Length > 256 {
		invalid("Keys.Length", "is more than 256")
	}
	if o.Keys.PrefixMax > 64 {
		invalid("Keys.PrefixMax", "is more than 64")
	}
	if p := *o.Keys.Prefix; p != "" {
		if !validPrefix(p) {
			invalid("Keys.Prefix", "%q has characters other than letters, digits, _ and -", p)
		}
		if len(p) < o.Keys.PrefixMin || len(p) > o.Keys.PrefixMax {
			invalid("Keys.Prefix", "%q is too short or too long", p)
		}
	}
	if o.Keys.RateLimitMax > 0 && o.Keys.RateLimitWindow == 0 {
		invalid("Keys.RateLimitWindow", "is needed with RateLimitMax")
	}
	if strings.TrimSpace(o.DefaultRole) != o.DefaultRole || strings.Contains(o.DefaultRole, ",") {
		invalid("DefaultRole", "%q is not one role", o.DefaultRole)
	}
	return errors.Join(errs...)
}
