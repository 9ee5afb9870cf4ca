package opa

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/ostiary/ostiary/authz"
)

// policy is a module: the author's by its name in the bundle, the built-in
// ones as builtin/….
type policy struct {
	ID  string          `json:"id"`
	Raw string          `json:"raw"`
	AST json.RawMessage `json:"ast"`
}

func (h *Handler) listPolicies(c *call) error {
	if _, err := c.ask("read", authz.Resource{Type: "policy"}); err != nil {
		return err
	}
	modules := h.Policies.Bundle().Source.Modules
	list := []policy{}
	for _, id := range slices.Sorted(maps.Keys(modules)) {
		tree, err := authz.ModuleAST(id, modules[id])
		if err != nil {
			return err
		}
		list = append(list, policy{id, modules[id], tree})
	}
	return c.answer(jsonType, struct {
		Result []policy `json:"result"`
	}{list}, c.parameters().flag("pretty"))
}

func (h *Handler) getPolicy(c *call) error {
	id, err := url.PathUnescape(c.rest)
	if err != nil {
		return invalid("invalid id")
	}
	if _, err := c.ask("read", authz.Resource{Type: "policy", ID: id}); err != nil {
		return err
	}
	raw, ok := h.Policies.Bundle().Source.Modules[id]
	if !ok {
		return notFound("storage_not_found_error: policy id " + quote(id))
	}
	tree, err := authz.ModuleAST(id, raw)
	if err != nil {
		return err
	}
	return c.answer(jsonType, struct {
		Result policy `json:"result"`
	}{policy{id, raw, tree}}, c.parameters().flag("pretty"))
}

func quote(s string) string {
	b, _ := json.Marshal(s) // text always is JSON
	return string(b)
}

// health says whether queries would be answered. With bundles it asks for a
// policy in force, which is asked for anyway; with plugins, for what the
// service stands on.
func (h *Handler) health(c *call) error {
	p := c.parameters()
	var problem string
	if h.Engine.Policy() == nil {
		problem = "unable to perform evaluation"
	} else if p.flag("plugins") && h.Ready != nil {
		if err := h.Ready(c.ctx); err != nil {
			h.Log.WarnContext(c.ctx, "not ready", "error", err)
			problem = "one or more plugins are not up"
		}
	}
	if problem == "" {
		return c.answer(jsonType, struct{}{}, false)
	}
	body, _ := json.Marshal(map[string]string{"error": problem})
	c.w.Header().Set("Content-Type", jsonType)
	c.w.WriteHeader(http.StatusInternalServerError)
	c.w.Write(append(body, '\n'))
	return nil
}
