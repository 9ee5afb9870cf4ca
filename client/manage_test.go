package client_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/client"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/store"
)

// operator is a client whose key may do what an administrator may, and the caller
// that it is.
func (h *house) operator(t *testing.T, o client.Options) (*client.Client, client.Principal) {
	t.Helper()
	_, o.Key = h.user(t, "operator", "admin", authz.Permissions{"*": {"*"}})
	c := h.client(t, o)
	return c, must(c.Program(t.Context()))(t)
}

// must is v, or the end of the test with err.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		done(t, err)
		return v
	}
}

func done(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cookie signs somebody up and is their session cookie.
func (h *house) cookie(t *testing.T, name string) *http.Cookie {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/api/auth/sign-up/email", strings.NewReader(fmt.Sprintf(`{"name":%q,"email":"%s@example.com","password":"correct horse"}`, name, name)))
	r.Header.Set("Content-Type", "application/json")
	h.Handler().ServeHTTP(w, r)
	if w.Code != 200 {
		t.Fatal(w.Body)
	}
	return w.Result().Cookies()[0]
}

func TestUsersAreManagedFromElsewhere(t *testing.T) {
	h := serve(t, ostiary.Options{})
	c, me := h.operator(t, client.Options{})
	a, ctx := c.Authn(), t.Context()
	ann := must(a.CreateUser(ctx, me, client.NewUser{
		Name: "Ann", Email: "ann@example.com", Password: "correct horse", Roles: []string{"user"},
		Data: map[string]any{"username": "ann_a", "emailVerified": true},
	}))(t)
	if ann.ID == "" || ann.Email != "ann@example.com" || ann.Username != "ann_a" || !ann.EmailVerified || ann.Role != "user" ||
		ann.Banned || !ann.BanExpires.IsZero() || time.Since(ann.CreatedAt) > time.Minute {
		t.Errorf("made %+v", ann)
	}
	if _, err := h.Authn().SignIn(ctx, authn.Principal{}, authn.SignIn{Email: "ann@example.com", Password: "correct horse"}); err != nil {
		t.Errorf("sign in with what was said: %v", err)
	}
	if got := must(a.User(ctx, me, ann.ID))(t); got.Name != "Ann" {
		t.Errorf("got %+v", got)
	}
	q := client.UserQuery{SearchValue: "ann@", SearchOperator: "starts_with", FilterField: "role", FilterValues: []string{"user"}, SortBy: "email", SortDescending: true, Limit: 1}
	if us, total, err := a.Users(ctx, me, q); err != nil || total != 1 || len(us) != 1 || us[0].ID != ann.ID {
		t.Errorf("found %+v, %d, %v", us, total, err)
	}
	q = client.UserQuery{FilterOperator: "in", FilterValues: []string{"ann@example.com", "operator@example.com"}, Limit: 1, Offset: 1, SortBy: "email"}
	if us, total, err := a.Users(ctx, me, q); err != nil || total != 2 || len(us) != 1 || us[0].Name != "operator" {
		t.Errorf("the second page: %+v, %d, %v", us, total, err)
	}
	q = client.UserQuery{FilterOperator: "in", FilterValues: []string{"ann@example.com"}}
	if us, _, err := a.Users(ctx, me, q); err != nil || len(us) != 1 || us[0].ID != ann.ID {
		t.Errorf("a list of one: %+v, %v", us, err)
	}
	for _, q := range []client.UserQuery{{FilterOperator: "in", FilterValues: []string{}}, {FilterField: "role"}, {FilterValues: []string{"a", "b"}}} {
		if us, _, err := a.Users(ctx, me, q); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("%+v: got %d users, %v", q, len(us), err)
		}
	}
	changed := must(a.UpdateUser(ctx, me, ann.ID, map[string]any{"name": "Anna", "username": nil}))(t)
	if changed.Name != "Anna" || changed.Username != "" {
		t.Errorf("changed to %+v", changed)
	}
	if u := must(a.SetRoles(ctx, me, ann.ID, []string{"user", "admin"}))(t); u.Role != "user,admin" {
		t.Errorf("roles: %q", u.Role)
	}
	if u := must(a.Ban(ctx, me, ann.ID, "noise", time.Hour))(t); !u.Banned || u.BanReason != "noise" || time.Until(u.BanExpires) > time.Hour || time.Until(u.BanExpires) < 59*time.Minute {
		t.Errorf("banned: %+v", u)
	}
	if u := must(a.Unban(ctx, me, ann.ID))(t); u.Banned {
		t.Errorf("unbanned: %+v", u)
	}
	done(t, a.SetPassword(ctx, me, ann.ID, "another horse"))
	in := must(h.Authn().SignIn(ctx, authn.Principal{}, authn.SignIn{Email: "ann@example.com", Password: "another horse"}))(t)
	sessions := must(a.Sessions(ctx, me, ann.ID))(t)
	if len(sessions) != 1 || sessions[0].ID != in.Session.ID || sessions[0].UserID != ann.ID || sessions[0].ExpiresAt.Before(time.Now()) {
		t.Errorf("sessions: %+v", sessions)
	}
	done(t, a.RevokeSession(ctx, me, sessions[0].ID))
	if left := must(a.Sessions(ctx, me, ann.ID))(t); len(left) != 0 {
		t.Errorf("after its end: %+v", left)
	}
	must(h.Authn().SignIn(ctx, authn.Principal{}, authn.SignIn{Email: "ann@example.com", Password: "another horse"}))(t)
	done(t, a.RevokeSessions(ctx, me, ann.ID))
	if left := must(a.Sessions(ctx, me, ann.ID))(t); len(left) != 0 {
		t.Errorf("after the end of all: %+v", left)
	}
	done(t, a.RemoveUser(ctx, me, ann.ID))
	if _, err := a.User(ctx, me, ann.ID); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("removed: got %v, want %v", err, client.ErrNotFound)
	}
}

func TestKeysAreManagedFromElsewhere(t *testing.T) {
	h := serve(t, ostiary.Options{})
	c, me := h.operator(t, client.Options{})
	a, ctx := c.Authn(), t.Context()
	owner, _ := h.user(t, "ann", "admin", nil)
	k, secret, err := a.CreateKey(ctx, me, client.NewKey{
		OwnerID: owner.ID, Name: "ci", Prefix: "ci_", ExpiresIn: 48 * time.Hour, Permissions: access.Permissions{"user": {"list"}}, Metadata: map[string]any{"team": "data"},
	})
	done(t, err)
	if k.ID == "" || k.OwnerID != owner.ID || k.Name != "ci" || k.Prefix != "ci_" || !k.Enabled || !k.Permissions.Allows("user", "list") ||
		string(k.Metadata) != `{"team":"data"}` || time.Until(k.ExpiresAt) < 47*time.Hour || !strings.HasPrefix(secret.Reveal(), k.Start) {
		t.Errorf("made %+v", k)
	}
	if shown := fmt.Sprintf("%v %+v %#v %s %x", secret, k, k, secret, secret); strings.Contains(shown, secret.Reveal()) {
		t.Errorf("printed: %s", shown)
	}
	v := must(a.VerifyKey(ctx, me, secret, access.Permissions{"user": {"list"}}))(t)
	if !v.Valid || v.Code != "VALID" || v.Key == nil || v.Key.ID != k.ID || v.User == nil || v.User.ID != owner.ID {
		t.Errorf("worth %+v", v)
	}
	if v := must(a.VerifyKey(ctx, me, secret, access.Permissions{"user": {"delete"}}))(t); v.Valid || v.Code != "INSUFFICIENT_PERMISSIONS" {
		t.Errorf("worth %+v", v)
	}
	off, name, never := false, "cd", time.Duration(0)
	if got := must(a.UpdateKey(ctx, me, k.ID, client.KeyChange{OwnerID: owner.ID, Name: &name, Enabled: &off, ExpiresIn: &never, Permissions: access.Permissions{}}))(t); got.Name != "cd" || got.Enabled || !got.ExpiresAt.IsZero() || len(got.Permissions) != 0 {
		t.Errorf("changed to %+v", got)
	}
	if got := must(a.Key(ctx, me, k.ID))(t); got.Name != "cd" || string(got.Metadata) != `{"team":"data"}` {
		t.Errorf("got %+v", got)
	}
	if v := must(a.VerifyKey(ctx, me, secret, nil))(t); v.Code != "DISABLED" {
		t.Errorf("disabled: %+v", v)
	}
	on := true
	must(a.UpdateKey(ctx, me, k.ID, client.KeyChange{OwnerID: owner.ID, Enabled: &on}))(t)
	again, next, err := a.RotateKey(ctx, me, k.ID, 0)
	done(t, err)
	if again.ID != k.ID || next.Reveal() == secret.Reveal() || next.Reveal() == "" {
		t.Errorf("rotated: %+v", again)
	}
	if v := must(a.VerifyKey(ctx, me, secret, nil))(t); v.Code != "SUPERSEDED" {
		t.Errorf("rotated away: %+v", v)
	}
	if ks, total, err := a.Keys(ctx, me, client.KeyQuery{OwnerID: owner.ID, SortBy: "name", SortDescending: true, Limit: 1}); err != nil || total != 2 || len(ks) != 1 || ks[0].ID != k.ID {
		t.Errorf("listed %+v, %d, %v", ks, total, err)
	}
	done(t, a.DeleteKey(ctx, me, k.ID))
	if err := a.DeleteKey(ctx, me, k.ID); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("deleted twice: got %v, want %v", err, client.ErrNotFound)
	}

	uses := int64(2)
	u, first, robot, err := a.CreateServiceAccount(ctx, me, client.NewServiceAccount{
		Name: "importer", Roles: []string{"admin"}, Attributes: map[string]any{"team": "data"},
		Key:    client.NewKey{Name: "first", Permissions: access.Permissions{"user": {"list"}}},
		Limits: client.KeyLimits{Remaining: &uses, RefillAmount: 5, RefillInterval: time.Hour, RateLimitMax: 60, RateLimitWindow: time.Minute},
	})
	done(t, err)
	if !u.ServiceAccount || u.Role != "admin" || u.Attributes["team"] != "data" || first.OwnerID != u.ID || *first.Remaining != 2 || *first.RefillAmount != 5 || *first.RefillInterval != time.Hour.Milliseconds() ||
		*first.RateLimitMax != 60 || *first.RateLimitTimeWindow != time.Minute.Milliseconds() {
		t.Errorf("made %+v, %+v", u, first)
	}
	asRobot := must(c.Authenticate(with(robot.Reveal())))(t)
	if byRole, own, err := c.Permissions(ctx, asRobot); err != nil || !byRole.Allows("user", "list") || byRole.Allows("user", "delete") || len(own) != 0 {
		t.Errorf("may %v and %v, %v", byRole, own, err)
	}
	if _, err := c.Authenticate(with(robot.Reveal())); !errors.Is(err, client.ErrLimited) {
		t.Errorf("the third use: %v", err)
	}
	_, _, once, err := a.CreateServiceAccount(ctx, me, client.NewServiceAccount{Name: "slow", Roles: []string{"admin"}, Limits: client.KeyLimits{RateLimitMax: 1, RateLimitWindow: time.Hour}})
	done(t, err)
	slow := must(c.Authenticate(with(once.Reveal())))(t)
	_, err = a.Key(ctx, slow, "k")
	if said, ok := errors.AsType[*client.Error](err); !ok || !errors.Is(err, client.ErrLimited) || said.RetryAfter < 59*time.Minute || said.RetryAfter > time.Hour {
		t.Errorf("too fast: %+v, %v", said, err)
	}
}

func TestPoliciesAreManagedFromElsewhere(t *testing.T) {
	h := serve(t, ostiary.Options{PoliciesPublished: true})
	c, me := h.operator(t, client.Options{})
	p, ctx := c.Policies(), t.Context()
	broken := map[string]string{"document.rego": "package app.document\n\nallow if {"}
	if trial := must(p.Check(ctx, me, broken))(t); trial.OK || len(trial.Mistakes) == 0 || !strings.HasPrefix(trial.Mistakes[0], "document.rego:3") {
		t.Errorf("broken: %+v", trial)
	}
	_, err := p.Publish(ctx, me, client.Upload{Files: broken})
	said, is := errors.AsType[*client.Error](err)
	if !errors.Is(err, client.ErrInvalid) || !is || said.Code != "POLICY_INVALID" || len(said.Mistakes) == 0 || said.Mistakes[0].Pointer != "/files/document.rego" {
		t.Errorf("publish what is broken: %v", err)
	}
	files := map[string]string{"document.rego": rules, "document_test.rego": "package app.document_test\n\ntest_it if not data.app.document.allow with input as {}\n"}
	trial := must(p.Test(ctx, me, files))(t)
	if !trial.OK || trial.Revision == "" || trial.Tests == nil || trial.Tests.Count != 1 {
		t.Errorf("tested: %+v", trial)
	}
	none := ""
	_, err = p.Publish(ctx, me, client.Upload{Files: files, Replay: &client.Replay{Since: time.Hour, FailOn: "any", Expect: []client.Expectation{{Action: "read"}}}})
	if said, is := errors.AsType[*client.Error](err); !is || said.Code != "POLICY_REPLAY" {
		t.Errorf("what was expected did not happen: %v", err)
	}
	dry := must(p.Publish(ctx, me, client.Upload{Files: files, Expect: &none, DryRun: true, Replay: &client.Replay{Since: time.Hour, FailOn: "none"}}))(t)
	var receipt client.Receipt
	first := must(p.Publish(client.WithReceipt(ctx, &receipt), me, client.Upload{Files: files, Note: "first", Expect: &none}))(t)
	if first.Revision != trial.Revision || dry.Revision != first.Revision || first.Note != "first" || first.Parent != "" || first.By.ID == "" || first.Tests.Count != 1 || first.Sequence < 1 {
		t.Errorf("published %+v, dry %+v", first, dry)
	}
	if d := must(c.Decide(client.WithAtLeast(ctx, receipt.Revision), access.Request{Subject: me.Subject(), Action: reading, Resource: read("else", "sealed")}))(t); d.Revision != first.PolicyRevision || receipt.Revision == "" {
		t.Errorf("decided by %s at %q, want %s", d.Revision, receipt.Revision, first.PolicyRevision)
	}
	if _, err := p.Publish(ctx, me, client.Upload{Files: files, Expect: &none}); !errors.Is(err, client.ErrConflict) {
		t.Errorf("overtaken: got %v, want %v", err, client.ErrConflict)
	}
	editor := must(p.SetRole(ctx, me, "billing:editor", access.Permissions{"document": {"read"}}, client.Upload{Note: "editors", Expect: &first.Revision}))(t)
	if roles := must(p.Roles(ctx, me))(t); !roles["billing:editor"].Allows("document", "read") || roles["admin"] == nil {
		t.Errorf("roles: %v", roles)
	}
	if b := must(p.Bundle(ctx, me))(t); b.PolicyRevision != editor.PolicyRevision || b.Files["document.rego"] != rules {
		t.Errorf("in force: %+v", b)
	}
	if past := must(p.History(ctx, me, 0, 1))(t); len(past) != 1 || past[0].Sequence != editor.Sequence {
		t.Errorf("history: %+v", past)
	}
	if past := must(p.History(ctx, me, editor.Sequence, 0))(t); len(past) != 1 || past[0].Note != "first" {
		t.Errorf("history before: %+v", past)
	}
	if r := must(p.Revision(ctx, me, first.Revision))(t); r.ID != first.Revision || len(r.Files) != 2 || r.Tests.Count != 1 || r.CreatedAt.IsZero() {
		t.Errorf("revision: %+v", r)
	}
	if _, err := p.Revision(ctx, me, "no/such"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("no such revision: got %v, want %v", err, client.ErrNotFound)
	}
	must(c.Authn().SetRoles(ctx, me, me.Subject().Identity().ID, []string{"admin", "billing:editor"}))(t)
	if _, err := p.DeleteRole(ctx, me, "billing:editor", client.Upload{}); !errors.Is(err, client.ErrConflict) {
		t.Errorf("a role in use: got %v, want %v", err, client.ErrConflict)
	}
	must(c.Authn().SetRoles(ctx, me, me.Subject().Identity().ID, []string{"admin"}))(t)
	must(p.DeleteRole(ctx, me, "billing:editor", client.Upload{Note: "not any more", Expect: &editor.Revision}))(t)
	back := must(p.Rollback(ctx, me, first.Revision, "back", nil))(t)
	if back.Revision != first.Revision || back.Note != "back" {
		t.Errorf("rolled back to %+v", back)
	}
	u, key := h.user(t, "ann", "admin", authz.Permissions{"user": {"list"}})
	byRole, _, err := p.UserPermissions(ctx, me, u.Email)
	done(t, err)
	keys, _ := must2(c.Authn().Keys(ctx, me, client.KeyQuery{OwnerID: u.ID}))(t)
	narrow, _, err := p.KeyPermissions(ctx, me, keys[0].ID)
	done(t, err)
	asAnn := must(c.Authenticate(with(key)))(t)
	mine, _, err := c.Permissions(ctx, asAnn)
	done(t, err)
	if !byRole.Allows("user", "delete") || narrow.Allows("user", "delete") || !narrow.Allows("user", "list") || fmt.Sprint(mine) != fmt.Sprint(narrow) {
		t.Errorf("by role %v, with the key %v, as told to it %v", byRole, narrow, mine)
	}
}

func must2[T, U any](v T, u U, err error) func(*testing.T) (T, U) {
	return func(t *testing.T) (T, U) {
		t.Helper()
		done(t, err)
		return v, u
	}
}

// People manage what is theirs with the cookie that they send.
func TestPeopleManageTheirOwnThroughTheProgram(t *testing.T) {
	h := serve(t, ostiary.Options{})
	c := h.client(t, client.Options{})
	r := httptest.NewRequest("POST", "http://app.example/", nil)
	r.AddCookie(h.cookie(t, "ann"))
	ann := must(c.Authenticate(r))(t)
	a, ctx := c.Authn(), t.Context()
	k, _, err := a.CreateKey(ctx, ann, client.NewKey{Name: "mine"})
	done(t, err)
	if k.OwnerID != ann.Subject().Identity().ID {
		t.Errorf("made %+v", k)
	}
	name := "still mine"
	must(a.UpdateKey(ctx, ann, k.ID, client.KeyChange{Name: &name}))(t)
	if ks, total, err := a.Keys(ctx, ann, client.KeyQuery{}); err != nil || total != 1 || ks[0].Name != name {
		t.Errorf("keys: %+v, %v", ks, err)
	}
	sessions := must(a.Sessions(ctx, ann, ""))(t)
	if len(sessions) != 1 {
		t.Fatalf("sessions: %+v", sessions)
	}
	bob := httptest.NewRequest("POST", "http://app.example/", nil)
	bob.AddCookie(h.cookie(t, "bob"))
	other := must(a.Sessions(ctx, must(c.Authenticate(bob))(t), ""))(t)
	done(t, a.RevokeOwnSession(ctx, ann, other[0].ID)) // says nothing
	if _, err := c.Authenticate(bob); err != nil {
		t.Errorf("somebody else's session ended: %v", err)
	}
	if err := a.RevokeSession(ctx, ann, other[0].ID); !errors.Is(err, client.ErrDenied) {
		t.Errorf("somebody else's: got %v, want %v", err, client.ErrDenied)
	}
	done(t, a.RevokeOwnSession(ctx, ann, sessions[0].ID))
	if _, err := c.Authenticate(r); !errors.Is(err, client.ErrUnauthenticated) {
		t.Errorf("after its end: %v", err)
	}
	done(t, a.RevokeSessions(ctx, must(c.Authenticate(bob))(t), ""))
	if _, err := c.Authenticate(bob); !errors.Is(err, client.ErrUnauthenticated) {
		t.Errorf("after the end of all: %v", err)
	}
}

// No call is made with another credential than that of the caller it names: not
// with the program's own for want of one, and not at a service that it is not for.
func TestOnlyTheNamedCallersCredentialIsSent(t *testing.T) {
	h, elsewhere := serve(t, ostiary.Options{}), serve(t, ostiary.Options{})
	c, me := h.operator(t, client.Options{})
	stranger, _ := elsewhere.operator(t, client.Options{})
	_, weak := h.user(t, "ann", "user", nil)
	ctx := t.Context()
	anonymous := must(c.Authenticate(with("")))(t)
	var sent []string
	f := func(_ http.ResponseWriter, r *http.Request) bool {
		sent = append(sent, r.Header.Get("Authorization")+r.Header.Get("X-Api-Key"))
		return false
	}
	h.before.Store(&f)
	elsewhere.before.Store(&f)
	for _, tt := range []struct {
		name   string
		c      *client.Client
		caller client.Principal
		want   error
	}{
		{"the zero Principal", c, client.Principal{}, client.ErrUnauthenticated},
		{"nobody", c, anonymous, client.ErrUnauthenticated},
		{"another service's", stranger, me, client.ErrInvalid},
	} {
		sent = nil
		for what, err := range map[string]error{
			"users":    third(tt.c.Authn().Users(ctx, tt.caller, client.UserQuery{})),
			"ban":      second(tt.c.Authn().Ban(ctx, tt.caller, "u", "", 0)),
			"policies": second(tt.c.Policies().Bundle(ctx, tt.caller)),
		} {
			if !errors.Is(err, tt.want) {
				t.Errorf("%s, %s: got %v, want %v", tt.name, what, err, tt.want)
			}
		}
		if len(sent) > 0 {
			t.Errorf("%s: sent %q", tt.name, sent)
		}
	}
	if _, err := stranger.Decide(ctx, access.Request{Subject: me.Subject(), Action: reading, Resource: read("x")}); !errors.Is(err, client.ErrInvalid) || len(sent) > 0 {
		t.Errorf("a question about another service's caller: %v, sent %q", err, sent)
	}
	_, err := c.Authn().Ban(ctx, must(c.Authenticate(with(weak)))(t), "u", "", 0)
	if !errors.Is(err, client.ErrDenied) || slices.ContainsFunc(sent, func(s string) bool { return s != weak }) {
		t.Errorf("somebody who may not: %v, sent %q", err, sent)
	}
	if _, err := h.client(t, client.Options{}).Program(ctx); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("a program without a key: %v", err)
	}
}

// dialing is a dialer that reaches nobody unless up.
func dialing(up func() bool) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if !up() {
			addr = "127.0.0.1:1"
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }

// Each refusal is of one kind, and a denial says why, and by which decision.
func TestManagementErrorsCanBeToldApart(t *testing.T) {
	h := serve(t, ostiary.Options{})
	c, me := h.operator(t, client.Options{Retries: -1, Timeout: 2 * time.Second})
	u, bare := h.user(t, "ann", "admin", nil)
	_, user := h.user(t, "bob", "user", authz.Permissions{"*": {"*"}})
	a, p, ctx := c.Authn(), c.Policies(), t.Context()
	as := func(key string) client.Principal { return must(c.Authenticate(with(key)))(t) }
	away := must(client.New(client.Options{URL: h.url + "/somewhere", Retries: -1}))(t)
	kinds := map[error]string{
		client.ErrUnauthenticated: "unauthenticated", client.ErrDenied: "denied", client.ErrInvalid: "invalid", client.ErrLimited: "limited",
		client.ErrUnavailable: "unavailable", client.ErrNotFound: "not found", client.ErrConflict: "conflict",
	}
	for _, tt := range []struct {
		name   string
		err    error
		want   error
		reason string
	}{
		{"no grant", second(a.Ban(ctx, as(bare), u.ID, "", 0)), client.ErrDenied, "grant_missing"},
		{"no role", a.RemoveUser(ctx, as(user), u.ID), client.ErrDenied, "role_missing"},
		{"no role for policies", second(p.Roles(ctx, as(user))), client.ErrDenied, "role_missing"},
		{"an address that is taken", second(a.CreateUser(ctx, me, client.NewUser{Name: "Ann", Email: u.Email})), client.ErrConflict, ""},
		{"no address", second(a.CreateUser(ctx, me, client.NewUser{Name: "Ann", Email: "ann"})), client.ErrInvalid, ""},
		{"not JSON", second(a.UpdateUser(ctx, me, u.ID, map[string]any{"a": make(chan int)})), client.ErrInvalid, ""},
		{"nothing to change", second(a.UpdateUser(ctx, me, u.ID, nil)), client.ErrInvalid, ""},
		{"nobody by that id", second(a.SetRoles(ctx, me, "x", []string{"user"})), client.ErrNotFound, ""},
		{"nobody, for want of an id", a.RemoveUser(ctx, me, ""), client.ErrNotFound, ""},
		{"policies that are not published", second(p.History(ctx, me, 0, 0)), client.ErrConflict, ""},
		{"no service at that path", func() error { _, err := away.Authenticate(with(bare)); return err }(), client.ErrNotFound, ""},
	} {
		for kind, name := range kinds {
			if errors.Is(tt.err, kind) != (kind == tt.want) {
				t.Errorf("%s: %s is %t; the error is %v", tt.name, name, errors.Is(tt.err, kind), tt.err)
			}
		}
		if said, ok := errors.AsType[*client.Error](tt.err); tt.reason != "" && (!ok || len(said.Reasons) == 0 || said.Reasons[0].Code != tt.reason || said.Decision == "") {
			t.Errorf("%s: %+v, want the reason %s", tt.name, said, tt.reason)
		}
	}
}

// A write that may have arrived is not sent again; one that cannot have is, and a
// question is.
func TestWritesAreSentOnce(t *testing.T) {
	h := serve(t, ostiary.Options{})
	u, _ := h.user(t, "ann", "user", nil)
	var down []string
	fail := 0 // of the next dials
	transport := &http.Transport{DisableKeepAlives: true, DialContext: dialing(func() bool { fail--; return fail < 0 })}
	c, me := h.operator(t, client.Options{Retries: 2, HTTP: &http.Client{Transport: transport}})
	a, ctx := c.Authn(), t.Context()
	f := func(w http.ResponseWriter, r *http.Request) bool {
		down = append(down, r.Method)
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	h.before.Store(&f)
	if _, err := a.Ban(ctx, me, u.ID, "", 0); !errors.Is(err, client.ErrUnavailable) || len(down) != 1 {
		t.Errorf("a write arrived %d times: %v", len(down), err)
	}
	down = nil
	if _, err := a.User(ctx, me, u.ID); !errors.Is(err, client.ErrUnavailable) || len(down) != 3 {
		t.Errorf("a question arrived %d times: %v", len(down), err)
	}
	h.before.Store(nil)
	fail = 2
	if got, err := a.Ban(ctx, me, u.ID, "", 0); err != nil || !got.Banned {
		t.Errorf("a write that found nobody at first: %v", err)
	}
}

// What is remembered does not outlast what the program itself changes.
func TestRememberedDecisionsDoNotOutlastAWrite(t *testing.T) {
	h := serve(t, ostiary.Options{Lease: time.Minute})
	ann, key := h.user(t, "ann", "user", grants)
	c, me := h.operator(t, client.Options{DecisionLife: time.Hour})
	if _, _, err := c.Admit(with(key), reading, read(ann.ID)); err != nil {
		t.Fatal(err)
	}
	must(c.Authn().Ban(t.Context(), me, ann.ID, "", 0))(t)
	if _, _, err := c.Admit(with(key), reading, read(ann.ID)); !errors.Is(err, client.ErrUnauthenticated) {
		t.Errorf("got %v, want %v", err, client.ErrUnauthenticated)
	}
}

// A filter from elsewhere selects the rows that the embedded one selects, which are
// those that a decision would allow.
func TestFilterSelectsWhatTheEmbeddedOneDoes(t *testing.T) {
	h := serve(t, ostiary.Options{})
	ann, key := h.user(t, "ann", "user", grants)
	_, ungranted := h.user(t, "bob", "user", nil)
	c := h.client(t, client.Options{})
	db := must(sql.Open("sqlite", ":memory:"))(t)
	defer db.Close()
	db.SetMaxOpenConns(1)
	must(db.Exec("create table d (id text, owner_id text, sealed boolean)"))(t)
	for i, owner := range []string{ann.ID, "else", ann.ID} {
		must(db.Exec("insert into d values (?, ?, ?)", fmt.Sprint(i), owner, i == 2))(t)
	}
	columns := map[string]client.Column{"id": {"d.id", "text"}, "properties.owner": {"d.owner_id", "text"}, "properties.sealed": {"sealed", "boolean"}}
	names := map[string]string{"id": "d.id", "properties.owner": "d.owner_id", "properties.sealed": "sealed"}
	fields := authz.Fields{"id": authz.AlwaysText, "properties.owner": authz.Text, "properties.sealed": authz.Boolean}
	selected := func(where string, args []any) (ids []string) {
		rows := must(db.Query("select id from d where "+where+" order by id", args...))(t)
		defer rows.Close()
		for rows.Next() {
			var id string
			done(t, rows.Scan(&id))
			ids = append(ids, id)
		}
		return ids
	}
	for k, want := range map[string]string{key: "[0]", ungranted: "[]", "": "[]"} {
		here := must(h.Authenticate(with(k)))(t)
		there := must(c.Authenticate(with(k)))(t)
		q := access.Request{Subject: here.Subject(), Action: reading, Resource: access.Resource{Type: "document"}}
		f := must(h.Filter(t.Context(), q, fields))(t)
		where, args, err := store.FilterSQL("sqlite", f.Sure, names, fields)
		done(t, err)
		q.Subject = there.Subject()
		remote := must(c.Filter(t.Context(), q, client.SQLite, columns))(t)
		if remote.SQL != where || fmt.Sprintf("%#v", remote.Args) != fmt.Sprintf("%#v", args) || remote.Revision != f.Revision {
			t.Errorf("embedded %s %#v, remote %s %#v", where, args, remote.SQL, remote.Args)
		}
		if got := fmt.Sprint(selected(remote.SQL, remote.Args)); got != want {
			t.Errorf("selected %s, want %s", got, want)
		}
		if u := must(c.Filter(t.Context(), q, client.UCAST, columns))(t); fmt.Sprint(u.UCAST) != fmt.Sprint(f.Sure.UCAST()) {
			t.Errorf("embedded %v, remote %v", f.Sure.UCAST(), u.UCAST)
		}
	}
	there := must(c.Authenticate(with(key)))(t)
	for name, q := range map[string]access.Request{
		"about one":           {Subject: there.Subject(), Action: reading, Resource: access.Resource{Type: "document", ID: "d"}},
		"about none":          {Subject: there.Subject(), Action: reading},
		"of one who is named": {Subject: c.Named("user", "u", nil), Action: reading, Resource: access.Resource{Type: "document"}},
	} {
		if f, err := c.Filter(t.Context(), q, client.SQLite, columns); !errors.Is(err, client.ErrInvalid) || f.SQL != "" {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	_, err := c.Filter(t.Context(), access.Request{Subject: there.Subject(), Action: reading, Resource: access.Resource{Type: "document"}}, client.SQLite, nil)
	if said, ok := errors.AsType[*client.Error](err); !ok || said.Code != "NOT_A_FILTER" || !errors.Is(err, client.ErrInvalid) {
		t.Errorf("without a column that it reads: %v", err)
	}
	f := func(w http.ResponseWriter, r *http.Request) bool { fmt.Fprint(w, "{}"); return true }
	h.before.Store(&f)
	if f, err := c.Filter(t.Context(), access.Request{Action: reading, Resource: access.Resource{Type: "document"}}, client.SQLite, columns); !errors.Is(err, client.ErrUnavailable) || f.SQL != "" {
		t.Errorf("an answer that is none: %+v, %v", f, err)
	}
}

// What the service says of one who is named is what the embedded instance says.
func TestNamedSubjectsAreAnsweredWithReasons(t *testing.T) {
	h := serve(t, ostiary.Options{})
	ann, _ := h.user(t, "ann", "user", nil)
	c, _ := h.operator(t, client.Options{})
	for _, about := range []access.Resource{read(ann.ID), read("else"), read(ann.ID, "sealed")} {
		here, err := h.Directory().Assert(t.Context(), program, "evaluate", directory.Ref{Type: "user", ID: ann.ID})
		done(t, err)
		want := must(h.Decide(t.Context(), access.Request{Subject: here, Action: reading, Resource: about}))(t)
		got := must(c.Decide(t.Context(), access.Request{Subject: c.Named("user", ann.ID, nil), Action: reading, Resource: about}))(t)
		if got.Allow != want.Allow || fmt.Sprint(got.Reasons) != fmt.Sprint(want.Reasons) || got.Revision != want.Revision || fmt.Sprint(got.Context) != fmt.Sprint(want.Context) || len(got.Reasons) == 0 {
			t.Errorf("embedded %+v\nremote %+v", want, got)
		}
	}
	_, bare := h.user(t, "bob", "admin", nil)
	_, err := h.client(t, client.Options{Key: bare}).Decide(t.Context(), access.Request{Subject: c.Named("user", ann.ID, nil), Action: reading, Resource: read("x")})
	if said, ok := errors.AsType[*client.Error](err); !ok || len(said.Reasons) == 0 || said.Reasons[0].Code != "grant_missing" {
		t.Errorf("a program that may not ask: %v", err)
	}
}
