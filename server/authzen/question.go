package authzen

import (
	stdjson "encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/server/request"
)

// object is a JSON object as policies read it: maps, slices, text, booleans,
// and numbers as they were written (encoding/json's Number). Names of members
// are case-sensitive, as names in a map are.
type object map[string]any

// decode reads a body: one JSON object that means the same to everybody
// (RFC 7493). No member is there twice, however it is escaped; nothing is
// outside of Unicode; no number is beyond what a float64 can come near to.
func (s *Surface) decode(r *http.Request) (object, error) {
	var doc any
	err := s.reader.Decode(r, &doc, exactNumbers)
	switch {
	case err == nil:
	case errors.Is(err, request.ErrMediaType):
		return nil, bad("the body must be application/json")
	case errors.Is(err, request.ErrTooLarge):
		return nil, &Error{http.StatusRequestEntityTooLarge, "the body is too large"}
	case errors.Is(err, request.ErrTooDeep):
		return nil, bad("the JSON is nested too deeply")
	case errors.Is(err, request.ErrSyntax):
		return nil, malformed(err)
	default:
		return nil, bad("the body could not be read")
	}
	o, ok := doc.(map[string]any)
	if !ok {
		return nil, bad("the body must be a JSON object")
	}
	return o, nil
}

var errNumber = errors.New("number out of range")

// exactNumbers leaves numbers as they were written: two ids must not be equal
// to a policy when they differ in the request.
var exactNumbers = json.WithUnmarshalers(json.UnmarshalFromFunc(func(d *jsontext.Decoder, v *any) error {
	if d.PeekKind() != '0' {
		return errors.ErrUnsupported
	}
	raw, err := d.ReadValue()
	if err != nil {
		return err
	}
	if _, err := strconv.ParseFloat(string(raw), 64); err != nil {
		return &json.SemanticError{JSONPointer: d.StackPointer(), Err: errNumber}
	}
	*v = stdjson.Number(raw)
	return nil
}))

// malformed words what the decoder found, without what it found it in.
func malformed(err error) error {
	semantic, isSemantic := errors.AsType[*json.SemanticError](err)
	syntactic, isSyntactic := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case isSemantic && errors.Is(semantic.Err, errNumber):
		return bad("a number is out of range; send it as text")
	case isSyntactic && errors.Is(syntactic.Err, jsontext.ErrDuplicateName):
		return bad("a member is there twice, at byte %d", syntactic.ByteOffset)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return bad("the JSON ends too soon")
	case isSyntactic:
		return bad("the JSON is malformed at byte %d", syntactic.ByteOffset)
	}
	return bad("the body is not valid JSON")
}

// member returns the object that o has under name. A member that is absent is
// nil; one of another type is an error.
func (o object) member(name string) (object, error) {
	v, there := o[name]
	if !there {
		return nil, nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, bad("%s: must be an object", name)
	}
	return m, nil
}

// required is member of an entity that has to be there.
func (o object) required(name string) (object, error) {
	m, err := o.member(name)
	if err == nil && m == nil {
		err = bad("%s: required", name)
	}
	return m, err
}

// text returns the text of an entity's member. Empty is not absent.
func (o object) text(entity, name string) (string, error) {
	v, there := o[name]
	if !there {
		return "", bad("%s.%s: required", entity, name)
	}
	text, ok := v.(string)
	if !ok {
		return "", bad("%s.%s: must be a string", entity, name)
	}
	return text, nil
}

func (o object) properties(entity string) (map[string]any, error) {
	m, err := o.member("properties")
	if err != nil {
		return nil, bad("%s.properties: must be an object", entity)
	}
	return m, nil
}

// entity is a subject or a resource. Members beside these three are ignored:
// they are no properties.
type entity struct {
	Type, ID   string
	Properties map[string]any
}

func (e entity) ref() directory.Ref { return directory.Ref(e) }

func (e entity) resource() authz.Resource {
	return authz.Resource{Type: e.Type, ID: e.ID, Properties: e.Properties}
}

// entity reads a subject or resource. Of what is searched for, the id is not
// looked at.
func (o object) entity(name string, searched bool) (e entity, err error) {
	m, err := o.required(name)
	if err != nil {
		return e, err
	}
	if e.Type, err = m.text(name, "type"); err != nil {
		return e, err
	}
	if !searched {
		if e.ID, err = m.text(name, "id"); err != nil {
			return e, err
		}
	}
	e.Properties, err = m.properties(name)
	return e, err
}

func (o object) action() (a authz.Action, err error) {
	m, err := o.required("action")
	if err != nil {
		return a, err
	}
	if a.Name, err = m.text("action", "name"); err != nil {
		return a, err
	}
	a.Properties, err = m.properties("action")
	return a, err
}

// context reads the circumstances. null is as good as absent: senders should
// leave the member out, and some do not.
func (o object) context() (map[string]any, error) {
	if v, there := o["context"]; there && v == nil {
		return nil, nil
	}
	return o.member("context")
}

// question is what one evaluation asks.
type question struct {
	subject  directory.Ref
	action   authz.Action
	resource authz.Resource
	context  map[string]any
}

// question reads an evaluation, whole.
func (o object) question() (q question, err error) {
	subject, err := o.entity("subject", false)
	if err != nil {
		return q, err
	}
	if q.action, err = o.action(); err != nil {
		return q, err
	}
	resource, err := o.entity("resource", false)
	if err != nil {
		return q, err
	}
	q.subject, q.resource = subject.ref(), resource.resource()
	q.context, err = o.context()
	return q, err
}

// named reports whether every name in q is one that something can have. Names
// may be empty in a request, but nothing is called so; and to the engine a
// resource without an id is the type as a whole, which is another question.
func (q question) named() bool {
	return q.subject.Type != "" && q.subject.ID != "" && q.action.Name != "" && q.resource.Type != "" && q.resource.ID != ""
}
