package betterauth

import (
	"github.com/ostiary/ostiary/authn"
)

func (s *surface) usernameRoutes() []route {
	var (
		short   = refuse(422, errUsernameShort.Code, errUsernameShort.Message)
		long    = refuse(422, errUsernameLong.Code, errUsernameLong.Message)
		invalid = refuse(422, errUsernameInvalid.Code, errUsernameInvalid.Message)
	)
	words := []wording{
		{authn.ErrUsernameShort, short}, {authn.ErrUsernameLong, long}, {authn.ErrUsernameInvalid, invalid},
		{authn.ErrBadLogin, errBadUsernameLogin},
	}
	return []route{
		// Better Auth does not protect this route against login CSRF.
		{method: "POST", path: "/sign-in/username", login: true, handle: signInUsername, words: words,
			body: schema{{"username", isText}, {"password", isText}, {"rememberMe", optionally(isBoolean)}, {"callbackURL", optionally(isText)}}},
		{method: "POST", path: "/is-username-available", handle: isUsernameAvailable, words: words,
			body: schema{{"username", isText}}},
	}
}

var errBadUsernameLogin = refuse(401, "INVALID_USERNAME_OR_PASSWORD", "Invalid username or password")

func signInUsername(c *call) (any, error) {
	if !c.body.truthy("username") || !c.body.truthy("password") {
		return nil, errBadUsernameLogin
	}
	if err := c.s.auth.CheckUsername(c.body.text("username")); err != nil {
		return nil, err
	}
	return c.signIn(authn.SignIn{Username: c.body.text("username")})
}

func isUsernameAvailable(c *call) (any, error) {
	name := c.body.text("username")
	if name == "" {
		return nil, authn.ErrUsernameInvalid
	}
	free, err := c.s.auth.UsernameAvailable(c.ctx, name)
	if err != nil {
		return nil, err
	}
	return struct {
		Available bool `json:"available"`
	}{free}, nil
}

// signUpUsername checks a username before anything else about a sign-up, and
// lets username and displayUsername stand in for each other.
func signUpUsername(c *call) error {
	username, display := c.body.optionalText("username"), c.body.optionalText("displayUsername")
	switch {
	case username != nil:
		free, err := c.usernameFree(*username)
		if err != nil {
			return err
		}
		if !free {
			return errUsernameTaken
		}
		if display == nil {
			c.body["displayUsername"] = c.body["username"]
		}
	case c.body["username"].truthy():
		return refuse(422, "FAILED_TO_CREATE_USER", "Failed to create user")
	case display != nil:
		if free, err := c.usernameFree(*display); err == nil && free {
			c.body["username"] = c.body["displayUsername"]
		} else if isUnavailable(err) {
			return err
		}
	}
	return nil
}

func (c *call) usernameFree(name string) (bool, error) {
	if err := c.s.auth.CheckUsername(name); err != nil {
		return false, err
	}
	return c.s.auth.UsernameAvailable(c.ctx, name)
}

// updateUsername does the same for a change; whether the name is taken by
// somebody else shows when it is made.
func updateUsername(c *call) error {
	if name := c.body.optionalText("username"); name != nil {
		return c.s.auth.CheckUsername(*name)
	}
	return nil
}
