package authz

import (
	"encoding/binary"
	"encoding/json"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"
)

// A memo remembers what one policy answered. An answer is found again only by a
// question that is the same in all that the policy can read, as its compiled form
// tells ([Policy.Analysis]):
//
//   - who asks, by the version of the subject. What changes about somebody makes
//     another [Subject], of another version, so what was answered about the old one
//     is never found again. Whether the session is fresh now is part of it.
//   - of the action, the resource and the context what the policy reads of them,
//     as it is in this question: with what applications stored of the resource,
//     which is looked up before.
//
// A policy that reads the time, or calls what answers differently from one time to
// the next, has no memo. The memo of a policy goes with it.
type memo struct {
	policy               *Policy
	action, resource, id bool // are read: the name of the action, the type and the id of the resource
	parts                []part
	answers              *otter.Cache[asked, *answer]
}

// What is larger is not remembered, in bytes: a question, and an answer.
const (
	maxAsked  = 512
	maxAnswer = 1024
)

// asked is a question as far as a policy can read it.
type asked struct {
	who                  uint64 // the version of the subject, twice, and one more while its session is fresh
	action, resource, id string
	rest                 string // of the parts those that are there
}

// part is something else that a policy reads.
type part struct {
	root root
	path []string // below it
}

type root uint8

const (
	actionProperties root = iota
	resourceProperties
	resourceKnown
	aboutCall
)

// answer is what a policy said. It is never changed.
type answer struct {
	allow   bool
	reasons []Reason
	context map[string]any
	plain   bool // there are no maps in it
}

// newMemo returns a memo of at most size answers by p, nil if none may be remembered.
func newMemo(p *Policy, size int) *memo {
	if p == nil || p.Analysis().Impure() != "" {
		return nil
	}
	m := &memo{policy: p}
	for _, path := range p.programs.decision.Reads().Input {
		whole := len(path) == 1
		below := ""
		if !whole {
			below = path[1]
		}
		switch path[0] {
		case "action":
			m.action = m.action || whole || below == "name"
			if whole {
				m.parts = append(m.parts, part{actionProperties, nil})
			} else if below == "properties" {
				m.parts = append(m.parts, part{actionProperties, path[2:]})
			}
		case "resource":
			m.resource = m.resource || whole || below == "type"
			m.id = m.id || whole || below == "id"
			if whole || below == "known" {
				m.parts = append(m.parts, part{resourceKnown, nil})
			}
			if whole {
				m.parts = append(m.parts, part{resourceProperties, nil})
			} else if below == "properties" {
				m.parts = append(m.parts, part{resourceProperties, path[2:]})
			}
		case "context":
			// Not as a whole, which is impure. The time is text: there is nothing below it.
			if below != "time" {
				m.parts = append(m.parts, part{aboutCall, path[1:]})
			}
		}
		// The principal is always part of a question, and there is nothing else.
	}
	m.answers = otter.Must(&otter.Options[asked, *answer]{
		MaximumSize: size,
		Executor:    func(f func()) { f() }, // no goroutine outlives a call
	})
	return m
}

// question makes k of r, as it is at now, and reports whether the answer may be
// remembered and was perhaps.
func (m *memo) question(k *asked, r *Request, facts *Facts, now time.Time) bool {
	who := r.Who()
	t, ok := termsOf(who)
	if !ok || t.version == 0 {
		return false
	}
	// What is not JSON fails a decision, whether the policy reads it or not.
	if !plain(r.Action.Properties) || !plain(r.Resource.Properties) || !plain(r.Context) {
		return false
	}
	k.who = t.version << 1
	if who.Fresh(now) {
		k.who |= 1
	}
	if m.action {
		k.action = r.Action.Name
	}
	if m.resource {
		k.resource = r.Resource.Type
	}
	if m.id {
		k.id = r.Resource.ID
	}
	if len(k.action)+len(k.resource)+len(k.id) > maxAsked {
		return false
	}
	if len(m.parts) == 0 {
		return true
	}
	var space [maxAsked]byte
	rest := space[:0]
	for i := range m.parts {
		v, there := m.parts[i].of(r, facts)
		if !there {
			continue
		}
		// Each value says where it ends, and its part is named before it: no two
		// questions are written alike.
		rest = binary.AppendUvarint(rest, uint64(i))
		if rest, ok = appendValue(rest, v); !ok {
			return false
		}
	}
	k.rest = string(rest)
	return true
}

// of returns what a policy reads at p in r. A boolean that is only there if it is
// true, and an object that is always there, count as absent when they are false
// and empty.
func (p *part) of(r *Request, facts *Facts) (v any, there bool) {
	path := p.path
	switch p.root {
	case resourceKnown:
		return true, r.Resource.Known
	case actionProperties:
		v, there = r.Action.Properties, len(r.Action.Properties) > 0
	case resourceProperties:
		v, there = r.Resource.Properties, len(r.Resource.Properties) > 0
	case aboutCall:
		v, there = about(r, facts, path[0])
		path = path[1:]
	}
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, there = m[name]; !there {
			return nil, false
		}
	}
	return v, there
}

// about is a member of [access.Request.About], without making the others.
func about(r *Request, facts *Facts, name string) (v any, there bool) {
	if facts != nil && r.Who().Identity().Credential != CredentialAsserted {
		text, said := "", true
		switch name {
		case "ip":
			text = facts.IP
		case "userAgent":
			text = facts.UserAgent
		case "method":
			text = facts.Method
		case "path":
			text = facts.Path
		default:
			said = false
		}
		if said {
			return strings.ToValidUTF8(text, "\ufffd"), text != ""
		}
	}
	v, there = r.Context[name]
	return v, there
}

// appendValue appends a JSON value in a form that is no other value's and says
// where it ends. It fails for what is no JSON value and for what is too large.
func appendValue(b []byte, v any) (_ []byte, ok bool) {
	if len(b) > maxAsked {
		return b, false
	}
	switch v := v.(type) {
	case nil:
		return append(b, '0'), true
	case bool:
		if v {
			return append(b, 't'), true
		}
		return append(b, 'f'), true
	case string:
		return appendText(b, 's', v)
	case json.Number:
		return appendText(b, 'n', string(v))
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 'd'), math.Float64bits(v)), true
	case int:
		return binary.AppendVarint(append(b, 'i'), int64(v)), true
	case int64:
		return binary.AppendVarint(append(b, 'i'), v), true
	case []any:
		b = binary.AppendUvarint(append(b, 'l'), uint64(len(v)))
		for _, element := range v {
			if b, ok = appendValue(b, element); !ok {
				return b, false
			}
		}
		return b, true
	case map[string]any:
		if len(v) > maxAsked {
			return b, false
		}
		b = binary.AppendUvarint(append(b, 'm'), uint64(len(v)))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if b, ok = appendText(b, 's', name); !ok {
				return b, false
			}
			if b, ok = appendValue(b, v[name]); !ok {
				return b, false
			}
		}
		return b, true
	}
	return b, false
}

func appendText(b []byte, kind byte, s string) ([]byte, bool) {
	if len(b)+len(s) > maxAsked {
		return b, false
	}
	b = binary.AppendUvarint(append(b, kind), uint64(len(s)))
	return append(b, s...), true
}

func (m *memo) find(k asked) *answer {
	a, _ := m.answers.GetIfPresent(k)
	return a
}

// keep remembers d, unless it is too large.
func (m *memo) keep(k asked, d *Decision) {
	size := sizeOf(d.Context)
	for i := range d.Reasons {
		r := &d.Reasons[i]
		size += len(r.Code) + len(r.Message) + len(r.Permission) + sizeOf(r.Details)
	}
	if size > maxAnswer {
		return
	}
	// The texts may be part of something larger, the body of a request.
	k.action, k.resource, k.id = strings.Clone(k.action), strings.Clone(k.resource), strings.Clone(k.id)
	a := &answer{allow: d.Allow, reasons: d.Reasons, context: d.Context, plain: fixed(d)}
	var own Decision
	a.tell(&own)
	a.reasons, a.context = own.Reasons, own.Context
	m.answers.Set(k, a)
}

// tell has d say what a says. They share nothing that d's readers could change.
func (a *answer) tell(d *Decision) {
	d.Allow, d.Reasons, d.Context = a.allow, slices.Clone(a.reasons), a.context
	if a.plain {
		return
	}
	d.Context, _ = copied(a.context).(map[string]any)
	for i := range d.Reasons {
		d.Reasons[i].Details, _ = copied(d.Reasons[i].Details).(map[string]any)
	}
}

func (a *answer) says(d *Decision) bool {
	return a.allow == d.Allow && reflect.DeepEqual(a.reasons, d.Reasons) && reflect.DeepEqual(a.context, d.Context)
}

// copied copies a JSON value.
func copied(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return v
		}
		out := make(map[string]any, len(v))
		for name, member := range v {
			out[name] = copied(member)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, element := range v {
			out[i] = copied(element)
		}
		return out
	}
	return v
}

// sizeOf is about how many bytes a JSON value takes.
func sizeOf(v any) int {
	const each = 32
	switch v := v.(type) {
	case string:
		return each + len(v)
	case json.Number:
		return each + len(v)
	case map[string]any:
		size := 0
		for name, member := range v {
			size += each + len(name) + sizeOf(member)
		}
		return size
	case []any:
		size := each
		for _, element := range v {
			size += sizeOf(element)
		}
		return size
	}
	return each
}
