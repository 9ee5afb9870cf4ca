// Package request reads what an HTTP request says: the one credential that
// counts, the client's address, a body within its limits. Beside that it
// notes, for every answer, the decision and the revision it rests on.
//
// # One credential
//
// A request presents at most one credential. A header wins over a cookie, and
// the cookie is then not even looked at; two headers that disagree are
// refused, so that nothing is ever merged from two.
package request

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/ostiary/ostiary/authn"
)

// Options configures the reading. The zero value works.
type Options struct {
	KeyHeaders     []string // default ["x-api-key"]; empty but not nil: none
	CookiePrefix   string   // default "better-auth"
	SecureCookies  bool     // cookie names carry "__Secure-"
	Secrets        []string // of signed cookies; the first signs
	AddressHeaders []string // default ["x-forwarded-for"]
	TrustedProxies []string // addresses or CIDRs
	MaxBody        int64    // bytes; default 1 MiB
	MaxDepth       int      // of JSON; default 32
}

// Reader reads requests. It is safe for concurrent use.
type Reader struct {
	keyHeaders     []string // as they stand in an http.Header
	cookiePrefix   string
	secure         bool
	secrets        []string
	addressHeaders []string // likewise
	proxies        []netip.Prefix
	maxBody        int64
	maxDepth       int
}

// New returns a Reader. It reports every mistake in o at once.
func New(o Options) (*Reader, error) {
	rd := &Reader{
		keyHeaders:     o.KeyHeaders,
		cookiePrefix:   o.CookiePrefix,
		secure:         o.SecureCookies,
		secrets:        o.Secrets,
		addressHeaders: o.AddressHeaders,
		maxBody:        o.MaxBody,
		maxDepth:       o.MaxDepth,
	}
	if rd.keyHeaders == nil {
		rd.keyHeaders = []string{"x-api-key"}
	}
	if rd.cookiePrefix == "" {
		rd.cookiePrefix = "better-auth"
	}
	if rd.addressHeaders == nil {
		rd.addressHeaders = []string{"x-forwarded-for"}
	}
	rd.addressHeaders = canonical(rd.addressHeaders)
	if rd.maxBody <= 0 {
		rd.maxBody = 1 << 20
	}
	if rd.maxDepth <= 0 {
		rd.maxDepth = 32
	}
	var errs []error
	for _, p := range o.TrustedProxies {
		prefix, err := ParsePrefix(p)
		if err != nil {
			errs = append(errs, &authn.InvalidError{Field: "TrustedProxies", Reason: fmt.Sprintf("%q is neither an address nor a CIDR", p)})
			continue
		}
		rd.proxies = append(rd.proxies, prefix)
	}
	for _, h := range rd.keyHeaders {
		if strings.EqualFold(h, "authorization") || strings.EqualFold(h, "cookie") {
			errs = append(errs, &authn.InvalidError{Field: "KeyHeaders", Reason: fmt.Sprintf("%q has a meaning of its own", h)})
		}
	}
	rd.keyHeaders = canonical(rd.keyHeaders)
	return rd, errors.Join(errs...)
}

// canonical returns names of headers as they stand in an http.Header.
func canonical(names []string) []string {
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = http.CanonicalHeaderKey(name)
	}
	return list
}

// Challenge is the WWW-Authenticate of an answer that asks for a credential,
// and ChallengeInvalid that of one which refuses the credential that came.
const (
	Challenge        = `Bearer realm="ostiary"`
	ChallengeInvalid = Challenge + `, error="invalid_token"`
)

// ErrAmbiguous reports that a request presents two different credentials.
var ErrAmbiguous = errors.New("ambiguous credentials")

// ErrCrossOrigin reports a write with a cookie that another site may have made a
// browser send.
var ErrCrossOrigin = errors.New("cross-origin request with a cookie")

// Place is where a request carries its credential.
type Place int

const (
	Nowhere         Place = iota
	InKeyHeader           // x-api-key, or what was configured
	InAuthorization       // Authorization: Bearer
	InCookie              // the signed session cookie
)

// Credential returns the credential that counts and where it was. The error
// is ErrAmbiguous, or authn.ErrBadCredential for one that can't be good:
// another Authorization scheme than Bearer, or a session cookie that we did
// not sign. The Place is set with an error too.
func (rd *Reader) Credential(r *http.Request) (authn.Credential, Place, error) {
	c, place, err := rd.headerCredential(r)
	if place != Nowhere {
		return c, place, err
	}
	raw, ok := rd.Cookie(r, SessionCookie)
	if !ok || raw == "" {
		return authn.Credential{}, Nowhere, nil
	}
	token, ok := authn.VerifyCookie(rd.secrets, raw)
	if !ok {
		return authn.Credential{}, InCookie, authn.ErrBadCredential
	}
	return authn.Credential{Kind: authn.SessionToken, Secret: authn.Secret(token)}, InCookie, nil
}

func (rd *Reader) headerCredential(r *http.Request) (authn.Credential, Place, error) {
	key, err := rd.Key(r)
	if err != nil {
		return authn.Credential{}, InKeyHeader, err
	}
	bearer, sent, err := bearerToken(r.Header["Authorization"])
	switch {
	case key != "" && sent && (err != nil || bearer != string(key)):
		return authn.Credential{}, InKeyHeader, ErrAmbiguous
	case key != "":
		return authn.Credential{Kind: authn.APIKeySecret, Secret: key}, InKeyHeader, nil
	case sent && err != nil:
		return authn.Credential{}, InAuthorization, err
	case sent:
		return authn.Credential{Kind: authn.Bearer, Secret: authn.Secret(bearer)}, InAuthorization, nil
	}
	return authn.Credential{}, Nowhere, nil
}

// Key returns what the key headers hold, "" if they are absent or empty.
func (rd *Reader) Key(r *http.Request) (authn.Secret, error) {
	var key string
	for _, h := range rd.keyHeaders {
		for _, v := range r.Header[h] {
			switch {
			case v == "" || v == key:
			case key == "":
				key = v
			default:
				return "", ErrAmbiguous
			}
		}
	}
	return authn.Secret(key), nil
}

// bearerToken reads Authorization headers (RFC 6750). sent is false if there
// is none, or only empty ones.
func bearerToken(values []string) (token string, sent bool, err error) {
	var value string
	for _, v := range values {
		switch v = strings.TrimSpace(v); {
		case v == "" || v == value:
		case value == "":
			value = v
		default:
			return "", true, ErrAmbiguous
		}
	}
	if value == "" {
		return "", false, nil
	}
	scheme, rest, ok := strings.Cut(value, " ")
	token = strings.TrimLeft(rest, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") || !isToken68(token) {
		return "", true, authn.ErrBadCredential
	}
	return token, true, nil
}

// isToken68 reports whether s is the b64token of RFC 6750.
func isToken68(s string) bool {
	s = strings.TrimRight(s, "=")
	if s == "" {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~+/", c) >= 0) {
			return false
		}
	}
	return true
}
