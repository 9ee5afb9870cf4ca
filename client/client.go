// Package client asks a remote Ostiary, in the words of package access.
//
// A [Client] is to a service what an embedded instance is to its database: it
// finds out who calls ([Client.Authenticate]), decides ([Client.Decide]), and
// protects routes ([Client.Require]). A program that takes a [guard.Service]
// works with either. [Client.Authn] manages users, sessions and keys,
// [Client.Policies] the rules, [Client.Filter] turns them into a condition on rows.
// The package brings no policy engine, no database driver and no router.
//
// # Whose credential
//
// What a request to the program presents is passed on as it is: one key header,
// Authorization, or the session cookie, and nothing else of the request but its
// address and user agent. The program's own key ([Options.Key]) is used to ask
// about subjects that the program names ([Client.Named]) and for calls whose caller
// it is said to be ([Client.Program]), and never in the place of a credential that
// is missing. A credential is sent to the service that it was presented for, and to
// no other Client's.
//
// # Failure
//
// An error means that there is no decision, and the Decision that comes with it
// denies. Tell errors apart with errors.Is and errors.As: [ErrUnauthenticated],
// [ErrDenied], [ErrInvalid], [ErrLimited], [ErrUnavailable], and of calls that manage
// [ErrNotFound] and [ErrConflict]; *[Error] has what the service said.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/memory"
)

// Options configures a Client. The zero value of each member but URL works.
type Options struct {
	URL string // of the service: "https://auth.example"
	// Key is the program's own API key. Without one it can only pass on
	// credentials.
	Key string
	// HTTP sends the requests; default a client with a pool of its own.
	// Redirects are never followed: they would carry credentials elsewhere.
	HTTP *http.Client
	// Timeout bounds a call with all its attempts; default 5s. It comes on top
	// of what the context says.
	Timeout time.Duration
	// Retries is how often a question is asked again that was not answered;
	// default 2, negative never. It changes nothing but the count of a key with
	// limits. A write is sent again only if no connection could be made.
	Retries int

	// DecisionLife, if positive, is how long decisions about callers are remembered
	// and given again to the same question by the same credential. The service
	// bounds it: by what is left of its lease, so that a revocation made anywhere
	// still counts within that time. One that is given again is recorded once.
	// With WithAtLeast the service is always asked.
	DecisionLife time.Duration
	DecisionMost int // decisions remembered; default 10,000

	KeyHeaders   []string // that carry API keys; default ["X-Api-Key"]; the service's setting
	CookiePrefix string   // of the session cookie; default "better-auth"; the service's setting
	AuthPath     string   // of the Better Auth API; default "/api/auth"; the service's setting
	// Origins may send writes with a cookie, beside the program's own:
	// "https://app.example".
	Origins []string
}

// OptionError is a mistake in [Options].
type OptionError struct{ Field, Reason string }

func (e *OptionError) Error() string { return "client: " + e.Field + ": " + e.Reason }

// Client asks one service. It is safe for concurrent use, and starts no
// goroutine of its own.
type Client struct {
	base       string
	origin     string // of base
	auth       string // the path of the Better Auth API
	key        *credential
	http       *http.Client
	timeout    time.Duration
	retries    int
	keyHeaders []string
	cookies    [2]string
	origins    *http.CrossOriginProtection
	life       time.Duration
	remembered *memory.Cache[question, answered]
}

// New returns a Client. It reports every mistake in o at once, as
// *[OptionError]s joined. It asks nothing yet.
func New(o Options) (*Client, error) {
	var errs []error
	wrong := func(field, reason string) { errs = append(errs, &OptionError{field, reason}) }
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		wrong("URL", "must be an http or https URL without user, query and fragment")
	}
	if o.AuthPath != "" && (!strings.HasPrefix(o.AuthPath, "/") || strings.HasSuffix(o.AuthPath, "/")) {
		wrong("AuthPath", "must begin with / and not end with it")
	}
	if strings.ContainsFunc(o.Key, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		wrong("Key", "has characters that no key has")
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"Timeout", o.Timeout}, {"DecisionLife", o.DecisionLife}, {"DecisionMost", time.Duration(o.DecisionMost)}} {
		if d.value < 0 {
			wrong(d.field, "is negative")
		}
	}
	c := &Client{
		base:       strings.TrimSuffix(o.URL, "/"),
		auth:       cmp.Or(o.AuthPath, "/api/auth"),
		timeout:    cmp.Or(o.Timeout, 5*time.Second),
		retries:    max(cmp.Or(o.Retries, 2), 0),
		keyHeaders: o.KeyHeaders,
		origins:    http.NewCrossOriginProtection(),
		life:       o.DecisionLife,
	}
	if c.keyHeaders == nil {
		c.keyHeaders = []string{"X-Api-Key"}
	}
	name := cmp.Or(o.CookiePrefix, "better-auth") + ".session_token"
	c.cookies = [2]string{name, "__Secure-" + name}
	for _, origin := range o.Origins {
		if err := c.origins.AddTrustedOrigin(origin); err != nil {
			wrong("Origins", err.Error())
		}
	}
	if o.Key != "" {
		c.key = c.carrying(http.Header{"Authorization": {"Bearer " + o.Key}})
	}
	if err == nil {
		c.origin = u.Scheme + "://" + u.Host
	}
	own := http.Client{}
	if o.HTTP != nil {
		own = *o.HTTP
	} else {
		own.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout: 2 * time.Second,
			ForceAttemptHTTP2:   true,
			MaxIdleConns:        256,
			MaxIdleConnsPerHost: 256, // all go to one host
			IdleConnTimeout:     60 * time.Second,
		}
	}
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	own.Jar = nil // a cookie of one caller is not another's
	c.http = &own
	if o.DecisionLife > 0 {
		c.remembered = memory.New(cmp.Or(o.DecisionMost, 10_000), o.DecisionLife, func(question, answered) []memory.Ref { return all })
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

// Close lets go of idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// Forget drops all decisions that are remembered.
func (c *Client) Forget() {
	if c.remembered != nil {
		c.remembered.Forget("", "")
	}
}

// question is the digest of all that an answer depends on.
type question [sha256.Size]byte

type answered struct {
	decision access.Decision
	subject  *access.Subject
	until    time.Time
}

// all is what every decision is forgotten by.
var all = []memory.Ref{{Kind: "decision", ID: "*"}}

type atLeastKey struct{}

// WithAtLeast returns a context in which the service answers by its state of
// this revision, or a newer one: what a [Receipt] has, or the header
// Ostiary-Revision of a write said.
func WithAtLeast(ctx context.Context, revision string) context.Context {
	return context.WithValue(ctx, atLeastKey{}, revision)
}

// Headers of requests and answers.
const (
	atLeastHeader  = "Ostiary-At-Least"
	leaseHeader    = "Ostiary-Lease"
	reasonsHeader  = "Ostiary-Reasons"
	decisionHeader = "Ostiary-Decision"
	revisionHeader = "Ostiary-Revision"
)

// maxAnswer bounds what is read of an answer: the largest is a bundle of policies,
// 3 MiB of text of which each character can need an escape.
const maxAnswer = 8 << 20

// send sends r with who's credential and returns the body and headers of an
// answer that is no error.
func (c *Client) send(ctx context.Context, who *credential, r request) ([]byte, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, max(c.timeout, r.timeout))
	defer cancel()
	for attempt := 0; ; attempt++ {
		answer, header, err := c.attempt(ctx, who, &r)
		if err == nil {
			return answer, header, nil
		}
		wait, again := err.again(attempt)
		if attempt >= c.retries || !again || r.writes && !err.unsent() {
			return nil, header, err
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
			return nil, header, err // there is no time for another
		}
		select {
		case <-ctx.Done():
			return nil, header, err
		case <-time.After(wait):
		}
	}
}

func (c *Client) attempt(ctx context.Context, who *credential, ask *request) ([]byte, http.Header, *Error) {
	r, err := http.NewRequestWithContext(ctx, ask.method, c.base+ask.path, bytes.NewReader(ask.body))
	if err != nil {
		return nil, nil, &Error{Err: err}
	}
	for name, values := range who.headers() {
		r.Header[name] = values
	}
	if ask.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if r.Header["Cookie"] != nil && strings.HasPrefix(ask.path, c.auth) {
		// Whether another site had it sent was looked at here ([Client.presented]);
		// that API wants to be told so.
		r.Header.Set("Origin", c.origin)
	}
	r.Header.Set(reasonsHeader, "tell")
	r.Header.Set("Accept", "application/json")
	if revision, ok := ctx.Value(atLeastKey{}).(string); ok {
		r.Header.Set(atLeastHeader, revision)
	} else if c.remembered != nil {
		r.Header.Set(leaseHeader, "tell")
	}
	if f := access.FactsFrom(ctx); f != nil && f.RequestID != "" {
		r.Header.Set("X-Request-Id", f.RequestID)
	}
	res, err := c.http.Do(r)
	if err != nil {
		return nil, nil, &Error{Err: err}
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, res.Header, &Error{Err: err}
	case len(answer) > maxAnswer:
		return nil, res.Header, &Error{Err: errors.New("the answer is too long")}
	case !done(res.StatusCode):
		return nil, res.Header, failure(res, answer)
	}
	return answer, res.Header, nil
}

// again tells whether a question that failed with e may be answered another
// time, and how long to wait for it: longer each time, not all at once.
func (e *Error) again(attempt int) (time.Duration, bool) {
	if e.Status != 0 && e.Status != http.StatusBadGateway && e.Status != http.StatusServiceUnavailable && e.Status != http.StatusGatewayTimeout {
		return 0, false
	}
	if errors.Is(e.Err, context.Canceled) {
		return 0, false
	}
	wait := 50 * time.Millisecond << min(attempt, 6)
	return max(wait/2+rand.N(wait), e.RetryAfter), true
}

// failure is what an answer says that is none.
func failure(res *http.Response, body []byte) *Error {
	e := &Error{Status: res.StatusCode, Decision: res.Header.Get(decisionHeader), challenge: res.Header.Get("WWW-Authenticate")}
	// A problem of the native API, an error of Better Auth's, or one of AuthZEN's.
	var said struct {
		Code, Detail, Message string
		Reasons               []access.Reason
		Errors                []Mistake
		Error                 struct{ Message string }
		Details               struct{ TryAgainIn float64 } // milliseconds
	}
	// What is none of them, as of a proxy between, has a status all the same.
	_ = decode(body, &said)
	e.Code, e.Detail, e.Reasons, e.Mistakes = said.Code, cmp.Or(said.Detail, said.Message, said.Error.Message), said.Reasons, said.Errors
	e.RetryAfter = time.Duration(said.Details.TryAgainIn * float64(time.Millisecond))
	for _, name := range []string{"Retry-After", "X-Retry-After"} {
		if seconds, err := strconv.ParseUint(res.Header.Get(name), 10, 31); err == nil {
			e.RetryAfter = time.Duration(seconds) * time.Second
		}
	}
	return e
}

// leased is how long the service vouches for an answer.
func leased(h http.Header) time.Duration {
	ms, err := strconv.ParseUint(h.Get(leaseHeader), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// decode reads an answer into v.
func decode(answer []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(answer))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return &Error{Err: fmt.Errorf("the answer is not as it must be: %w", err)}
	}
	return nil
}
