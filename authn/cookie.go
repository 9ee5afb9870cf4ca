package authn

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strings"
)

// SignCookie returns the cookie value that carries value with its signature,
// percent-encoded.
func SignCookie(secret, value string) string {
	return encodeURIComponent(value + "." + cookieSignature(secret, value))
}

// VerifyCookie reads what SignCookie wrote, under any of the secrets. It takes
// the value as it stands in the cookie header.
func VerifyCookie(secrets []string, cookieValue string) (string, bool) {
	if u, err := url.PathUnescape(cookieValue); err == nil {
		cookieValue = u
	}
	i := strings.LastIndexByte(cookieValue, '.')
	if i < 1 {
		return "", false
	}
	value, sig := cookieValue[:i], cookieValue[i+1:]
	if len(sig) != 44 || sig[43] != '=' {
		return "", false
	}
	for _, secret := range secrets {
		if hmac.Equal([]byte(sig), []byte(cookieSignature(secret, value))) {
			return value, true
		}
	}
	return "", false
}

func cookieSignature(secret, value string) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(value))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// encodeURIComponent is JavaScript's: all but A-Z a-z 0-9 - _ . ! ~ * ' ( )
// is percent-encoded.
func encodeURIComponent(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.!~*'()", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}
