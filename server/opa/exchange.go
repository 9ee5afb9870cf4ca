package opa

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/request"
)

// parameters reads a query as OPA does: what is unknown or makes no sense does
// not count.
type parameters url.Values

func (c *call) parameters() parameters { return parameters(c.r.URL.Query()) }

// flag reports whether name is there without a value, or with the value true.
func (p parameters) flag(name string) bool {
	values, there := p[name]
	if there && len(values) == 1 && values[0] == "" {
		return true
	}
	for _, v := range values {
		if strings.EqualFold(v, "true") {
			return true
		}
	}
	return false
}

// last returns the value of name that counts when there are several.
func (p parameters) last(name string) (string, bool) {
	values := p[name]
	if len(values) == 0 {
		return "", false
	}
	return values[len(values)-1], true
}

func (p parameters) explain() authz.Explain {
	for _, v := range p["explain"] {
		switch e := authz.Explain(v); e {
		case authz.ExplainNotes, authz.ExplainFails, authz.ExplainFull, authz.ExplainDebug:
			return e
		}
	}
	return authz.ExplainOff
}

// evaluation reads what data and ad hoc queries have in common. An explanation
// is the text of rules, so it is for those who may read them.
func (c *call) evaluation(p parameters) (authz.QueryOptions, error) {
	o := authz.QueryOptions{
		StrictErrors: p.flag("strict-builtin-errors"),
		Explain:      p.explain(),
		Pretty:       p.flag("pretty"),
		Metrics:      p.flag("metrics"),
		Instrument:   p.flag("instrument"),
	}
	if o.Explain == authz.ExplainOff {
		return o, nil
	}
	_, err := c.ask("read", authz.Resource{Type: "policy"})
	return o, err
}

// body reads the body as a JSON or, if the content type says so, a YAML
// document. There is none if it is empty. Otherwise the content type does not
// matter, and neither does what follows the JSON value.
func (c *call) body() (doc any, there bool, err error) {
	data, err := c.Reader.Inflated(c.r)
	if err != nil {
		if errors.Is(err, request.ErrSyntax) {
			err = invalid("could not decompress the body: " + err.Error())
		}
		return nil, false, err
	}
	if strings.Contains(c.r.Header.Get("Content-Type"), "yaml") {
		if len(data) == 0 {
			return nil, false, nil
		}
		if doc, err = authz.ReadYAML(data); err != nil {
			return nil, false, malformed(err)
		}
		return doc, true, c.shallow(doc)
	}
	if c.Reader.TooDeep(data) {
		return nil, false, request.ErrTooDeep
	}
	doc, err = decodeJSON(data)
	if err == io.EOF {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, malformed(err)
	}
	return doc, true, nil
}

// shallow bounds what YAML stands for, which can be much more than its text.
func (c *call) shallow(doc any) error {
	text, err := json.Marshal(doc)
	if err != nil {
		return malformed(err)
	}
	if c.Reader.TooDeep(text) {
		return request.ErrTooDeep
	}
	return nil
}

func malformed(err error) error {
	return invalid("body contains malformed input document: " + err.Error())
}

// decodeJSON reads the first value of data, leniently as OPA does: of members
// that are there twice the last counts. Numbers keep their digits.
func decodeJSON(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

// members reads the body as an object.
func (c *call) members() (map[string]any, error) {
	doc, there, err := c.body()
	if err != nil || !there || doc == nil {
		return nil, err
	}
	m, ok := doc.(map[string]any)
	if !ok {
		return nil, invalid("body contains malformed input document: it is not an object")
	}
	return m, nil
}

// input is the member of that name; null counts as none.
func input(m map[string]any) *any {
	if v := m["input"]; v != nil {
		return &v
	}
	return nil
}

// text is a member that has to be text if it is there.
func text(m map[string]any, name string) (string, error) {
	v, there := m[name]
	s, ok := v.(string)
	if there && v != nil && !ok {
		return "", invalid(name + " is not text")
	}
	return s, nil
}

// object is a member that has to be an object if it is there.
func object(m map[string]any, name string) (map[string]any, error) {
	v, there := m[name]
	o, ok := v.(map[string]any)
	if there && v != nil && !ok {
		return nil, invalid(name + " is not an object")
	}
	return o, nil
}

// texts is a member that has to be a list of texts if it is there.
func texts(m map[string]any, name string) ([]string, error) {
	v, there := m[name]
	if !there || v == nil {
		return nil, nil
	}
	list, ok := v.([]any)
	out := make([]string, len(list))
	for i, item := range list {
		if out[i], ok = item.(string); !ok {
			break
		}
	}
	if !ok {
		return nil, invalid(name + " is not a list of texts")
	}
	return out, nil
}

// minGzip is the size from which an answer is compressed for those who ask.
const minGzip = 1024

// answer writes v as JSON.
func (c *call) answer(contentType string, v any, pretty bool) error {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	if pretty {
		enc.SetIndent("", "  ")
	}
	if err := enc.Encode(v); err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Vary", "Accept-Encoding")
	if body.Len() >= minGzip && acceptsGzip(c.r) {
		var small bytes.Buffer
		z := gzip.NewWriter(&small)
		z.Write(body.Bytes()) // to memory: cannot fail
		z.Close()
		h.Set("Content-Encoding", "gzip")
		body = small
	}
	c.w.WriteHeader(http.StatusOK)
	c.w.Write(body.Bytes())
	return nil
}

// acceptsGzip reports whether Accept-Encoding names gzip, and not with the
// weight 0.
func acceptsGzip(r *http.Request) bool {
	for _, value := range r.Header.Values("Accept-Encoding") {
		for item := range strings.SplitSeq(value, ",") {
			name, weight, weighted := strings.Cut(item, ";")
			if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
				continue
			}
			q, err := strconv.ParseFloat(strings.TrimPrefix(strings.TrimSpace(weight), "q="), 64)
			return !weighted || err == nil && q > 0
		}
	}
	return false
}

const jsonType = "application/json"
