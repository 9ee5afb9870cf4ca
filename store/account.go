package store

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
)

// credential is the provider of accounts with a password.
const credential = "credential"

// accountRow leaves the columns of other providers out: what an application
// keeps there is not ours to read.
type accountRow struct {
	bun.BaseModel `bun:"table:account,alias:a"`

	ID         string  `bun:"id,pk"`
	AccountID  string  `bun:"accountId"`
	ProviderID string  `bun:"providerId"`
	UserID     string  `bun:"userId"`
	Password   *string `bun:"password"`
	CreatedAt  instant `bun:"createdAt"`
	UpdatedAt  instant `bun:"updatedAt"`
}

// Accounts lists the user's accounts, oldest first.
func (db *DB) Accounts(ctx context.Context, userID string) ([]authn.Account, error) {
	var rows []accountRow
	err := db.reader.NewSelect().Model(&rows).ExcludeColumn("password").Where(`"userId" = ?`, db.arg(userID)).
		OrderExpr(db.dialect.oldestFirst("a")).Scan(ctx)
	if err != nil {
		return nil, db.fail("read accounts", err)
	}
	as := make([]authn.Account, len(rows))
	for i, r := range rows {
		as[i] = authn.Account{ID: r.ID, ProviderID: r.ProviderID, AccountID: r.AccountID, UserID: r.UserID,
			CreatedAt: r.CreatedAt.Time, UpdatedAt: r.UpdatedAt.Time}
	}
	return as, nil
}

// Password implements [authn.UserStore].
func (db *DB) Password(ctx context.Context, userID string) (string, error) {
	var row accountRow
	err := db.reader.NewSelect().Model(&row).Column("password").
		Where(`"userId" = ?`, db.arg(userID)).Where(`"providerId" = ?`, credential).
		Where(`"password" <> ''`).Limit(1).Scan(ctx)
	if err != nil {
		return "", db.fail("read password", err)
	}
	return *row.Password, nil
}

// SetPassword implements [authn.UserStore].
func (db *DB) SetPassword(ctx context.Context, userID, hash string, also authn.UserEffects, ev audit.Event) error {
	ev = stamped(ev)
	return db.change(ctx, "set password", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		user, err := db.oneUser(ctx, tx, "id", userID, true)
		if err != nil {
			return err
		}
		res, err := tx.NewUpdate().Model(&accountRow{Password: &hash, UpdatedAt: newInstant(ev.At)}).
			Column("password", "updatedAt").
			Where(`"userId" = ?`, userID).Where(`"providerId" = ?`, credential).Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			if err := db.insertPassword(ctx, tx, userID, hash, ev.At); err != nil {
				return err
			}
		}
		return db.effects(ctx, tx, &user, also, ev.At)
	})
}

func (db *DB) insertPassword(ctx context.Context, tx bun.IDB, userID, hash string, now time.Time) error {
	id, err := db.newRowID(ctx, tx, "account")
	if err != nil {
		return err
	}
	at := newInstant(now)
	_, err = tx.NewInsert().Model(&accountRow{
		ID: id, AccountID: userID, ProviderID: credential, UserID: userID, Password: &hash, CreatedAt: at, UpdatedAt: at,
	}).Exec(ctx)
	return err
}

// newID makes an id that is text.
func newID() string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	id := make([]byte, 0, 32)
	for len(id) < cap(id) {
		var b [48]byte
		rand.Read(b[:])
		for _, c := range b {
			// 248 is the largest multiple of 62 in a byte: above it the first
			// letters would come up more often.
			if c < 248 && len(id) < cap(id) {
				id = append(id, letters[c%62])
			}
		}
	}
	return string(id)
}
