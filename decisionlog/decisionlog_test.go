package decisionlog_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/decisionlog"
)

// service takes decision logs, after it has been away for some requests.
type service struct {
	mu     sync.Mutex
	away   int
	events []map[string]any
	paths  map[string]bool
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away--; s.away >= 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	s.paths[r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization")] = true
	z, err := gzip.NewReader(r.Body)
	var events []map[string]any
	if err == nil {
		err = json.NewDecoder(z).Decode(&events)
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.events = append(s.events, events...)
}

func TestServiceGetsEachDecisionAsOPALogsThem(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := &service{away: 2, paths: map[string]bool{}}
	h := httptest.NewServer(s)
	defer h.Close()
	sink, err := decisionlog.Open(t.Context(), decisionlog.Options{URL: h.URL + "/opa", Token: "t0ken", Instance: "one"})
	if err != nil {
		t.Fatal(err)
	}
	var records []audit.Record
	for i := range 1000 {
		records = append(records, audit.Record{ID: fmt.Sprint("d", i), At: time.Unix(int64(i), 0), Allow: i%2 == 0, Revision: "r1",
			Actor: audit.Actor{Type: "user", ID: "ann"}, Action: "read", Resource: authz.Resource{Type: "document"},
			Input: map[string]any{"action": map[string]any{"name": "read"}}, Reasons: []authz.Reason{{Code: "role", Message: "m"}},
			NDBuiltinCache: map[string]any{"rand.intn": map[string]any{`["x",2]`: 1}}, Erased: []string{"/input/resource/id"}})
	}
	if err := sink.Write(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := sink.Close(ctx); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for _, e := range s.events {
		seen[e["decision_id"].(string)] = true
	}
	if len(seen) != 1000 || len(s.events) != 1000 || len(s.paths) != 1 || !s.paths["POST /opa/logs Bearer t0ken"] {
		t.Fatalf("%d events of %d decisions at %v", len(s.events), len(seen), s.paths)
	}
	e := s.events[0]
	about := e["custom"].(map[string]any)["ostiary"].(map[string]any)
	got := strings.TrimSuffix(fmt.Sprintln(e["path"], e["bundles"], e["input"], e["result"], e["nd_builtin_cache"], e["timestamp"], about["erased"], about["principal"], e["labels"].(map[string]any)["id"]), "\n")
	want := `ostiary/decision map[ostiary:map[revision:r1]] map[action:map[name:read]] map[allow:true reasons:[map[code:role message:m]]] map[rand.intn:map[["x",2]:1]] 1970-01-01T00:00:00Z [/input/resource/id] map[id:ann type:user] one`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
