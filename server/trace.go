package server

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/ostiary/ostiary/authz"
)

// span begins the span of a request, under the one that the request tells of
// (W3C Trace Context). Without a tracer it is nil.
func (s *server) span(ctx context.Context, r *http.Request) (context.Context, trace.Span) {
	if s.Tracer == nil {
		return ctx, nil
	}
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
	return s.Tracer.Start(ctx, "HTTP", trace.WithSpanKind(trace.SpanKindServer))
}

// ended ends the span of a request. Its path, query and headers can hold
// secrets; the pattern stands for them.
func ended(span trace.Span, method, pattern string, status int) {
	if span == nil {
		return
	}
	if !known(method) {
		method = "_OTHER"
	}
	span.SetName(method + " " + pattern)
	span.SetAttributes(
		attribute.String("http.request.method", method),
		attribute.String("http.route", pattern),
		attribute.Int("http.response.status_code", status),
	)
	if status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// instruments count for a provider of OpenTelemetry what [Metrics] counts.
type instruments struct {
	requests  metric.Float64Histogram
	decisions metric.Int64Counter
}

// Meter has m count with meter too. It is called once, before anything is counted.
func (m *Metrics) Meter(meter metric.Meter) error {
	var err error
	i := &instruments{}
	if i.requests, err = meter.Float64Histogram("http.server.request.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to answer, by route pattern and status.")); err != nil {
		return err
	}
	if i.decisions, err = meter.Int64Counter("ostiary.decisions", metric.WithUnit("{decision}"),
		metric.WithDescription("Decisions made, by outcome and the code of the first reason.")); err != nil {
		return err
	}
	m.meter = i
	return nil
}

func (i *instruments) served(method, pattern string, status int, seconds float64) {
	i.requests.Record(context.Background(), seconds, metric.WithAttributes(
		attribute.String("http.request.method", method),
		attribute.String("http.route", pattern),
		attribute.Int("http.response.status_code", status)))
}

// decided counts d under a code that was counted before: see maxCodes.
func (i *instruments) decided(d authz.Decision, code string) {
	i.decisions.Add(context.Background(), 1, metric.WithAttributes(
		attribute.Bool("ostiary.decision.allow", d.Allow),
		attribute.String("ostiary.decision.code", code)))
}
