package opa

import (
	"encoding/json"
	"time"

	"github.com/ostiary/ostiary/authz"
)

// queryResponse answers an ad hoc query.
type queryResponse struct {
	Explanation json.RawMessage  `json:"explanation,omitempty"`
	Metrics     map[string]any   `json:"metrics,omitempty"`
	Result      []map[string]any `json:"result,omitempty"`
	RuleLabels  []map[string]any `json:"rule_labels,omitempty"`
}

func (h *Handler) getQuery(c *call) error {
	if !h.query {
		return queryOff()
	}
	q, there := c.parameters().last("q")
	if !there {
		return invalid("missing parameter 'q'")
	}
	return c.adHoc(q, nil)
}

func (h *Handler) postQuery(c *call) error {
	if !h.query {
		return queryOff()
	}
	m, err := c.members()
	if err != nil {
		return err
	}
	q, err := text(m, "query")
	if err != nil {
		return err
	}
	return c.adHoc(q, input(m))
}

func queryOff() error { return notFound("ad hoc queries are switched off (opa.query)") }

// adHoc evaluates a query that the caller wrote. It reads every rule and all
// data, so it needs more than a data query does.
func (c *call) adHoc(q string, in *any) error {
	if _, err := c.ask("evaluate", authz.Resource{Type: "access"}); err != nil {
		return err
	}
	if _, err := c.ask("test", authz.Resource{Type: "policy"}); err != nil {
		return err
	}
	p := c.parameters()
	o, err := c.evaluation(p)
	if err != nil {
		return err
	}
	o.Input = in
	a, err := c.Engine.EvaluateText(c.ctx, q, o)
	if err != nil {
		return err
	}
	out := queryResponse{Explanation: a.Explanation, Metrics: a.Metrics, Result: a.Bindings}
	if p.flag("rule_labels") {
		out.RuleLabels = a.RuleLabels
	}
	if out.Metrics != nil {
		out.Metrics["timer_server_handler_ns"] = time.Since(c.began).Nanoseconds()
	}
	return c.answer(jsonType, out, o.Pretty)
}
