package policies

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/util"

	"github.com/ostiary/ostiary/authz"
)

// tables are data.roles, data.self, data.actions and data.settings: JSON
// values, validated.
type tables struct {
	roles    map[string]any // role → type → actions
	self     map[string]any // type → actions
	actions  map[string]any // type → actions
	settings map[string]any
}

func newTables(builtin map[string]any) tables {
	return tables{
		roles:    builtin["roles"].(map[string]any),
		self:     builtin["self"].(map[string]any),
		actions:  map[string]any{},
		settings: builtin["settings"].(map[string]any),
	}
}

// merge adds an author's tables: a role, a type of self, or a setting replaces
// the one of the same name whole.
func (t tables) merge(data map[string]any, source func(root string) string) []error {
	var all []error
	add := func(root string, into map[string]any, check func(path, name string, value any) []error) {
		value, ok := data[root]
		if !ok {
			return
		}
		located := func(errs []error) {
			for _, err := range errs {
				all = append(all, fmt.Errorf("%s: %w", cmp.Or(source(root), "data"), err))
			}
		}
		table, ok := value.(map[string]any)
		if !ok {
			located([]error{fmt.Errorf("data.%s: must be an object, not %s", root, kind(value))})
			return
		}
		for _, name := range slices.Sorted(maps.Keys(table)) {
			errs := check("data."+root+member(name), name, table[name])
			located(errs)
			if len(errs) == 0 {
				into[name] = table[name]
			}
		}
	}
	add("roles", t.roles, checkRole)
	add("self", t.self, checkActions)
	add("actions", t.actions, checkActions)
	add("settings", t.settings, checkSetting)
	return all
}

// configure sets what the operator configures. Nil means not configured.
func (t tables) configure(settings map[string]any) []error {
	var all []error
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		text, err := json.Marshal(settings[name])
		if err != nil {
			all = append(all, fmt.Errorf("setting %s: %w", name, err))
			continue
		}
		if string(text) == "null" {
			continue
		}
		var value any
		if err := util.UnmarshalJSON(text, &value); err != nil {
			all = append(all, fmt.Errorf("setting %s: %w", name, err))
			continue
		}
		if errs := checkSetting("setting "+name, name, value); len(errs) > 0 {
			all = append(all, errs...)
			continue
		}
		t.settings[name] = value
	}
	return all
}

func checkRole(path, role string, value any) []error {
	var all []error
	// Users' roles are kept as text, separated by commas and trimmed.
	if role == "" || strings.Contains(role, ",") || strings.TrimSpace(role) != role {
		all = append(all, fmt.Errorf("%s: role %q: a name has no comma, no space around it and is not empty", path, role))
	}
	table, ok := value.(map[string]any)
	if !ok {
		return append(all, fmt.Errorf("%s: role %q must be an object of resource types, not %s", path, role, kind(value)))
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		for _, err := range checkActions(path+member(name), name, table[name]) {
			all = append(all, fmt.Errorf("%w (role %q)", err, role))
		}
	}
	return all
}

func checkActions(path, resourceType string, value any) []error {
	if resourceType == "" {
		return []error{fmt.Errorf("%s: the resource type is empty", path)}
	}
	return checkNames(path, value)
}

func checkNames(path string, value any) []error {
	list, ok := value.([]any)
	if !ok {
		return []error{fmt.Errorf("%s: must be a list of names, not %s", path, kind(value))}
	}
	var all []error
	for i, v := range list {
		if s, ok := v.(string); !ok || s == "" {
			all = append(all, fmt.Errorf("%s[%d]: must be a name, not %s", path, i, kind(v)))
		}
	}
	return all
}

func checkSetting(path, name string, value any) []error {
	switch name {
	case "sign_up":
		if _, ok := value.(bool); !ok {
			return []error{fmt.Errorf("%s: must be true or false, not %s", path, kind(value))}
		}
		return nil
	case "default_role":
		if s, ok := value.(string); !ok || s == "" {
			return []error{fmt.Errorf("%s: must be the name of a role, not %s", path, kind(value))}
		}
		return nil
	case "admin_user_ids", "admin_roles":
		return checkNames(path, value)
	}
	return []error{fmt.Errorf("%s: there is no such setting", path)}
}

// Roles returns the roles table as plain permissions.
func (t tables) Roles() map[string]authz.Permissions {
	roles := make(map[string]authz.Permissions, len(t.roles))
	for role, table := range t.roles {
		roles[role] = permissions(table)
	}
	return roles
}

func permissions(table any) authz.Permissions {
	p := authz.Permissions{}
	for resourceType, actions := range table.(map[string]any) {
		p[resourceType] = names(actions)
	}
	return p
}

// Actions returns the names of the actions that there are on a resource type,
// sorted: those that data.actions lists for it, or else those that the tables
// of roles and self have for it.
func (b Bundle) Actions(resourceType string) []string {
	if listed, ok := b.actions[resourceType]; ok {
		return slices.Compact(slices.Sorted(slices.Values(names(listed))))
	}
	var all []string
	for _, p := range slices.Concat([]authz.Permissions{b.self}, slices.Collect(maps.Values(b.Roles))) {
		all = slices.Concat(all, p[resourceType], p["*"])
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(action string) bool { return action == "*" })
}

// permits returns what the rules look permissions up in: the tables with
// objects for lists, who holds a permission, the administrators by id, and the
// types of the application.
func (t tables) permits(types []string) map[string]any {
	roles := map[string]any{}
	holders := map[string]any{}
	for role, table := range t.roles {
		roles[role] = lookup(table)
		for resourceType, actions := range table.(map[string]any) {
			for _, action := range names(actions) {
				below(below(holders, resourceType), action)[role] = true
			}
		}
	}
	return map[string]any{
		"roles":   roles,
		"holders": holders,
		"self":    lookup(t.self),
		"admins":  members(names(t.settings["admin_user_ids"])),
		"app":     members(types),
	}
}

// below returns the object at name in m, a new one if there is none.
func below(m map[string]any, name string) map[string]any {
	object, ok := m[name].(map[string]any)
	if !ok {
		object = map[string]any{}
		m[name] = object
	}
	return object
}

func lookup(table any) map[string]any {
	out := map[string]any{}
	for resourceType, actions := range table.(map[string]any) {
		out[resourceType] = members(names(actions))
	}
	return out
}

func members(names []string) map[string]any {
	out := make(map[string]any, len(names))
	for _, n := range names {
		out[n] = true
	}
	return out
}

func names(list any) []string {
	values := list.([]any)
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = v.(string)
	}
	return out
}

// member words the step from a document to its member, as Rego would.
func member(name string) string {
	plain := name != ""
	for i, r := range name {
		letter := r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		plain = plain && (letter || i > 0 && '0' <= r && r <= '9')
	}
	if plain {
		return "." + name
	}
	return fmt.Sprintf("[%q]", name)
}

// kind words what a JSON value is.
func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return fmt.Sprint(v)
	case string:
		return fmt.Sprintf("%q", v)
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return fmt.Sprint(v)
}
