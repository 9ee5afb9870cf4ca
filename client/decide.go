package client

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/ostiary/ostiary/access"
)

// most is how many checks a service takes at once.
const most = 100

type checkDocument struct {
	Action   actionDocument   `json:"action"`
	Resource resourceDocument `json:"resource"`
	Context  map[string]any   `json:"context,omitempty"`
	Subject  *named           `json:"subject,omitempty"`
}

type actionDocument struct {
	Name       string         `json:"name"`
	Properties map[string]any `json:"properties,omitempty"`
}

type resourceDocument struct {
	Type       string         `json:"type"`
	ID         string         `json:"id,omitempty"`
	Properties map[string]any `json:"properties,omitempty"`
}

func documentOf(r *access.Request) checkDocument {
	return checkDocument{
		Action:   actionDocument(r.Action),
		Resource: resourceDocument{r.Resource.Type, r.Resource.ID, r.Resource.Properties},
		Context:  r.Context,
	}
}

// decisionDocument is an answer of /v1/authorize.
type decisionDocument struct {
	Allow          *bool             `json:"allow"`
	DecisionID     string            `json:"decisionId"`
	PolicyRevision string            `json:"policyRevision"`
	Principal      principalDocument `json:"principal"`
	Reasons        []access.Reason   `json:"reasons"`
	Context        map[string]any    `json:"context"`
}

func (d *decisionDocument) decision(at time.Time) (access.Decision, error) {
	if d.Allow == nil || d.DecisionID == "" || !*d.Allow && len(d.Reasons) == 0 {
		return access.Decision{}, &Error{Err: fmt.Errorf("the answer is no decision")}
	}
	return access.Decision{ID: d.DecisionID, Allow: *d.Allow, Reasons: d.Reasons, Context: d.Context, Revision: d.PolicyRevision, Time: at}, nil
}

// Decide implements [access.Decider]. Its subject is one of [Client.Authenticate],
// [Client.Program], [Client.Named] or the anonymous one; another service's is [ErrInvalid].
// The decision's Time is when it was asked for, by the clock here. Described and
// Mapped are not told: the service describes resources itself.
func (c *Client) Decide(ctx context.Context, r access.Request) (access.Decision, error) {
	if who, ok := r.Who().Prepared().(*named); ok {
		return c.evaluate(ctx, who, &r)
	}
	who, err := c.asked(&r)
	if err != nil {
		return access.Decision{}, err
	}
	d, _, err := c.authorize(ctx, who, &r)
	return d, err
}

// asked returns the credential to ask r with: that of its subject, which must be of
// this service, or nobody would know where it goes.
func (c *Client) asked(r *access.Request) (*credential, error) {
	who, ok := r.Who().Prepared().(*credential)
	switch {
	case r.Who() == access.Anonymous:
		return nobody, nil
	case !ok || who != nobody && who.base != c.base:
		return nil, invalid("the subject is of another service, or none that calls")
	}
	return who, nil
}

// DecideAll decides each request, in order. Those about one subject that follow each other
// are asked together, at most 100 at once, and then by one policy.
func (c *Client) DecideAll(ctx context.Context, rs []access.Request) ([]access.Decision, error) {
	ds := make([]access.Decision, 0, len(rs))
	for len(rs) > 0 {
		n := 1
		for n < min(len(rs), most) && rs[n].Who() == rs[0].Who() {
			n++
		}
		who, err := c.asked(&rs[0])
		if n == 1 || err != nil { // of one that is named each is asked about by itself
			d, err := c.Decide(ctx, rs[0])
			if err != nil {
				return nil, err
			}
			ds, rs = append(ds, d), rs[1:]
			continue
		}
		some, err := c.authorizeAll(ctx, who, rs[:n])
		if err != nil {
			return nil, err
		}
		ds, rs = append(ds, some...), rs[n:]
	}
	return ds, nil
}

// authorize asks about who has the credential.
func (c *Client) authorize(ctx context.Context, who *credential, r *access.Request) (access.Decision, *access.Subject, error) {
	body, err := json.Marshal(documentOf(r))
	if err != nil {
		return access.Decision{}, nil, invalid("%v", err)
	}
	at := time.Now()
	var asked question
	var generation uint64
	_, atLeast := ctx.Value(atLeastKey{}).(string)
	remember := c.remembered != nil && !atLeast
	if remember {
		asked = digest(who, body)
		if a, ok := c.remembered.Get(asked, at); ok && at.Before(a.until) {
			return a.decision, a.subject, nil
		}
		generation = c.remembered.Generation()
	}
	answer, header, err := c.send(ctx, who, request{method: "POST", path: "/v1/authorize", body: body})
	if err != nil {
		return access.Decision{}, nil, err
	}
	var doc decisionDocument
	if err := decode(answer, &doc); err != nil {
		return access.Decision{}, nil, err
	}
	d, err := doc.decision(at)
	if err != nil {
		return d, nil, err
	}
	subject, err := doc.Principal.subject(who)
	if err != nil {
		return access.Decision{}, nil, err
	}
	// From before it was asked: the service vouches from when it answered.
	if lease := min(leased(header), c.life); remember && lease > 0 {
		c.remembered.Put(generation, asked, answered{d, subject, at.Add(lease)}, at)
	}
	return d, subject, nil
}

func (c *Client) authorizeAll(ctx context.Context, who *credential, rs []access.Request) ([]access.Decision, error) {
	in := struct {
		Checks []checkDocument `json:"checks"`
	}{make([]checkDocument, len(rs))}
	for i := range rs {
		in.Checks[i] = documentOf(&rs[i])
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, invalid("%v", err)
	}
	at := time.Now()
	answer, _, err := c.send(ctx, who, request{method: "POST", path: "/v1/authorize", body: body})
	if err != nil {
		return nil, err
	}
	var out struct {
		Results []decisionDocument `json:"results"`
	}
	if err := decode(answer, &out); err != nil {
		return nil, err
	}
	if len(out.Results) != len(rs) {
		return nil, &Error{Err: fmt.Errorf("%d answers to %d questions", len(out.Results), len(rs))}
	}
	ds := make([]access.Decision, len(rs))
	for i := range out.Results {
		if ds[i], err = out.Results[i].decision(at); err != nil {
			return nil, err
		}
	}
	return ds, nil
}

// evaluate asks about a subject that the program names, with its own key, by
// AuthZEN's API.
func (c *Client) evaluate(ctx context.Context, who *named, r *access.Request) (access.Decision, error) {
	if c.key == nil {
		return access.Decision{}, invalid("a subject that the program names needs Options.Key")
	}
	doc := documentOf(r)
	doc.Subject = who
	body, err := json.Marshal(doc)
	if err != nil {
		return access.Decision{}, invalid("%v", err)
	}
	at := time.Now()
	answer, header, err := c.send(ctx, c.key, request{method: "POST", path: "/access/v1/evaluation", body: body})
	if err != nil {
		return access.Decision{}, err
	}
	var out struct {
		Decision       *bool           `json:"decision"`
		Context        map[string]any  `json:"context"`
		Reasons        []access.Reason `json:"reasons"`
		PolicyRevision string          `json:"policyRevision"`
	}
	if err := decode(answer, &out); err != nil {
		return access.Decision{}, err
	}
	if out.Decision == nil {
		return access.Decision{}, &Error{Err: fmt.Errorf("the answer is no decision")}
	}
	d := access.Decision{ID: header.Get(decisionHeader), Allow: *out.Decision, Reasons: out.Reasons, Context: out.Context, Revision: out.PolicyRevision, Time: at}
	if !d.Allow && len(d.Reasons) == 0 {
		// Nothing is called by an empty name, and nobody decides about it.
		d.Reasons = []access.Reason{{Code: "denied", Message: "the service gives no reasons"}}
	}
	return d, nil
}

// digest tells questions apart: each part with its length, so that none reads as
// two.
func digest(who *credential, body []byte) (q question) {
	h, headers := sha256.New(), who.headers()
	part := func(text string) {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(text)))
		h.Write(n[:])
		io.WriteString(h, text)
	}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		part(name)
		part(fmt.Sprint(len(headers[name])))
		for _, value := range headers[name] {
			part(value)
		}
	}
	part("")
	part(string(body))
	h.Sum(q[:0])
	return q
}
