package authz

import (
	"context"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Filter says for which things of a type a request would be allowed: a
// condition made from the policy by partial evaluation, with the thing unknown.
type Filter struct {
	// Sure holds only of things for which it would be allowed.
	Sure Condition
	// Maybe holds at least of those. Of a thing for which Maybe holds and Sure
	// does not, only a decision can tell.
	Maybe Condition
	// Unsaid are the expressions that could not be said, as text; at most ten.
	Unsaid   []string
	Revision string // of the policy
	Time     time.Time
}

// Exact reports whether the condition alone tells: Sure and Maybe are the same.
func (f Filter) Exact() bool { return f.Sure.key() == f.Maybe.key() }

// Unknown is the part of a request that a filter is about.
type Unknown int

const (
	UnknownResource Unknown = iota // the resource's id and properties
	UnknownSubject                 // an asserted subject's id and properties
)

// FieldKind is what is known beforehand of the values of a field.
type FieldKind int

const (
	Untold  FieldKind = iota // cannot be searched by
	AnyJSON                  // any JSON value, or absent
	Text                     // text, or absent
	Number                   // a number, or absent
	Boolean                  // true or false, or absent
	// AlwaysText is text that is never absent.
	AlwaysText
	// TextOrNull is text or null, and never absent. A condition that it is
	// Defined holds of text.
	TextOrNull
)

// maxConditions bounds how large a filter may become.
const maxConditions = 2000

// Filter turns r, with what u names left unknown, into a condition on the things
// asked about. Properties of the unknown part that r has are taken as those of
// every candidate. kind tells what fields there are; a part of the policy that
// reads others, or that cannot be said as a condition, makes the filter inexact.
func (e *Engine) Filter(ctx context.Context, r Request, u Unknown, kind func(Field) FieldKind) (Filter, error) {
	return e.Judge().Filter(ctx, r, u, kind)
}

// Filter is [Engine.Filter], under the judge's policy.
func (j Judge) Filter(ctx context.Context, r Request, u Unknown, kind func(Field) FieldKind) (Filter, error) {
	e, p := j.engine, j.policy
	if p == nil {
		return Filter{}, ErrNoPolicy
	}
	f := Filter{Revision: p.revision, Time: e.clock()}
	if !granted(r) {
		return f, nil
	}
	in, err := ask(r, FactsFrom(ctx), f.Time)
	if err != nil {
		return Filter{}, err
	}
	if p.reflexive {
		f.Maybe = always
		f.Unsaid = []string{"a comparison of something with itself"}
		return f, nil
	}
	t := translator{lossy: p.lossy, kind: kind, rules: map[string][]*ast.Rule{}, done: map[string]trilean{}}
	prefix := resourceKey
	given := r.Resource.Properties
	if u == UnknownSubject {
		prefix, given = principalKey, r.Who().Identity().Properties
	}
	t.prefix = ast.Ref{ast.InputRootDocument, prefix}
	if t.given, err = converted(given); err != nil {
		return Filter{}, err
	}
	queries, support, err := p.topdown.partial(ctx, passesRule, in.Document(), f.Time, time.Now().Add(e.deadline),
		[]*ast.Term{ast.NewTerm(t.prefix.Append(idKey)), ast.NewTerm(t.prefix.Append(propertiesKey))})
	switch {
	case ctx.Err() != nil:
		return Filter{}, ctx.Err()
	case err != nil:
		// No such rule, or a part that breaks whatever the thing is: decisions will say so.
		f.Maybe = always
		return f, nil
	}
	t.learn(support)
	result := t.bodies(queries)
	f.Unsaid = t.parts
	f.Sure, f.Maybe = all(result.sure, all(t.clean...)), result.maybe
	switch {
	case t.size > maxConditions:
		f.Sure, f.Maybe = never, always
	case t.lost > 0 || p.disputable || p.topdown.tellsMore(r.Resource.Type):
		f.Sure = never
	}
	return f, nil
}

func (f Filter) String() string {
	if f.Exact() {
		return f.Sure.String()
	}
	return fmt.Sprintf("sure: %s; maybe: %s", f.Sure, f.Maybe)
}
