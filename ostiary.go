// Package ostiary is the doorkeeper as a library: it resolves who is calling
// from a session cookie, a bearer token or an API key, decides by Rego what
// they may do, and says why.
//
// [Open] opens the database, compiles the policies and starts what runs in
// the background; [Ostiary.Close] ends all of it. Two instances in one process share
// nothing. [Ostiary.Require] protects a route, [Ostiary.Decide] answers a
// question, [Ostiary.Handler] is the whole HTTP API. A program that is to work
// with a remote service as well takes a [guard.Service], which both are.
//
// # Callers
//
// Methods that manage users, sessions and keys ([Ostiary.Authn]) take the
// caller and ask the policy about it. A program that acts in its own name
// passes [authn.System]; no call is trusted because it named nobody.
package ostiary

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/server"
	"github.com/ostiary/ostiary/server/authzen"
	"github.com/ostiary/ostiary/server/betterauth"
	"github.com/ostiary/ostiary/server/forwardauth"
	"github.com/ostiary/ostiary/server/opa"
	"github.com/ostiary/ostiary/server/request"
	"github.com/ostiary/ostiary/store"
)

// Options configures an instance. The zero value works: an SQLite file in the
// working directory, the built-in policies, and a secret kept beside the
// database.
type Options struct {
	Database string // "sqlite:PATH" (default "sqlite:ostiary.db"), "sqlite::memory:" or "postgres://…"

	Pool store.Pool

	// Secrets sign cookies, each at least 32 characters. The first signs, all
	// verify. None: with SQLite one is kept in a file beside the database,
	// with mode 0600; with Postgres it is a mistake.
	Secrets []string

	// Policies, or the folder PoliciesDir, which is watched for changes, is a
	// bundle that is added to the built-in one. With PoliciesPublished it is
	// instead the revision that was published last, on whatever instance, and with
	// PoliciesFrom what that brings, as package bundles does from a server.
	Policies          fs.FS
	PoliciesDir       string
	PoliciesPublished bool
	PoliciesFrom      policies.Courier
	// ShadowDir is a folder with a candidate that is asked beside the policy in
	// force, and watched for changes; with PoliciesPublished they are started by a
	// call instead. ShadowSample is the part of the decisions that a shadow is asked
	// about; default all.
	ShadowDir    string
	ShadowSample float64
	// MinCoverage is how many per cent of its lines the tests of a revision have
	// to reach to be published.
	MinCoverage float64
	// Replay is what recorded decisions have to say of a revision before it is
	// published; at most ReplayRecords are looked at, default [policies.DefaultGateRecords].
	Replay        policies.ReplayGate
	ReplayRecords int
	Settings      map[string]any // wins over data.settings of the bundles

	// Enrich, if set, tells the application's own attributes of a user, which
	// policies read in input.principal.user.attributes. See [authn.Options].
	Enrich         func(ctx context.Context, who authz.Identity) (map[string]any, error)
	EnrichDeadline time.Duration // default 1s

	Authn            authn.Options     // Clock, Log and Enrich are set from here
	Directory        directory.Options // Clock, Log, Actions and what is remembered are set from here
	Audit            audit.Options
	DecisionDeadline time.Duration // default 1s
	// DecisionRecheck says of how many decisions of a compiled policy one is made
	// by OPA's evaluator as well; default 1000, a negative number is never.
	DecisionRecheck int
	// DecisionMemo is how many answers of the policy in force are remembered;
	// default 50,000, a negative number is none. See [authz.Options.Memo].
	DecisionMemo int
	// Topdown has OPA's evaluator make all decisions.
	Topdown bool
	// DecisionRetention is how long decision records are kept; zero is for ever.
	DecisionRetention time.Duration
	// Lease is the longest a change made elsewhere can stay unnoticed;
	// default 2s.
	Lease time.Duration

	Request request.Options    // Secrets are set from above
	Auth    betterauth.Options // the Better Auth surface
	AuthZEN authzen.Options    // the AuthZEN surface; Secrets and Clock are set from above
	OPA     opa.Options        // the OPA-compatible surface
	Origins []string           // that may use cookies with the native API and with Require

	// Reverse proxies that may ask whether to pass a request on: those at
	// these addresses or networks, those that present one of these secrets, or,
	// if both are given, those of which both is true. Neither: there are no
	// endpoints for them.
	ForwardProxies []string
	ForwardSecrets []string

	// Tracer and Meter are who is told by OpenTelemetry of requests to Handler and
	// to protected routes, of decisions and of queries; nil: nobody. Nothing global is asked. No
	// attribute holds a secret; ids of principals and resources, which can be
	// e-mail addresses, only with TraceIDs.
	Tracer   trace.TracerProvider
	Meter    metric.MeterProvider
	TraceIDs bool

	Log     *slog.Logger     // default discards
	Clock   func() time.Time // default time.Now
	Version string           // told in answers
}

// Ostiary is an open instance. Its methods are safe for concurrent use.
type Ostiary struct {
	db        *store.DB
	log       *audit.Log
	engine    *authz.Engine
	library   *policies.Library
	authn     *authn.Service
	directory *directory.Service
	reader    *request.Reader
	gate      *forwardauth.Gate
	handler   http.Handler
	metrics   *server.Metrics
	feed      *feed
	origins   *http.CrossOriginProtection
	slog      *slog.Logger
	tracer    trace.Tracer        // nil: nobody traces
	measured  metric.Registration // nil: nobody measures
	stop      context.CancelFunc
	running   sync.WaitGroup
	closing   sync.Once
	closeErr  error
}

// Open opens an instance. Mistakes in o are reported together, each as an
// *[OptionError]. ctx bounds opening alone; the instance runs until Close.
func Open(ctx context.Context, o Options) (_ *Ostiary, err error) {
	if o.Database == "" {
		o.Database = "sqlite:ostiary.db"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Lease <= 0 {
		o.Lease = 2 * time.Second
	}
	var mistakes []error
	wrong := func(field string, err error) { mistakes = append(mistakes, optionErrors(field, err)...) }
	if len(o.Secrets) == 0 {
		secret, err := keptSecret(o.Database)
		wrong("Secrets", err)
		o.Secrets = []string{secret}
	} else {
		for _, s := range o.Secrets {
			if len(s) < MinSecret {
				wrong("Secrets", &authn.InvalidError{Field: "secret", Reason: fmt.Sprintf("has %d characters; it needs at least %d", len(s), MinSecret)})
			}
		}
	}

	i := &Ostiary{slog: o.Log, origins: http.NewCrossOriginProtection(), metrics: server.NewMetrics()}
	defer func() {
		if err != nil {
			i.Close()
		}
	}()
	// The rest is still checked when a part is wrong, so that all mistakes come
	// at once.
	var failed error
	if o.Tracer != nil {
		i.tracer = o.Tracer.Tracer(scope)
		o.Pool.Tracer = i.tracer
	}
	i.db, failed = store.Open(ctx, o.Database, o.Pool)
	wrong("Database", failed)
	o.Audit.Log = o.Log
	o.Audit.DataRevision = func() int64 {
		if i.feed == nil {
			return 0
		}
		return i.feed.last.Load().revision
	}
	i.log = audit.NewLog(i.db, o.Audit)
	i.engine = authz.NewEngine(authz.Options{Deadline: o.DecisionDeadline, Recorder: i.log, Clock: o.Clock, Describe: i.describe,
		Topdown: o.Topdown, Recheck: o.DecisionRecheck, Memo: o.DecisionMemo, Log: o.Log, Tracer: i.tracer, TraceIDs: o.TraceIDs})

	o.Authn.Log, o.Authn.Clock = o.Log, o.Clock
	if o.Enrich != nil {
		o.Authn.Enrich, o.Authn.EnrichDeadline = o.Enrich, o.EnrichDeadline
	}
	if o.Authn.KnownRoles == nil {
		o.Authn.KnownRoles = i.knowsRole
	}
	i.authn, failed = authn.New(o.Authn, i.db, i.engine)
	wrong("Authn", failed)
	if i.authn != nil {
		o.Directory.Log = o.Log
		o.Directory.Clock, o.Directory.CacheSize, o.Directory.CacheTTL = o.Clock, o.Authn.CacheSize, o.Authn.CacheTTL
		o.Directory.Actions = func(resourceType string) []string { return i.library.Bundle().Actions(resourceType) }
		i.directory, failed = directory.New(o.Directory, i.db, i.engine, i.authn)
		wrong("Directory", failed)
	}
	i.library, failed = i.openPolicies(ctx, o)
	wrong("Policies", failed)
	o.Request.Secrets, o.AuthZEN.Secrets = o.Secrets, o.Secrets
	i.reader, failed = request.New(o.Request)
	wrong("Request", failed)
	for _, origin := range o.Origins {
		if err := i.origins.AddTrustedOrigin(origin); err != nil {
			wrong("Origins", fmt.Errorf("trusted origin %q: %w", origin, err))
		}
	}
	i.gate, failed = forwardauth.New(forwardauth.Options{
		Authn: i.authn, Policies: i.library, Reader: i.reader,
		Proxies: o.ForwardProxies, Secrets: o.ForwardSecrets, Log: o.Log, Decided: i.metrics.Decided,
	})
	wrong("Forward", failed)
	if i.directory == nil || i.library == nil || i.reader == nil || i.gate == nil {
		return nil, errors.Join(mistakes...)
	}
	i.feed = newFeed(i.db, o.Lease, o.Clock, o.Log, i.authn, i.directory, i.library)
	i.metrics.Audit(i.log)
	i.metrics.Shadow(i.library.ShadowCounts)
	i.metrics.Cache(i.authn.CacheStats)
	i.metrics.Search(i.directory.Rechecks)
	i.metrics.Evaluation(i.engine.Rechecks)
	i.metrics.Memo(i.engine.MemoStats)
	if o.Meter != nil {
		wrong("Meter", i.measure(o.Meter.Meter(scope)))
	}
	i.handler, failed = server.New(server.Options{
		Authn: i.authn, Engine: i.engine, Directory: i.directory, Policies: i.library, Audit: i.log.Reader(), Log: o.Log,
		Ready: i.Ready, AtLeast: i.reach, Feed: i.feed.state, Lease: o.Lease, FilterSQL: store.FilterSQL, Version: o.Version, Reader: i.reader, Auth: o.Auth, AuthZEN: o.AuthZEN, OPA: o.OPA, Gate: i.gate, Origins: o.Origins,
		Metrics: i.metrics, Tracer: i.tracer, Clock: o.Clock,
	})
	if wrong("Auth", failed); len(mistakes) > 0 {
		return nil, errors.Join(mistakes...)
	}
	if err := i.feed.begin(ctx); err != nil {
		return nil, err
	}
	// What was published between reading it and now is behind what the feed looks at.
	i.library.Forget("", "")
	i.start(o)
	return i, nil
}

// scope is what spans and metrics of OpenTelemetry are told by.
const scope = "github.com/ostiary/ostiary"

// measure tells meter what Metrics tells Prometheus, as far as it is about this
// instance and not about the process, until Close.
func (i *Ostiary) measure(meter metric.Meter) error {
	hits, err1 := meter.Int64ObservableCounter("ostiary.principal.cache.hits", metric.WithDescription("Credentials that were resolved from memory."))
	misses, err2 := meter.Int64ObservableCounter("ostiary.principal.cache.misses", metric.WithDescription("Credentials that were resolved from the store."))
	lost, err3 := meter.Int64ObservableCounter("ostiary.audit.lost", metric.WithDescription("Decision records that could not be kept."))
	if err := errors.Join(i.metrics.Meter(meter), err1, err2, err3); err != nil {
		return err
	}
	var err error
	i.measured, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		hit, missed := i.authn.CacheStats()
		o.ObserveInt64(hits, int64(hit))
		o.ObserveInt64(misses, int64(missed))
		o.ObserveInt64(lost, int64(i.log.Lost()))
		return nil
	}, hits, misses, lost)
	return err
}

// openPolicies opens the library. Without a database there is nothing published
// to look at; that it is not there is told elsewhere.
func (i *Ostiary) openPolicies(ctx context.Context, o Options) (*policies.Library, error) {
	p := policies.Options{
		Engine: i.engine, FS: o.Policies, Dir: o.PoliciesDir, Courier: o.PoliciesFrom, MinCoverage: o.MinCoverage, Replay: o.Replay, ReplayRecords: o.ReplayRecords,
		Settings: o.PolicySettings(), ShadowDir: o.ShadowDir, ShadowSample: o.ShadowSample, Log: o.Log, Clock: o.Clock,
		// What was concluded under other rules is not remembered.
		Swapped: func(string) {
			if i.authn != nil {
				i.authn.Forget("", "")
			}
		},
	}
	if i.authn != nil {
		p.Users = i.authn
	}
	if i.db != nil {
		p.Shadows, p.Decisions = i.db, i.log.Reader()
	}
	if o.PoliciesPublished {
		if i.db == nil {
			return nil, nil
		}
		p.Store = i.db
	}
	return policies.Open(ctx, p)
}

// reach returns once the changes up to revision are known here, policies that
// were published included.
func (i *Ostiary) reach(ctx context.Context, revision int64) error {
	if err := i.feed.reach(ctx, revision); err != nil {
		return err
	}
	return i.library.Settled(ctx)
}

// start starts what runs until Close.
func (i *Ostiary) start(o Options) {
	ctx, stop := context.WithCancel(context.Background())
	i.stop = stop
	i.running.Go(func() { i.feed.run(ctx) })
	i.running.Go(func() { i.log.Run(ctx) })
	i.running.Go(func() { i.keepHouse(ctx, o) })
	i.running.Go(func() {
		if err := i.library.Watch(ctx); err != nil && ctx.Err() == nil {
			o.Log.Error("policies are no longer watched for changes", "error", err)
		}
	})
}

// keepHouse does what is due now and then.
func (i *Ostiary) keepHouse(ctx context.Context, o Options) {
	touch := time.NewTicker(10 * time.Second)
	defer touch.Stop()
	sweep := time.NewTicker(time.Hour)
	defer sweep.Stop()
	for {
		var errs []error
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := errors.Join(i.authn.FlushTouches(last), i.authn.ReturnUses(last, true)); err != nil {
				o.Log.Error("uses of keys not written", "error", err)
			}
			return
		case <-touch.C:
			errs = append(errs, i.authn.FlushTouches(ctx), i.authn.ReturnUses(ctx, false))
		case <-sweep.C:
			now := o.Clock()
			_, err := i.db.PruneChanges(ctx, now.Add(-time.Hour))
			errs = append(errs, err)
			_, err = i.authn.DeleteEndedKeys(ctx, authn.System("retention"))
			errs = append(errs, err)
			errs = append(errs, i.db.CompactRecords(ctx, now.Add(-time.Minute))) // what came before is all there by now
			if o.DecisionRetention > 0 {
				_, err = i.db.DeleteRecords(ctx, now.Add(-o.DecisionRetention))
				errs = append(errs, err)
				_, err = i.db.DeleteShadows(ctx, now.Add(-o.DecisionRetention))
				errs = append(errs, err)
			}
		}
		if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
			o.Log.Error("housekeeping", "error", err)
		}
	}
}

// Close ends every goroutine, writes what is left to write and closes the
// database. From then on everything is denied as unavailable. Calls after the
// first do nothing.
func (i *Ostiary) Close() error {
	i.closing.Do(func() {
		if i.stop != nil {
			// First, so that what was allowed is still written.
			i.engine.Swap(nil)
			i.stop()
			i.running.Wait()
			i.engine.Swap(nil) // a reload may have come between
		}
		if i.measured != nil {
			i.closeErr = i.measured.Unregister()
		}
		if i.db != nil {
			i.closeErr = errors.Join(i.closeErr, i.db.Close())
		}
	})
	return i.closeErr
}

// PolicySettings are what the options say to policies, as data.settings.
func (o Options) PolicySettings() map[string]any {
	s := map[string]any{"sign_up": !o.Authn.SignUpDisabled}
	if len(o.Authn.AdminIDs) > 0 {
		s["admin_user_ids"] = authz.Texts(o.Authn.AdminIDs)
	}
	if len(o.Authn.AdminRoles) > 0 {
		s["admin_roles"] = authz.Texts(o.Authn.AdminRoles)
	}
	if o.Authn.DefaultRole != "" {
		s["default_role"] = o.Authn.DefaultRole
	}
	for k, v := range o.Settings {
		s[k] = v
	}
	return s
}

// knowsRole: with the built-in roles alone any name may be given, as Better
// Auth has it; an author who lists roles means that there are no others.
func (i *Ostiary) knowsRole(role string) bool {
	b := i.library.Bundle()
	if !b.AuthorRoles {
		return true
	}
	_, ok := b.Roles[role]
	return ok
}

// Handler is the HTTP API: /api/auth, /v1, OPA's paths, /forward-auth, /healthz,
// /readyz, /openapi.json.
func (i *Ostiary) Handler() http.Handler { return i.handler }

// Metrics serves Prometheus metrics. It belongs on an address of its own.
func (i *Ostiary) Metrics() http.Handler { return i.metrics }

// Gate judges requests that reverse proxies hold, for services that ask in
// another way than HTTP.
func (i *Ostiary) Gate() *forwardauth.Gate { return i.gate }

// Authn manages users, sessions and keys.
func (i *Ostiary) Authn() *authn.Service { return i.authn }

// Directory keeps what applications tell of their subjects and resources,
// makes subjects of those whom a caller names, and searches.
func (i *Ostiary) Directory() *directory.Service { return i.directory }

// Policies tells, reloads and publishes the rules in force.
func (i *Ostiary) Policies() *policies.Library { return i.library }

// Decisions reads decision records and events.
func (i *Ostiary) Decisions() audit.Store { return i.log.Reader() }

// describe is what the engine asks about resources. The directory is made
// after the engine that it asks, and before anybody can ask either.
func (i *Ostiary) describe(ctx context.Context, r authz.Resource, action string) (authz.Resource, error) {
	r, err := i.directory.Describe(ctx, r, action)
	if err != nil && ctx.Err() == nil && !errors.Is(err, authn.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", authn.ErrUnavailable, err)
	}
	return r, err
}

// Decide implements [authz.Decider]. What the store knows of the resource fills
// what r leaves out, or wins where it is Ostiary's own.
func (i *Ostiary) Decide(ctx context.Context, r authz.Request) (authz.Decision, error) {
	d, err := i.engine.Decide(ctx, r)
	if err == nil {
		i.count(ctx, d)
	}
	return d, err
}

// count counts decisions that are made for no request; the others are counted
// with it.
func (i *Ostiary) count(ctx context.Context, ds ...authz.Decision) {
	if authz.FactsFrom(ctx) != nil {
		return
	}
	for _, d := range ds {
		i.metrics.Decided(d)
	}
}

// DecideAll decides each request under one and the same policy, in order.
func (i *Ostiary) DecideAll(ctx context.Context, rs []authz.Request) ([]authz.Decision, error) {
	ds, err := i.engine.DecideAll(ctx, rs)
	if err == nil {
		i.count(ctx, ds...)
	}
	return ds, err
}

// Filter turns r, about all resources of a type, into a condition on them: those
// for which it would be allowed. fields tells of the application's columns what
// they hold. [store.FilterSQL] says the condition in SQL.
func (i *Ostiary) Filter(ctx context.Context, r authz.Request, fields authz.Fields) (authz.Filter, error) {
	return i.engine.Filter(ctx, r, authz.UnknownResource, fields.Kind)
}

// Permissions returns what s may do by its roles, and what it may do with its
// own whatever its roles, both as enforced: narrowed by the grants of the key at
// work.
func (i *Ostiary) Permissions(ctx context.Context, s *authz.Subject) (byRole, own authz.Permissions, err error) {
	if byRole, err = i.engine.Permissions(ctx, s); err != nil {
		return nil, nil, err
	}
	own, err = i.engine.OwnPermissions(ctx, s)
	return byRole, own, err
}

// Explain decides again and names the rules that held and failed.
func (i *Ostiary) Explain(ctx context.Context, r authz.Request) (authz.Explanation, error) {
	return i.engine.Explain(ctx, r)
}

// Ready reports why requests can't be served, or nil. While the lease lasts,
// the database has just answered.
func (i *Ostiary) Ready(ctx context.Context) error {
	if i.engine.Policy() == nil {
		return errors.New("no policy is in force")
	}
	if age, _ := i.feed.state(); age < i.feed.lease {
		return nil
	}
	return i.db.Ping(ctx)
}
