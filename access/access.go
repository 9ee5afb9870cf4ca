// Package access has the words in which access is asked for and answered.
//
// A [Request] names a [Subject], an [Action] and a [Resource]; a [Decider]
// answers with a [Decision]. The zero Decision denies. The words are the same
// for a program that decides by itself and for one that asks a service, so this
// package imports no policy engine, nor anything else but the standard library.
package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Permissions maps a resource type to the actions that are permitted on it:
// what a role gives, or what a key is granted. "*" as a type or as an action
// stands for all of them, and only where it is written.
type Permissions map[string][]string

// Allows reports whether p permits action on resources of the given type.
func (p Permissions) Allows(resourceType, action string) bool {
	return allows(p[resourceType], action) || allows(p["*"], action)
}

func allows(actions []string, action string) bool {
	return slices.Contains(actions, action) || slices.Contains(actions, "*")
}

// Document returns p as JSON values, the form in which policies read it.
func (p Permissions) Document() map[string]any {
	doc := make(map[string]any, len(p))
	for t, actions := range p {
		doc[t] = Texts(actions)
	}
	return doc
}

// Texts returns list as JSON values, the form in which policies read it.
func Texts(list []string) []any {
	doc := make([]any, len(list))
	for i, text := range list {
		doc[i] = text
	}
	return doc
}

// Action is what is to be done.
type Action struct {
	Name       string
	Properties map[string]any // JSON values
}

// Resource is what it is to be done to. ID may be empty: the action is then
// about the type as a whole ("list users").
type Resource struct {
	Type       string
	ID         string
	Properties map[string]any // JSON values
	// Known says that the store knows the resource. Only what describes it sets
	// this: in a request that is not [Request.Described] it is not looked at.
	Known bool
}

// Permission is the name under which role and key tables know action on r:
// "user:set-password".
func (r Resource) Permission(action string) string { return r.Type + ":" + action }

// Request is one question to the policy.
type Request struct {
	Subject  *Subject // nil asks about the anonymous principal
	Action   Action
	Resource Resource
	// Described says that Resource is all that is known: the engine does not ask
	// its Describe about it. A remote service is not told: it always describes. Set it for a resource that the program itself
	// has described, never for one that somebody else named.
	Described bool
	// Mapped, if it is not empty, is the permission that a table maps the
	// request to ("document:read"): a key needs to be granted it, or the
	// request's own.
	Mapped string
	// Context is what the asking application adds to the input's context.
	// The request's own facts (see [Facts]) win over members of the same name,
	// unless the subject is asserted: then the facts are about whoever asks, not
	// about the subject, and the context is what the application says, with
	// nothing but the time from here.
	Context map[string]any
}

// Reason says why a decision fell as it did.
type Reason struct {
	Code       string         `json:"code"`
	Message    string         `json:"message"`
	Permission string         `json:"permission,omitempty"` // the permission that is missing, as "type:action"
	Details    map[string]any `json:"details,omitempty"`    // whatever else the policy said
}

// Reason codes of the engine itself. Those of the built-in bundle are
// documented with it.
const (
	CodePolicyError  = "policy_error"  // the policy broke, or gave an answer that is none
	CodeDeadline     = "deadline"      // evaluation took longer than it may
	CodeUnavailable  = "unavailable"   // there is no policy in force, or no record could be kept
	CodeGrantMissing = "grant_missing" // the key at work is not granted the permission
)

// Decision is the answer. The zero Decision denies.
type Decision struct {
	ID       string // unique, also the key of its record
	Allow    bool
	Reasons  []Reason       // at least one on a denial; on an allow, what permitted it
	Context  map[string]any // what the policy hands back to the application
	Revision string         // of the policy that decided; empty if none did
	Time     time.Time      // the time the policy saw
}

// Err is d, about action on r, as an error: nil if it allows. A denial is a
// *[DeniedError]; one that no policy made, since none is in force or no record
// could be kept, is [ErrUnavailable].
func (d Decision) Err(action string, r Resource) error {
	if d.Allow {
		return nil
	}
	for _, reason := range d.Reasons {
		if reason.Code == CodeUnavailable {
			return fmt.Errorf("%w: %s: %s", ErrUnavailable, r.Permission(action), reason.Message)
		}
	}
	return &DeniedError{Action: action, Resource: r, Decision: d}
}

// Why there is no decision, or no permission. Errors of the project are to be
// compared with errors.Is.
var (
	// ErrDenied is what every *[DeniedError] is.
	ErrDenied = errors.New("denied")
	// ErrBadCredential reports a credential that proves nothing: unknown,
	// malformed, expired or revoked session, unknown key.
	ErrBadCredential = errors.New("bad credential")
	// ErrUnauthenticated reports that somebody has to be known to be calling.
	ErrUnauthenticated = errors.New("not authenticated")
	// ErrInvalid reports a question that is not as it must be; asking again is of
	// no use.
	ErrInvalid = errors.New("bad request")
	// ErrLimited reports that a key has reached a limit of its own.
	ErrLimited = errors.New("limit reached")
	// ErrUnavailable reports that there is no answer now, and may be one later.
	ErrUnavailable = errors.New("not available")
)

// DeniedError is a denial on its way up as an error.
type DeniedError struct {
	Action   string
	Resource Resource
	Decision Decision
}

func (e *DeniedError) Error() string {
	if len(e.Decision.Reasons) == 0 {
		return fmt.Sprintf("%s denied", e.Resource.Permission(e.Action))
	}
	return fmt.Sprintf("%s denied: %s", e.Resource.Permission(e.Action), e.Decision.Reasons[0].Message)
}

// Is makes errors.Is(err, ErrDenied) true.
func (e *DeniedError) Is(target error) bool { return target == ErrDenied }

// Has reports whether one of the reasons has the given code.
func (e *DeniedError) Has(code string) bool {
	return slices.ContainsFunc(e.Decision.Reasons, func(r Reason) bool { return r.Code == code })
}

// Decider answers requests. The engine of package authz is one, an embedded
// instance is one, and so is the client of a remote one.
//
// An error means that there is no decision (the caller's context ended, the
// service is away); the Decision is then a denial. A policy that fails is not
// an error: it is a denial with its own reason.
type Decider interface {
	Decide(ctx context.Context, r Request) (Decision, error)
}

// Facts are what is known of the HTTP request (or other call) a decision is
// made for. They become the input's context.
type Facts struct {
	IP, UserAgent, Method, Path string
	RequestID                   string // for records, not for policies
	// Decided, if set, is called with every decision made under these facts.
	Decided func(Decision)
}

type factsKey struct{}

// WithFacts returns a context under which decisions see f.
func WithFacts(ctx context.Context, f *Facts) context.Context {
	return context.WithValue(ctx, factsKey{}, f)
}

// FactsFrom returns the facts in ctx, or nil.
func FactsFrom(ctx context.Context) *Facts {
	f, _ := ctx.Value(factsKey{}).(*Facts)
	return f
}

// About returns the context of the input document of r under facts (which may
// be nil) at now, as JSON values. It shares the values in r.Context.
func (r Request) About(facts *Facts, now time.Time) map[string]any {
	doc := make(map[string]any, len(r.Context)+5)
	for k, v := range r.Context {
		doc[k] = v
	}
	if facts != nil && r.Who().identity.Credential != CredentialAsserted {
		// What is not known of the request is absent, not what its sender says.
		replaceText(doc, "ip", facts.IP)
		replaceText(doc, "userAgent", facts.UserAgent)
		replaceText(doc, "method", facts.Method)
		replaceText(doc, "path", facts.Path)
	}
	doc["time"] = Moment(now)
	return doc
}

func replaceText(doc map[string]any, name, value string) {
	delete(doc, name)
	// A header can hold any bytes. The record has the same text as the policy sees.
	setText(doc, name, strings.ToValidUTF8(value, "\ufffd"))
}

// Who is the subject of r: the anonymous one if it names none.
func (r Request) Who() *Subject {
	if r.Subject == nil {
		return Anonymous
	}
	return r.Subject
}

// Document returns the input document of r as a policy sees it at now under
// facts (which may be nil), as JSON values. It shares r's maps.
func (r Request) Document(facts *Facts, now time.Time) map[string]any {
	resource := map[string]any{"type": r.Resource.Type, "properties": object(r.Resource.Properties)}
	setText(resource, "id", r.Resource.ID)
	if r.Resource.Known {
		resource["known"] = true
	}
	return map[string]any{
		"principal": r.Who().Document(now),
		"action":    map[string]any{"name": r.Action.Name, "properties": object(r.Action.Properties)},
		"resource":  resource,
		"context":   r.About(facts, now),
	}
}
