package authn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/memory"
)

// Principal is who is calling, proven. The zero Principal is anonymous.
type Principal struct{ p *principal }

// principal is immutable once built: the cache hands the same one to all, and
// grants are those of other keys too.
type principal struct {
	user    *User
	session *Session
	key     *APIKey
	subject *authz.Subject
	system  string

	presented Kind // SessionToken or APIKeySecret
	// keyDigest is that of the very secret of key that was presented, or that
	// the session was obtained with. ends is when that secret stops working
	// because it was rotated away, if it was.
	keyDigest string
	ends      *time.Time
	noted     *atomic.Int64 // when the key's use was last noted, in ms

	windowEnds time.Time // of the key's rate limit, if this use was counted in one
}

// System is the program itself acting under a name, for its own purposes. It
// is not asked about; what it does is on record under that name.
func System(name string) Principal { return Principal{&principal{system: name}} }

// IsSystem reports whether p was made by System.
func (p Principal) IsSystem() bool { return p.p != nil && p.p.system != "" }

// Anonymous reports whether nobody is known to be calling.
func (p Principal) Anonymous() bool { return p.p == nil }

// User returns the user, or nil.
func (p Principal) User() *User {
	if p.p == nil {
		return nil
	}
	return p.p.user
}

// Session returns the session of a session principal, or nil.
func (p Principal) Session() *Session {
	if p.p == nil {
		return nil
	}
	return p.p.session
}

// Key returns the API key at work: presented, or the one that the session
// was obtained with; or nil. As the user and the session it is what others are
// given too, who must not find it changed.
func (p Principal) Key() *APIKey {
	if p.p == nil {
		return nil
	}
	return p.p.key
}

// WindowEnds returns when the rate limit's window ends in which this use of
// the key was counted; zero if it was counted in none.
func (p Principal) WindowEnds() time.Time {
	if p.p == nil {
		return time.Time{}
	}
	return p.p.windowEnds
}

// Subject returns p as policies see it.
func (p Principal) Subject() *authz.Subject {
	if p.p == nil || p.p.subject == nil {
		return authz.Anonymous
	}
	return p.p.subject
}

// person returns the calling user, for calls about oneself.
func (p Principal) person() (*User, error) {
	if u := p.User(); u != nil {
		return u, nil
	}
	return nil, ErrUnauthenticated
}

// is reports whether p is the user with this id.
func (p Principal) is(userID string) bool {
	u := p.User()
	return u != nil && u.ID == userID
}

// refusal says why p is no longer good at now, or nil. It compares everything
// that ends by itself, and so must be asked on the way out of the cache too.
func (p *principal) refusal(now time.Time, retention time.Duration) error {
	if p.presented == APIKeySecret {
		switch err := p.key.refusal(p.ends, now, retention); {
		case err != nil:
			return err
		case p.user == nil:
			return ErrOwnerMissing
		case p.user.BannedAt(now):
			return ErrOwnerBanned
		}
		return nil
	}
	if !p.session.ExpiresAt.After(now) {
		return ErrBadCredential
	}
	// The session ends with the key. Why the key ended is for those to hear who
	// hold the key.
	if p.key != nil && p.key.refusal(p.ends, now, retention) != nil {
		return ErrBadCredential
	}
	if p.user.BannedAt(now) {
		return ErrOwnerBanned
	}
	return nil
}

// refs are the rows that p is made of.
func (p *principal) refs() []memory.Ref {
	var refs []memory.Ref
	if p.user != nil {
		refs = append(refs, memory.Ref{Kind: "user", ID: p.user.ID})
	}
	if p.key != nil {
		refs = append(refs, memory.Ref{Kind: "key", ID: p.key.ID})
	}
	if p.session != nil {
		refs = append(refs, memory.Ref{Kind: "session", ID: p.session.ID})
		if p.session.ImpersonatedBy != nil {
			refs = append(refs, memory.Ref{Kind: "user", ID: *p.session.ImpersonatedBy})
		}
	}
	return refs
}

// ofSession builds the principal of a session row and what came with it.
func (s *Service) ofSession(ctx context.Context, sess Session, u User, key *APIKey) (*principal, error) {
	p := &principal{presented: SessionToken, user: &u, session: &sess}
	if sess.KeyID != "" {
		if err := s.bind(ctx, p, key); err != nil {
			return nil, err
		}
	}
	if sess.ImpersonatedBy != nil {
		if err := s.impersonationStands(ctx, &sess, p.key, &u); err != nil {
			return nil, err
		}
	}
	subject, err := s.subject(ctx, p.user, authz.CredentialSession, p.session, p.key)
	if err != nil {
		return nil, err
	}
	p.subject = subject
	return p, nil
}

// bind ties p's session to the key that it was obtained with: the same key,
// still its holder's, and the same secret or one that still overlaps.
func (s *Service) bind(ctx context.Context, p *principal, key *APIKey) error {
	holder := p.session.UserID
	if p.session.ImpersonatedBy != nil {
		holder = *p.session.ImpersonatedBy
	}
	if key == nil || key.ID != p.session.KeyID || key.OwnerID != holder {
		return ErrBadCredential
	}
	p.key, p.keyDigest = key, p.session.KeyDigest
	if sameText(key.Digest, p.session.KeyDigest) {
		return nil
	}
	k, _, ends, err := s.store.KeyByDigest(ctx, p.session.KeyDigest)
	switch {
	case errors.Is(err, ErrNotFound):
		return ErrBadCredential
	case err != nil:
		return fmt.Errorf("find the key of a session: %w", err)
	case k.ID != key.ID || ends == nil:
		return ErrBadCredential
	}
	p.ends = ends
	return nil
}

// ofKey builds the principal of a key row and its owner; a zero owner is none.
func (s *Service) ofKey(ctx context.Context, k APIKey, owner User, digest string, ends *time.Time) (*principal, error) {
	if k.Unreadable {
		s.o.Log.Error("the metadata of a key cannot be read, so it counts as disabled", "key", k.ID)
	}
	// It will be remembered: the same text twice is kept once.
	if digest == k.Digest {
		digest = k.Digest
	}
	if k.OwnerID == owner.ID {
		k.OwnerID = owner.ID
	}
	p := &principal{presented: APIKeySecret, key: &k, keyDigest: digest, ends: ends, noted: new(atomic.Int64)}
	if owner.ID == "" {
		return p, nil // refused as ErrOwnerMissing
	}
	p.user = &owner
	subject, err := s.subject(ctx, p.user, authz.CredentialAPIKey, nil, p.key)
	if err != nil {
		return nil, err
	}
	p.subject = subject
	return p, nil
}

// KeySubject returns who presents the key with this id, as policies see them:
// apiKey:read. For a key that would be refused now, the error is the one with
// which it would be; no use of it is counted, and its limits are not looked at.
func (s *Service) KeySubject(ctx context.Context, caller Principal, id string) (*authz.Subject, error) {
	k, err := s.Key(ctx, caller, id)
	if err != nil {
		return nil, err
	}
	owner, err := s.store.User(ctx, k.OwnerID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("find the owner of a key: %w", err)
	}
	p, err := s.ofKey(ctx, k, owner, k.Digest, nil)
	if err == nil {
		err = p.refusal(s.o.Clock(), s.o.Keys.Retention)
	}
	if err != nil {
		return nil, err
	}
	return p.subject, nil
}

// subject is what policies see of u with this session and key, whose grants
// become those that it shares with other keys.
func (s *Service) subject(ctx context.Context, u *User, credential string, sess *Session, key *APIKey) (*authz.Subject, error) {
	id := s.identity(u)
	id.Credential = credential
	if sess != nil {
		id.Session = &authz.SessionFacts{
			ID: sess.ID, CreatedAt: sess.CreatedAt, ExpiresAt: sess.ExpiresAt,
			FreshUntil: s.freshUntil(sess), ImpersonatedBy: value(sess.ImpersonatedBy),
		}
	}
	if key != nil {
		id.Key = &authz.KeyFacts{
			ID: key.ID, Name: value(key.Name), Permissions: key.Permissions,
			CreatedAt: key.CreatedAt, ExpiresAt: value(key.ExpiresAt),
		}
		// Metadata that is not JSON is shown as none, as the wire does.
		_ = json.Unmarshal(key.Metadata, &id.Key.Metadata)
	}
	if err := s.enrich(ctx, &id); err != nil {
		return nil, err
	}
	who, err := authz.NewSubject(id)
	if err == nil && key != nil {
		key.Permissions = who.Identity().Key.Permissions
	}
	return who, err
}
