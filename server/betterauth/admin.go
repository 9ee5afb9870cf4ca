package betterauth

import (
	"errors"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/request"
)

func (s *surface) adminRoutes() []route {
	userID := field{"userId", isCoerced("")}
	role := field{"role", isTextOrTexts}
	banSelf := wording{authn.ErrSelf, refuse(400, "YOU_CANNOT_BAN_YOURSELF", "You cannot ban yourself")}
	routes := []route{
		{method: "POST", path: "/create-user", handle: createUser, body: schema{
			{"email", isText}, {"password", optionally(isText)}, {"name", isText},
			{"role", optionally(isTextOrTexts)}, {"data", optionally(isRecord)},
		}},
		{method: "GET", path: "/list-users", handle: listUsers, query: schema{
			{"searchValue", optionally(isText)},
			{"searchField", optionally(isOneOf("email", "name"))},
			{"searchOperator", optionally(isOneOf("contains", "starts_with", "ends_with"))},
			{"limit", optionally(isScalar)}, {"offset", optionally(isScalar)},
			{"sortBy", optionally(isText)}, {"sortDirection", optionally(isOneOf("asc", "desc"))},
			{"filterField", optionally(isText)},
			{"filterOperator", optionally(isOneOf("eq", "ne", "lt", "lte", "gt", "gte", "in", "not_in", "contains", "starts_with", "ends_with"))},
		}},
		{method: "GET", path: "/get-user", handle: getUser, query: schema{{"id", isText}}},
		{method: "POST", path: "/set-role", handle: setRole, body: schema{userID, role}},
		{method: "POST", path: "/set-user-password", handle: setUserPassword, body: schema{
			{"newPassword", isNonEmpty("newPassword cannot be empty")}, {"userId", isCoerced("userId cannot be empty")},
		}},
		{method: "POST", path: "/update-user", handle: adminUpdateUser, words: []wording{banSelf},
			body: schema{userID, {"data", isRecord}}},
		{method: "POST", path: "/ban-user", handle: banUser, words: []wording{banSelf}, body: schema{
			userID, {"banReason", optionally(isText)}, {"banExpiresIn", optionally(isNumber)},
		}},
		{method: "POST", path: "/unban-user", handle: unbanUser, body: schema{userID}},
		{method: "POST", path: "/list-user-sessions", handle: listUserSessions, body: schema{userID}},
		{method: "POST", path: "/revoke-user-session", handle: revokeUserSession, body: schema{{"sessionToken", isText}}},
		{method: "POST", path: "/revoke-user-sessions", handle: revokeUserSessions, body: schema{userID}},
		{method: "POST", path: "/impersonate-user", handle: impersonateUser, body: schema{userID}},
		{method: "POST", path: "/stop-impersonating", handle: stopImpersonating},
		{method: "POST", path: "/remove-user", handle: removeUser, body: schema{userID}, words: []wording{
			{authn.ErrSelf, refuse(400, "YOU_CANNOT_REMOVE_YOURSELF", "You cannot remove yourself")},
		}},
		{method: "POST", path: "/has-permission", handle: hasPermission, hook: checkPermissionsAsked},
	}
	for i := range routes {
		routes[i].path = "/admin" + routes[i].path
		routes[i].needs = errUnauthorizedAdmin
	}
	return routes
}

// target is the user that a call is about; never the caller for want of an id.
func (c *call) target() string { return orNobody(c.body["userId"].coerced()) }

// roles reads a role: one text, which may hold several, or a list.
func roles(v value) ([]string, error) {
	switch v.kind() {
	case "string":
		return []string{v.text()}, nil
	case "array":
		out := []string{}
		for _, e := range v.list() {
			if e.kind() != "string" {
				return nil, errRoleType
			}
			out = append(out, e.text())
		}
		return out, nil
	}
	return nil, errRoleType
}

var errRoleType = refuse(400, "INVALID_ROLE_TYPE", "Invalid role type")

// userAnswered is the answer {"user": …}.
func userAnswered(u authn.User, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return userAnswer{NewUserObject(u)}, nil
}

func bareUser(u authn.User, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return NewUserObject(u), nil
}

// adminData reads the columns of a user that administrators set.
func (c *call) adminData(m members) (authn.UserChange, error) {
	var change authn.UserChange
	if v := m["role"]; v != nil {
		rs, err := roles(v)
		if err != nil {
			return change, err
		}
		change.Roles = &rs
	}
	if err := c.profile(&change, m, "body.data"); err != nil {
		return change, err
	}
	if name := m.optionalText("username"); name != nil {
		if err := c.s.auth.CheckUsername(*name); err != nil {
			return change, err
		}
	}
	issues := schema{
		{"emailVerified", optionally(isBoolean)}, {"banned", nullable(isBoolean)}, {"banReason", nullable(isText)},
	}.messages("body.data", m)
	if issues != nil {
		return change, invalid(issues...)
	}
	if v := m["email"]; v != nil {
		if v.kind() != "string" {
			return change, authn.ErrBadEmail
		}
		change.Email = m.optionalText("email")
	}
	if v := m["emailVerified"]; v != nil {
		b := m.is("emailVerified", true)
		change.EmailVerified = &b
	}
	if v := m["banned"]; v != nil {
		b := m.is("banned", true)
		change.Banned = &b
	}
	if v := m["banReason"]; v != nil {
		reason := m.optionalText("banReason")
		change.BanReason = &reason
	}
	for name, to := range map[string]func(*time.Time){
		"createdAt":  func(t *time.Time) { change.CreatedAt = t },
		"updatedAt":  func(t *time.Time) { change.UpdatedAt = t },
		"banExpires": func(t *time.Time) { change.BanExpires = &t },
	} {
		v := m[name]
		if v == nil {
			continue
		}
		if v.kind() == "null" && name == "banExpires" {
			to(nil)
			continue
		}
		t, err := parseDate(v.text())
		if err != nil || v.kind() != "string" {
			return change, errCrash // as recorded
		}
		to(&t)
	}
	for name, v := range m {
		if columns[name] {
			continue
		}
		if change.Attributes == nil {
			change.Attributes = map[string]any{}
		}
		var a any
		if err := json.Unmarshal([]byte(v), &a); err != nil {
			return change, err
		}
		change.Attributes[name] = a
	}
	return change, nil
}

// columns of the user table that adminData reads or that nobody sets.
var columns = map[string]bool{
	"id": true, "name": true, "email": true, "emailVerified": true, "image": true, "createdAt": true, "updatedAt": true,
	"username": true, "displayUsername": true, "role": true, "banned": true, "banReason": true, "banExpires": true,
	"password": true,
}

func parseDate(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC().Truncate(time.Millisecond), nil
		}
	}
	return time.Time{}, errors.New("not a date")
}

func createUser(c *call) (any, error) {
	data := members{}
	if v := c.body["data"]; v != nil {
		data = objectMembers(v)
	}
	role := c.body["role"]
	if role == nil {
		role = data["role"]
	}
	delete(data, "role")
	delete(data, "name")
	delete(data, "email")
	if data["id"] != nil {
		// A chosen id could be one that the configuration makes an administrator.
		return nil, fieldNotAllowed("id")
	}
	change, err := c.adminData(data)
	if err != nil {
		return nil, err
	}
	in := authn.NewUser{
		Name: c.body.text("name"), Email: c.body.text("email"), Password: authn.Secret(c.body.text("password")),
		EmailVerified: change.EmailVerified != nil && *change.EmailVerified,
		Banned:        change.Banned,
		BanGiven:      data["banned"] != nil || data["banReason"] != nil || data["banExpires"] != nil,
		CreatedAt:     change.CreatedAt, UpdatedAt: change.UpdatedAt, Attributes: change.Attributes,
	}
	if role != nil {
		if in.Roles, err = roles(role); err != nil {
			return nil, err
		}
		in.RolesGiven = true
	}
	in.Image, in.Username, in.DisplayUsername = inner(change.Image), inner(change.Username), inner(change.DisplayUsername)
	in.BanReason, in.BanExpires = inner(change.BanReason), inner(change.BanExpires)
	return userAnswered(c.s.auth.CreateUser(c.ctx, c.caller, in))
}

// inner flattens a change to a value.
func inner[T any](p **T) *T {
	if p == nil {
		return nil
	}
	return *p
}

type userList struct {
	Users  []UserObject `json:"users"`
	Total  int          `json:"total"`
	Limit  float64      `json:"limit,omitzero"`
	Offset float64      `json:"offset,omitzero"`
}

func listUsers(c *call) (any, error) {
	q := authn.UserQuery{
		SortBy:         c.query.text("sortBy"),
		SortDescending: c.query.text("sortDirection") == "desc",
	}
	if v := c.query.text("searchValue"); v != "" {
		q.SearchValue = v
		q.SearchField, q.SearchOperator = "email", "contains"
		if f := c.query.text("searchField"); f != "" {
			q.SearchField = f
		}
		if o := c.query.text("searchOperator"); o != "" {
			q.SearchOperator = o
		}
	}
	// What the database can't answer is an empty list.
	none := userList{Users: []UserObject{}}
	possible := true
	if v := c.query["filterValue"]; v != nil {
		f := authn.UserFilter{Field: "email", Operator: "eq"}
		if n := c.query.text("filterField"); n != "" {
			f.Field = n
		}
		if o := c.query.text("filterOperator"); o != "" {
			f.Operator = o
		}
		several := f.Operator == "in" || f.Operator == "not_in"
		possible = several == (v.kind() == "array")
		if v.kind() == "array" {
			for _, e := range v.list() {
				f.Values = append(f.Values, e.text())
			}
		} else {
			f.Values = []string{v.text()}
		}
		q.Filter = &f
	}
	limit, offset := echoed(c.query["limit"]), echoed(c.query["offset"])
	for _, n := range []float64{limit, offset} {
		possible = possible && n >= 0 && n == math.Trunc(n) && n < 1<<53
	}
	q.Limit, q.Offset = int(limit), int(offset)
	if !possible {
		// Still a decision: who may not list learns nothing about queries.
		q = authn.UserQuery{Limit: 1}
	}
	users, total, err := c.s.auth.Users(c.ctx, c.caller, q)
	var bad *authn.InvalidError
	if errors.As(err, &bad) || err == nil && !possible {
		return none, nil
	}
	if err != nil {
		return nil, err
	}
	out := userList{Users: []UserObject{}, Total: total, Limit: limit, Offset: offset}
	for _, u := range users {
		out.Users = append(out.Users, NewUserObject(u))
	}
	return out, nil
}

// echoed reads a limit or offset; what is no number is none.
func echoed(v value) float64 {
	n, ok := queryNumber(v)
	if !ok {
		return 0
	}
	return n
}

func getUser(c *call) (any, error) {
	id := c.query.text("id")
	if id == c.own() {
		if err := c.ask("get", authz.Resource{Type: "user"}); err != nil {
			return nil, err
		}
	}
	return bareUser(c.s.auth.User(c.ctx, c.caller, orNobody(id)))
}

func setRole(c *call) (any, error) {
	rs, err := roles(c.body["role"])
	if err != nil {
		return nil, err
	}
	return userAnswered(c.s.auth.SetRoles(c.ctx, c.caller, c.target(), rs))
}

func setUserPassword(c *call) (any, error) {
	if err := c.s.auth.SetPassword(c.ctx, c.caller, c.target(), authn.Secret(c.body.text("newPassword"))); err != nil {
		return nil, err
	}
	return statusObject{true}, nil
}

func adminUpdateUser(c *call) (any, error) {
	if err := c.asAdmin("user", "update"); err != nil {
		return nil, err
	}
	data := objectMembers(c.body["data"])
	switch {
	case len(data) == 0:
		return nil, refuse(400, "NO_DATA_TO_UPDATE", "No data to update")
	case data["password"] != nil:
		return nil, refuse(400, "PASSWORD_CANNOT_BE_UPDATED_VIA_UPDATE_USER", "Password cannot be updated through update-user. Use the set-user-password endpoint instead")
	case data["id"] != nil:
		return nil, refuse(400, "USER_ID_CANNOT_BE_UPDATED", "User id cannot be updated")
	}
	change, err := c.adminData(data)
	if err != nil {
		return nil, err
	}
	if data["phoneNumber"] != nil || data["phoneNumberVerified"] != nil {
		// A telephone number is an address like the e-mail's: the built-in roles
		// have one permission for both, an author's may have two.
		on := authz.Resource{Type: "user", ID: c.target()}
		if err := c.ask("set-phone", on); err != nil && c.ask("set-email", on) != nil {
			return nil, err
		}
	}
	return bareUser(c.s.auth.UpdateUser(c.ctx, c.caller, c.target(), change))
}

// asAdmin asks for an action on the target where that is the caller. What
// people may do to themselves is not for these routes: without an owner named,
// only a role permits it.
func (c *call) asAdmin(typ, action string) error {
	if c.target() != c.own() {
		return nil
	}
	return c.ask(action, authz.Resource{Type: typ})
}

// ask makes a decision that no call of the service makes.
func (c *call) ask(action string, on authz.Resource) error {
	d, err := c.s.engine.Decide(c.ctx, authz.Request{Subject: c.caller.Subject(), Action: authz.Action{Name: action}, Resource: on})
	if err != nil {
		return err
	}
	return d.Err(action, on)
}

func banUser(c *call) (any, error) {
	life := secondsDuration(c.body["banExpiresIn"].number())
	return userAnswered(c.s.auth.Ban(c.ctx, c.caller, c.target(), c.body.text("banReason"), life))
}

// secondsDuration keeps within what a Duration can hold.
func secondsDuration(s float64) time.Duration {
	const most = float64(math.MaxInt64 / int64(time.Second))
	return time.Duration(max(-most, min(s, most)) * float64(time.Second))
}

func unbanUser(c *call) (any, error) {
	return userAnswered(c.s.auth.Unban(c.ctx, c.caller, c.target()))
}

func listUserSessions(c *call) (any, error) {
	if err := c.asAdmin("session", "list"); err != nil {
		return nil, err
	}
	sessions, err := c.s.auth.Sessions(c.ctx, c.caller, c.target())
	if err != nil && !errors.Is(err, authn.ErrUserNotFound) {
		return nil, err
	}
	return struct {
		Sessions []sessionObject `json:"sessions"`
	}{sessionObjects(sessions)}, nil
}

func revokeUserSession(c *call) (any, error) {
	if err := c.s.auth.RevokeSession(c.ctx, c.caller, "", authn.Secret(c.body.text("sessionToken"))); err != nil {
		return nil, err
	}
	return successObject{true}, nil
}

func revokeUserSessions(c *call) (any, error) {
	if err := c.asAdmin("session", "revoke"); err != nil {
		return nil, err
	}
	if err := c.s.auth.RevokeSessions(c.ctx, c.caller, c.target(), false); err != nil && !errors.Is(err, authn.ErrUserNotFound) {
		return nil, err
	}
	return successObject{true}, nil
}

func impersonateUser(c *call) (any, error) {
	in, err := c.s.auth.Impersonate(c.ctx, c.caller, c.target(), c.device())
	if err != nil {
		return nil, err
	}
	c.clearSession()
	if c.place == request.InCookie && c.session != nil {
		c.setAdminSession(c.session.Token, c.dontRemember)
	}
	c.setSession(*in.Session, in.User, true)
	return sessionAnswer{newSessionObject(*in.Session, true), NewUserObject(in.User)}, nil
}

func stopImpersonating(c *call) (any, error) {
	token, dontRemember := c.adminSession()
	in, err := c.s.auth.StopImpersonating(c.ctx, c.caller, token)
	if err != nil {
		return nil, err
	}
	c.setSession(*in.Session, in.User, dontRemember)
	if _, sent := c.s.rd.Cookie(c.r, request.DontRememberCookie); sent && !dontRemember {
		c.setCookie(request.DontRememberCookie, "", deleted)
	}
	c.setCookie(request.AdminSessionCookie, "", deleted)
	return sessionAnswer{newSessionObject(*in.Session, true), NewUserObject(in.User)}, nil
}

func removeUser(c *call) (any, error) {
	if err := c.s.auth.RemoveUser(c.ctx, c.caller, c.target()); err != nil {
		return nil, err
	}
	return successObject{true}, nil
}

// ---- has-permission ----

// permissionsAsked is what a has-permission asks about, under either name.
func (c *call) permissionsAsked() value {
	if v := c.body["permissions"]; v != nil {
		return v
	}
	return c.body["permission"]
}

// checkPermissionsAsked validates a union, which schemas don't know.
func checkPermissionsAsked(c *call) error {
	if k := c.whole.kind(); k != "object" {
		return invalid("[body] Invalid input: expected object, received "+k, "[body] Invalid input")
	}
	if m := (schema{{"role", optionally(isText)}}).messages("body", c.body); m != nil {
		return invalid(m...)
	}
	fits := func(name string) bool {
		v := c.body[name]
		return v != nil && isPermissions(v) == nil
	}
	plural, singular := fits("permissions"), fits("permission")
	switch {
	case plural && singular:
		return invalid("[body] Invalid input: more than one option matched")
	case !plural && !singular, c.body["permissions"] != nil && c.body["permission"] != nil:
		return invalid("[body] Invalid input")
	}
	return nil
}

type permissionAnswer struct {
	Error   *string `json:"error"`
	Success bool    `json:"success"`
}

// mostPermissions bounds the decisions of one request.
const mostPermissions = 100

// hasPermission asks about the caller, or, for those who may evaluate
// access, about another user or a role.
func hasPermission(c *call) (any, error) {
	var want authz.Permissions
	if err := json.Unmarshal([]byte(c.permissionsAsked()), &want, json.JoinOptions(lenient)); err != nil {
		return nil, invalid("[body] Invalid input")
	}
	subject := c.caller.Subject()
	id, role := c.body["userId"], c.body.optionalText("role")
	if id.truthy() || role != nil && *role != "" {
		if id.coerced() != c.own() || c.own() == "" {
			var err error
			if subject, err = c.other(id, role); err != nil {
				return nil, err
			}
		}
	}
	n := 0
	for _, actions := range want {
		n += len(actions)
	}
	if n > mostPermissions {
		return nil, refuse(400, "TOO_MANY_PERMISSIONS", "Too many permissions in one request")
	}
	success := len(want) > 0
	for typ, actions := range want {
		success = success && len(actions) > 0
		for _, action := range actions {
			if !success {
				break
			}
			d, err := c.s.engine.Decide(c.ctx, authz.Request{
				Subject: subject, Action: authz.Action{Name: action}, Resource: authz.Resource{Type: typ},
			})
			if err != nil {
				return nil, err
			}
			success = d.Allow
		}
	}
	return permissionAnswer{nil, success}, nil
}

// other describes the user (or, without one, a holder of the role) that the
// caller asks about.
func (c *call) other(id value, role *string) (*authz.Subject, error) {
	about := authz.Resource{Type: "access"}
	if id.truthy() {
		about.Properties = map[string]any{"subject": map[string]any{"type": authz.TypeUser, "id": orNobody(id.coerced())}}
	}
	if err := c.ask("evaluate", about); err != nil {
		return nil, err
	}
	by := &authz.Asserter{Type: c.caller.Subject().Identity().Type, ID: c.own()}
	if k := c.caller.Key(); k != nil {
		by.KeyID = k.ID
	}
	if !id.truthy() {
		return authz.NewSubject(authz.Identity{
			Type: authz.TypeUser, ID: "anybody", // policies want a name
			Credential: authz.CredentialAsserted, Roles: splitRoles(*role), AssertedBy: by,
		})
	}
	who, err := c.s.auth.Identity(c.ctx, orNobody(id.coerced()))
	if errors.Is(err, authn.ErrUserNotFound) {
		return nil, &apiError{Status: http.StatusBadRequest, Message: "user not found"}
	}
	if err != nil {
		return nil, err
	}
	who.Credential, who.AssertedBy, who.Known = authz.CredentialAsserted, by, true
	who.Properties = who.User.Attributes
	return authz.NewSubject(who)
}

func splitRoles(s string) []string {
	var roles []string
	for r := range strings.SplitSeq(s, ",") {
		if r != "" {
			roles = append(roles, r)
		}
	}
	return roles
}
