package client

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/guard"
)

// Principal is who is calling, as the service knows them. The zero Principal is
// anonymous.
type Principal struct{ subject *access.Subject }

// Subject is the principal for questions about it. Its identity has the type,
// the id, the roles and the key at work; the user, the session and the key's
// grants only if [Client.Authenticate] was asked.
func (p Principal) Subject() *access.Subject {
	if p.subject == nil {
		return access.Anonymous
	}
	return p.subject
}

// Anonymous reports whether nobody is known to be calling.
func (p Principal) Anonymous() bool {
	return p.subject == nil || p.subject.Identity().Credential == access.CredentialNone
}

// PrincipalFrom returns who is calling, as [Client.Require] found it; an
// anonymous principal if it did not.
func PrincipalFrom(ctx context.Context) Principal {
	p, _ := guard.PrincipalFrom(ctx).(Principal)
	return p
}

// credential is what a request presents: in the headers to pass on, which must
// not be changed. A function has them, since fmt prints what members hold and
// point to, whatever methods they have.
type credential struct {
	base    string // of the service that it is for; no other is shown it
	headers func() http.Header
}

func (c *Client) carrying(h http.Header) *credential {
	return &credential{c.base, func() http.Header { return h }}
}

// nobody presents nothing, to whichever service.
var nobody = &credential{headers: func() http.Header { return nil }}

// named is a subject that the program names.
type named struct {
	Type       string         `json:"type"`
	ID         string         `json:"id"`
	Properties map[string]any `json:"properties,omitempty"`
}

// Named is a subject that the program knows by itself and vouches for, for
// questions with its own key ([Options.Key]), which needs access:evaluate. What
// properties say overlays what the service has stored. They must not change
// afterwards. It is never a caller. A question about it needs the id of a resource:
// it is put in AuthZEN's words, which have none about a type as a whole.
func (c *Client) Named(subjectType, id string, properties map[string]any) *access.Subject {
	return access.NewSubject(access.Identity{
		Type: subjectType, ID: id, Credential: access.CredentialAsserted, Properties: properties,
	}, &named{subjectType, id, properties})
}

// errCrossOrigin is a write with a cookie that another site may have made a
// browser send. The service cannot see that any more.
var errCrossOrigin = &Error{
	Status: http.StatusForbidden, Code: "CROSS_ORIGIN",
	Detail: "a request that carries a cookie must come from this program's own pages or a trusted origin",
}

// presented returns what r presents: headers before a cookie. Two headers that
// differ are passed on for the service to refuse.
func (c *Client) presented(r *http.Request) (*credential, error) {
	h := http.Header{}
	for _, name := range append([]string{"Authorization"}, c.keyHeaders...) {
		name = http.CanonicalHeaderKey(name)
		for _, value := range r.Header[name] {
			if value != "" {
				h[name] = append(h[name], value)
			}
		}
	}
	if len(h) == 0 {
		for _, cookie := range r.Cookies() {
			if cookie.Name == c.cookies[0] || cookie.Name == c.cookies[1] {
				h["Cookie"] = append(h["Cookie"], cookie.Name+"="+cookie.Value)
			}
		}
		if len(h) > 0 && c.origins.Check(r) != nil {
			return nil, errCrossOrigin
		}
		if n := len(h["Cookie"]); n > 1 {
			return nil, &Error{Status: http.StatusBadRequest, Code: "AMBIGUOUS_CREDENTIALS", Detail: "two session cookies were sent; send one"}
		}
	}
	// What the service believes of it is for its trusted proxies to set.
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		h["X-Forwarded-For"] = []string{host}
	}
	h["User-Agent"] = []string{r.UserAgent()}
	return c.carrying(h), nil
}

// Authenticate resolves the one credential that r presents. Without one the
// principal is anonymous and there is no error; one that is not good is
// [ErrUnauthenticated]. It counts as a use of a key with limits, and so does each
// question about the principal.
func (c *Client) Authenticate(r *http.Request) (Principal, error) {
	who, err := c.presented(r)
	if err != nil {
		return Principal{}, err
	}
	return c.who(r.Context(), who)
}

// who asks the service whose credential it is.
func (c *Client) who(ctx context.Context, who *credential) (Principal, error) {
	answer, _, err := c.send(ctx, who, reads("GET", "/v1/me"))
	if err != nil {
		return Principal{}, err
	}
	var me struct{ Principal principalDocument }
	if err := decode(answer, &me); err != nil {
		return Principal{}, err
	}
	subject, err := me.Principal.subject(who)
	return Principal{subject}, err
}

// Require returns middleware that lets a request through if its caller may do
// action on the resource that it names; see [guard.Require]. Each request is one question to
// the service.
func (c *Client) Require(action string, resource func(*http.Request) access.Resource) func(http.Handler) http.Handler {
	return guard.Require(c, action, resource)
}

var _ guard.Service = (*Client)(nil)

// Admit implements [guard.Service]. The principal in the context is a
// [Principal].
func (c *Client) Admit(r *http.Request, action access.Action, resource access.Resource) (context.Context, access.Decision, error) {
	ctx := r.Context()
	who, err := c.presented(r)
	if err != nil {
		return ctx, access.Decision{}, err
	}
	d, subject, err := c.authorize(ctx, who, &access.Request{Action: action, Resource: resource})
	if err != nil {
		return ctx, access.Decision{}, err
	}
	return guard.WithPrincipal(ctx, Principal{subject}), d, d.Err(action.Name, resource)
}

const challenge = `Bearer realm="ostiary"`

// Refuse implements [guard.Service]: with problems, as the service itself. What
// the program did wrong, or the service could not answer, is a 503 or a 500
// that says no more.
func (c *Client) Refuse(ctx context.Context, w http.ResponseWriter, err error) {
	p := struct {
		Type    string          `json:"type"`
		Title   string          `json:"title"`
		Status  int             `json:"status"`
		Detail  string          `json:"detail"`
		Code    string          `json:"code"`
		Reasons []access.Reason `json:"reasons,omitempty"`
	}{Type: "about:blank"}
	said, _ := errors.AsType[*Error](err)
	denied, isDenial := errors.AsType[*access.DeniedError](err)
	h := w.Header()
	switch {
	case isDenial && PrincipalFrom(ctx).Anonymous():
		p.Status, p.Code, p.Detail, p.Reasons = http.StatusUnauthorized, "UNAUTHENTICATED", "this call needs a credential", denied.Decision.Reasons
		h.Set("WWW-Authenticate", challenge)
	case isDenial:
		p.Status, p.Code, p.Detail, p.Reasons = http.StatusForbidden, "DENIED", denied.Error(), denied.Decision.Reasons
	case said != nil && said.Code != "" && (said.Status == http.StatusBadRequest || said.Status == http.StatusUnauthorized || said.Status == http.StatusForbidden || said.Status == http.StatusTooManyRequests):
		p.Status, p.Code, p.Detail, p.Reasons = said.Status, said.Code, said.Detail, said.Reasons
		if said.Status == http.StatusUnauthorized {
			h.Set("WWW-Authenticate", challenge)
			if said.challenge != "" {
				h.Set("WWW-Authenticate", said.challenge)
			}
		}
		if said.RetryAfter > 0 {
			h.Set("Retry-After", strconv.Itoa(int(said.RetryAfter/time.Second)))
		}
	case errors.Is(err, guard.ErrNoResource), errors.Is(err, ErrInvalid):
		p.Status, p.Code, p.Detail = http.StatusInternalServerError, "INTERNAL", "something went wrong here"
	default:
		p.Status, p.Code, p.Detail = http.StatusServiceUnavailable, "UNAVAILABLE", "the service cannot answer at the moment"
		h.Set("Retry-After", "1")
	}
	p.Title = http.StatusText(p.Status)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/problem+json")
	body, _ := json.Marshal(p)
	w.WriteHeader(p.Status)
	_, _ = w.Write(body)
}

// principalDocument is a principal in answers: of /v1/me whole, of /v1/authorize
// in short.
type principalDocument struct {
	Type       string   `json:"type"`
	ID         string   `json:"id"`
	Credential string   `json:"credential"`
	Roles      []string `json:"roles"`
	KeyID      string   `json:"keyId"`
	User       *struct {
		ID            string         `json:"id"`
		Name          string         `json:"name"`
		Email         string         `json:"email"`
		EmailVerified bool           `json:"emailVerified"`
		Username      string         `json:"username"`
		Banned        bool           `json:"banned"`
		CreatedAt     time.Time      `json:"createdAt"`
		Attributes    map[string]any `json:"attributes"`
	} `json:"user"`
	Session *struct {
		ID             string    `json:"id"`
		CreatedAt      time.Time `json:"createdAt"`
		ExpiresAt      time.Time `json:"expiresAt"`
		ImpersonatedBy string    `json:"impersonatedBy"`
	} `json:"session"`
	Key *struct {
		ID          string             `json:"id"`
		Name        string             `json:"name"`
		Permissions access.Permissions `json:"permissions"`
		Metadata    any                `json:"metadata"`
		CreatedAt   time.Time          `json:"createdAt"`
		ExpiresAt   time.Time          `json:"expiresAt"`
	} `json:"key"`
}

func (d *principalDocument) subject(who *credential) (*access.Subject, error) {
	if d.Type == "" || d.Credential == "" || d.ID == "" && d.Credential != access.CredentialNone {
		return nil, &Error{Err: errors.New("the answer names no principal")}
	}
	id := access.Identity{Type: d.Type, ID: d.ID, Credential: d.Credential, Roles: d.Roles}
	if u := d.User; u != nil {
		id.User = &access.UserFacts{
			ID: u.ID, Name: u.Name, Email: u.Email, EmailVerified: u.EmailVerified, Username: u.Username,
			Banned: u.Banned, CreatedAt: u.CreatedAt, Attributes: u.Attributes,
		}
	}
	if s := d.Session; s != nil {
		id.Session = &access.SessionFacts{ID: s.ID, CreatedAt: s.CreatedAt, ExpiresAt: s.ExpiresAt, ImpersonatedBy: s.ImpersonatedBy}
	}
	switch k := d.Key; {
	case k != nil:
		id.Key = &access.KeyFacts{ID: k.ID, Name: k.Name, Permissions: k.Permissions, Metadata: k.Metadata, CreatedAt: k.CreatedAt, ExpiresAt: k.ExpiresAt}
	case d.KeyID != "":
		id.Key = &access.KeyFacts{ID: d.KeyID}
	}
	return access.NewSubject(id, who), nil
}
