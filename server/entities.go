package server

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/directory"
)

type entityDocument struct {
	Type       string         `json:"type"`
	ID         string         `json:"id"`
	Properties map[string]any `json:"properties"`
	UpdatedAt  stamp          `json:"updatedAt"`
}

func documentOfEntity(e *directory.Entity) entityDocument {
	return entityDocument{e.Type, e.ID, e.Properties, stamp(e.UpdatedAt)}
}

// exact is a JSON object whose numbers keep the digits that they were sent
// with: what is stored is told to others as it came.
type exact map[string]any

func (o *exact) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '{' {
		return wrongType(d, "must be an object")
	}
	text, err := d.ReadValue()
	if err != nil {
		return err
	}
	numbers := stdjson.NewDecoder(bytes.NewReader(text))
	numbers.UseNumber()
	return numbers.Decode((*map[string]any)(o))
}

// pathParam is what the path has where the pattern has name. The router gives
// it as it was sent, but only if that is not the usual way to send it.
func pathParam(r *http.Request, name string) string {
	v := chi.URLParam(r, name)
	if r.URL.RawPath == "" {
		return v
	}
	plain, _ := url.PathUnescape(v) // net/url has parsed it before
	return plain
}

// entityNamed is the entity that the request is about. An id may have slashes as
// they are. One that a path cannot spell (see plain) is in the query, behind a
// path that ends with the slash after the type.
func entityNamed(c *call) (typ, id string, err error) {
	in := queryOf(c.r, "id")
	if err := in.err(); err != nil {
		return "", "", err
	}
	typ, id = pathParam(c.r, "type"), pathParam(c.r, "*")
	switch asked := in.values.Has("id"); {
	case asked && id != "":
		return "", "", invalid("?id", "is for a path without an id")
	case asked:
		id = in.text("id")
	}
	if id == "" {
		return "", "", invalid("?id", "is required, or an id at the end of the path")
	}
	return typ, id, nil
}

// inPath words a mistake in a part of the path, which no pointer names.
func inPath(err error) error {
	if wrong, ok := errors.AsType[*authn.InvalidError](err); ok && (wrong.Field == "type" || wrong.Field == "id") {
		return invalid("", "the %s in the path: %s", wrong.Field, wrong.Reason)
	}
	return err
}

func (s *server) getEntity(c *call) error {
	typ, id, err := entityNamed(c)
	if err != nil {
		return err
	}
	e, err := s.Directory.Entity(c.ctx, c.caller, typ, id)
	if err != nil {
		return err
	}
	return answer(c.w, http.StatusOK, documentOfEntity(&e))
}

func (s *server) putEntity(c *call) error {
	typ, id, err := entityNamed(c)
	if err != nil {
		return err
	}
	in, err := decode[struct {
		Properties exact `json:"properties"`
	}](s, c)
	if err != nil {
		return err
	}
	e, created, err := s.Directory.Put(c.ctx, c.caller, directory.Entity{Type: typ, ID: id, Properties: in.Properties})
	if err != nil {
		return inPath(err)
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return answer(c.w, status, documentOfEntity(&e))
}

func (s *server) deleteEntity(c *call) error {
	typ, id, err := entityNamed(c)
	if err != nil {
		return err
	}
	if err := s.Directory.Delete(c.ctx, c.caller, typ, id); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// entities lists those of one type, in the order of their ids.
func (s *server) entities(c *call) error {
	in := queryOf(c.r, "after", "limit")
	q := directory.EntityQuery{Type: pathParam(c.r, "type"), After: in.text("after"), Limit: in.number("limit", 1, directory.MaxList, 100)}
	if err := in.err(); err != nil {
		return err
	}
	found, next, err := s.Directory.List(c.ctx, c.caller, q)
	if err != nil {
		return err
	}
	page := struct {
		Entities []entityDocument `json:"entities"`
		Next     *string          `json:"next"` // after of the next page; null: this is the last
	}{Entities: make([]entityDocument, len(found))}
	for i := range found {
		page.Entities[i] = documentOfEntity(&found[i])
	}
	if next != "" {
		page.Next = &next
	}
	return answer(c.w, http.StatusOK, page)
}

func (s *server) entityTypes(c *call) error {
	if err := queryOf(c.r).err(); err != nil {
		return err
	}
	types, err := s.Directory.Types(c.ctx, c.caller)
	if err != nil {
		return err
	}
	return answer(c.w, http.StatusOK, struct {
		Types []string `json:"types"`
	}{types})
}

// importEntities stores many, all or none.
func (s *server) importEntities(c *call) error {
	type entity struct {
		Type       field[string] `json:"type"`
		ID         field[string] `json:"id"`
		Properties exact         `json:"properties"`
	}
	in, err := decode[struct {
		Entities field[[]entity] `json:"entities"`
	}](s, c)
	if err != nil {
		return err
	}
	if len(in.Entities.value) == 0 {
		return invalid("/entities", "must hold at least one")
	}
	es := make([]directory.Entity, len(in.Entities.value))
	for i, e := range in.Entities.value {
		es[i] = directory.Entity{Type: e.Type.value, ID: e.ID.value, Properties: e.Properties}
	}
	created, err := s.Directory.Import(c.ctx, c.caller, es)
	if err != nil {
		return err
	}
	return answer(c.w, http.StatusOK, struct {
		Created  int `json:"created"`
		Replaced int `json:"replaced"`
	}{created, len(es) - created})
}
