package forwardauth

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// maxTarget bounds a request target, in bytes.
const maxTarget = 8 << 10

// Target is what a request line asks for, in the one form in which it is
// judged. Two targets whose segments are the same have the same Path, and the
// other way round.
type Target struct {
	Raw      string   // as sent, with the query
	Path     string   // the segments, each after a slash, with the fewest escapes there can be; "/" if there are none
	Segments []string // decoded
	Query    string   // as sent, without "?"
}

// ErrAmbiguous reports a target that the application behind the proxy could
// take for another path than the one that is judged.
var ErrAmbiguous = errors.New("the target can be read in more than one way")

// ReadTarget reads a request target.
//
// The application gets what the client sent, whatever is judged here, and
// nobody knows how often it decodes, whether it resolves dot segments before or
// after, and where it cuts. So nothing is repaired: a target is refused, with
// ErrAmbiguous, unless every usual way to read it leads to the same segments.
// What is left to differ is harmless: escapes of characters that mean nothing
// to a path, and a slash at the end.
//
// Refused are thus empty and dot segments; backslashes, semicolons, percent
// signs, question marks and number signs that are part of a segment, encoded
// or not; control characters, white space at either end of a segment, bytes
// that are not UTF-8 or that had to be escaped and are not, and characters that
// compatibility folding turns into a letter or a digit of ASCII or one of the
// above; and targets that are not a path, but for a URL of this very host.
func ReadTarget(raw, scheme, host string) (Target, error) {
	t := Target{Raw: raw}
	if len(raw) > maxTarget {
		return Target{}, ErrAmbiguous
	}
	for i := range len(raw) {
		if c := raw[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return Target{}, ErrAmbiguous
		}
	}
	origin, ok := originForm(raw, scheme, host)
	if !ok {
		return Target{}, ErrAmbiguous
	}
	path, query, _ := strings.Cut(origin, "?")
	t.Query = query
	if strings.HasPrefix(path, "//") {
		return Target{}, ErrAmbiguous
	}
	path = path[1:]
	// "/a/" is what "/a" is: some applications tell them apart, many don't, and
	// a rule about the one must not be passed by with the other.
	path = strings.TrimSuffix(path, "/")
	if path == "" {
		t.Path, t.Segments = "/", []string{}
		return t, nil
	}
	var canonical strings.Builder
	for segment := range strings.SplitSeq(path, "/") {
		decoded, ok := decode(segment)
		if !ok || !plain(decoded) {
			return Target{}, ErrAmbiguous
		}
		t.Segments = append(t.Segments, decoded)
		canonical.WriteByte('/')
		escape(&canonical, decoded, segmentCharacters)
	}
	t.Path = canonical.String()
	return t, nil
}

// originForm returns the target from its first slash on: of an absolute one
// that is of this host, without the beginning.
// The scheme is compared only if it is known.
func originForm(raw, scheme, host string) (string, bool) {
	if strings.HasPrefix(raw, "/") {
		return raw, true
	}
	s, rest, ok := strings.Cut(raw, "://")
	if s = strings.ToLower(s); !ok || s != "http" && s != "https" || scheme != "" && s != scheme {
		return "", false
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 || rest[end] != '/' {
		return "", false
	}
	name, ok := readHost(rest[:end])
	return rest[end:], ok && host != "" && name == host
}

// decode undoes percent escapes, once.
func decode(s string) (string, bool) {
	if strings.IndexByte(s, '%') < 0 {
		return s, true
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		high, ok1 := unhex(s[i+1])
		low, ok2 := unhex(s[i+2])
		if !ok1 || !ok2 {
			return "", false
		}
		b = append(b, high<<4|low)
		i += 2
	}
	return string(b), true
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// plain reports whether a decoded segment means nothing but itself to whatever
// reads it.
func plain(segment string) bool {
	if !utf8.ValidString(segment) || strings.TrimSpace(segment) != segment || strings.ContainsFunc(segment, unicode.IsControl) {
		return false
	}
	if strings.Trim(segment, ".") == "" || strings.ContainsAny(segment, `/\%;?#`) {
		return false
	}
	// Some applications fold "．．／" into "../", and "ａ" into "a".
	return !strings.ContainsFunc(segment, func(r rune) bool {
		return r >= utf8.RuneSelf && strings.ContainsFunc(norm.NFKC.String(string(r)), func(r rune) bool {
			return r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune(` ./\%;?#`, r))
		})
	})
}

// segmentCharacters are the pchar of RFC 3986 that are not letters or digits,
// without ";".
const segmentCharacters = "-._~!$&'()*+,=:@"

// escape appends s with everything escaped but letters, digits and the clear.
func escape(to *strings.Builder, s, clear string) {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(clear, c) >= 0 {
			to.WriteByte(c)
			continue
		}
		to.WriteByte('%')
		to.WriteByte(digits[c>>4])
		to.WriteByte(digits[c&15])
	}
}

// readHost returns the name in a Host header: in lower case, without the port
// and a final dot, so that each host has one spelling.
func readHost(s string) (string, bool) {
	name, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		name, port = s[:i], s[i+1:]
		if strings.Trim(port, "0123456789") != "" || port == "" || len(port) > 5 {
			return "", false
		}
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return strings.ToLower(inner), ok && inner != "" && strings.Trim(inner, "0123456789abcdefABCDEF:.") == ""
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "" || len(name) > 253 || strings.HasPrefix(name, ".") || strings.Contains(name, "..") {
		return "", false
	}
	for i := range len(name) {
		if c := name[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return "", false
		}
	}
	return name, true
}

// readMethod returns the method if it is spelt as methods are: it is compared
// by case, and an application that folds "get" must not be asked about "GET".
func readMethod(s string) (string, bool) {
	if s == "" || len(s) > 32 {
		return "", false
	}
	for i := range len(s) {
		if c := s[i]; !('A' <= c && c <= 'Z' || c == '-') {
			return "", false
		}
	}
	return s, true
}

// readScheme returns the scheme of the client's connection.
func readScheme(s string) (string, bool) {
	s = strings.ToLower(s)
	switch s {
	case "ws": // as some proxies call it when the connection is to be upgraded
		s = "http"
	case "wss":
		s = "https"
	}
	return s, s == "http" || s == "https"
}
