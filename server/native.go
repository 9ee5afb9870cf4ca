package server

import (
	"context"
	stdjson "encoding/json"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/request"
)

// call is a request to the native API whose caller is known.
type call struct {
	w      http.ResponseWriter
	r      *http.Request
	ctx    context.Context // that of the request, which r need not have
	caller authn.Principal
}

// native routes method and pattern to h.
func (s *server) native(method, pattern string, h func(*call) error) {
	serve := s.calling(pattern, h)
	s.mux.MethodFunc(method, pattern, func(w http.ResponseWriter, r *http.Request) { serve(r.Context(), w, r) })
}

// calling serves h at pattern: it finds out who calls, and words what goes wrong.
func (s *server) calling(pattern string, h func(*call) error) func(context.Context, http.ResponseWriter, *http.Request) {
	return func(ctx context.Context, w http.ResponseWriter, r *http.Request) {
		// Every answer here depends on the credential.
		w.Header()["Cache-Control"] = noStore
		c := call{w: w, r: r, ctx: ctx}
		err := s.authenticate(&c)
		if err == nil {
			err = h(&c)
		}
		if err == nil {
			return
		}
		p := problemOf(err, c.caller)
		if p.Status >= 500 {
			s.Log.ErrorContext(c.ctx, "request failed", "route", pattern, "error", err, "request", authz.FactsFrom(c.ctx).RequestID)
		}
		writeProblem(w, p)
	}
}

var noStore = []string{"no-store"}

// stands makes d the decision that the answer's header names.
func (c *call) stands(d authz.Decision) { c.w.(*request.Exchange).Stands(d) }

// authenticate finds out who calls.
func (s *server) authenticate(c *call) error {
	cred, place, err := s.Reader.Credential(c.r)
	if err != nil {
		return err
	}
	if place == request.Nowhere {
		return nil
	}
	// A browser sends cookies along with requests that other sites make it
	// send; headers it does not.
	if place == request.InCookie {
		if err := s.origins.Check(c.r); err != nil {
			return request.ErrCrossOrigin
		}
	}
	c.caller, err = s.Authn.Authenticate(c.ctx, cred)
	return err
}

// ask asks the policy whether the caller may do something to what is Ostiary's
// own, and answers with an error if not.
func (s *server) ask(c *call, action string, resource authz.Resource) error {
	d, err := s.Engine.Decide(c.ctx, authz.Request{Subject: c.caller.Subject(), Action: authz.Action{Name: action}, Resource: resource, Described: true})
	if err != nil {
		return unavailable(err)
	}
	return d.Err(action, resource)
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, status int, v any) error {
	body, err := encode(v)
	if err == nil {
		send(w, status, body)
	}
	return err
}

// send writes body, which is JSON.
func send(w http.ResponseWriter, status int, body []byte) {
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	w.Write(body)
}

// encode is json.Marshal in a fixed order. Numbers that came out of a policy or a
// record as text (encoding/json's Number) stay numbers.
func encode(v any) ([]byte, error) {
	return json.Marshal(v, json.Deterministic(true), json.WithMarshalers(numbers))
}

var numbers = json.MarshalToFunc(func(e *jsontext.Encoder, n stdjson.Number) error {
	return e.WriteValue(jsontext.Value(n))
})

var jsonType = []string{"application/json"}
