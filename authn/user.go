package authn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

// User is a person or a service account. Nil members are NULL in the store.
// Times have millisecond precision and are UTC.
type User struct {
	ID              string
	Name            string
	Email           string // lower case
	EmailVerified   bool
	Image           *string
	CreatedAt       time.Time
	UpdatedAt       time.Time
	Username        *string // normalised
	DisplayUsername *string
	Role            *string // comma-separated; nil is the default role
	Banned          bool
	BanReason       *string
	BanExpires      *time.Time
	ServiceAccount  bool
	// Attributes are the additional columns of the user table, and what a
	// service account was created with. JSON values.
	Attributes map[string]any
}

// BannedAt reports whether a ban is in force at t.
func (u *User) BannedAt(t time.Time) bool {
	return u.Banned && (u.BanExpires == nil || u.BanExpires.After(t))
}

func (u *User) subjectType() string {
	if u.ServiceAccount {
		return authz.TypeServiceAccount
	}
	return authz.TypeUser
}

// roles are those of u, or the default one. They are split at commas and not
// trimmed: " admin" is no role to Better Auth either, and must not become one.
func (s *Service) roles(u *User) []string { return s.splitRoles(value(u.Role)) }

func (s *Service) splitRoles(joined string) []string {
	var roles []string
	for role := range strings.SplitSeq(joined, ",") {
		if role != "" {
			roles = append(roles, role)
		}
	}
	if roles == nil {
		return []string{s.o.DefaultRole}
	}
	return roles
}

// checkRoles refuses roles that do not exist. Each element is one name, as
// the wire has it: "a,b" is no role.
func (s *Service) checkRoles(roles []string) error {
	for _, role := range roles {
		if s.o.KnownRoles != nil && !s.o.KnownRoles(role) {
			return ErrUnknownRole
		}
	}
	return nil
}

func (s *Service) adminRule() AdminRule { return AdminRule{Roles: s.o.AdminRoles, IDs: s.o.AdminIDs} }

// admin reports whether u counts as an administrator.
func (s *Service) admin(u *User) bool {
	return slices.Contains(s.o.AdminIDs, u.ID) ||
		slices.ContainsFunc(s.roles(u), func(role string) bool { return slices.Contains(s.o.AdminRoles, role) })
}

// userResource is u as decisions see the target of a call.
func (s *Service) userResource(u *User) authz.Resource {
	return authz.Resource{Type: "user", ID: u.ID, Known: true, Properties: map[string]any{
		"owner": u.ID, "role": textOrNull(u.Role), "roles": authz.Texts(s.roles(u)), "banned": u.BannedAt(s.now()),
		"email": u.Email, "username": textOrNull(u.Username), "serviceAccount": u.ServiceAccount,
		"admin": s.admin(u), "lastAdmin": false, "attributes": attributes(u),
	}}
}

func attributes(u *User) map[string]any {
	if u.Attributes == nil {
		return map[string]any{}
	}
	return u.Attributes
}

// target reads the user that a call is about, and what decisions see of it. A
// user that does not exist is nil, and a resource without facts: permission is
// asked before existence is told.
func (s *Service) target(ctx context.Context, id, action string) (*User, authz.Resource, error) {
	u, err := s.store.User(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		// Rules that protect administrators want to know that this is none.
		return nil, authz.Resource{Type: "user", ID: id, Properties: map[string]any{"lastAdmin": false, "roles": []any{}}}, nil
	case err != nil:
		return nil, authz.Resource{}, fmt.Errorf("find user: %w", err)
	}
	r := s.userResource(&u)
	switch action {
	case "delete", "ban", "set-role", "update":
		if s.admin(&u) && !u.BannedAt(s.now()) {
			other, err := s.store.OtherAdmin(ctx, id, s.adminRule())
			if err != nil {
				return nil, authz.Resource{}, fmt.Errorf("look for another administrator: %w", err)
			}
			r.Properties["lastAdmin"] = !other
		}
	}
	return &u, r, nil
}

// permitUser asks for action on the user id and then answers with the user.
// more is what the decision is told besides.
func (s *Service) permitUser(ctx context.Context, caller Principal, id, action string, more map[string]any) (*User, string, error) {
	if caller.Anonymous() {
		return nil, "", ErrUnauthenticated
	}
	u, r, err := s.target(ctx, id, action)
	if err != nil {
		return nil, "", err
	}
	maps.Copy(r.Properties, more)
	decision, err := s.permit(ctx, caller, action, r)
	if err != nil {
		return nil, "", err
	}
	if u == nil {
		return nil, "", ErrUserNotFound
	}
	return u, decision, nil
}

// gone says which thing it is that the store does not have.
func gone(err, as error) error {
	if errors.Is(err, ErrNotFound) {
		return as
	}
	return err
}

// taken says which unique value of a user it is that somebody else has.
func taken(err error) error {
	if c, ok := errors.AsType[*ConflictError](err); ok {
		switch c.Field {
		case "email":
			return ErrEmailTaken
		case "username":
			return ErrUsernameTaken
		}
	}
	return err
}

// emailSyntax is the wire's, whose letters are ASCII.
var emailSyntax = regexp.MustCompile(`^(?:[A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+\-]@(?:[A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$`)

// ValidEmail reports whether email is an address, in the syntax of the wire.
func ValidEmail(email string) bool { return emailSyntax.MatchString(email) }

var usernameSyntax = regexp.MustCompile(`^[a-zA-Z0-9_.]+$`)

// CheckUsername reports what is wrong with a username as typed: nil,
// ErrUsernameShort, ErrUsernameLong or ErrUsernameInvalid.
func (s *Service) CheckUsername(username string) error {
	switch n := utf16Len(username); {
	case n < s.o.UsernameMin:
		return ErrUsernameShort
	case n > s.o.UsernameMax:
		return ErrUsernameLong
	case !usernameSyntax.MatchString(username):
		return ErrUsernameInvalid
	}
	return nil
}

// UsernameAvailable reports whether nobody has the username, or why nobody can: an
// error of [Service.CheckUsername]. Nobody is asked for permission.
func (s *Service) UsernameAvailable(ctx context.Context, username string) (bool, error) {
	if err := s.CheckUsername(username); err != nil {
		return false, err
	}
	err := s.usernameFree(ctx, &username, "")
	if errors.Is(err, ErrUsernameTaken) {
		return false, nil
	}
	return err == nil, err
}

// usernameFree is nil if nobody but the user self has the username.
func (s *Service) usernameFree(ctx context.Context, username *string, self string) error {
	if username == nil {
		return nil
	}
	u, err := s.store.UserByUsername(ctx, strings.ToLower(*username))
	switch {
	case errors.Is(err, ErrNotFound) || err == nil && u.ID == self:
		return nil
	case err != nil:
		return fmt.Errorf("look for username: %w", err)
	}
	return ErrUsernameTaken
}

// newPerson checks what somebody is to be called and returns the user that it
// makes, without an id, not stored yet.
func (s *Service) newPerson(name, email string, image, username, display *string) (User, error) {
	now := s.now()
	role := s.o.DefaultRole
	u := User{Name: name, Email: strings.ToLower(email), Image: image, CreatedAt: now, UpdatedAt: now, Role: &role}
	switch {
	case username != nil:
		if err := s.CheckUsername(*username); err != nil {
			return User{}, err
		}
		lower := strings.ToLower(*username)
		u.Username, u.DisplayUsername = &lower, username
		if display != nil {
			u.DisplayUsername = display
		}
	case display != nil:
		u.DisplayUsername = display
		if s.CheckUsername(*display) == nil {
			lower := strings.ToLower(*display)
			u.Username = &lower
		}
	}
	if !ValidEmail(u.Email) {
		return User{}, ErrBadEmail
	}
	return u, nil
}

// NewUser is a user to create.
type NewUser struct {
	ID              string // System callers only; empty: a new one
	Name, Email     string
	Password        Secret   // empty: no password
	Roles           []string // nil: the default role
	RolesGiven      bool     // Roles were asked for (set-role is needed), even if empty
	EmailVerified   bool
	Image           *string
	Username        *string
	DisplayUsername *string
	Banned          *bool
	BanReason       *string
	BanExpires      *time.Time
	BanGiven        bool // a ban member was asked for (ban is needed)
	CreatedAt       *time.Time
	UpdatedAt       *time.Time
	ServiceAccount  bool
	Attributes      map[string]any
}

// CreateUser: user:create, and set-role or ban where asked for. A service
// account needs no email and can have no password. ErrEmailTaken, ErrUsernameTaken,
// ErrUnknownRole, ErrBadEmail, ErrPasswordShort and -Long, those of
// [Service.CheckUsername], *InvalidError.
func (s *Service) CreateUser(ctx context.Context, caller Principal, in NewUser) (User, error) {
	if in.ServiceAccount && in.Password != "" {
		return User{}, &InvalidError{"password", "service accounts have none"}
	}
	if in.ID != "" && !caller.IsSystem() {
		// It could be one that the configuration makes an administrator.
		return User{}, &InvalidError{"id", "can't be chosen"}
	}
	decision, err := s.permitNewUser(ctx, caller, in)
	if err != nil {
		return User{}, err
	}
	u, err := s.newUser(in)
	if err != nil {
		return User{}, err
	}
	if in.Password != "" {
		if err := s.checkPassword(in.Password); err != nil {
			return User{}, err
		}
	}
	if err := s.usernameFree(ctx, u.Username, ""); err != nil {
		return User{}, err
	}
	switch _, err := s.store.UserByEmail(ctx, u.Email); {
	case err == nil:
		return User{}, ErrEmailTaken
	case !errors.Is(err, ErrNotFound):
		return User{}, fmt.Errorf("create user: %w", err)
	}
	var hash string
	if in.Password != "" {
		if hash, err = s.passwords.hash(ctx, in.Password); err != nil {
			return User{}, err
		}
	}
	if u.ID == "" {
		if u.ID, err = s.store.NewID(ctx, "user"); err != nil {
			return User{}, fmt.Errorf("create user: %w", err)
		}
	}
	ev := s.event(caller, "user.create", "user", u.ID, decision, userDetails(&u))
	if err := taken(s.store.CreateUser(ctx, u, hash, ev)); err != nil {
		return User{}, fmt.Errorf("create user: %w", err)
	}
	s.Forget("user", u.ID) // that there was nobody
	return u, nil
}

// permitNewUser asks for everything that creating in needs.
func (s *Service) permitNewUser(ctx context.Context, caller Principal, in NewUser) (string, error) {
	properties := map[string]any{"email": strings.ToLower(in.Email), "name": in.Name}
	if in.ServiceAccount {
		properties["serviceAccount"] = true
	}
	withRoles := in.RolesGiven || in.Roles != nil
	newRoles := authz.Texts(s.splitRoles(strings.Join(in.Roles, ",")))
	if withRoles {
		properties["newRoles"] = newRoles
	}
	decision, err := s.permit(ctx, caller, "create", authz.Resource{Type: "user", Properties: properties})
	if err != nil {
		return "", err
	}
	if withRoles {
		r := authz.Resource{Type: "user", Properties: map[string]any{"newRoles": newRoles}}
		if _, err := s.permit(ctx, caller, "set-role", r); err != nil {
			return "", err
		}
		if err := s.checkRoles(in.Roles); err != nil {
			return "", err
		}
	}
	if in.BanGiven || in.Banned != nil || in.BanReason != nil || in.BanExpires != nil {
		if _, err := s.permit(ctx, caller, "ban", authz.Resource{Type: "user"}); err != nil {
			return "", err
		}
	}
	return decision, nil
}

// newUser makes the user that in describes, not stored yet, and without an id
// unless one was chosen.
func (s *Service) newUser(in NewUser) (User, error) {
	if in.ServiceAccount && in.Email == "" {
		// The table wants an address that is unique; this one can never be anybody's.
		in.Email = strings.ToLower(newID()) + "@service-account.invalid"
	}
	u, err := s.newPerson(in.Name, in.Email, in.Image, in.Username, in.DisplayUsername)
	if err != nil {
		return User{}, err
	}
	if in.RolesGiven || in.Roles != nil {
		joined := strings.Join(in.Roles, ",")
		u.Role = &joined
	}
	u.ID = in.ID
	u.EmailVerified, u.ServiceAccount, u.Attributes = in.EmailVerified, in.ServiceAccount, in.Attributes
	u.Banned, u.BanReason, u.BanExpires = value(in.Banned), in.BanReason, moment(in.BanExpires)
	if in.CreatedAt != nil {
		u.CreatedAt = *moment(in.CreatedAt)
	}
	if in.UpdatedAt != nil {
		u.UpdatedAt = *moment(in.UpdatedAt)
	}
	return u, nil
}

// moment is t in the precision in which the tables keep it.
func moment(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	m := t.UTC().Truncate(time.Millisecond)
	return &m
}

func userDetails(u *User) map[string]any {
	return map[string]any{"role": textOrNull(u.Role), "serviceAccount": u.ServiceAccount}
}

// UserQuery selects users. Field names are those of the columns
// ("email", "createdAt", additional columns too). Search and Filter are
// combined with AND.
type UserQuery struct {
	SearchField, SearchOperator, SearchValue string // contains, starts_with, ends_with
	Filter                                   *UserFilter
	SortBy                                   string // empty: insertion order
	SortDescending                           bool
	Limit, Offset                            int // Limit 0 is 100
	// Where, if set, is a condition on users besides; see UserFields.
	Where *authz.Condition
}

// UserFilter compares a field. Operators: eq ne lt lte gt gte in not_in
// contains starts_with ends_with. Values are text as typed, parsed by the field's type.
type UserFilter struct {
	Field, Operator string
	Values          []string
}

// Users: user:list. Those whom the policy denies to list are left out, and do not
// count.
func (s *Service) Users(ctx context.Context, caller Principal, q UserQuery) ([]User, int, error) {
	if _, err := s.permit(ctx, caller, "list", authz.Resource{Type: "user"}); err != nil {
		return nil, 0, err
	}
	if q.Limit == 0 {
		q.Limit = 100
	}
	r := authz.Resource{Type: "user", Known: true, Properties: map[string]any{"lastAdmin": false}}
	users, total, err := listed(ctx, s, caller, "list", r, UserFields, page[User]{
		offset: q.Offset, limit: q.Limit,
		read: func(where *authz.Condition, offset, limit int) ([]User, int, error) {
			q.Where, q.Offset, q.Limit = where, offset, limit
			return s.store.Users(ctx, q)
		},
		resource: s.userResource,
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list users: %w", err)
	}
	return users, total, nil
}

// UserFields are the fields of users, as policies see them, that a condition can be
// about.
var UserFields = authz.Fields{
	"id": authz.AlwaysText, "properties.owner": authz.AlwaysText, "properties.email": authz.AlwaysText,
	"properties.role": authz.TextOrNull, "properties.username": authz.TextOrNull, "properties.serviceAccount": authz.Boolean,
}

// User: user:get. ErrUserNotFound.
func (s *Service) User(ctx context.Context, caller Principal, id string) (User, error) {
	u, _, err := s.permitUser(ctx, caller, id, "get", nil)
	if err != nil {
		return User{}, err
	}
	return *u, nil
}

// FindUser is [Service.User] by id or email.
func (s *Service) FindUser(ctx context.Context, caller Principal, idOrEmail string) (User, error) {
	if caller.Anonymous() {
		return User{}, ErrUnauthenticated
	}
	if strings.Contains(idOrEmail, "@") {
		u, err := s.store.UserByEmail(ctx, strings.ToLower(idOrEmail))
		if err != nil && !errors.Is(err, ErrNotFound) {
			return User{}, fmt.Errorf("find user: %w", err)
		}
		// Unknown addresses take the same way: get is asked about what was typed.
		if err == nil {
			idOrEmail = u.ID
		}
	}
	return s.User(ctx, caller, idOrEmail)
}

// UserChange is what to change of a user. A nil member stays as it is; a
// member that points to a nil pointer becomes NULL.
type UserChange struct {
	Name            *string
	Email           *string
	EmailVerified   *bool
	Image           **string
	Username        **string // as typed
	DisplayUsername **string
	Roles           *[]string
	Banned          *bool
	BanReason       **string
	BanExpires      **time.Time
	CreatedAt       *time.Time
	UpdatedAt       *time.Time
	Attributes      map[string]any
}

// fields names what c changes.
func (c *UserChange) fields() []string {
	var fields []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"name", c.Name != nil}, {"email", c.Email != nil}, {"emailVerified", c.EmailVerified != nil},
		{"image", c.Image != nil}, {"username", c.Username != nil}, {"displayUsername", c.DisplayUsername != nil},
		{"role", c.Roles != nil}, {"banned", c.Banned != nil}, {"banReason", c.BanReason != nil},
		{"banExpires", c.BanExpires != nil}, {"createdAt", c.CreatedAt != nil}, {"updatedAt", c.UpdatedAt != nil},
	} {
		if f.set {
			fields = append(fields, f.name)
		}
	}
	return append(fields, slices.Sorted(maps.Keys(c.Attributes))...)
}

func (c *UserChange) ban() bool { return c.Banned != nil || c.BanReason != nil || c.BanExpires != nil }

// UpdateUser: user:update, and set-role, ban, set-email for those members. An
// empty id is the caller's own. On oneself, too, the members other than name,
// image and usernames need what an administrator needs. ErrUserNotFound,
// ErrNothingToChange, ErrSelf if oneself is to be banned, ErrLastAdmin, and what
// [Service.CreateUser] says of values.
func (s *Service) UpdateUser(ctx context.Context, caller Principal, id string, c UserChange) (User, error) {
	if caller.Anonymous() {
		return User{}, ErrUnauthenticated
	}
	if id == "" {
		me, err := caller.person()
		if err != nil {
			return User{}, err
		}
		id = me.ID
	}
	u, r, err := s.target(ctx, id, "update")
	if err != nil {
		return User{}, err
	}
	decision, err := s.permit(ctx, caller, "update", r)
	if err != nil {
		return User{}, err
	}
	fields := c.fields()
	if len(fields) == 0 {
		return User{}, ErrNothingToChange
	}
	if caller.is(id) && (c.CreatedAt != nil || c.UpdatedAt != nil || len(c.Attributes) > 0) {
		// Rules may rest on these, so they are not one's own to write: asked
		// without an owner, only a role permits it.
		if _, err := s.permit(ctx, caller, "update", authz.Resource{Type: "user"}); err != nil {
			return User{}, err
		}
	}
	if c.Roles != nil {
		if _, err := s.permit(ctx, caller, "set-role", s.withNewRoles(r, *c.Roles)); err != nil {
			return User{}, err
		}
		if err := s.checkRoles(*c.Roles); err != nil {
			return User{}, err
		}
	}
	if c.ban() {
		if value(c.Banned) && caller.is(id) {
			return User{}, s.notOneself(ctx, caller, "ban")
		}
		if _, err := s.permit(ctx, caller, "ban", r); err != nil {
			return User{}, err
		}
	}
	if c.Email != nil || c.EmailVerified != nil {
		if _, err := s.permit(ctx, caller, "set-email", r); err != nil {
			return User{}, err
		}
	}
	if c.Email != nil {
		lower := strings.ToLower(*c.Email)
		c.Email = &lower
		if !ValidEmail(lower) {
			return User{}, ErrBadEmail
		}
		switch other, err := s.store.UserByEmail(ctx, lower); {
		case err == nil && other.ID != id:
			return User{}, ErrEmailTaken
		case err != nil && !errors.Is(err, ErrNotFound):
			return User{}, fmt.Errorf("update user: %w", err)
		}
	}
	if c.Username != nil && *c.Username != nil {
		if err := s.CheckUsername(**c.Username); err != nil {
			return User{}, err
		}
		if err := s.usernameFree(ctx, *c.Username, id); err != nil {
			return User{}, err
		}
	}
	if u == nil {
		return User{}, ErrUserNotFound
	}
	var also UserEffects
	if c.Roles != nil || c.ban() {
		rule := s.adminRule()
		also.KeepAdmin = &rule
	}
	also.EndSessions = value(c.Banned)
	ev := s.event(caller, "user.update", "user", id, decision, map[string]any{"fields": authz.Texts(fields)})
	return s.changeUser(ctx, id, c.apply, also, ev)
}

// apply writes c into u.
func (c *UserChange) apply(u *User) {
	set(&u.Name, c.Name)
	set(&u.Email, c.Email)
	set(&u.EmailVerified, c.EmailVerified)
	set(&u.Image, c.Image)
	set(&u.DisplayUsername, c.DisplayUsername)
	set(&u.Banned, c.Banned)
	set(&u.BanReason, c.BanReason)
	set(&u.CreatedAt, moment(c.CreatedAt))
	set(&u.UpdatedAt, moment(c.UpdatedAt))
	if c.BanExpires != nil {
		u.BanExpires = moment(*c.BanExpires)
	}
	if c.Username != nil {
		u.Username = nil
		if *c.Username != nil {
			lower := strings.ToLower(**c.Username)
			u.Username = &lower
		}
	}
	if c.Roles != nil {
		joined := strings.Join(*c.Roles, ",")
		u.Role = &joined
	}
	if len(c.Attributes) > 0 {
		merged := maps.Clone(u.Attributes)
		if merged == nil {
			merged = map[string]any{}
		}
		maps.Copy(merged, c.Attributes)
		u.Attributes = merged
	}
}

func set[T any](member *T, to *T) {
	if to != nil {
		*member = *to
	}
}

func (s *Service) withNewRoles(r authz.Resource, roles []string) authz.Resource {
	r.Properties = maps.Clone(r.Properties)
	r.Properties["newRoles"] = authz.Texts(s.splitRoles(strings.Join(roles, ",")))
	return r
}

// SetRoles gives a user these roles and no others: user:set-role. ErrUserNotFound,
// ErrUnknownRole, ErrLastAdmin.
func (s *Service) SetRoles(ctx context.Context, caller Principal, id string, roles []string) (User, error) {
	if caller.Anonymous() {
		return User{}, ErrUnauthenticated
	}
	u, r, err := s.target(ctx, id, "set-role")
	if err != nil {
		return User{}, err
	}
	decision, err := s.permit(ctx, caller, "set-role", s.withNewRoles(r, roles))
	if err != nil {
		return User{}, err
	}
	if err := s.checkRoles(roles); err != nil {
		return User{}, err
	}
	if u == nil {
		return User{}, ErrUserNotFound
	}
	rule := s.adminRule()
	ev := s.event(caller, "user.set-role", "user", id, decision, map[string]any{"from": textOrNull(u.Role), "to": strings.Join(roles, ",")})
	c := UserChange{Roles: &roles}
	return s.changeUser(ctx, id, c.apply, UserEffects{KeepAdmin: &rule}, ev)
}

// SetPassword: user:set-password. The user's sessions end. ErrUserNotFound,
// ErrPasswordShort, ErrPasswordLong, ErrBusy; *InvalidError of a service account.
func (s *Service) SetPassword(ctx context.Context, caller Principal, id string, password Secret) error {
	if caller.Anonymous() {
		return ErrUnauthenticated
	}
	u, r, err := s.target(ctx, id, "set-password")
	if err != nil {
		return err
	}
	decision, err := s.permit(ctx, caller, "set-password", r)
	if err != nil {
		return err
	}
	if err := s.checkPassword(password); err != nil {
		return err
	}
	switch {
	case u == nil:
		return ErrUserNotFound
	case u.ServiceAccount:
		return &InvalidError{"userId", "service accounts have no password"}
	}
	hash, err := s.passwords.hash(ctx, password)
	if err != nil {
		return err
	}
	ev := s.event(caller, "user.set-password", "user", id, decision, nil)
	if err := s.store.SetPassword(ctx, id, hash, UserEffects{EndSessions: true}, ev); err != nil {
		return fmt.Errorf("set password: %w", gone(err, ErrUserNotFound))
	}
	s.Forget("user", id)
	return nil
}

// Ban: user:ban. The user's sessions end, and keys stop. Empty reason and zero life
// are the defaults. ErrUserNotFound, ErrSelf, ErrLastAdmin; *InvalidError of a life
// that is negative.
func (s *Service) Ban(ctx context.Context, caller Principal, id, reason string, life time.Duration) (User, error) {
	if caller.is(id) {
		return User{}, s.notOneself(ctx, caller, "ban")
	}
	_, decision, err := s.permitUser(ctx, caller, id, "ban", nil)
	if err != nil {
		return User{}, err
	}
	if life < 0 {
		return User{}, &InvalidError{"banExpiresIn", "is negative"}
	}
	if reason == "" {
		reason = s.o.DefaultBanReason
	}
	if life == 0 {
		life = s.o.DefaultBanLife
	}
	details := map[string]any{"reason": reason}
	var expires *time.Time
	if life > 0 {
		t := s.now().Add(life)
		expires = moment(&t)
		details["expires"] = expires.Format(time.RFC3339)
	}
	rule := s.adminRule()
	ev := s.event(caller, "user.ban", "user", id, decision, details)
	return s.changeUser(ctx, id, func(u *User) {
		u.Banned, u.BanReason, u.BanExpires = true, &reason, expires
	}, UserEffects{EndSessions: true, KeepAdmin: &rule}, ev)
}

// notOneself answers a call that nobody can make on themselves: ErrSelf for
// those who may make it on others, which is asked without naming anybody.
func (s *Service) notOneself(ctx context.Context, caller Principal, action string) error {
	if _, err := s.permit(ctx, caller, action, authz.Resource{Type: "user"}); err != nil {
		return err
	}
	return ErrSelf
}

// Unban: user:ban. ErrUserNotFound.
func (s *Service) Unban(ctx context.Context, caller Principal, id string) (User, error) {
	_, decision, err := s.permitUser(ctx, caller, id, "ban", nil)
	if err != nil {
		return User{}, err
	}
	ev := s.event(caller, "user.unban", "user", id, decision, nil)
	return s.changeUser(ctx, id, func(u *User) {
		u.Banned, u.BanReason, u.BanExpires = false, nil, nil
	}, UserEffects{}, ev)
}

// changeUser writes a change and forgets what was built on the user.
func (s *Service) changeUser(ctx context.Context, id string, change func(*User), also UserEffects, ev audit.Event) (User, error) {
	now := s.now()
	u, err := s.store.UpdateUser(ctx, id, func(u *User) error {
		u.UpdatedAt = now
		change(u)
		return nil
	}, also, ev)
	if err != nil {
		return User{}, fmt.Errorf("%s: %w", ev.Kind, gone(taken(err), ErrUserNotFound))
	}
	s.Forget("user", id)
	return u, nil
}

// RemoveUser: user:delete. Sessions, accounts and keys go with the user.
// ErrUserNotFound, ErrSelf, ErrLastAdmin.
func (s *Service) RemoveUser(ctx context.Context, caller Principal, id string) error {
	if caller.is(id) {
		return s.notOneself(ctx, caller, "delete") // one's own account is for DeleteOwn
	}
	_, decision, err := s.permitUser(ctx, caller, id, "delete", nil)
	if err != nil {
		return err
	}
	return s.removeUser(ctx, caller, id, decision)
}

func (s *Service) removeUser(ctx context.Context, caller Principal, id, decision string) error {
	rule := s.adminRule()
	ev := s.event(caller, "user.delete", "user", id, decision, nil)
	if err := s.store.DeleteUser(ctx, id, &rule, ev); err != nil {
		return fmt.Errorf("delete user: %w", gone(err, ErrUserNotFound))
	}
	s.Forget("user", id)
	return nil
}
