package betterauth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/server/request"
)

const (
	untilClosed = -1 // Max-Age of cookies that end with the browser
	deleted     = 0
)

// setCookie adds a Set-Cookie header. value is already encoded.
func (c *call) setCookie(name, value string, maxAge int) {
	c.cookies = append(c.cookies, c.serialise(c.s.rd.CookieName(name), value, maxAge))
}

func (c *call) serialise(name, value string, maxAge int) string {
	var b strings.Builder
	b.WriteString(name + "=" + value)
	if maxAge != untilClosed {
		b.WriteString("; Max-Age=" + strconv.Itoa(maxAge))
	}
	if c.s.o.CookieDomain != "" {
		b.WriteString("; Domain=" + c.s.o.CookieDomain)
	}
	b.WriteString("; Path=/; HttpOnly")
	if c.s.rd.SecureCookies() {
		b.WriteString("; Secure")
	}
	b.WriteString("; SameSite=Lax")
	return b.String()
}

func seconds(d time.Duration) int { return int(d / time.Second) }

// setSession gives the browser a session.
func (c *call) setSession(s authn.Session, u authn.User, dontRemember bool) {
	c.setSessionToken(s, dontRemember)
	if dontRemember {
		c.setCookie(request.DontRememberCookie, c.s.rd.SignCookie("true"), untilClosed)
	}
	if c.s.o.CookieCache {
		c.setSessionData(s, u, dontRemember)
	}
}

func (c *call) setSessionToken(s authn.Session, dontRemember bool) {
	age := seconds(c.s.o.SessionLife)
	switch {
	case dontRemember:
		age = untilClosed
	case s.Fixed:
		// The cookie of a session that does not slide ends with it.
		age = min(age, max(seconds(time.Until(s.ExpiresAt).Round(time.Second)), 1))
	}
	c.setCookie(request.SessionCookie, c.s.rd.SignCookie(s.Token.Reveal()), age)
}

// reissue gives the browser its session again after a change to the user. A
// session or key from a header is not turned into a cookie.
func (c *call) reissue(u authn.User) {
	if c.place == request.InCookie && c.session != nil {
		c.setSession(*c.session, u, c.dontRemember)
	}
}

// clearSession deletes the session cookies, whether or not they were sent.
func (c *call) clearSession() {
	c.setCookie(request.SessionCookie, "", deleted)
	c.setCookie(request.SessionDataCookie, "", deleted)
	c.expireSessionData()
	c.setCookie(request.DontRememberCookie, "", deleted)
}

// ---- session_data ----

const (
	sessionDataVersion = "1"
	cookieRoom         = 4050 // bytes of one cookie with its attributes
)

type sessionData struct {
	Session   jsontext.Value `json:"session"`
	ExpiresAt int64          `json:"expiresAt"`
	Signature string         `json:"signature"`
}

type sessionDataPayload struct {
	Session   sessionObject `json:"session"`
	User      UserObject    `json:"user"`
	UpdatedAt int64         `json:"updatedAt"`
	Version   string        `json:"version"`
}

// setSessionData writes the session cache, in parts if it is too long for a
// cookie.
func (c *call) setSessionData(s authn.Session, u authn.User, dontRemember bool) {
	now, age, life := time.Now(), seconds(c.s.o.CookieCacheLife), c.s.o.CookieCacheLife
	if dontRemember {
		age, life = untilClosed, time.Minute
	}
	payload := mustJSON(sessionDataPayload{newSessionObject(s, true), NewUserObject(u), now.UnixMilli(), sessionDataVersion})
	value := signSessionData(c.s.rd.Secret(), jsontext.Value(payload), now.Add(life).UnixMilli())

	name := c.s.rd.CookieName(request.SessionDataCookie)
	parts := map[string]bool{}
	add := func(name, value string) {
		parts[name] = true
		c.cookies = append(c.cookies, c.serialise(name, value, age))
	}
	room := cookieRoom - len(c.serialise(name+".00", "", age))
	if len(value) <= room {
		add(name, value)
		value = ""
	}
	for i := 0; len(value) > 0; i++ {
		n := min(room, len(value))
		add(name+"."+strconv.Itoa(i), value[:n])
		value = value[n:]
	}
	// Parts of a cache that was longer would be read as the end of this one.
	for _, sent := range c.sessionDataParts() {
		if !parts[sent] {
			c.cookies = append(c.cookies, c.serialise(sent, "", deleted))
		}
	}
}

func signSessionData(secret string, payload jsontext.Value, expiresAt int64) string {
	data := sessionData{payload, expiresAt, sessionDataSignature(secret, payload, expiresAt)}
	return base64.RawURLEncoding.EncodeToString(mustJSON(data))
}

// sessionDataSignature signs payload with the member expiresAt at its end.
func sessionDataSignature(secret string, payload jsontext.Value, expiresAt int64) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(payload[:len(payload)-1])
	m.Write([]byte(`,"expiresAt":` + strconv.FormatInt(expiresAt, 10) + `}`))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// sessionDataCurrent reports whether a session_data cookie is one that we or
// a Better Auth application made for this session, and has not run out.
func sessionDataCurrent(secret, cookie string, token authn.Secret, now time.Time) bool {
	text, err := base64.RawURLEncoding.DecodeString(cookie)
	if err != nil {
		return false
	}
	var data sessionData
	if json.Unmarshal(text, &data) != nil || data.Session.Kind() != '{' {
		return false
	}
	if !hmac.Equal([]byte(data.Signature), []byte(sessionDataSignature(secret, data.Session, data.ExpiresAt))) {
		return false
	}
	var p struct {
		Session struct {
			Token string `json:"token"`
		} `json:"session"`
		Version string `json:"version"`
	}
	return json.Unmarshal(data.Session, &p) == nil && p.Version == sessionDataVersion &&
		p.Session.Token == token.Reveal() && data.ExpiresAt >= now.UnixMilli()
}

// sessionDataParts returns the names under which the cache was sent.
func (c *call) sessionDataParts() []string {
	base := c.s.rd.CookieName(request.SessionDataCookie)
	var names []string
	for _, cookie := range strings.Split(strings.Join(c.r.Header["Cookie"], ";"), ";") {
		name, _, _ := strings.Cut(strings.TrimSpace(cookie), "=")
		rest, ok := strings.CutPrefix(name, base)
		if !ok || rest != "" && !isPartNumber(rest) {
			continue
		}
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool {
		return len(names[i]) < len(names[j]) || len(names[i]) == len(names[j]) && names[i] < names[j]
	})
	return names
}

func isPartNumber(s string) bool {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "."), 10, 8)
	return err == nil && s == "."+strconv.FormatUint(n, 10)
}

// expireSessionData deletes a cache that was sent.
func (c *call) expireSessionData() {
	for _, name := range c.sessionDataParts() {
		c.cookies = append(c.cookies, c.serialise(name, "", deleted))
	}
}

// refreshSessionData keeps the cache in step with a session that was found in
// the store: written if it is due, deleted where it is not used.
func (c *call) refreshSessionData(extended bool) {
	if !c.s.o.CookieCache {
		if c.route.path == getSessionPath {
			c.expireSessionData()
		}
		return
	}
	if !extended && !c.query.truthy("disableCookieCache") {
		var value strings.Builder
		prefix := strings.TrimSuffix(c.s.rd.CookieName("x"), "x")
		for _, name := range c.sessionDataParts() {
			part, _ := c.s.rd.CookieText(c.r, strings.TrimPrefix(name, prefix))
			value.WriteString(part)
		}
		if sessionDataCurrent(c.s.rd.Secret(), value.String(), c.session.Token, time.Now()) {
			return
		}
	}
	c.setSessionData(*c.session, *c.caller.User(), c.dontRemember)
}

// ---- admin_session ----

// setAdminSession keeps the administrator's session while impersonating.
func (c *call) setAdminSession(token authn.Secret, dontRemember bool) {
	v := token.Reveal() + ":"
	if dontRemember {
		v += "true"
	}
	c.setCookie(request.AdminSessionCookie, c.s.rd.SignCookie(v), seconds(c.s.o.SessionLife))
}

func (c *call) adminSession() (token authn.Secret, dontRemember bool) {
	v, _ := c.s.rd.SignedCookie(c.r, request.AdminSessionCookie)
	t, flag, _ := strings.Cut(v, ":")
	return authn.Secret(t), flag == "true"
}

// formEscape is how JavaScript's URLSearchParams writes a value.
func formEscape(s string) string {
	return strings.NewReplacer("~", "%7E", "%2A", "*").Replace(url.QueryEscape(s))
}
