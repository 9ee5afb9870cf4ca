package betterauth

import (
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ostiary/ostiary/authn"
)

// value is a JSON text, or nil for what JavaScript calls undefined.
type value jsontext.Value

type members map[string]value

// kind names the type as validation messages do.
func (v value) kind() string {
	if v == nil {
		return "undefined"
	}
	switch jsontext.Value(v).Kind() {
	case '"':
		return "string"
	case '0':
		return "number"
	case 't', 'f':
		return "boolean"
	case '{':
		return "object"
	case '[':
		return "array"
	}
	return "null"
}

// text returns what a string holds.
func (v value) text() string {
	var s string
	_ = json.Unmarshal(jsontext.Value(v), &s, jsontext.AllowInvalidUTF8(true))
	return s
}

func (v value) number() float64 {
	n, _ := strconv.ParseFloat(string(v), 64) // too large is infinite
	return n
}

func (v value) list() []value {
	var l []jsontext.Value
	_ = json.Unmarshal(jsontext.Value(v), &l)
	vs := make([]value, len(l))
	for i := range l {
		vs[i] = value(l[i])
	}
	return vs
}

// truthy is JavaScript's.
func (v value) truthy() bool {
	switch v.kind() {
	case "undefined", "null":
		return false
	case "boolean":
		return string(v) == "true"
	case "number":
		return v.number() != 0
	case "string":
		return string(v) != `""`
	}
	return true
}

// coerced is JavaScript's String(v).
func (v value) coerced() string {
	switch v.kind() {
	case "string":
		return v.text()
	case "number":
		return jsNumber(v.number())
	case "object":
		return "[object Object]"
	case "array":
		var parts []string
		for _, e := range v.list() {
			if e.kind() == "null" {
				parts = append(parts, "")
			} else {
				parts = append(parts, e.coerced())
			}
		}
		return strings.Join(parts, ",")
	}
	return string(v)
}

// jsNumber writes n as JavaScript does, but for the largest and smallest.
func jsNumber(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

func (m members) truthy(name string) bool { return m[name].truthy() }
func (m members) text(name string) string { return m[name].text() }

// optionalText returns nil for what is absent or null.
func (m members) optionalText(name string) *string {
	if m[name].kind() != "string" {
		return nil
	}
	s := m[name].text()
	return &s
}

func (m members) is(name string, b bool) bool { return string(m[name]) == strconv.FormatBool(b) }

func jsonText(s string) value { return value(mustJSON(s)) }

// schema is what a body or query has to be, in the order of its messages.
type schema []field

type field struct {
	name  string
	check check
}

// check returns what is wrong with v: lines of path (below the field) and
// text; or nothing.
type check func(v value) []issue

type issue struct{ path, text string }

func wrong(text string) []issue { return []issue{{"", text}} }

func expected(what string, v value) []issue {
	return wrong("Invalid input: expected " + what + ", received " + v.kind())
}

func ofKind(kind string) check {
	return func(v value) []issue {
		if v.kind() != kind {
			return expected(kind, v)
		}
		return nil
	}
}

var (
	isText    = ofKind("string")
	isNumber  = ofKind("number")
	isBoolean = ofKind("boolean")
)

func optionally(c check) check {
	return func(v value) []issue {
		if v == nil {
			return nil
		}
		return c(v)
	}
}

func nullable(c check) check {
	return optionally(func(v value) []issue {
		if v.kind() == "null" {
			return nil
		}
		return c(v)
	})
}

func isRecord(v value) []issue {
	if v.kind() != "object" {
		return expected("record", v)
	}
	return nil
}

// isCoerced accepts anything, as text; nonEmpty says what is wrong with "".
func isCoerced(nonEmpty string) check {
	return func(v value) []issue {
		if v == nil {
			return expected("nonoptional", v)
		}
		if nonEmpty != "" && v.coerced() == "" {
			return wrong(nonEmpty)
		}
		return nil
	}
}

func isNonEmpty(text string) check {
	return func(v value) []issue {
		if is := isText(v); is != nil {
			return is
		}
		if v.text() == "" {
			return wrong(text)
		}
		return nil
	}
}

func atLeast(n int) check {
	return func(v value) []issue {
		if is := isNumber(v); is != nil {
			return is
		}
		if v.number() < float64(n) {
			return wrong("Too small: expected number to be >=" + strconv.Itoa(n))
		}
		return nil
	}
}

func isEmail(v value) []issue {
	if is := isText(v); is != nil {
		return is
	}
	if !authn.ValidEmail(v.text()) {
		return wrong("Invalid email address")
	}
	return nil
}

func isMatch(re *regexp.Regexp, text string) check {
	return func(v value) []issue {
		if is := isText(v); is != nil {
			return is
		}
		if !re.MatchString(v.text()) {
			return wrong(text)
		}
		return nil
	}
}

func isOneOf(options ...string) check {
	quoted := make([]string, len(options))
	for i, o := range options {
		quoted[i] = strconv.Quote(o)
	}
	return func(v value) []issue {
		if v.kind() == "string" {
			for _, o := range options {
				if v.text() == o {
					return nil
				}
			}
		}
		return wrong("Invalid option: expected one of " + strings.Join(quoted, "|"))
	}
}

// isTextOrTexts is a role: one, or several.
func isTextOrTexts(v value) []issue {
	switch v.kind() {
	case "string":
		return nil
	case "array":
		for _, e := range v.list() {
			if e.kind() != "string" {
				return wrong("Invalid input")
			}
		}
		return nil
	}
	return wrong("Invalid input")
}

// isScalar is a query value that may not be repeated, where the schema is a
// union.
func isScalar(v value) []issue {
	if v.kind() == "array" {
		return wrong("Invalid input")
	}
	return nil
}

// isIndex is a query value: a whole number from 0.
func isIndex(v value) []issue {
	n, ok := queryNumber(v)
	switch {
	case !ok:
		return wrong("Invalid input: expected number, received NaN")
	case n != float64(int64(n)):
		return wrong("Invalid input: expected int, received number")
	case n < 0:
		return wrong("Too small: expected number to be >=0")
	}
	return nil
}

// queryNumber is JavaScript's Number(v) of a query value.
func queryNumber(v value) (float64, bool) {
	if v.kind() != "string" {
		return 0, false
	}
	s := strings.TrimSpace(v.text())
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || strings.ContainsAny(s, "_xXpPnN") { // Go's own notations, NaN and infinities
		return 0, false
	}
	return n, true
}

// isPermissions is resource → actions.
func isPermissions(v value) []issue {
	if is := isRecord(v); is != nil {
		return is
	}
	var issues []issue
	for name, actions := range objectMembers(v) {
		if actions.kind() != "array" {
			issues = append(issues, issue{"." + name, expected("array", actions)[0].text})
			continue
		}
		for i, a := range actions.list() {
			if a.kind() != "string" {
				issues = append(issues, issue{"." + name + "." + strconv.Itoa(i), expected("string", a)[0].text})
			}
		}
	}
	return issues
}

func objectMembers(v value) members {
	var raw map[string]jsontext.Value
	_ = json.Unmarshal(jsontext.Value(v), &raw, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	m := make(members, len(raw))
	for k, v := range raw {
		m[k] = value(v)
	}
	return m
}

// messages lists what is wrong with m.
func (s schema) messages(where string, m members) []string {
	var out []string
	for _, f := range s {
		for _, is := range f.check(m[f.name]) {
			out = append(out, "["+where+"."+f.name+is.path+"] "+is.text)
		}
	}
	return out
}

func invalid(messages ...string) *apiError {
	return &apiError{Status: http.StatusBadRequest, Message: strings.Join(messages, "; "), Code: "VALIDATION_ERROR"}
}

func (c *call) validate() error {
	if c.route.body != nil {
		if k := c.whole.kind(); k != "object" {
			return invalid("[body] Invalid input: expected object, received " + k)
		}
		if m := c.route.body.messages("body", c.body); m != nil {
			return invalid(m...)
		}
	}
	if m := c.route.query.messages("query", c.query); m != nil {
		return invalid(m...)
	}
	return nil
}

const formType = "application/x-www-form-urlencoded"

// readBody reads a body of a type that the route takes. One that is empty or
// has no Content-Type counts as absent.
func (c *call) readBody() error {
	sent := c.r.Header.Get("Content-Type")
	if sent == "" || c.r.ContentLength == 0 {
		return nil
	}
	data, err := c.s.rd.Body(c.r)
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return nil
	}
	media, _, err := mime.ParseMediaType(sent)
	if err != nil {
		media, _, _ = strings.Cut(strings.ToLower(sent), ";")
		media = strings.TrimSpace(media)
	}
	switch {
	case media == "application/json":
		whole, m, err := c.s.rd.Members(data)
		if err != nil {
			return err
		}
		c.whole = value(whole)
		if m != nil {
			c.body = make(members, len(m))
			for k, v := range m {
				c.body[k] = value(v)
			}
		}
	case media == formType && c.route.forms:
		form, err := url.ParseQuery(string(data))
		if err != nil {
			return &apiError{Status: http.StatusBadRequest, Message: "Invalid form in request body", Code: "BAD_REQUEST"}
		}
		c.body = members{}
		for k, vs := range form {
			c.body[k] = jsonText(vs[len(vs)-1])
		}
		c.whole = value(`{}`)
	default:
		allowed := "application/json"
		if c.route.forms {
			allowed = formType + ", " + allowed
		}
		return &apiError{
			Status:  http.StatusUnsupportedMediaType,
			Message: `Content-Type "` + sent + `" is not allowed. Allowed types: ` + allowed,
			Code:    "UNSUPPORTED_MEDIA_TYPE",
		}
	}
	return nil
}
