package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/bundles"
	"github.com/ostiary/ostiary/decisionlog"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/server/authzen"
	"github.com/ostiary/ostiary/server/betterauth"
	"github.com/ostiary/ostiary/server/opa"
	"github.com/ostiary/ostiary/server/request"
	"github.com/ostiary/ostiary/store"
	"github.com/spf13/cobra"
)

// configure reads the configuration. If there is a mistake in it, the
// policies are looked at as well, so that all mistakes are told at once.
func configure(cmd *cobra.Command) (config, error) {
	c, err := load(cmd.Flags())
	if err == nil {
		return c, nil
	}
	mistakes := []error{err}
	if info, failed := os.Stat(c.Policies); c.Policies != "" && failed == nil && info.IsDir() {
		b, failed := policies.Load(os.DirFS(c.Policies), nil)
		if failed == nil {
			_, failed = authz.Compile(cmd.Context(), b.Source)
		}
		mistakes = append(mistakes, failed)
	}
	return c, &usageError{errors.Join(mistakes...)}
}

// open opens the instance that o describes. What is wrong then is the
// caller's mistake, unless the database is away.
func open(ctx context.Context, o ostiary.Options) (*ostiary.Ostiary, error) {
	i, err := ostiary.Open(ctx, o)
	switch {
	case err == nil:
		return i, nil
	case errors.Is(err, authn.ErrUnavailable), ctx.Err() != nil:
		return nil, err
	}
	return nil, &usageError{err}
}

// with runs do on an instance for a command that ends, beside a service that
// may be running on the same database.
func with(cmd *cobra.Command, do func(o *ostiary.Ostiary) error) (err error) {
	c, err := configure(cmd)
	if err != nil {
		return err
	}
	if !cmd.Flags().Changed("log-level") {
		c.Log.Level = "error" // a command says what is wrong by itself
	}
	i, err := open(cmd.Context(), c.options(c.logger(cmd.ErrOrStderr()), ""))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.Close()) }()
	return do(i)
}

// caller is in whose name commands act: whoever can open the database could
// change it anyway. What they do is on record under this name.
var caller = authn.System("cli")

func (c *config) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	// check has seen to it that it is a level.
	_ = level.UnmarshalText([]byte(c.Log.Level))
	o := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// url is the base URL of a service that listens on addr.
func (c *config) url(addr net.Addr) string {
	if c.BaseURL != "" {
		return strings.TrimSuffix(c.BaseURL, "/")
	}
	if _, port, _ := net.SplitHostPort(c.Listen); port == "0" && addr != nil {
		return "http://" + addr.String()
	}
	return "http://" + c.Listen
}

// options is c in the words of the rooms. In the configuration 0 turns things
// off; in options the zero value is the default.
func (c *config) options(log *slog.Logger, baseURL string) ostiary.Options {
	if baseURL == "" {
		baseURL = c.url(nil)
	}
	var secrets []string
	if c.Secret != "" {
		secrets = append([]string{c.Secret}, c.OldSecrets...)
	}
	grants := authz.Permissions{}
	for _, p := range c.Keys.DefaultPermissions {
		kind, action, _ := strings.Cut(p, ":")
		grants[kind] = append(grants[kind], action)
	}
	if len(grants) == 0 {
		grants = nil
	}
	forwardSecrets := slices.Clone(c.ForwardAuth.OldSecrets)
	if c.ForwardAuth.Secret != "" {
		forwardSecrets = append(forwardSecrets, c.ForwardAuth.Secret)
	}
	// Patterns are Better Auth's; elsewhere an origin is written out.
	origins := slices.DeleteFunc(slices.Clone(c.TrustedOrigins), func(o string) bool { return strings.ContainsAny(o, "*?") })

	// check has seen to it that they can be read.
	keys, _ := signingKeys(c.AuthZEN.SigningKey)

	return ostiary.Options{
		Database:          c.Database,
		Pool:              c.pool(),
		Secrets:           secrets,
		PoliciesDir:       c.Policies,
		PoliciesPublished: c.Policy.Source == "database",
		PoliciesFrom:      c.courier(),
		MinCoverage:       float64(c.Policy.MinCoverage),
		ShadowDir:         c.Policy.Shadow,
		ShadowSample:      float64(c.Policy.ShadowSample),
		Replay:            policies.ReplayGate{Since: c.Policy.Replay.Since, FailOn: c.Policy.Replay.FailOn},
		ReplayRecords:     c.Policy.Replay.Records,
		DecisionDeadline:  c.Decisions.Deadline,
		DecisionRecheck:   cmp.Or(c.Decisions.Recheck, -1), // there, 0 is the default
		DecisionMemo:      cmp.Or(c.Decisions.Memo, -1),
		Topdown:           c.Evaluator == "topdown",
		DecisionRetention: c.Decisions.Retention,
		Lease:             c.Cache.Lease,
		Log:               log,
		Version:           version(),
		Origins:           origins,
		Directory: directory.Options{
			Protected:        c.Directory.Protected,
			SearchCandidates: c.Search.Candidates,
			SearchTime:       c.Search.Time,
			SearchRecheck:    cmp.Or(c.Search.Recheck, -1), // there, 0 is the default
		},
		ForwardProxies: c.ForwardAuth.Proxies,
		ForwardSecrets: forwardSecrets,
		Audit: audit.Options{
			Buffer: c.Decisions.Buffer,
			Strict: c.Decisions.Strict,
			Sample: (*float64)(&c.Decisions.Sample),
			// Commands beside the service have no other sinks: a file has one writer.
			Elsewhere: !slices.Contains(c.Decisions.Sinks, "database"),
		},
		Request: request.Options{
			KeyHeaders:     c.KeyHeaders,
			CookiePrefix:   c.Cookies.Prefix,
			SecureCookies:  c.Cookies.Secure == "true" || c.Cookies.Secure == "auto" && strings.HasPrefix(baseURL, "https:"),
			AddressHeaders: c.AddressHeaders,
			TrustedProxies: c.TrustedProxies,
			MaxBody:        int64(c.Limits.Body),
			MaxDepth:       c.Limits.Depth,
		},
		Auth: betterauth.Options{
			BasePath:        c.BasePath,
			BaseURL:         baseURL,
			TrustedOrigins:  c.TrustedOrigins,
			CookieDomain:    c.Cookies.Domain,
			SessionLife:     c.Session.Life,
			CookieCache:     c.Cookies.Cache,
			CookieCacheLife: c.Cookies.CacheLife,
			RateLimit:       c.RateLimit,
			ChangeEmail:     c.ChangeEmail,
			DeleteUser:      c.DeleteUser,
			BannedMessage:   c.Ban.Message,
			MinKeyLength:    c.Keys.Length,
		},
		OPA: opa.Options{
			Query:       c.OPA.Query,
			Entrypoints: c.OPA.Entrypoints,
		},
		AuthZEN: authzen.Options{
			Identifiers:    c.identifiers(baseURL),
			SigningKeys:    keys,
			MaxEvaluations: c.AuthZEN.MaxEvaluations,
		},
		Authn: authn.Options{
			SessionLife:          c.Session.Life,
			SessionUpdateAge:     c.Session.UpdateAge,
			SessionNeverSlides:   c.Session.NeverSlides,
			FreshAge:             &c.Session.FreshAge,
			ShortSessionLife:     c.Session.ShortLife,
			ImpersonationLife:    c.Session.ImpersonationLife,
			SignUpDisabled:       !c.SignUp,
			RequireVerifiedEmail: c.RequireVerifiedEmail,
			AutoSignInDisabled:   !c.AutoSignIn,
			DefaultRole:          c.DefaultRole,
			AdminRoles:           c.AdminRoles,
			AdminIDs:             c.AdminUserIDs,
			DefaultBanReason:     c.Ban.Reason,
			DefaultBanLife:       c.Ban.Life,
			PasswordMin:          c.Password.Min,
			PasswordMax:          c.Password.Max,
			HashMemory:           int64(c.Password.HashMemory),
			HashWait:             c.Password.HashWait,
			UsernameMin:          c.Username.Min,
			UsernameMax:          c.Username.Max,
			FailuresPerAccount:   offIfZero(c.Throttle.PerAccount),
			FailuresPerAddress:   offIfZero(c.Throttle.PerAddress),
			FailureWindow:        c.Throttle.Window,
			CacheSize:            offIfZero(c.Cache.Size),
			CacheTTL:             c.Cache.Life,
			Keys: authn.KeyOptions{
				Prefix:             &c.Keys.Prefix,
				NameRequired:       c.Keys.NameRequired,
				NameMin:            c.Keys.NameMin,
				NameMax:            c.Keys.NameMax,
				PrefixMin:          c.Keys.PrefixMin,
				PrefixMax:          c.Keys.PrefixMax,
				Length:             c.Keys.Length,
				StartLength:        c.Keys.StartLength,
				DefaultLife:        c.Keys.DefaultLife,
				MinLife:            c.Keys.MinLife,
				MaxLife:            c.Keys.MaxLife,
				ExpiryFixed:        c.Keys.ExpiryFixed,
				MetadataDisabled:   !c.Keys.Metadata,
				DefaultPermissions: grants,
				RateLimitMax:       c.Keys.RateLimitMax,
				RateLimitWindow:    c.Keys.RateLimitWindow,
				Retention:          c.Keys.Retention,
			},
		},
	}
}

// courier brings policies, or is nil if they come from elsewhere.
func (c *config) courier() policies.Courier {
	if c.Policy.Source != "bundle" {
		return nil
	}
	b := c.Policy.Bundle
	// check has seen to both.
	keys, _ := publicKeys(b.Keys)
	server, _ := bundles.New(bundles.Options{
		URL: b.URL, Token: b.Token, Keys: keys, Scope: b.Scope, ByRevision: b.Sequence == "revision", Directory: b.Directory,
		MinDelay: b.MinDelay, MaxDelay: b.MaxDelay, LongPoll: b.LongPoll, MaxBytes: int64(b.MaxSize),
	})
	return server
}

// sinks opens where the service tells decisions beside the database.
func (c *config) sinks(ctx context.Context, stdout io.Writer, log *slog.Logger) ([]audit.Sink, error) {
	var all []audit.Sink
	for _, s := range c.Decisions.Sinks {
		var sink audit.Sink
		var err error
		switch kind, where, _ := strings.Cut(s, ":"); kind {
		case "stdout":
			sink = audit.Lines(stdout)
		case "file":
			sink, err = audit.OpenFile(where)
		case "opa":
			sink, err = decisionlog.Open(ctx, decisionlog.Options{URL: where, Token: c.Decisions.OPAToken, Instance: rand.Text(), Log: log})
		default:
			continue
		}
		if err != nil {
			for _, s := range all {
				err = errors.Join(err, s.Close(ctx))
			}
			return nil, &usageError{err}
		}
		all = append(all, sink)
	}
	return all, nil
}

// reopenFiles has files that were moved away begin anew at each SIGHUP, until
// ctx ends.
func reopenFiles(ctx context.Context, sinks []audit.Sink, log *slog.Logger) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	context.AfterFunc(ctx, func() { signal.Stop(hup) })
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
			}
			for _, s := range sinks {
				if f, ok := s.(*audit.File); ok {
					if err := f.Reopen(); err != nil {
						log.Error("file of decisions not opened anew", "error", err)
					}
				}
			}
		}
	}()
}

// identifiers are those of the service to AuthZEN callers: as configured, or the
// base URL, which they can only use if it is https.
func (c *config) identifiers(baseURL string) []string {
	if len(c.AuthZEN.Identifiers) == 0 && authzen.CheckIdentifier(baseURL) == nil {
		return []string{baseURL}
	}
	return c.AuthZEN.Identifiers
}

func (c *config) pool() store.Pool {
	return store.Pool{
		Connections:      c.Pool.Connections,
		Idle:             c.Pool.Idle,
		Life:             c.Pool.Life,
		StatementTimeout: c.Pool.StatementTimeout,
	}
}

func offIfZero(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// at is a time as commands show it.
func at(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
