package policies

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// Limits of [Library.Eval].
const (
	MaxQuery = 10_000 // bytes of a query
	EvalTime = time.Second
)

// ErrEvalTime reports a query that took longer than [EvalTime].
var ErrEvalTime = fmt.Errorf("the query takes longer than %s", EvalTime)

// Evaluated is what a query came to.
type Evaluated struct {
	Result         []authz.Solution `json:"result"`
	PolicyRevision string           `json:"policyRevision"` // of the bundle that answered
}

// Eval answers a query in Rego, with an input document of the caller's own, nil for
// none, over everything under data of the bundle in force, or of files unless they
// are nil, which are checked as for publishing. It sees rules, tables and data as
// they are: policy:test and policy:read. A query that fails is an
// *[authz.RegoError] or [ErrEvalTime], files that cannot be in force are a
// *[RefusedError].
func (l *Library) Eval(ctx context.Context, caller authn.Principal, query string, input map[string]any, files map[string]string) (Evaluated, error) {
	for _, action := range []string{"test", "read"} {
		if _, err := authn.Permit(ctx, l.options.Engine, caller, action, authz.Resource{Type: "policy"}); err != nil {
			return Evaluated{}, err
		}
	}
	if query == "" || len(query) > MaxQuery {
		return Evaluated{}, &authn.InvalidError{Field: "query", Reason: fmt.Sprintf("must have 1 to %d bytes", MaxQuery)}
	}
	policy := l.current.Load().policy
	if files != nil {
		c, err := l.uploaded(ctx, files, true, false)
		if err != nil {
			return Evaluated{}, err
		}
		policy = c.policy
	}
	if policy == nil {
		return Evaluated{}, fmt.Errorf("%w: %w", authn.ErrUnavailable, authz.ErrNoPolicy)
	}
	done, err := l.alone(ctx)
	if err != nil {
		return Evaluated{}, err
	}
	defer done()
	limited, cancel := context.WithTimeout(ctx, EvalTime)
	defer cancel()
	solutions, err := policy.Query(limited, query, input, authz.TimeOf(input))
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = ErrEvalTime
	}
	if err != nil {
		return Evaluated{}, err
	}
	return Evaluated{append([]authz.Solution{}, solutions...), policy.Revision()}, nil
}
