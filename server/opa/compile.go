package opa

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary/authz"
)

const multiTarget = "application/vnd.opa.multitarget+json"

// targets are the dialects by the media type that asks for them.
var targets = map[string]authz.DataFilterTarget{
	"application/vnd.opa.sql.postgresql+json": {Language: "sql", Dialect: "postgresql"},
	"application/vnd.opa.sql.mysql+json":      {Language: "sql", Dialect: "mysql"},
	"application/vnd.opa.sql.sqlserver+json":  {Language: "sql", Dialect: "sqlserver"},
	"application/vnd.opa.sql.sqlite+json":     {Language: "sql", Dialect: "sqlite"},
	"application/vnd.opa.ucast.all+json":      {Language: "ucast", Dialect: "all"},
	"application/vnd.opa.ucast.minimal+json":  {Language: "ucast", Dialect: "minimal"},
	"application/vnd.opa.ucast.linq+json":     {Language: "ucast", Dialect: "linq"},
	"application/vnd.opa.ucast.prisma+json":   {Language: "ucast", Dialect: "prisma"},
}

// compileResponse answers a question for a data filter.
type compileResponse struct {
	Result  any             `json:"result,omitempty"`
	Metrics map[string]any  `json:"metrics,omitempty"`
	Hints   json.RawMessage `json:"hints,omitempty"`
}

type filter struct {
	Query any            `json:"query"`
	Masks map[string]any `json:"masks,omitempty"`
}

func filterOf(f authz.DataFilter) *filter {
	if f.Never {
		return nil
	}
	return &filter{f.Query, f.Masks}
}

// compile turns a declared rule into the condition of a database query.
func (h *Handler) compile(c *call) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	if path.String() == "" {
		return invalid("missing required 'path' parameter")
	}
	m, err := c.members()
	if err != nil {
		return err
	}
	if _, err := c.mayEvaluate(path); err != nil {
		return err
	}
	q, err := filterQuery(m)
	if err != nil {
		return err
	}
	p := c.parameters()
	q.Path, q.Entrypoints = path, h.entrypoints
	q.Metrics, q.Instrument = p.flag("metrics"), p.flag("instrument")

	accept := c.r.Header.Get("Accept")
	options, err := object(m, "options")
	if err != nil {
		return err
	}
	if q.Targets, err = targetsOf(accept, options); err != nil {
		return err
	}
	found, err := h.Engine.DataFilter(c.ctx, q)
	if err != nil {
		return filterError(err)
	}
	out := compileResponse{Hints: found.Hints, Metrics: found.Metrics}
	if accept == multiTarget {
		all := map[string]*filter{}
		for i, t := range q.Targets {
			name := t.Dialect
			if t.Language == "ucast" {
				name = "ucast"
			}
			if f := filterOf(found.Filters[i]); f != nil {
				all[name] = f
			}
		}
		out.Result = all
	} else if f := filterOf(found.Filters[0]); f != nil {
		out.Result = f
	}
	if out.Metrics != nil {
		out.Metrics["timer_server_handler_ns"] = time.Since(c.began).Nanoseconds()
	}
	return c.answer(accept, out, p.flag("pretty"))
}

func filterQuery(m map[string]any) (q authz.DataFilterQuery, err error) {
	q.Input = input(m)
	if q.Unknowns, err = texts(m, "unknowns"); err != nil {
		return q, err
	}
	o, err := object(m, "options")
	if err != nil {
		return q, err
	}
	if q.DisableInlining, err = texts(o, "disableInlining"); err != nil {
		return q, err
	}
	if q.Mappings, err = object(o, "targetSQLTableMappings"); err != nil {
		return q, err
	}
	q.MaskRule, err = text(o, "maskRule")
	return q, err
}

// targetsOf reads what is asked for: one dialect by the media type alone, or
// several by the options.
func targetsOf(accept string, options map[string]any) ([]authz.DataFilterTarget, error) {
	switch {
	case accept == "":
		return nil, invalid("Accept header: missing required header")
	case strings.Contains(accept, ","):
		return nil, invalid("Accept header: multiple headers not supported")
	case accept != multiTarget:
		t, ok := targets[accept]
		if !ok {
			return nil, invalid("Accept header: unsupported header: " + accept)
		}
		return []authz.DataFilterTarget{t}, nil
	}
	names, err := texts(options, "targetDialects")
	if err != nil {
		return nil, err
	}
	var list []authz.DataFilterTarget
	ucast := ""
	for _, name := range names {
		language, dialect, _ := strings.Cut(name, "+")
		t := authz.DataFilterTarget{Language: language, Dialect: dialect}
		known := false
		for _, each := range targets {
			known = known || each == t
		}
		if !known {
			return nil, invalid("unsupported target dialect: " + name)
		}
		if language == "ucast" {
			if ucast != "" && ucast != dialect {
				return nil, invalid("more than one ucast dialect")
			}
			ucast = dialect
		}
		if !slices.Contains(list, t) {
			list = append(list, t)
		}
	}
	if len(list) == 0 {
		return nil, invalid("options.targetDialects names no dialect")
	}
	return list, nil
}

// filterError words a rule that does not translate: unlike one that fails, it
// is the caller's mistake.
func filterError(err error) error {
	if errors.Is(err, authz.ErrDataFilter) {
		return invalid(err.Error())
	}
	e, ok := errors.AsType[*authz.RegoError](err)
	if !ok || !e.Translation() {
		return err
	}
	return &apiError{status: http.StatusBadRequest, Code: codeEvaluation, Message: "error(s) occurred while evaluating query", Errors: e.Details}
}
