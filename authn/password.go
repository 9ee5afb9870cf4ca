package authn

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/crypto/scrypt"
	"golang.org/x/sync/semaphore"
	"golang.org/x/text/unicode/norm"
)

// The parameters of stored passwords are Better Auth's: "<salt>:<key>", the
// salt being the hex text itself, not the bytes that it spells.
const (
	scryptN, scryptR, scryptP = 16384, 16, 1
	scryptLength              = 64
	hashMemory                = 128 * scryptN * scryptR // bytes that one hash takes: 32 MiB
)

// passwords hashes, as many at once as memory allows.
type passwords struct {
	memory *semaphore.Weighted
	wait   time.Duration
	log    *slog.Logger
}

func newPasswords(memory int64, wait time.Duration, log *slog.Logger) *passwords {
	return &passwords{semaphore.NewWeighted(memory), wait, log}
}

// turn waits for the memory of one hash and returns how to give it back.
// ErrBusy if it does not come in time.
func (p *passwords) turn(ctx context.Context) (func(), error) {
	waiting, cancel := context.WithTimeout(ctx, p.wait)
	defer cancel()
	if err := p.memory.Acquire(waiting, hashMemory); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, ErrBusy
	}
	return func() { p.memory.Release(hashMemory) }, nil
}

func derive(password Secret, salt string) ([]byte, error) {
	return scrypt.Key([]byte(norm.NFKC.String(string(password))), []byte(salt), scryptN, scryptR, scryptP, scryptLength)
}

// hash returns the form in which a password is stored.
func (p *passwords) hash(ctx context.Context, password Secret) (string, error) {
	done, err := p.turn(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	salt := hex.EncodeToString(raw[:])
	key, err := derive(password, salt)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return salt + ":" + hex.EncodeToString(key), nil
}

// noPassword is what is compared with where there is no password, so that an
// unknown user takes as long as a known one. Nothing hashes to it.
const noPassword = "00000000000000000000000000000000:"

// matches reports whether password is the stored one. It always takes one
// hash: a stored value that is none, or is missing, is compared as well and
// never matches. The caller holds a turn.
func (p *passwords) matches(ctx context.Context, stored string, password Secret) (bool, error) {
	salt, want, err := parseHash(stored)
	if err != nil && stored != noPassword {
		p.log.LogAttrs(ctx, slog.LevelError, "a stored password is malformed and matches nothing")
	}
	got, failure := derive(password, salt)
	if failure != nil {
		return false, fmt.Errorf("check password: %w", failure)
	}
	return err == nil && len(want) == scryptLength && subtle.ConstantTimeCompare(got, want) == 1, nil
}

var errHashMalformed = errors.New("malformed password hash")

// parseHash splits a stored password. On an error it returns a salt that can
// be hashed with all the same.
func parseHash(stored string) (salt string, key []byte, err error) {
	salt, text, ok := strings.Cut(stored, ":")
	if !ok || salt == "" || len(text) != 2*scryptLength {
		return noPassword, nil, errHashMalformed
	}
	key, err = hex.DecodeString(text)
	if err != nil {
		return noPassword, nil, errHashMalformed
	}
	return salt, key, nil
}

// utf16Len is the length of text as JavaScript, and so the wire, counts it.
func utf16Len(text string) int {
	n := 0
	for _, r := range text {
		n++
		if r > 0xFFFF {
			n++
		}
	}
	return n
}

// checkPassword reports whether a password may be chosen.
func (s *Service) checkPassword(password Secret) error {
	switch n := utf16Len(string(password)); {
	case n < s.o.PasswordMin:
		return ErrPasswordShort
	case n > s.o.PasswordMax:
		return ErrPasswordLong
	}
	return nil
}
