package policies

import (
	"maps"
	"slices"
	"strings"

	"github.com/ostiary/ostiary/authz"
)

// Matrix is who may what by the tables: roles against permissions.
type Matrix struct {
	Roles []string    `json:"roles"`
	Rows  []MatrixRow `json:"permissions"` // by type and action
}

// MatrixRow says of one permission who has it.
type MatrixRow struct {
	Permission string   `json:"permission"` // document:read
	Roles      []string `json:"roles"`      // that give it
	Self       bool     `json:"self"`       // everybody has it on what is their own
	// Rules: the bundle has rules for the type, which may permit it to others too,
	// and forbid it to these.
	Rules bool `json:"rules"`
}

// Matrix returns the matrix of the bundle: a row for every action that the
// tables know, also as "*", which stands for all actions that there are.
func (b Bundle) Matrix() Matrix {
	tables := append(slices.Collect(maps.Values(b.Roles)), b.self)
	types := map[string]bool{}
	for _, p := range tables {
		for resourceType := range p {
			types[resourceType] = true
		}
	}
	for resourceType := range b.actions {
		types[resourceType] = true
	}
	app := b.appTypes()
	for resourceType := range app {
		types[resourceType] = true
	}
	m := Matrix{Roles: slices.Sorted(maps.Keys(b.Roles)), Rows: []MatrixRow{}}
	for _, resourceType := range slices.Sorted(maps.Keys(types)) {
		for _, action := range b.rows(resourceType, tables) {
			row := MatrixRow{
				Permission: resourceType + ":" + action,
				Roles:      []string{},
				Self:       b.self.Allows(resourceType, action),
				Rules:      app[resourceType],
			}
			for _, role := range m.Roles {
				if b.Roles[role].Allows(resourceType, action) {
					row.Roles = append(row.Roles, role)
				}
			}
			m.Rows = append(m.Rows, row)
		}
	}
	return m
}

// rows are the actions to show of a type. data.actions may leave out some that
// a role gives all the same.
func (b Bundle) rows(resourceType string, tables []authz.Permissions) []string {
	all := b.Actions(resourceType)
	for _, p := range tables {
		all = append(all, p[resourceType]...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// appTypes are the types that the author has a package for.
func (b Bundle) appTypes() map[string]bool {
	types := map[string]bool{}
	permits, _ := b.Source.Data["permits"].(map[string]any)
	app, _ := permits["app"].(map[string]any)
	for resourceType := range app {
		types[resourceType] = true
	}
	return types
}

// Difference is what changes from one bundle to another.
type Difference struct {
	// Files are those whose text differs, by name. A text that is not there is empty.
	Files []FileChange `json:"files"`
	Cells []CellChange `json:"cells"` // of the matrix
}

// FileChange is a file that differs.
type FileChange struct {
	File   string `json:"file"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// CellChange is a permission that a role, or everybody on what is their own
// (Role is then "self"), gains or loses.
type CellChange struct {
	Role       string `json:"role"`
	Permission string `json:"permission"`
	Gained     bool   `json:"gained"`
}

// plainData is the data of a bundle, in one spelling, without what is made of it.
func plainData(b Bundle) string {
	data := maps.Clone(b.Source.Data)
	delete(data, "permits")
	return indented(data)
}

// Diff compares what two bundles decide by: the modules, the data, which stands
// as one file data whatever files it comes from, and what the matrix shows.
func Diff(before, after Bundle) Difference {
	d := Difference{Files: []FileChange{}, Cells: []CellChange{}}
	modules := maps.Clone(before.Source.Modules)
	maps.Copy(modules, after.Source.Modules)
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		if a, b := before.Source.Modules[name], after.Source.Modules[name]; a != b {
			d.Files = append(d.Files, FileChange{name, a, b})
		}
	}

	if a, b := plainData(before), plainData(after); a != b {
		d.Files = append(d.Files, FileChange{"data", a, b})
	}

	rows := map[string]bool{}
	for _, b := range []Bundle{before, after} {
		for _, row := range b.Matrix().Rows {
			rows[row.Permission] = true
		}
	}
	type column struct {
		name          string
		before, after authz.Permissions
	}
	roles := maps.Clone(before.Roles)
	maps.Copy(roles, after.Roles)
	var columns []column
	for _, role := range slices.Sorted(maps.Keys(roles)) {
		columns = append(columns, column{role, before.Roles[role], after.Roles[role]})
	}
	columns = append(columns, column{"self", before.self, after.self})
	for _, c := range columns {
		for _, permission := range slices.Sorted(maps.Keys(rows)) {
			i := strings.LastIndex(permission, ":")
			had, has := c.before.Allows(permission[:i], permission[i+1:]), c.after.Allows(permission[:i], permission[i+1:])
			if had != has {
				d.Cells = append(d.Cells, CellChange{c.name, permission, has})
			}
		}
	}
	return d
}
