package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/authzen"
	"github.com/ostiary/ostiary/server/request"
)

// authZENTime bounds the handling of one request, be it a batch or a search.
const authZENTime = 20 * time.Second

// authZEN routes the AuthZEN API.
func (s *server) authZEN() {
	for path, endpoint := range s.zen.Endpoints() {
		s.mux.Post(path, s.authZENEndpoint(path, endpoint))
	}
	// Without a document it is a route all the same, which answers 404.
	s.mux.Get(authzen.Metadata, s.authZENMetadata)
	for _, path := range s.zen.Documents() {
		if path != authzen.Metadata {
			s.mux.Get(path, s.authZENMetadata)
		}
	}
	s.mux.Get(authzen.KeySet, s.authZENKeys)
}

// authZENEndpoint is what stands around each endpoint: who calls, how long it
// may take, and how answers and errors are worded.
func (s *server) authZENEndpoint(path string, endpoint authzen.Endpoint) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Cache-Control"] = noStore
		ctx, cancel := context.WithTimeout(r.Context(), authZENTime)
		defer cancel()
		c := call{w: w, r: r.WithContext(ctx), ctx: ctx}
		err := s.authenticate(&c)
		if err == nil && c.caller.Anonymous() {
			err = authn.ErrUnauthenticated
		}
		var v any
		if err == nil {
			v, err = endpoint(c.r, c.caller)
		}
		if err == nil {
			err = answer(w, http.StatusOK, v)
		}
		if err == nil {
			return
		}
		p := authZENProblem(err, c.caller)
		if !request.TellsReasons(r) {
			p.Reasons = nil
		}
		if p.Status >= 500 {
			s.Log.ErrorContext(ctx, "request failed", "route", path, "error", err, "request", authz.FactsFrom(ctx).RequestID)
		}
		writeAuthZENError(w, p)
	}
}

// authZENProblem is problemOf with what the AuthZEN API says otherwise.
func authZENProblem(err error, caller authn.Principal) *Problem {
	if wrong, ok := errors.AsType[*authzen.Error](err); ok {
		return problem(wrong.Status, CodeInvalid, wrong.Message)
	}
	return problemOf(err, caller)
}

// writeAuthZENError answers p in the words of the AuthZEN API.
func writeAuthZENError(w http.ResponseWriter, p *Problem) {
	p.setHeader(w.Header())
	type failure struct {
		Status  int    `json:"status"`
		Message string `json:"message"`
	}
	out := struct {
		Error   failure        `json:"error"`
		Reasons []authz.Reason `json:"reasons,omitempty"`
	}{failure{p.Status, p.Detail}, p.Reasons}
	if err := answer(w, p.Status, out); err != nil { // a policy's reason that is not JSON
		out.Reasons = nil
		_ = answer(w, p.Status, out)
	}
}

func (s *server) authZENMetadata(w http.ResponseWriter, r *http.Request) {
	document, ok, err := s.zen.Document(r.Host, r.URL.Path)
	switch {
	case err != nil:
		s.Log.ErrorContext(r.Context(), "no discovery document", "error", err)
		writeAuthZENError(w, problemOf(err, authn.Principal{}))
	case !ok:
		s.notFound(w, r)
	default:
		w.Header().Set("Cache-Control", cacheFor(authzen.MetadataAge))
		w.Header().Set("Vary", "Host")
		_ = answer(w, http.StatusOK, document)
	}
}

func (s *server) authZENKeys(w http.ResponseWriter, r *http.Request) {
	keys, ok := s.zen.KeySet()
	if !ok {
		s.notFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", cacheFor(authzen.MetadataAge))
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Write(keys)
}

func cacheFor(age time.Duration) string { return fmt.Sprintf("max-age=%d", int(age.Seconds())) }
