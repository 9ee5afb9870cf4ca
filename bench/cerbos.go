package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// cerbos is its server on an equivalent policy, without authentication: who asks
// stands in the question. What a key is granted is an attribute of theirs; a rule
// cannot see which action is asked about, so each action has one of its own.
func (s *servers) cerbos(q, other *question) (target, error) {
	_, roles, err := source()
	if err != nil {
		return target{}, err
	}
	dir := filepath.Join(s.dir, "cerbos")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return target{}, err
	}
	for kind, rules := range cerbosRules(roles) {
		policy := map[string]any{
			"apiVersion":     "api.cerbos.dev/v1",
			"resourcePolicy": map[string]any{"version": "default", "resource": kind, "rules": rules},
		}
		if err := os.WriteFile(filepath.Join(dir, kind+".json"), []byte(encoded(policy)), 0o644); err != nil {
			return target{}, err
		}
	}
	grpc, err := free()
	if err != nil {
		return target{}, err
	}
	config := filepath.Join(s.dir, "cerbos.json")
	address, _, err := s.serve(nil, "/_cerbos/health", func(address string) []string {
		settings := encoded(map[string]any{
			"server":    map[string]any{"httpListenAddr": address, "grpcListenAddr": grpc},
			"storage":   map[string]any{"driver": "disk", "disk": map[string]any{"directory": dir, "watchForChanges": false}},
			"telemetry": map[string]any{"disabled": true},
		})
		err = os.WriteFile(config, []byte(settings), 0o644)
		return []string{s.load.cerbos, "server", "--config", config, "--log-level", "error"}
	})
	if err != nil {
		return target{}, err
	}
	about := func(q *question) []byte {
		var grants []string
		for _, t := range slices.Sorted(maps.Keys(q.who.Key.Permissions)) {
			for _, a := range q.who.Key.Permissions[t] {
				grants = append(grants, t+":"+a)
			}
		}
		return post(address, "/api/check/resources", encoded(map[string]any{
			"requestId": "bench",
			"principal": map[string]any{"id": q.who.ID, "roles": q.who.Roles, "attr": map[string]any{"banned": q.who.User.Banned, "grants": grants}},
			"resources": []any{map[string]any{
				"actions":  []string{q.what.Action.Name},
				"resource": map[string]any{"kind": q.what.Resource.Type, "id": q.what.Resource.ID},
			}},
		}))
	}
	return target{name: "cerbos", address: address, request: about(q), has: `"EFFECT_ALLOW"`, asks: 1, against: ours,
		other: string(about(other)), otherHas: `"EFFECT_DENY"`}, nil
}

// cerbosRules are the rules of each kind of resource: what roles and owners may,
// and what forbids it.
func cerbosRules(roles map[string]map[string]map[string]bool) map[string][]any {
	rule := func(effect string, actions, roles []string, when string) any {
		r := map[string]any{"effect": effect, "actions": actions, "roles": roles}
		if when != "" {
			r["condition"] = map[string]any{"match": map[string]any{"expr": when}}
		}
		return r
	}
	everybody := []string{"*"}
	kinds := map[string][]any{}
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		for kind, actions := range roles[name] {
			list := slices.Sorted(maps.Keys(actions))
			kinds[kind] = append(kinds[kind], rule("EFFECT_ALLOW", list, []string{name}, ""))
		}
	}
	for kind := range kinds {
		if kind == "*" {
			delete(kinds, kind)
			continue
		}
		actions := map[string]bool{}
		for _, types := range roles {
			maps.Copy(actions, types[kind])
		}
		kinds[kind] = append(kinds[kind], rule("EFFECT_DENY", []string{"*"}, everybody, "P.attr.banned"))
		for _, a := range slices.Sorted(maps.Keys(actions)) {
			kinds[kind] = append(kinds[kind], rule("EFFECT_DENY", []string{a}, everybody,
				fmt.Sprintf("has(P.attr.grants) && !(%q in P.attr.grants)", kind+":"+a)))
		}
	}
	kinds["user"] = append(kinds["user"],
		rule("EFFECT_ALLOW", []string{"get", "update", "change-password"}, everybody, "R.id == P.id"),
		rule("EFFECT_DENY", []string{"change-password", "change-email"}, everybody, "has(P.attr.impersonated)"),
		rule("EFFECT_DENY", []string{"ban", "delete"}, everybody, "!has(R.attr.lastAdmin) || R.attr.lastAdmin"))
	return kinds
}
