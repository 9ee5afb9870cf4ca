package server

import (
	"net/http"
	"strconv"
	"time"

	"github.com/ostiary/ostiary/server/openapi"
)

// OpenAPI returns the description of everything that is served, as OpenAPI 3.1
// in JSON. The caller must not change it.
func OpenAPI() []byte { return openapi.JSON() }

func (s *server) openapi(w http.ResponseWriter, r *http.Request) {
	w.Header()["Content-Type"] = jsonType
	w.Header().Set("Cache-Control", "no-cache")
	w.Write(openapi.JSON())
}

// healthz says that the process serves, and nothing about what it stands on.
func (s *server) healthz(w http.ResponseWriter, r *http.Request) {
	w.Header()["Cache-Control"] = noStore
	answer(w, http.StatusOK, struct {
		Status string `json:"status"`
	}{"ok"})
}

type readiness struct {
	Status  string        `json:"status"`
	Version string        `json:"version"`
	Policy  policyInForce `json:"policy"`
	Feed    *feedState    `json:"feed,omitempty"`
}

// feedState is what is known here of changes made elsewhere.
type feedState struct {
	AgeMS    int64  `json:"ageMs"`
	Revision string `json:"revision"`
}

type policyInForce struct {
	Revision string    `json:"revision"`
	Loaded   time.Time `json:"loaded"`
	// Published is the name of the published revision that it is made from.
	Published string `json:"published,omitempty"`
	// Current is false while newer files, or a revision that was published
	// later, are there and cannot be put in force. Why is in the log: this route
	// is open to everyone.
	Current bool `json:"current"`
}

// readyz says whether requests would be answered.
func (s *server) readyz(w http.ResponseWriter, r *http.Request) {
	w.Header()["Cache-Control"] = noStore
	status := s.Policies.Status()
	if s.Engine.Policy() == nil {
		writeProblem(w, problem(http.StatusServiceUnavailable, CodeUnavailable, "no policy is in force"))
		return
	}
	if s.Ready != nil {
		if err := s.Ready(r.Context()); err != nil {
			s.Log.WarnContext(r.Context(), "not ready", "error", err)
			writeProblem(w, problem(http.StatusServiceUnavailable, CodeUnavailable, "not ready"))
			return
		}
	}
	state := readiness{Status: "ready", Version: s.Version, Policy: policyInForce{status.Revision, status.Loaded.UTC(), status.Published, status.Err == nil}}
	if s.Feed != nil {
		age, revision := s.Feed()
		state.Feed = &feedState{age.Milliseconds(), strconv.FormatInt(revision, 10)}
	}
	answer(w, http.StatusOK, state)
}
