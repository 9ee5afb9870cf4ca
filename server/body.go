package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ostiary/ostiary/server/request"
)

// decode reads the body of c into a T, strictly: one JSON document in valid
// UTF-8, no member twice, none that T does not know, nothing of another type.
// A question with a misspelt member must not be answered as if the member had
// not been there.
func decode[T any](s *server, c *call) (*T, error) { return decodeWith[T](s.Reader, c) }

// decodeWith is decode with the limits of rd.
func decodeWith[T any](rd *request.Reader, c *call) (*T, error) {
	v := new(T)
	err := rd.Decode(c.r, v, json.RejectUnknownMembers(true))
	switch {
	case err == nil:
		return v, nil
	case errors.Is(err, request.ErrMediaType):
		// This also keeps out HTML forms, which other sites can make a
		// browser send.
		return nil, problem(http.StatusUnsupportedMediaType, CodeUnsupportedMediaType, "the body must be application/json")
	case errors.Is(err, request.ErrTooLarge):
		return nil, problem(http.StatusRequestEntityTooLarge, CodePayloadTooLarge, "the body is too large")
	case errors.Is(err, request.ErrTooDeep):
		return nil, invalid("", "the JSON is nested too deeply")
	case errors.Is(err, request.ErrSyntax):
		return nil, malformed(err)
	}
	return nil, invalid("", "the body could not be read")
}

// malformed words what the decoder found.
func malformed(err error) error {
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		pointer := string(semantic.JSONPointer)
		if errors.Is(semantic.Err, json.ErrUnknownName) {
			return invalidAt(pointer, "is not a known member")
		}
		if m, ok := semantic.Err.(mistaken); ok {
			return invalidAt(pointer, m.Error())
		}
		return invalidAt(pointer, "must be "+jsonName(semantic.GoType)+", not "+kindName(semantic.JSONKind))
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		pointer := string(syntactic.JSONPointer)
		switch {
		case errors.Is(syntactic.Err, jsontext.ErrDuplicateName):
			return invalidAt(pointer, "appears twice")
		case errors.Is(syntactic.Err, io.ErrUnexpectedEOF):
			return invalidAt(pointer, "the JSON ends too soon")
		}
		return invalidAt(pointer, fmt.Sprintf("the JSON is malformed at byte %d: %v", syntactic.ByteOffset, syntactic.Err))
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return invalidAt("", "the JSON ends too soon")
	}
	return invalidAt("", "the body is not valid JSON")
}

func jsonName(t reflect.Type) string {
	if t == nil {
		return "something else"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Int64, reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	}
	return "an object"
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "true or false"
	case '"':
		return "text"
	case '0':
		return "a number"
	case '[':
		return "an array"
	}
	return "an object"
}

// field is a member that knows whether it was there. null is not a value.
type field[T any] struct {
	value T
	set   bool
}

func (f *field[T]) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == 'n' {
		return notNull(d)
	}
	f.set = true
	return json.UnmarshalDecode(d, &f.value)
}

// nullable is a member that may be null.
type nullable[T any] struct {
	value *T
	set   bool
}

func (f *nullable[T]) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	f.set = true
	return json.UnmarshalDecode(d, &f.value)
}

// text is a field[string] that is read without reflection.
type text struct {
	value string
	set   bool
}

func (t *text) UnmarshalJSONFrom(d *jsontext.Decoder) error { return t.read(d, "") }

// read reads a text that may well be like another: then there is one of the two.
func (t *text) read(d *jsontext.Decoder, like string) (err error) {
	switch d.PeekKind() {
	case 'n':
		return notNull(d)
	case '"':
		t.value, err = readText(d, like)
		t.set = err == nil
		return err
	}
	v, err := d.ReadValue()
	if err != nil {
		return err
	}
	return mistake(d, "must be text, not "+kindName(v.Kind()))
}

func readText(d *jsontext.Decoder, like string) (string, error) {
	quoted, err := d.ReadValue()
	if err != nil {
		return "", err
	}
	plain, err := unquoted(quoted)
	if string(plain) == like {
		return like, err
	}
	return string(plain), err
}

// unquoted is the text of a JSON string, most often a part of it.
func unquoted(quoted jsontext.Value) ([]byte, error) {
	plain := []byte(quoted[1 : len(quoted)-1])
	if bytes.IndexByte(plain, '\\') < 0 {
		return plain, nil
	}
	return jsontext.AppendUnquote(nil, quoted)
}

// members reads an object, and has member read the value of each name. The name
// is good until then. null has no members.
func members(d *jsontext.Decoder, member func(name []byte) error) error {
	switch d.PeekKind() {
	case 'n':
		_, err := d.ReadToken()
		return err
	case '{':
	default:
		return mismatch(d, "an object")
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != '}' {
		name, err := d.ReadValue()
		if err != nil {
			return err
		}
		plain, err := unquoted(name)
		if err != nil {
			return err
		}
		if err := member(plain); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

// unknown is about the name that d has just read.
func unknown(d *jsontext.Decoder) error {
	return &json.SemanticError{JSONPointer: d.StackPointer(), Err: json.ErrUnknownName}
}

// mismatch is about the value that d reads next, which is not the array or object
// that it has to be. What it holds is not looked at.
func mismatch(d *jsontext.Decoder, want string) error {
	token, err := d.ReadToken()
	if err != nil {
		return err
	}
	return mistake(d, "must be "+want+", not "+kindName(token.Kind()))
}

func notNull(d *jsontext.Decoder) error { return wrongType(d, "must not be null") }

// wrongType consumes the value, so that the decoder's pointer names it.
func wrongType(d *jsontext.Decoder, message string) error {
	if err := d.SkipValue(); err != nil {
		return err
	}
	return mistake(d, message)
}

// mistake is about the value that d has just read.
func mistake(d *jsontext.Decoder, message string) error {
	return &json.SemanticError{JSONPointer: d.StackPointer(), Err: mistaken(message)}
}

type mistaken string

func (m mistaken) Error() string { return string(m) }

// object is a JSON object as policies read it: maps, slices, text, booleans,
// float64.
type object map[string]any

func (o *object) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '{' {
		return wrongType(d, "must be an object")
	}
	m, err := value(d)
	if err == nil {
		*o = m.(map[string]any)
	}
	return err
}

// value reads the next value. A whole number that float64 cannot hold exactly
// is refused: two ids must not be equal to a policy when they differ in the
// request (RFC 7493, 2.2).
func value(d *jsontext.Decoder) (any, error) {
	switch d.PeekKind() {
	case '{':
		if _, err := d.ReadToken(); err != nil {
			return nil, err
		}
		m := make(map[string]any)
		for d.PeekKind() != '}' {
			name, err := d.ReadToken()
			if err != nil {
				return nil, err
			}
			key := name.String()
			if m[key], err = value(d); err != nil {
				return nil, err
			}
		}
		_, err := d.ReadToken()
		return m, err
	case '[':
		if _, err := d.ReadToken(); err != nil {
			return nil, err
		}
		list := make([]any, 0, 4)
		for d.PeekKind() != ']' {
			v, err := value(d)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.ReadToken()
		return list, err
	case '0':
		raw, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		f, err := strconv.ParseFloat(string(raw), 64)
		if err != nil || math.Abs(f) >= 1<<53 && !strings.ContainsAny(string(raw), ".eE") {
			return nil, mistake(d, "is a number that cannot be represented exactly; send it as text")
		}
		return f, nil
	}
	token, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch token.Kind() {
	case '"':
		return token.String(), nil
	case 't', 'f':
		return token.Bool(), nil
	}
	return nil, nil
}

// query reads the parameters of a query, strictly as a body is: unknown and
// repeated ones are mistakes.
type query struct {
	values url.Values
	errs   []FieldError
}

func queryOf(r *http.Request, known ...string) *query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	q := &query{values: values}
	if err != nil {
		q.wrong("", "the query is malformed")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case !slices.Contains(known, name):
			q.wrong(name, "is not a known parameter")
		case len(values[name]) > 1:
			q.wrong(name, "appears twice")
		}
	}
	return q
}

func (q *query) wrong(name, message string) {
	q.errs = append(q.errs, FieldError{"?" + name, message})
}

func (q *query) text(name string) string { return q.values.Get(name) }

func (q *query) number(name string, low, high, otherwise int) int {
	if !q.values.Has(name) {
		return otherwise
	}
	n, err := strconv.Atoi(q.values.Get(name))
	if err != nil || n < low || n > high {
		q.wrong(name, fmt.Sprintf("must be a whole number from %d to %d", low, high))
	}
	return n
}

func (q *query) boolean(name string) *bool {
	if !q.values.Has(name) {
		return nil
	}
	v := q.values.Get(name) == "true"
	if !v && q.values.Get(name) != "false" {
		q.wrong(name, "must be true or false")
	}
	return &v
}

func (q *query) time(name string) time.Time {
	if !q.values.Has(name) {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, q.values.Get(name))
	if err != nil {
		q.wrong(name, "must be a time as in RFC 3339")
	}
	return t
}

// err is every mistake at once, or nil.
func (q *query) err() error {
	if len(q.errs) == 0 {
		return nil
	}
	p := invalidAt(q.errs[0].Pointer, q.errs[0].Message)
	p.Errors = q.errs
	return p
}
