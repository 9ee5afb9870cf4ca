package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/request"
)

// authorizePath is that of the one question.
const authorizePath = "/v1/authorize"

// maxChecks bounds what one request may ask.
const maxChecks = 100

// What is asked is read member by member, without reflection: it is the one body
// that comes all day long. A test holds what is read, and how mistakes are worded,
// against the same types as package json reads them.
type authorizeRequest struct {
	Action      action
	Resource    resource
	Context     object
	Checks      checks
	Permissions field[map[string][]string]
	Explain     field[bool]
}

func (in *authorizeRequest) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	return members(d, func(name []byte) error {
		switch string(name) {
		case "action":
			return in.Action.UnmarshalJSONFrom(d)
		case "resource":
			return in.Resource.UnmarshalJSONFrom(d)
		case "context":
			return in.Context.UnmarshalJSONFrom(d)
		case "checks":
			return in.Checks.UnmarshalJSONFrom(d)
		case "permissions":
			return in.Permissions.UnmarshalJSONFrom(d)
		case "explain":
			return in.Explain.UnmarshalJSONFrom(d)
		}
		return unknown(d)
	})
}

// checks are the questions of a batch. Those beyond maxChecks are read and counted,
// and not kept: a body holds a great many that are empty.
type checks struct {
	value []check
	n     int
	set   bool
}

func (cs *checks) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	switch d.PeekKind() {
	case 'n':
		return notNull(d)
	case '[':
	default:
		return mismatch(d, "an array")
	}
	cs.set = true
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	last := none
	for d.PeekKind() != ']' {
		var c check
		if err := c.read(d, &last); err != nil {
			return err
		}
		if cs.n++; cs.n <= maxChecks {
			cs.value = append(cs.value, c)
		}
		last = c
	}
	_, err := d.ReadToken()
	return err
}

type check struct {
	Action   action
	Resource resource
	Context  object
}

// none is what a check is like that has none before it.
var none check

// read reads a check. Those of a batch are often about the same action and type.
func (c *check) read(d *jsontext.Decoder, last *check) error {
	return members(d, func(name []byte) error {
		switch string(name) {
		case "action":
			return c.Action.read(d, &last.Action)
		case "resource":
			return c.Resource.read(d, &last.Resource)
		case "context":
			return c.Context.UnmarshalJSONFrom(d)
		}
		return unknown(d)
	})
}

type resource struct {
	Type       text
	ID         text
	Properties object
	set        bool
}

func (r *resource) UnmarshalJSONFrom(d *jsontext.Decoder) error { return r.read(d, &none.Resource) }

func (r *resource) read(d *jsontext.Decoder, last *resource) error {
	if d.PeekKind() == 'n' {
		return notNull(d)
	}
	r.set = true
	return members(d, func(name []byte) error {
		switch string(name) {
		case "type":
			return r.Type.read(d, last.Type.value)
		case "id":
			return r.ID.read(d, last.ID.value)
		case "properties":
			return r.Properties.UnmarshalJSONFrom(d)
		}
		return unknown(d)
	})
}

// action is a name, or an object with a name and properties.
type action struct {
	name       string
	properties object
	set        bool
}

func (a *action) UnmarshalJSONFrom(d *jsontext.Decoder) error { return a.read(d, &none.Action) }

func (a *action) read(d *jsontext.Decoder, last *action) (err error) {
	a.set = true
	switch d.PeekKind() {
	case '"':
		a.name, err = readText(d, last.name)
		return err
	case '{':
		var name text
		err := members(d, func(member []byte) error {
			switch string(member) {
			case "name":
				return name.read(d, last.name)
			case "properties":
				return a.properties.UnmarshalJSONFrom(d)
			}
			return unknown(d)
		})
		a.name = name.value
		return err
	}
	return wrongType(d, "must be text or an object with a name")
}

// authorize asks the policy about the caller: about one action, several, or a
// set of permissions. Nothing in the body can change whom it asks about.
func (s *server) authorize(c *call) error {
	in, err := decode[authorizeRequest](s, c)
	if err != nil {
		return err
	}
	switch {
	case in.Checks.set && (in.Action.set || in.Resource.set || in.Context != nil || in.Permissions.set),
		in.Permissions.set && (in.Action.set || in.Resource.set):
		return invalid("", "only one of action with resource, checks and permissions can be asked about")
	case in.Checks.set:
		return s.authorizeChecks(c, in)
	case in.Permissions.set:
		return s.authorizePermissions(c, in)
	}
	if !in.Action.set && !in.Resource.set {
		return invalid("/action", "is required (or checks, or permissions)")
	}
	one := check{in.Action, in.Resource, in.Context}
	q, err := s.question(c, &one, "")
	if err != nil {
		return err
	}
	d, err := s.Engine.Decide(c.ctx, q)
	if err != nil {
		return unavailable(err)
	}
	return s.writeDecisions(c, func(w *decisionWriter) error {
		return w.decision(c.ctx, q, d, in.Explain.value)
	})
}

func (s *server) authorizeChecks(c *call, in *authorizeRequest) error {
	if n := in.Checks.n; n == 0 || n > maxChecks {
		return invalid("/checks", "must hold 1 to %d checks, not %d", maxChecks, n)
	}
	questions := make([]authz.Request, len(in.Checks.value))
	for i := range in.Checks.value {
		var err error
		if questions[i], err = s.question(c, &in.Checks.value[i], "/checks/"+strconv.Itoa(i)); err != nil {
			return err
		}
	}
	decisions, err := s.decideAll(c.ctx, questions)
	if err != nil {
		return err
	}
	return s.writeDecisions(c, func(w *decisionWriter) error {
		w.b = append(w.b, `{"results":[`...)
		for i, d := range decisions {
			if i > 0 {
				w.b = append(w.b, ',')
			}
			if err := w.decision(c.ctx, questions[i], d, in.Explain.value); err != nil {
				return err
			}
		}
		w.b = append(w.b, `]}`...)
		return nil
	})
}

// authorizePermissions asks about each permission on the type as a whole. The
// decision that stands for all is the first denial, or else the last.
func (s *server) authorizePermissions(c *call, in *authorizeRequest) error {
	var questions []authz.Request
	for _, t := range slices.Sorted(maps.Keys(in.Permissions.value)) {
		pointer := jsontext.Pointer("/permissions").AppendToken(t)
		if t == "" {
			return invalid("/permissions", "must not name an empty type")
		}
		if len(in.Permissions.value[t]) == 0 {
			return invalid(string(pointer), "must name an action")
		}
		for i, name := range in.Permissions.value[t] {
			if name == "" {
				return invalid(fmt.Sprintf("%s/%d", pointer, i), "must not be empty")
			}
			questions = append(questions, authz.Request{
				Subject:  c.caller.Subject(),
				Action:   authz.Action{Name: name},
				Resource: authz.Resource{Type: t},
				Context:  in.Context,
			})
		}
	}
	if n := len(questions); n == 0 || n > maxChecks {
		return invalid("/permissions", "must hold 1 to %d permissions, not %d", maxChecks, n)
	}
	decisions, err := s.decideAll(c.ctx, questions)
	if err != nil {
		return err
	}
	missing := authz.Permissions{}
	sum := decisions[len(decisions)-1]
	about := questions[len(questions)-1]
	var reasons []authz.Reason
	for i, d := range decisions {
		if d.Allow {
			continue
		}
		if sum.Allow {
			sum, about = d, questions[i]
		}
		t := questions[i].Resource.Type
		missing[t] = append(missing[t], questions[i].Action.Name)
		for _, r := range d.Reasons {
			if !slices.ContainsFunc(reasons, func(o authz.Reason) bool { return o.Code == r.Code && o.Message == r.Message }) {
				reasons = append(reasons, r)
			}
		}
	}
	sum.Allow = len(missing) == 0
	if !sum.Allow {
		sum.Reasons = reasons
	}
	c.stands(sum)
	return s.writeDecisions(c, func(w *decisionWriter) error {
		w.missing = missing
		return w.decision(c.ctx, about, sum, in.Explain.value)
	})
}

// question turns one check into what the engine is asked. at is where the
// check stands in the body.
func (s *server) question(c *call, in *check, at string) (authz.Request, error) {
	r := &in.Resource
	switch {
	case !in.Action.set:
		return authz.Request{}, invalid(at+"/action", "is required")
	case in.Action.name == "":
		return authz.Request{}, invalid(at+"/action", "must have a name")
	case !in.Resource.set:
		return authz.Request{}, invalid(at+"/resource", "is required")
	case r.Type.value == "":
		return authz.Request{}, invalid(at+"/resource/type", "is required")
	case r.ID.set && r.ID.value == "":
		// Not the same as no id: a variable that was empty by mistake must
		// not turn a question about one thing into one about all.
		return authz.Request{}, invalid(at+"/resource/id", "must not be empty; leave it out to ask about the type")
	}
	q := authz.Request{
		Subject:  c.caller.Subject(),
		Action:   authz.Action{Name: in.Action.name, Properties: in.Action.properties},
		Resource: authz.Resource{Type: r.Type.value, ID: r.ID.value, Properties: r.Properties},
		Context:  in.Context,
	}
	return q, nil
}

func (s *server) decideAll(ctx context.Context, questions []authz.Request) ([]authz.Decision, error) {
	decisions, err := s.Engine.DecideAll(ctx, questions)
	if err != nil {
		return nil, unavailable(err)
	}
	if len(decisions) != len(questions) {
		return nil, fmt.Errorf("%d decisions on %d questions", len(decisions), len(questions))
	}
	return decisions, nil
}

// unavailable marks err, which an engine gives when it has no decision.
func unavailable(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", authn.ErrUnavailable, err)
}

// buffers holds what answers are put together in.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

func release(buf *[]byte) {
	if cap(*buf) <= 64<<10 { // let the rare big one go
		buffers.Put(buf)
	}
}

// decisionWriter puts answers together by appending: this is the hot path.
type decisionWriter struct {
	s       *server
	b       []byte
	missing authz.Permissions

	// Where in b the last decision says by which policy it is and about whom. That
	// is the same for all of a batch.
	revision string
	subject  *authz.Subject
	from, to int
}

// short is how long an answer can be whose length net/http finds out by itself.
// What is longer it would send in chunks.
const short = 2048

func (s *server) writeDecisions(c *call, write func(*decisionWriter) error) error {
	buf := buffers.Get().(*[]byte)
	defer release(buf)
	w := decisionWriter{s: s, b: (*buf)[:0]}
	err := write(&w)
	*buf = w.b
	if err != nil {
		return err
	}
	h := c.w.Header()
	h["Content-Type"] = jsonType
	if len(w.b) > short {
		h["Content-Length"] = []string{strconv.Itoa(len(w.b))}
	}
	c.vouch(s)
	c.w.WriteHeader(http.StatusOK)
	c.w.Write(w.b)
	return nil
}

// vouch says for how many milliseconds the answer may be given again without a
// revocation that is made anywhere going unnoticed for longer than the lease.
func (c *call) vouch(s *server) {
	if _, ask := c.r.Header[request.LeaseHeader]; !ask || s.Feed == nil {
		return
	}
	age, _ := s.Feed()
	if left := s.Lease - max(age, 0); left > 0 {
		c.w.Header()[request.LeaseHeader] = []string{strconv.FormatInt(left.Milliseconds(), 10)}
	}
}

func (w *decisionWriter) decision(ctx context.Context, q authz.Request, d authz.Decision, explain bool) error {
	w.b = append(w.b, `{"allow":`...)
	w.b = strconv.AppendBool(w.b, d.Allow)
	w.b = append(w.b, `,"decisionId":`...)
	w.text(d.ID)
	if w.to > 0 && w.revision == d.Revision && w.subject == q.Subject {
		w.b = append(w.b, w.b[w.from:w.to]...)
	} else {
		w.revision, w.subject, w.from = d.Revision, q.Subject, len(w.b)
		w.b = append(w.b, `,"policyRevision":`...)
		w.text(d.Revision)
		w.b = append(w.b, `,"principal":`...)
		w.principal(q.Subject)
		w.to = len(w.b)
	}
	w.b = append(w.b, `,"reasons":[`...)
	for i := range d.Reasons {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		var err error
		if w.b, err = authz.AppendReason(w.b, &d.Reasons[i], appendEncoded); err != nil {
			return err
		}
	}
	w.b = append(w.b, ']')
	if len(d.Context) > 0 {
		w.b = append(w.b, `,"context":`...)
		if err := w.value(d.Context); err != nil {
			return err
		}
	}
	if w.missing != nil {
		if err := w.member("missing", w.missing); err != nil {
			return err
		}
	}
	if explain {
		if err := w.member("explain", w.explain(ctx, q)); err != nil {
			return err
		}
	}
	w.b = append(w.b, '}')
	return nil
}

type explanation struct {
	Fired  []authz.Rule `json:"fired"`
	Failed []authz.Rule `json:"failed"`
	Error  string       `json:"error,omitempty"`
}

// explain never fails the answer: the decision stands without it.
func (w *decisionWriter) explain(ctx context.Context, q authz.Request) explanation {
	e, err := w.s.Engine.Explain(ctx, q)
	if err != nil {
		w.s.Log.WarnContext(ctx, "explain failed", "error", err)
		return explanation{Error: "the decision could not be traced"}
	}
	x := explanation{Fired: e.Fired, Failed: e.Failed}
	if e.Failure != "" {
		x.Error = "the policy gave no answer, or took too many steps" // its words can quote what it saw
	}
	return x
}

func (w *decisionWriter) principal(s *authz.Subject) {
	id := s.Identity()
	w.b = append(w.b, `{"type":`...)
	w.text(id.Type)
	if id.ID != "" {
		w.b = append(w.b, `,"id":`...)
		w.text(id.ID)
	}
	w.b = append(w.b, `,"credential":`...)
	w.text(id.Credential)
	w.b = append(w.b, `,"roles":[`...)
	for i, role := range id.Roles {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.text(role)
	}
	w.b = append(w.b, ']')
	if id.Key != nil {
		w.b = append(w.b, `,"keyId":`...)
		w.text(id.Key.ID)
	}
	w.b = append(w.b, '}')
}

func (w *decisionWriter) text(s string) {
	// What is not valid UTF-8 is replaced, and that is all the error says.
	w.b, _ = jsontext.AppendQuote(w.b, s)
}

func (w *decisionWriter) member(name string, v any) error {
	w.b = append(w.b, ',', '"')
	w.b = append(w.b, name...)
	w.b = append(w.b, '"', ':')
	var err error
	w.b, err = appendEncoded(w.b, v)
	return err
}

// value writes what a policy said as encode does.
func (w *decisionWriter) value(v any) (err error) {
	w.b, err = authz.AppendJSON(w.b, v, appendEncoded)
	return err
}

func appendEncoded(b []byte, v any) ([]byte, error) {
	text, err := encode(v)
	return append(b, text...), err
}
