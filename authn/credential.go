package authn

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Kind is a kind of credential.
type Kind int

const (
	NoCredential Kind = iota
	SessionToken      // from a cookie whose signature was verified, or a bearer token
	APIKeySecret      // from a key header
	Bearer            // either of them
)

// Credential is what a request presents.
type Credential struct {
	Kind   Kind
	Secret Secret
}

// maxCredential bounds what is looked at, in bytes. No key and no token that
// was ever issued is longer.
const maxCredential = 512

type digest = [sha256.Size]byte

// digestOf is the SHA-256 of a credential. The copy keeps it on the stack.
func digestOf(secret string) digest {
	var buf [maxCredential]byte
	return sha256.Sum256(buf[:copy(buf[:], secret)])
}

// keyDigestOf is the form in which the table of keys has it.
func keyDigestOf(secret string) string { return storedDigest(digestOf(secret)) }

func storedDigest(d digest) string { return base64.RawURLEncoding.EncodeToString(d[:]) }

func sameText(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// Authenticate resolves c. NoCredential is anonymous and no error. A good key
// with limits has one use counted. Errors: ErrBadCredential, a key error
// (ErrKeyDisabled, ErrKeyExpired, ErrKeySuperseded, ErrOwnerBanned,
// ErrOwnerMissing, ErrRateLimited in a *RetryError, ErrUsageExceeded),
// ErrOwnerBanned also for a session, ErrUnavailable.
func (s *Service) Authenticate(ctx context.Context, c Credential) (Principal, error) {
	if c.Kind == NoCredential {
		return Principal{}, nil
	}
	now := s.o.Clock() // once: to read it takes as long as to find somebody
	p, err := s.lookup(ctx, c.Kind, string(c.Secret), now)
	if err != nil {
		return Principal{}, err
	}
	if p.presented == APIKeySecret {
		if p, err = s.use(ctx, p, now); err != nil {
			return Principal{}, err
		}
	}
	return Principal{p}, nil
}

// Forget drops what is remembered of a row that changed. kind is "user",
// "session" or "key"; an empty id means all of the kind, an empty kind everything.
func (s *Service) Forget(kind, id string) {
	s.cache.Forget(kind, id)
	if kind == "user" || kind == "" {
		s.known.Forget(kind, id)
	}
	switch kind {
	case "key":
		s.uses.forget(id)
	case "":
		s.uses.forget("")
	}
}

// TrustUntil bounds the use of what is remembered: from t on, by the service's
// clock, each request reads the store, until a later call moves the bound. A
// program that carries the changes of others to Forget calls it after each
// time that it has, so that a feed that stopped can't keep a revoked
// credential alive. Without a call there is no bound but the cache's own.
func (s *Service) TrustUntil(t time.Time) {
	s.cache.TrustUntil(t)
	s.known.TrustUntil(t)
}

// CacheStats tells how many credentials were resolved from memory, and how
// many from the store.
func (s *Service) CacheStats() (hits, misses uint64) {
	n := s.cache.hits.Snapshot()
	return n.Hits, n.Misses
}

// lookup finds the principal behind a secret, in memory or in the store. With
// a key error it returns the principal too; nothing is counted.
func (s *Service) lookup(ctx context.Context, kind Kind, secret string, now time.Time) (*principal, error) {
	if secret == "" || len(secret) > maxCredential {
		return nil, ErrBadCredential
	}
	d := digestOf(secret)
	p, ok := s.cache.Get(d, now)
	if !ok || (kind != Bearer && kind != p.presented) {
		s.cache.hits.RecordMisses(1)
		var err error
		if p, err = s.fill(ctx, kind, secret, d); err != nil {
			return nil, err
		}
	} else {
		s.cache.hits.RecordHits(1)
	}
	err := p.refusal(now, s.o.Keys.Retention)
	if errors.Is(err, ErrBadCredential) {
		return nil, err
	}
	return p, err
}

// fill loads a principal and remembers it. Callers with the same secret share
// one load, but only those who came before the next forget: whoever comes
// later must see what the forget was about.
func (s *Service) fill(ctx context.Context, kind Kind, secret string, d digest) (*principal, error) {
	for {
		// The generation is taken before the store is read: a revocation that
		// lands between the read and the put must win.
		generation := s.cache.Generation()
		type outcome struct {
			p        *principal
			err      error
			deserted bool // whoever led the load went away
		}
		v, _, shared := s.cache.flight.Do(flightKey(d, kind, generation), func() (any, error) {
			p, err := s.load(ctx, kind, secret, d)
			if err == nil {
				now := s.o.Clock()
				if p.refusal(now, s.o.Keys.Retention) == nil {
					s.cache.Put(generation, d, p, now)
				}
			}
			return outcome{p, err, err != nil && ctx.Err() != nil}, nil
		})
		o := v.(outcome)
		if shared && o.deserted && ctx.Err() == nil {
			continue
		}
		return o.p, o.err
	}
}

func flightKey(d digest, kind Kind, generation uint64) string {
	var key [sha256.Size + 9]byte
	copy(key[:], d[:])
	key[sha256.Size] = byte(kind)
	binary.LittleEndian.PutUint64(key[sha256.Size+1:], generation)
	return string(key[:])
}

// load reads a principal from the store.
func (s *Service) load(ctx context.Context, kind Kind, secret string, d digest) (*principal, error) {
	switch kind {
	case SessionToken:
		return s.loadSession(ctx, secret)
	case APIKeySecret:
		return s.loadKey(ctx, secret, d)
	case Bearer:
		if looksOurs(secret) {
			return s.loadKey(ctx, secret, d)
		}
		p, err := s.loadSession(ctx, secret)
		if errors.Is(err, ErrBadCredential) {
			return s.loadKey(ctx, secret, d)
		}
		return p, err
	}
	return nil, ErrBadCredential
}

func (s *Service) loadSession(ctx context.Context, token string) (*principal, error) {
	sess, u, key, err := s.store.SessionByToken(ctx, Secret(token))
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, ErrBadCredential
	case err != nil:
		return nil, fmt.Errorf("find session: %w", err)
	case !sameText(string(sess.Token), token): // a collation that folds case must not open doors
		return nil, ErrBadCredential
	case !sess.ExpiresAt.After(s.o.Clock()):
		// Nobody can extend it any more, so its row can go.
		ev := s.event(System("expiry"), "session.expire", "session", sess.ID, "", map[string]any{"owner": sess.UserID})
		if _, err := s.store.DeleteSessions(ctx, SessionFilter{ID: sess.ID}, ev); err != nil {
			return nil, fmt.Errorf("remove an expired session: %w", err)
		}
		return nil, ErrBadCredential
	}
	return s.ofSession(ctx, sess, u, key)
}

func (s *Service) loadKey(ctx context.Context, secret string, d digest) (*principal, error) {
	if looksOurs(secret) && !checksumRight(secret) {
		return nil, ErrBadCredential
	}
	k, owner, ends, err := s.store.KeyByDigest(ctx, storedDigest(d))
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, ErrBadCredential
	case err != nil:
		return nil, fmt.Errorf("find key: %w", err)
	case ends == nil && !sameText(k.Digest, storedDigest(d)):
		return nil, ErrBadCredential
	}
	return s.ofKey(ctx, k, owner, storedDigest(d), ends)
}

// IsCredentialError reports whether err is about the credential, not about us.
func IsCredentialError(err error) bool {
	for _, e := range []error{ErrBadCredential, ErrKeyDisabled, ErrKeyExpired, ErrKeySuperseded, ErrOwnerBanned, ErrOwnerMissing, ErrRateLimited, ErrUsageExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// earliest returns the earlier of t and the times that are set.
func earliest(t time.Time, others ...*time.Time) time.Time {
	for _, o := range others {
		if o != nil && o.Before(t) {
			t = *o
		}
	}
	return t
}
