package opa_test

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/server"
)

// The rules on the page compile, and the requests are answered as it says.
func TestDocumentedExamplesAreTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/opa.md")
	if err != nil {
		t.Fatal(err)
	}
	bundle := fstest.MapFS{}
	for i, m := range regexp.MustCompile("(?s)```rego\n(.*?)```").FindAllSubmatch(page, -1) {
		bundle[fmt.Sprintf("example%d.rego", i)] = &fstest.MapFile{Data: m[1]}
	}
	h := open(t, func(o *server.Options) {
		o.Policies, err = policies.Open(t.Context(), policies.Options{Engine: o.Engine, FS: bundle})
		if err != nil {
			t.Fatal(err)
		}
	})
	_, key := h.key(t, "root", "admin", all)
	examples := regexp.MustCompile("(?s)```http\n(.*?)```\n```json\n(\\d+)\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(bundle) != 2 || len(examples) < 3 || len(examples) != strings.Count(string(page), "```http") {
		t.Fatalf("found %d modules and %d examples", len(bundle), len(examples))
	}
	for _, e := range examples {
		head, body, _ := strings.Cut(strings.ReplaceAll(e[1], "$KEY", key), "\n\n")
		lines := strings.Split(head, "\n")
		method, path, _ := strings.Cut(lines[0], " ")
		got := h.do(t, method, path, body, lines[1:]...)
		var want map[string]any
		if err := json.Unmarshal([]byte(e[3]), &want); err != nil {
			t.Fatal(err)
		}
		have := got.decode(t)
		if have["decision_id"] != nil {
			have["decision_id"] = "…"
		}
		if strconv.Itoa(got.StatusCode) != e[2] || !reflect.DeepEqual(have, want) {
			t.Errorf("%s: got %d %s", lines[0], got.StatusCode, got.body)
		}
	}
}

// Every call that is routed is on the page.
func TestCallsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/opa.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/data/{path}", "/v0/data/{path}", "`POST /`", "/v1/compile/{path}", "/v1/query", "/v1/policies", "/v1/policies/{id}", "/health"} {
		if !strings.Contains(string(page), path) {
			t.Errorf("%s is not documented", path)
		}
	}
}
