package policies

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"go.yaml.in/yaml/v3"

	"github.com/ostiary/ostiary/authz"
)

// Finding is something wrong with a bundle: a mistake, or, if Warning is set,
// what is probably one.
type Finding struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Warning bool   `json:"warning"`
	Message string `json:"message"`
}

// Error words f as one line, beginning with the place.
func (f Finding) Error() string {
	message := f.Message
	if f.Warning {
		message = "warning: " + message
	}
	switch {
	case f.File == "":
		return message
	case f.Line == 0:
		return f.File + ": " + message
	}
	return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, max(f.Column, 1), message)
}

// Report is what [Check] finds.
type Report struct {
	Findings []Finding    `json:"findings"` // by place
	Depends  Dependencies `json:"depends"`
	// Evaluation is about the bundle as it decides, the built-in rules included;
	// nil if it would not decide.
	Evaluation *Evaluation `json:"evaluation,omitempty"`
}

// Evaluation says how decisions are made.
type Evaluation struct {
	Compiled bool   `json:"compiled"`
	Refused  string `json:"refused,omitempty"` // why it is not compiled
	// Pure reports whether a decision depends on nothing but the policy and what
	// it reads of the input, so that it could be remembered.
	Pure   bool   `json:"pure"`
	Impure string `json:"impure,omitempty"` // why not
}

// OK reports whether there are no mistakes; warnings may be.
func (r Report) OK() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return !f.Warning })
}

// Dependencies is what the answers of the author's rules depend on, beside the
// bundle itself.
type Dependencies struct {
	Input []string `json:"input"` // paths that are read: input.principal.id
	Time  bool     `json:"time"`  // the clock, or input.context.time
	// Random are built-in functions whose answers change, other than the clock.
	Random []string `json:"random"`
}

// Check looks at an author's bundle, tests included, with more care than [Load]
// and [authz.Compile] do, and says all that is wrong at once. Beside their
// mistakes these are found:
//
//   - what OPA's compiler finds in strict mode: variables, arguments and imports
//     that nothing uses, and the like;
//   - a path in input that the input schema does not know, and one in data that
//     neither a rule nor the data defines;
//   - in packages app.<type>, a comparison with the name of an action that the
//     tables do not have, for types of which they have any; the same in the tables;
//   - the name of a role that the table of roles does not have.
func Check(ctx context.Context, author fs.FS, settings map[string]any) Report {
	c := checker{fsys: author, seen: map[string]bool{}}
	c.check(ctx, settings)
	slices.SortFunc(c.report.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Message, b.Message))
	})
	return c.report
}

type checker struct {
	fsys   fs.FS
	report Report
	seen   map[string]bool
}

func (c *checker) add(f Finding) {
	if text := f.Error(); !c.seen[text] {
		c.seen[text] = true
		c.report.Findings = append(c.report.Findings, f)
	}
}

func (c *checker) at(l *ast.Location, warning bool, format string, args ...any) {
	f := Finding{Warning: warning, Message: strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")}
	if l != nil {
		f.File, f.Line, f.Column = l.File, l.Row, l.Col
	}
	c.add(f)
}

func (c *checker) check(ctx context.Context, settings map[string]any) {
	c.report.Findings = []Finding{}
	c.report.Depends = Dependencies{Input: []string{}, Random: []string{}}
	bundle, mistakes := load(c.fsys, settings)
	c.mistakes(mistakes)
	added, _ := readAuthor(c.fsys)
	tests, mistakes := readTests(c.fsys)
	c.mistakes(mistakes)

	rules, all := map[string]*ast.Module{}, map[string]*ast.Module{}
	for name, m := range added.modules {
		if all[name] = c.annotated(name, m.text); all[name] == nil {
			delete(all, name)
			continue
		}
		rules[name] = all[name]
	}
	for name, m := range tests.modules {
		if all[name] = c.annotated(name, m.text); all[name] == nil {
			delete(all, name)
		}
	}
	maps.DeleteFunc(all, func(_ string, m *ast.Module) bool { return reserved(pathOf(m.Package.Path)[0]) })
	c.tables(bundle, added)
	c.names(bundle, rules)
	data := maps.Clone(bundle.Source.Data)
	delete(data, "ostiary") // told as a mistake above
	if added.modules == nil {
		// The loader gives up as a whole, so nothing is known of the data.
		data = nil
	}
	c.compile(ctx, all, data)
	if !c.report.OK() {
		return
	}
	if p, err := authz.Compile(ctx, bundle.Source); err == nil {
		a := p.Analysis()
		impure := a.Impure()
		c.report.Evaluation = &Evaluation{Compiled: a.Refused == "", Refused: a.Refused, Pure: impure == "", Impure: impure}
	}
}

// reserved reports whether an author's package may not begin with root.
func reserved(root string) bool {
	return slices.Contains([]string{"ostiary", "permits", "roles", "routes", "self", "actions", "settings"}, root)
}

// annotated parses a module again, with its annotations, as [authz.Compile] does.
func (c *checker) annotated(name, text string) *ast.Module {
	m, err := ast.ParseModuleWithOpts(name, text, ast.ParserOptions{Capabilities: authz.Capabilities(), ProcessAnnotation: true})
	if list, ok := errors.AsType[ast.Errors](err); ok {
		for _, e := range list {
			c.at(e.Location, false, "%s", e.Message)
		}
	} else if err != nil {
		c.add(Finding{File: name, Line: 1, Message: err.Error()})
	}
	return m
}

// mistakes adds errors that say in their text where they are.
func (c *checker) mistakes(all []error) {
	for _, err := range all {
		c.add(c.place(err.Error()))
	}
}

var placed = regexp.MustCompile(`^(.+?):(\d+)(?::(\d+))?: (.*)$`)

// place finds where a mistake is that [Load] tells.
func (c *checker) place(text string) Finding {
	if m := placed.FindStringSubmatch(text); m != nil {
		line, _ := strconv.Atoi(m[2])
		column, _ := strconv.Atoi(m[3])
		return Finding{File: m[1], Line: line, Column: max(column, 1), Message: m[4]}
	}
	file, message, ok := strings.Cut(text, ": ")
	if !ok {
		return Finding{Message: text}
	}
	if _, err := fs.Stat(c.fsys, file); err != nil {
		return Finding{Message: text}
	}
	line, column := positionsIn(c.fsys, file).of(message)
	return Finding{File: file, Line: line, Column: column, Message: message}
}

// positions tells where in a file the paths of data are, as messages spell them.
type positions map[string][2]int

// of returns the place of the longest path that begins message; at worst the
// beginning of the file.
func (p positions) of(message string) (line, column int) {
	longest, at := -1, [2]int{1, 1}
	for path, where := range p {
		if rest, ok := strings.CutPrefix(message, path); ok && len(path) > longest && (rest == "" || strings.ContainsAny(rest[:1], ":.[ ")) {
			longest, at = len(path), where
		}
	}
	return at[0], at[1]
}

func positionsIn(fsys fs.FS, file string) positions {
	p := positions{}
	text, err := fs.ReadFile(fsys, file)
	var doc yaml.Node
	if err != nil || yaml.Unmarshal(text, &doc) != nil || len(doc.Content) == 0 {
		return p
	}
	root := "data"
	dirs := strings.Split(file, "/")
	for _, dir := range dirs[:len(dirs)-1] {
		root += member(dir)
	}
	p.walk(root, doc.Content[0])
	return p
}

func (p positions) walk(path string, n *yaml.Node) {
	if _, ok := p[path]; !ok {
		p[path] = [2]int{n.Line, n.Column}
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			at := path + member(key.Value)
			p[at] = [2]int{key.Line, key.Column}
			p.walk(at, n.Content[i+1])
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			p.walk(fmt.Sprintf("%s[%d]", path, i), item)
		}
	}
}

// compile compiles the author's modules beside the built-in ones. OPA's
// compiler stops after the first stage that finds mistakes, so what has none is
// compiled again without the rules that have.
func (c *checker) compile(ctx context.Context, author map[string]*ast.Module, data map[string]any) {
	rest := map[string]*ast.Module{}
	for name, m := range author {
		rest[name] = m.Copy()
	}
	left := map[string]bool{} // what was left out: the names of rules, and their paths
	for {
		compiler, err := compileStrictly(ctx, rest, data)
		if err != nil {
			c.add(Finding{Message: err.Error()})
			return
		}
		if !compiler.Failed() {
			if len(left) == 0 {
				c.depends(compiler, author)
			}
			if data != nil {
				c.undefined(compiler, rest, left, data)
			}
			return
		}
		cut := false
		for _, e := range compiler.Errors {
			if !follows(e.Message, left) {
				c.at(e.Location, false, "%s", wording(e))
			}
			if e.Location != nil {
				cut = without(rest, e.Location, left) || cut
			}
		}
		if !cut {
			return // in no file of the author's
		}
	}
}

// follows reports whether a mistake is only one because rules were left out:
// they are missed, or nothing uses what they used.
func follows(message string, left map[string]bool) bool {
	if len(left) == 0 {
		return false
	}
	if strings.HasPrefix(message, "import ") {
		return true
	}
	for _, word := range strings.Fields(message) {
		if left[word] {
			return true
		}
	}
	return false
}

// without takes the rule at a place out of its module, or the module if the
// place is in no rule.
func without(modules map[string]*ast.Module, at *ast.Location, left map[string]bool) bool {
	m := modules[at.File]
	if m == nil {
		return false
	}
	found := -1
	for i, r := range m.Rules {
		if r.Location != nil && r.Location.Row <= at.Row && (found < 0 || r.Location.Row >= m.Rules[found].Location.Row) {
			found = i
		}
	}
	leave := func(r *ast.Rule) {
		path := m.Package.Path.Extend(r.Head.Ref().GroundPrefix()).String()
		left[path], left[r.Head.Ref()[0].Value.String()] = true, true
	}
	if found < 0 {
		for _, r := range m.Rules {
			leave(r)
		}
		delete(modules, at.File)
		return true
	}
	leave(m.Rules[found])
	m.Rules = slices.Delete(m.Rules, found, found+1)
	return true
}

// wording says what the compiler says; of types, also what would be right.
func wording(e *ast.Error) string {
	d, ok := e.Details.(*ast.RefErrInvalidDetail)
	if !ok {
		return e.Message
	}
	message := fmt.Sprintf("%v: there is no such member", d.Ref)
	var have []string
	for _, v := range d.OneOf {
		if s, ok := v.(ast.String); ok {
			have = append(have, string(s))
		}
	}
	if len(have) == 0 {
		return message
	}
	if d.Pos < len(d.Ref) {
		if s, ok := d.Ref[d.Pos].Value.(ast.String); ok {
			if near := nearest(string(s), have); near != "" {
				return fmt.Sprintf("%s; did you mean %s?", message, near)
			}
		}
	}
	return fmt.Sprintf("%s; there are %s", message, strings.Join(have, ", "))
}

// nearest returns the name that is at most two letters from name, or nothing.
func nearest(name string, names []string) string {
	best, closest := "", 3
	for _, n := range names {
		if d := distance(name, n); d < closest && d < len(name) {
			best, closest = n, d
		}
	}
	return best
}

// distance counts the letters to put in, take out or change.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// typeSchema is the input schema as OPA's type checker needs it. The checker
// takes listed properties for all there are, whatever the schema says, so an
// object that is open lists none.
func typeSchema() (any, error) {
	var schema any
	if err := json.Unmarshal(inputSchema, &schema); err != nil {
		return nil, fmt.Errorf("input schema: %w", err)
	}
	closeOnly(schema)
	return schema, nil
}

func closeOnly(schema any) {
	object, _ := schema.(map[string]any)
	properties, _ := object["properties"].(map[string]any)
	if object["additionalProperties"] != false {
		delete(object, "properties")
		delete(object, "required")
	}
	for _, p := range properties {
		closeOnly(p)
	}
}

func compileStrictly(ctx context.Context, author map[string]*ast.Module, data map[string]any) (*ast.Compiler, error) {
	schema, err := typeSchema()
	if err != nil {
		return nil, err
	}
	schemas := ast.NewSchemaSet()
	schemas.Put(ast.SchemaRootRef, schema)
	schemas.Put(ast.MustParseRef("schema.input"), schema) // as annotations for editors name it

	texts, _, err := readBuiltin()
	if err != nil {
		return nil, err
	}
	modules := map[string]*ast.Module{}
	for name, m := range author {
		modules[name] = m.Copy()
	}
	for name, text := range texts {
		if modules[name], err = ast.ParseModuleWithOpts(name, text, ast.ParserOptions{ProcessAnnotation: true}); err != nil {
			return nil, err
		}
	}
	compiler := ast.NewCompiler().
		WithStrict(true).
		WithCapabilities(authz.Capabilities()).
		WithSchemas(schemas).
		WithUseTypeCheckAnnotations(true).
		SetErrorLimit(0)
	if data != nil {
		store := inmem.NewFromObject(data)
		txn, err := store.NewTransaction(ctx)
		if err != nil {
			return nil, fmt.Errorf("policy data: %w", err)
		}
		defer store.Abort(ctx, txn)
		compiler = compiler.WithPathConflictsCheck(storage.NonEmpty(ctx, store, txn))
	}
	compiler.Compile(modules)
	return compiler, nil
}

// undefined finds paths in data that nothing defines. Tests define what they
// like with "with".
func (c *checker) undefined(compiler *ast.Compiler, checked map[string]*ast.Module, left map[string]bool, data map[string]any) {
	base, err := ast.InterfaceToValue(data)
	if err != nil {
		return // Load has seen to it that it can be
	}
	for name := range checked {
		m := compiler.Modules[name]
		if m == nil || strings.HasSuffix(name, "_test.rego") {
			continue
		}
		look := func(ref ast.Ref) bool {
			if !ref.HasPrefix(ast.DefaultRootRef) || len(ref) < 2 {
				return false
			}
			path := ref.GroundPrefix()
			for i := 2; i <= len(path); i++ {
				prefix := path[:i]
				if left[prefix.String()] || len(compiler.GetRulesExact(prefix)) > 0 {
					return false
				}
				if v, err := base.Find(prefix[1:]); err == nil {
					switch v.(type) {
					case ast.Object, *ast.Array:
						continue
					}
					return false
				}
				if compiler.GetRulesWithPrefix(prefix) != nil {
					continue
				}
				// What an application's package may define it need not.
				if i >= 3 && path[1].Equal(ast.StringTerm("app")) {
					return false
				}
				c.at(ref[0].Location, i > 2 && !isTable(path[1]), "%v: nothing defines it", prefix)
				return false
			}
			return false
		}
		for _, r := range m.Rules {
			ast.WalkRefs(r, look)
		}
	}
}

func isTable(root *ast.Term) bool {
	s, _ := root.Value.(ast.String)
	return slices.Contains([]string{"roles", "self", "settings", "permits"}, string(s))
}

// actionsKnown returns the actions that the tables know for a resource type:
// none if the type is not in them, or if they leave open which there are.
func (b Bundle) actionsKnown(resourceType string, builtin Bundle) []string {
	var all []string
	if _, own := builtin.Roles["admin"][resourceType]; own || builtin.self[resourceType] != nil {
		all = append(builtin.Actions(resourceType), builtin.Roles["admin"][resourceType]...)
		if resourceType == "user" {
			all = append(all, "impersonate-admins") // no role has it
		}
	}
	if listed, ok := b.actions[resourceType]; ok {
		all = append(all, names(listed)...)
	} else if len(all) == 0 {
		for _, p := range slices.Concat([]authz.Permissions{b.self}, slices.Collect(maps.Values(b.Roles))) {
			if slices.Contains(p[resourceType], "*") {
				return nil
			}
			all = append(all, p[resourceType]...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// tables finds names of actions in the author's tables that do not exist.
func (c *checker) tables(b Bundle, added authored) {
	builtin, err := Load(nil, nil)
	if err != nil {
		return
	}
	look := func(root, path string, p any) {
		table, _ := p.(map[string]any)
		for resourceType, list := range table {
			known := b.actionsKnown(resourceType, builtin)
			if _, listed := b.actions[resourceType]; !listed && builtin.Roles["admin"][resourceType] == nil {
				continue // the table itself says which there are
			}
			for i, action := range names(list) {
				if action == "*" || slices.Contains(known, action) {
					continue
				}
				at := fmt.Sprintf("%s%s[%d]", path, member(resourceType), i)
				c.add(c.place(fmt.Sprintf("%s: %s: %s", cmp.Or(added.source(root), "data"), at, unknownAction(action, resourceType, known))))
			}
		}
	}
	if roles, ok := added.data["roles"].(map[string]any); ok {
		for role, table := range roles {
			look("roles", "data.roles"+member(role), table)
		}
	}
	look("self", "data.self", added.data["self"])
}

func unknownAction(action, resourceType string, known []string) string {
	message := fmt.Sprintf("%q is an action that no table knows for %s", action, resourceType)
	if near := nearest(action, known); near != "" {
		return fmt.Sprintf("%s; did you mean %q?", message, near)
	}
	return fmt.Sprintf("%s; there are %s", message, strings.Join(known, ", "))
}

var (
	actionName     = ast.MustParseRef("input.action.name")
	principalRoles = ast.MustParseRef("input.principal.roles")
	membership     = ast.MustParseRef("internal.member_2")
)

// names finds comparisons with names that no table has.
func (c *checker) names(b Bundle, modules map[string]*ast.Module) {
	builtin, err := Load(nil, nil)
	if err != nil {
		return
	}
	for _, m := range modules {
		var actions []string
		resourceType := ""
		if p := pathOf(m.Package.Path); len(p) > 1 && p[0] == "app" {
			resourceType = p[1]
			actions = b.actionsKnown(resourceType, builtin)
		}
		action := func(t *ast.Term) {
			if s, ok := t.Value.(ast.String); ok && len(actions) > 0 && !slices.Contains(actions, string(s)) {
				c.at(t.Location, false, "%s", unknownAction(string(s), resourceType, actions))
			}
		}
		role := func(t *ast.Term) {
			s, ok := t.Value.(ast.String)
			if !ok || b.Roles[string(s)] != nil {
				return
			}
			message := fmt.Sprintf("%q is a role that the table of roles does not have", string(s))
			if near := nearest(string(s), slices.Collect(maps.Keys(b.Roles))); near != "" {
				message += fmt.Sprintf("; did you mean %q?", near)
			}
			c.at(t.Location, !b.AuthorRoles, "%s", message)
		}
		compared := func(operator ast.Ref, args []*ast.Term) {
			if len(args) != 2 {
				return
			}
			switch {
			case operator.Equal(membership):
				if is(args[0], actionName) {
					eachMember(args[1], action)
				}
				if is(args[1], principalRoles) {
					role(args[0])
				}
			case slices.Contains([]string{"equal", "eq", "neq", "assign"}, operator.String()):
				for i, t := range args {
					if is(t, actionName) {
						action(args[1-i])
					}
					// input.principal.roles[_] == "x"
					if ref, ok := t.Value.(ast.Ref); ok && len(ref) == len(principalRoles)+1 && ref.HasPrefix(principalRoles) {
						role(args[1-i])
					}
				}
			}
		}
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			if terms, ok := e.Terms.([]*ast.Term); ok {
				compared(e.Operator(), terms[1:])
			}
			return false
		})
		ast.WalkTerms(m, func(t *ast.Term) bool {
			if call, ok := t.Value.(ast.Call); ok {
				if operator, ok := call[0].Value.(ast.Ref); ok {
					compared(operator, call[1:])
				}
			}
			return false
		})
	}
}

func is(t *ast.Term, ref ast.Ref) bool {
	r, ok := t.Value.(ast.Ref)
	return ok && r.Equal(ref)
}

func eachMember(t *ast.Term, do func(*ast.Term)) {
	switch list := t.Value.(type) {
	case ast.Set:
		list.Foreach(do)
	case *ast.Array:
		list.Foreach(do)
	}
}

// depends collects what the author's rules read.
func (c *checker) depends(compiler *ast.Compiler, author map[string]*ast.Module) {
	d := &c.report.Depends
	inputs, random := map[string]bool{}, map[string]bool{}
	for name := range author {
		if strings.HasSuffix(name, "_test.rego") {
			continue
		}
		ast.WalkRefs(compiler.Modules[name], func(ref ast.Ref) bool {
			if ref.HasPrefix(ast.InputRootRef) {
				inputs[ref.GroundPrefix().String()] = true
				d.Time = d.Time || ref.HasPrefix(contextTime)
			}
			if b := ast.BuiltinMap[ref.String()]; b != nil && b.Nondeterministic {
				if b.Name == ast.NowNanos.Name {
					d.Time = true
				} else {
					random[b.Name] = true
				}
			}
			return false
		})
	}
	d.Input = append(d.Input, slices.Sorted(maps.Keys(inputs))...)
	d.Random = append(d.Random, slices.Sorted(maps.Keys(random))...)
}

var contextTime = ast.MustParseRef("input.context.time")

// Schemas returns JSON Schemas for editors, by file name: of the input, in the
// form that OPA's type checker and the language servers that use it need, and of
// the tables in a bundle's data, for those of YAML and JSON.
func Schemas() (map[string][]byte, error) {
	schema, err := typeSchema()
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, err
	}
	return map[string][]byte{"input.json": append(text, '\n'), "data.json": slices.Clone(dataSchema)}, nil
}
