package authzen

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
)

// TokenLife is how long a page token can be used.
const TokenLife = time.Hour

// tokens seals and opens page tokens. A token is encrypted as well as
// authenticated: where a page ends may be a name that the caller is not to know.
type tokens struct{ keys []cipher.AEAD }

// position is where a page begins.
type position struct {
	Limit    int       `json:"l"`
	After    []byte    `json:"a"`
	Revision string    `json:"r"`
	Expires  time.Time `json:"e"`
}

func newTokens(secrets []string) (*tokens, error) {
	if len(secrets) == 0 {
		secrets = []string{rand.Text() + rand.Text()}
	}
	t := &tokens{}
	for _, secret := range secrets {
		// A key of its own: a secret that signs cookies encrypts nothing.
		key, err := hkdf.Key(sha256.New, []byte(secret), nil, "ostiary authzen page token", 32)
		if err != nil {
			return nil, fmt.Errorf("page tokens: %w", err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("page tokens: %w", err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("page tokens: %w", err)
		}
		t.keys = append(t.keys, aead)
	}
	return t, nil
}

// seal makes the token of p, for this request alone.
func (t *tokens) seal(p position, request []byte, now time.Time) (string, error) {
	p.Expires = now.Add(TokenLife).UTC()
	plain, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("page token: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(t.keys[0].Seal(nil, nil, plain, request)), nil
}

// open returns what was sealed into token for the same request.
func (t *tokens) open(token string, request []byte, now time.Time) (p position, err error) {
	refused := bad("page.token: not one of this request, or too old")
	sealed, err := base64.RawURLEncoding.DecodeString(token)
	// There is one way to write a token: the decoder alone would pass over line
	// breaks and the last bits.
	if err != nil || base64.RawURLEncoding.EncodeToString(sealed) != token {
		return p, refused
	}
	for _, key := range t.keys {
		plain, err := key.Open(nil, nil, sealed, request)
		if err != nil {
			continue
		}
		if err := json.Unmarshal(plain, &p); err != nil || !now.Before(p.Expires) {
			return position{}, refused
		}
		return p, nil
	}
	return p, refused
}
