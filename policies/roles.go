package policies

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// Why a role cannot be deleted.
var (
	ErrNoRole       = errors.New("there is no such role")
	ErrBuiltinRole  = errors.New("the role is built in: set its permissions instead")
	ErrRoleAssigned = errors.New("the role is assigned to somebody")
	// ErrRolesByHand reports that the table is in files that only a person should
	// change.
	ErrRolesByHand = errors.New("the table of roles is in YAML, or the role has a folder of its own; these are not rewritten: publish the change as a bundle")
)

// rolesFile is where roles are written if the bundle has no table of them.
const rolesFile = "roles/data.json"

// SetRole gives a role these permissions, and makes it if it is not there, by
// publishing a revision in which nothing else is changed. policy:publish. See
// [Library.Publish] for what can be refused.
func (l *Library) SetRole(ctx context.Context, caller authn.Principal, role string, permissions authz.Permissions, in Upload) (Publication, error) {
	if permissions == nil {
		permissions = authz.Permissions{}
	}
	op := operation{
		name: "set-role", target: role, note: in.Note, expect: in.Expect, dryRun: in.DryRun,
		details: map[string]any{"role": role, "permissions": permissions.Document()},
	}
	return l.publish(ctx, caller, op, func(b *base) (map[string]string, bool, error) {
		files, _, err := editRoles(b.files, role, permissions)
		return files, true, err
	})
}

// DeleteRole removes a role that nobody has, as [Library.SetRole] sets one. Of a
// role that ships with the program, what the bundle says instead is removed.
func (l *Library) DeleteRole(ctx context.Context, caller authn.Principal, role string, in Upload) (Publication, error) {
	op := operation{
		name: "delete-role", target: role, note: in.Note, expect: in.Expect, dryRun: in.DryRun,
		details: map[string]any{"role": role},
	}
	return l.publish(ctx, caller, op, func(b *base) (map[string]string, bool, error) {
		_, data, err := readBuiltin()
		if err != nil {
			return nil, false, err
		}
		_, ships := data["roles"].(map[string]any)[role]
		files, found, err := editRoles(b.files, role, nil)
		switch {
		case err != nil:
			return nil, false, err
		case !found && ships:
			return nil, false, ErrBuiltinRole
		case !found:
			return nil, false, ErrNoRole
		case ships || l.options.Users == nil:
			return files, true, nil
		}
		holders, err := l.options.Users.Holders(ctx, authn.AdminRule{Roles: []string{role}}, mostHolders)
		if err == nil && len(holders) > 0 {
			err = assigned(holders)
		}
		return files, true, err
	})
}

func assigned(holders []authz.Identity) error {
	var who []string
	for _, h := range holders[:min(len(holders), 3)] {
		who = append(who, h.ID)
	}
	count := fmt.Sprint(len(holders))
	if len(holders) == mostHolders {
		count += " or more"
	}
	return fmt.Errorf("%w: %s, first %s", ErrRoleAssigned, count, strings.Join(who, ", "))
}

// editRoles returns files with a role in the table, or with nil without, and
// whether it was there before. It writes where the role is, or else where others
// are.
func editRoles(files map[string]string, role string, permissions authz.Permissions) (map[string]string, bool, error) {
	var tables []string // files with a part of the table, by depth
	for _, name := range slices.Sorted(maps.Keys(files)) {
		has, err := hasRoles(name, files[name])
		if err != nil {
			return nil, false, &RefusedError{StepCheck, []error{err}}
		}
		if has {
			tables = append(tables, name)
		}
	}
	slices.SortStableFunc(tables, func(a, b string) int { return strings.Count(a, "/") - strings.Count(b, "/") })
	out := maps.Clone(files)
	place := rolesFile
	for i, name := range tables {
		if path.Ext(name) != ".json" {
			return nil, false, ErrRolesByHand
		}
		steps := stepsTo(name, role)
		if steps == nil {
			if strings.HasPrefix(name, "roles/"+role+"/") {
				return nil, false, ErrRolesByHand
			}
			continue // of another role
		}
		text, found, err := edit(files[name], steps, permissions)
		if err != nil {
			return nil, false, &RefusedError{StepCheck, []error{fmt.Errorf("%s: %w", name, err)}}
		}
		if found {
			out[name] = text
			return out, true, nil
		}
		if i == 0 {
			place = name
		}
	}
	if permissions == nil {
		return out, false, nil
	}
	text := out[place]
	if text == "" {
		text = "{}"
	}
	steps := stepsTo(place, role)
	if steps == nil {
		place, text, steps = rolesFile, "{}", []string{role}
	}
	doc, err := jsonObject(text)
	if err != nil {
		return nil, false, &RefusedError{StepCheck, []error{fmt.Errorf("%s: %w", place, err)}}
	}
	out[place], err = written(put(doc, steps, permissions.Document()))
	return out, false, err
}

// hasRoles reports whether a file has a part of data.roles.
func hasRoles(name, text string) (bool, error) {
	if path.Ext(name) == ".rego" {
		return false, nil
	}
	root, _, nested := strings.Cut(name, "/")
	if nested {
		return root == "roles", nil
	}
	if path.Ext(name) != ".json" {
		fsys, _ := filesystem(map[string]string{name: text})
		return slices.Contains(rootsOf(fsys, name), "roles"), nil
	}
	doc, err := jsonObject(text)
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	_, has := doc["roles"]
	return has, nil
}

// stepsTo returns the members on the way to a role in a file; nil if the file is
// below another role.
func stepsTo(name, role string) []string {
	switch dir := path.Dir(name); dir {
	case ".":
		return []string{"roles", role}
	case "roles":
		return []string{role}
	}
	return nil
}

// edit replaces what steps lead to, or with nil permissions removes it, and
// reports whether it was there.
func edit(text string, steps []string, permissions authz.Permissions) (string, bool, error) {
	doc, err := jsonObject(text)
	if err != nil {
		return "", false, err
	}
	table := doc
	for _, step := range steps[:len(steps)-1] {
		next, ok := table[step].(map[string]any)
		if !ok {
			return "", false, nil
		}
		table = next
	}
	last := steps[len(steps)-1]
	if _, found := table[last]; !found {
		return "", false, nil
	}
	if permissions == nil {
		delete(table, last)
	} else {
		table[last] = permissions.Document()
	}
	text, err = written(doc)
	return text, true, err
}

func put(doc map[string]any, steps []string, value any) map[string]any {
	table := doc
	for _, step := range steps[:len(steps)-1] {
		next, ok := table[step].(map[string]any)
		if !ok {
			next = map[string]any{}
			table[step] = next
		}
		table = next
	}
	table[steps[len(steps)-1]] = value
	return doc
}

// jsonObject reads a JSON object; numbers keep their digits.
func jsonObject(text string) (map[string]any, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var doc map[string]any
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	if doc == nil {
		return nil, errors.New("must be an object")
	}
	return doc, nil
}

func written(doc map[string]any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "\t")
	err := e.Encode(doc)
	return b.String(), err
}
