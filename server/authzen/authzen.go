// Package authzen answers the AuthZEN Authorization API 1.0: one evaluation,
// several in a batch, searches for subjects, resources and actions, and the
// discovery document.
//
// A [Surface] has a method for each endpoint, from a request and its caller to
// an answer or an error. What is wrong with a request is an [*Error], which
// names the place and never repeats what stood there; every other error is one
// of the rooms below.
//
// # Open points of the specification
//
// Each has its answer in docs/authzen.md. The rule behind them: a request that
// could be read in two ways is refused whole, an evaluation in a batch that
// cannot be decided is a denial of its own, and whatever is unknown is denied.
package authzen

import (
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/server/request"
)

// Options configures the surface. The zero value works, without a discovery
// document.
type Options struct {
	// Identifiers are the https URLs that callers know the service by, without
	// query and fragment. Each has a discovery document, and endpoints below
	// its path. Of several with the same path the request's host selects one;
	// where it selects none, the first of them counts.
	Identifiers []string
	// SigningKeys are ECDSA or Ed25519 keys. The first signs the discovery
	// documents, all are published. None: the documents are not signed.
	SigningKeys []crypto.Signer
	// Secrets protect page tokens. The first seals, all open. None: tokens are
	// of this process alone.
	Secrets []string
	// MaxEvaluations bounds a batch; default 1000.
	MaxEvaluations int
	Clock          func() time.Time // default time.Now
}

// MaxPage is how many results a page has at most, and how many it has if the
// caller names no limit.
const MaxPage = 1000

// Surface answers the API.
type Surface struct {
	reader    *request.Reader
	engine    *authz.Engine
	directory *directory.Service
	most      int
	tokens    *tokens
	clock     func() time.Time
	discovery *discovery
}

// New returns a Surface. It reports every mistake in o at once.
func New(o Options, rd *request.Reader, engine *authz.Engine, dir *directory.Service) (*Surface, error) {
	s := &Surface{reader: rd, engine: engine, directory: dir, most: o.MaxEvaluations, clock: o.Clock}
	if s.most <= 0 {
		s.most = 1000
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	var errs [2]error
	s.tokens, errs[0] = newTokens(o.Secrets)
	s.discovery, errs[1] = newDiscovery(o.Identifiers, o.SigningKeys)
	return s, errors.Join(errs[:]...)
}

// Error is a request that is not as it must be.
type Error struct {
	Status  int
	Message string // "subject.id: required"
}

func (e *Error) Error() string { return e.Message }

func bad(format string, args ...any) error {
	return &Error{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// Endpoint answers requests of a caller that is known not to be anonymous. The
// answer is to be encoded as JSON, in the order of its members.
type Endpoint func(r *http.Request, caller authn.Principal) (answer any, err error)

const root = "/access/v1"

// Endpoints lists what takes POST, by path.
func (s *Surface) Endpoints() map[string]Endpoint {
	all := map[string]Endpoint{}
	for _, prefix := range s.discovery.prefixes() {
		all[prefix+evaluationPath] = s.Evaluation
		all[prefix+evaluationsPath] = s.Evaluations
		all[prefix+subjectPath] = s.SearchSubject
		all[prefix+resourcePath] = s.SearchResource
		all[prefix+actionPath] = s.SearchAction
	}
	return all
}

const (
	evaluationPath  = root + "/evaluation"
	evaluationsPath = root + "/evaluations"
	subjectPath     = root + "/search/subject"
	resourcePath    = root + "/search/resource"
	actionPath      = root + "/search/action"
)

// Owns reports whether path is one that is answered in the way of this API, be
// there something or not.
func (s *Surface) Owns(path string) bool {
	if below(path, Metadata) {
		return true
	}
	for _, prefix := range s.discovery.prefixes() {
		if below(path, prefix+root) {
			return true
		}
	}
	return false
}

func below(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/')
}
