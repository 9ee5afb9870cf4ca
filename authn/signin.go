package authn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/ostiary/ostiary/authz"
)

// SignUp is a request to create one's own account.
type SignUp struct {
	Name, Email     string
	Password        Secret
	Image           *string
	Username        *string // as typed
	DisplayUsername *string
	DontRemember    bool
	Device          Device
}

// SignedIn is a new session. Session is nil where sign-up does not sign in.
type SignedIn struct {
	User    User
	Session *Session
}

// SignUp creates an account and signs in. With RequireVerifiedEmail or
// AutoSignInDisabled there is no session, and a taken email looks like
// success (User is then made up). Nor is there one if the policy permits
// user:create but not session:create. Errors: ErrSignUpClosed, ErrEmailTaken,
// ErrUsernameTaken, ErrBusy, a denial, and those of bad input.
func (s *Service) SignUp(ctx context.Context, caller Principal, in SignUp) (SignedIn, error) {
	if s.o.SignUpDisabled && !caller.IsSystem() {
		return SignedIn{}, ErrSignUpClosed
	}
	u, err := s.newPerson(in.Name, in.Email, in.Image, in.Username, in.DisplayUsername)
	if err != nil {
		return SignedIn{}, err
	}
	if err := s.checkPassword(in.Password); err != nil {
		return SignedIn{}, err
	}
	properties := map[string]any{"email": u.Email, "name": u.Name, "method": "sign-up"}
	if u.Username != nil {
		properties["username"] = *u.Username
	}
	decision, err := s.permitAnybody(ctx, caller, "create", authz.Resource{Type: "user", Properties: properties})
	if err != nil {
		return SignedIn{}, err
	}
	if err := s.usernameFree(ctx, u.Username, ""); err != nil {
		return SignedIn{}, err
	}
	masked := s.o.RequireVerifiedEmail || s.o.AutoSignInDisabled
	_, err = s.store.UserByEmail(ctx, u.Email)
	exists := err == nil
	switch {
	case exists && !masked:
		return SignedIn{}, ErrEmailTaken
	case err != nil && !errors.Is(err, ErrNotFound):
		return SignedIn{}, fmt.Errorf("sign up: %w", err)
	}
	// A taken address is hashed for as well: the time must not tell.
	hash, err := s.passwords.hash(ctx, in.Password)
	if err != nil {
		return SignedIn{}, err
	}
	// The user that is made up for a taken address has an id like any other.
	if u.ID, err = s.store.NewID(ctx, "user"); err != nil {
		return SignedIn{}, fmt.Errorf("sign up: %w", err)
	}
	if exists {
		return SignedIn{User: u}, nil
	}
	ev := s.eventOf(&u, "user.create", "user", u.ID, decision, map[string]any{"method": "sign-up"})
	if err := taken(s.store.CreateUser(ctx, u, hash, ev)); err != nil {
		if masked && errors.Is(err, ErrEmailTaken) {
			return SignedIn{User: u}, nil
		}
		return SignedIn{}, err
	}
	s.Forget("user", u.ID) // that there was nobody
	if masked {
		return SignedIn{User: u}, nil
	}
	sess, err := s.startSession(ctx, caller, &u, in.Device, in.DontRemember)
	if errors.Is(err, authz.ErrDenied) {
		return SignedIn{User: u}, nil
	}
	return SignedIn{User: u, Session: sess}, err
}

// SignIn is a request to sign in with a password.
type SignIn struct {
	Email, Username string // one of them; Username as typed
	Password        Secret
	DontRemember    bool
	Device          Device
}

// SignIn signs in with a password. Errors: ErrBadLogin, ErrEmailNotVerified,
// ErrUserBanned, ErrThrottled in a *RetryError, ErrBusy, a denial, and those of bad input.
//
// A ban that has expired is lifted; the User returned still shows it, as the
// wire does.
func (s *Service) SignIn(ctx context.Context, caller Principal, in SignIn) (SignedIn, error) {
	var account string
	var find func() (User, error)
	switch {
	case in.Email != "":
		email := strings.ToLower(in.Email)
		if !ValidEmail(email) {
			return SignedIn{}, ErrBadEmail
		}
		account, find = "email:"+email, func() (User, error) { return s.store.UserByEmail(ctx, email) }
	case in.Username != "" && in.Password != "":
		if err := s.CheckUsername(in.Username); err != nil {
			return SignedIn{}, err
		}
		username := strings.ToLower(in.Username)
		account, find = "username:"+username, func() (User, error) { return s.store.UserByUsername(ctx, username) }
	default:
		return SignedIn{}, ErrBadLogin
	}
	if utf16Len(string(in.Password)) > s.o.PasswordMax {
		return SignedIn{}, ErrPasswordLong
	}
	u, err := find()
	if err != nil && !errors.Is(err, ErrNotFound) {
		return SignedIn{}, fmt.Errorf("sign in: %w", err)
	}
	// Nothing up to here depends on who exists; and what follows takes the
	// same steps for everybody until the password was right.
	if err := s.checkLogin(ctx, u.ID, in.Password, account, address(ctx, in.Device)); err != nil {
		if errors.Is(err, ErrWrongPassword) {
			err = ErrBadLogin
		}
		s.logRefused(ctx, account, u.ID, in.Device, err)
		return SignedIn{}, err
	}
	err = nil
	switch {
	case s.o.RequireVerifiedEmail && !u.EmailVerified:
		err = ErrEmailNotVerified
	case u.BannedAt(s.now()):
		err = ErrUserBanned
	}
	var sess *Session
	if err == nil {
		sess, err = s.startSession(ctx, caller, &u, in.Device, in.DontRemember)
	}
	if err != nil {
		s.logRefused(ctx, account, u.ID, in.Device, err)
		return SignedIn{}, err
	}
	return SignedIn{User: u, Session: sess}, nil
}

// checkLogin compares a password with that of userID (empty: nobody's) and
// keeps the counts of failures. account is what was typed, so that counting
// does not tell who exists. ErrWrongPassword also if there is no password.
func (s *Service) checkLogin(ctx context.Context, userID string, password Secret, account, address string) error {
	throttled := func() error {
		now := s.now()
		if err := s.accounts.check(account, now); err != nil {
			return err
		}
		return s.addresses.check(address, now)
	}
	if err := throttled(); err != nil {
		return err
	}
	stored := noPassword
	if userID != "" {
		hash, err := s.store.Password(ctx, userID)
		switch {
		case err == nil:
			stored = hash
		case !errors.Is(err, ErrNotFound):
			return fmt.Errorf("read password: %w", err)
		}
	}
	done, err := s.passwords.turn(ctx)
	if err != nil {
		return err
	}
	defer done()
	// Asked again when the turn has come, and counted before it is given back:
	// of many attempts at once, those that waited see what the others failed.
	if err := throttled(); err != nil {
		return err
	}
	ok, err := s.passwords.matches(ctx, stored, password)
	switch {
	case err != nil:
		return err
	case !ok:
		now := s.now()
		s.accounts.failed(account, now)
		s.addresses.failed(address, now)
		return ErrWrongPassword
	}
	s.accounts.clear(account)
	return nil
}

// address is what failures are counted for: the peer's, which nobody can
// choose, where the request is known.
func address(ctx context.Context, d Device) string {
	if f := authz.FactsFrom(ctx); f != nil && f.IP != "" {
		return f.IP
	}
	return d.IPAddress
}

// startSession asks for session:create and stores the session of somebody who
// just proved who they are by password. An expired ban is lifted.
func (s *Service) startSession(ctx context.Context, caller Principal, u *User, d Device, short bool) (*Session, error) {
	decision, err := s.permitAnybody(ctx, caller, "create", authz.Resource{Type: "session", Properties: map[string]any{
		"owner": u.ID, "method": "password", "user": s.loginFacts(u),
	}})
	if err != nil {
		return nil, err
	}
	if u.Banned {
		if err := s.liftBan(ctx, u, decision); err != nil {
			return nil, err
		}
	}
	sess, err := s.newSession(ctx, u.ID, d, s.o.SessionLife)
	if err != nil {
		return nil, err
	}
	if short {
		sess.ExpiresAt, sess.Fixed = sess.CreatedAt.Add(s.o.ShortSessionLife), true
	}
	ev := s.eventOf(u, "session.create", "session", sess.ID, decision, map[string]any{"owner": u.ID, "method": "password"})
	if err := s.store.CreateSession(ctx, sess, ev); err != nil {
		return nil, fmt.Errorf("sign in: %w", err)
	}
	return &sess, nil
}

// liftBan clears a ban that has expired. One that was renewed meanwhile stands.
func (s *Service) liftBan(ctx context.Context, u *User, decision string) error {
	ev := s.eventOf(u, "user.unban", "user", u.ID, decision, map[string]any{"reason": "expired"})
	_, err := s.store.UpdateUser(ctx, u.ID, func(u *User) error {
		if u.BannedAt(s.now()) {
			return ErrUserBanned
		}
		u.Banned, u.BanReason, u.BanExpires = false, nil, nil
		return nil
	}, UserEffects{}, ev)
	if err != nil {
		return fmt.Errorf("lift ban: %w", err)
	}
	s.Forget("user", u.ID)
	return nil
}

// loginFacts is what session:create is told of the user.
func (s *Service) loginFacts(u *User) map[string]any {
	return map[string]any{
		"id": u.ID, "email": u.Email, "role": textOrNull(u.Role), "roles": authz.Texts(s.roles(u)),
		"banned": u.BannedAt(s.now()), "emailVerified": u.EmailVerified, "attributes": attributes(u),
	}
}

// logRefused notes a sign-in that failed, without what was typed.
func (s *Service) logRefused(ctx context.Context, account, userID string, d Device, reason error) {
	by, typed, _ := strings.Cut(account, ":")
	masked := typed[:min(1, len(typed))] + "…"
	if _, domain, ok := strings.Cut(typed, "@"); ok {
		masked += "@" + domain
	}
	s.o.Log.LogAttrs(ctx, slog.LevelInfo, "sign-in refused",
		slog.String("reason", reason.Error()), slog.String(by, masked),
		slog.String("user", userID), slog.String("ip", address(ctx, d)))
}

// SignInKey exchanges the API key that caller presented for a session: one
// that carries the key's grants as they are at each use, is never fresh, and
// ends with the key. session:create; ErrUnauthenticated also if caller did not
// present a key.
func (s *Service) SignInKey(ctx context.Context, caller Principal, d Device) (SignedIn, error) {
	u, err := caller.person()
	if err != nil || caller.p.presented != APIKeySecret {
		return SignedIn{}, ErrUnauthenticated
	}
	decision, err := s.permit(ctx, caller, "create", authz.Resource{Type: "session", Properties: map[string]any{
		"owner": u.ID, "method": "api_key", "user": s.loginFacts(u),
	}})
	if err != nil {
		return SignedIn{}, err
	}
	sess, err := s.newSession(ctx, u.ID, d, s.o.SessionLife)
	if err != nil {
		return SignedIn{}, err
	}
	caller.tie(&sess)
	ev := s.event(caller, "session.create", "session", sess.ID, decision, map[string]any{"owner": u.ID, "method": "api_key"})
	if err := s.store.CreateSession(ctx, sess, ev); err != nil {
		return SignedIn{}, fmt.Errorf("sign in: %w", err)
	}
	return SignedIn{User: *u, Session: &sess}, nil
}
