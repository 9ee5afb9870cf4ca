package ostiary

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/ostiary/ostiary/authn"
)

// MinSecret is how many characters a signing secret has at least.
const MinSecret = 32

// keptSecret returns the secret that belongs to a database without one in
// the configuration.
func keptSecret(database string) (string, error) {
	path, ok := strings.CutPrefix(database, "sqlite:")
	switch {
	case !ok:
		return "", &authn.InvalidError{Field: "secret", Reason: "is required: several instances on one database must share it"}
	case strings.HasPrefix(path, ":memory:"):
		return rand.Text() + rand.Text(), nil
	}
	return secretBeside(path + ".secret")
}

// secretBeside returns the secret kept in path, and makes one if there is no
// such file. Of two processes that start at once, both get the same one.
//
// A file that others could read is refused: whoever has the secret can sign
// session cookies for tokens they know.
func secretBeside(path string) (string, error) {
	secret, err := readSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	// Written whole under another name first, and linked: a reader never sees
	// half a secret, and the first writer wins.
	tmp := path + "." + rand.Text()
	if err := os.WriteFile(tmp, []byte(rand.Text()+rand.Text()+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("create secret: %w", err)
	}
	defer os.Remove(tmp)
	if err := os.Link(tmp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("create secret: %w", err)
	}
	return readSecret(path)
}

func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("%s: mode is %#o, so others can read the secret; it must be 0600", path, mode)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	secret := strings.TrimSpace(string(data))
	if len(secret) < MinSecret {
		return "", fmt.Errorf("%s: has %d characters; it needs at least %d", path, len(secret), MinSecret)
	}
	return secret, nil
}
