package authz

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
)

// traced is decide within a span. What the asker chose is in it only as far as it
// has the form of a name, which no address and no secret has that goes by it; who
// asks and about which resource only if the program wants that.
func (e *Engine) traced(ctx context.Context, p *Policy, r Request, now time.Time) (Decision, error) {
	ctx, span := e.tracer.Start(ctx, "ostiary.decide")
	defer span.End()
	d, err := e.decideAt(ctx, p, r, now)
	if !span.IsRecording() {
		return d, err
	}
	if err != nil {
		span.SetStatus(codes.Error, "there is no decision")
		return d, err
	}
	attributes := []attribute.KeyValue{
		attribute.Bool("ostiary.decision.allow", d.Allow),
		attribute.String("ostiary.decision.id", d.ID),
		attribute.String("ostiary.policy.revision", d.Revision),
		attribute.String("ostiary.principal.type", spelt(r.Who().Identity().Type)),
		attribute.String("ostiary.action", spelt(r.Action.Name)),
		attribute.String("ostiary.resource.type", spelt(r.Resource.Type)),
	}
	if len(d.Reasons) > 0 {
		attributes = append(attributes, attribute.String("ostiary.decision.code", spelt(d.Reasons[0].Code)))
	}
	if e.traceIDs {
		attributes = append(attributes,
			attribute.String("ostiary.principal.id", r.Who().Identity().ID),
			attribute.String("ostiary.resource.id", r.Resource.ID))
	}
	span.SetAttributes(attributes...)
	return d, nil
}

// maxName bounds the names in spans.
const maxName = 40

// spelt is text if it has the form of a name, and "other" if not.
func spelt(text string) string {
	if len(text) > maxName {
		return "other"
	}
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == ':':
		default:
			return "other"
		}
	}
	return text
}
