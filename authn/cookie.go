package authn

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strings"
	"unicode/utf8"
)

// SignCookie returns value, signed with secret, as it stands in a cookie.
func SignCookie(secret, value string) string {
	return encodeURIComponent(value + "." + cookieSignature(secret, value))
}

// VerifyCookie returns the value of a signed cookie, given as it stands in the
// Cookie header, if one of secrets signed it.
func VerifyCookie(secrets []string, cookie string) (value string, ok bool) {
	if strings.HasPrefix(cookie, `"`) && len(cookie) >= 2 {
		cookie = cookie[1 : len(cookie)-1]
	}
	// As decodeURIComponent does: what does not decode is taken as it is.
	if text, err := url.PathUnescape(cookie); err == nil && utf8.ValidString(text) {
		cookie = text
	}
	dot := strings.LastIndexByte(cookie, '.')
	if dot < 1 {
		return "", false
	}
	value, signature := cookie[:dot], cookie[dot+1:]
	if len(signature) != 44 || signature[43] != '=' {
		return "", false
	}
	// Every secret is tried, so that the time does not tell which one signed.
	for _, secret := range secrets {
		if hmac.Equal([]byte(cookieSignature(secret, value)), []byte(signature)) {
			ok = true
		}
	}
	if !ok {
		return "", false
	}
	return value, true
}

func cookieSignature(secret, value string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(value))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// encodeURIComponent is JavaScript's: it leaves other characters alone than
// any of net/url's escapes.
func encodeURIComponent(text string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-_.!~*'()", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}
