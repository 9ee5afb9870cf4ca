package authz

import (
	"fmt"
	"time"

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

// input builds the input document (CONTRACT: the input document). Only the
// request's own parts are built; the principal is shared.
func input(r Request, facts *Facts, now time.Time) (*ast.Term, error) {
	action, err := properties(r.Action.Properties)
	if err != nil {
		return nil, fmt.Errorf("action.properties: %w", err)
	}
	resource, err := properties(r.Resource.Properties)
	if err != nil {
		return nil, fmt.Errorf("resource.properties: %w", err)
	}
	about, err := contextTerm(r.About(facts, now))
	if err != nil {
		return nil, fmt.Errorf("context: %w", err)
	}
	who, err := principal(r.Who(), now)
	if err != nil {
		return nil, err
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
		[2]*ast.Term{principalKey, who},
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
