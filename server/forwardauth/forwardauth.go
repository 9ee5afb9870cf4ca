// Package forwardauth answers reverse proxies that hold a request and ask
// whether to pass it on.
//
// A [Gate] judges what a proxy tells of the request: whoever presents its
// credential is the principal, the resource is of the type "route", its id the
// path, the action the method. The answer is a [Verdict]; 200 alone permits.
//
// # Who may ask
//
// Whoever asks chooses the path that is judged. So a gate takes the word of
// proxies only: those at the configured addresses, those with the shared
// secret, or, if both are configured, those with both.
//
// # One reading
//
// Each kind of proxy has an endpoint of its own, which reads exactly the
// headers that this kind sets, each of which has to be there once. A header
// that the proxy does not set is one that the client chose. And since the
// application behind the proxy gets the path as the client sent it, a path that
// could be read in another way than it is judged is refused: see [ReadTarget].
package forwardauth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/server/request"
)

// SecretHeader carries the secret that a proxy shares with the service.
const SecretHeader = "Ostiary-Forward-Secret"

// MinSecret is how long that secret has to be, at least.
const MinSecret = 32

// Options is what a gate stands on.
type Options struct {
	Authn    *authn.Service
	Policies *policies.Library
	Reader   *request.Reader
	Proxies  []string // addresses and networks of those who may ask
	Secrets  []string // one of them has to come with the question; several while they are replaced
	Log      *slog.Logger
	// Decided, if set, is told of decisions on questions that do not come
	// through an exchange of package request.
	Decided func(authz.Decision)
}

// Gate judges requests that proxies hold. It is safe for concurrent use.
type Gate struct {
	o       Options
	proxies []netip.Prefix
	secrets [][sha256.Size]byte
}

// New returns a gate. It reports every mistake in o at once.
func New(o Options) (*Gate, error) {
	g := &Gate{o: o}
	if o.Log == nil {
		g.o.Log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	for _, p := range o.Proxies {
		prefix, err := request.ParsePrefix(p)
		if err != nil {
			errs = append(errs, &authn.InvalidError{Field: "forward_auth.proxies", Reason: fmt.Sprintf("%q is neither an address nor a CIDR", p)})
			continue
		}
		g.proxies = append(g.proxies, prefix)
	}
	for _, s := range o.Secrets {
		if len(s) < MinSecret {
			errs = append(errs, &authn.InvalidError{Field: "forward_auth.secret", Reason: fmt.Sprintf("has %d characters; it needs at least %d", len(s), MinSecret)})
			continue
		}
		g.secrets = append(g.secrets, sha256.Sum256([]byte(s)))
	}
	return g, errors.Join(errs...)
}

// Enabled reports whether the endpoints exist: whether it is configured by what
// a proxy is known.
func (g *Gate) Enabled() bool { return len(g.proxies) > 0 || len(g.secrets) > 0 }

// Trusts reports whether a peer at this address ("host:port") that presents
// these secrets is a proxy whose word counts. With nothing configured it says
// yes; see Enabled.
func (g *Gate) Trusts(peer string, secrets []string) bool {
	if len(g.proxies) > 0 && !g.knows(peer) {
		return false
	}
	if len(g.secrets) == 0 {
		return true
	}
	if len(secrets) != 1 {
		return false
	}
	got := sha256.Sum256([]byte(secrets[0]))
	good := 0
	for i := range g.secrets { // all of them, so that time tells nothing
		good |= subtle.ConstantTimeCompare(got[:], g.secrets[i][:])
	}
	return good == 1
}

func (g *Gate) knows(peer string) bool {
	a, err := netip.ParseAddrPort(peer)
	if err != nil {
		return false
	}
	for _, p := range g.proxies {
		if p.Contains(a.Addr().Unmap().WithZone("")) {
			return true
		}
	}
	return false
}

// Question is a request as the proxy that holds it tells it.
type Question struct {
	Proxy  string // its kind: "nginx"
	Method string
	Target string // raw
	Host   string
	Scheme string      // "" if the proxy does not tell
	Header http.Header // of the client
	// Address is the client's, in the form of [request.Reader.Client]; "" if
	// it is not known.
	Address string
	// Extensions are what else the proxy's own configuration says, for
	// policies.
	Extensions map[string]string
}

// Verdict is the answer. 200 permits; every other status denies.
type Verdict struct {
	Status     int
	Decision   string // id of the decision it rests on, if one was made
	Challenge  string // WWW-Authenticate, with 401
	RetryAfter string
	// Identity has a value for each of [IdentityHeaders]; all are empty unless
	// the verdict permits.
	Identity map[string]string
}

// IdentityHeaders are the headers that tell the application who is calling.
// Every answer has all of them, so that a proxy which copies them leaves
// nothing in place that the client had made up.
var IdentityHeaders = []string{
	"Ostiary-User",           // id
	"Ostiary-Type",           // user, service_account or anonymous
	"Ostiary-Name",           //
	"Ostiary-Username",       //
	"Ostiary-Email",          //
	"Ostiary-Email-Verified", // true or false
	"Ostiary-Roles",          // separated by commas
	"Ostiary-Credential",     // session, api_key or none
	"Ostiary-Session",        // id
	"Ostiary-Impersonator",   // id of whoever acts as the user
	"Ostiary-Key",            // id of the key at work
}

// Judge decides whether q may pass. It never fails: what goes wrong here is a
// verdict of 503 or 500, and a line in the log.
func (g *Gate) Judge(ctx context.Context, q Question) Verdict {
	id, _ := request.RequestID(q.Header)
	decided := g.o.Decided
	if facts := authz.FactsFrom(ctx); facts != nil { // of the exchange in which the proxy asks
		id, decided = facts.RequestID, facts.Decided
	}
	refused := func(status int, why string) Verdict {
		g.o.Log.WarnContext(ctx, "refused without a decision", "proxy", q.Proxy, "why", why, "request", id)
		return verdict(status)
	}
	method, ok := readMethod(q.Method)
	if !ok {
		return refused(http.StatusBadRequest, "the method is not one")
	}
	host, ok := readHost(q.Host)
	if !ok {
		return refused(http.StatusBadRequest, "the host is not one")
	}
	scheme := ""
	if q.Scheme != "" {
		if scheme, ok = readScheme(q.Scheme); !ok {
			return refused(http.StatusBadRequest, "the scheme is neither http nor https")
		}
	}
	target, err := ReadTarget(q.Target, scheme, host)
	if err != nil {
		// What was sent can hold secrets, so the log does not say it.
		return refused(http.StatusBadRequest, err.Error())
	}
	ctx = authz.WithFacts(ctx, &authz.Facts{
		IP: q.Address, UserAgent: q.Header.Get("User-Agent"), Method: method, Path: target.Path, RequestID: id, Decided: decided,
	})

	caller, err := g.caller(ctx, q.Header)
	if err != nil {
		return g.failed(ctx, q.Proxy, id, err)
	}
	// The permission that a route stands for is worth what the same policy says.
	bundle, by := g.o.Policies.InForce()
	mapped, _ := bundle.Routes.Permission(method, target.Segments)
	d, err := by.Decide(ctx, authz.Request{
		Subject:  caller.Subject(),
		Action:   authz.Action{Name: method},
		Resource: authz.Resource{Type: policies.RouteType, ID: target.Path, Properties: properties(q, method, scheme, host, target, mapped)},
		Mapped:   mapped,
	})
	if err != nil {
		return g.failed(ctx, q.Proxy, id, err)
	}
	v := verdict(http.StatusOK)
	v.Decision = d.ID
	switch {
	case d.Allow:
		v.Identity = identity(caller.Subject().Identity())
	case has(d, authz.CodeUnavailable):
		v.Status, v.RetryAfter = http.StatusServiceUnavailable, "1"
	case caller.Anonymous() && !has(d, authz.CodePolicyError) && !has(d, authz.CodeDeadline):
		v.Status, v.Challenge = http.StatusUnauthorized, request.Challenge
	default:
		v.Status = http.StatusForbidden
	}
	return v
}

func has(d authz.Decision, code string) bool {
	return (&authz.DeniedError{Decision: d}).Has(code)
}

func verdict(status int) Verdict {
	v := Verdict{Status: status, Identity: make(map[string]string, len(IdentityHeaders))}
	for _, name := range IdentityHeaders {
		v.Identity[name] = ""
	}
	return v
}

// caller finds out who sent the request that the proxy holds.
func (g *Gate) caller(ctx context.Context, h http.Header) (authn.Principal, error) {
	cred, place, err := g.o.Reader.Credential(&http.Request{Header: h})
	if err != nil || place == request.Nowhere {
		return authn.Principal{}, err
	}
	return g.o.Authn.Authenticate(ctx, cred)
}

// failed is the verdict when nobody could be asked about.
func (g *Gate) failed(ctx context.Context, proxy, id string, err error) Verdict {
	v := verdict(http.StatusInternalServerError)
	switch {
	case errors.Is(err, request.ErrAmbiguous):
		v.Status = http.StatusBadRequest
	case errors.Is(err, authn.ErrRateLimited), errors.Is(err, authn.ErrUsageExceeded):
		v.Status = http.StatusTooManyRequests
		if retry, ok := errors.AsType[*authn.RetryError](err); ok {
			v.RetryAfter = strconv.Itoa(int(math.Ceil(retry.In.Seconds())))
		}
	case authn.IsCredentialError(err):
		v.Status, v.Challenge = http.StatusUnauthorized, request.ChallengeInvalid
	case errors.Is(err, authn.ErrUnavailable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		v.Status, v.RetryAfter = http.StatusServiceUnavailable, "1"
	}
	if v.Status >= 500 {
		g.o.Log.ErrorContext(ctx, "forward authorization failed", "proxy", proxy, "error", err, "request", id)
	}
	return v
}

// properties are those of a route. Every member is always there, empty when
// unknown: a rule that forbids must not fall silent because one is missing.
func properties(q Question, method, scheme, host string, t Target, mapped string) map[string]any {
	extensions := make(map[string]any, len(q.Extensions))
	for name, value := range q.Extensions {
		extensions[name] = value
	}
	return map[string]any{
		"path":       t.Path,
		"segments":   authz.Texts(t.Segments),
		"target":     t.Raw,
		"query":      t.Query,
		"method":     method,
		"host":       host,
		"scheme":     scheme,
		"proxy":      q.Proxy,
		"permission": mapped,
		"extensions": extensions,
	}
}

// identity words who is calling, as the application is told.
func identity(id authz.Identity) map[string]string {
	v := verdict(http.StatusOK).Identity
	set := func(name, value string) { v[name] = headerText(value) }
	set("Ostiary-User", id.ID)
	set("Ostiary-Type", id.Type)
	set("Ostiary-Credential", id.Credential)
	roles := make([]string, len(id.Roles))
	for i, r := range id.Roles {
		roles[i] = headerText(r)
	}
	v["Ostiary-Roles"] = strings.Join(roles, ",")
	if u := id.User; u != nil {
		set("Ostiary-Name", u.Name)
		set("Ostiary-Username", u.Username)
		set("Ostiary-Email", u.Email)
		set("Ostiary-Email-Verified", strconv.FormatBool(u.EmailVerified))
	}
	if s := id.Session; s != nil {
		set("Ostiary-Session", s.ID)
		set("Ostiary-Impersonator", s.ImpersonatedBy)
	}
	if k := id.Key; k != nil {
		set("Ostiary-Key", k.ID)
	}
	return v
}

// headerText is s with percent escapes for everything that could mean
// something to a header, a list or a form.
func headerText(s string) string {
	var b strings.Builder
	escape(&b, s, "-._~@:")
	return b.String()
}

// Client returns the address of the client whom a proxy names as its peer,
// for kinds that tell it apart from headers: the peer's, or, if that is a
// trusted proxy, the one that it tells.
func (g *Gate) Client(peer string, h http.Header) string {
	return g.o.Reader.Client(&http.Request{RemoteAddr: peer, Header: h})
}
