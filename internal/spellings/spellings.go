// Package spellings has ways to write a path so that two programs read it
// differently, and a reader that falls for all of them. It is for tests.
package spellings

import (
	_ "embed"
	"path"
	"strconv"
	"strings"

	"golang.org/x/text/unicode/norm"
)

//go:embed attacks.txt
var attacks string

// Attacks are request targets that lead to /admin/secret for somebody who reads
// them in some way. Each is as it stands in a request line to host.
func Attacks(host string) []string {
	var all []string
	for line := range strings.Lines(attacks) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "# ") {
			continue
		}
		target, err := strconv.Unquote(`"` + line + `"`)
		if err != nil {
			panic(line + ": " + err.Error())
		}
		all = append(all, strings.ReplaceAll(target, "HOST", host))
	}
	return all
}

// Readings are the paths that careless applications take a target for: they
// decode once or again and again, cut at what they take for an end, drop path
// parameters and white space, turn backslashes round, fold characters, and
// resolve dot segments before or after any of it.
func Readings(target string) []string {
	if _, rest, ok := strings.Cut(target, "://"); ok {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			target = rest[i:]
		}
	}
	target, _, _ = strings.Cut(target, "?")
	seen := map[string]bool{}
	var all []string
	var read func(p string, depth int)
	read = func(p string, depth int) {
		if seen[p] || depth > 5 {
			return
		}
		seen[p] = true
		all = append(all, path.Clean("/"+p))
		for _, lenient := range []func(string) string{
			decode, func(s string) string { return path.Clean("/" + s) },
			func(s string) string { return strings.ReplaceAll(s, `\`, "/") },
			withoutParameters, cut, trimmed, overlong.Replace, norm.NFKC.String,
		} {
			read(lenient(p), depth+1)
		}
	}
	read(target, 0)
	return all
}

// decode undoes what escapes it understands and leaves the rest.
func decode(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		digits, width := i+1, 2
		if i+1 < len(s) && s[i+1] == 'u' { // as old servers have it
			digits, width = i+2, 4
		}
		if s[i] == '%' && digits+width <= len(s) {
			if n, err := strconv.ParseUint(s[digits:digits+width], 16, 32); err == nil {
				if width == 2 {
					b.WriteByte(byte(n))
				} else {
					b.WriteRune(rune(n))
				}
				i = digits + width - 1
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func withoutParameters(s string) string {
	segments := strings.Split(s, "/")
	for i := range segments {
		segments[i], _, _ = strings.Cut(segments[i], ";")
	}
	return strings.Join(segments, "/")
}

func cut(s string) string {
	if i := strings.IndexAny(s, "\x00?#\r\n"); i >= 0 {
		return s[:i]
	}
	return s
}

func trimmed(s string) string {
	segments := strings.Split(s, "/")
	for i := range segments {
		segments[i] = strings.TrimSpace(segments[i])
	}
	return strings.Join(segments, "/")
}

var overlong = strings.NewReplacer("\xc0\xaf", "/", "\xc0\xae", ".", "\xe0\x80\xae", ".", "\xe0\x80\xaf", "/")
