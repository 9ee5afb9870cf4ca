package authn

import (
	"context"
	"errors"
	"fmt"

	"github.com/ostiary/ostiary/authz"
)

// Impersonate: user:impersonate, and impersonate-admins for administrators.
// While impersonating already, it is the administrator behind who is then
// impersonating the new user. ErrUserNotFound, ErrUserBanned.
func (s *Service) Impersonate(ctx context.Context, caller Principal, id string, d Device) (SignedIn, error) {
	admin, err := caller.person()
	if err != nil {
		return SignedIn{}, err
	}
	u, r, err := s.target(ctx, id, "impersonate")
	if err != nil {
		return SignedIn{}, err
	}
	decision, err := s.permit(ctx, caller, "impersonate", r)
	if err != nil {
		return SignedIn{}, err
	}
	if u == nil {
		return SignedIn{}, ErrUserNotFound
	}
	if s.admin(u) {
		if _, err := s.permit(ctx, caller, "impersonate-admins", r); err != nil {
			return SignedIn{}, err
		}
	}
	if u.BannedAt(s.now()) {
		return SignedIn{}, ErrUserBanned
	}
	by := admin.ID
	if sess := caller.Session(); sess != nil && sess.ImpersonatedBy != nil {
		// Chains would end when their last link is cut, not their first.
		by = *sess.ImpersonatedBy
	}
	sess, err := s.newSession(ctx, u.ID, d, s.o.ImpersonationLife)
	if err != nil {
		return SignedIn{}, err
	}
	sess.ImpersonatedBy, sess.Fixed = &by, true
	caller.tie(&sess)
	ev := s.event(caller, "user.impersonate", "user", u.ID, decision, map[string]any{"session": sess.ID})
	if err := s.store.CreateSession(ctx, sess, ev); err != nil {
		return SignedIn{}, fmt.Errorf("impersonate: %w", err)
	}
	return SignedIn{User: *u, Session: &sess}, nil
}

// impersonationStands reports whether the administrator behind a session, with
// the key that they began it with, could begin it now. ErrBadCredential if not.
func (s *Service) impersonationStands(ctx context.Context, sess *Session, key *APIKey, u *User) error {
	admin, err := s.store.User(ctx, *sess.ImpersonatedBy)
	switch {
	case errors.Is(err, ErrNotFound):
		return ErrBadCredential
	case err != nil:
		return fmt.Errorf("find the impersonating administrator: %w", err)
	case admin.BannedAt(s.now()):
		return ErrBadCredential
	}
	// The administrator as they were when they began, but for what has changed
	// since. Which session they began it from is not kept; this one stands for it.
	credential, from := authz.CredentialAPIKey, (*Session)(nil)
	if key == nil {
		credential, from = authz.CredentialSession, &Session{ID: sess.ID, CreatedAt: sess.CreatedAt, ExpiresAt: sess.ExpiresAt, NotFresh: true}
	}
	subject, err := s.subject(ctx, &admin, credential, from, key)
	if err != nil {
		return err
	}
	// This is about the session, not about the request that it came with.
	ctx = authz.WithFacts(ctx, nil)
	if err := s.permitImpersonation(ctx, subject, u, s.userResource(u)); err != nil {
		if errors.Is(err, authz.ErrDenied) {
			return ErrBadCredential
		}
		return err
	}
	return nil
}

// permitImpersonation asks whether who may impersonate u: user:impersonate,
// and impersonate-admins for administrators.
func (s *Service) permitImpersonation(ctx context.Context, who *authz.Subject, u *User, r authz.Resource) error {
	if _, err := ask(ctx, s.engine, who, "impersonate", r); err != nil {
		return err
	}
	if !s.admin(u) {
		return nil
	}
	_, err := ask(ctx, s.engine, who, "impersonate-admins", r)
	return err
}

// StopImpersonating ends the caller's impersonated session and returns the
// administrator's own, whose token the caller kept. ErrNotImpersonating,
// ErrAdminGone, ErrAdminSessionGone.
func (s *Service) StopImpersonating(ctx context.Context, caller Principal, admin Secret) (SignedIn, error) {
	if _, err := caller.person(); err != nil {
		return SignedIn{}, err
	}
	sess := caller.Session()
	if sess == nil || sess.ImpersonatedBy == nil {
		return SignedIn{}, ErrNotImpersonating
	}
	switch _, err := s.store.User(ctx, *sess.ImpersonatedBy); {
	case errors.Is(err, ErrNotFound):
		return SignedIn{}, ErrAdminGone
	case err != nil:
		return SignedIn{}, fmt.Errorf("find the impersonating administrator: %w", err)
	}
	back, err := s.lookup(ctx, SessionToken, string(admin), s.o.Clock())
	switch {
	case IsCredentialError(err):
		return SignedIn{}, ErrAdminSessionGone
	case err != nil:
		return SignedIn{}, err
	case back.user.ID != *sess.ImpersonatedBy || back.session.ImpersonatedBy != nil:
		return SignedIn{}, ErrAdminSessionGone
	}
	ev := s.event(caller, "user.stop-impersonating", "user", sess.UserID, "", map[string]any{"session": sess.ID})
	if _, err := s.store.DeleteSessions(ctx, SessionFilter{ID: sess.ID}, ev); err != nil {
		return SignedIn{}, fmt.Errorf("stop impersonating: %w", err)
	}
	s.Forget("session", sess.ID)
	return SignedIn{User: *back.user, Session: back.session}, nil
}
