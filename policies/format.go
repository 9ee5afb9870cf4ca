package policies

import (
	"errors"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
)

// Format returns Rego as OPA's formatter writes it. The error lists every
// mistake, with the place in the file of that name.
func Format(name string, text []byte) ([]byte, error) {
	out, err := format.SourceWithOpts(name, text, format.Opts{RegoVersion: ast.RegoV1})
	if list, ok := errors.AsType[ast.Errors](err); ok {
		var mistakes []error
		for _, e := range list {
			mistakes = append(mistakes, at(e.Location, "%s", e.Message))
		}
		return nil, errors.Join(mistakes...)
	}
	return out, err
}
