package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// The requests in the documentation are answered as it says, in order, on a
// service on which nothing else happened.
func TestDocumentedExamplesAreTrue(t *testing.T) {
	text, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	h := open(t, nil)
	ops, err := h.authn.CreateUser(t.Context(), system, authn.NewUser{Name: "Ops", Email: "ops@example.com", Roles: []string{"admin"}, RolesGiven: true})
	if err != nil {
		t.Fatal(err)
	}
	grants := regexp.MustCompile("(?s)which is granted\n`({.*?})`").FindSubmatch(text)
	var permissions authz.Permissions
	if err := json.Unmarshal(grants[1], &permissions); err != nil {
		t.Fatal(err)
	}
	_, key := h.key(t, ops, permissions, func(k *authn.NewKey) { k.Name = ptr("System") })

	examples := regexp.MustCompile("(?s)```http\n(.*?)```\n```json\n(\\d+)\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(examples) < 10 || len(examples) != strings.Count(string(text), "```http") {
		t.Fatalf("%d examples were found", len(examples))
	}
	for _, e := range examples {
		head, body, _ := strings.Cut(e[1], "\n\n")
		lines := strings.Split(strings.TrimSpace(head), "\n")
		method, path, _ := strings.Cut(lines[0], " ")
		for i := range lines {
			lines[i] = strings.ReplaceAll(lines[i], "$KEY", key)
		}
		if err := h.records.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		got := h.do(t, method, path, strings.TrimSpace(body), lines[1:]...)
		if strconv.Itoa(got.StatusCode) != e[2] {
			t.Errorf("%s: got %d %s, want %s", lines[0], got.StatusCode, got.body, e[2])
			continue
		}
		var want, have any
		if err := json.Unmarshal([]byte(e[3]), &want); err != nil {
			t.Errorf("%s: %v", lines[0], err)
			continue
		}
		got.decode(t, &have)
		if at := differs("", want, have); at != "" {
			t.Errorf("%s: %s\n%s", lines[0], at, got.body)
		}
	}
}

// differs says where got is not what is wanted. A text with "…" in it stands
// for anything.
func differs(at string, want, got any) string {
	switch w := want.(type) {
	case string:
		if strings.Contains(w, "…") {
			return ""
		}
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			break
		}
		names := map[string]bool{}
		for n := range w {
			names[n] = true
		}
		for n := range g {
			names[n] = true
		}
		for n := range names {
			if _, ok := w[n]; !ok {
				return at + "/" + n + " is not documented"
			}
			if _, ok := g[n]; !ok {
				return at + "/" + n + " is not there"
			}
			if d := differs(at+"/"+n, w[n], g[n]); d != "" {
				return d
			}
		}
		return ""
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			break
		}
		for i := range w {
			if d := differs(at+"/"+strconv.Itoa(i), w[i], g[i]); d != "" {
				return d
			}
		}
		return ""
	}
	if fmt.Sprint(want) == fmt.Sprint(got) {
		return ""
	}
	return fmt.Sprintf("%s: got %v, want %v", at, got, want)
}

// Every code of a problem is documented where people look for it.
func TestProblemCodesAreDocumented(t *testing.T) {
	source, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Components struct {
			Schemas struct {
				Problem struct {
					Properties struct{ Code struct{ Enum []string } }
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(open(t, nil).do(t, "GET", "/openapi.json", "").body), &schema); err != nil {
		t.Fatal(err)
	}
	described := schema.Components.Schemas.Problem.Properties.Code.Enum
	codes := regexp.MustCompile(`(?m)^\tCode\w+ += "(\w+)"`).FindAllStringSubmatch(string(source), -1)
	if len(codes) != len(described) || len(codes) < 20 {
		t.Errorf("%d codes, %d described", len(codes), len(described))
	}
	for _, c := range codes {
		if !strings.Contains(string(docs), "`"+c[1]+"`") {
			t.Errorf("%s is not in docs/api.md", c[1])
		}
		if !slices.Contains(described, c[1]) {
			t.Errorf("%s is not in openapi.json", c[1])
		}
	}
}
