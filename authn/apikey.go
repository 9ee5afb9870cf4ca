package authn

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary/authz"
)

// APIKey is a key without its secret.
type APIKey struct {
	ID                  string
	ConfigID            string
	OwnerID             string // column referenceId
	Name                *string
	Start               *string // the first characters of the secret
	Prefix              *string
	Digest              string // base64url SHA-256 of the secret
	Enabled             bool
	CreatedAt           time.Time
	UpdatedAt           time.Time
	ExpiresAt           *time.Time
	Permissions         authz.Permissions // nil: none were given
	Metadata            json.RawMessage   // any JSON; nil is null
	RateLimitEnabled    bool
	RateLimitTimeWindow *int64 // milliseconds
	RateLimitMax        *int64
	RequestCount        int64 // in the current window
	LastRequest         *time.Time
	Remaining           *int64 // nil: unlimited
	RefillInterval      *int64 // milliseconds
	RefillAmount        *int64
	LastRefillAt        *time.Time

	// Unreadable says that Metadata is not what the store holds, since that
	// can't be read. Until it is replaced, the key counts as disabled.
	Unreadable bool
}

// Limited reports whether a use of the key has to be counted.
func (k *APIKey) Limited() bool {
	return k.Remaining != nil ||
		k.RateLimitEnabled && k.RateLimitTimeWindow != nil && k.RateLimitMax != nil
}

// refusal says why the key is not good at now, or nil. ends is when the secret
// at hand stops working because it was rotated away. Keys that ended longer
// ago than they are kept look unknown, whether or not they were removed yet.
func (k *APIKey) refusal(ends *time.Time, now time.Time, retention time.Duration) error {
	over := func(end *time.Time) bool { return end != nil && !end.After(now) }
	longGone := func(end *time.Time) bool { return end != nil && now.Sub(*end) > retention }
	switch {
	case longGone(k.ExpiresAt), longGone(ends):
		return ErrBadCredential
	case !k.Enabled, k.Unreadable:
		return ErrKeyDisabled
	case over(k.ExpiresAt):
		return ErrKeyExpired
	case over(ends):
		return ErrKeySuperseded
	}
	return nil
}

// ---- The format of secrets ----

const (
	// keyPrefix is ours. A key that begins with it was made here (or was
	// mistyped), so its checksum must be right. A prefix that was configured or
	// chosen says nothing: Better Auth makes keys with the same one.
	keyPrefix      = "ost_"
	checksumLength = 6
	// entropyLength letters carry 256 bits.
	entropyLength = 43
	// secretLength is what Better Auth expects of a key at least.
	secretLength = 64
)

func looksOurs(secret string) bool { return strings.HasPrefix(secret, keyPrefix) }

// checksumRight reports whether secret ends in the checksum of what stands
// before, so that a mistyped or made-up key costs no look at the store.
func checksumRight(secret string) bool {
	at := len(secret) - checksumLength
	return at >= len(keyPrefix)+entropyLength && secret[at:] == checksum(secret[:at])
}

// checksum is the CRC-32 of text as six base62 digits, the first the highest.
func checksum(text string) string {
	sum := crc32.ChecksumIEEE([]byte(text))
	var digits [checksumLength]byte
	for i := range digits {
		digits[checksumLength-1-i] = base62[sum%62]
		sum /= 62
	}
	return string(digits[:])
}

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// newSecret makes the secret of a key with this prefix. Without one it is what
// Better Auth makes: letters alone.
func (s *Service) newSecret(prefix string) Secret {
	if prefix == "" {
		return Secret(randomText(max(entropyLength+2, s.o.Keys.Length), letters[:52]))
	}
	n := max(entropyLength, secretLength-len(prefix)-checksumLength)
	if !looksOurs(prefix) {
		n = max(n, s.o.Keys.Length-checksumLength)
	}
	body := prefix + randomText(n, letters)
	return Secret(body + checksum(body))
}

func validPrefix(prefix string) bool {
	return !strings.ContainsFunc(prefix, func(r rune) bool {
		return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}

// setSecret gives k a new secret.
func (s *Service) setSecret(k *APIKey) Secret {
	secret := s.newSecret(value(k.Prefix))
	start := string(secret[:min(s.o.Keys.StartLength, len(secret))])
	k.Digest, k.Start = keyDigestOf(string(secret)), &start
	return secret
}

// ---- Creating ----

// NewKey is a key to create. Nil members take the defaults.
type NewKey struct {
	OwnerID     string // empty: the caller
	Name        *string
	Prefix      *string
	ExpiresIn   *time.Duration
	NoExpiry    bool // explicitly never, whatever the default
	Metadata    json.RawMessage
	Permissions authz.Permissions
	Limits      KeyLimits
}

// KeyLimits are the limits of a key; nil members stay as they are.
type KeyLimits struct {
	Remaining           **int64
	RefillAmount        **int64
	RefillInterval      **int64 // milliseconds
	RateLimitEnabled    *bool
	RateLimitTimeWindow **int64 // milliseconds
	RateLimitMax        **int64
}

func (l KeyLimits) apply(k *APIKey) error {
	for _, m := range []struct {
		name  string
		value **int64
		least int64
		into  **int64
	}{
		{"remaining", l.Remaining, 0, &k.Remaining},
		{"refillAmount", l.RefillAmount, 1, &k.RefillAmount},
		{"refillInterval", l.RefillInterval, 1, &k.RefillInterval},
		{"rateLimitTimeWindow", l.RateLimitTimeWindow, 1, &k.RateLimitTimeWindow},
		{"rateLimitMax", l.RateLimitMax, 0, &k.RateLimitMax},
	} {
		if m.value == nil {
			continue
		}
		if n := *m.value; n != nil && *n < m.least {
			return &InvalidError{m.name, fmt.Sprintf("is less than %d", m.least)}
		}
		*m.into = *m.value
	}
	set(&k.RateLimitEnabled, l.RateLimitEnabled)
	switch {
	case k.RefillAmount != nil && k.RefillInterval == nil:
		return ErrRefillInterval
	case k.RefillInterval != nil && k.RefillAmount == nil:
		return ErrRefillAmount
	}
	return nil
}

// CreateKey: apiKey:create on the owner. The Secret is shown this once.
// ErrUserNotFound, and what is wrong with a value: ErrKeyNameRequired and -Length,
// ErrKeyPrefix and -Length, ErrKeyExpiryShort, -Long and -Fixed, ErrMetadataOff and
// -Type, ErrRefillAmount, ErrRefillInterval, *InvalidError.
func (s *Service) CreateKey(ctx context.Context, caller Principal, in NewKey) (APIKey, Secret, error) {
	if caller.Anonymous() {
		return APIKey{}, "", ErrUnauthenticated
	}
	if in.OwnerID == "" {
		me, err := caller.person()
		if err != nil {
			return APIKey{}, "", err
		}
		in.OwnerID = me.ID
	}
	decision, err := s.permitNewKey(ctx, caller, &in)
	if err != nil {
		return APIKey{}, "", err
	}
	k, secret, err := s.newKey(caller, in)
	if err != nil {
		return APIKey{}, "", err
	}
	if _, err := s.store.User(ctx, in.OwnerID); err != nil {
		return APIKey{}, "", fmt.Errorf("create key: %w", gone(err, ErrUserNotFound))
	}
	if k.ID, err = s.store.NewID(ctx, "key"); err != nil {
		return APIKey{}, "", fmt.Errorf("create key: %w", err)
	}
	ev := s.event(caller, "key.create", "apiKey", k.ID, decision, keyDetails(&k))
	if err := s.store.CreateKey(ctx, k, ev); err != nil {
		return APIKey{}, "", fmt.Errorf("create key: %w", err)
	}
	return k, secret, nil
}

// permitNewKey asks for apiKey:create, telling the grants that the key would
// carry. It fills in the default ones.
func (s *Service) permitNewKey(ctx context.Context, caller Principal, in *NewKey) (string, error) {
	properties := map[string]any{"owner": in.OwnerID, "name": textOrNull(in.Name)}
	// The default grants are for everybody to have: they are the operator's
	// choice, not the creator's. But a key gets them for its offspring only if
	// it has them itself.
	if in.Permissions == nil {
		in.Permissions = s.o.Keys.DefaultPermissions
		if caller.Key() == nil {
			return s.permit(ctx, caller, "create", authz.Resource{Type: "apiKey", Properties: properties})
		}
	}
	properties["permissions"] = in.Permissions.Document()
	return s.permit(ctx, caller, "create", authz.Resource{Type: "apiKey", Properties: properties})
}

// newKey checks in and makes the key that it describes, without an id, not
// stored yet.
func (s *Service) newKey(caller Principal, in NewKey) (APIKey, Secret, error) {
	o := &s.o.Keys
	now := s.now()
	k := APIKey{
		ConfigID: "default", OwnerID: in.OwnerID, Name: in.Name, Enabled: true,
		CreatedAt: now, UpdatedAt: now, Permissions: in.Permissions, RateLimitEnabled: !o.RateLimitDisabled,
	}
	var err error
	if k.Metadata, err = o.metadata(in.Metadata); err != nil {
		return APIKey{}, "", err
	}
	if o.RateLimitMax > 0 {
		most, window := o.RateLimitMax, o.RateLimitWindow.Milliseconds()
		k.RateLimitMax, k.RateLimitTimeWindow = &most, &window
	}
	if err := in.Limits.apply(&k); err != nil {
		return APIKey{}, "", err
	}
	switch {
	case in.ExpiresIn != nil || in.NoExpiry:
		if k.ExpiresAt, err = o.expiry(caller, now, in.ExpiresIn); err != nil {
			return APIKey{}, "", err
		}
	case o.DefaultLife > 0:
		end := now.Add(o.DefaultLife)
		k.ExpiresAt = moment(&end)
	}
	prefix := *o.Prefix
	if in.Prefix != nil && *in.Prefix != "" {
		prefix = *in.Prefix
		switch {
		case !validPrefix(prefix):
			return APIKey{}, "", ErrKeyPrefix
		case len(prefix) < o.PrefixMin || len(prefix) > o.PrefixMax:
			return APIKey{}, "", ErrKeyPrefixLength
		}
	}
	if prefix != "" {
		k.Prefix = &prefix
	}
	switch name := value(in.Name); {
	case name == "" && o.NameRequired:
		return APIKey{}, "", ErrKeyNameRequired
	case name != "" && !o.nameFits(name):
		return APIKey{}, "", ErrKeyNameLength
	}
	secret := s.setSecret(&k)
	return k, secret, nil
}

func (o *KeyOptions) nameFits(name string) bool {
	n := utf16Len(name)
	return n >= o.NameMin && n <= o.NameMax
}

// metadata checks what is to be kept with a key: an object or a list, as the
// wire has it. What JavaScript holds for false is not looked at.
func (o *KeyOptions) metadata(raw json.RawMessage) (json.RawMessage, error) {
	raw = bytes.TrimSpace(raw)
	switch string(raw) {
	case "", "null":
		return nil, nil
	case "false", "0", `""`:
		return raw, nil
	}
	switch {
	case o.MetadataDisabled:
		return nil, ErrMetadataOff
	case raw[0] != '{' && raw[0] != '[' || !json.Valid(raw):
		return nil, ErrMetadataType
	}
	return raw, nil
}

// expiry is when a key ends that is to live this long; nil is never. The
// bounds are for what people ask for: the system has set them itself.
func (o *KeyOptions) expiry(caller Principal, now time.Time, life *time.Duration) (*time.Time, error) {
	bounded := !caller.IsSystem()
	switch {
	case bounded && o.ExpiryFixed:
		return nil, ErrKeyExpiryFixed
	case life == nil:
		return nil, nil
	case bounded && *life < o.MinLife:
		return nil, ErrKeyExpiryShort
	case bounded && *life > o.MaxLife:
		return nil, ErrKeyExpiryLong
	}
	end := now.Add(*life)
	return moment(&end), nil
}

func keyDetails(k *APIKey) map[string]any {
	return map[string]any{"owner": k.OwnerID, "name": textOrNull(k.Name)}
}

// keyFacts is k as decisions see it.
func keyFacts(k *APIKey) map[string]any {
	facts := keyDetails(k)
	facts["permissions"] = k.Permissions.Document()
	return facts
}

// ---- Reading and changing ----

// KeyQuery selects keys.
type KeyQuery struct {
	OwnerID        string // empty: the caller's
	ConfigID       string
	SortBy         string // a member of the wire's key object; *InvalidError if unknown
	SortDescending bool
	Limit, Offset  int // Limit negative: 100
	// Where, if set, is a condition on keys besides; see KeyFields.
	Where *authz.Condition
}

// KeyFields are the fields of keys, as policies see them, that a condition can be
// about.
var KeyFields = authz.Fields{"id": authz.AlwaysText, "properties.name": authz.TextOrNull}

// Keys lists the keys of one owner, and tells how many there are in all: apiKey:read.
// Those that the policy denies to read are left out, and do not count. *InvalidError
// of a member that is none.
func (s *Service) Keys(ctx context.Context, caller Principal, q KeyQuery) ([]APIKey, int, error) {
	if q.OwnerID == "" {
		me, err := caller.person()
		if err != nil {
			return nil, 0, err
		}
		q.OwnerID = me.ID
	}
	r := authz.Resource{Type: "apiKey", Properties: map[string]any{"owner": q.OwnerID}}
	if _, err := s.permit(ctx, caller, "read", r); err != nil {
		return nil, 0, err
	}
	if q.Limit < 0 {
		q.Limit = 100
	}
	r.Known = true
	keys, total, err := listed(ctx, s, caller, "read", r, KeyFields, page[APIKey]{
		offset: q.Offset, limit: q.Limit,
		read: func(where *authz.Condition, offset, limit int) ([]APIKey, int, error) {
			q.Where, q.Offset, q.Limit = where, offset, limit
			return s.store.Keys(ctx, q)
		},
		resource: func(k *APIKey) authz.Resource {
			return authz.Resource{Type: "apiKey", ID: k.ID, Known: true, Properties: keyFacts(k)}
		},
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list keys: %w", err)
	}
	return keys, total, nil
}

// permitKey asks for action on the key id and then answers with the key.
// change, if set, edits what the decision is told of it. Somebody else's key
// is ErrKeyNotFound to those whose role does not reach it; only a missing
// grant is told, which says nothing about the key.
func (s *Service) permitKey(ctx context.Context, caller Principal, id, action string, change func(facts map[string]any)) (*APIKey, string, error) {
	if caller.Anonymous() {
		return nil, "", ErrUnauthenticated
	}
	r := authz.Resource{Type: "apiKey", ID: id, Properties: map[string]any{}}
	k, err := s.store.Key(ctx, id)
	switch {
	case err == nil:
		r.Properties, r.Known = keyFacts(&k), true
		if change != nil {
			change(r.Properties)
		}
	case !errors.Is(err, ErrNotFound):
		return nil, "", fmt.Errorf("find key: %w", err)
	}
	decision, err := s.permit(ctx, caller, action, r)
	switch {
	case deniedFor(err, codeRoleMissing) && !caller.is(k.OwnerID):
		return nil, "", ErrKeyNotFound
	case err != nil:
		return nil, "", err
	case k.ID == "":
		return nil, "", ErrKeyNotFound
	}
	return &k, decision, nil
}

func withoutGrants(facts map[string]any) { delete(facts, "permissions") }

// Key: apiKey:read. ErrKeyNotFound also for a key that caller may not know of.
func (s *Service) Key(ctx context.Context, caller Principal, id string) (APIKey, error) {
	k, _, err := s.permitKey(ctx, caller, id, "read", withoutGrants)
	if err != nil {
		return APIKey{}, err
	}
	return *k, nil
}

// KeyChange is what to change of a key; nil members stay.
type KeyChange struct {
	OwnerID     string // if set, the key must belong to this user
	Name        *string
	Enabled     *bool
	ExpiresIn   **time.Duration // nil inside: no expiry
	Metadata    json.RawMessage
	Permissions *authz.Permissions // nil inside: none
	Limits      KeyLimits
}

func (c *KeyChange) fields() []string {
	var fields []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"name", c.Name != nil}, {"enabled", c.Enabled != nil}, {"expiresAt", c.ExpiresIn != nil},
		{"metadata", c.Metadata != nil}, {"permissions", c.Permissions != nil}, {"limits", c.Limits != KeyLimits{}},
	} {
		if f.set {
			fields = append(fields, f.name)
		}
	}
	return fields
}

// UpdateKey: apiKey:update. Its limits, even of one's own key, need what an
// administrator needs. UpdatedAt stays, as the wire has it. ErrKeyNotFound as in
// [Service.Key], ErrNothingToChange, and what [Service.CreateKey] says of values.
func (s *Service) UpdateKey(ctx context.Context, caller Principal, id string, c KeyChange) (APIKey, error) {
	o := &s.o.Keys
	if o.MetadataDisabled {
		c.Metadata = nil
	}
	k, decision, err := s.permitKey(ctx, caller, id, "update", func(facts map[string]any) {
		if withoutGrants(facts); c.Permissions != nil {
			facts["permissions"] = c.Permissions.Document()
		}
	})
	if err != nil {
		return APIKey{}, err
	}
	if c.OwnerID != "" && c.OwnerID != k.OwnerID {
		return APIKey{}, ErrKeyNotFound
	}
	if c.Limits != (KeyLimits{}) {
		// Asked without an owner, only a role permits it.
		if _, err := s.permit(ctx, caller, "update", authz.Resource{Type: "apiKey"}); err != nil {
			return APIKey{}, err
		}
	}
	if c.Name != nil && (*c.Name == "" || !o.nameFits(*c.Name)) {
		return APIKey{}, ErrKeyNameLength
	}
	var expires *time.Time
	if c.ExpiresIn != nil {
		if expires, err = o.expiry(caller, s.now(), *c.ExpiresIn); err != nil {
			return APIKey{}, err
		}
	}
	metadata, err := o.metadata(c.Metadata)
	if err != nil {
		return APIKey{}, err
	}
	fields := c.fields()
	if len(fields) == 0 {
		return APIKey{}, ErrNothingToChange
	}
	details := map[string]any{"owner": k.OwnerID, "fields": authz.Texts(fields)}
	changed, err := s.store.UpdateKey(ctx, id, func(k *APIKey) error {
		if c.Name != nil {
			k.Name = c.Name
		}
		set(&k.Enabled, c.Enabled)
		set(&k.Permissions, c.Permissions)
		if c.ExpiresIn != nil {
			k.ExpiresAt = expires
		}
		if c.Metadata != nil {
			k.Metadata = metadata
		}
		return c.Limits.apply(k)
	}, s.event(caller, "key.update", "apiKey", id, decision, details))
	if err != nil {
		return APIKey{}, fmt.Errorf("update key: %w", gone(err, ErrKeyNotFound))
	}
	s.Forget("key", id)
	return changed, nil
}

// RotateKey gives a key a new secret: apiKey:rotate. The old one works overlap
// longer. ErrKeyNotFound as in [Service.Key]; *InvalidError of an overlap that is
// negative.
func (s *Service) RotateKey(ctx context.Context, caller Principal, id string, overlap time.Duration) (APIKey, Secret, error) {
	k, decision, err := s.permitKey(ctx, caller, id, "rotate", nil)
	if err != nil {
		return APIKey{}, "", err
	}
	if overlap < 0 {
		return APIKey{}, "", &InvalidError{"overlap", "is negative"}
	}
	secret := s.setSecret(k)
	ends := s.now().Add(overlap)
	details := map[string]any{"owner": k.OwnerID, "overlapEnds": ends.Format(time.RFC3339)}
	rotated, err := s.store.RotateKey(ctx, id, k.Digest, k.Start, ends, s.event(caller, "key.rotate", "apiKey", id, decision, details))
	if err != nil {
		return APIKey{}, "", fmt.Errorf("rotate key: %w", gone(err, ErrKeyNotFound))
	}
	s.Forget("key", id)
	return rotated, secret, nil
}

// DeleteKey: apiKey:delete. ErrKeyNotFound as in [Service.Key].
func (s *Service) DeleteKey(ctx context.Context, caller Principal, id string) error {
	k, decision, err := s.permitKey(ctx, caller, id, "delete", withoutGrants)
	if err != nil {
		return err
	}
	if err := s.store.DeleteKey(ctx, id, s.event(caller, "key.delete", "apiKey", id, decision, keyDetails(k))); err != nil {
		return fmt.Errorf("delete key: %w", gone(err, ErrKeyNotFound))
	}
	s.Forget("key", id)
	return nil
}

// DeleteEndedKeys removes keys that ended longer ago than the retention.
// It is for System callers.
func (s *Service) DeleteEndedKeys(ctx context.Context, caller Principal) (int, error) {
	if !caller.IsSystem() {
		return 0, ErrUnauthenticated
	}
	before := s.now().Add(-s.o.Keys.Retention)
	ev := s.event(caller, "key.delete-ended", "apiKey", "", "", map[string]any{"endedBefore": before.Format(time.RFC3339)})
	n, err := s.store.DeleteKeysExpiredBefore(ctx, before, ev)
	if err != nil {
		return 0, fmt.Errorf("delete ended keys: %w", err)
	}
	if n > 0 {
		s.Forget("key", "")
	}
	return n, nil
}

// ---- Verifying ----

// Verification is what a key was found to be.
type Verification struct {
	Err   error // nil, ErrBadCredential (unknown), a key error, or ErrInsufficient
	Key   *APIKey
	Owner *User
}

// ErrInsufficient reports that a key, or its owner, lacks a permission asked about.
var ErrInsufficient = errors.New("insufficient permissions")

// verdicts are the codes of verification. What is not in the list is not
// about the key.
var verdicts = []struct {
	err  error
	code string
}{
	{ErrKeyDisabled, "DISABLED"},
	{ErrKeyExpired, "EXPIRED"},
	{ErrKeySuperseded, "SUPERSEDED"},
	{ErrOwnerBanned, "OWNER_BANNED"},
	{ErrRateLimited, "RATE_LIMITED"},
	{ErrUsageExceeded, "USAGE_EXCEEDED"},
	{ErrInsufficient, "INSUFFICIENT_PERMISSIONS"},
	// A key whose owner is gone opens nothing and belongs to nobody.
	{ErrOwnerMissing, "NOT_FOUND"},
	{ErrBadCredential, "NOT_FOUND"},
}

// Code is the verdict in a word: VALID, NOT_FOUND, DISABLED, EXPIRED,
// SUPERSEDED, OWNER_BANNED, RATE_LIMITED, USAGE_EXCEEDED or
// INSUFFICIENT_PERMISSIONS; "" if Err is not about the key.
func (v Verification) Code() string {
	if v.Err == nil {
		return "VALID"
	}
	for _, verdict := range verdicts {
		if errors.Is(v.Err, verdict.err) {
			return verdict.code
		}
	}
	return ""
}

// VerifyKey: apiKey:verify. It counts a use, as presenting the key would,
// unless the permissions asked about are missing.
//
// want may be nil. Of the built-in types the owner's roles must permit, too,
// what the key is granted. Of an application's own types the grants alone are
// compared: whether the owner may depends on the resource, which is a question
// for the engine.
func (s *Service) VerifyKey(ctx context.Context, caller Principal, key Secret, want authz.Permissions) (Verification, error) {
	if _, err := s.permit(ctx, caller, "verify", authz.Resource{Type: "apiKey"}); err != nil {
		return Verification{}, err
	}
	now := s.o.Clock()
	p, err := s.lookup(ctx, APIKeySecret, string(key), now)
	if err == nil && want != nil {
		var covered bool
		if covered, err = s.covers(ctx, p, want); err == nil && !covered {
			return p.verification(ErrInsufficient), nil
		}
	}
	if err == nil {
		var used *principal
		if used, err = s.use(ctx, p, now); err == nil {
			p = used
		}
	}
	if err != nil && !IsCredentialError(err) {
		return Verification{}, err
	}
	v := p.verification(err)
	if err == nil && !v.Key.Limited() {
		// Noted, though not yet written.
		used := now.UTC().Truncate(time.Millisecond)
		v.Key.LastRequest = &used
	}
	return v, nil
}

func (p *principal) verification(err error) Verification {
	v := Verification{Err: err}
	if p != nil && !errors.Is(err, ErrBadCredential) {
		k := *p.key
		v.Key, v.Owner = &k, p.user
	}
	return v
}

// builtInTypes are the resource types whose permissions the roles of the
// built-in bundle are about.
var builtInTypes = []string{"user", "session", "apiKey", "access", "entity", "policy", "decision", "event"}

// covers reports whether p's key, and its owner, have everything in want. As
// on the wire, nothing asked about is nothing covered.
func (s *Service) covers(ctx context.Context, p *principal, want authz.Permissions) (bool, error) {
	var effective authz.Permissions
	for t, actions := range want {
		if len(actions) == 0 {
			return false, nil
		}
		builtIn := slices.Contains(builtInTypes, t)
		if builtIn && effective == nil {
			var err error
			if effective, err = s.engine.Permissions(ctx, p.subject); err != nil {
				return false, fmt.Errorf("find the permissions of a key: %w", err)
			}
		}
		for _, action := range actions {
			if !p.key.Permissions.Allows(t, action) || builtIn && !effective.Allows(t, action) {
				return false, nil
			}
		}
	}
	return len(want) > 0, nil
}
