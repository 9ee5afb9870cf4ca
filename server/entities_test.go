package server_test

import (
	"net/url"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server"
)

// clerk opens a house, and returns the header of a key that may read and write
// entities and look at decisions.
func clerk(t *testing.T, author fstest.MapFS) (*house, string) {
	t.Helper()
	h := open(t, author)
	_, key := h.key(t, h.user(t, "ops", "admin"), authz.Permissions{"entity": {"read", "write"}, "decision": {"read"}, "document": {"read"}})
	return h, "x-api-key: " + key
}

func TestEntitiesAreStoredReadListedAndRemoved(t *testing.T) {
	h, key := clerk(t, nil)
	const at = "/v1/entities/document/d1"
	got := h.do(t, "PUT", at, `{"properties":{"owner":"ann","size":12345678901234567890.50}}`, key)
	if got.StatusCode != 201 || got.Header.Get("Ostiary-Revision") == "" || got.Header.Get("Ostiary-Decision") == "" {
		t.Errorf("new: got %d %v %s", got.StatusCode, got.Header, got.body)
	}
	if got = h.do(t, "GET", at, "", key); got.StatusCode != 200 || !strings.Contains(got.body, `"properties":{"owner":"ann","size":12345678901234567890.50}`) {
		t.Errorf("read: got %d %s", got.StatusCode, got.body)
	}
	if got = h.do(t, "PUT", at, `{}`, key); got.StatusCode != 200 || !strings.Contains(got.body, `"properties":{}`) {
		t.Errorf("replaced: got %d %s", got.StatusCode, got.body)
	}
	got = h.do(t, "POST", "/v1/entities", `{"entities":[{"type":"document","id":"d1"},{"type":"document","id":"d2","properties":{"a":1}},{"type":"folder","id":"f"}]}`, key)
	if got.StatusCode != 200 || got.body != `{"created":2,"replaced":1}` || got.Header.Get("Ostiary-Revision") == "" {
		t.Errorf("imported: got %d %s", got.StatusCode, got.body)
	}
	if got = h.do(t, "GET", "/v1/entities", "", key); got.body != `{"types":["document","folder"]}` {
		t.Errorf("types: got %s", got.body)
	}
	var page struct {
		Entities []struct{ ID string }
		Next     *string
	}
	h.do(t, "GET", "/v1/entities/document?limit=1", "", key).decode(t, &page)
	if len(page.Entities) != 1 || page.Entities[0].ID != "d1" || page.Next == nil || *page.Next != "d1" {
		t.Errorf("first page: got %+v", page)
	}
	h.do(t, "GET", "/v1/entities/document?after=d1", "", key).decode(t, &page)
	if len(page.Entities) != 1 || page.Entities[0].ID != "d2" || page.Next != nil {
		t.Errorf("last page: got %+v", page)
	}
	if got = h.do(t, "DELETE", at, "", key); got.StatusCode != 204 || got.Header.Get("Ostiary-Revision") == "" {
		t.Errorf("removed: got %d %s", got.StatusCode, got.body)
	}
	for _, method := range []string{"GET", "DELETE"} {
		if got = h.do(t, method, at, "", key); got.StatusCode != 404 {
			t.Errorf("%s of none: got %d %s", method, got.StatusCode, got.body)
		}
	}
}

// Whatever an id is made of, there is a way to name it.
func TestEveryEntityCanBeNamed(t *testing.T) {
	h, key := clerk(t, nil)
	for _, id := range []string{"a", "a/b/c", "a b", "ä/ö", "x+y", "?", "#", "a;b", "50%", `a\b`, "..", "a/../b", "a//b", "/", "a/", "ſ", "{}", "*"} {
		query := "/v1/entities/document/?id=" + url.QueryEscape(id)
		if got := h.do(t, "PUT", query, `{"properties":{"id":1}}`, key); got.StatusCode != 201 {
			t.Errorf("PUT %s: got %d %s", query, got.StatusCode, got.body)
		}
		if got := h.do(t, "GET", query, "", key); got.StatusCode != 200 {
			t.Errorf("GET %s: got %d %s", query, got.StatusCode, got.body)
		}
		if !strings.ContainsAny(id, `%\;`) && id != "a/" && !strings.Contains(id, "..") && !strings.Contains(id, "//") && id != "/" {
			segments := strings.Split(id, "/")
			for i := range segments {
				segments[i] = url.PathEscape(segments[i])
			}
			path := "/v1/entities/document/" + strings.ReplaceAll(strings.Join(segments, "/"), "%2A", "*")
			var e struct{ ID string }
			if h.do(t, "GET", path, "", key).decode(t, &e); e.ID != id {
				t.Errorf("GET %s: got %q", path, e.ID)
			}
		}
		if got := h.do(t, "DELETE", query, "", key); got.StatusCode != 204 {
			t.Errorf("DELETE %s: got %d %s", query, got.StatusCode, got.body)
		}
	}
	for _, path := range []string{"/v1/entities/document/", "/v1/entities/document/?id=", "/v1/entities/document/d?id=d", "/v1/entities/document/?id=a&id=b", "/v1/entities/document/d?x=y"} {
		if got := h.do(t, "GET", path, "", key); got.StatusCode != 400 || got.code(t) != server.CodeInvalid {
			t.Errorf("%s: got %d %s", path, got.StatusCode, got.body)
		}
	}
	// One spelling for a path, here as elsewhere.
	for _, path := range []string{"/v1/entities/document/a%2Fb", "/v1/entities/document/%61", "/v1/entities//d"} {
		if got := h.do(t, "GET", path, "", key); got.StatusCode != 404 || strings.Contains(got.body, "such thing") {
			t.Errorf("%s: got %d %s", path, got.StatusCode, got.body)
		}
	}
}

func TestMistakesInEntitiesAreToldWithTheirPlace(t *testing.T) {
	h, key := clerk(t, nil)
	for _, tt := range []struct{ method, path, body, pointer string }{
		{"PUT", "/v1/entities/session/s", `{}`, ""},
		{"PUT", "/v1/entities/document/" + strings.Repeat("x", 257), `{}`, ""},
		{"PUT", "/v1/entities/document/d", `{"properties":null}`, "/properties"},
		{"PUT", "/v1/entities/document/d", `{"properties":{"a":"\u0000"}}`, "/properties"},
		{"PUT", "/v1/entities/document/d", `{"properties":{"a":1e999}}`, "/properties"},
		{"PUT", "/v1/entities/document/d", `{"type":"document"}`, "/type"},
		{"POST", "/v1/entities", `{"entities":[]}`, "/entities"},
		{"POST", "/v1/entities", `{"entities":[{"type":"document","id":"d"},{"id":"d"}]}`, "/entities/1/type"},
		{"POST", "/v1/entities", `{"entities":[{"type":"document","id":"d"},{"type":"document","id":"d"}]}`, "/entities/1/id"},
		{"POST", "/v1/entities", `{"entities":[{"type":"apiKey","id":"k"}]}`, "/entities/0/type"},
		{"GET", "/v1/entities/document?limit=1001", ``, "?limit"},
	} {
		got := h.do(t, tt.method, tt.path, tt.body, key)
		var p struct{ Errors []server.FieldError }
		got.decode(t, &p)
		if got.StatusCode != 400 || len(p.Errors) != 1 || p.Errors[0].Pointer != tt.pointer {
			t.Errorf("%s %s %s: got %d %s", tt.method, tt.path, tt.body, got.StatusCode, got.body)
		}
	}
	if got := h.do(t, "GET", "/v1/entities", "", key); got.body != `{"types":[]}` {
		t.Errorf("something was stored: %s", got.body)
	}
}

func TestEntitiesNeedTheirPermission(t *testing.T) {
	h := open(t, nil)
	_, key := h.key(t, h.user(t, "ops", "admin"), authz.Permissions{"user": {"list"}})
	for _, call := range []string{"GET /v1/entities", "POST /v1/entities", "GET /v1/entities/document", "GET /v1/entities/document/d", "PUT /v1/entities/document/d", "DELETE /v1/entities/document/d"} {
		method, path, _ := strings.Cut(call, " ")
		body := ""
		switch method {
		case "PUT":
			body = `{}`
		case "POST":
			body = `{"entities":[{"type":"document","id":"d"}]}`
		}
		if got := h.do(t, method, path, body, "x-api-key: "+key); got.StatusCode != 403 || !strings.Contains(got.body, "grant_missing") {
			t.Errorf("%s: got %d %s", call, got.StatusCode, got.body)
		}
		if got := h.do(t, method, path, body); got.StatusCode != 401 {
			t.Errorf("%s by nobody: got %d %s", call, got.StatusCode, got.body)
		}
	}
}

// A question that names a stored resource is answered by what is stored, and the
// record has the input as it was filled.
func TestStoredPropertiesFillWhatAQuestionLeavesOut(t *testing.T) {
	h, key := clerk(t, fstest.MapFS{"document.rego": &fstest.MapFile{Data: []byte(`package app.document

allow if {
	input.resource.known
	input.resource.properties.state == "open"
}
`)}})
	h.do(t, "PUT", "/v1/entities/document/d1", `{"properties":{"state":"open","size":1}}`, key)
	for _, tt := range []struct {
		resource string
		allow    bool
		recorded string
	}{
		{`{"type":"document","id":"d1"}`, true, `"resource":{"id":"d1","known":true,"properties":{"size":1,"state":"open"},"type":"document"}`},
		{`{"type":"document","id":"d1","properties":{"state":"closed"}}`, false, `"resource":{"id":"d1","known":true,"properties":{"size":1,"state":"closed"},"type":"document"}`},
		{`{"type":"document","id":"d2","properties":{"state":"open"}}`, false, `"resource":{"id":"d2","properties":{"state":"open"},"type":"document"}`},
	} {
		for _, body := range []string{`{"action":"read","resource":` + tt.resource + `}`, `{"checks":[{"action":"read","resource":` + tt.resource + `}]}`} {
			got := h.do(t, "POST", "/v1/authorize", body, key)
			if strings.Contains(got.body, `"allow":true`) != tt.allow {
				t.Errorf("%s: got %s", body, got.body)
			}
			id := got.Header.Get("Ostiary-Decision")
			if record := h.do(t, "GET", "/v1/decisions/"+id, "", key); !strings.Contains(record.body, tt.recorded) {
				t.Errorf("%s: got record %s, want %s", body, record.body, tt.recorded)
			}
		}
	}
	if got := h.do(t, "POST", "/v1/authorize", `{"action":"read","resource":{"type":"document","id":"d2","known":true}}`, key); got.StatusCode != 400 {
		t.Errorf("known was taken from the body: %d %s", got.StatusCode, got.body)
	}
}
