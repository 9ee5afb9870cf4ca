package betterauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"

	"github.com/ostiary/ostiary/authn"
)

// origins says which origins may send requests that carry cookies, and where
// a redirect may lead.
type origins struct {
	own      string // empty: the request's own
	patterns []originPattern
}

type originPattern struct {
	exact string         // an origin, or the beginning of a URL with a scheme of its own
	glob  *regexp.Regexp // instead, of origins or hosts
	hosts bool           // glob is of hosts
	ipv4  bool           // glob consists of digits, dots and wildcards: it means addresses
}

func newOrigins(base string, trusted []string) (*origins, error) {
	o := &origins{}
	var errs []error
	if base != "" {
		if o.own = originOf(base); o.own == "" {
			errs = append(errs, &authn.InvalidError{Field: "BaseURL", Reason: fmt.Sprintf("%q is not an http or https URL", base)})
		}
	}
	for _, t := range trusted {
		if t == "" {
			continue
		}
		if !strings.ContainsAny(t, "*?") {
			if u, err := url.Parse(t); err != nil || u.Scheme == "" {
				errs = append(errs, &authn.InvalidError{Field: "TrustedOrigins", Reason: fmt.Sprintf("%q is not an origin", t)})
			}
			if origin := originOf(t); origin != "" {
				t = origin
			}
			o.patterns = append(o.patterns, originPattern{exact: t})
			continue
		}
		p := originPattern{hosts: !strings.Contains(t, "://"), ipv4: strings.Trim(t, "0123456789.*?") == ""}
		glob := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(strings.ToLower(t)))
		p.glob = regexp.MustCompile(`^(?:` + glob + `)$`)
		o.patterns = append(o.patterns, p)
	}
	return o, errors.Join(errs...)
}

// ownOrigin returns the service's origin as the client of r sees it.
func (o *origins) ownOrigin(r *http.Request) string {
	if o.own != "" {
		return o.own
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return originOf(scheme + "://" + r.Host)
}

// trusted reports whether raw, an origin or a URL, is one that may be.
func (o *origins) trusted(r *http.Request, raw string) bool {
	// Browsers read these otherwise than we do; nothing honest has them.
	if strings.ContainsFunc(raw, func(c rune) bool { return c <= ' ' || c == '\\' || c == 0x7f }) {
		return false
	}
	origin := originOf(raw)
	if origin != "" && origin == o.ownOrigin(r) {
		return true
	}
	for _, p := range o.patterns {
		if p.matches(raw, origin) {
			return true
		}
	}
	return false
}

func (p originPattern) matches(raw, origin string) bool {
	switch {
	case p.glob == nil && origin != "":
		return origin == p.exact
	case p.glob == nil:
		return sameCustomScheme(raw, p.exact)
	case origin == "":
		return false
	case !p.hosts:
		return p.glob.MatchString(origin)
	}
	_, host, _ := strings.Cut(origin, "://")
	if p.ipv4 {
		name, _, _ := strings.Cut(host, ":")
		if a, err := netip.ParseAddr(name); err != nil || !a.Is4() {
			return false
		}
	}
	return p.glob.MatchString(host)
}

// sameCustomScheme compares URLs such as "myapp://callback".
func sameCustomScheme(raw, pattern string) bool {
	u, err := url.Parse(raw)
	p, perr := url.Parse(pattern)
	if err != nil || perr != nil || u.Scheme == "" || u.Scheme != p.Scheme || u.User != nil {
		return false
	}
	if p.Host == "" && p.Path == "" {
		return true
	}
	path := strings.TrimSuffix(p.Path, "/")
	return u.Host == p.Host && (u.Path == path || strings.HasPrefix(u.Path, path+"/"))
}

// originOf returns scheme, host and port of an http or https URL, without the
// scheme's own port; "" if raw is none.
func originOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil {
		return ""
	}
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "http":
		host = strings.TrimSuffix(host, ":80")
	case "https":
		host = strings.TrimSuffix(host, ":443")
	default:
		return ""
	}
	return u.Scheme + "://" + host
}

// safePath reports whether a redirect to s stays on the same origin.
func safePath(s string) bool {
	if !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.Contains(s, `\`) ||
		strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return false
	}
	path, _, _ := strings.Cut(strings.ToLower(s), "?")
	return !strings.Contains(path, "%2f") && !strings.Contains(path, "%5c")
}

// checkOrigin is for every request that may change something.
func (c *call) checkOrigin() error {
	if len(c.r.Header["Cookie"]) > 0 {
		if err := c.requireOrigin(); err != nil {
			return err
		}
	}
	for _, p := range []struct {
		member, label string
		err           *apiError
	}{
		{"callbackURL", "callbackURL", errCallbackURL},
		{"redirectTo", "redirectURL", errRedirectURL},
		{"errorCallbackURL", "errorCallbackURL", errErrorCallbackURL},
		{"newUserCallbackURL", "newUserCallbackURL", errNewUserCallbackURL},
	} {
		v := c.body[p.member]
		if !v.truthy() && p.member == "callbackURL" {
			v = c.query[p.member]
		}
		if !v.truthy() {
			continue
		}
		if v.kind() != "string" {
			return &apiError{Status: http.StatusBadRequest, Message: "Invalid " + p.label + ": expected a string"}
		}
		if s := v.text(); !safePath(s) && !c.s.origins.trusted(c.r, s) {
			return p.err
		}
	}
	return nil
}

func (c *call) requireOrigin() error {
	origin := c.r.Header.Get("Origin")
	if origin == "" {
		origin = c.r.Header.Get("Referer")
	}
	if origin == "null" && c.r.Header.Get("Sec-Fetch-Site") == "same-origin" {
		return nil
	}
	if origin == "" || origin == "null" {
		return errMissingOrigin
	}
	if !c.s.origins.trusted(c.r, origin) {
		return errInvalidOrigin
	}
	return nil
}

// checkLogin keeps other sites from signing a browser in to an account of
// theirs. With a Cookie header checkOrigin has done more already.
func (c *call) checkLogin() error {
	h := c.r.Header
	if len(h["Cookie"]) > 0 {
		return nil
	}
	site, mode, dest := h.Get("Sec-Fetch-Site"), h.Get("Sec-Fetch-Mode"), h.Get("Sec-Fetch-Dest")
	if site == "cross-site" && mode == "navigate" {
		return errCrossSiteLogin
	}
	if site+mode+dest != "" || h.Get("Origin") != "" || h.Get("Referer") != "" {
		return c.requireOrigin()
	}
	return nil
}
