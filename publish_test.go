package ostiary_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

// marked is a bundle whose every part says which one it is: a rule, its data, the
// table of routes.
func marked(n int) map[string]string {
	mark := fmt.Sprint(n % 2)
	return map[string]string{
		"document.rego": fmt.Sprintf(`package app.document

allow if input.action.name == "read"

context := {"rule": %q, "data": data.mark.mark}
`, mark),
		"route.rego": fmt.Sprintf(`package app.route

deny contains "another policy's route" if input.resource.properties.permission != "site:use%s"
`, mark),
		"mark/data.json":  fmt.Sprintf(`{"mark": %q, "n": %d}`, mark, n),
		"roles/data.json": fmt.Sprintf(`{"visitor": {"site": ["use%s"], "document": ["read"]}}`, mark),
		"data.yaml":       fmt.Sprintf("routes:\n  - {method: \"*\", pattern: \"/*\", permission: \"site:use%s\"}\n", mark),
	}
}

// asker asks a service about documents and about routes.
type asker struct {
	handler http.Handler
	key     string
	marks   *sync.Map // of policies by their revision, as answers have it
}

func (a asker) decide() error {
	r := httptest.NewRequest("POST", "/v1/authorize", strings.NewReader(`{"checks": [{"action": "read", "resource": {"type": "document"}}, {"action": "read", "resource": {"type": "document"}}]}`))
	r.Header.Set("x-api-key", a.key)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	var got struct {
		Results []struct {
			Allow          bool
			PolicyRevision string
			Reasons        []struct{ Code string }
			Context        struct{ Rule, Data string }
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK || len(got.Results) != 2 {
		return fmt.Errorf("%d %s", w.Code, w.Body)
	}
	one, two := got.Results[0], got.Results[1]
	mark, _ := a.marks.LoadOrStore(one.PolicyRevision, one.Context.Rule)
	if !one.Allow || !two.Allow || one.Context.Rule != mark || one.Context.Data != mark || two.Context != one.Context || two.PolicyRevision != one.PolicyRevision {
		return fmt.Errorf("a decision under a mixed policy, of %q: %s", mark, w.Body)
	}
	return nil
}

func (a asker) pass() error {
	r := httptest.NewRequest("GET", "/forward-auth/traefik", nil)
	r.RemoteAddr = "192.0.2.1:1234"
	for name, value := range map[string]string{"x-api-key": a.key, "X-Forwarded-Method": "GET", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "site.test", "X-Forwarded-Uri": "/a", "X-Forwarded-For": "198.51.100.1"} {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		return fmt.Errorf("a route of one policy was judged by another: %d %s", w.Code, w.Body)
	}
	return nil
}

// house is a service whose policies are published, with somebody to ask.
func house(t testing.TB) (*ostiary.Ostiary, asker, func(n int)) {
	o := open(t, ostiary.Options{PoliciesPublished: true, ForwardProxies: []string{"192.0.2.1"}})
	a := asker{handler: o.Handler(), marks: &sync.Map{}}
	publish := func(n int) {
		t.Helper()
		p, err := o.Policies().Publish(t.Context(), program, policies.Upload{Files: marked(n)})
		if err != nil {
			t.Error(err)
			return
		}
		if mark, known := a.marks.LoadOrStore(p.PolicyRevision, fmt.Sprint(n%2)); known && mark != fmt.Sprint(n%2) {
			t.Errorf("answers by publication %d said %s", n, mark)
		}
	}
	publish(0)
	_, secret := userWithKey(t, o, "visitor", authz.Permissions{"*": {"*"}})
	a.key = secret.Reveal()
	return o, a, publish
}

// While policies are published and rolled back, no request fails, and each is
// answered by one policy as a whole.
func TestPublishUnderLoad(t *testing.T) {
	o, a, publish := house(t)
	var stop atomic.Bool
	var askers sync.WaitGroup
	var asked atomic.Int64
	for n := range 4 {
		askers.Go(func() {
			for ask := []func() error{a.decide, a.pass}[n%2]; !stop.Load() && !t.Failed(); asked.Add(1) {
				if err := ask(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for n := range 6 {
		publish(n + 1)
		if n%3 == 2 {
			if _, err := o.Policies().Rollback(context.Background(), program, "", "", nil); err != nil {
				t.Error(err)
			}
		}
	}
	stop.Store(true)
	askers.Wait()
	if asked.Load() < 100 {
		t.Errorf("only %d questions", asked.Load())
	}
}

// The slowest of a hundred requests while nothing happens, and while policies are
// published one after the other.
func BenchmarkPublishUnderLoad(b *testing.B) {
	_, a, publish := house(b)
	p99 := func(publishing bool) time.Duration {
		var stop atomic.Bool
		var all sync.WaitGroup
		times := make([][]time.Duration, 4*runtime.GOMAXPROCS(0))
		for n := range times {
			all.Go(func() {
				for !stop.Load() {
					began := time.Now()
					if err := a.decide(); err != nil {
						b.Error(err)
						return
					}
					times[n] = append(times[n], time.Since(began))
				}
			})
		}
		for until, n := time.Now().Add(3*time.Second), 1; time.Now().Before(until); n++ {
			if publishing {
				publish(n)
			}
			time.Sleep(500 * time.Millisecond)
		}
		stop.Store(true)
		all.Wait()
		sorted := slices.Sorted(slices.Values(slices.Concat(times...)))
		return sorted[len(sorted)*99/100]
	}
	var quiet, busy time.Duration
	for b.Loop() {
		quiet += p99(false)
		busy += p99(true)
	}
	b.ReportMetric(float64(quiet.Microseconds())/float64(b.N), "quiet-p99-µs")
	b.ReportMetric(float64(busy.Microseconds())/float64(b.N), "publishing-p99-µs")
	b.ReportMetric(float64(busy)/float64(quiet), "times")
}
