package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Program returns the program itself, known by its own key ([Options.Key]): the
// caller to name where it acts in its own name. The service is asked who that is.
func (c *Client) Program(ctx context.Context) (Principal, error) {
	if c.key == nil {
		return Principal{}, invalid("the program has no key of its own: Options.Key")
	}
	return c.who(ctx, c.key)
}

// Receipt is what a write leaves behind.
type Receipt struct {
	Revision string // of the store after it, for [WithAtLeast]
}

type receiptKey struct{}

// WithReceipt returns a context under which each write notes in r what it leaves
// behind.
func WithReceipt(ctx context.Context, r *Receipt) context.Context {
	return context.WithValue(ctx, receiptKey{}, r)
}

// request is what a Client sends.
type request struct {
	method, path string
	body         []byte // JSON; nil: none
	timeout      time.Duration
	// writes says that it must not be done twice. It is sent again only if it
	// cannot have arrived.
	writes bool
}

func reads(method, path string) request  { return request{method: method, path: path} }
func writes(method, path string) request { return request{method: method, path: path, writes: true} }

// patient gives r the time that checking and testing policies takes.
func (r request) patient() request {
	r.timeout = time.Minute
	return r
}

// call sends r with in, if it is not nil, as caller, and reads the answer. What is
// remembered of decisions does not outlast a write.
func call[Out any](ctx context.Context, c *Client, caller Principal, r request, in any) (out Out, err error) {
	who, ok := caller.Subject().Prepared().(*credential)
	switch {
	case caller.Anonymous():
		return out, fmt.Errorf("%w: the call names no caller", ErrUnauthenticated)
	case !ok || who.base != c.base:
		return out, invalid("the caller is of another service")
	}
	if in != nil {
		if r.body, err = json.Marshal(in); err != nil {
			return out, invalid("%v", err)
		}
	}
	answer, header, err := c.send(ctx, who, r)
	if r.writes {
		c.Forget()
		if receipt, ok := ctx.Value(receiptKey{}).(*Receipt); ok && header.Get(revisionHeader) != "" {
			receipt.Revision = header.Get(revisionHeader)
		}
	}
	if err != nil || len(answer) == 0 {
		return out, err
	}
	return out, decode(answer, &out)
}

// unsent reports whether what failed with e cannot have arrived.
func (e *Error) unsent() bool {
	op, ok := errors.AsType[*net.OpError](e.Err)
	return ok && op.Op == "dial"
}

// done reports whether status is that of an answer.
func done(status int) bool {
	return status == http.StatusOK || status == http.StatusCreated || status == http.StatusNoContent
}

// none is an answer of which nothing matters but that it came.
type none = struct{}
