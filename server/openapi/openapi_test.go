package openapi

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func load(t *testing.T) *Document {
	t.Helper()
	d, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Every schema compiles, every reference resolves, every operation has its
// own id; and every path parameter is declared.
func TestDocumentIsSound(t *testing.T) {
	load(t)
	var doc struct {
		OpenAPI    string
		Paths      map[string]map[string]struct{ Parameters []struct{ Name, In string } }
		Components map[string]map[string]any
	}
	if err := json.Unmarshal(JSON(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("openapi: got %q", doc.OpenAPI)
	}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			declared := map[string]bool{}
			for _, p := range op.Parameters {
				declared[p.In+" "+p.Name] = true
			}
			for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(path, -1) {
				if !declared["path "+m[1]] {
					t.Errorf("%s %s: parameter %s is not declared", method, path, m[1])
				}
			}
		}
	}
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`"#/components/(\w+)/([\w-]+)"`).FindAllStringSubmatch(string(JSON()), -1) {
		used[m[1]+"/"+m[2]] = true
		if doc.Components[m[1]][m[2]] == nil {
			t.Errorf("%s does not resolve", m[0])
		}
	}
	for kind, members := range doc.Components {
		for name := range members {
			if kind != "securitySchemes" && name != "MethodNotAllowed" && !used[kind+"/"+name] {
				t.Errorf("components/%s/%s is not used", kind, name)
			}
		}
	}
}

// What a Better Auth server answered is what we describe: a client that is
// written from the description meets no surprise there, and none here.
func TestDescriptionFitsRecordedAnswers(t *testing.T) {
	d := load(t)
	files, err := filepath.Glob("../../testdata/betterauth/transcripts/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	checked := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		type step struct {
			Name     string
			Request  struct{ Method, Path string }
			Response struct {
				Status  int
				Headers map[string]string
				Body    json.RawMessage
				Empty   bool
			}
		}
		var transcript struct {
			Fixtures map[string]struct{ Steps []step }
			Cases    []struct {
				Name  string
				Steps []step
			}
		}
		if err := json.Unmarshal(text, &transcript); err != nil {
			t.Fatal(err)
		}
		validate := func(name string, steps []step) {
			for _, s := range steps {
				u, err := url.Parse(s.Request.Path)
				if s.Request.Method == "" || err != nil {
					continue
				}
				body := placeholders.Replace(string(s.Response.Body))
				body = relative.ReplaceAllString(body, `"2026-01-01T00:00:00.000Z"`)
				if s.Response.Empty {
					body = ""
				}
				checked++
				if err := d.ValidateResponse(s.Request.Method, u.Path, s.Response.Status, s.Response.Headers["content-type"], []byte(body)); err != nil {
					t.Errorf("%s: %s, %s: %v", filepath.Base(file), name, s.Name, err)
				}
			}
		}
		for name, f := range transcript.Fixtures {
			validate(name, f.Steps)
		}
		for _, c := range transcript.Cases {
			validate(c.Name, c.Steps)
		}
	}
	if checked < 100 {
		t.Errorf("only %d answers were checked", checked)
	}
}

var (
	placeholders = strings.NewReplacer(`"<datetime>"`, `"2026-01-01T00:00:00.000Z"`, `"<number>"`, `1`)
	relative     = regexp.MustCompile(`"<datetime:[^"]*>"`)
)

// An answer that strays is told apart, or the checks above would mean nothing.
func TestStrayAnswersAreRefused(t *testing.T) {
	d := load(t)
	good := `{"allow":true,"decisionId":"d","policyRevision":"r","principal":{"type":"anonymous","credential":"none","roles":[]},"reasons":[]}`
	if err := d.ValidateResponse("POST", "/v1/authorize", 200, "application/json", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"a member more":          d.ValidateResponse("POST", "/v1/authorize", 200, "application/json", []byte(strings.Replace(good, `{"allow"`, `{"secret":"x","allow"`, 1))),
		"a member less":          d.ValidateResponse("POST", "/v1/authorize", 200, "application/json", []byte(strings.Replace(good, `"decisionId":"d",`, "", 1))),
		"a denial sans reason":   d.ValidateResponse("POST", "/v1/authorize", 200, "application/json", []byte(strings.Replace(good, "true", "false", 1))),
		"another status":         d.ValidateResponse("POST", "/v1/authorize", 201, "application/json", []byte(good)),
		"another type":           d.ValidateResponse("POST", "/v1/authorize", 200, "text/html", []byte(good)),
		"no body":                d.ValidateResponse("POST", "/v1/authorize", 200, "application/json", nil),
		"not JSON":               d.ValidateResponse("POST", "/v1/authorize", 200, "application/json", []byte("{")),
		"an unknown route":       d.ValidateResponse("GET", "/v1/secrets", 200, "application/json", []byte("{}")),
		"an unknown method":      d.ValidateResponse("PUT", "/v1/authorize", 200, "application/json", []byte(good)),
		"microseconds":           d.ValidateSchema("Time", []byte(`"2026-01-01T00:00:00.000000Z"`)),
		"no time at all":         d.ValidateSchema("Time", []byte(`"2026-13-01T00:00:00.000Z"`)),
		"a problem of no code":   d.ValidateResponse("GET", "/v1/me", 401, "application/problem+json", []byte(`{"type":"about:blank","title":"","status":401,"detail":""}`)),
		"a bare Better Auth 401": d.ValidateResponse("GET", "/api/auth/list-accounts", 401, "application/json", nil),
	} {
		if err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
