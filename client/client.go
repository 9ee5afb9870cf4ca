// Package client asks a remote Ostiary, in the words of package access.
//
// A [Client] is to a service what an embedded instance is to its database: it
// finds out who calls ([Client.Authenticate]), decides ([Client.Decide]), and
// protects routes ([Client.Require]). A program that takes a [guard.Service]
// works with either. The package brings no policy engine, no database driver
// and no router.
//
// # Whose credential
//
// What a request to the program presents is passed on as it is: one key header,
// Authorization, or the session cookie, and nothing else of the request but its
// address and user agent. The program's own key ([Options.Key]) is used to ask
// about subjects that the program names ([Client.Named]), and never in the place of a
// credential that is missing.
//
// # Failure
//
// An error means that there is no decision, and the Decision that comes with it
// denies. Tell errors apart with errors.Is and errors.As: [ErrUnauthenticated],
// [ErrDenied], [ErrInvalid], [ErrLimited], [ErrUnavailable]; *[Error] has what the
// service said.
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
	// Timeout bounds a question with all its attempts; default 5s. It comes on top
	// of what the context says.
	Timeout time.Duration
	// Retries is how often a question is asked again that was not answered;
	// default 2, negative never. Everything that a Client asks can be asked
	// twice: it changes nothing but the count of a key with limits.
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
		c.key = carrying(http.Header{"Authorization": {"Bearer " + o.Key}})
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
// this revision, or a newer one: what the header Ostiary-Revision of a write said.
func WithAtLeast(ctx context.Context, revision string) context.Context {
	return context.WithValue(ctx, atLeastKey{}, revision)
}

// Headers of requests and answers.
const (
	atLeastHeader  = "Ostiary-At-Least"
	leaseHeader    = "Ostiary-Lease"
	decisionHeader = "Ostiary-Decision"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 4 << 20

// send asks with who's credential and returns the body and headers of a 200.
// What it asks can be asked twice.
func (c *Client) send(ctx context.Context, who *credential, method, path string, body []byte) ([]byte, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	for attempt := 0; ; attempt++ {
		answer, header, err := c.attempt(ctx, who, method, path, body)
		if err == nil {
			return answer, header, nil
		}
		wait, again := err.again(attempt)
		if attempt >= c.retries || !again {
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

func (c *Client) attempt(ctx context.Context, who *credential, method, path string, body []byte) ([]byte, http.Header, *Error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, &Error{Err: err}
	}
	for name, values := range who.headers() {
		r.Header[name] = values
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
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
	case res.StatusCode != http.StatusOK:
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
	e := &Error{Status: res.StatusCode, challenge: res.Header.Get("WWW-Authenticate")}
	var problem struct {
		Code, Detail string
		Reasons      []access.Reason
	}
	// What is no problem, as of a proxy between, has a status all the same.
	if json.Unmarshal(body, &problem) == nil {
		e.Code, e.Detail, e.Reasons = problem.Code, problem.Detail, problem.Reasons
	}
	if seconds, err := strconv.ParseUint(res.Header.Get("Retry-After"), 10, 31); err == nil {
		e.RetryAfter = time.Duration(seconds) * time.Second
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
