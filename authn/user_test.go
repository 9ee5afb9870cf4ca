package authn_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

func TestAnonymousManagesNothing(t *testing.T) {
	h := open(t)
	nobody := authn.Principal{}
	ctx := t.Context()
	for name, err := range map[string]error{
		"Sessions":     second(h.Sessions(ctx, nobody, h.admin.ID)),
		"Revoke":       h.RevokeSessions(ctx, nobody, h.admin.ID, false),
		"Accounts":     second(h.Accounts(ctx, nobody)),
		"CreateUser":   second(h.CreateUser(ctx, nobody, authn.NewUser{Email: "x@example.com"})),
		"User":         second(h.User(ctx, nobody, h.admin.ID)),
		"FindUser":     second(h.FindUser(ctx, nobody, h.admin.Email)),
		"UpdateUser":   second(h.UpdateUser(ctx, nobody, h.admin.ID, authn.UserChange{Name: pointer("x")})),
		"UpdateOwn":    second(h.UpdateUser(ctx, nobody, "", authn.UserChange{Name: pointer("x")})),
		"SetRoles":     second(h.SetRoles(ctx, nobody, h.admin.ID, nil)),
		"SetPassword":  h.SetPassword(ctx, nobody, h.admin.ID, "a new password"),
		"Ban":          second(h.Ban(ctx, nobody, h.admin.ID, "", 0)),
		"Unban":        second(h.Unban(ctx, nobody, h.admin.ID)),
		"RemoveUser":   h.RemoveUser(ctx, nobody, h.admin.ID),
		"DeleteOwn":    h.DeleteOwn(ctx, nobody, nil),
		"ChangeEmail":  second(h.ChangeEmail(ctx, nobody, "x@example.com")),
		"Impersonate":  second(h.Impersonate(ctx, nobody, h.admin.ID, authn.Device{})),
		"SignInKey":    second(h.SignInKey(ctx, nobody, authn.Device{})),
		"DeleteKey":    h.DeleteKey(ctx, nobody, "k"),
		"Key":          second(h.Key(ctx, nobody, "k")),
		"VerifyKey":    second(h.VerifyKey(ctx, nobody, "k", nil)),
		"UpdateKey":    second(h.UpdateKey(ctx, nobody, "k", authn.KeyChange{})),
		"DeleteEnded":  second(h.DeleteEndedKeys(ctx, nobody)),
		"VerifyPasswd": h.VerifyPassword(ctx, nobody, "x"),
	} {
		if !errors.Is(err, authn.ErrUnauthenticated) {
			t.Errorf("%s: got %v, want %v", name, err, authn.ErrUnauthenticated)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// Whoever may not do a thing does not learn by trying whether the user exists.
func TestPermissionComesBeforeExistence(t *testing.T) {
	h := open(t)
	known, ann, ctx := h.user("known"), h.session(h.user("ann")), t.Context()
	for _, id := range []string{known.ID, "unknown"} {
		for name, err := range map[string]error{
			"get":          second(h.User(ctx, ann, id)),
			"update":       second(h.UpdateUser(ctx, ann, id, authn.UserChange{Name: pointer("x")})),
			"set-role":     second(h.SetRoles(ctx, ann, id, []string{"admin"})),
			"set-password": h.SetPassword(ctx, ann, id, "a new password"),
			"ban":          second(h.Ban(ctx, ann, id, "", 0)),
			"unban":        second(h.Unban(ctx, ann, id)),
			"delete":       h.RemoveUser(ctx, ann, id),
			"sessions":     second(h.Sessions(ctx, ann, id)),
			"revoke":       h.RevokeSessions(ctx, ann, id, false),
			"create key":   third(h.CreateKey(ctx, ann, authn.NewKey{OwnerID: id})),
		} {
			if d, ok := errors.AsType[*authz.DeniedError](err); !ok || !d.Has("role_missing") || len(d.Decision.Reasons) != 1 {
				t.Errorf("%s of %q: got %v", name, id, err)
			}
		}
	}
	for name, err := range map[string]error{
		"get":          second(h.User(ctx, h.root, "unknown")),
		"update":       second(h.UpdateUser(ctx, h.root, "unknown", authn.UserChange{Name: pointer("x")})),
		"set-role":     second(h.SetRoles(ctx, h.root, "unknown", []string{"user"})),
		"set-password": h.SetPassword(ctx, h.root, "unknown", "a new password"),
		"ban":          second(h.Ban(ctx, h.root, "unknown", "", 0)),
		"unban":        second(h.Unban(ctx, h.root, "unknown")),
		"delete":       h.RemoveUser(ctx, h.root, "unknown"),
		"find":         second(h.FindUser(ctx, h.root, "unknown@example.com")),
	} {
		if !errors.Is(err, authn.ErrUserNotFound) {
			t.Errorf("%s: got %v, want %v", name, err, authn.ErrUserNotFound)
		}
	}
	if u := must(h.FindUser(ctx, h.root, known.Email))(t); u.ID != known.ID {
		t.Errorf("found %s", u.ID)
	}
}

func third[A, B any](_ A, _ B, err error) error { return err }

func TestTheLastAdministratorStays(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	boss := h.user("boss", "helper,admin")
	h.author(map[string]*file{"data.json": {Data: []byte(`{"roles": {"helper": {"user": ["ban", "delete", "set-role", "update"]}}}`)}})
	helper := h.session(h.user("help", "helper"))
	must(h.SetRoles(ctx, h.root, h.admin.ID, []string{"user"}))(t) // one of two
	for name, c := range map[string]func(authn.Principal) error{
		"ban":    func(p authn.Principal) error { return second(h.Ban(ctx, p, boss.ID, "", 0)) },
		"remove": func(p authn.Principal) error { return h.RemoveUser(ctx, p, boss.ID) },
		"demote": func(p authn.Principal) error { return second(h.SetRoles(ctx, p, boss.ID, []string{"helper"})) },
		"update": func(p authn.Principal) error {
			return second(h.UpdateUser(ctx, p, boss.ID, authn.UserChange{Roles: &[]string{"user"}}))
		},
		"ban by update": func(p authn.Principal) error {
			return second(h.UpdateUser(ctx, p, boss.ID, authn.UserChange{Banned: pointer(true)}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			denied(t, c(helper), "last_admin")
			is(t, c(system), authn.ErrLastAdmin) // whom no policy is asked about
		})
	}
	denied(t, second(h.SetRoles(ctx, h.session(boss), boss.ID, []string{"helper"})), "last_admin")
	denied(t, h.DeleteOwn(ctx, h.session(boss), nil), "last_admin")
	must(h.SetRoles(ctx, helper, boss.ID, []string{"admin"}))(t)
	must(h.UpdateUser(ctx, helper, boss.ID, authn.UserChange{Name: pointer("still here")}))(t)
}

func TestNotOnOneself(t *testing.T) {
	h := open(t)
	// The only administrator: that one cannot is told before that nobody could.
	is(t, second(h.Ban(t.Context(), h.root, h.admin.ID, "", 0)), authn.ErrSelf)
	is(t, h.RemoveUser(t.Context(), h.root, h.admin.ID), authn.ErrSelf)
	is(t, second(h.UpdateUser(t.Context(), h.root, h.admin.ID, authn.UserChange{Banned: pointer(true)})), authn.ErrSelf)
	u := h.user("ann")
	denied(t, second(h.Ban(t.Context(), h.session(u), u.ID, "", 0)), "role_missing")
}

func TestUnknownRolesAreRefused(t *testing.T) {
	h := open(t, func(o *authn.Options) {
		o.KnownRoles = func(role string) bool { return role == "admin" || role == "user" }
	})
	u := h.user("ann")
	for _, roles := range [][]string{{"nope"}, {"user", "nope"}, {"user,admin"}, {""}} {
		is(t, second(h.SetRoles(t.Context(), h.root, u.ID, roles)), authn.ErrUnknownRole)
		is(t, second(h.UpdateUser(t.Context(), h.root, u.ID, authn.UserChange{Roles: &roles})), authn.ErrUnknownRole)
		is(t, second(h.CreateUser(t.Context(), h.root, authn.NewUser{Email: "x@example.com", Roles: roles})), authn.ErrUnknownRole)
	}
	if got := must(h.SetRoles(t.Context(), h.root, u.ID, []string{"user", "admin"}))(t); *got.Role != "user,admin" {
		t.Errorf("role %q", *got.Role)
	}
}

func TestOneselfMayWriteOnlyWhatIsOnesOwn(t *testing.T) {
	h := open(t)
	u := h.user("ann")
	p := h.session(u)
	got := must(h.UpdateUser(t.Context(), p, "", authn.UserChange{Name: pointer("Ann"), Image: pointer(pointer("i")), Username: pointer(pointer("Ann_X")), DisplayUsername: pointer(pointer("A!"))}))(t)
	if got.Name != "Ann" || *got.Image != "i" || *got.Username != "ann_x" || *got.DisplayUsername != "A!" {
		t.Errorf("%+v", got)
	}
	must(h.UpdateUser(t.Context(), p, u.ID, authn.UserChange{Username: pointer(pointer("ANN_x"))}))(t) // one's own is not taken
	if got := must(h.UpdateUser(t.Context(), p, u.ID, authn.UserChange{Username: new(*string)}))(t); got.Username != nil {
		t.Errorf("username %s", *got.Username)
	}
	for name, c := range map[string]authn.UserChange{
		"roles": {Roles: &[]string{"admin"}}, "email": {Email: pointer("x@example.com")}, "verified": {EmailVerified: pointer(true)},
		"banned": {Banned: pointer(false)}, "reason": {BanReason: new(*string)}, "expires": {BanExpires: new(*time.Time)},
		"created": {CreatedAt: pointer(h.now())}, "updated": {UpdatedAt: pointer(h.now())}, "attributes": {Attributes: map[string]any{"plan": "gold"}},
	} {
		t.Run(name, func(t *testing.T) {
			denied(t, second(h.UpdateUser(t.Context(), p, "", c)), "role_missing")
		})
	}
	is(t, second(h.UpdateUser(t.Context(), p, "", authn.UserChange{})), authn.ErrNothingToChange)
}

func TestAdministratorsUpdateUsers(t *testing.T) {
	h := open(t)
	u, other := h.user("ann"), h.user("bob")
	token := h.token(u)
	h.mustAuthenticate(authn.SessionToken, token)
	h.advance(time.Minute)
	ends := h.now().Add(time.Hour)
	got := must(h.UpdateUser(t.Context(), h.root, u.ID, authn.UserChange{
		Email: pointer("Ann.New@Example.com"), EmailVerified: pointer(true), Roles: &[]string{"user", "editor"}, Attributes: map[string]any{"nope": 1},
	}))(t)
	if got.Email != "ann.new@example.com" || !got.EmailVerified || *got.Role != "user,editor" || !got.UpdatedAt.Equal(h.now()) {
		t.Errorf("%+v", got)
	}
	if p := h.mustAuthenticate(authn.SessionToken, token); p.User().Email != got.Email {
		t.Error("remembered as before")
	}
	must(h.UpdateUser(t.Context(), h.root, u.ID, authn.UserChange{Banned: pointer(true), BanReason: pointer(pointer("spam")), BanExpires: pointer(&ends)}))(t)
	h.refused(authn.SessionToken, token, authn.ErrBadCredential)
	is(t, second(h.UpdateUser(t.Context(), h.root, u.ID, authn.UserChange{Email: &other.Email})), authn.ErrEmailTaken)
	is(t, second(h.UpdateUser(t.Context(), h.root, u.ID, authn.UserChange{Email: pointer("nope")})), authn.ErrBadEmail)
	must(h.UpdateUser(t.Context(), h.root, u.ID, authn.UserChange{Email: pointer("ann.new@example.com")}))(t)
}

func TestCreateUserAsksForWhatItGives(t *testing.T) {
	h := open(t)
	h.author(map[string]*file{"data.json": {Data: []byte(`{"roles": {"provisioner": {"user": ["create"]}}}`)}})
	p := h.session(h.user("prov", "provisioner"))
	in := authn.NewUser{Name: "x", Email: "X@Example.com"}
	got := must(h.CreateUser(t.Context(), p, in))(t)
	if got.Email != "x@example.com" || *got.Role != "user" || got.Banned {
		t.Errorf("%+v", got)
	}
	for name, c := range map[string]struct {
		change func(*authn.NewUser)
		want   string
	}{
		"role":  {func(in *authn.NewUser) { in.Roles = []string{"user"} }, "role_missing"},
		"admin": {func(in *authn.NewUser) { in.Roles = []string{"admin"} }, "escalation"},
		"asked": {func(in *authn.NewUser) { in.RolesGiven = true }, "role_missing"},
		"ban":   {func(in *authn.NewUser) { in.Banned = pointer(true) }, "role_missing"},
		"given": {func(in *authn.NewUser) { in.BanGiven = true }, "role_missing"},
	} {
		in := authn.NewUser{Name: "x", Email: "y@example.com"}
		c.change(&in)
		_, err := h.CreateUser(t.Context(), p, in)
		t.Run(name, func(t *testing.T) { denied(t, err, c.want) })
	}
	for name, c := range map[string]struct {
		in   authn.NewUser
		want error
	}{
		"taken":    {authn.NewUser{Email: "x@EXAMPLE.com"}, authn.ErrEmailTaken},
		"email":    {authn.NewUser{Email: "nope"}, authn.ErrBadEmail},
		"short":    {authn.NewUser{Email: "y@example.com", Password: "short"}, authn.ErrPasswordShort},
		"username": {authn.NewUser{Email: "y@example.com", Username: pointer("a b c")}, authn.ErrUsernameInvalid},
	} {
		_, err := h.CreateUser(t.Context(), h.root, c.in)
		t.Run(name, func(t *testing.T) { is(t, err, c.want) })
	}
	given := must(h.CreateUser(t.Context(), h.root, authn.NewUser{Email: "z@example.com", RolesGiven: true, EmailVerified: true, Banned: pointer(true), CreatedAt: pointer(time.Unix(1, 5)), Password: password}))(t)
	if *given.Role != "" || !given.EmailVerified || !given.Banned || !given.CreatedAt.Equal(time.Unix(1, 0)) {
		t.Errorf("%+v", given)
	}
	must(h.Unban(t.Context(), h.root, given.ID))(t)
	must(h.signIn("z@example.com", password))(t)
}

func TestBan(t *testing.T) {
	h := open(t, func(o *authn.Options) { o.DefaultBanReason, o.DefaultBanLife = "Spamming", time.Hour })
	u := h.user("ann")
	for _, c := range []struct {
		reason string
		life   time.Duration
		want   string
		ends   time.Duration
	}{{"", 0, "Spamming", time.Hour}, {"rude", time.Minute, "rude", time.Minute}} {
		got := must(h.Ban(t.Context(), h.root, u.ID, c.reason, c.life))(t)
		if !got.Banned || *got.BanReason != c.want || !got.BanExpires.Equal(h.now().Add(c.ends)) {
			t.Errorf("%+v", got)
		}
	}
	if got := must(h.Unban(t.Context(), h.root, u.ID))(t); got.Banned || got.BanReason != nil || got.BanExpires != nil {
		t.Errorf("%+v", got)
	}
	if _, err := h.Ban(t.Context(), h.root, u.ID, "", -1); err == nil {
		t.Error("a ban that ends before it begins")
	}
}

func TestChangeEmail(t *testing.T) {
	h := open(t)
	u := h.person("ann@example.com", func(u *authn.User) { u.EmailVerified = true })
	h.person("bob@example.com")
	p := h.session(u)
	is(t, second(h.ChangeEmail(t.Context(), p, "nope")), authn.ErrBadEmail)
	is(t, second(h.ChangeEmail(t.Context(), p, "ANN@example.com")), authn.ErrSameEmail)
	if got := must(h.ChangeEmail(t.Context(), p, "bob@example.com"))(t); got.Email != "ann@example.com" {
		t.Errorf("%s", got.Email)
	}
	if got := must(h.ChangeEmail(t.Context(), p, "New@example.com"))(t); got.Email != "new@example.com" || got.EmailVerified {
		t.Errorf("%+v", got)
	}
}

func TestDeletingOnesOwnAccount(t *testing.T) {
	h := open(t)
	u := h.person("ann@example.com")
	token := h.token(u)
	_, secret := h.key(u, nil)
	h.asKey(secret)
	p := h.mustAuthenticate(authn.SessionToken, token)
	is(t, h.DeleteOwn(t.Context(), p, pointer(authn.Secret("wrong"))), authn.ErrWrongPassword)
	h.advance(48 * time.Hour)
	is(t, h.DeleteOwn(t.Context(), p, nil), authn.ErrNotFresh)
	is(t, h.DeleteOwn(t.Context(), p, pointer(password)), nil)
	h.refused(authn.SessionToken, token, authn.ErrBadCredential)
	h.refused(authn.APIKeySecret, secret, authn.ErrBadCredential)

	fresh := h.session(h.user("bob"))
	is(t, h.DeleteOwn(t.Context(), fresh, nil), nil)
}

func TestAKeyWithoutGrantsDoesNothing(t *testing.T) {
	h := open(t)
	u := h.person("ann@example.com", func(u *authn.User) { u.Role = pointer("admin") })
	k, secret := h.key(u, nil)
	p, ctx := h.asKey(secret), t.Context()
	for name, err := range map[string]error{
		"sessions": second(h.Sessions(ctx, p, "")), "revoke": h.RevokeSessions(ctx, p, "", false), "accounts": second(h.Accounts(ctx, p)),
		"verify-password": h.VerifyPassword(ctx, p, password), "users": third(h.Users(ctx, p, authn.UserQuery{})),
		"update": second(h.UpdateUser(ctx, p, "", authn.UserChange{Name: pointer("x")})), "sign-in": second(h.SignInKey(ctx, p, authn.Device{})),
		"key": second(h.Key(ctx, p, k.ID)), "create key": third(h.CreateKey(ctx, p, authn.NewKey{})), "email": second(h.ChangeEmail(ctx, p, "x@example.com")),
		"delete": h.DeleteOwn(ctx, p, pointer(password)), "self": h.RemoveUser(ctx, p, u.ID),
	} {
		t.Run(name, func(t *testing.T) { denied(t, err, "grant_missing") })
	}
}

func TestDescribeSaysWhatTheStoreKnows(t *testing.T) {
	h := open(t)
	u := h.user("ann")
	k, _ := h.key(u, authz.Permissions{"user": {"list"}})
	token := h.token(u)
	session := h.mustAuthenticate(authn.SessionToken, token).Session().ID
	claim := map[string]any{"owner": "me", "lastAdmin": false, "newRoles": []any{"x"}}
	describe := func(typ, id, action string, claim map[string]any) map[string]any {
		return must(h.Describe(t.Context(), authz.Resource{Type: typ, ID: id, Properties: claim}, action))(t).Properties
	}
	if p := describe("user", h.admin.ID, "delete", claim); p["owner"] != h.admin.ID || p["lastAdmin"] != true || p["admin"] != true || p["newRoles"] == nil {
		t.Errorf("user: %v", p)
	}
	if p := describe("session", session, "revoke", claim); p["owner"] != u.ID {
		t.Errorf("session: %v", p)
	}
	if p := describe("apiKey", k.ID, "read", claim); p["owner"] != u.ID || p["permissions"].(map[string]any)["user"] == nil {
		t.Errorf("key: %v", p)
	}
	for _, typ := range []string{"user", "session", "apiKey"} {
		if p := describe(typ, "unknown", "delete", claim); p["owner"] != nil || p["newRoles"] == nil {
			t.Errorf("unknown %s: %v", typ, p)
		}
	}
	if p := describe("document", "d", "read", claim); p["owner"] != "me" {
		t.Errorf("document: %v", p)
	}
	if claim["owner"] != "me" {
		t.Error("the asker's own map was changed")
	}
}

func TestChangesAreOnRecordWithTheirDecision(t *testing.T) {
	h := open(t)
	_, secret := h.key(h.admin, everything)
	p := h.asKey(secret)
	h.advance(time.Second)
	u := must(h.CreateUser(t.Context(), p, authn.NewUser{Email: "x@example.com", Password: password}))(t)
	must(h.SetRoles(t.Context(), p, u.ID, []string{"editor"}))(t)
	for _, kind := range []string{"user.set-role", "user.create"} {
		ev := h.event(kind)
		if ev.TargetID != u.ID || ev.DecisionID == "" || ev.Actor.ID != h.admin.ID || ev.Actor.KeyID != p.Key().ID || ev.Actor.Credential != authz.CredentialAPIKey || !ev.At.Equal(h.now()) {
			t.Errorf("%+v", ev)
		}
	}
	must(h.Unban(t.Context(), system, u.ID))(t)
	if ev := h.event("user.unban"); ev.Actor.Type != "system" || ev.Actor.ID != "test" || ev.DecisionID != "" {
		t.Errorf("%+v", ev)
	}
}
