package betterauth

import (
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/request"
)

const prefixMessage = "Invalid prefix format, must be alphanumeric and contain only underscores and hyphens."

var prefixSyntax = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// lenient is how bodies on this surface are read.
var lenient = jsonv2.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

func (s *surface) keyRoutes() []route {
	limits := func(remaining int) schema {
		return schema{
			{"remaining", nullable(atLeast(remaining))},
			{"refillAmount", optionally(atLeast(1))}, {"refillInterval", optionally(isNumber)},
			{"rateLimitTimeWindow", optionally(isNumber)}, {"rateLimitMax", optionally(isNumber)},
			{"rateLimitEnabled", optionally(isBoolean)},
		}
	}
	config := field{"configId", optionally(isText)}
	name := field{"name", optionally(isText)}
	expires := field{"expiresIn", nullable(atLeast(1))}
	userID := field{"userId", optionally(isCoerced(""))}
	keyID := field{"keyId", isText}
	id := field{"id", isText}
	return []route{
		{method: "POST", path: "/api-key/create", needs: errUnauthorizedSession, handle: createKey,
			body: append(append(schema{config, name, expires, {"prefix", optionally(isMatch(prefixSyntax, prefixMessage))}},
				limits(0)...), field{"permissions", optionally(isPermissions)}, userID)},
		{method: "GET", path: "/api-key/get", needs: errUnauthorized, handle: getKey, query: schema{config, id}},
		{method: "GET", path: "/api-key/list", needs: errUnauthorized, handle: listKeys, query: schema{
			config, {"limit", optionally(isIndex)}, {"offset", optionally(isIndex)},
			{"sortBy", optionally(isText)}, {"sortDirection", optionally(isOneOf("asc", "desc"))},
		}},
		{method: "POST", path: "/api-key/update", needs: errUnauthorizedSession, handle: updateKey,
			body: append(append(schema{config, keyID, userID, name, {"enabled", optionally(isBoolean)}},
				limits(1)...), expires, field{"permissions", nullable(isPermissions)})},
		{method: "POST", path: "/api-key/delete", needs: errUnauthorized, handle: deleteKey, body: schema{config, keyID, userID}},

		// Ours.
		{method: "POST", path: "/api-key/rotate", needs: errUnauthorizedSession, handle: rotateKey,
			body: schema{config, keyID, userID, {"overlap", optionally(atLeast(0))}}},
		// Machines that exchange their key send no Origin, so none is asked for;
		// but one that is sent has to be good.
		{method: "POST", path: "/sign-in/api-key", handle: signInKey},
	}
}

var errServerOnly = refuse(400, "SERVER_ONLY_PROPERTY", "The property you're trying to set can only be set from the server auth instance only.")

// serverOnly refuses the limits of a key, which its user does not set.
func (c *call) serverOnly() error {
	for _, name := range []string{"refillAmount", "refillInterval", "rateLimitMax", "rateLimitTimeWindow", "rateLimitEnabled"} {
		if c.body[name] != nil {
			return errServerOnly
		}
	}
	if k := c.body["remaining"].kind(); k != "undefined" && k != "null" {
		return errServerOnly
	}
	return nil
}

// permissions reads grants; set is false if they are not there.
func (c *call) permissions() (p authz.Permissions, set bool, err error) {
	v := c.body["permissions"]
	if v == nil {
		return nil, false, nil
	}
	if v.kind() == "null" {
		return nil, true, nil
	}
	if err := jsonv2.Unmarshal([]byte(v), &p, lenient); err != nil {
		return nil, true, invalid("[body.permissions] Invalid input")
	}
	return p, true, nil
}

// metadata reads JSON of a key; JavaScript's falsy values are none.
func (c *call) metadata() (json.RawMessage, error) {
	v := c.body["metadata"]
	if !v.truthy() {
		return nil, nil
	}
	compact := jsontext.Value(v)
	if err := compact.Compact(lenient); err != nil {
		return nil, err
	}
	return json.RawMessage(compact), nil
}

func createKey(c *call) (any, error) {
	if err := c.serverOnly(); err != nil {
		return nil, err
	}
	in := authn.NewKey{Name: c.body.optionalText("name"), Prefix: c.body.optionalText("prefix")}
	var err error
	if in.Permissions, _, err = c.permissions(); err != nil {
		return nil, err
	}
	if in.Metadata, err = c.metadata(); err != nil {
		return nil, err
	}
	if c.body["expiresIn"].kind() == "number" {
		d := secondsDuration(c.body["expiresIn"].number())
		in.ExpiresIn = &d
	}
	if v := c.body["userId"]; v.truthy() {
		if in.OwnerID = v.coerced(); in.OwnerID == c.own() {
			return nil, errUnauthorizedSession // as recorded: one's own id is not to be given
		}
	}
	key, secret, err := c.s.auth.CreateKey(c.ctx, c.caller, in)
	if err != nil {
		return nil, c.foreign(in.OwnerID, err)
	}
	return NewKeyObject(key, secret), nil
}

// foreign words a refusal to deal with another user's keys.
func (c *call) foreign(owner string, err error) error {
	var d *authz.DeniedError
	if owner != "" && owner != c.own() &&
		(errors.Is(err, authn.ErrKeyNotFound) || errors.As(err, &d) && d.Has(codeRoleMissing)) {
		return errUnauthorizedSession
	}
	return err
}

func getKey(c *call) (any, error) {
	key, err := c.s.auth.Key(c.ctx, c.caller, c.query.text("id"))
	if err != nil {
		return nil, err
	}
	if owner := c.query.text("userId"); owner != "" && owner != key.OwnerID || !rightConfig(c.query, key) {
		return nil, errKeyNotFound
	}
	return NewKeyObject(key, ""), nil
}

// rightConfig reports whether the key is of the configuration asked for. There
// is one; whoever asks for another gets it too.
func rightConfig(m members, key authn.APIKey) bool {
	return key.ConfigID == "default" || m.text("configId") == key.ConfigID
}

func listKeys(c *call) (any, error) {
	q := authn.KeyQuery{
		OwnerID: c.query.text("userId"), ConfigID: c.query.text("configId"),
		SortBy: c.query.text("sortBy"), SortDescending: c.query.text("sortDirection") == "desc", Limit: -1,
	}
	out := struct {
		Keys   []KeyObject `json:"apiKeys"`
		Total  int         `json:"total"`
		Limit  *int        `json:"limit,omitempty"`
		Offset *int        `json:"offset,omitempty"`
	}{Keys: []KeyObject{}}
	if v := c.query["limit"]; v != nil {
		q.Limit = index(v)
		out.Limit = &q.Limit
	}
	if v := c.query["offset"]; v != nil {
		q.Offset = index(v)
		out.Offset = &q.Offset
	}
	keys, total, err := c.s.auth.Keys(c.ctx, c.caller, q)
	var bad *authn.InvalidError
	if errors.As(err, &bad) {
		return nil, errCrash // as recorded
	}
	if err != nil {
		return nil, err
	}
	out.Total = total
	for _, k := range keys {
		out.Keys = append(out.Keys, NewKeyObject(k, ""))
	}
	return out, nil
}

func index(v value) int {
	n, _ := queryNumber(v)
	return int(math.Min(n, math.MaxInt32))
}

func updateKey(c *call) (any, error) {
	if err := c.serverOnly(); err != nil {
		return nil, err
	}
	change := authn.KeyChange{OwnerID: c.own(), Name: c.body.optionalText("name")}
	if v := c.body["userId"]; v.truthy() {
		change.OwnerID = v.coerced()
	}
	if c.body["enabled"] != nil {
		b := c.body.is("enabled", true)
		change.Enabled = &b
	}
	switch c.body["expiresIn"].kind() {
	case "number":
		d := secondsDuration(c.body["expiresIn"].number())
		p := &d
		change.ExpiresIn = &p
	case "null":
		var never *time.Duration
		change.ExpiresIn = &never
	}
	if c.body["metadata"] != nil {
		m, err := c.metadata()
		if err != nil {
			return nil, err
		}
		if m == nil {
			m = json.RawMessage("null")
		}
		change.Metadata = m
	}
	p, set, err := c.permissions()
	if err != nil {
		return nil, err
	}
	if set {
		change.Permissions = &p
	}
	key, err := c.s.auth.UpdateKey(c.ctx, c.caller, c.body.text("keyId"), change)
	if errors.Is(err, authn.ErrNothingToChange) {
		return nil, refuse(400, "NO_VALUES_TO_UPDATE", "No values to update.")
	}
	if err != nil {
		return nil, c.foreign(change.OwnerID, err)
	}
	return NewKeyObject(key, ""), nil
}

func deleteKey(c *call) (any, error) {
	if err := c.ofUser(); err != nil {
		return nil, err
	}
	if err := c.s.auth.DeleteKey(c.ctx, c.caller, c.body.text("keyId")); err != nil {
		return nil, err
	}
	return successObject{true}, nil
}

// ofUser checks that the key belongs to the user named beside it, if one is.
func (c *call) ofUser() error {
	owner := c.body["userId"]
	if !owner.truthy() {
		return nil
	}
	key, err := c.s.auth.Key(c.ctx, c.caller, c.body.text("keyId"))
	if err != nil {
		return err
	}
	if key.OwnerID != owner.coerced() {
		return errKeyNotFound
	}
	return nil
}

// rotateKey gives a key a new secret; the old one works overlap seconds more.
func rotateKey(c *call) (any, error) {
	if err := c.ofUser(); err != nil {
		return nil, err
	}
	overlap := secondsDuration(c.body["overlap"].number())
	key, secret, err := c.s.auth.RotateKey(c.ctx, c.caller, c.body.text("keyId"), overlap)
	if err != nil {
		return nil, err
	}
	return NewKeyObject(key, secret), nil
}

// signInKey exchanges an API key, from the key header or the body, for a
// session.
func signInKey(c *call) (any, error) {
	if c.r.Header.Get("Origin") != "" {
		if err := c.requireOrigin(); err != nil {
			return nil, err
		}
	}
	cred, place, err := c.s.rd.Credential(c.r)
	if place == request.InCookie {
		cred, err = authn.Credential{}, nil // a sign-in does not care who was signed in
	}
	if err != nil {
		c.place = place
		return nil, err
	}
	switch v := c.body["key"]; {
	case v == nil:
	case v.kind() != "string":
		return nil, invalid("[body.key] " + expected("string", v)[0].text)
	case cred.Secret != "" && cred.Secret.Reveal() != v.text():
		return nil, request.ErrAmbiguous
	default:
		cred.Secret = authn.Secret(v.text())
	}
	if cred.Secret == "" {
		return nil, invalid("[body.key] Invalid input: expected string, received undefined")
	}
	c.place = request.InKeyHeader // a bad key is a bad credential wherever it was
	cred.Kind = authn.APIKeySecret
	caller, err := c.s.auth.Authenticate(c.ctx, cred)
	if err != nil {
		return nil, refusedCredential(err)
	}
	in, err := c.s.auth.SignInKey(c.ctx, caller, c.device())
	if err != nil {
		return nil, err
	}
	return c.welcome(in, false)
}
