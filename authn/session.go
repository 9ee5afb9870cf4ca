package authn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ostiary/ostiary/authz"
)

// Session is a signed-in browser or device.
type Session struct {
	ID             string
	Token          Secret
	UserID         string
	CreatedAt      time.Time
	UpdatedAt      time.Time
	ExpiresAt      time.Time
	IPAddress      *string
	UserAgent      *string
	ImpersonatedBy *string // the administrator's user id
	// KeyID and KeyDigest name the API key, and the very secret of it, that
	// the session was obtained with. Empty otherwise.
	KeyID, KeyDigest string
	// Fixed sessions do not slide: they end at ExpiresAt however much they
	// are used (don't-remember, impersonation, from a key).
	Fixed bool
	// NotFresh sessions never stand for a recent sign-in.
	NotFresh bool
}

// Device is where a session lives.
type Device struct{ IPAddress, UserAgent string }

// newSession returns a session of userID that is not stored yet.
func (s *Service) newSession(ctx context.Context, userID string, d Device, life time.Duration) (Session, error) {
	id, err := s.store.NewID(ctx, "session")
	if err != nil {
		return Session{}, fmt.Errorf("new session: %w", err)
	}
	now := s.now()
	return Session{
		ID: id, Token: Secret(newID()), UserID: userID,
		CreatedAt: now, UpdatedAt: now, ExpiresAt: now.Add(life),
		IPAddress: &d.IPAddress, UserAgent: &d.UserAgent,
	}, nil
}

// tie makes sess no stronger than p, who obtains it: it carries the grants of
// the key at work, ends with it, and never stands for a sign-in.
func (p Principal) tie(sess *Session) {
	k := p.Key()
	if k == nil {
		return
	}
	sess.KeyID, sess.KeyDigest = k.ID, p.p.keyDigest
	sess.Fixed, sess.NotFresh = true, true
	sess.ExpiresAt = earliest(sess.ExpiresAt, k.ExpiresAt, p.p.ends)
}

// sessionResource is a session as decisions see it; id and owner may be unknown.
func sessionResource(id, owner string) authz.Resource {
	r := authz.Resource{Type: "session", ID: id}
	if owner != "" {
		r.Properties, r.Known = map[string]any{"owner": owner}, id != ""
	}
	return r
}

// Sessions lists the sessions of userID (the caller's own if empty), oldest
// first, expired ones and those of impersonators included. session:list.
//
// Tokens are in the list only for a person at an interactive session of their
// own, who is either the user or may impersonate the user, and so gains nothing by
// them. For everybody else, for every key and for every session obtained with
// one, they are left empty.
func (s *Service) Sessions(ctx context.Context, caller Principal, userID string) ([]Session, error) {
	if userID == "" {
		u, err := caller.person()
		if err != nil {
			return nil, err
		}
		userID = u.ID
	}
	if _, err := s.permit(ctx, caller, "list", sessionResource("", userID)); err != nil {
		return nil, err
	}
	sessions, err := s.store.Sessions(ctx, userID)
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	shown, err := s.showsTokens(ctx, caller, userID)
	if err != nil {
		return nil, err
	}
	if !shown {
		for i := range sessions {
			sessions[i].Token = ""
		}
	}
	return sessions, nil
}

// Fresh reports whether p's session stands for a recent sign-in.
func (s *Service) Fresh(p Principal) bool {
	sess := p.Session()
	return sess != nil && s.now().Before(s.freshUntil(sess))
}

// freshUntil is when sess stops standing for a recent sign-in; zero is never
// fresh. Sliding does not renew it.
func (s *Service) freshUntil(sess *Session) time.Time {
	switch {
	case sess.NotFresh || sess.KeyID != "":
		return time.Time{}
	case *s.o.FreshAge == 0:
		return time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return sess.CreatedAt.Add(*s.o.FreshAge)
}

// showsTokens reports whether caller may see session tokens of userID.
func (s *Service) showsTokens(ctx context.Context, caller Principal, userID string) (bool, error) {
	sess := caller.Session()
	switch {
	case sess == nil || sess.ImpersonatedBy != nil || caller.Key() != nil:
		return false, nil
	case caller.is(userID):
		return true, nil
	}
	u, r, err := s.target(ctx, userID, "impersonate")
	if err != nil || u == nil {
		return false, err
	}
	err = s.permitImpersonation(ctx, caller.Subject(), u, r)
	if errors.Is(err, authz.ErrDenied) {
		return false, nil
	}
	return err == nil, err
}

// RevokeSession ends the session with this token, if it belongs to userID
// (empty: to anybody, as administrators may). session:revoke. An unknown
// token is no error. In place of the token the session's id does as well, for
// those who are not shown tokens.
func (s *Service) RevokeSession(ctx context.Context, caller Principal, userID string, token Secret) error {
	if caller.Anonymous() {
		return ErrUnauthenticated
	}
	sess, _, _, err := s.store.SessionByToken(ctx, token)
	if errors.Is(err, ErrNotFound) {
		if sess, err = s.store.Session(ctx, string(token)); err == nil {
			token = sess.Token
		}
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("find session: %w", err)
	}
	if userID != "" && sess.UserID != userID {
		// Somebody else's is asked about as if it were unknown: the answer must
		// not tell the two apart.
		sess = Session{}
	}
	owner := sess.UserID
	if owner == "" {
		owner = userID
	}
	asked := owner
	if userID == "" && caller.is(owner) {
		asked = "" // to end anybody's takes a role, even where it is one's own
	}
	decision, err := s.permit(ctx, caller, "revoke", sessionResource(sess.ID, asked))
	if err != nil || token == "" {
		return err
	}
	// The token also finds a row whose key is gone, which the look-up above
	// does not answer with.
	return s.endSessions(ctx, caller, SessionFilter{Token: token, UserID: userID}, sess.ID, owner, decision)
}

// RevokeSessionByID is RevokeSession for those who are not shown tokens.
func (s *Service) RevokeSessionByID(ctx context.Context, caller Principal, id string) error {
	if caller.Anonymous() {
		return ErrUnauthenticated
	}
	sess, err := s.store.Session(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("find session: %w", err)
	}
	decision, err := s.permit(ctx, caller, "revoke", sessionResource(id, sess.UserID))
	if err != nil || sess.ID == "" {
		return err
	}
	return s.endSessions(ctx, caller, SessionFilter{ID: id}, id, sess.UserID, decision)
}

// RevokeSessions ends all sessions of userID (the caller's own if empty); with
// keepOwn all but the caller's. session:revoke.
func (s *Service) RevokeSessions(ctx context.Context, caller Principal, userID string, keepOwn bool) error {
	if userID == "" {
		u, err := caller.person()
		if err != nil {
			return err
		}
		userID = u.ID
	}
	decision, err := s.permit(ctx, caller, "revoke", sessionResource("", userID))
	if err != nil {
		return err
	}
	f := SessionFilter{UserID: userID}
	if sess := caller.Session(); keepOwn && sess != nil {
		f.NotToken = sess.Token
	}
	return s.endSessions(ctx, caller, f, "", userID, decision)
}

// endSessions deletes what f selects and forgets it. Without an id, everything
// built on the owner is forgotten.
func (s *Service) endSessions(ctx context.Context, caller Principal, f SessionFilter, id, owner, decision string) error {
	details := map[string]any{}
	if owner != "" {
		details["owner"] = owner
	}
	ev := s.event(caller, "session.revoke", "session", id, decision, details)
	if _, err := s.store.DeleteSessions(ctx, f, ev); err != nil {
		return fmt.Errorf("revoke session: %w", err)
	}
	switch {
	case id != "":
		s.Forget("session", id)
	case owner != "":
		s.Forget("user", owner)
	default:
		s.Forget("session", "")
	}
	return nil
}

// SignOut ends the caller's session, if it has one.
func (s *Service) SignOut(ctx context.Context, caller Principal) error {
	sess := caller.Session()
	if sess == nil {
		return nil
	}
	ev := s.event(caller, "session.sign-out", "session", sess.ID, "", map[string]any{"owner": sess.UserID})
	if _, err := s.store.DeleteSessions(ctx, SessionFilter{ID: sess.ID}, ev); err != nil {
		return fmt.Errorf("sign out: %w", err)
	}
	s.Forget("session", sess.ID)
	return nil
}

// Extend extends the caller's session if it is due (sliding expiry), and
// reports whether it did. dontRemember is the holder's wish that it not be.
func (s *Service) Extend(ctx context.Context, caller Principal, dontRemember bool) (Session, bool, error) {
	sess := caller.Session()
	if sess == nil {
		return Session{}, false, nil
	}
	now := s.now()
	due := !sess.ExpiresAt.Add(-s.o.SessionLife).Add(s.o.SessionUpdateAge).After(now)
	// An impersonated session never slides, whoever wrote its row.
	if !due || dontRemember || sess.Fixed || sess.ImpersonatedBy != nil || s.o.SessionNeverSlides {
		return *sess, false, nil
	}
	extended := *sess
	extended.ExpiresAt, extended.UpdatedAt = now.Add(s.o.SessionLife), now
	err := s.store.ExtendSession(ctx, sess.ID, extended.ExpiresAt, extended.UpdatedAt)
	switch {
	case errors.Is(err, ErrNotFound): // ended meanwhile; the next request will say so
		s.Forget("session", sess.ID)
		return *sess, false, nil
	case err != nil:
		return *sess, false, fmt.Errorf("extend session: %w", err)
	}
	s.Forget("session", sess.ID)
	return extended, true, nil
}
