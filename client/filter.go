package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ostiary/ostiary/access"
)

// Filter says on which rows of the program's own table an action would be
// permitted to a caller.
type Filter struct {
	// Matches is "all", "none" or "some": the rows for which the condition holds.
	Matches string `json:"matches"`
	// SQL is the condition, for a WHERE clause; Args are its arguments in order:
	// text, bool, int64 or float64.
	SQL  string `json:"sql"`
	Args []any  `json:"args"`
	// UCAST is the condition in that form, if it was the target.
	UCAST    map[string]any `json:"ucast"`
	Revision string         `json:"policyRevision"` // of the policy
}

// Targets of a filter.
const (
	PostgreSQL = "sql+postgresql" // arguments $1, $2, …
	SQLite     = "sql+sqlite"     // arguments ?
	MySQL      = "sql+mysql"      // arguments ?
	UCAST      = "ucast"
)

// Column is where the program keeps what policies know by another name. One that
// is NULL is a property that is absent.
type Column struct {
	Name string `json:"column,omitempty"` // "d.owner_id"; empty: as policies call it
	Type string `json:"type"`             // "text", "number" or "boolean"
}

// Filter turns r, about all resources of a type, into a condition on the rows for
// which [Client.Decide] would allow it. target is one of the constants of this
// package; columns are by what policies call them: "id", "properties.owner". What
// r's resource has as properties is so of every row.
//
// r's subject is one of [Client.Authenticate], [Client.Program] or the anonymous one. A policy that
// cannot be said as a condition is [ErrInvalid], and an *[Error] with the Code
// "NOT_A_FILTER": ask about the things one by one.
func (c *Client) Filter(ctx context.Context, r access.Request, target string, columns map[string]Column) (Filter, error) {
	who, err := c.asked(&r)
	switch {
	case err != nil:
		return Filter{}, err
	case r.Resource.ID != "":
		return Filter{}, invalid("a filter is about all resources of a type, not about one")
	}
	if columns == nil {
		columns = map[string]Column{}
	}
	doc := documentOf(&r)
	body, err := json.Marshal(struct {
		checkDocument
		Target string            `json:"target"`
		Fields map[string]Column `json:"fields"`
	}{doc, target, columns})
	if err != nil {
		return Filter{}, invalid("%v", err)
	}
	answer, _, err := c.send(ctx, who, request{method: "POST", path: "/v1/filter", body: body})
	if err != nil {
		return Filter{}, err
	}
	var f Filter
	if err := decode(answer, &f); err != nil {
		return Filter{}, err
	}
	if f.Matches == "" || f.SQL == "" && f.UCAST == nil {
		// Less than a condition must not be taken for none.
		return Filter{}, &Error{Err: errors.New("the answer is no condition")}
	}
	for i, v := range f.Args {
		if f.Args[i], err = argument(v); err != nil {
			return Filter{}, err
		}
	}
	return f, nil
}

// argument is a JSON scalar as databases take it.
func argument(v any) (any, error) {
	n, ok := v.(json.Number)
	if !ok {
		return v, nil
	}
	if i, err := n.Int64(); err == nil {
		return i, nil
	}
	f, err := n.Float64()
	if err != nil {
		return nil, &Error{Err: fmt.Errorf("the answer is not as it must be: %w", err)}
	}
	return f, nil
}
