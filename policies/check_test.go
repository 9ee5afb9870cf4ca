package policies

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func files(pairs ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		fsys[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return fsys
}

func findings(r Report) []string {
	var all []string
	for _, f := range r.Findings {
		all = append(all, f.Error())
	}
	return all
}

// Each kind of mistake is found, with its place.
func TestCheckFinds(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		want  []string
	}{
		"nothing": {[]string{"document.rego", "package app.document\n\nallow if input.action.name == \"read\"\n"}, nil},
		"misspelt input": {
			[]string{"document.rego", "package app.document\n\nallow if \"x\" in input.principal.rolez\n"},
			[]string{"document.rego:3:17: input.principal.rolez: there is no such member; did you mean roles?"},
		},
		"properties are open": {[]string{"document.rego", "package app.document\n\nallow if input.resource.properties.anything.at.all == input.context.whatever\n"}, nil},
		"misspelt input in a test": {
			[]string{"document.rego", "package app.document\n\nallow if input.action.name == \"read\"\n",
				"document_test.rego", "package app.document_test\n\ntest_it if input.recource.id == \"x\"\n"},
			[]string{"document_test.rego:3:12: input.recource.id: there is no such member; did you mean resource?"},
		},
		"an action of a built-in type": {
			[]string{"user.rego", "package app.user\n\ndeny contains \"no\" if input.action.name == \"lst\"\n"},
			[]string{`user.rego:3:44: "lst" is an action that no table knows for user; did you mean "list"?`},
		},
		"actions of a listed type": {
			[]string{"data.yaml", "actions:\n  document: [read, write]\n",
				"document.rego", "package app.document\n\nallow if input.action.name in {\"read\", \"wirte\"}\n\nallow if {\n\ty := [x | x := 1; input.action.name != \"copy\"]\n\tcount(y) == 1\n}\n"},
			[]string{
				`document.rego:3:40: "wirte" is an action that no table knows for document; did you mean "write"?`,
				`document.rego:6:41: "copy" is an action that no table knows for document; there are read, write`,
			},
		},
		"an action in the table of roles": {
			[]string{"data.yaml", "roles:\n  helper:\n    user: [list, bann]\n"},
			[]string{`data.yaml:3:18: data.roles.helper.user[1]: "bann" is an action that no table knows for user; did you mean "ban"?`},
		},
		"a role": {
			[]string{"data.yaml", "roles:\n  editor:\n    document: [read]\n",
				"document.rego", "package app.document\n\nallow if \"edditor\" in input.principal.roles\n\nallow if input.principal.roles[_] == \"adminn\"\n"},
			[]string{
				`document.rego:3:10: "edditor" is a role that the table of roles does not have; did you mean "editor"?`,
				`document.rego:5:38: "adminn" is a role that the table of roles does not have; did you mean "admin"?`,
			},
		},
		"a role, where there is no table": {
			[]string{"document.rego", "package app.document\n\nallow if \"edditor\" in input.principal.roles\n"},
			[]string{`document.rego:3:10: warning: "edditor" is a role that the table of roles does not have`},
		},
		"data": {
			[]string{"data.yaml", "limits:\n  small: 3\n",
				"document.rego", "package app.document\n\nallow if data.setings.sign_up\n\nallow if data.settings.signup\n\nallow if data.limits.tiny > 1\n\nallow if data.limits.small > 1\n\nallow if data.app.other.allow\n"},
			[]string{
				"document.rego:3:10: data.setings: nothing defines it",
				"document.rego:5:10: data.settings.signup: nothing defines it",
				"document.rego:7:10: warning: data.limits.tiny: nothing defines it",
			},
		},
		"the network, the environment and what is not used": {
			[]string{"document.rego", "package app.document\n\nallow if http.send({\"url\": \"x\", \"method\": \"GET\"}).status_code == 200\n",
				"page.rego", "package app.page\n\nallow if opa.runtime().env.HOME\n\ndeny contains \"x\" if {\n\tunused := 1\n\tinput.action.name == \"read\"\n}\n"},
			[]string{
				"document.rego:3:10: undefined function http.send",
				"page.rego:6:2: assigned var unused unused",
				"page.rego:3:10: undefined function opa.runtime",
			},
		},
		"reserved": {
			[]string{"mine.rego", "package ostiary\n\nallowed := true\n"},
			[]string{"mine.rego:1:1: package ostiary: data.ostiary is reserved to Ostiary"},
		},
		"tables": {
			[]string{"data.json", "{\"roles\": {\"x\": {\"document\": [\"read\", 5]}},\n \"settings\": {\"signup\": true}}"},
			[]string{
				`data.json:1:39: data.roles.x.document[1]: must be a name, not 5 (role "x")`,
				"data.json:2:15: data.settings.signup: there is no such setting",
			},
		},
		"syntax": {
			[]string{"document.rego", "package app.document\n\nallow if {\n"},
			[]string{"document.rego:4:1: unexpected eof token"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := findings(Check(t.Context(), files(c.files...), nil))
			ok := len(got) == len(c.want)
			for _, w := range c.want {
				ok = ok && slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, w) })
			}
			if !ok {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// The examples, and so what people begin with, have nothing to find.
func TestCheckFindsNothingInTheExamples(t *testing.T) {
	folders, _ := filepath.Glob("../examples/policies/*")
	more, _ := filepath.Glob("../examples/*/*/policies")
	again, _ := filepath.Glob("../examples/*/policies")
	for _, dir := range slices.Concat(folders, more, again) {
		if got := findings(Check(t.Context(), os.DirFS(dir), nil)); len(got) > 0 {
			t.Errorf("%s:\n%s", dir, strings.Join(got, "\n"))
		}
	}
}

func TestCheckTellsWhatThePolicyDependsOn(t *testing.T) {
	r := Check(t.Context(), files("document.rego", "package app.document\n\nallow if {\n\ttime.now_ns() > 5\n\trand.intn(\"x\", 2) == 1\n\tinput.resource.properties.owner == input.principal.id\n}\n"), nil)
	d := r.Depends
	if !d.Time || !slices.Equal(d.Random, []string{"rand.intn"}) ||
		!slices.Equal(d.Input, []string{"input.principal.id", "input.resource.properties.owner"}) {
		t.Errorf("got %+v", d)
	}
}

// What people begin with is right, tested and formatted.
func TestStarterIsRight(t *testing.T) {
	if got := findings(Check(t.Context(), Starter(), nil)); len(got) > 0 {
		t.Error(strings.Join(got, "\n"))
	}
	r, err := Test(t.Context(), Starter(), nil, TestOptions{Coverage: true})
	if err != nil || len(r.Tests) == 0 || r.Failed() > 0 || r.Coverage.Percent < 100 {
		t.Errorf("got %+v, %v", r, err)
	}
}
