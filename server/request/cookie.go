package request

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/ostiary/ostiary/authn"
)

// Names of cookies, before prefixes.
const (
	SessionCookie      = "session_token"
	SessionDataCookie  = "session_data"
	DontRememberCookie = "dont_remember"
	AdminSessionCookie = "admin_session"
)

// CookieName returns the name in force of one of our cookies:
// "__Secure-better-auth.session_token".
func (rd *Reader) CookieName(name string) string {
	name = rd.cookiePrefix + "." + name
	if rd.secure {
		name = "__Secure-" + name
	}
	return name
}

// SecureCookies reports whether cookies are for HTTPS only.
func (rd *Reader) SecureCookies() bool { return rd.secure }

// Cookie returns one of our cookies as it stands in the header, without
// quotes, still percent-encoded.
func (rd *Reader) Cookie(r *http.Request, name string) (string, bool) {
	return findCookie(r.Header["Cookie"], rd.CookieName(name))
}

// CookieText returns one of our cookies, percent-decoded where that is
// possible.
func (rd *Reader) CookieText(r *http.Request, name string) (string, bool) {
	v, ok := rd.Cookie(r, name)
	if u, err := url.PathUnescape(v); err == nil {
		v = u
	}
	return v, ok
}

// SignedCookie returns what one of our signed cookies carries. One whose
// signature is not ours is absent.
func (rd *Reader) SignedCookie(r *http.Request, name string) (string, bool) {
	raw, ok := rd.Cookie(r, name)
	if !ok {
		return "", false
	}
	return authn.VerifyCookie(rd.secrets, raw)
}

// SignCookie returns the cookie value that SignedCookie reads.
func (rd *Reader) SignCookie(value string) string {
	return authn.SignCookie(rd.Secret(), value)
}

// Secret returns the secret that signs.
func (rd *Reader) Secret() string {
	if len(rd.secrets) == 0 {
		return ""
	}
	return rd.secrets[0]
}

// findCookie looks for the first cookie of that name. It does not use
// net/http's parser, which drops values that Better Auth accepts.
func findCookie(headers []string, name string) (string, bool) {
	for _, h := range headers {
		for part := range strings.SplitSeq(h, ";") {
			n, v, ok := strings.Cut(part, "=")
			if !ok || strings.TrimSpace(n) != name {
				continue
			}
			v = strings.TrimSpace(v)
			if strings.HasPrefix(v, `"`) {
				v = v[1:max(1, len(v)-1)]
			}
			return v, true
		}
	}
	return "", false
}
