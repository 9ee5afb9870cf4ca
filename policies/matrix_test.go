package policies

import (
	"slices"
	"testing"
	"testing/fstest"
)

func loaded(t *testing.T, fsys fstest.MapFS) Bundle {
	t.Helper()
	b, err := Load(fsys, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMatrixShowsWhoHasAPermission(t *testing.T) {
	b := loaded(t, files("data.yaml", "roles:\n  all: {\"*\": [\"*\"]}\n  reader: {document: [read]}\n  writer: {document: [\"*\"]}\n",
		"document.rego", "package app.document\n\nallow := false\n"))
	rows := map[string]MatrixRow{}
	for _, row := range b.Matrix().Rows {
		rows[row.Permission] = row
	}
	for permission, want := range map[string][]string{
		"document:read": {"all", "reader", "writer"},
		"document:*":    {"all", "writer"},
		"user:ban":      {"admin", "all"},
		"*:*":           {"all"},
	} {
		if got := rows[permission].Roles; !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", permission, got, want)
		}
	}
	if !rows["document:read"].Rules || rows["user:ban"].Rules || !rows["user:get"].Self || rows["user:ban"].Self {
		t.Errorf("got %+v", rows)
	}
}

// A star that is written out instead is a change of cells only where it is one.
func TestDiffIsAboutWhatIsPermitted(t *testing.T) {
	before := loaded(t, files("data.yaml", "roles:\n  writer: {document: [\"*\"]}\nactions: {document: [read, write]}\n"))
	after := loaded(t, files("data.yaml", "roles:\n  writer: {document: [read]}\nactions: {document: [read, write]}\nself: {document: [read]}\n"))
	want := []CellChange{{"writer", "document:*", false}, {"writer", "document:write", false}, {"self", "document:read", true}}
	d := Diff(before, after)
	if !slices.Equal(d.Cells, want) {
		t.Errorf("got %+v, want %+v", d.Cells, want)
	}
	if len(d.Files) != 1 || d.Files[0].File != "data" {
		t.Errorf("got %+v", d.Files)
	}
	if d := Diff(before, before); len(d.Cells)+len(d.Files) > 0 {
		t.Errorf("of one with itself: %+v", d)
	}
}
