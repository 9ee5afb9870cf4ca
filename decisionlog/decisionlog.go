// Package decisionlog tells decisions to services that take the decision logs
// of Open Policy Agent, through OPA's own plugin: gzipped batches to URL/logs,
// with retries and a bounded buffer that loses its oldest first.
//
// Records come masked and sampled, so the plugin has no rules of its own. What
// was masked is in the event's custom.ostiary.
package decisionlog

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins"
	"github.com/open-policy-agent/opa/v1/plugins/logs"
	"github.com/open-policy-agent/opa/v1/server"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/ostiary/ostiary/audit"
)

// Options configures a sink.
type Options struct {
	URL   string // of the service, without the /logs
	Token string // bearer token, or none
	// Instance tells instances apart, as label id of the events.
	Instance string
	Log      *slog.Logger // default discards
}

// buffer bounds what waits for a service that is away.
const buffer = 64 << 20

// Open returns the sink. The service may be away.
func Open(ctx context.Context, o Options) (audit.Sink, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	service := map[string]any{"url": strings.TrimSuffix(o.URL, "/")}
	if o.Token != "" {
		service["credentials"] = map[string]any{"bearer": map[string]any{"token": o.Token}}
	}
	config, err := json.Marshal(map[string]any{"services": map[string]any{"sink": service}})
	if err != nil {
		return nil, err
	}
	store := inmem.New()
	manager, err := plugins.New(config, o.Instance, store, plugins.Logger(&logger{o.Log}))
	if err != nil {
		return nil, fmt.Errorf("decision log: %w", err)
	}
	if err := manager.Init(ctx); err != nil {
		return nil, fmt.Errorf("decision log: %w", err)
	}
	parsed, err := logs.ParseConfig(fmt.Appendf(nil, `{"service": "sink", "reporting": {"min_delay_seconds": 1, "max_delay_seconds": 5, "buffer_size_limit_bytes": %d}}`, buffer), []string{"sink"}, nil)
	if err != nil {
		return nil, fmt.Errorf("decision log: %w", err)
	}
	s := &sink{manager: manager, plugin: logs.New(parsed, manager)}
	return s, s.plugin.Start(ctx)
}

type sink struct {
	manager *plugins.Manager
	plugin  *logs.Plugin
	closing sync.Once
}

// Write implements [audit.Sink].
func (s *sink) Write(ctx context.Context, records []audit.Record) error {
	for i := range records {
		info, err := infoOf(&records[i])
		if err != nil {
			return err
		}
		if err := s.plugin.Log(ctx, info); err != nil {
			return err
		}
	}
	return nil
}

// Close sends what waits, while ctx lasts.
func (s *sink) Close(ctx context.Context) error {
	s.closing.Do(func() {
		s.plugin.Stop(ctx)
		s.manager.Stop(ctx)
	})
	return nil
}

func infoOf(r *audit.Record) (*server.Info, error) {
	d := r.Document()
	var result any = map[string]any{"allow": d.Allow, "reasons": d.Reasons}
	if d.Context != nil {
		result.(map[string]any)["context"] = d.Context
	}
	// All that OPA's event has no member for.
	about := d
	about.Input, about.NDBuiltinCache, about.Context, about.Reasons = nil, nil, nil, nil
	text, err := json.Marshal(about)
	if err != nil {
		return nil, err
	}
	var custom map[string]any
	if err := json.Unmarshal(text, &custom); err != nil {
		return nil, err
	}
	delete(custom, "reasons")
	info := &server.Info{
		DecisionID: r.ID, Timestamp: r.At, Path: "ostiary/decision",
		Bundles: map[string]server.BundleInfo{"ostiary": {Revision: r.Revision}},
		Results: &result, Custom: map[string]any{"ostiary": custom},
	}
	if r.Input != nil {
		var in any = r.Input
		info.Input = &in
	}
	if r.NDBuiltinCache != nil {
		var nd any = r.NDBuiltinCache
		info.NDBuiltinCache = &nd
	}
	return info, nil
}

// logger has the plugin say what is wrong in our log.
type logger struct{ log *slog.Logger }

func (*logger) Debug(string, ...any) {}
func (*logger) Info(string, ...any)  {}
func (l *logger) Warn(format string, args ...any) {
	l.log.Warn("decision log: " + fmt.Sprintf(format, args...))
}
func (l *logger) Error(format string, args ...any) {
	l.log.Error("decision log: " + fmt.Sprintf(format, args...))
}
func (l *logger) WithFields(map[string]any) logging.Logger { return l }
func (*logger) GetLevel() logging.Level                    { return logging.Warn }
func (*logger) SetLevel(logging.Level)                     {}
