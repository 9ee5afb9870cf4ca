package authz

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"
)

// maxSegments bounds a Path: no bundle nests that deep.
const maxSegments = 64

// Path names a document under data in the way that URLs of OPA's API do:
// "app/document/allow" is data.app.document.allow. A segment that is a whole
// number is the index of an element. The zero Path is data itself.
type Path struct{ ref ast.Ref } // without data

// ParsePath reads a path as it stands in a URL: segments are separated by
// slashes, empty ones do not count, and a percent escape is part of its
// segment whatever it stands for.
func ParsePath(text string) (Path, error) {
	var p Path
	for segment := range strings.SplitSeq(text, "/") {
		if segment == "" {
			continue
		}
		if plain, err := url.PathUnescape(segment); err == nil {
			segment = plain
		}
		if strings.Contains(segment, `"`) {
			return Path{}, fmt.Errorf("invalid ref term '%s'", segment)
		}
		if len(p.ref) == maxSegments {
			return Path{}, fmt.Errorf("more than %d segments", maxSegments)
		}
		if n, ok := util.Atoi64(segment); ok {
			p.ref = append(p.ref, ast.IntNumberTerm(int(n)))
		} else {
			p.ref = append(p.ref, ast.StringTerm(segment))
		}
	}
	return p, nil
}

var escapeSegment = strings.NewReplacer("%", "%25", "/", "%2F").Replace

// String is the one spelling of p, which ParsePath reads as p again. A rule
// that compares paths can rely on it.
func (p Path) String() string {
	var b strings.Builder
	for i, t := range p.ref {
		if i > 0 {
			b.WriteByte('/')
		}
		if s, ok := t.Value.(ast.String); ok {
			b.WriteString(escapeSegment(string(s)))
		} else {
			b.WriteString(t.Value.String())
		}
	}
	return b.String()
}

// Below returns the rest of p after root, and whether p is root or below it.
func (p Path) Below(root Path) (rest Path, ok bool) {
	if !p.ref.HasPrefix(root.ref) {
		return Path{}, false
	}
	return Path{p.ref[len(root.ref):]}, true
}

// In returns what p names in a JSON value, and whether it is there.
func (p Path) In(v any) (any, bool) {
	for _, t := range p.ref {
		switch in := v.(type) {
		case map[string]any:
			key, ok := t.Value.(ast.String)
			if !ok {
				return nil, false
			}
			if v, ok = in[string(key)]; !ok {
				return nil, false
			}
		case []any:
			n, ok := t.Value.(ast.Number)
			if !ok {
				return nil, false
			}
			i, ok := n.Int()
			if !ok || i < 0 || i >= len(in) {
				return nil, false
			}
			v = in[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// Reference is p as Rego writes it: data.app.document.allow.
func (p Path) Reference() string { return p.data().String() }

// data is p as a reference.
func (p Path) data() ast.Ref {
	return append(ast.Ref{ast.DefaultRootDocument}, p.ref...)
}

// reserved reports whether p is data itself or lies in what is Ostiary's own.
// That trusts the principal in its input, so nobody evaluates it over an input
// of their choice.
func (p Path) reserved() bool {
	return len(p.ref) == 0 || p.ref[0].Equal(ostiaryKey)
}

var ostiaryKey = ast.StringTerm("ostiary")
