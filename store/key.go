package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

type keyRow struct {
	bun.BaseModel `bun:"table:apikey,alias:k"`

	ID                  string   `bun:"id,pk"`
	ConfigID            string   `bun:"configId"`
	Name                *string  `bun:"name"`
	Start               *string  `bun:"start"`
	ReferenceID         string   `bun:"referenceId"`
	Prefix              *string  `bun:"prefix"`
	Key                 string   `bun:"key"`
	RefillInterval      *int64   `bun:"refillInterval"`
	RefillAmount        *int64   `bun:"refillAmount"`
	LastRefillAt        *instant `bun:"lastRefillAt"`
	Enabled             *bool    `bun:"enabled"`
	RateLimitEnabled    *bool    `bun:"rateLimitEnabled"`
	RateLimitTimeWindow *int64   `bun:"rateLimitTimeWindow"`
	RateLimitMax        *int64   `bun:"rateLimitMax"`
	RequestCount        int64    `bun:"requestCount"`
	Remaining           *int64   `bun:"remaining"`
	LastRequest         *instant `bun:"lastRequest"`
	ExpiresAt           *instant `bun:"expiresAt"`
	CreatedAt           instant  `bun:"createdAt"`
	UpdatedAt           instant  `bun:"updatedAt"`
	Permissions         *string  `bun:"permissions"`
	Metadata            *string  `bun:"metadata"`

	Owner string `bun:"ostiaryOwner,scanonly"`
}

// keyExtraRow is what we keep of a key beside Better Auth's table.
type keyExtraRow struct {
	bun.BaseModel `bun:"table:ostiary_key,alias:ok"`

	KeyID       string  `bun:"keyId,pk"`
	WindowStart instant `bun:"windowStart"`
}

// keyLimitsRow says how often the limits of a key were set by us. Counting is
// no change that anybody notices, setting is: elsewhere uses are in memory that
// were granted under the limits before.
type keyLimitsRow struct {
	bun.BaseModel `bun:"table:ostiary_key_limits,alias:kl"`

	KeyID   string `bun:"keyId,pk"`
	Version int64  `bun:"version"`
}

// limitColumns are what keyLimitsRow is about.
var limitColumns = []string{
	"remaining", "refillInterval", "refillAmount", "lastRefillAt",
	"rateLimitEnabled", "rateLimitTimeWindow", "rateLimitMax", "requestCount",
}

// keySecretRow is a secret that a key had before it was rotated.
type keySecretRow struct {
	bun.BaseModel `bun:"table:ostiary_key_secret,alias:ks"`

	Digest       string  `bun:"digest,pk"`
	KeyID        string  `bun:"keyId"`
	ValidUntil   instant `bun:"validUntil"`
	SupersededAt instant `bun:"supersededAt"`
}

func newKeyRow(k authn.APIKey) (*keyRow, error) {
	r := &keyRow{
		ID: k.ID, ConfigID: k.ConfigID, Name: k.Name, Start: k.Start, ReferenceID: k.OwnerID, Prefix: k.Prefix, Key: k.Digest,
		RefillInterval: k.RefillInterval, RefillAmount: k.RefillAmount, LastRefillAt: newInstantPtr(k.LastRefillAt),
		Enabled: &k.Enabled, RateLimitEnabled: &k.RateLimitEnabled,
		RateLimitTimeWindow: k.RateLimitTimeWindow, RateLimitMax: k.RateLimitMax, RequestCount: k.RequestCount,
		Remaining: k.Remaining, LastRequest: newInstantPtr(k.LastRequest), ExpiresAt: newInstantPtr(k.ExpiresAt),
		CreatedAt: newInstant(k.CreatedAt), UpdatedAt: newInstant(k.UpdatedAt),
		Owner: k.OwnerID,
	}
	if r.ConfigID == "" {
		r.ConfigID = "default"
	}
	if k.Permissions != nil {
		b, err := json.Marshal(k.Permissions)
		if err != nil {
			return nil, err
		}
		s := string(b)
		r.Permissions = &s
	}
	s := "null" // what Better Auth writes for none
	if len(k.Metadata) > 0 {
		if !json.Valid(k.Metadata) {
			return nil, rejected{&authn.InvalidError{Field: "metadata", Reason: "is not JSON"}}
		}
		s = string(k.Metadata)
	}
	r.Metadata = &s
	return r, nil
}

func (r *keyRow) key() authn.APIKey {
	k := authn.APIKey{
		ID: r.ID, ConfigID: r.ConfigID, OwnerID: r.Owner, Name: r.Name, Start: r.Start, Prefix: r.Prefix, Digest: r.Key,
		Enabled: r.Enabled == nil || *r.Enabled, CreatedAt: r.CreatedAt.Time, UpdatedAt: r.UpdatedAt.Time,
		ExpiresAt: r.ExpiresAt.ptr(), RateLimitEnabled: r.RateLimitEnabled == nil || *r.RateLimitEnabled,
		RateLimitTimeWindow: r.RateLimitTimeWindow, RateLimitMax: r.RateLimitMax, RequestCount: r.RequestCount,
		LastRequest: r.LastRequest.ptr(), Remaining: r.Remaining, RefillInterval: r.RefillInterval,
		RefillAmount: r.RefillAmount, LastRefillAt: r.LastRefillAt.ptr(),
	}
	if k.ConfigID == "" {
		k.ConfigID = "default"
	}
	if r.Permissions != nil {
		var p authz.Permissions
		// What cannot be read grants nothing.
		if json.Unmarshal([]byte(*r.Permissions), &p) == nil {
			k.Permissions = p
		}
	}
	if r.Metadata != nil {
		var err error
		k.Metadata, err = metadata(*r.Metadata)
		// Policies may refuse by it, so none is not what stands in for it.
		k.Unreadable = err != nil
	}
	return k
}

// metadata reads the JSON in s. Early versions of Better Auth encoded it twice.
func metadata(s string) (json.RawMessage, error) {
	for {
		text := bytes.TrimSpace([]byte(s))
		if len(text) == 0 || string(text) == "null" {
			return nil, nil
		}
		if !json.Valid(text) {
			return nil, fmt.Errorf("is not JSON")
		}
		var inner string
		if text[0] != '"' || json.Unmarshal(text, &inner) != nil {
			return text, nil
		}
		within := bytes.TrimSpace([]byte(inner))
		if !json.Valid(within) || within[0] != '{' && within[0] != '[' && within[0] != '"' && string(within) != "null" {
			return text, nil // really a string
		}
		s = inner
	}
}

// selectKeys begins a query for *keyRow or *[]keyRow.
func (db *DB) selectKeys(conn bun.IDB, s *schema, dest any) *bun.SelectQuery {
	return conn.NewSelect().Model(dest).ColumnExpr(s.keyColumns)
}

// KeyByDigest implements [authn.KeyStore].
func (db *DB) KeyByDigest(ctx context.Context, digest string) (authn.APIKey, authn.User, *time.Time, error) {
	k, u, at, err := db.keyByDigest(ctx, digest)
	if err != nil {
		return authn.APIKey{}, authn.User{}, nil, db.fail("read key", err)
	}
	return k, u, at, nil
}

func (db *DB) keyByDigest(ctx context.Context, digest string) (k authn.APIKey, u authn.User, at *time.Time, err error) {
	s, err := db.found()
	if err != nil {
		return k, u, nil, err
	}
	row, err := db.scanCredential(ctx, s.keyByDigest, "apikey", digest)
	if err != nil {
		return k, u, nil, err
	}
	k = row.Key.key()
	if row.User.ID != "" {
		u, err = row.User.user(s)
	}
	return k, u, row.ValidUntil.ptr(), err
}

// Key implements [authn.KeyStore].
func (db *DB) Key(ctx context.Context, id string) (authn.APIKey, error) {
	k, err := db.oneKey(ctx, db.reader, id, false)
	return k, db.fail("read key", err)
}

func (db *DB) oneKey(ctx context.Context, conn bun.IDB, id string, lock bool) (authn.APIKey, error) {
	s, err := db.found()
	if err != nil {
		return authn.APIKey{}, err
	}
	var row keyRow
	q := db.selectKeys(conn, s, &row).Where(`k."id" = ?`, s.ids.arg(id))
	if lock {
		q = db.dialect.lock(q, "k")
	}
	if err := q.Scan(ctx); err != nil {
		return authn.APIKey{}, err
	}
	return row.key(), nil
}

// CreateKey implements [authn.KeyStore].
func (db *DB) CreateKey(ctx context.Context, k authn.APIKey, ev audit.Event) error {
	return db.change(ctx, "create key", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		return db.insertKey(ctx, tx, k)
	})
}

// CreateServiceAccount implements [authn.KeyStore]. Attributes without a
// column of their name are kept, too.
func (db *DB) CreateServiceAccount(ctx context.Context, u authn.User, k *authn.APIKey, evs []audit.Event) error {
	return db.change(ctx, "create service account", evs, func(ctx context.Context, tx bun.Tx) error {
		u.ServiceAccount = true
		if err := db.insertUser(ctx, tx, u); err != nil || k == nil {
			return err
		}
		return db.insertKey(ctx, tx, *k)
	})
}

func (db *DB) insertKey(ctx context.Context, tx bun.IDB, k authn.APIKey) error {
	s, err := db.found()
	if err != nil {
		return err
	}
	row, err := newKeyRow(k)
	if err != nil {
		return err
	}
	q := tx.NewInsert().Model(row)
	if s.legacyKeys {
		q = q.Value("userId", "?", k.OwnerID)
	}
	_, err = q.Exec(ctx)
	return err
}

// changeKey has change change the key, which is locked, in the transaction of
// ev, and answers with the key as it then is.
func (db *DB) changeKey(ctx context.Context, what, id string, ev audit.Event, change func(ctx context.Context, tx bun.Tx, before authn.APIKey) error) (k authn.APIKey, err error) {
	err = db.change(ctx, what, []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		before, err := db.oneKey(ctx, tx, id, true)
		if err != nil {
			return err
		}
		if err := change(ctx, tx, before); err != nil {
			return err
		}
		k, err = db.oneKey(ctx, tx, id, false)
		return err
	})
	if err != nil {
		return authn.APIKey{}, err
	}
	return k, nil
}

// UpdateKey implements [authn.KeyStore].
func (db *DB) UpdateKey(ctx context.Context, id string, change func(*authn.APIKey) error, ev audit.Event) (authn.APIKey, error) {
	return db.changeKey(ctx, "update key", id, ev, func(ctx context.Context, tx bun.Tx, before authn.APIKey) error {
		after := before
		after.Permissions = maps.Clone(before.Permissions)
		if err := change(&after); err != nil {
			return rejected{err}
		}
		after.ID = before.ID
		columns, err := db.updateKey(ctx, tx, before, after)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(columns, func(c string) bool { return slices.Contains(limitColumns, c) }) {
			_, err = tx.NewInsert().Model(&keyLimitsRow{KeyID: id, Version: 1}).
				On(`CONFLICT ("keyId") DO UPDATE`).Set(`"version" = kl."version" + 1`).Exec(ctx)
		}
		return err
	})
}

// updateKey writes the columns in which the two differ, and returns them.
func (db *DB) updateKey(ctx context.Context, tx bun.IDB, before, after authn.APIKey) ([]string, error) {
	s, err := db.found()
	if err != nil {
		return nil, err
	}
	was, err := newKeyRow(before)
	if err != nil {
		return nil, err
	}
	row, err := newKeyRow(after)
	if err != nil {
		return nil, err
	}
	columns := differences(db, was, row)
	if len(columns) == 0 {
		return nil, nil
	}
	q := tx.NewUpdate().Model(row).Column(columns...).WherePK()
	if s.legacyKeys && slices.Contains(columns, "referenceId") {
		q = q.Set("? = ?", bun.Ident("userId"), after.OwnerID)
	}
	_, err = q.Exec(ctx)
	return columns, err
}

// RotateKey implements [authn.KeyStore].
func (db *DB) RotateKey(ctx context.Context, id, digest string, start *string, overlapEnds time.Time, ev audit.Event) (authn.APIKey, error) {
	ev = stamped(ev)
	return db.changeKey(ctx, "rotate key", id, ev, func(ctx context.Context, tx bun.Tx, before authn.APIKey) error {
		_, err := tx.NewInsert().Model(&keySecretRow{
			Digest: before.Digest, KeyID: id, ValidUntil: newInstant(overlapEnds), SupersededAt: newInstant(ev.At),
		}).Exec(ctx)
		if err != nil {
			return err
		}
		after := before
		after.Digest, after.Start, after.UpdatedAt = digest, start, ev.At
		_, err = db.updateKey(ctx, tx, before, after)
		return err
	})
}

// DeleteKey implements [authn.KeyStore].
func (db *DB) DeleteKey(ctx context.Context, id string, ev audit.Event) error {
	return db.change(ctx, "delete key", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		res, err := tx.NewDelete().Model((*keyRow)(nil)).Where(`"id" = ?`, db.arg(id)).Exec(ctx)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err == nil && n == 0 {
			err = authn.ErrNotFound
		}
		return err
	})
}

// DeleteKeysExpiredBefore implements [authn.KeyStore]. It reports the number
// of keys. With nothing to remove, no event is written.
func (db *DB) DeleteKeysExpiredBefore(ctx context.Context, t time.Time, ev audit.Event) (int, error) {
	var expired []string
	err := db.change(ctx, "delete expired keys", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		end := newInstant(t)
		var rows []keyRow
		err := tx.NewSelect().Model(&rows).Column("id", "expiresAt").Where(`"expiresAt" < ?`, end).Scan(ctx)
		if err != nil {
			return err
		}
		// The database compares text on SQLite. Whoever spells times in another
		// way must not lose a key by it.
		expired = nil
		for _, r := range rows {
			if r.ExpiresAt.Before(end.Time) {
				expired = append(expired, r.ID)
			}
		}
		for ids := range slices.Chunk(expired, 500) {
			if _, err := tx.NewDelete().Model((*keyRow)(nil)).Where(`"id" IN (?)`, bun.List(ids)).Exec(ctx); err != nil {
				return err
			}
		}
		res, err := tx.NewDelete().Model((*keySecretRow)(nil)).Where(`"validUntil" < ?`, end).Exec(ctx)
		if err != nil {
			return err
		}
		secrets, err := res.RowsAffected()
		if err == nil && len(expired) == 0 && secrets == 0 {
			err = errNothing
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(expired), nil
}

// SpendKey implements [authn.KeyStore]. The window begins with the first use
// in it and ends rateLimitTimeWindow later, however much the key is used.
func (db *DB) SpendKey(ctx context.Context, id string, now time.Time, most int64) (authn.Spend, error) {
	var spend authn.Spend
	err := db.writer.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) (err error) {
		spend, err = db.spendKey(ctx, tx, id, newInstant(now), most)
		return err
	})
	if err != nil {
		return authn.Spend{}, db.fail("count a use of the key", err)
	}
	return spend, nil
}

// keyCounts is what we keep of a key's limits beside Better Auth's table.
type keyCounts struct {
	WindowStart *instant `bun:"windowStart"`
	Limits      int64    `bun:"limits"`
}

func keyCountsOf(ctx context.Context, tx bun.IDB, id string) (c keyCounts, err error) {
	err = tx.NewSelect().
		ColumnExpr(`(SELECT "windowStart" FROM ostiary_key WHERE "keyId" = ?) AS "windowStart"`, id).
		ColumnExpr(`coalesce((SELECT "version" FROM ostiary_key_limits WHERE "keyId" = ?), 0) AS "limits"`, id).
		Scan(ctx, &c)
	return c, err
}

// window is how long the window of k's rate limit is; none if it has none.
func window(k *authn.APIKey) (time.Duration, bool) {
	if k.RateLimitEnabled && k.RateLimitTimeWindow != nil && k.RateLimitMax != nil {
		return time.Duration(*k.RateLimitTimeWindow) * time.Millisecond, true
	}
	return 0, false
}

func (db *DB) spendKey(ctx context.Context, tx bun.IDB, id string, now instant, most int64) (authn.Spend, error) {
	before, err := db.oneKey(ctx, tx, id, true)
	if err != nil {
		return authn.Spend{}, err
	}
	counts, err := keyCountsOf(ctx, tx, id)
	if err != nil {
		return authn.Spend{}, err
	}
	spend := authn.Spend{Key: before, Limits: counts.Limits}
	k := &spend.Key
	refused := func(why error, retry time.Duration) (authn.Spend, error) {
		return authn.Spend{Refused: why, RetryIn: retry, Key: before, Limits: counts.Limits}, nil
	}

	newWindow := false
	left := int64(math.MaxInt64)
	length, limited := window(k)
	if limited {
		// A use that is a little older than the window belongs to it: clocks of
		// several instances differ.
		newWindow = counts.WindowStart == nil || !now.Before(counts.WindowStart.Add(length))
		spend.WindowEnds = now.Add(length)
		if newWindow {
			k.RequestCount = 0
		} else {
			spend.WindowEnds = counts.WindowStart.Add(length)
		}
		if left = *k.RateLimitMax - k.RequestCount; left <= 0 {
			return refused(authn.ErrRateLimited, spend.WindowEnds.Sub(now.Time))
		}
	}

	var remaining int64
	if k.Remaining != nil {
		remaining = *k.Remaining
		if refills := k.RefillInterval != nil && k.RefillAmount != nil && *k.RefillInterval > 0 && *k.RefillAmount > 0; refills {
			since := k.CreatedAt
			if k.LastRefillAt != nil {
				since = *k.LastRefillAt
			}
			if now.Sub(since) >= time.Duration(*k.RefillInterval)*time.Millisecond {
				remaining, k.LastRefillAt = *k.RefillAmount, &now.Time
			}
		}
		if remaining <= 0 {
			return refused(authn.ErrUsageExceeded, 0)
		}
		left = min(left, remaining)
	}

	spend.Granted = max(1, min(most, authn.Portion(left)))
	if limited {
		k.RequestCount += spend.Granted
	}
	if k.Remaining != nil {
		remaining -= spend.Granted
		k.Remaining = &remaining
	}
	if k.LastRequest == nil || k.LastRequest.Before(now.Time) {
		k.LastRequest = &now.Time
	}
	if k.UpdatedAt.Before(now.Time) {
		k.UpdatedAt = now.Time
	}
	if _, err := db.updateKey(ctx, tx, before, *k); err != nil {
		return authn.Spend{}, err
	}
	if newWindow {
		_, err := tx.NewInsert().Model(&keyExtraRow{KeyID: id, WindowStart: now}).
			On(`CONFLICT ("keyId") DO UPDATE`).Set(`"windowStart" = EXCLUDED."windowStart"`).Exec(ctx)
		if err != nil {
			return authn.Spend{}, err
		}
	}
	return spend, nil
}

// ReturnUses implements [authn.KeyStore].
func (db *DB) ReturnUses(ctx context.Context, unused []authn.Unused) error {
	// In one order, or two instances could wait for each other.
	unused = slices.SortedStableFunc(slices.Values(unused), func(a, b authn.Unused) int { return strings.Compare(a.KeyID, b.KeyID) })
	return db.fail("return uses of keys", db.writer.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		for _, u := range unused {
			if err := db.returnUses(ctx, tx, u); err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		return nil
	}))
}

func (db *DB) returnUses(ctx context.Context, tx bun.IDB, u authn.Unused) error {
	before, err := db.oneKey(ctx, tx, u.KeyID, true)
	if err != nil {
		return err
	}
	counts, err := keyCountsOf(ctx, tx, u.KeyID)
	if err != nil || counts.Limits != u.Limits {
		return err
	}
	after := before
	length, limited := window(&after)
	if limited && counts.WindowStart != nil && counts.WindowStart.Add(length).Equal(u.WindowEnds) {
		after.RequestCount = max(0, after.RequestCount-u.Uses)
	}
	same := (after.LastRefillAt == nil) == (u.LastRefillAt == nil) && (u.LastRefillAt == nil || after.LastRefillAt.Equal(*u.LastRefillAt))
	if after.Remaining != nil && same {
		remaining := *after.Remaining + u.Uses
		after.Remaining = &remaining
	}
	_, err = db.updateKey(ctx, tx, before, after)
	return err
}

// TouchKeys implements [authn.KeyStore]. Keys that are gone are passed over.
func (db *DB) TouchKeys(ctx context.Context, used map[string]time.Time) error {
	if len(used) == 0 {
		return nil
	}
	return db.fail("note uses of keys", db.writer.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		// In one order, or two instances could wait for each other.
		for _, id := range slices.Sorted(maps.Keys(used)) {
			at := newInstant(used[id])
			_, err := tx.NewUpdate().Model(&keyRow{LastRequest: &at}).Column("lastRequest").
				Where(`"id" = ?`, db.arg(id)).Where(`("lastRequest" IS NULL OR "lastRequest" < ?)`, at).Exec(ctx)
			if err != nil {
				return err
			}
		}
		return nil
	}))
}
