package authn

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Account is a way of signing in. Only password accounts
// (ProviderID "credential") are made here.
type Account struct {
	ID, ProviderID, AccountID, UserID string
	CreatedAt, UpdatedAt              time.Time
}

// Accounts lists the caller's ways of signing in. user:get on oneself.
func (s *Service) Accounts(ctx context.Context, caller Principal) ([]Account, error) {
	u, err := caller.person()
	if err != nil {
		return nil, err
	}
	if _, err := s.permit(ctx, caller, "get", s.userResource(u)); err != nil {
		return nil, err
	}
	accounts, err := s.store.Accounts(ctx, u.ID)
	if err != nil {
		return nil, fmt.Errorf("list accounts: %w", err)
	}
	return accounts, nil
}

// ChangePassword: user:change-password. With revokeOthers every session ends
// and a new one is returned, no stronger than the caller's; otherwise the session is
// nil. ErrWrongPassword, ErrNoPassword, ErrPasswordShort, ErrPasswordLong,
// ErrThrottled in a *RetryError, ErrBusy.
func (s *Service) ChangePassword(ctx context.Context, caller Principal, current, next Secret, revokeOthers bool, d Device) (User, *Session, error) {
	u, decision, err := s.own(ctx, caller, "change-password", nil)
	if err != nil {
		return User{}, nil, err
	}
	if err := s.checkPassword(next); err != nil {
		return User{}, nil, err
	}
	if err := s.checkOwnPassword(ctx, u, current, d, ErrNoPassword); err != nil {
		return User{}, nil, err
	}
	hash, err := s.passwords.hash(ctx, next)
	if err != nil {
		return User{}, nil, err
	}
	var also UserEffects
	if revokeOthers {
		sess, err := s.newSession(ctx, u.ID, d, s.o.SessionLife)
		if err != nil {
			return User{}, nil, err
		}
		if old := caller.Session(); old != nil {
			sess.ImpersonatedBy = old.ImpersonatedBy
			if sess.Fixed = old.Fixed; old.Fixed {
				sess.ExpiresAt = earliest(sess.CreatedAt.Add(s.o.ShortSessionLife), &sess.ExpiresAt)
			}
		}
		caller.tie(&sess)
		also = UserEffects{EndSessions: true, NewSession: &sess}
	}
	ev := s.event(caller, "user.change-password", "user", u.ID, decision, map[string]any{"sessionsEnded": revokeOthers})
	if err := s.store.SetPassword(ctx, u.ID, hash, also, ev); err != nil {
		return User{}, nil, fmt.Errorf("change password: %w", gone(err, ErrUserNotFound))
	}
	s.Forget("user", u.ID)
	return *u, also.NewSession, nil
}

// VerifyPassword checks the caller's own password: nil or ErrWrongPassword,
// ErrThrottled in a *RetryError, ErrBusy. It asks for user:change-password, for which
// a password is what one needs.
func (s *Service) VerifyPassword(ctx context.Context, caller Principal, password Secret) error {
	u, _, err := s.own(ctx, caller, "change-password", nil)
	if err != nil {
		return err
	}
	return s.checkOwnPassword(ctx, u, password, Device{}, ErrWrongPassword)
}

// checkOwnPassword checks the password of somebody who is signed in already.
// Failures count as failed sign-ins do, or a session would be a way to guess.
// none is the answer where there is no password.
func (s *Service) checkOwnPassword(ctx context.Context, u *User, password Secret, d Device, none error) error {
	if utf16Len(string(password)) > s.o.PasswordMax {
		return ErrPasswordLong
	}
	if _, err := s.store.Password(ctx, u.ID); errors.Is(err, ErrNotFound) {
		return none
	}
	return s.checkLogin(ctx, u.ID, password, "id:"+u.ID, address(ctx, d))
}

// ChangeEmail: user:change-email. A taken address is silently left alone. The
// new one counts as not verified. ErrBadEmail, ErrSameEmail.
func (s *Service) ChangeEmail(ctx context.Context, caller Principal, email string) (User, error) {
	email = strings.ToLower(email)
	if !ValidEmail(email) {
		return User{}, ErrBadEmail
	}
	u, decision, err := s.own(ctx, caller, "change-email", nil)
	if err != nil {
		return User{}, err
	}
	if u.Email == email {
		return User{}, ErrSameEmail
	}
	ev := s.event(caller, "user.change-email", "user", u.ID, decision, nil)
	now := s.now()
	changed, err := s.store.UpdateUser(ctx, u.ID, func(u *User) error {
		u.Email, u.EmailVerified, u.UpdatedAt = email, false, now
		return nil
	}, UserEffects{}, ev)
	switch err = gone(taken(err), ErrUserNotFound); {
	case errors.Is(err, ErrEmailTaken):
		return *u, nil
	case err != nil:
		return User{}, fmt.Errorf("change email: %w", err)
	}
	s.Forget("user", u.ID)
	return changed, nil
}

// DeleteOwn deletes the caller's account: user:delete on oneself. Without a
// password (nil) the session must be fresh (ErrNotFresh). ErrWrongPassword,
// ErrThrottled in a *RetryError, ErrLastAdmin.
func (s *Service) DeleteOwn(ctx context.Context, caller Principal, password *Secret) error {
	u, err := caller.person()
	if err != nil {
		return err
	}
	if password != nil {
		if err := s.checkOwnPassword(ctx, u, *password, Device{}, ErrWrongPassword); err != nil {
			return err
		}
	}
	_, decision, err := s.own(ctx, caller, "delete", map[string]any{"confirmed": password != nil})
	switch {
	case deniedFor(err, codeSessionNotFresh):
		return ErrNotFresh
	case err != nil:
		return err
	case password == nil && !s.Fresh(caller): // whatever the policy says
		return ErrNotFresh
	}
	return s.removeUser(ctx, caller, u.ID, decision)
}

// own asks whether caller may do action to their own account, as the store has
// it now, and returns that.
func (s *Service) own(ctx context.Context, caller Principal, action string, more map[string]any) (*User, string, error) {
	me, err := caller.person()
	if err != nil {
		return nil, "", err
	}
	return s.permitUser(ctx, caller, me.ID, action, more)
}
