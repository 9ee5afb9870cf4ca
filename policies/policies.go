// Package policies says which rules are in force.
//
// A [Bundle] is Rego modules and data; its revision is the hash of its
// contents. The built-in bundle ships with the program; an author's bundle is
// added to it and can define everything except what is reserved to Ostiary.
// A [Library] compiles bundles, puts them in force and reloads them when their
// files change. A bundle that does not compile leaves the one before in force.
//
// # What an author may define
//
// The tables data.roles, data.self and data.settings, which are merged with the
// built-in ones; the tables data.actions, which lists the actions of a type, and
// data.routes; packages app.<resource type>; and any other package and data.
// Nothing under data.ostiary, which decides, nor under data.permits, into which
// [Load] turns the tables so that a permission is one look-up away. Files other
// than *.rego, data.json, data.yaml and data.yml are not read, nor are tests
// (*_test.rego) and names that begin with a dot.
package policies

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/util"
	"github.com/santhosh-tekuri/jsonschema/v6"
	jsonkind "github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/ostiary/ostiary/authz"
)

// The files are named one by one to leave the tests out.
//
//go:embed builtin/decision.rego builtin/principal.rego builtin/permissions.rego
//go:embed builtin/guards.rego builtin/reasons.rego builtin/data.json
var builtin embed.FS

//go:embed builtin/schemas/input.json
var inputSchema []byte

// dataSchema is for editors: [Load] says what is wrong with tables in better words.
//
//go:embed builtin/schemas/data.json
var dataSchema []byte

// InputSchema returns the JSON Schema of the input document that policies read.
func InputSchema() []byte { return slices.Clone(inputSchema) }

// compiledInputSchema is compiled when it is first needed.
var compiledInputSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(inputSchema))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("input.json", document); err != nil {
		return nil, err
	}
	return c.Compile("input.json")
})

// CheckInput reports how a document that somebody wrote, JSON values, differs from
// what the service puts to a policy, as an error with a line for each place; nil if
// it does not. Of the account, the session and the key it may leave out what it
// likes.
func CheckInput(document map[string]any) error {
	schema, err := compiledInputSchema()
	if err != nil {
		return fmt.Errorf("input schema: %w", err)
	}
	invalid, ok := errors.AsType[*jsonschema.ValidationError](schema.Validate(document))
	if !ok {
		return nil
	}
	var places []error
	var collect func(*jsonschema.ValidationError)
	collect = func(e *jsonschema.ValidationError) {
		_, missing := e.ErrorKind.(*jsonkind.Required)
		if optional := missing && len(e.InstanceLocation) > 1; len(e.Causes) == 0 && !optional {
			places = append(places, errors.New(e.Error()))
		}
		for _, cause := range e.Causes {
			collect(cause)
		}
	}
	collect(invalid)
	slices.SortFunc(places, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(places...)
}

// Bundle is a set of rules: the built-in ones with an author's.
type Bundle struct {
	// Source is what is compiled. Its Revision is the first 32 hexadecimal
	// digits of the SHA-256 of all modules and data: the same files and
	// settings have the same revision everywhere.
	Source authz.Source
	// Roles is the roles table as written; with the built-in roles, unless
	// the author's bundle defines a role of the same name.
	Roles map[string]authz.Permissions
	// AuthorRoles reports whether the author's bundle defines roles.
	AuthorRoles bool

	self    authz.Permissions
	actions map[string]any
	// Routes says which permissions requests through a reverse proxy stand for.
	Routes Routes

	added map[string]string // the author's modules
	data  map[string]any    // and data, as read
}

// Files returns the author's part of b: the modules, and the data as one
// data.json whatever files it was read from. [Load] makes of them, with
// [Bundle.Settings], a bundle of the same revision.
func (b Bundle) Files() map[string]string {
	files := maps.Clone(b.added)
	if len(b.data) > 0 {
		files["data.json"] = indented(b.data)
	}
	return files
}

// Settings returns data.settings as in force. The caller must not change it.
func (b Bundle) Settings() map[string]any {
	settings, _ := b.Source.Data["settings"].(map[string]any)
	return settings
}

func indented(data map[string]any) string {
	text, err := json.MarshalIndent(data, "", "  ")
	if err != nil {
		return "" // Load has made JSON of it
	}
	return string(text) + "\n"
}

// Load reads the built-in bundle and adds author's (nil for none). settings
// win over data.settings of both, except members that are nil. The error lists
// every mistake, with file, line and column where there is one.
//
// Modules are parsed but not compiled: what only a compiler sees is an error
// of [authz.Compile].
func Load(author fs.FS, settings map[string]any) (Bundle, error) {
	b, mistakes := load(author, settings)
	if len(mistakes) > 0 {
		return Bundle{}, errors.Join(mistakes...)
	}
	return b, nil
}

// LoadFiles is [Load] of files that are not in a folder, by their paths.
func LoadFiles(files map[string]string, settings map[string]any) (Bundle, error) {
	fsys, mistakes := filesystem(files)
	if len(mistakes) > 0 {
		return Bundle{}, errors.Join(mistakes...)
	}
	return Load(fsys, settings)
}

// load is Load that goes on after mistakes, without what they are about.
func load(author fs.FS, settings map[string]any) (Bundle, []error) {
	modules, data, err := readBuiltin()
	if err != nil {
		return Bundle{}, []error{err}
	}
	var added authored
	var mistakes []error
	if author != nil {
		added, mistakes = readAuthor(author)
	}
	own := map[string]string{}
	for name, m := range added.modules {
		if _, taken := modules[name]; taken {
			mistakes = append(mistakes, fmt.Errorf("%s: the name of a built-in file", name))
			continue
		}
		modules[name], own[name] = m.text, m.text
	}

	t := newTables(data)
	mistakes = append(mistakes, t.merge(added.data, added.source)...)
	mistakes = append(mistakes, t.configure(settings)...)
	var routes Routes
	if table, ok := added.data["routes"]; ok {
		var errs []error
		routes, errs = readRoutes(table)
		for _, err := range errs {
			mistakes = append(mistakes, fmt.Errorf("%s: %w", cmp.Or(added.source("routes"), "data"), err))
		}
	}

	merged := maps.Clone(added.data)
	if merged == nil {
		merged = map[string]any{}
	}
	merged["roles"], merged["self"], merged["settings"] = t.roles, t.self, t.settings
	merged["permits"] = t.permits(added.types())
	revision, err := revisionOf(modules, merged)
	if err != nil {
		return Bundle{}, append(mistakes, err)
	}
	_, authorRoles := added.data["roles"]
	return Bundle{
		Source:      authz.Source{Modules: modules, Data: merged, Revision: revision},
		Roles:       t.Roles(),
		AuthorRoles: authorRoles,
		self:        permissions(t.self),
		actions:     t.actions,
		Routes:      routes,
		added:       own,
		data:        added.data,
	}, mistakes
}

// readBuiltin returns what ships with the program, fresh for the caller.
func readBuiltin() (modules map[string]string, data map[string]any, err error) {
	modules = map[string]string{}
	err = fs.WalkDir(builtin, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(builtin, name)
		if err != nil {
			return err
		}
		if path.Ext(name) == ".rego" {
			modules[name] = string(text)
			return nil
		}
		return util.UnmarshalJSON(text, &data)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read the built-in policy: %w", err)
	}
	return modules, data, nil
}

// revisionOf hashes names, texts and data, each with its length before it so
// that nothing can slide from one into the next.
func revisionOf(modules map[string]string, data map[string]any) (string, error) {
	canonical, err := json.Marshal(data) // members sorted
	if err != nil {
		return "", fmt.Errorf("data: %w", err)
	}
	h := sha256.New()
	write := func(s string) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		write(name)
		write(modules[name])
	}
	write(string(canonical))
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

// at words a mistake in a module as one line.
func at(l *ast.Location, format string, args ...any) error {
	message := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
	if l == nil || l.File == "" {
		return errors.New(message)
	}
	return fmt.Errorf("%s:%d:%d: %s", l.File, l.Row, l.Col, message)
}
