package authz

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Other appends what [AppendJSON] leaves to its caller; nil is package json.
type Other func(b []byte, v any) ([]byte, error)

// AppendJSON appends v, a JSON value, without reflection: objects with their members
// in order, and nothing escaped but what JSON demands. What packages for JSON
// disagree about goes to other: text that is not UTF-8, numbers that are none,
// floats, nil maps and slices, and what is no JSON value.
func AppendJSON(b []byte, v any, other Other) (_ []byte, err error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case int:
		return strconv.AppendInt(b, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case string:
		if utf8.ValidString(v) {
			return AppendText(b, v), nil
		}
	case json.Number:
		if integer(string(v)) {
			return append(b, v...), nil
		}
	case []any:
		if v == nil {
			break
		}
		b = append(b, '[')
		for i, element := range v {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = AppendJSON(b, element, other); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		if v == nil {
			break
		}
		names := slices.AppendSeq(make([]string, 0, 8), maps.Keys(v))
		if slices.ContainsFunc(names, func(name string) bool { return !utf8.ValidString(name) }) {
			break
		}
		slices.Sort(names)
		b = append(b, '{')
		for i, name := range names {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(AppendText(b, name), ':')
			if b, err = AppendJSON(b, v[name], other); err != nil {
				return b, err
			}
		}
		return append(b, '}'), nil
	}
	if other != nil {
		return other(b, v)
	}
	text, err := json.Marshal(v)
	return append(b, text...), err
}

// integer reports whether s is an integer in JSON, which most numbers are.
func integer(s string) bool {
	digits := strings.TrimPrefix(s, "-")
	if digits == "" || digits[0] == '0' && len(digits) > 1 {
		return false
	}
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// AppendText appends s as a JSON string. Each byte that is not UTF-8 is replaced.
func AppendText(b []byte, s string) []byte {
	for _, c := range []byte(s) {
		if c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			b, _ = jsontext.AppendQuote(b, s) // its error says what was replaced
			return b
		}
	}
	// Most texts are plain, and have been looked at by now.
	return append(append(append(b, '"'), s...), '"')
}

// AppendMoment appends t as JSON, a text as [access.Moment] makes it.
func AppendMoment(b []byte, t time.Time) []byte {
	// Package time has a shorter way for all but the milliseconds.
	b = t.UTC().AppendFormat(append(b, '"'), time.RFC3339)
	ms := t.Nanosecond() / int(time.Millisecond)
	return append(b[:len(b)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z', '"')
}

// AppendReason appends r as JSON.
func AppendReason(b []byte, r *Reason, other Other) (_ []byte, err error) {
	b = AppendText(append(b, `{"code":`...), r.Code)
	b = AppendText(append(b, `,"message":`...), r.Message)
	if r.Permission != "" {
		b = AppendText(append(b, `,"permission":`...), r.Permission)
	}
	if len(r.Details) > 0 {
		if b, err = AppendJSON(append(b, `,"details":`...), r.Details, other); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

// AppendDocument appends as JSON what [Request.Document] of r returns, without
// making it.
func AppendDocument(b []byte, r *Request, facts *Facts, now time.Time) ([]byte, error) {
	who := r.Who()
	id := who.Identity()
	d := document{b: b}
	d.b = append(d.b, '{')
	d.begin("action")
	d.text("name", r.Action.Name)
	d.object("properties", r.Action.Properties)
	d.end()
	if len(r.Context) > 0 {
		d.object("context", r.About(facts, now))
	} else {
		known := facts != nil && id.Credential != CredentialAsserted
		d.begin("context")
		if known {
			d.some("ip", strings.ToValidUTF8(facts.IP, "\ufffd"))
			d.some("method", strings.ToValidUTF8(facts.Method, "\ufffd"))
			d.some("path", strings.ToValidUTF8(facts.Path, "\ufffd"))
		}
		d.time("time", now)
		if known {
			d.some("userAgent", strings.ToValidUTF8(facts.UserAgent, "\ufffd"))
		}
		d.end()
	}
	d.name("principal")
	d.who(who, &id, who.Fresh(now))
	d.begin("resource")
	d.some("id", r.Resource.ID)
	if r.Resource.Known {
		d.bool("known", true)
	}
	d.object("properties", r.Resource.Properties)
	d.text("type", r.Resource.Type)
	d.end()
	d.end()
	return d.b, d.err
}

// who has a principal.
func (d *document) who(who *Subject, id *Identity, fresh bool) {
	prepared, ok := termsOf(who)
	if ok {
		if text, ok := prepared.text.get(fresh); ok {
			d.b = append(d.b, text...)
			return
		}
	}
	start := len(d.b)
	d.b = append(d.b, '{')
	d.principal(id, fresh)
	d.end()
	if ok && prepared.version != 0 && d.err == nil {
		prepared.text.put(fresh, bytes.Clone(d.b[start:]))
	}
}

// principal has the members of [Identity.Document], in order.
func (d *document) principal(id *Identity, fresh bool) {
	if by := id.AssertedBy; by != nil {
		d.begin("assertedBy")
		d.text("id", by.ID)
		d.some("keyId", by.KeyID)
		d.text("type", by.Type)
		d.end()
	}
	d.text("credential", id.Credential)
	d.some("id", id.ID)
	if k := id.Key; k != nil {
		d.begin("key")
		d.when("createdAt", k.CreatedAt)
		d.when("expiresAt", k.ExpiresAt)
		d.text("id", k.ID)
		d.value("metadata", k.Metadata)
		d.text("name", k.Name)
		d.begin("permissions")
		names := slices.AppendSeq(make([]string, 0, 8), maps.Keys(k.Permissions))
		slices.Sort(names)
		for _, name := range names {
			d.next()
			d.b = append(AppendText(d.b, name), ':')
			d.list(k.Permissions[name])
		}
		d.end()
		d.end()
	}
	asserted := id.Credential == CredentialAsserted
	if asserted && id.Known {
		d.bool("known", true)
	}
	if asserted {
		d.object("properties", id.Properties)
	}
	d.name("roles")
	d.list(id.Roles)
	if s := id.Session; s != nil {
		d.begin("session")
		d.when("createdAt", s.CreatedAt)
		d.when("expiresAt", s.ExpiresAt)
		d.bool("fresh", fresh)
		d.text("id", s.ID)
		d.some("impersonatedBy", s.ImpersonatedBy)
		d.end()
	}
	d.text("type", id.Type)
	if u := id.User; u != nil {
		d.begin("user")
		d.object("attributes", u.Attributes)
		d.bool("banned", u.Banned)
		d.when("createdAt", u.CreatedAt)
		d.text("email", u.Email)
		d.bool("emailVerified", u.EmailVerified)
		d.text("id", u.ID)
		d.text("name", u.Name)
		d.some("username", u.Username)
		d.end()
	}
}

// document appends an object, member by member. The first error stays.
type document struct {
	b   []byte
	err error
}

// next separates members.
func (d *document) next() {
	if d.b[len(d.b)-1] != '{' {
		d.b = append(d.b, ',')
	}
}

// name begins a member whose name is plain.
func (d *document) name(name string) {
	d.next()
	d.b = append(append(append(d.b, '"'), name...), `":`...)
}

func (d *document) begin(name string) {
	d.name(name)
	d.b = append(d.b, '{')
}

func (d *document) end() { d.b = append(d.b, '}') }

func (d *document) text(name, s string) {
	d.name(name)
	d.b = AppendText(d.b, s)
}

// some is text, unless it is empty.
func (d *document) some(name, s string) {
	if s != "" {
		d.text(name, s)
	}
}

func (d *document) list(list []string) {
	d.b = append(d.b, '[')
	for i, s := range list {
		if i > 0 {
			d.b = append(d.b, ',')
		}
		d.b = AppendText(d.b, s)
	}
	d.b = append(d.b, ']')
}

func (d *document) bool(name string, v bool) {
	d.name(name)
	d.b = strconv.AppendBool(d.b, v)
}

func (d *document) time(name string, t time.Time) {
	d.name(name)
	d.b = AppendMoment(d.b, t)
}

// when is time, unless it is zero.
func (d *document) when(name string, t time.Time) {
	if !t.IsZero() {
		d.time(name, t)
	}
}

func (d *document) value(name string, v any) {
	if d.err == nil {
		d.name(name)
		d.b, d.err = AppendJSON(d.b, v, nil)
	}
}

// object is value; no map is an empty object.
func (d *document) object(name string, m map[string]any) {
	if len(m) > 0 {
		d.value(name, m)
		return
	}
	d.begin(name)
	d.end()
}
