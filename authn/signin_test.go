package authn_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

const password = authn.Secret("correct-horse-1")

// hashed is how the table has password.
const hashed = "000102030405060708090a0b0c0d0e0f:99b92e4e090f36e3374996c64903fea52f9108c61d5b397d9d601cff2b612f444033d2292b3fe5b23c0df50259a47a50a75272e30aebca6d84244113951e92a2"

// person creates a user whose password is password.
func (h *house) person(email string, change ...func(*authn.User)) authn.User {
	h.Helper()
	u := authn.User{ID: "id-" + email, Name: "P", Email: email, CreatedAt: h.now(), UpdatedAt: h.now()}
	for _, c := range change {
		c(&u)
	}
	if err := h.db.CreateUser(h.Context(), u, hashed, audit.Event{Kind: "user.create"}); err != nil {
		h.Fatal(err)
	}
	return u
}

func (h *house) signIn(email string, secret authn.Secret) (authn.SignedIn, error) {
	return h.SignIn(h.Context(), authn.Principal{}, authn.SignIn{Email: email, Password: secret})
}

func TestSignInMakesASession(t *testing.T) {
	t.Parallel()
	h := open(t)
	u := h.person("ann@example.com", func(u *authn.User) { u.Username = pointer("ann_1") })
	in := must(h.signIn("Ann@Example.COM", password))(t)
	if in.User.ID != u.ID || !in.Session.ExpiresAt.Equal(h.now().Add(7*24*time.Hour)) || in.Session.Fixed || len(in.Session.Token.Reveal()) != 32 {
		t.Errorf("%+v", in.Session)
	}
	if p := h.mustAuthenticate(authn.SessionToken, in.Session.Token); p.User().ID != u.ID || !h.Fresh(p) {
		t.Error("not the user's, or not fresh")
	}
	in = must(h.SignIn(t.Context(), authn.Principal{}, authn.SignIn{Username: "ANN_1", Password: password, DontRemember: true}))(t)
	if !in.Session.ExpiresAt.Equal(h.now().Add(24*time.Hour)) || !in.Session.Fixed {
		t.Errorf("don't remember: %+v", in.Session)
	}
	if ev := h.event("session.create"); ev.Actor.ID != u.ID || ev.DecisionID == "" {
		t.Errorf("on record as %+v", ev)
	}
}

func TestSignInRefusalsInOrder(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *authn.Options) { o.RequireVerifiedEmail = true })
	verified := func(u *authn.User) { u.EmailVerified = true }
	h.person("good@example.com", verified)
	h.person("unverified@example.com", func(u *authn.User) { u.Banned = true })
	h.person("banned@example.com", verified, func(u *authn.User) { u.Banned = true })
	h.person("refused@example.com", verified, func(u *authn.User) { u.Name = "refused" })
	none := must(h.CreateUser(t.Context(), system, authn.NewUser{Name: "x", Email: "none@example.com"}))(t)
	broken := h.person("broken@example.com", verified)
	if err := h.db.SetPassword(t.Context(), broken.ID, "not a hash", authn.UserEffects{}, audit.Event{Kind: "x"}); err != nil {
		t.Fatal(err)
	}
	h.author(map[string]*file{"s.rego": {Data: []byte(`package app.session
deny contains {"code": "not_today", "message": "not today"} if {
	input.action.name == "create"
	startswith(input.resource.properties.user.email, "refused@")
	input.principal.type == "anonymous"
}`)}})
	_ = none
	for _, c := range []struct {
		name string
		in   authn.SignIn
		want error
	}{
		{"good", authn.SignIn{Email: "good@example.com", Password: password}, nil},
		{"malformed email", authn.SignIn{Email: "nope", Password: password}, authn.ErrBadEmail},
		{"password too long", authn.SignIn{Email: "nobody@example.com", Password: authn.Secret(strings.Repeat("x", 129))}, authn.ErrPasswordLong},
		{"unknown user", authn.SignIn{Email: "nobody@example.com", Password: password}, authn.ErrBadLogin},
		{"no password", authn.SignIn{Email: "none@example.com", Password: password}, authn.ErrBadLogin},
		{"malformed hash", authn.SignIn{Email: "broken@example.com", Password: "not a hash"}, authn.ErrBadLogin},
		{"wrong password", authn.SignIn{Email: "unverified@example.com", Password: "wrong"}, authn.ErrBadLogin},
		{"empty password", authn.SignIn{Email: "good@example.com"}, authn.ErrBadLogin},
		{"not verified comes before banned", authn.SignIn{Email: "unverified@example.com", Password: password}, authn.ErrEmailNotVerified},
		{"banned", authn.SignIn{Email: "banned@example.com", Password: password}, authn.ErrUserBanned},
		{"policy comes last", authn.SignIn{Email: "refused@example.com", Password: password}, authz.ErrDenied},
		{"nobody", authn.SignIn{Password: password}, authn.ErrBadLogin},
		{"username, empty password", authn.SignIn{Username: "ann_1"}, authn.ErrBadLogin},
		{"username too short", authn.SignIn{Username: "a", Password: password}, authn.ErrUsernameShort},
		{"unknown username", authn.SignIn{Username: "nobody", Password: password}, authn.ErrBadLogin},
	} {
		in, err := h.SignIn(t.Context(), authn.Principal{}, c.in)
		if !errors.Is(err, c.want) || (in.Session != nil) != (c.want == nil) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestExpiredBanIsLiftedAtSignIn(t *testing.T) {
	t.Parallel()
	h := open(t)
	u := h.person("ann@example.com", func(u *authn.User) {
		u.Banned, u.BanReason, u.BanExpires = true, pointer("spam"), pointer(h.now())
	})
	must(h.signIn("ann@example.com", password))(t)
	if got := must(h.db.User(t.Context(), u.ID))(t); got.Banned || got.BanReason != nil || got.BanExpires != nil {
		t.Errorf("still %+v", got)
	}
}

func TestFailedSignInsAreThrottled(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *authn.Options) {
		o.FailuresPerAccount, o.FailuresPerAddress, o.FailureWindow = 2, 3, time.Minute
	})
	h.person("ann@example.com")
	try := func(email, ip string, secret authn.Secret, want error) {
		t.Helper()
		_, err := h.SignIn(t.Context(), authn.Principal{}, authn.SignIn{Email: email, Password: secret, Device: authn.Device{IPAddress: ip}})
		is(t, err, want)
		if retry, ok := errors.AsType[*authn.RetryError](err); want == authn.ErrThrottled && (!ok || retry.In != time.Minute) {
			t.Errorf("no time to wait: %v", err)
		}
	}
	// Whether an account exists does not show in how it is throttled.
	for _, email := range []string{"ann@example.com", "nobody@example.com"} {
		try(email, "", "wrong", authn.ErrBadLogin)
		try(email, "", "wrong", authn.ErrBadLogin)
		try(email, "", password, authn.ErrThrottled)
	}
	h.advance(time.Minute)
	for range 3 { // success clears the count, and is not counted
		try("ann@example.com", "", "wrong", authn.ErrBadLogin)
		try("ann@example.com", "", password, nil)
	}
	for _, name := range []string{"a", "b", "c"} {
		try(name+"@example.com", "192.0.2.1", "wrong", authn.ErrBadLogin)
	}
	try("ann@example.com", "192.0.2.1", password, authn.ErrThrottled)
	try("ann@example.com", "192.0.2.2", password, nil)
}

func TestGuessesAtOnceAreThrottledToo(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *authn.Options) { o.FailuresPerAccount, o.HashMemory, o.HashWait = 3, 1, time.Minute })
	h.person("ann@example.com")
	var wrong atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := h.signIn("ann@example.com", "wrong"); errors.Is(err, authn.ErrBadLogin) {
				wrong.Add(1)
			}
		})
	}
	all.Wait()
	if wrong.Load() > 3 {
		t.Errorf("%d guesses were tried, want 3", wrong.Load())
	}
}

func TestSignedInPeopleCannotGuessEither(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *authn.Options) { o.FailuresPerAccount = 2 })
	u := h.person("ann@example.com")
	p := h.session(u)
	is(t, h.VerifyPassword(t.Context(), p, "wrong"), authn.ErrWrongPassword)
	_, _, err := h.ChangePassword(t.Context(), p, "wrong", "a new password", false, authn.Device{})
	is(t, err, authn.ErrWrongPassword)
	is(t, h.DeleteOwn(t.Context(), p, pointer(password)), authn.ErrThrottled)
}

func TestRefusedSignInsAreLoggedWithoutWhatWasTyped(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	h := open(t, func(o *authn.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	h.signIn("ann.private@example.com", "my-private-password")
	if text := log.String(); !strings.Contains(text, "unknown user or wrong password") || strings.Contains(text, "ann.private") || strings.Contains(text, "my-private") {
		t.Errorf("logged: %s", text)
	}
}

func TestSignUp(t *testing.T) {
	t.Parallel()
	h := open(t)
	up := func(in authn.SignUp) (authn.SignedIn, error) {
		if in.Password == "" {
			in.Password = password
		}
		return h.SignUp(t.Context(), authn.Principal{}, in)
	}
	in := must(up(authn.SignUp{Name: "Ann", Email: "Ann@Example.com", Username: pointer("Ann_1")}))(t)
	if u := in.User; u.Email != "ann@example.com" || *u.Role != "user" || *u.Username != "ann_1" || *u.DisplayUsername != "Ann_1" || in.Session == nil || u.EmailVerified {
		t.Errorf("%+v", in)
	}
	h.mustAuthenticate(authn.SessionToken, in.Session.Token)
	must(h.signIn("ann@example.com", password))(t)
	in = must(up(authn.SignUp{Email: "bob@example.com", DisplayUsername: pointer("Carl99")}))(t)
	if *in.User.Username != "carl99" {
		t.Errorf("username %s", *in.User.Username)
	}
	in = must(up(authn.SignUp{Email: "eve@example.com", DisplayUsername: pointer("not a username!")}))(t)
	if in.User.Username != nil {
		t.Errorf("username %s", *in.User.Username)
	}
	for _, c := range []struct {
		name string
		in   authn.SignUp
		want error
	}{
		{"taken", authn.SignUp{Email: "ANN@example.com"}, authn.ErrEmailTaken},
		{"username taken", authn.SignUp{Email: "x@example.com", Username: pointer("ANN_1")}, authn.ErrUsernameTaken},
		{"username short", authn.SignUp{Email: "x@example.com", Username: pointer("")}, authn.ErrUsernameShort},
		{"username long", authn.SignUp{Email: "x@example.com", Username: pointer(strings.Repeat("a", 31))}, authn.ErrUsernameLong},
		{"username invalid", authn.SignUp{Email: "x@example.com", Username: pointer("has-dash")}, authn.ErrUsernameInvalid},
		{"email", authn.SignUp{Email: "x@example"}, authn.ErrBadEmail},
		{"password short", authn.SignUp{Email: "x@example.com", Password: "1234567"}, authn.ErrPasswordShort},
		{"password long", authn.SignUp{Email: "x@example.com", Password: authn.Secret(strings.Repeat("x", 129))}, authn.ErrPasswordLong},
	} {
		if _, err := up(c.in); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if ok, err := h.UsernameAvailable(t.Context(), "ANN_1"); ok || err != nil {
		t.Errorf("available %t, %v", ok, err)
	}
	if ok, err := h.UsernameAvailable(t.Context(), "free"); !ok || err != nil {
		t.Errorf("available %t, %v", ok, err)
	}

	h.author(map[string]*file{"data.json": {Data: []byte(`{"settings": {"sign_up": false}}`)}})
	_, err := up(authn.SignUp{Email: "x@example.com"})
	is(t, err, authz.ErrDenied)
	closed := open(t, func(o *authn.Options) { o.SignUpDisabled = true })
	_, err = closed.SignUp(t.Context(), authn.Principal{}, authn.SignUp{Email: "x@example.com", Password: password})
	is(t, err, authn.ErrSignUpClosed)
}

func TestSignUpWithoutSignInDoesNotTellWhoExists(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*authn.Options){
		"verified": func(o *authn.Options) { o.RequireVerifiedEmail = true },
		"no auto":  func(o *authn.Options) { o.AutoSignInDisabled = true },
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, set)
			in := authn.SignUp{Name: "Ann", Email: "ann@example.com", Password: password}
			first := must(h.SignUp(t.Context(), authn.Principal{}, in))(t)
			second := must(h.SignUp(t.Context(), authn.Principal{}, in))(t)
			if first.Session != nil || second.Session != nil || first.User.ID == second.User.ID {
				t.Errorf("%+v\n%+v", first, second)
			}
			// But for the id the two are the same.
			if second.User.ID = first.User.ID; *first.User.Role != *second.User.Role || len(first.User.ID) != len(second.User.ID) || first.User.Email != second.User.Email || !first.User.CreatedAt.Equal(second.User.CreatedAt) {
				t.Errorf("%+v\n%+v", first.User, second.User)
			}
			if _, n, _ := h.Users(t.Context(), h.root, authn.UserQuery{}); n != 2 {
				t.Errorf("%d users, want 2", n)
			}
		})
	}
}
