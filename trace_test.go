package ostiary_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/guard"
	"github.com/ostiary/ostiary/server"
)

// A request, the decisions made for it and the queries they cost are one trace,
// under the trace of whoever asks; and nothing in it tells a secret or an address.
func TestTracesOfRequestsDecisionsAndQueries(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	o := open(t, ostiary.Options{Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))})
	_, key := userWithKey(t, o, "admin", authz.Permissions{"user": {"list"}})
	if n := len(spans.Ended()); n > 2 { // the test's own decisions
		t.Errorf("%d spans that nobody asked for", n)
	}
	const caller = "4bf92f3577b34da6a3ce929d0e0e4736"
	r := httptest.NewRequest("POST", "/v1/authorize?mail=ann@example.com", strings.NewReader(
		`{"action": "ann@example.com", "resource": {"type": "user", "id": "ann@example.com"}}`))
	r.Header.Set("x-api-key", key.Reveal())
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("traceparent", "00-"+caller+"-00f067aa0ba902b7-01")
	w := httptest.NewRecorder()
	o.Handler().ServeHTTP(w, r)
	if w.Code != 200 {
		t.Fatal(w.Body)
	}
	names := map[string]string{}
	for _, s := range spans.Ended() {
		if s.SpanContext().TraceID().String() != caller {
			continue
		}
		var attributes []string
		for _, a := range s.Attributes() {
			attributes = append(attributes, string(a.Key)+"="+a.Value.String())
		}
		names[s.Name()] = strings.Join(attributes, " ")
		text, err := json.Marshal(s.Events())
		if err != nil {
			t.Fatal(err)
		}
		all := s.Name() + names[s.Name()] + string(text) + s.Status().Description
		for _, secret := range []string{key.Reveal(), "ann@example.com", "Ann"} {
			if strings.Contains(all, secret) {
				t.Errorf("%s tells %q: %s", s.Name(), secret, all)
			}
		}
	}
	for name, want := range map[string]string{
		"POST /v1/authorize": "http.route=/v1/authorize http.response.status_code=200",
		"ostiary.decide":     "ostiary.resource.type=user ostiary.decision.code=",
		"SELECT user":        "db.system.name=sqlite db.operation.name=SELECT",
	} {
		got, ok := names[name]
		if !ok {
			t.Errorf("no span %q: %v", name, names)
		}
		for part := range strings.FieldsSeq(want) {
			if !strings.Contains(got, part) {
				t.Errorf("%s: got %s, want %s", name, got, part)
			}
		}
	}
}

// A credential that is not remembered costs one query, with its owner and the key
// that a session stands on; a remembered one costs none.
func TestAColdCredentialCostsOneQuery(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	o := open(t, ostiary.Options{Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))})
	u, key := userWithKey(t, o, "admin", authz.Permissions{"*": {"*"}})
	ask := func(path, body string, header http.Header) (*http.Response, []string) {
		t.Helper()
		before := len(spans.Ended())
		r := httptest.NewRequest("POST", path, strings.NewReader(body))
		r.Header = header.Clone()
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		o.Handler().ServeHTTP(w, r)
		if w.Code != 200 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
		var queries []string
		for _, s := range spans.Ended()[before:] {
			if s.SpanKind() == trace.SpanKindClient {
				queries = append(queries, s.Name())
			}
		}
		return w.Result(), queries
	}
	byKey := http.Header{"X-Api-Key": {key.Reveal()}}
	signedIn, _ := ask("/api/auth/sign-in/api-key", "{}", byKey)
	bySession := http.Header{}
	for _, c := range signedIn.Cookies() {
		bySession.Add("Cookie", c.Name+"="+c.Value)
	}
	for _, tt := range []struct {
		name, want string
		header     http.Header
	}{{"key", "SELECT apikey", byKey}, {"session of a key", "SELECT session", bySession}} {
		if _, err := o.Authn().SetRoles(t.Context(), program, u.ID, []string{"admin"}); err != nil { // forgets the owner's principals
			t.Fatal(err)
		}
		ask("/v1/authorize", `{"action": "read", "resource": {"type": "document"}}`, http.Header{"Ostiary-At-Least": {"0"}}) // by then everybody knows
		for _, want := range [][]string{{tt.want}, nil} {
			_, got := ask("/v1/authorize", `{"action": "read", "resource": {"type": "document"}}`, tt.header)
			if !slices.Equal(got, want) {
				t.Errorf("%s: got %q, want %q", tt.name, got, want)
			}
		}
	}
}

// What a protected route asks is one part of the trace, with what it costs; what the
// handler does afterwards is none of it.
func TestTracesOfProtectedRoutes(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	o := open(t, ostiary.Options{Tracer: provider})
	_, key := userWithKey(t, o, "admin", authz.Permissions{"user": {"list"}})
	h := o.Require("list", guard.OfType("user"))(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, work := provider.Tracer("the program").Start(r.Context(), "work")
		work.End()
	}))
	const caller, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	serve := func(key string, change func(*http.Request) *http.Request) map[string]sdktrace.ReadOnlySpan {
		r := httptest.NewRequest("GET", "/?mail=ann@example.com", nil)
		r.Header.Set("x-api-key", key)
		r.Header.Set("traceparent", "00-"+caller+"-"+parent+"-01")
		before := len(spans.Ended())
		h.ServeHTTP(httptest.NewRecorder(), change(r))
		got := map[string]sdktrace.ReadOnlySpan{}
		for _, s := range spans.Ended()[before:] {
			got[s.Name()] = s
			for _, a := range s.Attributes() {
				if v := a.Value.String(); strings.Contains(v, key) || strings.Contains(v, "ann@example.com") {
					t.Errorf("%s tells %s=%s", s.Name(), a.Key, v)
				}
			}
		}
		return got
	}
	under := func(got map[string]sdktrace.ReadOnlySpan, name, want string) {
		t.Helper()
		if s := got[name]; s == nil || s.Parent().SpanID().String() != want {
			t.Errorf("%s: got %v, want it under %s", name, s, want)
		}
	}
	as := func(r *http.Request) *http.Request { return r }
	got := serve(key.Reveal(), as)
	under(got, "ostiary.admit", parent)
	under(got, "work", parent)
	admit := got["ostiary.admit"]
	if admit == nil || admit.SpanContext().TraceID().String() != caller || admit.Status().Code == codes.Error {
		t.Fatalf("got %+v", admit)
	}
	under(got, "ostiary.decide", admit.SpanContext().SpanID().String())

	// Under the program's own span, if it has one.
	ctx, own := provider.Tracer("the program").Start(t.Context(), "request")
	got = serve(key.Reveal(), func(r *http.Request) *http.Request { return r.WithContext(ctx) })
	under(got, "ostiary.admit", own.SpanContext().SpanID().String())

	if refused := serve("nonsense", as)["ostiary.admit"]; refused == nil || refused.Status().Code == codes.Error {
		t.Errorf("a bad credential: %+v", refused)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if failed := serve(key.Reveal(), as)["ostiary.admit"]; failed == nil || failed.Status().Code != codes.Error {
		t.Errorf("no policy in force: %+v", failed)
	}
}

// Ids are told when they are asked for.
func TestTracesTellIDsWhenAsked(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	o := open(t, ostiary.Options{TraceIDs: true, Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))})
	if _, err := o.Decide(t.Context(), authz.Request{Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "document", ID: "d1"}}); err != nil {
		t.Fatal(err)
	}
	for _, s := range spans.Ended() {
		for _, a := range s.Attributes() {
			if a.Key == "ostiary.resource.id" && a.Value.AsString() == "d1" {
				return
			}
		}
	}
	t.Error("the resource is not told")
}

// Decisions and requests are counted for the provider that was handed in, each
// once, until the instance closes.
func TestMetricsOfAProvider(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	o, err := ostiary.Open(t.Context(), ostiary.Options{Database: "sqlite::memory:", Meter: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() {
		if _, err := o.Decide(t.Context(), authz.Request{Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "document"}}); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	ask()
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/v1/authorize", strings.NewReader(`{"action": "read", "resource": {"type": "document"}}`))
	r.Header.Set("Content-Type", "application/json")
	o.Handler().ServeHTTP(w, r)
	collect := func() map[string]int64 {
		var data metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &data); err != nil {
			t.Fatal(err)
		}
		got := map[string]int64{}
		for _, scope := range data.ScopeMetrics {
			for _, m := range scope.Metrics {
				switch d := m.Data.(type) {
				case metricdata.Sum[int64]:
					for _, p := range d.DataPoints {
						got[m.Name] += p.Value
					}
				case metricdata.Histogram[float64]:
					for _, p := range d.DataPoints {
						got[m.Name] += int64(p.Count)
					}
				}
			}
		}
		return got
	}
	got := collect()
	if got["ostiary.decisions"] != 3 || got["http.server.request.duration"] != 1 {
		t.Errorf("got %v, want 3 decisions and 1 request", got)
	}
	if _, ok := got["ostiary.principal.cache.misses"]; !ok {
		t.Errorf("got %v", got)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := collect()["ostiary.principal.cache.misses"]; ok {
		t.Error("a closed instance is still asked")
	}
}

// Without a provider, counting a decision allocates nothing.
func TestCountingWithoutAProviderAllocatesNothing(t *testing.T) {
	m := server.NewMetrics()
	d := authz.Decision{Allow: true, Reasons: []authz.Reason{{Code: "role"}}}
	m.Decided(d)
	if n := testing.AllocsPerRun(100, func() { m.Decided(d) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
