package authz

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/authz/compiled"
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
	someObject    = ast.ObjectTerm() // at a glance

	actionKeys    = []*ast.Term{nameKey, propertiesKey}
	resourceKeys  = []*ast.Term{typeKey, idKey, propertiesKey, knownKey}
	principalKeys = keys("type", "id", "credential", "roles", "user", "session", "key", "properties", "assertedBy", "known")
	userKeys      = keys("id", "name", "email", "emailVerified", "username", "banned", "createdAt", "attributes")
	sessionKeys   = keys("id", "createdAt", "expiresAt", "fresh", "impersonatedBy")
	keyKeys       = keys("id", "name", "permissions", "metadata", "createdAt", "expiresAt")
	assertedKeys  = keys("type", "id", "keyId")
)

func keys(names ...string) []*ast.Term {
	terms := make([]*ast.Term, len(names))
	for i, name := range names {
		terms[i] = ast.StringTerm(name)
	}
	return terms
}

// ErrNotJSON reports a request that no policy can be asked about.
var ErrNotJSON = errors.New("the request is not JSON")

// question is the input document of a request (CONTRACT: the input document).
// Its parts are built when they are read, but for what is made of the principal
// once. It belongs to one evaluation after the other.
type question struct {
	request          Request
	facts            *Facts
	now              time.Time
	who              Identity
	prepared         *terms
	action, resource properties
	about, document  *ast.Term

	verb, kind, id ast.Term // the names in request, made when they are read
}

// ask makes a question of r. It fails if a map of r holds what is not JSON,
// whether or not the policy would read it.
func ask(r Request, facts *Facts, now time.Time) (*question, error) {
	for _, name := range []string{r.Action.Name, r.Resource.Type, r.Resource.ID} {
		// Repaired, it would be the name of something else.
		if !utf8.ValidString(name) {
			return nil, fmt.Errorf("%w: %q is not UTF-8", ErrNotJSON, name)
		}
	}
	who := r.Who()
	prepared, ok := termsOf(who)
	if !ok { // one of a remote service, which means nothing here
		return nil, fmt.Errorf("subject %s %q was made by another service", who.Identity().Type, who.Identity().ID)
	}
	q := &question{request: r, facts: facts, now: now, who: who.Identity(), prepared: prepared}
	var err error
	if !plain(r.Action.Properties) {
		if q.action.term, err = converted(r.Action.Properties); err != nil {
			return nil, fmt.Errorf("%w: action.properties: %w", ErrNotJSON, err)
		}
	}
	if !plain(r.Resource.Properties) {
		if q.resource.term, err = converted(r.Resource.Properties); err != nil {
			return nil, fmt.Errorf("%w: resource.properties: %w", ErrNotJSON, err)
		}
	}
	if !plain(r.Context) {
		if q.about, err = converted(r.About(facts, now)); err != nil {
			return nil, fmt.Errorf("%w: context: %w", ErrNotJSON, err)
		}
	}
	return q, nil
}

// plain reports whether v can surely be converted, so that it may be done later.
func plain(v any) bool {
	switch v := v.(type) {
	case nil, bool, string, float64, int, int64:
	case json.Number:
		_, err := ast.NumberChecked(string(v))
		return err == nil
	case map[string]any:
		if len(v) == 0 {
			return true // most often; to walk it costs more than to look
		}
		for _, member := range v {
			if !plain(member) {
				return false
			}
		}
	case []any:
		for _, element := range v {
			if !plain(element) {
				return false
			}
		}
	default:
		return false
	}
	return true
}

func converted(doc map[string]any) (*ast.Term, error) {
	if len(doc) == 0 {
		return noProperties, nil
	}
	v, err := ast.InterfaceToValue(doc)
	if err != nil {
		return nil, err
	}
	return ast.NewTerm(v), nil
}

// sure converts what is plain.
func sure(doc map[string]any) *ast.Term {
	t, err := converted(doc)
	if err != nil {
		panic(err) // not plain, against what the caller knows
	}
	return t
}

// Find implements [compiled.Input].
func (q *question) Find(path []*ast.Term, glance bool) (*ast.Term, bool) {
	switch name(path[0]) {
	case "principal":
		switch len(path) {
		case 1:
			return q.principal(), true
		case 2:
			if t := q.principalMember(path[1], true); t != someObject || glance {
				return t, true
			}
			return q.principal().Get(path[1]), true
		case 3:
			return q.principalPart(path[1], path[2])
		}
	case "action":
		switch len(path) {
		case 1:
			return q.actionTerm(), true
		case 2:
			return q.actionMember(path[1]), true
		case 3:
			if path[1].Equal(propertiesKey) {
				return q.action.member(q.request.Action.Properties, path[2])
			}
		}
	case "resource":
		switch len(path) {
		case 1:
			return q.resourceTerm(), true
		case 2:
			return q.resourceMember(path[1]), true
		case 3:
			if path[1].Equal(propertiesKey) {
				return q.resource.member(q.request.Resource.Properties, path[2])
			}
		}
	case "context":
		if len(path) == 1 {
			return q.context(), true
		}
	default:
		return nil, true
	}
	return nil, false
}

// principal is the principal as a whole.
func (q *question) principal() *ast.Term {
	fresh := q.request.Who().Fresh(q.now)
	if t, ok := q.prepared.whole.get(fresh); ok {
		return t
	}
	t := members(principalKeys, func(key *ast.Term) *ast.Term { return q.principalMember(key, false) })
	if q.prepared.version != 0 { // nobody else asks about one that was asserted
		compiled.Seal(t.Value)
		q.prepared.whole.put(fresh, t)
	}
	return t
}

func (q *question) principalMember(key *ast.Term, glance bool) *ast.Term {
	who := &q.who
	switch name(key) {
	case "type":
		return word(who.Type)
	case "credential":
		return word(who.Credential)
	case "id":
		if who.ID != "" {
			return &q.prepared.id
		}
	case "roles":
		return &q.prepared.roles.term
	case "user":
		return portion(who.User != nil, glance, userKeys, q.userMember)
	case "session":
		return portion(who.Session != nil, glance, sessionKeys, q.sessionMember)
	case "key":
		return portion(who.Key != nil, glance, keyKeys, q.keyMember)
	case "assertedBy":
		return portion(who.AssertedBy != nil, glance, assertedKeys, q.assertedMember)
	case "properties":
		return q.prepared.properties
	case "known":
		if who.Known && who.Credential == CredentialAsserted {
			return yes
		}
	}
	return nil
}

// portion is a member that is an object, if it is there.
func portion(there, glance bool, keys []*ast.Term, of func(key *ast.Term) *ast.Term) *ast.Term {
	switch {
	case !there:
		return nil
	case glance:
		return someObject
	}
	return members(keys, of)
}

// principalPart is a member of a member of the principal.
func (q *question) principalPart(of, key *ast.Term) (t *ast.Term, known bool) {
	switch name(of) {
	case "user":
		return q.userMember(key), true
	case "session":
		return q.sessionMember(key), true
	case "key":
		return q.keyMember(key), true
	case "assertedBy":
		return q.assertedMember(key), true
	}
	return nil, false
}

func (q *question) userMember(key *ast.Term) *ast.Term {
	u := q.who.User
	if u == nil {
		return nil
	}
	switch name(key) {
	case "id":
		return ast.StringTerm(u.ID)
	case "name":
		return &q.prepared.userName
	case "email":
		return ast.StringTerm(u.Email)
	case "emailVerified":
		return ast.InternedTerm(u.EmailVerified)
	case "username":
		return text(u.Username)
	case "banned":
		return ast.InternedTerm(u.Banned)
	case "createdAt":
		return moment(u.CreatedAt)
	case "attributes":
		return q.prepared.attributes
	}
	return nil
}

func (q *question) sessionMember(key *ast.Term) *ast.Term {
	s := q.who.Session
	if s == nil {
		return nil
	}
	switch name(key) {
	case "id":
		return ast.StringTerm(s.ID)
	case "createdAt":
		return moment(s.CreatedAt)
	case "expiresAt":
		return moment(s.ExpiresAt)
	case "fresh":
		return ast.InternedTerm(q.request.Who().Fresh(q.now))
	case "impersonatedBy":
		return text(s.ImpersonatedBy)
	}
	return nil
}

func (q *question) keyMember(key *ast.Term) *ast.Term {
	k := q.who.Key
	if k == nil {
		return nil
	}
	switch name(key) {
	case "id":
		return ast.StringTerm(k.ID)
	case "name":
		return &q.prepared.keyName
	case "permissions":
		return &q.prepared.grants.term
	case "metadata":
		return q.prepared.metadata
	case "createdAt":
		return moment(k.CreatedAt)
	case "expiresAt":
		return moment(k.ExpiresAt)
	}
	return nil
}

func (q *question) assertedMember(key *ast.Term) *ast.Term {
	by := q.who.AssertedBy
	if by == nil {
		return nil
	}
	switch name(key) {
	case "type":
		return word(by.Type)
	case "id":
		return ast.StringTerm(by.ID)
	case "keyId":
		return text(by.KeyID)
	}
	return nil
}

// words are those that say most often what kind something is of.
var words = func() map[string]*ast.Term {
	all := map[string]*ast.Term{}
	for _, s := range []string{TypeUser, TypeServiceAccount, TypeAnonymous, CredentialNone, CredentialSession, CredentialAPIKey, CredentialAsserted} {
		all[s] = ast.StringTerm(s)
	}
	return all
}()

func word(s string) *ast.Term {
	if t := words[s]; t != nil {
		return t
	}
	return ast.StringTerm(s)
}

// text returns s if there is one.
func text(s string) *ast.Term {
	if s == "" {
		return nil
	}
	return ast.StringTerm(s)
}

// moment returns t if there is one.
func moment(t time.Time) *ast.Term {
	if t.IsZero() {
		return nil
	}
	return ast.StringTerm(access.Moment(t))
}

func (q *question) actionMember(key *ast.Term) *ast.Term {
	switch name(key) {
	case "name":
		return named(&q.verb, q.request.Action.Name)
	case "properties":
		return q.action.of(q.request.Action.Properties)
	}
	return nil
}

func (q *question) resourceMember(key *ast.Term) *ast.Term {
	switch r := q.request.Resource; name(key) {
	case "type":
		return named(&q.kind, r.Type)
	case "id":
		if r.ID != "" {
			return named(&q.id, r.ID)
		}
	case "properties":
		return q.resource.of(r.Properties)
	case "known":
		if r.Known {
			return yes
		}
	}
	return nil
}

// named returns t, which is s.
func named(t *ast.Term, s string) *ast.Term {
	if t.Value == nil {
		t.Value = ast.String(s)
	}
	return t
}

func (q *question) actionTerm() *ast.Term { return members(actionKeys, q.actionMember) }

func (q *question) resourceTerm() *ast.Term { return members(resourceKeys, q.resourceMember) }

func (q *question) context() *ast.Term {
	if q.about == nil {
		q.about = sure(q.request.About(q.facts, q.now))
	}
	return q.about
}

// members makes an object of the members that there are.
func members(keys []*ast.Term, of func(key *ast.Term) *ast.Term) *ast.Term {
	all := make([][2]*ast.Term, 0, len(keys))
	for _, key := range keys {
		if t := of(key); t != nil {
			all = append(all, [2]*ast.Term{key, t})
		}
	}
	return ast.ObjectTerm(all...)
}

// Document implements [compiled.Input].
func (q *question) Document() *ast.Term {
	if q.document == nil {
		q.document = ast.ObjectTerm(
			[2]*ast.Term{principalKey, q.principal()},
			[2]*ast.Term{actionKey, q.actionTerm()},
			[2]*ast.Term{resourceKey, q.resourceTerm()},
			[2]*ast.Term{contextKey, q.context()},
		)
	}
	return q.document
}

func name(key *ast.Term) string {
	s, _ := key.Value.(ast.String)
	return string(s)
}

// properties is a map of a request as policies read it, made once.
type properties struct{ term *ast.Term }

func (p *properties) of(m map[string]any) *ast.Term {
	if p.term == nil {
		p.term = sure(m)
	}
	return p.term
}

// member returns one member of m. It is not known if all of m is there already.
func (p *properties) member(m map[string]any, key *ast.Term) (t *ast.Term, known bool) {
	if p.term != nil {
		return nil, false
	}
	v, ok := m[name(key)]
	if !ok {
		return nil, true
	}
	value, err := ast.InterfaceToValue(v)
	if err != nil {
		panic(err) // as in sure
	}
	return ast.NewTerm(value), true
}
