package request

import (
	"crypto/rand"
	"net/http"
	"sync"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

// Headers that say what an answer rests on.
const (
	DecisionHeader = "Ostiary-Decision" // id of the last decision made for it
	RevisionHeader = "Ostiary-Revision" // of the store, after a write
	IDHeader       = "X-Request-Id"
)

// Noted wraps next so that decisions made for a request see its [authz.Facts],
// and its answer carries the id of the decision and the revision of the write
// that it rests on. Around a request that is noted already it does nothing.
func (rd *Reader) Noted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if authz.FactsFrom(r.Context()) != nil {
			next.ServeHTTP(w, r)
			return
		}
		n := &noting{ResponseWriter: w}
		ctx := audit.WithReceipt(r.Context(), &n.receipt)
		facts := rd.Facts(r)
		facts.Decided = n.decided
		next.ServeHTTP(n, r.WithContext(authz.WithFacts(ctx, &facts)))
		n.note() // for answers without a body
	})
}

// Facts returns what decisions may rest on.
func (rd *Reader) Facts(r *http.Request) authz.Facts {
	return authz.Facts{
		IP:        rd.Address(r),
		UserAgent: r.UserAgent(),
		Method:    r.Method,
		Path:      r.URL.Path,
		RequestID: requestID(r),
	}
}

// requestID takes the id that a proxy gave the request, if it is harmless to
// log, or makes one.
func requestID(r *http.Request) string {
	id := r.Header.Get(IDHeader)
	if len(id) <= 64 && isToken68(id) {
		return id
	}
	return rand.Text()
}

// noting writes the headers before the first byte.
type noting struct {
	http.ResponseWriter
	receipt audit.Receipt

	mu       sync.Mutex
	decision string
	noted    bool
}

func (n *noting) decided(d authz.Decision) {
	n.mu.Lock()
	n.decision = d.ID
	n.mu.Unlock()
}

func (n *noting) note() {
	if n.noted {
		return
	}
	n.noted = true
	n.mu.Lock()
	id := n.decision
	n.mu.Unlock()
	if id != "" {
		n.Header().Set(DecisionHeader, id)
	}
	if n.receipt.Revision != "" {
		n.Header().Set(RevisionHeader, n.receipt.Revision)
	}
}

func (n *noting) WriteHeader(code int) {
	if code >= 200 {
		n.note()
	}
	n.ResponseWriter.WriteHeader(code)
}

func (n *noting) Write(b []byte) (int, error) {
	n.note()
	return n.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (n *noting) Unwrap() http.ResponseWriter { return n.ResponseWriter }
