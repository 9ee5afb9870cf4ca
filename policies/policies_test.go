package policies_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

// folder makes an author's bundle from name, text, name, text …
func folder(files ...string) fstest.MapFS {
	f := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		f[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return f
}

func mustLoad(t testing.TB, author fs.FS, settings map[string]any) policies.Bundle {
	t.Helper()
	b, err := policies.Load(author, settings)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLoadReportsEveryMistakeWithItsPlace(t *testing.T) {
	tests := []struct {
		name     string
		author   fs.FS
		settings map[string]any
		want     []string // the lines
	}{
		{"Rego that does not parse", folder("app/doc.rego", "package app.document\n\nallow if {\n"), nil,
			[]string{"app/doc.rego:4:0: unexpected eof token"}},
		{"old Rego", folder("a.rego", "package app.document\nallow { true }"), nil,
			[]string{"a.rego:2:1: `if` keyword is required before rule body"}},
		{"JSON that does not parse", folder("data.json", "{\n  \"roles\": {,}\n}"), nil,
			[]string{"data.json:2:13: invalid character ',' looking for beginning of object key string"}},
		{"YAML that does not parse", folder("data.yaml", "roles:\n  a: [\n"), nil,
			[]string{"data.yaml:2: did not find expected node content"}},
		{"data that is no object", folder("data.json", "[]"), nil,
			[]string{"data.json: document must be of type object"}},
		{"data that is defined twice", folder("data.json", `{"a": {"b": 1}}`, "a/data.json", `{"b": 2}`), nil,
			[]string{"data.json: merge error: conflicting values at data.a.b, also defined in a/data.json"}},
		{"reserved packages", folder("a.rego", "package ostiary\n\ndecision := {\"allow\": true}", "b.rego", "# b\npackage permits.roles\n\nx := 1", "c.rego", "package ostiary.guards\n\nx := 1"), nil,
			[]string{
				"a.rego:1:1: package ostiary: data.ostiary is reserved to Ostiary",
				"b.rego:2:1: package permits: data.permits is reserved to Ostiary",
				"c.rego:1:1: package ostiary: data.ostiary is reserved to Ostiary",
			}},
		{"reserved data", folder("data.yaml", "ostiary: {decision: {allow: true}}\n", "permits/roles/data.json", `{"x": {}}`), nil,
			[]string{
				"data.yaml: data.ostiary is reserved to Ostiary",
				"permits/roles/data.json: data.permits is reserved to Ostiary",
			}},
		{"tables as rules", folder("a.rego", "package roles\n\nviewer := {}", "b.rego", "package self", "c.rego", "package settings", "d.rego", "package routes", "e.rego", "package actions"), nil,
			[]string{
				"a.rego:1:1: package roles: data.roles is a table, to be written in data.json or data.yaml",
				"b.rego:1:1: package self: data.self is a table, to be written in data.json or data.yaml",
				"c.rego:1:1: package settings: data.settings is a table, to be written in data.json or data.yaml",
				"d.rego:1:1: package routes: data.routes is a table, to be written in data.json or data.yaml",
				"e.rego:1:1: package actions: data.actions is a table, to be written in data.json or data.yaml",
			}},
		{"rules for no resource type", folder("a.rego", "package app\n\nallow if true\n\ndocument.allow if true"), nil,
			[]string{"a.rego:3:1: package app: name the resource type, as in package app.document"}},
		{"the name of a built-in file", folder("builtin/decision.rego", "package mine"), nil,
			[]string{"builtin/decision.rego: the name of a built-in file"}},
		{"roles", folder("data.json", `{"roles": {
			"editor": {"document": ["read", "", 5], "page": "read", "": ["x"], "my doc": {}},
			"viewer": ["read"], "a,b": {}, " c": {}, "": {}, "none": null}}`), nil,
			[]string{
				`data.json: data.roles[""]: role "": a name has no comma, no space around it and is not empty`,
				`data.json: data.roles[" c"]: role " c": a name has no comma, no space around it and is not empty`,
				`data.json: data.roles["a,b"]: role "a,b": a name has no comma, no space around it and is not empty`,
				`data.json: data.roles.editor[""]: the resource type is empty (role "editor")`,
				`data.json: data.roles.editor.document[1]: must be a name, not "" (role "editor")`,
				`data.json: data.roles.editor.document[2]: must be a name, not 5 (role "editor")`,
				`data.json: data.roles.editor["my doc"]: must be a list of names, not an object (role "editor")`,
				`data.json: data.roles.editor.page: must be a list of names, not "read" (role "editor")`,
				`data.json: data.roles.none: role "none" must be an object of resource types, not null`,
				`data.json: data.roles.viewer: role "viewer" must be an object of resource types, not a list`,
			}},
		{"tables that are none", folder("data.yaml", "roles: [a]\nself: true\nsettings: 3\n"), nil,
			[]string{
				"data.yaml: data.roles: must be an object, not a list",
				"data.yaml: data.self: must be an object, not true",
				"data.yaml: data.settings: must be an object, not 3",
			}},
		{"routes", folder("data.json", `{"routes": ["GET /", {"methods": "GET", "method": "get", "pattern": "a", "permission": null},
			{"method": "*", "pattern": "/a/", "permission": "public"}, {"method": "*", "pattern": "/a//b", "permission": "read"},
			{"method": "*", "pattern": "/*/b", "permission": "*:read"}, {"method": "*", "pattern": "/a{id}", "permission": "a:*"},
			{"method": "GET", "pattern": "/..", "permission": "a:b"}, {"method": "GET", "pattern": "/a%20b", "permission": "a:b"},
			{"method": "GET", "pattern": "/{a}/{b}", "permission": "a:b"}, {"method": "GET", "pattern": "/{c}/{d}", "permission": "c:d"}]}`), nil,
			[]string{
				`data.json: data.routes[0]: must be an object, not "GET /"`,
				`data.json: data.routes[1].methods: means nothing; an entry has method, pattern and permission`,
				`data.json: data.routes[1].method: "get" is not a method in capital letters, nor *`,
				`data.json: data.routes[1].pattern: "a" does not begin with /`,
				`data.json: data.routes[1].permission: must be text, not null`,
				`data.json: data.routes[2].pattern: "/a/" ends in /, which is not told apart: leave it out`,
				`data.json: data.routes[3].pattern: "/a//b" has an empty segment`,
				`data.json: data.routes[3].permission: "read" is neither a permission such as document:read nor public`,
				`data.json: data.routes[4].pattern: "/*/b" has * before its end`,
				`data.json: data.routes[4].permission: "*:read" is neither a permission such as document:read nor public`,
				`data.json: data.routes[5].pattern: "/a{id}" has the segment "a{id}": {name} and * stand for whole segments`,
				`data.json: data.routes[5].permission: "a:*" is neither a permission such as document:read nor public`,
				`data.json: data.routes[6].pattern: "/.." has the segment "..", which no path has that is let through; segments are written decoded`,
				`data.json: data.routes[7].pattern: "/a%20b" has the segment "a%20b", which no path has that is let through; segments are written decoded`,
				`data.json: data.routes[9]: another entry has the same method and the same pattern`,
			}},
		{"routes that are no list", folder("routes/data.yaml", "a: 1\n"), nil,
			[]string{"routes/data.yaml: data.routes: must be a list, not an object"}},
		{"self", folder("self/data.json", `{"document": [null], "user": {"get": true}}`), nil,
			[]string{
				"self/data.json: data.self.document[0]: must be a name, not null",
				"self/data.json: data.self.user: must be a list of names, not an object",
			}},
		{"settings", folder("data.json", `{"settings": {"sign_up": "no", "signup": false, "admin_user_ids": ["u1", 2], "admin_roles": "admin", "default_role": ""}}`), nil,
			[]string{
				`data.json: data.settings.admin_roles: must be a list of names, not "admin"`,
				"data.json: data.settings.admin_user_ids[1]: must be a name, not 2",
				`data.json: data.settings.default_role: must be the name of a role, not ""`,
				`data.json: data.settings.sign_up: must be true or false, not "no"`,
				"data.json: data.settings.signup: there is no such setting",
			}},
		{"configured settings", nil, map[string]any{"sign_up": 1, "colour": "blue", "admin_roles": func() {}},
			[]string{
				"setting admin_roles: json: unsupported type: func()",
				"setting colour: there is no such setting",
				"setting sign_up: must be true or false, not 1",
			}},
		{"mistakes of every sort", folder("a.rego", "package ostiary\n\nx := 1", "data.json", `{"roles": {"viewer": 1}}`), map[string]any{"sign_up": nil, "default_role": 2},
			[]string{
				"a.rego:1:1: package ostiary: data.ostiary is reserved to Ostiary",
				`data.json: data.roles.viewer: role "viewer" must be an object of resource types, not 1`,
				"setting default_role: must be the name of a role, not 2",
			}},
		{"a folder that is not there", os.DirFS("testdata/nowhere"), nil,
			[]string{"read the policy folder: stat .: no such file or directory"}},
		{"a file in its place", os.DirFS("policies.go"), nil,
			[]string{"read the policy folder: stat .: not a directory"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := policies.Load(tt.author, tt.settings)
			if err == nil {
				t.Fatal("loaded")
			}
			got := strings.Split(err.Error(), "\n")
			if len(got) != len(tt.want) {
				t.Errorf("got %d mistakes, want %d", len(got), len(tt.want))
			}
			for i := range min(len(got), len(tt.want)) {
				if !strings.HasPrefix(got[i], tt.want[i]) {
					t.Errorf("got  %s\nwant %s", got[i], tt.want[i])
				}
			}
			for _, line := range got[min(len(got), len(tt.want)):] {
				t.Errorf("also got %s", line)
			}
		})
	}
}

func TestLoadReportsAnUnreadableFile(t *testing.T) {
	_, err := policies.Load(unreadable{folder("data.json", "{}", "a.rego", "package a")}, nil)
	if !errors.Is(err, fs.ErrPermission) && (err == nil || !strings.Contains(err.Error(), "a.rego: permission denied")) {
		t.Errorf("got %v", err)
	}
}

// unreadable denies reading Rego.
type unreadable struct{ fstest.MapFS }

func (u unreadable) Open(name string) (fs.File, error) {
	if strings.HasSuffix(name, ".rego") {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return u.MapFS.Open(name)
}

func (u unreadable) ReadFile(name string) ([]byte, error) {
	f, err := u.Open(name)
	if err != nil {
		return nil, err
	}
	f.Close()
	return u.MapFS.ReadFile(name)
}

func TestBuiltinBundleAlone(t *testing.T) {
	b := mustLoad(t, nil, nil)
	if b.AuthorRoles {
		t.Error("AuthorRoles without an author")
	}
	if got := slices.Sorted(maps.Keys(b.Roles)); !slices.Equal(got, []string{"admin", "user"}) {
		t.Errorf("roles: got %v", got)
	}
	if !b.Roles["admin"].Allows("user", "list") || b.Roles["admin"].Allows("user", "impersonate-admins") {
		t.Errorf("admin: got %v", b.Roles["admin"])
	}
	if len(b.Source.Revision) != 32 {
		t.Errorf("revision %q", b.Source.Revision)
	}
	for name := range b.Source.Modules {
		if strings.HasSuffix(name, "_test.rego") {
			t.Errorf("%s is in force", name)
		}
	}
}

// A role, a type of self and a setting replace the built-in one whole.
func TestAuthorsTablesReplaceBuiltinOnesByName(t *testing.T) {
	b := mustLoad(t, folder(
		"data.yaml", "roles:\n  editor: {document: [read, write]}\n  admin: {user: [list]}\nself:\n  session: [list]\nsettings:\n  sign_up: false\n  admin_roles: [chief]\nteams: {blue: [u1]}\n",
	), nil)
	if !b.AuthorRoles {
		t.Error("AuthorRoles: got false")
	}
	want := map[string]authz.Permissions{
		"editor": {"document": {"read", "write"}},
		"admin":  {"user": {"list"}},
		"user":   {},
	}
	if !reflect.DeepEqual(b.Roles, want) {
		t.Errorf("roles: got %v", b.Roles)
	}
	self := b.Source.Data["self"].(map[string]any)
	if got := self["session"].([]any); len(got) != 1 || self["apiKey"] == nil {
		t.Errorf("self: got %v", self)
	}
	settings := b.Source.Data["settings"].(map[string]any)
	if settings["sign_up"] != false || settings["default_role"] != "user" {
		t.Errorf("settings: got %v", settings)
	}
	if b.Source.Data["teams"] == nil {
		t.Error("the author's own data is missing")
	}
}

func TestRolesMayHaveAFolder(t *testing.T) {
	b := mustLoad(t, folder("roles/data.json", `{"editor": {"document": ["read"]}}`, "roles/viewer/data.json", `{"document": ["list"]}`), nil)
	if !b.Roles["editor"].Allows("document", "read") || !b.Roles["viewer"].Allows("document", "list") || !b.AuthorRoles {
		t.Errorf("roles: got %v", b.Roles)
	}
}

func TestConfigurationWinsOverData(t *testing.T) {
	author := folder("data.json", `{"settings": {"sign_up": false, "admin_user_ids": ["u1"], "default_role": "guest"}}`)
	b := mustLoad(t, author, map[string]any{"sign_up": true, "admin_user_ids": []string{"u2"}, "admin_roles": []string(nil), "default_role": nil})
	want := map[string]any{"sign_up": true, "admin_user_ids": []any{"u2"}, "admin_roles": []any{"admin"}, "default_role": "guest"}
	if got := b.Source.Data["settings"]; !reflect.DeepEqual(got, want) {
		t.Errorf("settings: got %v, want %v", got, want)
	}
}

// Rules look permissions up in objects that Load makes of the tables.
func TestPermitsFollowTheTables(t *testing.T) {
	b := mustLoad(t, folder(
		"data.json", `{"roles": {"editor": {"document": ["read", "*"]}, "admin": {}}, "self": {"user": [], "session": [], "apiKey": ["read"]}, "app": {"page": {"public": true}}}`,
		"document.rego", "package app.document\n\nallow if true",
		"more.rego", "package app\n\nfolder.deny contains \"x\" if false",
		"star.rego", `package app["*"]`+"\n\nallow if true",
		"deep.rego", "package app.invoice.lines\n\ntotal := 1",
		"teams.rego", "package teams\n\nblue := true",
	), map[string]any{"admin_user_ids": []string{"u1"}})
	want := map[string]any{
		"roles":   map[string]any{"editor": map[string]any{"document": map[string]any{"read": true, "*": true}}, "admin": map[string]any{}, "user": map[string]any{}},
		"holders": map[string]any{"document": map[string]any{"read": map[string]any{"editor": true}, "*": map[string]any{"editor": true}}},
		"self":    map[string]any{"user": map[string]any{}, "session": map[string]any{}, "apiKey": map[string]any{"read": true}},
		"admins":  map[string]any{"u1": true},
		"app":     map[string]any{"document": true, "folder": true, "page": true, "invoice": true},
	}
	if got := b.Source.Data["permits"]; !reflect.DeepEqual(got, want) {
		t.Errorf("permits:\ngot  %v\nwant %v", got, want)
	}
}

func TestOnlyPolicyFilesAreRead(t *testing.T) {
	b := mustLoad(t, folder(
		"app.rego", "package app.document\n\nallow if true",
		"app_test.rego", "package app.document_test\n\ntest_it if false",
		"broken_test.rego", "this is no Rego",
		"package.json", "{broken",
		"README.md", "# Read me",
		"..data/app.rego", "broken",
		".git/data.json", "broken",
		".app.rego.swp", "broken",
		"sub/data.yml", "x: 1",
	), nil)
	if b.Source.Modules["app.rego"] == "" || len(b.Source.Modules) != len(mustLoad(t, nil, nil).Source.Modules)+1 {
		t.Errorf("modules: got %v", slices.Sorted(maps.Keys(b.Source.Modules)))
	}
	if !reflect.DeepEqual(b.Source.Data["sub"], map[string]any{"x": b.Source.Data["sub"].(map[string]any)["x"]}) {
		t.Errorf("data: got %v", b.Source.Data["sub"])
	}
}

func TestRevisionIsOfTheContents(t *testing.T) {
	revision := func(author fs.FS, settings map[string]any) string {
		return mustLoad(t, author, settings).Source.Revision
	}
	base := folder("a.rego", "package a\n\nx := 1", "data.json", `{"n": {"a": 1, "b": 2}}`)
	if a, b := revision(base, nil), revision(folder("data.json", `{"n": { "b":2, "a":1 }}`, "a.rego", "package a\n\nx := 1"), nil); a != b {
		t.Errorf("same contents, revisions %s and %s", a, b)
	}
	seen := map[string]string{}
	for name, r := range map[string]string{
		"builtin":  revision(nil, nil),
		"base":     revision(base, nil),
		"text":     revision(folder("a.rego", "package a\n\nx := 2", "data.json", `{"n": {"a": 1, "b": 2}}`), nil),
		"name":     revision(folder("b.rego", "package a\n\nx := 1", "data.json", `{"n": {"a": 1, "b": 2}}`), nil),
		"data":     revision(folder("a.rego", "package a\n\nx := 1", "data.json", `{"n": {"a": 1, "b": 3}}`), nil),
		"settings": revision(base, map[string]any{"sign_up": false}),
	} {
		if other, ok := seen[r]; ok {
			t.Errorf("%s and %s have the same revision", name, other)
		}
		seen[r] = name
	}
}

// Bundles do not share what they are made of.
func TestLoadIsFreshEachTime(t *testing.T) {
	a := mustLoad(t, folder("data.json", `{"roles": {"admin": {}}}`), map[string]any{"sign_up": false})
	b := mustLoad(t, nil, nil)
	if len(a.Roles["admin"]) != 0 || len(b.Roles["admin"]) == 0 {
		t.Error("an author's role shows in another bundle")
	}
	if b.Source.Data["settings"].(map[string]any)["sign_up"] != true {
		t.Error("a setting shows in another bundle")
	}
}

// Whatever is in the files, Load answers or refuses, and what it accepts keeps
// to its own.
func FuzzLoad(f *testing.F) {
	f.Add(`{"roles": {"editor": {"document": ["read"]}}}`, "package app.document\n\nallow if input.principal.id == input.resource.properties.owner")
	f.Add(`{"roles": {"admin": {"*": ["*"]}}, "self": {}, "settings": {"sign_up": false}}`, "package app.user\n\ndeny contains {\"code\": \"x\"}")
	f.Add(`{"ostiary": 1, "permits": {}, "app": {"document": true}}`, "package ostiary\n\nallowed := true")
	f.Add(`{"roles": {"": null, "a,b": {"": [1]}}}`, "package app\n\nx.y[z] := 1 if some z in [1]")
	f.Add(`[]`, "package data.ostiary")
	f.Add(`{`, "package")
	f.Fuzz(func(t *testing.T, data, rego string) {
		b, err := policies.Load(folder("data.json", data, "a.rego", rego), nil)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without a word")
			}
			return
		}
		builtin := mustLoad(t, nil, nil)
		for name, text := range builtin.Source.Modules {
			if b.Source.Modules[name] != text {
				t.Errorf("%s was replaced", name)
			}
		}
		if _, ok := b.Source.Data["ostiary"]; ok {
			t.Error("data.ostiary is defined")
		}
		permits := b.Source.Data["permits"].(map[string]any)["roles"].(map[string]any)
		holders := b.Source.Data["permits"].(map[string]any)["holders"].(map[string]any)
		for role, permissions := range b.Roles {
			for resourceType, actions := range permissions {
				for _, action := range actions {
					if permits[role].(map[string]any)[resourceType].(map[string]any)[action] != true ||
						holders[resourceType].(map[string]any)[action].(map[string]any)[role] != true {
						t.Errorf("role %q: %q:%q is written and not permitted", role, resourceType, action)
					}
				}
			}
		}
		_, _ = authz.Compile(t.Context(), b.Source) // may refuse, not break
	})
}

// The actions of a type are those that the author lists, or else those that
// the tables name for it or for every type.
func TestActionsOfATypeComeFromTheirTableOrTheOthers(t *testing.T) {
	b := mustLoad(t, folder("data.json", `{
		"actions": {"record": ["view", "edit", "view"], "nothing": []},
		"roles": {"clerk": {"file": ["read", "*"], "*": ["audit"]}, "chief": {"file": ["sign", "read"], "record": ["burn"]}},
		"self": {"file": ["rename"]}
	}`), nil)
	for resourceType, want := range map[string][]string{
		"record":  {"edit", "view"},
		"nothing": {},
		"file":    {"audit", "read", "rename", "sign"},
		"unknown": {"audit"},
		"session": {"audit", "create", "delete", "list", "revoke"},
	} {
		if got := b.Actions(resourceType); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", resourceType, got, want)
		}
	}
	_, err := policies.Load(folder("data.json", `{"actions": {"record": ["view", 1], "": []}}`), nil)
	for _, want := range []string{"data.json: data.actions.record[1]: must be a name, not 1", "the resource type is empty"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// What is told of a bundle makes the same bundle elsewhere.
func TestABundleIsMadeAgainOfItsFiles(t *testing.T) {
	for _, dir := range []string{"../examples/policies/owners", "../examples/policies/business-hours", "../examples/forward-auth/policies", "../examples/policies/support"} {
		b := mustLoad(t, os.DirFS(dir), map[string]any{"sign_up": false, "admin_user_ids": []any{"u1"}})
		fsys := fstest.MapFS{}
		for name, text := range b.Files() {
			fsys[name] = &fstest.MapFile{Data: []byte(text)}
		}
		again := mustLoad(t, fsys, b.Settings())
		if again.Source.Revision != b.Source.Revision || len(fsys) == 0 {
			t.Errorf("%s: got %s of %v, want %s", dir, again.Source.Revision, slices.Sorted(maps.Keys(fsys)), b.Source.Revision)
		}
	}
	if files := mustLoad(t, nil, nil).Files(); len(files) != 0 {
		t.Errorf("of the built-in rules alone: %v", files)
	}
}
