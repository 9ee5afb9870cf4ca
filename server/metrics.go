package server

import (
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

// Metrics counts what is served and decided, in a registry of its own. As a
// handler it answers in the Prometheus format; it belongs on an address of its
// own, which strangers cannot reach. No label holds an id or a secret.
type Metrics struct {
	registry  *prometheus.Registry
	handler   http.Handler
	requests  *prometheus.HistogramVec
	decisions *prometheus.CounterVec
	meter     *instruments // nil: nobody else wants to know

	// What is known of labels that were seen. It is replaced, never changed,
	// so that counting takes no lock.
	mu      sync.Mutex
	routes  atomic.Pointer[map[route]prometheus.Observer]
	answers atomic.Pointer[map[outcome]prometheus.Counter]
}

type route struct {
	method, pattern string
	status          int
}

type outcome struct {
	allow bool
	code  string
}

// maxCodes bounds the reason codes that are counted by name: they are the
// author's words, and a policy could make up a new one for each request.
const maxCodes = 100

// NewMetrics returns counters at zero.
func NewMetrics() *Metrics {
	registry := prometheus.NewRegistry()
	m := &Metrics{
		registry: registry,
		handler:  promhttp.HandlerFor(registry, promhttp.HandlerOpts{}),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "ostiary_http_request_duration_seconds",
			Help:    "Time to answer, by route pattern and status.",
			Buckets: []float64{.0001, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"method", "route", "status"}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ostiary_decisions_total",
			Help: "Decisions made for requests, by outcome and the code of the first reason.",
		}, []string{"outcome", "code"}),
	}
	m.routes.Store(&map[route]prometheus.Observer{})
	m.answers.Store(&map[outcome]prometheus.Counter{})
	registry.MustRegister(m.requests, m.decisions, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Audit shows what became of decision records.
func (m *Metrics) Audit(l *audit.Log) {
	m.counter("ostiary_audit_records_lost_total", "Decision records that could not be kept.", l.Lost)
	m.counter("ostiary_audit_records_sampled_total", "Allowed decisions that were left out by decisions.sample.", l.Sampled)
	m.counter("ostiary_audit_records_dropped_total", "Allowed decisions that data.system.log.drop left out.", l.Dropped)
	m.counter("ostiary_audit_records_untold_total", "Decision records that a sink beside the database did not get.", l.Untold)
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ostiary_audit_records_waiting",
		Help: "Decision records that wait to be written.",
	}, func() float64 { return float64(l.Waiting()) }))
}

// Cache shows how many credentials were resolved from memory, and how many
// from the store.
func (m *Metrics) Cache(stats func() (hits, misses uint64)) {
	m.counter("ostiary_principal_cache_hits_total", "Credentials that were resolved from memory.",
		func() uint64 { hits, _ := stats(); return hits })
	m.counter("ostiary_principal_cache_misses_total", "Credentials that were resolved from the store.",
		func() uint64 { _, misses := stats(); return misses })
}

// Search shows how often the results of filters were compared with decisions.
func (m *Metrics) Search(rechecks func() (checked, disagreed uint64)) {
	m.counter("ostiary_search_rechecks_total", "Results of searches that were found by a filter and decided about as well.",
		func() uint64 { checked, _ := rechecks(); return checked })
	m.counter("ostiary_search_disagreements_total", "Those of them that the policy denies: left out, and to be looked into.",
		func() uint64 { _, disagreed := rechecks(); return disagreed })
}

// Evaluation shows how often compiled policies were compared with OPA's evaluator.
func (m *Metrics) Evaluation(rechecks func() (checked, disagreed uint64)) {
	m.counter("ostiary_evaluation_rechecks_total", "Decisions of a compiled policy that OPA's evaluator made as well.",
		func() uint64 { checked, _ := rechecks(); return checked })
	m.counter("ostiary_evaluation_disagreements_total", "Those of them in which the two disagreed: the stricter was the answer, and OPA's evaluator decides since.",
		func() uint64 { _, disagreed := rechecks(); return disagreed })
}

// Memo shows how many decisions were remembered answers, and how many were put to
// a policy of which answers are remembered.
func (m *Metrics) Memo(stats func() (hits, misses uint64)) {
	m.counter("ostiary_decision_memo_hits_total", "Decisions whose answer was remembered.",
		func() uint64 { hits, _ := stats(); return hits })
	m.counter("ostiary_decision_memo_misses_total", "Decisions that the policy made, and whose answer could have been remembered.",
		func() uint64 { _, misses := stats(); return misses })
}

// Shadow shows what came of asking a shadow.
func (m *Metrics) Shadow(counts func() policies.ShadowCounts) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ostiary_shadow_running",
		Help: "1 while a candidate is asked beside the policy in force.",
	}, func() float64 {
		if counts().Running {
			return 1
		}
		return 0
	}))
	m.counter("ostiary_shadow_decisions_total", "Decisions that a shadow was asked about.", func() uint64 { return counts().Asked })
	m.counter("ostiary_shadow_not_replayable_total", "Those of them that it could not be asked, or not in time.", func() uint64 { return counts().NotReplayable })
	m.counter("ostiary_shadow_dropped_total", "Decisions that it was not asked about because too many waited.", func() uint64 { return counts().Dropped })
	m.counter("ostiary_shadow_deny_to_allow_total", "Denials that the shadow would permit.", func() uint64 { return counts().DenyToAllow })
	m.counter("ostiary_shadow_allow_to_deny_total", "Permissions that the shadow would deny.", func() uint64 { return counts().AllowToDeny })
	m.counter("ostiary_shadow_other_reasons_total", "Answers that stay, for reasons with other codes.", func() uint64 { return counts().OtherCodes })
}

func (m *Metrics) counter(name, help string, f func() uint64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(f()) }))
}

// about shows which program and which policy are at work.
func (m *Metrics) about(version string, policy func() policies.Status) {
	if m == nil {
		return
	}
	m.registry.MustRegister(policyCollector{policy}, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "ostiary_build_info",
		Help:        "Always 1; the version is a label.",
		ConstLabels: prometheus.Labels{"version": version},
	}, func() float64 { return 1 }))
}

// feed shows how old the knowledge of changes is.
func (m *Metrics) feed(state func() (age time.Duration, revision int64)) {
	if m == nil || state == nil {
		return
	}
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ostiary_feed_age_seconds",
		Help: "Time since the last completed look at the changes began.",
	}, func() float64 { age, _ := state(); return age.Seconds() }))
}

func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.handler.ServeHTTP(w, r) }

// served counts an answer.
func (m *Metrics) served(method, pattern string, status int, took time.Duration) {
	if m == nil {
		return
	}
	if !known(method) {
		method = "other"
	}
	key := route{method, pattern, status}
	o, ok := (*m.routes.Load())[key]
	if !ok {
		o = add(m, &m.routes, key, m.requests.WithLabelValues(method, pattern, strconv.Itoa(status)))
	}
	o.Observe(took.Seconds())
	if m.meter != nil {
		m.meter.served(method, pattern, status, took.Seconds())
	}
}

func known(method string) bool {
	for _, m := range methods {
		if m == method {
			return true
		}
	}
	return method == http.MethodOptions
}

// Decided counts a decision.
func (m *Metrics) Decided(d authz.Decision) {
	if m == nil {
		return
	}
	key := outcome{allow: d.Allow}
	if len(d.Reasons) > 0 {
		key.code = d.Reasons[0].Code
	}
	c, ok := (*m.answers.Load())[key]
	if !ok {
		if len(*m.answers.Load()) >= maxCodes || len(key.code) > 64 {
			key.code = "other"
		}
		name := "deny"
		if key.allow {
			name = "allow"
		}
		c = add(m, &m.answers, key, m.decisions.WithLabelValues(name, key.code))
	}
	c.Inc()
	if m.meter != nil {
		m.meter.decided(d, key.code)
	}
}

func add[K comparable, V any](m *Metrics, to *atomic.Pointer[map[K]V], key K, v V) V {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := maps.Clone(*to.Load())
	next[key] = v
	to.Store(&next)
	return v
}

// policyCollector shows one series for the revision in force, and none for
// those before it.
type policyCollector struct{ status func() policies.Status }

var (
	policyInfo    = prometheus.NewDesc("ostiary_policy_info", "Always 1; the revision in force is a label.", []string{"revision"}, nil)
	policyAge     = prometheus.NewDesc("ostiary_policy_age_seconds", "Time since the policy in force was loaded.", nil, nil)
	policyCurrent = prometheus.NewDesc("ostiary_policy_current", "0 while the newest policy cannot be put in force, or be looked for.", nil, nil)
)

func (c policyCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- policyInfo
	ch <- policyAge
	ch <- policyCurrent
}

func (c policyCollector) Collect(ch chan<- prometheus.Metric) {
	status := c.status()
	current := 1.0
	if status.Err != nil {
		current = 0
	}
	ch <- prometheus.MustNewConstMetric(policyCurrent, prometheus.GaugeValue, current)
	if status.Revision == "" {
		return
	}
	ch <- prometheus.MustNewConstMetric(policyInfo, prometheus.GaugeValue, 1, status.Revision)
	ch <- prometheus.MustNewConstMetric(policyAge, prometheus.GaugeValue, time.Since(status.Loaded).Seconds())
}
