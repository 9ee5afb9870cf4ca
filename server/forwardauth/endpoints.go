package forwardauth

import (
	"net/http"
	"strings"
)

// kind is a kind of proxy that asks in HTTP: where it asks, and what it tells
// by which headers. Each of them has to be there exactly once.
type kind struct {
	name string
	path string // the whole path; with open, what it begins with
	open bool   // any path below counts, as the path of the request
	// The headers. With open, the request line has the method and the target.
	method, target, host, scheme, address string
	strict                                bool // passes on 401 and 403 alone
}

var kinds = []kind{
	{
		name: "nginx", path: "/forward-auth/nginx", strict: true,
		method: "X-Original-Method", target: "X-Original-Uri", host: "X-Original-Host", scheme: "X-Forwarded-Proto", address: "X-Forwarded-For",
	},
	{
		name: "traefik", path: "/forward-auth/traefik",
		method: "X-Forwarded-Method", target: "X-Forwarded-Uri", host: "X-Forwarded-Host", scheme: "X-Forwarded-Proto", address: "X-Forwarded-For",
	},
	{
		name: "caddy", path: "/forward-auth/caddy",
		method: "X-Forwarded-Method", target: "X-Forwarded-Uri", host: "X-Forwarded-Host", scheme: "X-Forwarded-Proto", address: "X-Forwarded-For",
	},
	{name: "envoy", path: "/forward-auth/envoy", open: true},
}

// Endpoint returns the handler of r and the pattern by which logs know it, or
// nil if r is not for a gate. It looks at the request line as it was sent: what
// comes after /forward-auth/envoy is judged and not routed, however it is
// spelt, and a path that is to be cleaned is nobody's here.
func (g *Gate) Endpoint(r *http.Request) (h http.Handler, pattern string) {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	for i := range kinds {
		k := &kinds[i]
		pattern = k.path
		if k.open {
			rest, ok := strings.CutPrefix(path, k.path)
			if !ok || !strings.HasPrefix(rest, "/") {
				continue
			}
			pattern += "/*"
		} else if path != k.path {
			continue
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, k) }), pattern
	}
	return nil, ""
}

// serve answers a question in HTTP. Conditional headers, ranges and the body of
// the request are the application's affair and not looked at.
func (g *Gate) serve(w http.ResponseWriter, r *http.Request, k *kind) {
	v := verdict(http.StatusForbidden)
	if !g.Trusts(r.RemoteAddr, r.Header[SecretHeader]) {
		g.o.Log.WarnContext(r.Context(), "whoever asks is not a proxy that is trusted", "proxy", k.name, "peer", r.RemoteAddr)
	} else if q, missing := g.read(r, k); missing != "" {
		v.Status = http.StatusBadRequest
		g.o.Log.WarnContext(r.Context(), "the proxy has to set a header that is not there exactly once", "proxy", k.name, "header", missing)
	} else {
		v = g.Judge(r.Context(), q)
	}
	h := w.Header()
	h["Cache-Control"] = []string{"no-store"}
	for name, value := range v.Identity {
		h[name] = []string{value}
	}
	if v.Challenge != "" {
		h.Set("WWW-Authenticate", v.Challenge)
	}
	if v.RetryAfter != "" {
		h.Set("Retry-After", v.RetryAfter)
	}
	status := v.Status
	if k.strict && status < 500 && status != http.StatusOK && status != http.StatusUnauthorized {
		status = http.StatusForbidden // nginx makes 500 of anything else
	}
	h["Content-Length"] = []string{"0"}
	w.WriteHeader(status)
}

// read reads what a proxy of kind k tells. missing names a header that is not
// there exactly once.
func (g *Gate) read(r *http.Request, k *kind) (q Question, missing string) {
	q = Question{Proxy: k.name, Header: r.Header}
	if k.open {
		q.Method, q.Host = r.Method, r.Host
		q.Target = strings.TrimPrefix(r.RequestURI, k.path)
		// Envoy asks as a client of its own. What it says of the address is then
		// its own, unless it is told to pass on what it knows.
		if list := r.Header["X-Forwarded-For"]; len(list) == 1 {
			q.Address = g.o.Reader.Forwarded(list[0])
			if q.Address == g.o.Reader.Peer(r) {
				q.Address = ""
			}
		}
		return q, ""
	}
	one := func(name string) string {
		if values := r.Header[name]; len(values) == 1 && values[0] != "" {
			return values[0]
		}
		missing = name
		return ""
	}
	q.Method, q.Target, q.Host, q.Scheme = one(k.method), one(k.target), one(k.host), one(k.scheme)
	q.Address = g.o.Reader.Forwarded(one(k.address))
	return q, missing
}
