package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// keyFile writes a new key to a file.
func keyFile(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "signing.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSigningKeysAreReadInOrder(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ed)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	write := func(mode os.FileMode, blocks ...*pem.Block) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "keys.pem")
		var text []byte
		for _, b := range blocks {
			text = append(text, pem.EncodeToMemory(b)...)
		}
		if err := os.WriteFile(path, text, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}
	second := &pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}
	parameters := &pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 0}}
	keys, err := signingKeys(write(0o600, first, parameters, second))
	if err != nil || len(keys) != 2 || !ed.Equal(keys[0]) || !p256.Equal(keys[1]) {
		t.Errorf("got %v, %v", keys, err)
	}
	if keys, err := signingKeys(""); keys != nil || err != nil {
		t.Errorf("no path: got %v, %v", keys, err)
	}
	for want, path := range map[string]string{
		"no such file":                     "nowhere.pem",
		"it must be 0600":                  write(0o644, first),
		"holds no private key in PEM":      write(0o600, parameters),
		"key 2: is not a private key in":   write(0o600, first, &pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}),
		"key 1: x509: failed to parse EC":  write(0o600, &pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("secret")}),
		"key 1: is not a private key in P": write(0o600, &pem.Block{Type: "CERTIFICATE", Bytes: pkcs8[:10]}),
	} {
		if _, err := signingKeys(path); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}

// Without identifiers the base URL is one, if AuthZEN callers can use it.
func TestBaseURLIsTheIdentifier(t *testing.T) {
	for base, want := range map[string][]string{
		"https://pdp.example.com": {"https://pdp.example.com"}, "https://example.com/pdp": {"https://example.com/pdp"},
		"http://127.0.0.1:8080": nil,
	} {
		c := defaults()
		if got := c.identifiers(base); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", base, got, want)
		}
		c.AuthZEN.Identifiers = []string{"https://a.example", "https://b.example/t"}
		if got := c.identifiers(base); !slices.Equal(got, c.AuthZEN.Identifiers) {
			t.Errorf("%s, configured: got %q", base, got)
		}
	}
}
