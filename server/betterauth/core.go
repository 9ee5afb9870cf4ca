package betterauth

import (
	"errors"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/server/request"
)

const getSessionPath = "/get-session"

// listMost is how many sessions are listed.
const listMost = 100

func (s *surface) coreRoutes() []route {
	remember := field{"rememberMe", optionally(isBoolean)}
	callback := field{"callbackURL", optionally(isText)}
	password := field{"password", isText}
	return []route{
		{method: "GET", path: "/ok", handle: ok},
		{method: "GET", path: "/error", handle: errorPage},
		{method: "POST", path: "/sign-up/email", forms: true, login: true, hook: signUpUsername, handle: signUp,
			body: schema{
				{"name", isText}, {"email", isEmail}, {"password", isNonEmpty("Too small: expected string to have >=1 characters")},
				{"image", optionally(isText)}, callback, remember,
			},
			words: []wording{{authn.ErrEmailTaken, errUserExists422}}},
		{method: "POST", path: "/sign-in/email", forms: true, login: true, handle: signInEmail,
			body: schema{{"email", isText}, password, callback, remember}},
		{method: "POST", path: "/sign-in/social", handle: signInSocial, body: schema{{"provider", isText}}},
		{method: "POST", path: "/sign-out", handle: signOut},
		{method: "GET", path: getSessionPath, needs: optional, handle: getSession},
		{method: "POST", path: getSessionPath, needs: optional, handle: getSession},
		{method: "GET", path: "/list-sessions", needs: errUnauthorized, handle: listSessions},
		{method: "POST", path: "/revoke-session", needs: errUnauthorized, handle: revokeSession, body: schema{{"token", isText}}},
		{method: "POST", path: "/revoke-sessions", needs: errUnauthorized, handle: revokeSessions},
		{method: "POST", path: "/revoke-other-sessions", needs: errUnauthorized, handle: revokeOtherSessions},
		{method: "POST", path: "/update-user", needs: errUnauthorized, hook: updateUsername, handle: updateUser},
		{method: "POST", path: "/update-session", needs: errUnauthorized, handle: updateSession},
		{method: "POST", path: "/change-password", needs: errUnauthorized, handle: changePassword,
			body: schema{{"newPassword", isText}, {"currentPassword", isText}, {"revokeOtherSessions", optionally(isBoolean)}}},
		{method: "POST", path: "/verify-password", needs: errUnauthorized, handle: verifyPassword, body: schema{password},
			words: []wording{{authn.ErrNoPassword, wordsFor(authn.ErrWrongPassword)}}},
		{method: "POST", path: "/change-email", needs: errUnauthorized, handle: changeEmail,
			body: schema{{"newEmail", isEmail}, callback}},
		{method: "POST", path: "/delete-user", needs: errUnauthorized, handle: deleteUser,
			words: []wording{
				{authn.ErrNotFresh, refuse(400, "SESSION_EXPIRED", "Session expired. Re-authenticate to perform this action.")},
			}},
		{method: "GET", path: "/list-accounts", needs: errUnauthorized, handle: listAccounts},
		{method: "POST", path: "/request-password-reset", body: schema{{"email", isEmail}, {"redirectTo", optionally(isText)}},
			handle: always(refuse(400, "RESET_PASSWORD_DISABLED", "Reset password isn't enabled"))},
		{method: "POST", path: "/send-verification-email", body: schema{{"email", isEmail}, callback},
			handle: always(refuse(400, "VERIFICATION_EMAIL_NOT_ENABLED", "Verification email isn't enabled"))},
	}
}

func always(e *apiError) func(*call) (any, error) {
	return func(*call) (any, error) { return nil, e }
}

func ok(*call) (any, error) {
	return struct {
		OK bool `json:"ok"`
	}{true}, nil
}

var errorCode = regexp.MustCompile(`^[A-Za-z0-9_'-]+$`)

// errorPage sends on to the application's own page.
func errorPage(c *call) (any, error) {
	q := c.r.URL.Query()
	code := q.Get("error")
	if !errorCode.MatchString(code) {
		code = "UNKNOWN"
	}
	to := "/?error=" + formEscape(code)
	if d := q.Get("error_description"); d != "" {
		to += "&error_description=" + formEscape(d)
	}
	c.w.Header().Set("Location", to)
	return nil, &apiError{Status: http.StatusFound, bare: true}
}

// ---- Signing up, in and out ----

type signedUp struct {
	Token *string    `json:"token"`
	User  UserObject `json:"user"`
}

type signedIn struct {
	Redirect bool       `json:"redirect"`
	Token    string     `json:"token"`
	URL      string     `json:"url,omitempty"`
	User     UserObject `json:"user"`
}

func fieldNotAllowed(name string) *apiError {
	return refuse(400, "FIELD_NOT_ALLOWED", name+" is not allowed to be set")
}

func signUp(c *call) (any, error) {
	for _, name := range []string{"role", "banReason", "banExpires"} {
		if c.body.truthy(name) {
			return nil, fieldNotAllowed(name)
		}
	}
	dontRemember := c.body.is("rememberMe", false)
	in, err := c.s.auth.SignUp(c.ctx, c.caller, authn.SignUp{
		Name: c.body.text("name"), Email: c.body.text("email"), Password: authn.Secret(c.body.text("password")),
		Image:    c.body.optionalText("image"),
		Username: c.body.optionalText("username"), DisplayUsername: c.body.optionalText("displayUsername"),
		DontRemember: dontRemember, Device: c.device(),
	})
	if err != nil {
		return nil, err
	}
	out := signedUp{User: NewUserObject(in.User)}
	if in.Session != nil {
		token := in.Session.Token.Reveal()
		out.Token = &token
		c.setSession(*in.Session, in.User, dontRemember)
	}
	return out, nil
}

func signInEmail(c *call) (any, error) {
	return c.signIn(authn.SignIn{Email: c.body.text("email")})
}

func (c *call) signIn(in authn.SignIn) (any, error) {
	in.Password = authn.Secret(c.body.text("password"))
	in.DontRemember = c.body.is("rememberMe", false)
	in.Device = c.device()
	got, err := c.s.auth.SignIn(c.ctx, c.caller, in)
	if err != nil {
		return nil, err
	}
	return c.welcome(got, in.DontRemember)
}

// welcome answers a sign-in.
func (c *call) welcome(in authn.SignedIn, dontRemember bool) (any, error) {
	if in.Session == nil {
		return nil, errors.New("sign-in without a session")
	}
	c.setSession(*in.Session, in.User, dontRemember)
	if !dontRemember && c.dontRemember {
		c.setCookie(request.DontRememberCookie, "", deleted)
	}
	out := signedIn{Token: in.Session.Token.Reveal(), User: NewUserObject(in.User)}
	if u := c.body.text("callbackURL"); u != "" {
		out.Redirect, out.URL = true, u
		c.w.Header().Set("Location", u)
	}
	return out, nil
}

func signInSocial(*call) (any, error) {
	return nil, refuse(404, "PROVIDER_NOT_FOUND", "Provider not found")
}

// signOut ends the session that was presented, and succeeds whatever was. An
// API key can't be signed out.
func signOut(c *call) (any, error) {
	cred, _, err := c.s.rd.Credential(c.r)
	if err == nil && cred.Kind != authn.NoCredential && cred.Kind != authn.APIKeySecret {
		caller, err := c.s.auth.Authenticate(c.ctx, cred)
		if err == nil {
			err = c.s.auth.SignOut(c.ctx, caller)
		}
		if isUnavailable(err) {
			return nil, err
		}
	}
	c.clearSession()
	return successObject{true}, nil
}

// ---- The session ----

func getSession(c *call) (any, error) {
	if c.caller.Key() != nil && c.session == nil {
		return c.virtualSession(), nil
	}
	c.w.Header().Set("Cache-Control", "no-store")
	c.w.Header().Set("Pragma", "no-cache")
	if c.r.Method == http.MethodPost {
		return nil, refuse(405, "METHOD_NOT_ALLOWED_DEFER_SESSION_REQUIRED", "POST method requires deferSessionRefresh to be enabled in session config")
	}
	if c.session == nil {
		return nil, nil
	}
	return sessionAnswer{newSessionObject(*c.session, true), NewUserObject(*c.caller.User())}, nil
}

// virtualSession shows an API key as if it were a session, without the key.
func (c *call) virtualSession() any {
	key, now := c.caller.Key(), time.Now()
	v := virtualSession{
		ID: key.ID, Token: key.ID, UserID: c.own(),
		CreatedAt: date(now), UpdatedAt: date(now), ExpiresAt: date(now.Add(604800 * time.Millisecond)),
	}
	if key.ExpiresAt != nil {
		v.ExpiresAt = date(*key.ExpiresAt)
	}
	if d := c.device(); d.UserAgent != "" {
		v.UserAgent = &d.UserAgent
	}
	if d := c.device(); d.IPAddress != "" {
		v.IPAddress = &d.IPAddress
	}
	return struct {
		User    UserObject     `json:"user"`
		Session virtualSession `json:"session"`
	}{NewUserObject(*c.caller.User()), v}
}

func listSessions(c *call) (any, error) {
	sessions, err := c.s.auth.Sessions(c.ctx, c.caller, "")
	if err != nil {
		return nil, err
	}
	live := sessions[:0]
	for _, s := range sessions {
		if s.ImpersonatedBy == nil && s.ExpiresAt.After(time.Now()) {
			live = append(live, s)
		}
	}
	return sessionObjects(live), nil
}

func sessionObjects(sessions []authn.Session) []sessionObject {
	out := []sessionObject{}
	for _, s := range sessions[:min(len(sessions), listMost)] {
		out = append(out, newSessionObject(s, s.Token != ""))
	}
	return out
}

func revokeSession(c *call) (any, error) {
	token := authn.Secret(c.body.text("token"))
	if err := c.s.auth.RevokeSession(c.ctx, c.caller, c.own(), token); err != nil {
		return nil, err
	}
	if c.session != nil && (token == c.session.Token || token.Reveal() == c.session.ID) {
		c.clearSession()
	}
	return statusObject{true}, nil
}

func revokeSessions(c *call) (any, error) {
	if err := c.s.auth.RevokeSessions(c.ctx, c.caller, c.own(), false); err != nil {
		return nil, err
	}
	c.clearSession()
	return statusObject{true}, nil
}

func revokeOtherSessions(c *call) (any, error) {
	if err := c.s.auth.RevokeSessions(c.ctx, c.caller, c.own(), true); err != nil {
		return nil, err
	}
	return statusObject{true}, nil
}

var errNoFields = &apiError{Status: 400, Message: "No fields to update"}

func updateSession(c *call) (any, error) {
	if c.body.truthy("impersonatedBy") {
		return nil, fieldNotAllowed("impersonatedBy")
	}
	return nil, errNoFields
}

// ---- One's own account ----

func updateUser(c *call) (any, error) {
	switch k := c.whole.kind(); {
	case k == "undefined":
		return nil, errCrash // as recorded
	case k != "object":
		return nil, invalid("[body] Invalid input: expected record, received " + k)
	}
	if c.body.truthy("email") {
		return nil, refuse(400, "EMAIL_CAN_NOT_BE_UPDATED", "Email can not be updated")
	}
	for _, name := range []string{"role", "banned", "banReason", "banExpires"} {
		if c.body.truthy(name) {
			return nil, fieldNotAllowed(name)
		}
	}
	if c.body["name"].kind() == "null" {
		return nil, errCrash // as recorded
	}
	var change authn.UserChange
	if err := c.profile(&change, c.body, "body"); err != nil {
		return nil, err
	}
	if change.Name == nil && change.Image == nil && change.Username == nil && change.DisplayUsername == nil {
		return nil, errNoFields
	}
	u, err := c.s.auth.UpdateUser(c.ctx, c.caller, "", change)
	if err != nil {
		return nil, err
	}
	c.reissue(u)
	return statusObject{true}, nil
}

// profile reads the members that people change of themselves.
func (c *call) profile(change *authn.UserChange, m members, where string) error {
	issues := schema{
		{"name", optionally(isText)}, {"image", nullable(isText)},
		{"username", nullable(isText)}, {"displayUsername", nullable(isText)},
	}.messages(where, m)
	if issues != nil {
		return invalid(issues...)
	}
	change.Name = m.optionalText("name")
	for name, to := range map[string]***string{
		"image": &change.Image, "username": &change.Username, "displayUsername": &change.DisplayUsername,
	} {
		if m[name] != nil {
			v := m.optionalText(name)
			*to = &v
		}
	}
	return nil
}

func changePassword(c *call) (any, error) {
	u, session, err := c.s.auth.ChangePassword(c.ctx, c.caller,
		authn.Secret(c.body.text("currentPassword")), authn.Secret(c.body.text("newPassword")),
		c.body.is("revokeOtherSessions", true), c.device())
	if err != nil {
		return nil, err
	}
	out := signedUp{User: NewUserObject(u)}
	if session != nil {
		token := session.Token.Reveal()
		out.Token = &token
		c.setSession(*session, u, c.dontRemember)
	}
	return out, nil
}

func verifyPassword(c *call) (any, error) {
	if err := c.s.auth.VerifyPassword(c.ctx, c.caller, authn.Secret(c.body.text("password"))); err != nil {
		return nil, err
	}
	return statusObject{true}, nil
}

func changeEmail(c *call) (any, error) {
	if !c.s.o.ChangeEmail {
		return nil, refuse(400, "CHANGE_EMAIL_DISABLED", "Change email is disabled")
	}
	email := strings.ToLower(c.body.text("newEmail"))
	if u := c.caller.User(); u != nil && u.EmailVerified && u.Email != email {
		// A verified address would have to be verified again, by mail.
		return nil, &apiError{Status: 400, Message: "Verification email isn't enabled"}
	}
	u, err := c.s.auth.ChangeEmail(c.ctx, c.caller, email)
	if err != nil {
		return nil, err
	}
	if u.Email == email { // else it is taken, which must look the same but for the cookie
		c.reissue(u)
	}
	return statusObject{true}, nil
}

func deleteUser(c *call) (any, error) {
	if !c.s.o.DeleteUser {
		return nil, &apiError{Status: http.StatusNotFound}
	}
	issues := schema{{"callbackURL", optionally(isText)}, {"password", optionally(isText)}, {"token", optionally(isText)}}.messages("body", c.body)
	if issues != nil {
		return nil, invalid(issues...)
	}
	if c.body.truthy("token") {
		return nil, refuse(404, "INVALID_TOKEN", "Invalid token")
	}
	var password *authn.Secret
	if c.body.truthy("password") {
		p := authn.Secret(c.body.text("password"))
		password = &p
	}
	if err := c.s.auth.DeleteOwn(c.ctx, c.caller, password); err != nil {
		return nil, err
	}
	c.clearSession()
	return struct {
		Success bool   `json:"success"`
		Message string `json:"message"`
	}{true, "User deleted"}, nil
}

func listAccounts(c *call) (any, error) {
	accounts, err := c.s.auth.Accounts(c.ctx, c.caller)
	if err != nil {
		return nil, err
	}
	out := []accountObject{}
	for _, a := range accounts {
		out = append(out, accountObject{a.AccountID, a.ProviderID, a.UserID, date(a.CreatedAt), date(a.UpdatedAt), a.ID, []string{}})
	}
	return out, nil
}
