package server

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

// plain reports whether u's path is spelt in the one way that is routed: it
// begins with a single slash, has no empty, "." or ".." segment and no
// backslash, and escapes only what has to be escaped. A trailing slash is
// plain; whether something is there is the router's affair.
//
// Everything a static route consists of has to stand in clear text, so a
// plain path is routed by the very bytes that were sent.
//
// With slashes, a segment may contain an escaped slash: in OPA's API it is a
// part of a name, and is told to the policy as such.
func plain(u *url.URL, slashes bool) bool {
	p := u.EscapedPath()
	if u.RawPath != "" && u.RawPath != p {
		return false // somebody changed Path alone; chi would route by RawPath
	}
	if u.Opaque != "" || p == "" || p[0] != '/' {
		return false
	}
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c == '/':
			if rest := p[i+1:]; strings.HasPrefix(rest, "/") || dotSegment(rest) {
				return false
			}
		case c == '%':
			// EscapedPath yields valid escapes only.
			c := unhex(p[i+1])<<4 | unhex(p[i+2])
			if !escapable(c) && !(slashes && c == '/') {
				return false
			}
			i += 2
		case c <= ' ' || c >= 0x7f || c == '\\':
			return false
		}
	}
	return utf8.ValidString(u.Path)
}

// dotSegment reports whether s begins with a segment that is "." or "..".
func dotSegment(s string) bool {
	segment, _, _ := strings.Cut(s, "/")
	// With path parameters some servers take "..;x" for "..".
	segment, _, _ = strings.Cut(segment, ";")
	return segment == "." || segment == ".."
}

// escapable reports whether c may appear as a percent escape: it is not one
// of the unreserved characters (RFC 3986, 2.3), which have to be written as
// they are, and does not mean anything to a path.
func escapable(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return false
	case c < ' ', c == 0x7f:
		return false
	}
	return strings.IndexByte(`-._~/\%;`, c) < 0
}

func unhex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	}
	return c - '0'
}
