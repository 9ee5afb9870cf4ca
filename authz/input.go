package authz

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Names of the input document, made once: a term that is shared costs no
// allocation.
var (
	principalKey  = ast.StringTerm("principal")
	actionKey     = ast.StringTerm("action")
	resourceKey   = ast.StringTerm("resource")
	contextKey    = ast.StringTerm("context")
	nameKey       = ast.StringTerm("name")
	typeKey       = ast.StringTerm("type")
	idKey         = ast.StringTerm("id")
	propertiesKey = ast.StringTerm("properties")
	knownKey      = ast.StringTerm("known")
	yes           = ast.BooleanTerm(true)
	noProperties  = ast.ObjectTerm()
)

// ErrNotJSON reports a request that no policy can be asked about.
var ErrNotJSON = errors.New("the request is not JSON")

// input builds the input document (CONTRACT: the input document). Only the
// request's own parts are built; the principal is shared.
func input(r Request, facts *Facts, now time.Time) (*ast.Term, error) {
	for _, name := range []string{r.Action.Name, r.Resource.Type, r.Resource.ID} {
		// Repaired, it would be the name of something else.
		if !utf8.ValidString(name) {
			return nil, fmt.Errorf("%w: %q is not UTF-8", ErrNotJSON, name)
		}
	}
	action, err := properties(r.Action.Properties)
	if err != nil {
		return nil, fmt.Errorf("%w: action.properties: %w", ErrNotJSON, err)
	}
	resource, err := properties(r.Resource.Properties)
	if err != nil {
		return nil, fmt.Errorf("%w: resource.properties: %w", ErrNotJSON, err)
	}
	about, err := contextTerm(r.context(facts, now))
	if err != nil {
		return nil, fmt.Errorf("%w: context: %w", ErrNotJSON, err)
	}
	target := make([][2]*ast.Term, 0, 4)
	target = append(target, [2]*ast.Term{typeKey, ast.StringTerm(r.Resource.Type)})
	if r.Resource.ID != "" {
		target = append(target, [2]*ast.Term{idKey, ast.StringTerm(r.Resource.ID)})
	}
	target = append(target, [2]*ast.Term{propertiesKey, resource})
	if r.Resource.Known {
		target = append(target, [2]*ast.Term{knownKey, yes})
	}
	return ast.ObjectTerm(
		[2]*ast.Term{principalKey, r.subject().term(now)},
		[2]*ast.Term{actionKey, ast.ObjectTerm(
			[2]*ast.Term{nameKey, ast.StringTerm(r.Action.Name)},
			[2]*ast.Term{propertiesKey, action},
		)},
		[2]*ast.Term{resourceKey, ast.ObjectTerm(target...)},
		[2]*ast.Term{contextKey, about},
	), nil
}

func properties(m map[string]any) (*ast.Term, error) {
	if len(m) == 0 {
		return noProperties, nil
	}
	v, err := ast.InterfaceToValue(m)
	if err != nil {
		return nil, err
	}
	return ast.NewTerm(v), nil
}

func contextTerm(doc map[string]any) (*ast.Term, error) {
	v, err := ast.InterfaceToValue(doc)
	if err != nil {
		return nil, err
	}
	return ast.NewTerm(v), nil
}

func (r Request) context(facts *Facts, now time.Time) map[string]any {
	doc := make(map[string]any, len(r.Context)+5)
	for k, v := range r.Context {
		doc[k] = v
	}
	if facts != nil && r.subject().identity.Credential != CredentialAsserted {
		// What is not known of the request is absent, not what its sender says.
		replaceText(doc, "ip", facts.IP)
		replaceText(doc, "userAgent", facts.UserAgent)
		replaceText(doc, "method", facts.Method)
		replaceText(doc, "path", facts.Path)
	}
	doc["time"] = now.UTC().Format(timeFormat)
	return doc
}

func replaceText(doc map[string]any, name, value string) {
	delete(doc, name)
	// A header can hold any bytes. The record has the same text as the policy sees.
	setText(doc, name, strings.ToValidUTF8(value, "\ufffd"))
}

func (r Request) subject() *Subject {
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
		"principal": r.subject().Document(now),
		"action":    map[string]any{"name": r.Action.Name, "properties": object(r.Action.Properties)},
		"resource":  resource,
		"context":   r.context(facts, now),
	}
}
