package request

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// What can be wrong with a body.
var (
	ErrTooLarge  = errors.New("body is too large")
	ErrTooDeep   = errors.New("body is nested too deeply")
	ErrMediaType = errors.New("body is not application/json")
	ErrSyntax    = errors.New("body is not valid JSON") // wrapped with where and why
)

// Body reads the whole body, or fails with ErrTooLarge.
func (rd *Reader) Body(r *http.Request) ([]byte, error) {
	var b body
	if err := b.read(r, rd.maxBody); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// body is what a body is read into.
type body struct {
	bytes.Buffer
	limited io.LimitedReader
}

// read reads the whole body of r, or fails with ErrTooLarge.
func (b *body) read(r *http.Request, limit int64) error {
	if r.Body == nil {
		return nil
	}
	if r.ContentLength > limit {
		linger(r)
		return ErrTooLarge
	}
	// No room is made for what is merely announced.
	b.limited = io.LimitedReader{R: r.Body, N: limit + 1}
	_, err := b.ReadFrom(&b.limited)
	b.limited.R = nil
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	if int64(b.Len()) > limit {
		linger(r)
		return ErrTooLarge
	}
	return nil
}

// bodies are used again by those who keep nothing of them.
var bodies = sync.Pool{New: func() any { return new(body) }}

func (b *body) release() {
	if b.Cap() <= 64<<10 { // let the rare big one go
		b.Reset()
		bodies.Put(b)
	}
}

// Larger returns a Reader that takes bodies of at least size bytes too.
func (rd *Reader) Larger(size int64) *Reader {
	larger := *rd
	larger.maxBody = max(larger.maxBody, size)
	return &larger
}

// Inflated is Body with Content-Encoding: gzip undone. The limit counts before
// and after: a few kilobytes can hold gigabytes.
func (rd *Reader) Inflated(r *http.Request) ([]byte, error) {
	data, err := rd.Body(r)
	if err != nil || !strings.Contains(r.Header.Get("Content-Encoding"), "gzip") {
		return data, err
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	data, err = io.ReadAll(io.LimitReader(z, rd.maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	if int64(len(data)) > rd.maxBody {
		return nil, ErrTooLarge
	}
	return data, nil
}

// TooDeep reports whether a JSON text nests deeper than MaxDepth, for those
// who decode it in their own way.
func (rd *Reader) TooDeep(text []byte) bool { return tooDeep(text, rd.maxDepth) }

// maxLinger is how much of a body that is too large is read, and forgotten, so
// that its sender comes to read the answer: one whose connection is closed while
// it sends often sees a reset and nothing else. How long that takes is bounded by
// the server's timeout for reading.
const maxLinger = 128 << 20

func linger(r *http.Request) {
	if r.Header.Get("Expect") != "" { // it waits for leave to send
		return
	}
	// What goes wrong is no worse than not to have tried.
	_, _ = io.CopyN(io.Discard, r.Body, maxLinger)
}

// Decode reads a JSON body into v, strictly: application/json only, valid
// UTF-8, no member twice. Members that v does not know are an error if opts
// say so. An absent body is ErrSyntax. What the body is read into is used again:
// a type that decodes itself has to copy what it keeps.
func (rd *Reader) Decode(r *http.Request, v any, opts ...json.Options) error {
	if !isJSON(r.Header.Get("Content-Type")) {
		return ErrMediaType
	}
	b := bodies.Get().(*body)
	defer b.release()
	if err := b.read(r, rd.maxBody); err != nil {
		return err
	}
	if tooDeep(b.Bytes(), rd.maxDepth) {
		return ErrTooDeep
	}
	if err := json.Unmarshal(b.Bytes(), v, opts...); err != nil {
		return fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	return nil
}

const jsonType = "application/json"

// isJSON reports whether a Content-Type is that of JSON, whatever its parameters.
func isJSON(contentType string) bool {
	if contentType == jsonType {
		return true
	}
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && t == jsonType
}

// Members decodes a JSON text as JavaScript would (of members that are there
// twice the last counts, broken UTF-8 is replaced) within MaxDepth, and
// returns it whole as well as, if it is an object, its members.
func (rd *Reader) Members(data []byte) (jsontext.Value, map[string]jsontext.Value, error) {
	if tooDeep(data, rd.maxDepth) {
		return nil, nil, ErrTooDeep
	}
	lenient := json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if !utf8.Valid(data) {
		data = []byte(string([]rune(string(data))))
	}
	var v jsontext.Value
	if err := json.Unmarshal(data, &v, lenient); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	if v.Kind() != '{' {
		return v, nil, nil
	}
	members := map[string]jsontext.Value{}
	if err := json.Unmarshal(v, &members, lenient); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	return v, members, nil
}

// tooDeep reports whether brackets nest deeper than limit. It only has to be
// right for valid JSON; what is not fails in the decoder.
func tooDeep(data []byte, limit int) bool {
	if bytes.Count(data, []byte("{"))+bytes.Count(data, []byte("[")) <= limit {
		return false // they could not, whatever is text
	}
	depth, text := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case text && c == '\\':
			i++
		case c == '"':
			text = !text
		case text:
		case c == '{' || c == '[':
			if depth++; depth > limit {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}
