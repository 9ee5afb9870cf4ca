package request

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

// Headers that say what an answer rests on.
const (
	DecisionHeader = "Ostiary-Decision" // id of the last decision made for it
	RevisionHeader = "Ostiary-Revision" // of the store, after a write
	IDHeader       = "X-Request-Id"

	// AtLeastHeader, on a request, is the revision of the store that it must
	// be judged by, or a newer one.
	AtLeastHeader = "Ostiary-At-Least"

	// LeaseHeader, on a request for decisions, asks for how many milliseconds they
	// may be given again, which the answer tells in it; see docs/api.md.
	LeaseHeader = "Ostiary-Lease"

	// ReasonsHeader, on a request, asks for the reasons of a decision where an
	// answer has none by itself; see [TellsReasons].
	ReasonsHeader = "Ostiary-Reasons"
)

// TellsReasons reports whether the answer to r is to have the reasons of the
// decision that it rests on, in APIs of others that have no place for them.
func TellsReasons(r *http.Request) bool { return r.Header.Get(ReasonsHeader) == "tell" }

// Exchange is one request and its answer: the ResponseWriter that handlers
// are given. Decisions made for the request see its facts, and the answer
// carries the id of the decision and the revision of the write that it rests on.
type Exchange struct {
	http.ResponseWriter
	facts   authz.Facts
	receipt audit.Receipt
	observe func(authz.Decision)
	status  int
	// What the headers have: a header is a list, and these are lists of one.
	id, stood [1]string

	mu       sync.Mutex
	decision string
}

// Begin begins the exchange of r and returns the context for its handling.
// observe, if not nil, is told of every decision made under it.
func (rd *Reader) Begin(w http.ResponseWriter, r *http.Request, observe func(authz.Decision)) (*Exchange, context.Context) {
	x := &Exchange{ResponseWriter: w, observe: observe}
	id, sent := RequestID(r.Header)
	x.facts = rd.facts(r, id)
	x.facts.Decided = x.decided
	x.id[0] = cmp.Or(sent, id)
	w.Header()[IDHeader] = x.id[:]
	ctx := authz.WithFacts(r.Context(), &x.facts)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		ctx = audit.WithReceipt(ctx, &x.receipt)
	}
	return x, ctx
}

func (rd *Reader) facts(r *http.Request, id string) authz.Facts {
	return authz.Facts{IP: rd.Client(r), UserAgent: r.UserAgent(), Method: r.Method, Path: r.URL.Path, RequestID: id}
}

// Facts returns a context for handling r in which decisions see its facts, for
// those who write the answer themselves. observe, if not nil, is told of every
// decision made under it.
func (rd *Reader) Facts(r *http.Request, observe func(authz.Decision)) context.Context {
	id, _ := RequestID(r.Header)
	facts := rd.facts(r, id)
	facts.Decided = observe
	return authz.WithFacts(r.Context(), &facts)
}

// ID identifies the request in answers, logs and records.
func (x *Exchange) ID() string { return x.facts.RequestID }

// Status is that of the answer, 0 until its header is written.
func (x *Exchange) Status() int { return x.status }

func (x *Exchange) decided(d authz.Decision) {
	x.Stands(d)
	if x.observe != nil {
		x.observe(d)
	}
}

// Stands makes d the decision that the answer's header names.
func (x *Exchange) Stands(d authz.Decision) {
	x.mu.Lock()
	x.decision = d.ID
	x.mu.Unlock()
}

func (x *Exchange) WriteHeader(status int) {
	if x.status != 0 {
		return // net/http would complain; the first one counts
	}
	if status >= 200 {
		x.status = status
		x.note()
	}
	x.ResponseWriter.WriteHeader(status)
}

// End is called when the handler has returned. An answer of which nothing was
// written yet, and which net/http will now complete, gets its headers too.
func (x *Exchange) End() {
	if x.status == 0 {
		x.note()
	}
}

func (x *Exchange) note() {
	h := x.Header()
	x.mu.Lock()
	x.stood[0] = x.decision
	x.mu.Unlock()
	if x.stood[0] != "" {
		h[DecisionHeader] = x.stood[:]
	}
	if x.receipt.Revision != "" {
		h[RevisionHeader] = []string{x.receipt.Revision}
	}
}

func (x *Exchange) Write(b []byte) (int, error) {
	if x.status == 0 {
		x.status = http.StatusOK
		x.note()
	}
	return x.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (x *Exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// maxID bounds ids of requests in logs and records. In headers they are bounded
// by what the HTTP server takes of headers altogether.
const maxID = 128

// RequestID returns the id of a request for logs and records, and the one that it
// came with, which the answer repeats to the byte. An id identifies; it proves
// nothing. One that is not fit for a log or a record stands there quoted and cut.
func RequestID(h http.Header) (id, sent string) {
	// Several fields of a name are one value (RFC 9110, 5.3).
	sent = strings.Join(h.Values(IDHeader), ", ")
	switch {
	case sent == "":
		b := strconv.AppendUint(make([]byte, 0, 32), rand.Uint64()|1<<63, 36)
		return string(strconv.AppendUint(b, rand.Uint64()|1<<63, 36)), ""
	case len(sent) <= maxID && printable(sent):
		return sent, sent
	}
	id = strconv.QuoteToASCII(sent[:min(len(sent), maxID)])
	return id[:min(len(id), maxID)], sent
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
