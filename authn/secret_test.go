package authn_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/authn"
)

func TestSecretsNeverShow(t *testing.T) {
	const text = "hunter2-hunter2"
	type outer struct {
		Session authn.Session
		Secrets []authn.Secret
		ByName  map[string]authn.Secret
		Any     any
		Pointer *authn.Secret
	}
	s := authn.Secret(text)
	values := []any{s, &s, authn.Credential{Kind: authn.Bearer, Secret: s}, authn.SignIn{Password: s}, outer{authn.Session{Token: s}, []authn.Secret{s}, map[string]authn.Secret{"a": s}, s, &s}, fmt.Errorf("x: %v", s)}
	var out bytes.Buffer
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%c", "%U", "%e", "%20v", "%-8s", "%z"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "v", v)
	}
	hex := fmt.Sprintf("%x", text)
	if shown := out.String(); strings.Contains(shown, text) || strings.Contains(shown, hex) || strings.Contains(strings.ToLower(shown), hex) {
		for line := range strings.Lines(shown) {
			if strings.Contains(line, text) || strings.Contains(strings.ToLower(line), hex) {
				t.Errorf("shown: %s", line)
			}
		}
	}
	if s.Reveal() != text {
		t.Error("Reveal does not reveal")
	}
}

func TestPrincipalsShowNoSecret(t *testing.T) {
	h := open(t)
	_, secret := h.key(h.admin, nil)
	token := h.token(h.admin)
	for _, p := range []authn.Principal{h.asKey(secret), h.mustAuthenticate(authn.SessionToken, token)} {
		shown := fmt.Sprintf("%v %+v %#v %+v %+v", p, p, p, p.Session(), p.Key())
		if strings.Contains(shown, secret.Reveal()) || strings.Contains(shown, token.Reveal()) {
			t.Errorf("shown: %s", shown)
		}
	}
}
