package policies

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/loader"
	"github.com/open-policy-agent/opa/v1/util"
)

// authored is an author's bundle as read.
type authored struct {
	modules map[string]module
	data    map[string]any
	files   map[string]string // root of data → the file that defines it
}

type module struct {
	text   string
	parsed *ast.Module
}

// source names the file that defines data.<root>, for messages.
func (a authored) source(root string) string { return a.files[root] }

// readAuthor reads the author's files through OPA's loader, which also says
// where under data a file's contents go.
func readAuthor(fsys fs.FS) (authored, []error) { return readFiles(fsys, false) }

// readTests reads the author's tests, and nothing else.
func readTests(fsys fs.FS) (authored, []error) { return readFiles(fsys, true) }

func readFiles(fsys fs.FS, tests bool) (authored, []error) {
	var dataFiles []string
	skip := func(name string, info fs.FileInfo, depth int) bool {
		base := path.Base(name)
		switch {
		case depth == 0:
			return false
		case strings.HasPrefix(base, "."): // editors' and Kubernetes' own
			return true
		case info.IsDir():
			return false
		case tests:
			return !strings.HasSuffix(base, "_test.rego")
		case base == "data.json", base == "data.yaml", base == "data.yml":
			dataFiles = append(dataFiles, name)
			return false
		}
		return path.Ext(base) != ".rego" || strings.HasSuffix(base, "_test.rego")
	}
	if _, err := fs.Stat(fsys, "."); err != nil {
		return authored{}, []error{fmt.Errorf("read the policy folder: %w", err)}
	}
	loaded, err := loader.NewFileLoader().
		WithFS(fsys).
		WithRegoVersion(ast.RegoV1).
		Filtered([]string{"."}, skip)
	if err != nil {
		return authored{}, readMistakes(fsys, err)
	}

	a := authored{modules: map[string]module{}, data: loaded.Documents, files: map[string]string{}}
	for name, m := range loaded.Modules {
		a.modules[name] = module{string(m.Raw), m.Parsed}
	}
	for _, name := range dataFiles {
		for _, root := range rootsOf(fsys, name) {
			a.files[root] = name
		}
	}
	return a, a.trespasses()
}

// rootsOf returns the members of data that a data file has a part in.
func rootsOf(fsys fs.FS, name string) []string {
	if dir, _, nested := strings.Cut(name, "/"); nested {
		return []string{dir}
	}
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil
	}
	var members map[string]any
	if util.Unmarshal(text, &members) != nil { // YAML, and so JSON
		return nil
	}
	return slices.Collect(maps.Keys(members))
}

var yamlLine = regexp.MustCompile(`yaml: line (\d+): (.*)`)

// readMistakes takes the loader's error apart, one line for each mistake.
func readMistakes(fsys fs.FS, err error) []error {
	var all []error
	each := []error{err}
	if many, ok := errors.AsType[loader.Errors](err); ok {
		each = many
	}
	for _, err := range each {
		if e, ok := errors.AsType[*ast.Error](err); ok {
			all = append(all, at(e.Location, "%s", e.Message))
			continue
		}
		file, _, _ := strings.Cut(err.Error(), ": ")
		if e, ok := errors.AsType[*json.SyntaxError](err); ok {
			if text, readErr := fs.ReadFile(fsys, file); readErr == nil {
				before := text[:min(int(e.Offset), len(text))]
				row := 1 + bytes.Count(before, []byte("\n"))
				col := len(before) - 1 - bytes.LastIndexByte(before, '\n')
				all = append(all, fmt.Errorf("%s:%d:%d: %w", file, row, max(col, 1), e))
				continue
			}
		}
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
			all = append(all, fmt.Errorf("%s:%s: %s", file, m[1], m[2]))
			continue
		}
		all = append(all, errors.New(strings.Join(strings.Fields(err.Error()), " ")))
	}
	return all
}

// trespasses lists what the author defines that is not the author's to define.
func (a authored) trespasses() []error {
	var all []error
	for _, root := range []string{"ostiary", "permits"} {
		if _, ok := a.data[root]; ok {
			all = append(all, fmt.Errorf("%s: data.%s is reserved to Ostiary", a.files[root], root))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.modules)) {
		m := a.modules[name].parsed
		switch root := pathOf(m.Package.Path)[0]; root {
		case "ostiary", "permits":
			all = append(all, at(m.Package.Location, "package %s: data.%s is reserved to Ostiary", root, root))
			continue
		case "roles", "routes", "self", "actions", "settings":
			all = append(all, at(m.Package.Location, "package %s: data.%s is a table, to be written in data.json or data.yaml", root, root))
			continue
		}
		for _, r := range m.Rules {
			p := pathOf(r.Ref())
			if p[0] == "app" && len(p) < 3 {
				all = append(all, at(r.Location, "package app: name the resource type, as in package app.document"))
			}
		}
	}
	return all
}

// types returns the resource types for which the author has rules or data in app.
func (a authored) types() []string {
	found := map[string]bool{}
	for _, m := range a.modules {
		for _, r := range m.parsed.Rules {
			if p := pathOf(r.Ref()); p[0] == "app" && len(p) > 2 {
				found[p[1]] = true
			}
		}
	}
	if app, ok := a.data["app"].(map[string]any); ok {
		for t := range app {
			found[t] = true
		}
	}
	delete(found, "*") // stands for all types elsewhere, so it cannot name one
	return slices.Sorted(maps.Keys(found))
}

// pathOf returns the constant beginning of a ref under data.
func pathOf(ref ast.Ref) []string {
	var p []string
	for _, t := range ref.GroundPrefix()[1:] {
		switch v := t.Value.(type) {
		case ast.String:
			p = append(p, string(v))
		case ast.Number:
			p = append(p, strconv.Quote(v.String()))
		default:
			return p
		}
	}
	return p
}
