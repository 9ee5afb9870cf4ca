package ostiary_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/types"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

var update = flag.Bool("update", false, "rewrite what is generated")

// promised are the packages that programs import. What they export is written
// down in api/go1.txt, so that no change to it goes unseen.
var promised = []string{".", "./access", "./authn", "./authz", "./client", "./guard", "./ostiarytest", "./policies"}

// exported lists what a package exports, a line each, sorted.
func exported(p *types.Package) []string {
	var lines []string
	short := func(other *types.Package) string { return other.Path() }
	add := func(format string, args ...any) {
		text := strings.ReplaceAll(fmt.Sprintf(format, args...), module+"/", "")
		lines = append(lines, strings.TrimPrefix(strings.ReplaceAll(p.Path(), module, "ostiary"), "ostiary/")+", "+text)
	}
	for _, name := range p.Scope().Names() {
		o := p.Scope().Lookup(name)
		if !o.Exported() {
			continue
		}
		t, ok := o.(*types.TypeName)
		if !ok {
			add("%s", types.ObjectString(o, short))
			if c, ok := o.(*types.Const); ok {
				add("const %s = %s", name, c.Val().ExactString())
			}
			continue
		}
		if t.IsAlias() {
			add("type %s = %s", name, types.TypeString(types.Unalias(t.Type()), short))
			continue
		}
		switch u := t.Type().Underlying().(type) {
		case *types.Struct:
			add("type %s struct", name)
			for f := range u.Fields() {
				if f.Exported() {
					add("type %s struct, %s %s", name, f.Name(), types.TypeString(f.Type(), short))
				}
			}
		case *types.Interface:
			add("type %s interface", name)
		default:
			add("type %s %s", name, types.TypeString(u, short))
		}
		for m := range types.NewMethodSet(types.NewPointer(t.Type())).Methods() {
			if m.Obj().Exported() {
				add("method (%s) %s%s", name, m.Obj().Name(), strings.TrimPrefix(types.TypeString(m.Type(), short), "func"))
			}
		}
		if i, ok := t.Type().Underlying().(*types.Interface); ok {
			for m := range i.Methods() {
				add("type %s interface, %s%s", name, m.Name(), strings.TrimPrefix(types.TypeString(m.Type(), short), "func"))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// What programs rely on changes only on purpose: api/go1.txt changes with it. Run
// make generate, and look at the lines that go away.
func TestGeneratedAPI(t *testing.T) {
	ps, err := packages.Load(&packages.Config{Mode: packages.NeedName | packages.NeedTypes | packages.NeedImports | packages.NeedDeps | packages.NeedExportFile}, promised...)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for _, p := range ps {
		for _, e := range p.Errors {
			t.Fatal(e)
		}
		for _, line := range exported(p.Types) {
			fmt.Fprintln(&got, line)
		}
	}
	const file = "api/go1.txt"
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	is := strings.Split(got.String(), "\n")
	was := strings.Split(string(want), "\n")
	for _, line := range was {
		if !slices.Contains(is, line) {
			t.Errorf("gone: %s", line)
		}
	}
	for _, line := range is {
		if !slices.Contains(was, line) {
			t.Errorf("new: %s", line)
		}
	}
}
