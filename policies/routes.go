package policies

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// RouteType is the type of the resource that a request through a reverse proxy
// is to policies; its action is the method.
const RouteType = "route"

// PublicRoute stands in data.routes in place of a permission: anybody may.
const PublicRoute = "public"

// Routes is the table data.routes: which permission a method and a path stand
// for. The order in which it was written means nothing; the most specific
// entry that matches counts.
type Routes []route // most specific first

type route struct {
	method     string // "*": any
	pattern    []step
	permission string
}

// step is one segment of a pattern.
type step struct {
	kind stepKind
	text string // of a literal
}

type stepKind int

// In the order of their precedence.
const (
	literal stepKind = iota
	single           // {name}: one segment, whatever it is
	rest             // *: what is left, perhaps nothing
)

// Permission returns the permission that a request with this method and these
// segments of a path, decoded, stands for: "document:read", or PublicRoute.
// ok is false for a request that no entry matches.
func (rs Routes) Permission(method string, segments []string) (permission string, ok bool) {
	for i := range rs {
		if rs[i].takes(method) && rs[i].matches(segments) {
			return rs[i].permission, true
		}
	}
	return "", false
}

// takes reports whether the entry is about method. What may be read may be
// asked for its head.
func (r *route) takes(method string) bool {
	return r.method == method || r.method == "*" || r.method == "GET" && method == "HEAD"
}

func (r *route) matches(segments []string) bool {
	for i, s := range r.pattern {
		switch {
		case s.kind == rest:
			return true
		case i == len(segments):
			return false
		case s.kind == literal && s.text != segments[i]:
			return false
		}
	}
	return len(segments) == len(r.pattern)
}

// compare orders entries by what they say about the path, from its beginning,
// and then by what they say about the method.
func (r route) compare(o route) int {
	for i := range min(len(r.pattern), len(o.pattern)) {
		a, b := r.pattern[i], o.pattern[i]
		if c := cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.text, b.text)); c != 0 {
			return c
		}
	}
	width := func(method string) int {
		switch method {
		case "*":
			return 2
		case "GET": // takes HEAD too
			return 1
		}
		return 0
	}
	// If one goes on where the other ends, they match a common path only if it
	// goes on with "*"; then the one that ends is the narrower.
	return cmp.Or(cmp.Compare(len(r.pattern), len(o.pattern)),
		cmp.Compare(width(r.method), width(o.method)), cmp.Compare(r.method, o.method))
}

// readRoutes checks and sorts data.routes.
func readRoutes(value any) (Routes, []error) {
	const path = "data.routes"
	list, ok := value.([]any)
	if !ok {
		return nil, []error{fmt.Errorf("%s: must be a list, not %s", path, kind(value))}
	}
	var routes Routes
	var all []error
	for i, v := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		r, errs := readRoute(v)
		for _, err := range errs {
			all = append(all, fmt.Errorf("%s%w", at, err))
		}
		if len(errs) > 0 {
			continue
		}
		if j := slices.IndexFunc(routes, func(o route) bool { return o.compare(r) == 0 }); j >= 0 {
			all = append(all, fmt.Errorf("%s: another entry has the same method and the same pattern", at))
			continue
		}
		routes = append(routes, r)
	}
	slices.SortFunc(routes, route.compare)
	return routes, all
}

func readRoute(v any) (route, []error) {
	doc, ok := v.(map[string]any)
	if !ok {
		return route{}, []error{fmt.Errorf(": must be an object, not %s", kind(v))}
	}
	var r route
	var all []error
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		if !slices.Contains([]string{"method", "pattern", "permission"}, name) {
			all = append(all, fmt.Errorf("%s: means nothing; an entry has method, pattern and permission", member(name)))
		}
	}
	field := func(name string, read func(string) error) {
		s, ok := doc[name].(string)
		if !ok {
			all = append(all, fmt.Errorf(".%s: must be text, not %s", name, kind(doc[name])))
		} else if err := read(s); err != nil {
			all = append(all, fmt.Errorf(".%s: %q %w", name, s, err))
		}
	}
	field("method", func(s string) error {
		r.method = s
		if s != "*" && (s == "" || strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "") {
			return errors.New("is not a method in capital letters, nor *")
		}
		return nil
	})
	field("pattern", func(s string) (err error) {
		r.pattern, err = readPattern(s)
		return err
	})
	field("permission", func(s string) error {
		r.permission = s
		resourceType, action, ok := strings.Cut(s, ":")
		if s != PublicRoute && (!ok || resourceType == "" || action == "" || resourceType == "*" || action == "*") {
			return fmt.Errorf("is neither a permission such as document:read nor %s", PublicRoute)
		}
		return nil
	})
	return r, all
}

func readPattern(s string) ([]step, error) {
	if !strings.HasPrefix(s, "/") {
		return nil, errors.New("does not begin with /")
	}
	if s == "/" {
		return nil, nil
	}
	var pattern []step
	segments := strings.Split(s[1:], "/")
	for i, text := range segments {
		name, opened := strings.CutPrefix(text, "{")
		name, closed := strings.CutSuffix(name, "}")
		switch {
		case text == "" && i == len(segments)-1:
			return nil, errors.New("ends in /, which is not told apart: leave it out")
		case text == "":
			return nil, errors.New("has an empty segment")
		case text == "*" && i < len(segments)-1:
			return nil, errors.New("has * before its end")
		case text == "*":
			pattern = append(pattern, step{kind: rest})
		case opened && closed && name != "" && !strings.ContainsAny(name, "{}*"):
			pattern = append(pattern, step{kind: single})
		case strings.ContainsAny(text, "{}*"):
			return nil, fmt.Errorf("has the segment %q: {name} and * stand for whole segments", text)
		case strings.Trim(text, ".") == "" || strings.ContainsAny(text, `%\;?#`) || strings.TrimSpace(text) != text ||
			!utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl):
			// Entries like this would look as if they protected something.
			return nil, fmt.Errorf("has the segment %q, which no path has that is let through; segments are written decoded", text)
		default:
			pattern = append(pattern, step{literal, text})
		}
	}
	return pattern, nil
}
