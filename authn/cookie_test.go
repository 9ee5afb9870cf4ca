package authn_test

import (
	"strings"
	"testing"

	"github.com/ostiary/ostiary/authn"
)

func TestCookiesAreThoseOfBetterAuth(t *testing.T) {
	var vectors struct {
		Secret        string
		SignedCookies []struct{ Value, CookieValue string }
	}
	readVectors(t, &vectors)
	if len(vectors.SignedCookies) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range vectors.SignedCookies {
		if got := authn.SignCookie(vectors.Secret, v.Value); got != v.CookieValue {
			t.Errorf("%q: got %s, want %s", v.Value, got, v.CookieValue)
		}
		for _, cookie := range []string{v.CookieValue, `"` + v.CookieValue + `"`} {
			if got, ok := authn.VerifyCookie([]string{"another", vectors.Secret}, cookie); !ok || got != v.Value {
				t.Errorf("%s: got %q, %t", cookie, got, ok)
			}
		}
		if got, ok := authn.VerifyCookie([]string{"another"}, v.CookieValue); ok {
			t.Errorf("%s verifies as %q under another secret", v.CookieValue, got)
		}
	}
}

func TestCookiesThatAreNotSignedAreRefused(t *testing.T) {
	good := authn.SignCookie("secret", "value")
	for _, cookie := range []string{
		"", ".", "value", "value.", "." + strings.Repeat("A", 43) + "=", `"`, `""`, "%", "value.%ZZ",
		strings.TrimSuffix(good, "%3D"), good + "%3D", strings.Replace(good, "value", "other", 1),
		"value." + strings.Repeat("A", 43) + "=", "x" + good, good + "x", strings.ToLower(good),
	} {
		if v, ok := authn.VerifyCookie([]string{"secret"}, cookie); ok || v != "" {
			t.Errorf("%q verifies as %q", cookie, v)
		}
	}
	if _, ok := authn.VerifyCookie(nil, good); ok {
		t.Error("verifies without a secret")
	}
}

func FuzzVerifyCookie(f *testing.F) {
	f.Add(authn.SignCookie("secret", "value"), "value")
	f.Add(authn.SignCookie("secret", "a.b:true"), "ü%41")
	f.Add("value."+strings.Repeat("A", 43)+"%3D", `"`)
	secrets := []string{"secret", "older"}
	f.Fuzz(func(t *testing.T, cookie, value string) {
		// What verifies was signed: signing it again gives an equal signature.
		if got, ok := authn.VerifyCookie(secrets, cookie); ok {
			again, _ := authn.VerifyCookie(secrets[:1], authn.SignCookie(secrets[0], got))
			if again != got {
				t.Errorf("%q verifies as %q, which does not come back", cookie, got)
			}
		}
		signed := authn.SignCookie(secrets[0], value)
		if strings.ContainsAny(signed, " \",;\\\r\n") {
			t.Errorf("%q: %q cannot stand in a cookie", value, signed)
		}
		if got, ok := authn.VerifyCookie(secrets, signed); value != "" && strings.ToValidUTF8(value, "") == value && (!ok || got != value) {
			t.Errorf("%q comes back as %q, %t", value, got, ok)
		}
	})
}
