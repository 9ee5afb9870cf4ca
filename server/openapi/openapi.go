// Package openapi holds the description of the HTTP API, and checks answers
// against it.
//
// A [Document] checks what a service answers: that the route is described,
// with this status and this media type, and that the body is what the schema
// says. An end-to-end test can put it between a client and the service.
package openapi

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

//go:embed openapi.json
var document []byte

// JSON returns the document. The caller must not change it.
func JSON() []byte { return document }

// Document is the description, ready to check against.
type Document struct {
	Operations []Operation
	paths      map[string]map[string]*Operation // by template, then method
	schemas    *jsonschema.Compiler
}

// Operation is a method on a path.
type Operation struct {
	ID, Method, Path string // Method in upper case, Path with {parameters}
	// Rest says that the last parameter takes all that is left of the path,
	// slashes included, which OpenAPI has no word for (x-rest).
	Rest      bool
	responses map[string]response
	body      map[string]*jsonschema.Schema // by media type
}

type response struct {
	content  map[string]*jsonschema.Schema // by media type; none: no body
	optional bool                          // the body may be left out
}

const location = "openapi.json"

// Load reads the document and compiles every schema in it. It reports every
// mistake at once.
func Load() (*Document, error) {
	raw, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		return nil, err
	}
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Parameters  []struct {
				In   string
				Rest bool `json:"x-rest"`
			}
			RequestBody struct {
				Content map[string]json.RawMessage
			} `json:"requestBody"`
			Responses map[string]json.RawMessage
		}
		Components struct {
			Schemas   map[string]json.RawMessage
			Responses map[string]json.RawMessage
		}
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, err
	}
	d := &Document{paths: map[string]map[string]*Operation{}, schemas: jsonschema.NewCompiler()}
	d.schemas.DefaultDraft(jsonschema.Draft2020)
	d.schemas.AssertFormat()
	if err := d.schemas.AddResource(location, raw); err != nil {
		return nil, err
	}
	var errs []error
	compile := func(pointer string) *jsonschema.Schema {
		schema, err := d.schemas.Compile(location + "#" + pointer)
		if err != nil {
			errs = append(errs, err)
		}
		return schema
	}
	for name := range doc.Components.Schemas {
		compile("/components/schemas/" + name)
	}
	ids := map[string]bool{}
	for path, methods := range doc.Paths {
		d.paths[path] = map[string]*Operation{}
		for method, o := range methods {
			at := "/paths/" + escape(path) + "/" + method
			op := &Operation{ID: o.OperationID, Method: strings.ToUpper(method), Path: path, responses: map[string]response{}, body: map[string]*jsonschema.Schema{}}
			if op.ID == "" || ids[op.ID] {
				errs = append(errs, fmt.Errorf("%s: operationId %q is empty or taken", at, op.ID))
			}
			ids[op.ID] = true
			for _, p := range o.Parameters {
				op.Rest = op.Rest || p.In == "path" && p.Rest
			}
			for media := range o.RequestBody.Content {
				op.body[media] = compile(at + "/requestBody/content/" + escape(media) + "/schema")
			}
			for status, text := range o.Responses {
				at := at + "/responses/" + status
				var r struct {
					Ref         string `json:"$ref"`
					Description string
					Optional    bool `json:"x-body-optional"`
					Content     map[string]json.RawMessage
				}
				if err := json.Unmarshal(text, &r); err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", at, err))
				}
				if name, ok := strings.CutPrefix(r.Ref, "#/components/responses/"); ok {
					at = "/components/responses/" + name
					if doc.Components.Responses[name] == nil {
						errs = append(errs, fmt.Errorf("%s does not exist", at))
						continue
					}
					if err := json.Unmarshal(doc.Components.Responses[name], &r); err != nil {
						errs = append(errs, fmt.Errorf("%s: %w", at, err))
					}
				}
				if r.Description == "" {
					errs = append(errs, fmt.Errorf("%s: description is required", at))
				}
				answer := response{content: map[string]*jsonschema.Schema{}, optional: r.Optional}
				for media := range r.Content {
					answer.content[media] = compile(at + "/content/" + escape(media) + "/schema")
				}
				op.responses[status] = answer
			}
			if len(op.responses) == 0 {
				errs = append(errs, fmt.Errorf("%s has no responses", at))
			}
			d.paths[path][op.Method] = op
			d.Operations = append(d.Operations, *op)
		}
	}
	return d, errors.Join(errs...)
}

var escape = strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace

// find returns the operation, or whether the path is there at all.
func (d *Document) find(method, path string) (*Operation, bool) {
	if methods, ok := d.paths[path]; ok {
		return methods[method], true
	}
	segments := strings.Split(path, "/")
	for template, methods := range d.paths {
		if matches(strings.Split(template, "/"), segments) {
			return methods[method], true
		}
	}
	for template, methods := range d.paths {
		for _, op := range methods {
			if at := strings.LastIndexByte(template, '/'); op.Rest && strings.Count(path, "/") >= strings.Count(template, "/") &&
				matches(strings.Split(template[:at], "/"), segments[:strings.Count(template, "/")]) {
				return methods[method], true
			}
		}
	}
	return nil, false
}

// matches reports whether path is one of template.
func matches(template, path []string) bool {
	if len(template) != len(path) {
		return false
	}
	for i, t := range template {
		if t != path[i] && !(strings.HasPrefix(t, "{") && path[i] != "") {
			return false
		}
	}
	return true
}

// ValidateResponse reports whether the answer to method on path (without a
// query) is as described. What is not described can only be answered with 404
// or, on a path that takes other methods, 405.
func (d *Document) ValidateResponse(method, path string, status int, contentType string, body []byte) error {
	where := fmt.Sprintf("%s %s: %d", method, path, status)
	asked := method
	if method == http.MethodHead {
		asked = http.MethodGet
	}
	op, exists := d.find(asked, path)
	if op == nil {
		return d.undescribed(where, method, path, exists, status, contentType, body)
	}
	answer, ok := op.responses[strconv.Itoa(status)]
	if !ok {
		if method == http.MethodHead && (status == http.StatusNotFound || status == http.StatusMethodNotAllowed) && len(body) == 0 {
			return nil // neither Better Auth's API nor OPA's knows HEAD
		}
		return fmt.Errorf("%s is not described", where)
	}
	if len(body) == 0 {
		if len(answer.content) > 0 && !answer.optional && method != http.MethodHead {
			return fmt.Errorf("%s: the body is missing", where)
		}
		return nil
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return fmt.Errorf("%s: content type %q: %w", where, contentType, err)
	}
	schema, ok := answer.content[media]
	if !ok {
		return fmt.Errorf("%s: a body of type %s is not described", where, media)
	}
	if err := check(schema, body); err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	return nil
}

func (d *Document) undescribed(where, method, path string, exists bool, status int, contentType string, body []byte) error {
	switch {
	case exists && method == http.MethodOptions && status == http.StatusNoContent && len(body) == 0:
		return nil
	case status != http.StatusNotFound && !(exists && status == http.StatusMethodNotAllowed):
		return fmt.Errorf("%s: the route is not described", where)
	case len(body) == 0:
		return nil
	case contentType == "application/json" && d.ValidateSchema("OPAError", body) == nil:
		return nil // below the paths of OPA's API
	}
	media, schema := "application/problem+json", "Problem"
	if strings.HasPrefix(path, "/access/v1/") || strings.HasPrefix(path, "/.well-known/authzen-configuration") {
		media, schema = "application/json", "AuthZENError"
	}
	if contentType != media {
		return fmt.Errorf("%s: a body of type %s is not described", where, contentType)
	}
	if err := d.ValidateSchema(schema, body); err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	return nil
}

// ValidateRequest reports whether body is one that method on path takes, as
// JSON.
func (d *Document) ValidateRequest(method, path string, body []byte) error {
	op, _ := d.find(method, path)
	if op == nil || op.body["application/json"] == nil {
		return fmt.Errorf("%s %s: no JSON body is described", method, path)
	}
	return check(op.body["application/json"], body)
}

// ValidateSchema checks body against a schema of the components.
func (d *Document) ValidateSchema(name string, body []byte) error {
	schema, err := d.schemas.Compile(location + "#/components/schemas/" + name)
	if err != nil {
		return err
	}
	return check(schema, body)
}

func check(schema *jsonschema.Schema, body []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(v)
}
