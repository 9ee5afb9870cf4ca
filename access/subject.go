package access

import "time"

// How a subject is known: the values of Identity.Credential.
const (
	CredentialNone     = "none"
	CredentialSession  = "session"
	CredentialAPIKey   = "api_key"
	CredentialAsserted = "asserted"
)

// Types of subjects that Ostiary itself knows. Applications assert others.
const (
	TypeUser           = "user"
	TypeServiceAccount = "service_account"
	TypeAnonymous      = "anonymous"
)

// Anonymous is the subject of requests without a credential. Whoever answers
// requests knows it.
var Anonymous = NewSubject(Identity{Type: TypeAnonymous, Credential: CredentialNone}, nil)

// Identity describes a subject: the principal of the input document, as
// plain data. Empty members are left out of the document where the input
// schema says so.
type Identity struct {
	Type       string
	ID         string
	Credential string
	Roles      []string
	User       *UserFacts
	Session    *SessionFacts
	Key        *KeyFacts
	Properties map[string]any // asserted subjects only
	AssertedBy *Asserter      // asserted subjects only
	// Known says of an asserted subject that the store knows it.
	Known bool
}

// UserFacts is what policies see of a user.
type UserFacts struct {
	ID, Name, Email string
	EmailVerified   bool
	Username        string
	Banned          bool
	CreatedAt       time.Time
	Attributes      map[string]any
}

// SessionFacts is what policies see of a session.
type SessionFacts struct {
	ID                   string
	CreatedAt, ExpiresAt time.Time
	// FreshUntil is when the session stops standing for a recent sign-in;
	// input.principal.session.fresh is found from it when a decision is made.
	// Zero: never fresh.
	FreshUntil     time.Time
	ImpersonatedBy string
}

// KeyFacts is what policies see of an API key: the one at work, or the one
// that a session was obtained with.
type KeyFacts struct {
	ID, Name    string
	Permissions Permissions
	Metadata    any
	CreatedAt   time.Time
	ExpiresAt   time.Time // zero: never
}

// Asserter says who vouches for an asserted subject.
type Asserter struct{ Type, ID, KeyID string }

// Subject is somebody a [Request] asks about. It never changes and is shared by
// all decisions about it.
type Subject struct {
	identity Identity
	prepared any
}

// NewSubject is for those who answer requests. prepared is what they need of a
// subject beside its identity, and recognise: a form that is built once, or the
// credential to ask with. The maps and slices in id must not change afterwards.
func NewSubject(id Identity, prepared any) *Subject {
	return &Subject{identity: id, prepared: prepared}
}

// Prepared returns what NewSubject was given.
func (s *Subject) Prepared() any { return s.prepared }

// Identity returns what the subject was made of. The caller must not change it.
func (s *Subject) Identity() Identity { return s.identity }

// Document returns the principal of the input document as it reads at now, as
// JSON values. The caller must not change it.
func (s *Subject) Document(now time.Time) map[string]any {
	return s.identity.Document(s.Fresh(now))
}

// Fresh reports whether the subject has a session that stands for a recent
// sign-in at now.
func (s *Subject) Fresh(now time.Time) bool {
	sess := s.identity.Session
	return sess != nil && !sess.FreshUntil.IsZero() && now.Before(sess.FreshUntil)
}

// Document returns the principal of the input document, with a session that is
// fresh or is not, as JSON values. The caller must not change it.
func (id *Identity) Document(fresh bool) map[string]any {
	doc := map[string]any{
		"type":       id.Type,
		"credential": id.Credential,
		"roles":      Texts(id.Roles),
	}
	setText(doc, "id", id.ID)
	if u := id.User; u != nil {
		user := map[string]any{
			"id":            u.ID,
			"name":          u.Name,
			"email":         u.Email,
			"emailVerified": u.EmailVerified,
			"banned":        u.Banned,
			"attributes":    object(u.Attributes),
		}
		setText(user, "username", u.Username)
		setTime(user, "createdAt", u.CreatedAt)
		doc["user"] = user
	}
	if s := id.Session; s != nil {
		session := map[string]any{"id": s.ID, "fresh": fresh}
		setTime(session, "createdAt", s.CreatedAt)
		setTime(session, "expiresAt", s.ExpiresAt)
		setText(session, "impersonatedBy", s.ImpersonatedBy)
		doc["session"] = session
	}
	if k := id.Key; k != nil {
		key := map[string]any{"id": k.ID, "name": k.Name, "permissions": k.Permissions.Document(), "metadata": k.Metadata}
		setTime(key, "createdAt", k.CreatedAt)
		setTime(key, "expiresAt", k.ExpiresAt)
		doc["key"] = key
	}
	if id.Credential == CredentialAsserted {
		doc["properties"] = object(id.Properties)
		if id.Known {
			doc["known"] = true
		}
	}
	if by := id.AssertedBy; by != nil {
		asserter := map[string]any{"type": by.Type, "id": by.ID}
		setText(asserter, "keyId", by.KeyID)
		doc["assertedBy"] = asserter
	}
	return doc
}

func setText(doc map[string]any, name, value string) {
	if value != "" {
		doc[name] = value
	}
}

func setTime(doc map[string]any, name string, t time.Time) {
	if !t.IsZero() {
		doc[name] = Moment(t)
	}
}

// Moment returns t as text, the form in which policies read it: RFC 3339 in UTC
// with milliseconds.
func Moment(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

func object(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}
