// Package betterauth speaks the HTTP API of Better Auth: core, username, admin
// and api-key, with Ostiary's additions.
//
// Paths, bodies, codes, messages and cookies are Better Auth's, so that its
// clients work unchanged. The rules behind them are Ostiary's: every managing
// call is a decision, and API keys are as good as sessions on every route, as
// far as owner and grants permit.
//
// # Tokens that are not shown
//
// Session tokens are shown at an interactive session only, to their own person
// and to those who may impersonate that person. To everybody else, to keys and
// to sessions obtained with keys, the member "token" of a session holds the
// session's id instead, which revoke-session and admin/revoke-user-session take in
// its place, and which is no credential. The virtual session that get-session answers to an API key
// carries the key's id, never the key.
package betterauth

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/request"
)

// Options configures the surface. The zero value works.
type Options struct {
	BasePath string // default "/api/auth"
	// BaseURL is the service's origin as browsers see it. Without one, each
	// request's own host counts.
	BaseURL string
	// TrustedOrigins may send requests with cookies and be redirected to:
	// origins, or patterns with * and ? of origins or hosts.
	TrustedOrigins []string
	CookieDomain   string        // default: the host alone
	SessionLife    time.Duration // of session cookies; default 7 days; as authn.Options.SessionLife
	// CookieCache writes the cookie session_data, for applications that
	// read it. It is never believed here.
	CookieCache     bool
	CookieCacheLife time.Duration // default 5 minutes
	RateLimit       bool          // bound requests per client address and path
	ChangeEmail     bool          // people may change an unverified address
	DeleteUser      bool          // people may delete their accounts
	BannedMessage   string        // told to banned users at sign-in
	MinKeyLength    int           // shorter key headers are refused unread; default 64
}

// New returns the handler of everything below the base path.
func New(o Options, rd *request.Reader, auth *authn.Service, engine authz.Decider, log *slog.Logger) (http.Handler, error) {
	o.BasePath = cmp.Or(o.BasePath, "/api/auth")
	o.SessionLife = cmp.Or(o.SessionLife, 7*24*time.Hour)
	o.CookieCacheLife = cmp.Or(o.CookieCacheLife, 5*time.Minute)
	o.MinKeyLength = cmp.Or(o.MinKeyLength, 64)
	o.BannedMessage = cmp.Or(o.BannedMessage, "You have been banned from this application. Please contact support if you believe this is an error.")
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if !strings.HasPrefix(o.BasePath, "/") || strings.HasSuffix(o.BasePath, "/") {
		return nil, &authn.InvalidError{Field: "BasePath", Reason: "must begin with / and not end with it"}
	}
	origins, err := newOrigins(o.BaseURL, o.TrustedOrigins)
	if err != nil {
		return nil, err
	}
	s := &surface{o: o, rd: rd, auth: auth, engine: engine, log: log, origins: origins, routes: map[string]*route{}}
	if o.RateLimit {
		s.limiter = newLimiter()
	}
	for _, routes := range [][]route{s.coreRoutes(), s.usernameRoutes(), s.adminRoutes(), s.keyRoutes()} {
		for i := range routes {
			s.routes[routes[i].method+" "+routes[i].path] = &routes[i]
		}
	}
	return &handler{s, s.routes}, nil
}

// handler is what New returns: a surface, and what it routes.
type handler struct {
	http.Handler
	routes map[string]*route
}

// Routes lists what is routed below the base path, as "POST /sign-out".
func (h *handler) Routes() []string { return slices.Sorted(maps.Keys(h.routes)) }

type surface struct {
	o       Options
	rd      *request.Reader
	auth    *authn.Service
	engine  authz.Decider
	log     *slog.Logger
	origins *origins
	limiter *limiter
	routes  map[string]*route
}

// route is one line of the API.
type route struct {
	method, path string
	// needs is what a caller without a session or key is answered; nil if
	// the route is public: no credential is then looked at.
	needs *apiError
	forms bool // form encoding is accepted too
	login bool // protected against login CSRF
	// hook runs before validation.
	hook   func(*call) error
	body   schema
	query  schema
	handle func(*call) (any, error)
	words  []wording // of errors, before the common table
}

// call is a request on its way through a route.
type call struct {
	s     *surface
	w     http.ResponseWriter
	r     *http.Request
	route *route
	ctx   context.Context

	body   members // of an object body
	whole  value   // the whole body
	query  members
	place  request.Place
	caller authn.Principal
	// session is the caller's, after a possible extension; nil with a key.
	session      *authn.Session
	dontRemember bool // a valid dont_remember cookie came along
	cookies      []string
}

// ServeHTTP does, in this order: rate limit, routing, body syntax, origin,
// hooks (with the key in a header), validation, session, permission.
func (s *surface) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The path is compared as it was sent, so that no spelling of a path
	// (encoded, dotted, doubled slashes) is anything but unknown.
	path, ours := strings.CutPrefix(r.URL.EscapedPath(), s.o.BasePath)
	rt := s.routes[r.Method+" "+path]
	if !ours {
		rt = nil
	}
	if s.limiter != nil {
		if wait, ok := s.limiter.take(cmp.Or(s.rd.Address(r), s.rd.Client(r)), path, rt != nil, time.Now()); !ok {
			w.Header().Set("X-Retry-After", wait)
			writeJSON(w, http.StatusTooManyRequests, errTooManyRequests)
			return
		}
	}
	if rt == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	c := &call{s: s, w: w, r: r, route: rt, ctx: r.Context()}
	out, err := c.run()
	c.answer(out, err)
}

func (c *call) run() (any, error) {
	rt := c.route
	_, c.dontRemember = c.s.rd.SignedCookie(c.r, request.DontRememberCookie)
	c.query = queryMembers(c.r.URL.RawQuery)
	if c.r.Method != http.MethodGet {
		if rt.path != getSessionPath {
			if err := c.readBody(); err != nil {
				return nil, err
			}
		}
		if err := c.checkOrigin(); err != nil {
			return nil, err
		}
	}
	if rt.hook != nil {
		if err := rt.hook(c); err != nil {
			return nil, err
		}
	}
	var cookie authn.Credential
	if rt.needs != nil {
		cred, place, err := c.credential()
		c.place = place
		if err != nil && place != request.InCookie {
			return nil, err
		}
		if place == request.InCookie {
			if err == nil {
				cookie = cred
			} // else a cookie that we did not sign is none
		} else if err := c.authenticate(cred); err != nil {
			return nil, err
		}
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	if rt.login {
		if err := c.checkLogin(); err != nil {
			return nil, err
		}
	}
	if cookie.Kind != authn.NoCredential {
		if err := c.resume(cookie); err != nil && err != errDead {
			return nil, err
		}
	}
	if rt.needs != nil && c.caller.Anonymous() && rt.needs != optional {
		return nil, rt.needs
	}
	return rt.handle(c)
}

// credential reads the one that counts. get-session does not look at
// Authorization: it answers about the cookie, as it always has.
func (c *call) credential() (authn.Credential, request.Place, error) {
	if c.route.path != getSessionPath {
		return c.s.rd.Credential(c.r)
	}
	r := c.r
	if r.Header.Get("Authorization") != "" {
		r = r.Clone(r.Context())
		r.Header.Del("Authorization")
	}
	return c.s.rd.Credential(r)
}

// authenticate takes a credential from a header.
func (c *call) authenticate(cred authn.Credential) error {
	if cred.Kind == authn.APIKeySecret && len(cred.Secret) < c.s.o.MinKeyLength {
		return errShortKey
	}
	caller, err := c.s.auth.Authenticate(c.ctx, cred)
	if err != nil {
		return refusedCredential(err)
	}
	c.become(caller)
	if c.session == nil {
		return nil
	}
	_, err = c.extend()
	return err
}

func (c *call) become(p authn.Principal) {
	c.caller, c.session = p, nil
	if s := p.Session(); s != nil {
		own := *s
		c.session = &own
	}
}

func (c *call) extend() (bool, error) {
	if c.route.path == getSessionPath && c.query.truthy("disableRefresh") {
		return false, nil
	}
	s, extended, err := c.s.auth.Extend(c.ctx, c.caller, c.dontRemember)
	if err == nil && extended {
		c.session = &s
	}
	return extended, err
}

// resume takes up the session of a verified cookie. One that is over clears
// the cookies and is errDead.
func (c *call) resume(cred authn.Credential) error {
	caller, err := c.s.auth.Authenticate(c.ctx, cred)
	if err != nil {
		if isUnavailable(err) {
			return err
		}
		c.clearSession()
		c.w.Header().Set("WWW-Authenticate", challenge)
		return errDead
	}
	c.become(caller)
	if c.session == nil {
		return errDead
	}
	extended, err := c.extend()
	if err != nil {
		return err
	}
	if extended {
		c.setSessionToken(*c.session, c.dontRemember)
	}
	c.refreshSessionData(extended)
	return nil
}

// own returns the caller's user id.
func (c *call) own() string {
	if u := c.caller.User(); u != nil {
		return u.ID
	}
	return ""
}

func (c *call) device() authn.Device {
	return authn.Device{IPAddress: c.s.rd.Address(c.r), UserAgent: c.r.UserAgent()}
}

// nobody is the id of no user. It stands in for an empty id, which to the
// service means the caller.
const nobody = " "

func orNobody(id string) string { return cmp.Or(id, nobody) }

func queryMembers(raw string) members {
	values, _ := url.ParseQuery(raw)
	m := members{}
	for name, vs := range values {
		if len(vs) == 1 {
			m[name] = jsonText(vs[0])
		} else {
			m[name] = mustJSON(vs)
		}
	}
	return m
}
