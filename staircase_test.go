package ostiary_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ostiary/ostiary"

// stairs says which rooms each room may import: those below it. A new
// package takes its place here first. The root is ".".
var stairs = map[string][]string{
	"access":             {},
	"authz/compiled":     {},
	"memory":             {},
	"guard":              {"access"},
	"client":             {"guard", "memory", "access"},
	"authz":              {"authz/compiled", "access"},
	"audit":              {"authz"},
	"decisionlog":        {"audit", "authz"},
	"authn":              {"audit", "memory", "authz", "access"},
	"directory":          {"authn", "audit", "memory", "authz"},
	"policies":           {"authn", "audit", "authz"},
	"bundles":            {"policies"},
	"store":              {"policies", "directory", "authn", "audit", "authz"},
	"server/request":     {"policies", "authn", "audit", "authz"},
	"server/openapi":     {},
	"server/authzen":     {"server/request", "policies", "directory", "authn", "audit", "authz"},
	"server/betterauth":  {"server/request", "policies", "authn", "audit", "authz"},
	"server/opa":         {"server/request", "policies", "directory", "authn", "audit", "authz"},
	"server/forwardauth": {"server/request", "policies", "authn", "audit", "authz"},
	"server/extauthz":    {"server/forwardauth", "server/request", "policies", "authn", "audit", "authz"},
	"server":             {"server/forwardauth", "server/opa", "server/betterauth", "server/authzen", "server/openapi", "server/request", "policies", "directory", "authn", "audit", "authz"},
	".":                  {"access", "guard", "server", "server/forwardauth", "server/opa", "server/betterauth", "server/authzen", "server/openapi", "server/request", "store", "policies", "directory", "authn", "audit", "authz"},
	"ostiarytest":        {".", "policies", "authn", "authz"},
	"internal/pgtest":    {},
	"internal/spellings": {},
	"cmd/ostiary":        {".", "bundles", "decisionlog", "server", "server/extauthz", "server/forwardauth", "server/opa", "server/betterauth", "server/authzen", "server/request", "store", "policies", "directory", "authn", "audit", "authz"},
}

// doors says which rooms may import what from outside.
var doors = []struct {
	prefix string
	rooms  []string
	tests  bool // external tests may as well: some look at the rows themselves
}{
	{prefix: "github.com/open-policy-agent/opa", rooms: []string{"authz", "authz/compiled", "policies", "bundles", "decisionlog"}},
	{prefix: "github.com/uptrace/bun", rooms: []string{"store"}},
	{prefix: "github.com/jackc/pgx", rooms: []string{"store", "internal/pgtest"}},
	{prefix: "modernc.org/sqlite", rooms: []string{"store"}},
	{prefix: "database/sql", rooms: []string{"store"}, tests: true},
	{prefix: "github.com/go-chi/chi", rooms: []string{"server", "server/request", "server/betterauth", "."}},
	{prefix: "google.golang.org/grpc", rooms: []string{"server/extauthz"}},
	{prefix: "github.com/envoyproxy", rooms: []string{"server/extauthz"}},
	{prefix: "github.com/spf13/viper", rooms: []string{"cmd/ostiary"}},
	{prefix: "github.com/spf13/cobra", rooms: []string{"cmd/ostiary"}},
}

// outside are folders that use the house as anyone would, through any door.
var outside = []string{"e2e", "instances", "proxies", "examples"}

// tools are for tests alone, of any room.
var tools = []string{"internal/pgtest", "internal/spellings"}

// listed is a package as `go list -json` tells it.
type listed struct {
	ImportPath, Name, Doc              string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
}

func (p listed) room() string { return room(p.ImportPath) }

func room(path string) string {
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}

func (p listed) outside() bool {
	first, _, _ := strings.Cut(p.room(), "/")
	return slices.Contains(outside, first)
}

// violations returns what p does against the plan of the house.
func violations(p listed) []string {
	var found []string
	complain := func(format string, args ...any) {
		found = append(found, fmt.Sprintf("%s: ", p.room())+fmt.Sprintf(format, args...))
	}

	if len(p.GoFiles) > 0 {
		if want := "Package " + p.Name + " "; p.Name != "main" && !strings.HasPrefix(p.Doc, want) {
			complain("has no package comment that begins with %q", want)
		}
		if p.Name == "main" && p.Doc == "" {
			complain("has no package comment")
		}
	}
	if p.outside() {
		return found
	}

	below, known := stairs[p.room()]
	if !known {
		complain("has no place on the staircase")
	}
	// External tests may climb (they run a room against the real store); what
	// is compiled into the room, and its own tests, may not.
	for _, path := range slices.Concat(p.Imports, p.TestImports) {
		if path != module && !strings.HasPrefix(path, module+"/") {
			continue
		}
		if slices.Contains(tools, room(path)) && !slices.Contains(p.Imports, path) {
			continue
		}
		if !slices.Contains(below, room(path)) && path != p.ImportPath {
			complain("imports %s, which is not below it", room(path))
		}
	}
	for _, d := range doors {
		imports := slices.Concat(p.Imports, p.TestImports)
		if !d.tests {
			imports = append(imports, p.XTestImports...)
		}
		for _, path := range imports {
			through := path == d.prefix || strings.HasPrefix(path, d.prefix+"/")
			if through && !slices.Contains(d.rooms, p.room()) {
				complain("imports %s; only %s may", path, strings.Join(d.rooms, ", "))
			}
		}
	}
	return found
}

func TestStaircase(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Name,Doc,GoFiles,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen[p.room()] = true
		for _, v := range violations(p) {
			t.Error(v)
		}
	}
	for room := range stairs {
		if !seen[room] {
			t.Errorf("%s is on the staircase, but there is no such package", room)
		}
	}
}

// What a program does not use, it does not carry.
func TestStaircaseKeepsProgramsLight(t *testing.T) {
	drivers := []string{"modernc.org/sqlite", "github.com/jackc/", "github.com/uptrace/"}
	routers := []string{"github.com/go-chi/", "github.com/gin-gonic/", "github.com/labstack/"}
	command := []string{"github.com/spf13/", "google.golang.org/grpc", "github.com/envoyproxy/"}
	for _, tt := range []struct {
		program []string
		without []string
	}{
		{[]string{"."}, slices.Concat(command, routers[1:])},
		{[]string{"./authz", "./policies"}, slices.Concat(drivers, routers, command)},
		{[]string{"./client", "./guard"}, slices.Concat(drivers, routers, command, []string{"github.com/open-policy-agent/", "github.com/prometheus/", module + "/authz"})},
	} {
		out, err := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps"}, tt.program...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for path := range strings.Lines(string(out)) {
			for _, heavy := range tt.without {
				if strings.HasPrefix(path, heavy) {
					t.Errorf("%v depends on %s", tt.program, path)
				}
			}
		}
	}
}

// The check is only worth something if it notices.
func TestStaircaseNotices(t *testing.T) {
	const m = module + "/"
	for _, tt := range []struct {
		name string
		pkg  listed
		want string // empty: nothing
	}{
		{"a room on rooms below", listed{ImportPath: m + "authn", Imports: []string{"fmt", m + "audit", m + "authz"}}, ""},
		{"a room on one above", listed{ImportPath: m + "authz", Imports: []string{m + "authn"}}, "authz: imports authn, which is not below it"},
		{"server on store", listed{ImportPath: m + "server", Imports: []string{m + "store"}}, "server: imports store, which is not below it"},
		{"store on server", listed{ImportPath: m + "store", Imports: []string{m + "server/request"}}, "store: imports server/request, which is not below it"},
		{"a room on the root", listed{ImportPath: m + "store", Imports: []string{module}}, "store: imports ., which is not below it"},
		{"an internal test that climbs", listed{ImportPath: m + "authn", TestImports: []string{m + "store"}}, "authn: imports store, which is not below it"},
		{"a test with a tool for tests", listed{ImportPath: m + "store", TestImports: []string{m + "internal/pgtest"}}, ""},
		{"a room with a tool for tests", listed{ImportPath: m + "store", Imports: []string{m + "internal/pgtest"}}, "store: imports internal/pgtest, which is not below it"},
		{"an external test that climbs", listed{ImportPath: m + "authn", XTestImports: []string{m + "store"}}, ""},
		{"a package without a place", listed{ImportPath: m + "util"}, "util: has no place on the staircase"},
		{"OPA in authn", listed{ImportPath: m + "authn", Imports: []string{"github.com/open-policy-agent/opa/v1/ast"}}, "only authz, authz/compiled, policies, bundles, decisionlog may"},
		{"bun in a test of authn", listed{ImportPath: m + "authn", XTestImports: []string{"github.com/uptrace/bun"}}, "only store may"},
		{"rows in a test of the root", listed{ImportPath: module, XTestImports: []string{"database/sql"}}, ""},
		{"rows in the root", listed{ImportPath: module, Imports: []string{"database/sql"}}, "only store may"},
		{"a driver in the root", listed{ImportPath: module, Imports: []string{"modernc.org/sqlite"}}, "only store may"},
		{"chi in store", listed{ImportPath: m + "store", Imports: []string{"github.com/go-chi/chi/v5"}}, "only server, server/request, server/betterauth, . may"},
		{"viper in the root", listed{ImportPath: module, Imports: []string{"github.com/spf13/viper"}}, "only cmd/ostiary may"},
		{"cobra in server", listed{ImportPath: m + "server", Imports: []string{"github.com/spf13/cobra"}}, "only cmd/ostiary may"},
		{"grpc in server", listed{ImportPath: m + "server", Imports: []string{"google.golang.org/grpc"}}, "only server/extauthz may"},
		{"anything in an example", listed{ImportPath: m + "examples/embed", Imports: []string{module, "github.com/go-chi/chi/v5"}}, ""},
		{"no package comment", listed{ImportPath: m + "authn", Name: "authn", GoFiles: []string{"authn.go"}}, "has no package comment"},
		{"another package's comment", listed{ImportPath: m + "authn", Name: "authn", Doc: "Package auth is.", GoFiles: []string{"authn.go"}}, "has no package comment"},
		{"a command without a comment", listed{ImportPath: m + "cmd/ostiary", Name: "main", GoFiles: []string{"main.go"}}, "has no package comment"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(violations(tt.pkg), "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
