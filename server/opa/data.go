package opa

import (
	"encoding/json"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/ostiary/ostiary/authz"
)

var (
	ostiaryPath  = mustPath("ostiary")
	decisionPath = mustPath("ostiary/decision")
	defaultPath  = mustPath("system/main") // what POST / evaluates
)

// dataResponse answers a data query. Its members stand in OPA's order.
type dataResponse struct {
	DecisionID  string           `json:"decision_id,omitempty"`
	Provenance  *provenance      `json:"provenance,omitempty"`
	Explanation json.RawMessage  `json:"explanation,omitempty"`
	Metrics     map[string]any   `json:"metrics,omitempty"`
	Result      *any             `json:"result,omitempty"`
	RuleLabels  []map[string]any `json:"rule_labels,omitempty"`
	Warning     *warning         `json:"warning,omitempty"`
}

type warning struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

var inputMissing = &warning{"api_usage_warning", "'input' key missing from the request"}

type provenance struct {
	Version   string                      `json:"version"`
	Commit    string                      `json:"build_commit"`
	Timestamp string                      `json:"build_timestamp"`
	Hostname  string                      `json:"build_hostname"`
	Bundles   map[string]bundleProvenance `json:"bundles"`
}

type bundleProvenance struct {
	Revision string `json:"revision"`
}

// provenance tells what answered: this program, and the policy at revision.
func (c *call) provenance(revision string) *provenance {
	p := &provenance{Version: c.Version, Bundles: map[string]bundleProvenance{"policies": {revision}}}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				p.Commit = s.Value
			case "vcs.time":
				p.Timestamp = s.Value
			}
		}
	}
	return p
}

func (c *call) path() (authz.Path, error) {
	p, err := authz.ParsePath(c.rest)
	if err != nil {
		return p, invalid("invalid path: " + err.Error())
	}
	return p, nil
}

func (h *Handler) postData(c *call) error {
	m, err := c.members()
	if err != nil {
		return err
	}
	in := input(m)
	return c.data(in, in == nil)
}

func (h *Handler) getData(c *call) error {
	text, there := c.parameters().last("input")
	if !there {
		return c.data(nil, false)
	}
	if c.Reader.TooDeep([]byte(text)) {
		return invalid("parameter contains malformed input document: it is nested too deeply")
	}
	if !json.Valid([]byte(text)) {
		return invalid("parameter contains malformed input document")
	}
	in, err := decodeJSON([]byte(text))
	if err != nil {
		return invalid("parameter contains malformed input document: " + err.Error())
	}
	return c.data(&in, false)
}

// data answers a query over in; with warn, its absence is remarked on.
func (c *call) data(in *any, warn bool) error {
	parsed := time.Since(c.began)
	path, err := c.path()
	if err != nil {
		return err
	}
	p := c.parameters()
	o, err := c.evaluation(p)
	if err != nil {
		return err
	}
	o.Input = in
	a, id, err := c.evaluate(path, o)
	if err != nil {
		return err
	}
	out := dataResponse{DecisionID: id, Explanation: a.Explanation, Metrics: a.Metrics}
	if a.Defined {
		out.Result = &a.Value
	}
	if p.flag("rule_labels") {
		out.RuleLabels = a.RuleLabels
	}
	if p.flag("provenance") {
		out.Provenance = c.provenance(a.Revision)
	}
	if warn {
		out.Warning = inputMissing
	}
	if out.Metrics != nil {
		out.Metrics["timer_rego_input_parse_ns"] = parsed.Nanoseconds()
		out.Metrics["timer_server_handler_ns"] = time.Since(c.began).Nanoseconds()
	}
	return c.answer(jsonType, out, o.Pretty)
}

// evaluate answers what is at path, and the id of the decision on which that
// rests.
func (c *call) evaluate(path authz.Path, o authz.QueryOptions) (authz.Answer, string, error) {
	d, err := c.mayEvaluate(path)
	if err != nil {
		return authz.Answer{}, "", err
	}
	if rest, ok := path.Below(decisionPath); ok {
		return c.decide(rest, o, d)
	}
	a, err := c.Engine.Evaluate(c.ctx, authz.Query{Path: path, Entrypoints: c.entrypoints, Options: o})
	return a, d.ID, err
}

// postDataV0 takes the body as the input, and answers the bare value.
func (h *Handler) postDataV0(c *call) error {
	path, err := c.path()
	if err != nil {
		return err
	}
	return c.bare(path)
}

// postDefault evaluates the path that OPA's configuration calls the default
// decision.
func (h *Handler) postDefault(c *call) error { return c.bare(defaultPath) }

func (c *call) bare(path authz.Path) error {
	in, _, err := c.body()
	if err != nil {
		return err
	}
	a, _, err := c.evaluate(path, authz.QueryOptions{Input: &in})
	if err != nil {
		return err
	}
	if !a.Defined {
		message := "document missing: "
		if p := c.Engine.Policy(); p != nil && p.Declares(path, c.entrypoints) && p.Rules(path) {
			message = "document undefined: "
		}
		return &apiError{status: http.StatusNotFound, Code: codeUndefined, Message: message + path.Reference()}
	}
	return c.answer(jsonType, a.Value, c.parameters().flag("pretty"))
}
