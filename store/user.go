package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
)

type userRow struct {
	bun.BaseModel `bun:"table:user,alias:u"`

	ID              string   `bun:"id,pk"`
	Name            string   `bun:"name"`
	Email           string   `bun:"email"`
	EmailVerified   bool     `bun:"emailVerified"`
	Image           *string  `bun:"image"`
	CreatedAt       instant  `bun:"createdAt"`
	UpdatedAt       instant  `bun:"updatedAt"`
	Username        *string  `bun:"username"`
	DisplayUsername *string  `bun:"displayUsername"`
	Role            *string  `bun:"role"`
	Banned          *bool    `bun:"banned"`
	BanReason       *string  `bun:"banReason"`
	BanExpires      *instant `bun:"banExpires"`

	ServiceAccount bool    `bun:"ostiaryServiceAccount,scanonly"`
	Attributes     *string `bun:"ostiaryAttributes,scanonly"` // of ostiary_user
	Columns        *string `bun:"ostiaryColumns,scanonly"`    // the additional ones
}

// userExtraRow is what we keep of a user beside Better Auth's table. Most
// users have none.
type userExtraRow struct {
	bun.BaseModel `bun:"table:ostiary_user"`

	UserID         string  `bun:"userId,pk"`
	ServiceAccount bool    `bun:"serviceAccount"`
	Attributes     *string `bun:"attributes"`
}

func newUserRow(u authn.User) *userRow {
	return &userRow{
		ID: u.ID, Name: u.Name, Email: u.Email, EmailVerified: u.EmailVerified, Image: u.Image,
		CreatedAt: newInstant(u.CreatedAt), UpdatedAt: newInstant(u.UpdatedAt),
		Username: u.Username, DisplayUsername: u.DisplayUsername, Role: u.Role,
		Banned: &u.Banned, BanReason: u.BanReason, BanExpires: newInstantPtr(u.BanExpires),
	}
}

func (r *userRow) user(s *schema) (authn.User, error) {
	u := authn.User{
		ID: r.ID, Name: r.Name, Email: r.Email, EmailVerified: r.EmailVerified, Image: r.Image,
		CreatedAt: r.CreatedAt.Time, UpdatedAt: r.UpdatedAt.Time,
		Username: r.Username, DisplayUsername: r.DisplayUsername, Role: r.Role,
		Banned: r.Banned != nil && *r.Banned, BanReason: r.BanReason, BanExpires: r.BanExpires.ptr(),
		ServiceAccount: r.ServiceAccount,
	}
	for _, text := range []*string{r.Attributes, r.Columns} {
		if text == nil {
			continue
		}
		var more map[string]any
		if err := json.Unmarshal([]byte(*text), &more); err != nil {
			return authn.User{}, fmt.Errorf("attributes of user %s: %w", r.ID, err)
		}
		for name, value := range more {
			if _, known := u.Attributes[name]; known && value == nil {
				continue // the column was added after the attribute was kept
			}
			if u.Attributes == nil {
				u.Attributes = make(map[string]any)
			}
			u.Attributes[name] = value
		}
	}
	// SQLite has no booleans of its own.
	for _, c := range s.attributes {
		if n, ok := u.Attributes[c.Name].(float64); ok && strings.HasPrefix(c.Type, "BOOL") {
			u.Attributes[c.Name] = n != 0
		}
	}
	return u, nil
}

// selectUsers begins a query for *userRow or *[]userRow.
func (db *DB) selectUsers(conn bun.IDB, s *schema, dest any) *bun.SelectQuery {
	return conn.NewSelect().Model(dest).ColumnExpr(s.userColumns).
		Join(`LEFT JOIN ostiary_user AS ou ON ou."userId" = u."id"`)
}

// User returns the user with this id.
func (db *DB) User(ctx context.Context, id string) (authn.User, error) {
	u, err := db.oneUser(ctx, db.reader, "id", id, false)
	return u, db.fail("read user", err)
}

// UserByEmail returns the user with exactly this address.
func (db *DB) UserByEmail(ctx context.Context, email string) (authn.User, error) {
	u, err := db.oneUser(ctx, db.reader, "email", email, false)
	return u, db.fail("read user", err)
}

// UserByUsername returns the user with exactly this name.
func (db *DB) UserByUsername(ctx context.Context, username string) (authn.User, error) {
	u, err := db.oneUser(ctx, db.reader, "username", username, false)
	return u, db.fail("read user", err)
}

func (db *DB) oneUser(ctx context.Context, conn bun.IDB, column, value string, lock bool) (authn.User, error) {
	s, err := db.found()
	if err != nil {
		return authn.User{}, err
	}
	var arg any = value
	if column == "id" {
		arg = s.ids.arg(value)
	}
	var row userRow
	q := db.selectUsers(conn, s, &row).Where("? = ?", bun.Ident("u."+column), arg)
	if lock {
		q = db.dialect.lock(q, "u")
	}
	if err := q.Scan(ctx); err != nil {
		return authn.User{}, err
	}
	return row.user(s)
}

// counts reports whether somebody with this id and role column is an
// administrator by rule.
func counts(rule authn.AdminRule, id string, role *string) bool {
	if slices.Contains(rule.IDs, id) {
		return true
	}
	if role == nil {
		return false
	}
	for r := range strings.SplitSeq(*role, ",") {
		if r != "" && slices.Contains(rule.Roles, r) {
			return true
		}
	}
	return false
}

// OtherAdmin implements [authn.UserStore].
func (db *DB) OtherAdmin(ctx context.Context, id string, rule authn.AdminRule) (bool, error) {
	is, err := db.otherAdmin(ctx, db.reader, id, rule, time.Now())
	return is, db.fail("look for administrators", err)
}

func (db *DB) otherAdmin(ctx context.Context, conn bun.IDB, id string, rule authn.AdminRule, now time.Time) (bool, error) {
	var rows []userRow
	s, err := db.found()
	if err != nil {
		return false, err
	}
	err = conn.NewSelect().Model(&rows).Column("id", "role", "banned", "banExpires").
		Where(`u."id" IS DISTINCT FROM ?`, s.ids.arg(id)).
		WhereGroup(" AND ", s.perhaps(rule)).Scan(ctx)
	if err != nil {
		return false, err
	}
	for _, r := range rows {
		u := authn.User{Banned: r.Banned != nil && *r.Banned, BanExpires: r.BanExpires.ptr()}
		if counts(rule, r.ID, r.Role) && !u.BannedAt(now) {
			return true, nil
		}
	}
	return false, nil
}

// perhaps selects those who count by rule, and some who may not: counts is exact.
func (s *schema) perhaps(rule authn.AdminRule) func(q *bun.SelectQuery) *bun.SelectQuery {
	return func(q *bun.SelectQuery) *bun.SelectQuery {
		q = q.Where("FALSE")
		if ids := s.ids.args(rule.IDs); len(ids) > 0 {
			q = q.WhereOr(`u."id" IN (?)`, bun.List(ids))
		}
		for _, role := range rule.Roles {
			if role != "" {
				q = q.WhereOr(`replace(u."role", ?, '') <> u."role"`, role)
			}
		}
		return q
	}
}

// holders is how many users are read at once.
const holders = 500

// Holders implements [authn.UserStore].
func (db *DB) Holders(ctx context.Context, rule authn.AdminRule, limit int) ([]authn.User, error) {
	us, err := db.holders(ctx, rule, limit)
	return us, db.fail("look for holders of roles", err)
}

func (db *DB) holders(ctx context.Context, rule authn.AdminRule, limit int) (us []authn.User, err error) {
	s, err := db.found()
	if err != nil {
		return nil, err
	}
	unassigned := slices.Contains(rule.Roles, "")
	for page := 0; len(us) < limit; page++ {
		var rows []userRow
		err := db.selectUsers(db.reader, s, &rows).WhereGroup(" AND ", func(q *bun.SelectQuery) *bun.SelectQuery {
			if q = s.perhaps(rule)(q); unassigned {
				q = q.WhereOr(`coalesce(u."role", '') = ''`)
			}
			return q
		}).OrderExpr(`u."id"`).Limit(holders).Offset(int64(page) * holders).Scan(ctx)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			if none := unassigned && (rows[i].Role == nil || *rows[i].Role == ""); !none && !counts(rule, rows[i].ID, rows[i].Role) {
				continue
			}
			u, err := rows[i].user(s)
			if err != nil {
				return nil, err
			}
			if us = append(us, u); len(us) == limit {
				break
			}
		}
		if len(rows) < holders {
			break
		}
	}
	return us, nil
}

// keepAdmin fails with ErrLastAdmin if before was an administrator and nobody
// is any more. It comes after the change.
func (db *DB) keepAdmin(ctx context.Context, tx bun.IDB, rule *authn.AdminRule, before *authn.User, now time.Time) error {
	if rule == nil || !counts(*rule, before.ID, before.Role) || before.BannedAt(now) {
		return nil
	}
	is, err := db.otherAdmin(ctx, tx, "", *rule, now)
	if err == nil && !is {
		err = authn.ErrLastAdmin
	}
	return err
}

// CreateUser implements [authn.UserStore].
func (db *DB) CreateUser(ctx context.Context, u authn.User, passwordHash string, ev audit.Event) error {
	return db.change(ctx, "create user", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		if err := db.insertUser(ctx, tx, u); err != nil {
			return err
		}
		if passwordHash == "" {
			return nil
		}
		return db.insertPassword(ctx, tx, u.ID, passwordHash, u.CreatedAt)
	})
}

func (db *DB) insertUser(ctx context.Context, tx bun.IDB, u authn.User) error {
	s, err := db.found()
	if err != nil {
		return err
	}
	if !s.ids.can(u.ID) {
		return invalid("id", "is none of this database")
	}
	q := tx.NewInsert().Model(newUserRow(u))
	kept := maps.Clone(u.Attributes)
	for _, c := range s.attributes {
		if value, ok := u.Attributes[c.Name]; ok {
			if value, err = attributeValue(c.Name, value); err != nil {
				return err
			}
			q = q.Value(c.Name, "?", value)
			delete(kept, c.Name)
		}
	}
	if _, err := q.Exec(ctx); err != nil {
		return err
	}
	if !u.ServiceAccount {
		return nil
	}
	attributes, err := encode(kept)
	if err != nil {
		return rejected{&authn.InvalidError{Field: "attributes", Reason: "are not JSON"}}
	}
	_, err = tx.NewInsert().Model(&userExtraRow{UserID: u.ID, ServiceAccount: true, Attributes: attributes}).Exec(ctx)
	return err
}

// attributeValue is a JSON value as a column can hold it.
func attributeValue(name string, v any) (any, error) {
	switch v := v.(type) {
	case nil, string, bool, int, int64, json.Number:
		return v, nil
	case time.Time:
		return newInstant(v), nil
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v), nil
		}
		return v, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, rejected{&authn.InvalidError{Field: name, Reason: "is not JSON"}}
	}
	return string(b), nil
}

// UpdateUser implements [authn.UserStore]. If change leaves UpdatedAt alone,
// a difference sets it to the time of the event.
func (db *DB) UpdateUser(ctx context.Context, id string, change func(*authn.User) error, also authn.UserEffects, ev audit.Event) (authn.User, error) {
	ev = stamped(ev)
	var u authn.User
	err := db.change(ctx, "update user", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		if also.KeepAdmin != nil {
			if err := db.dialect.exclude(ctx, tx); err != nil {
				return err
			}
		}
		before, err := db.oneUser(ctx, tx, "id", id, true)
		if err != nil {
			return err
		}
		after := before
		after.Attributes = maps.Clone(before.Attributes)
		if err := change(&after); err != nil {
			return rejected{err}
		}
		after.ID = before.ID
		if err := db.updateUser(ctx, tx, before, after, ev.At); err != nil {
			return err
		}
		if err := db.effects(ctx, tx, &before, also, ev.At); err != nil {
			return err
		}
		u, err = db.oneUser(ctx, tx, "id", id, false)
		return err
	})
	if err != nil {
		return authn.User{}, err
	}
	return u, nil
}

func (db *DB) updateUser(ctx context.Context, tx bun.IDB, before, after authn.User, now time.Time) error {
	s, err := db.found()
	if err != nil {
		return err
	}
	row := newUserRow(after)
	columns := differences(db, newUserRow(before), row)
	q := tx.NewUpdate().Model(row).WherePK()
	sets := 0
	for _, c := range s.attributes {
		value, ok := after.Attributes[c.Name]
		if !ok || reflect.DeepEqual(value, before.Attributes[c.Name]) {
			continue
		}
		if value, err = attributeValue(c.Name, value); err != nil {
			return err
		}
		q = q.Set("? = ?", bun.Ident(c.Name), value)
		sets++
	}
	if len(columns)+sets > 0 {
		if row.UpdatedAt == newInstant(before.UpdatedAt) {
			row.UpdatedAt = newInstant(now)
			columns = append(columns, "updatedAt")
		}
		if _, err := q.Column(columns...).Exec(ctx); err != nil {
			return err
		}
	}
	if after.ServiceAccount == before.ServiceAccount {
		return nil
	}
	_, err = tx.NewInsert().Model(&userExtraRow{UserID: after.ID, ServiceAccount: after.ServiceAccount}).
		On(`CONFLICT ("userId") DO UPDATE`).Set(`"serviceAccount" = EXCLUDED."serviceAccount"`).Exec(ctx)
	return err
}

// differences names the columns in which two rows of a table differ.
func differences[R any](db *DB, a, b *R) []string {
	var names []string
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for _, f := range db.writer.Table(va.Type()).DataFields {
		if !reflect.DeepEqual(f.Value(va).Interface(), f.Value(vb).Interface()) {
			names = append(names, f.Name)
		}
	}
	return names
}

// effects does what else happens with a change to a user.
func (db *DB) effects(ctx context.Context, tx bun.IDB, before *authn.User, also authn.UserEffects, now time.Time) error {
	if also.EndSessions {
		if _, err := db.deleteSessions(ctx, tx, authn.SessionFilter{UserID: before.ID, NotToken: also.KeepSession}); err != nil {
			return err
		}
	}
	if also.NewSession != nil {
		if err := db.insertSession(ctx, tx, *also.NewSession); err != nil {
			return err
		}
	}
	return db.keepAdmin(ctx, tx, also.KeepAdmin, before, now)
}

// DeleteUser implements [authn.UserStore].
func (db *DB) DeleteUser(ctx context.Context, id string, keep *authn.AdminRule, ev audit.Event) error {
	ev = stamped(ev)
	return db.change(ctx, "delete user", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		s, err := db.found()
		if err != nil {
			return err
		}
		if keep != nil {
			if err := db.dialect.exclude(ctx, tx); err != nil {
				return err
			}
		}
		before, err := db.oneUser(ctx, tx, "id", id, true)
		if err != nil {
			return err
		}
		// Not left to foreign keys: those of keys don't exist, and those of the
		// others are in the hands of whoever made the tables.
		for _, q := range []*bun.DeleteQuery{
			tx.NewDelete().Model((*keyRow)(nil)).Where("? = ?", bun.Safe(s.owner()), id),
			tx.NewDelete().Model((*sessionRow)(nil)).Where(`"userId" = ?`, id),
			tx.NewDelete().Model((*accountRow)(nil)).Where(`"userId" = ?`, id),
			tx.NewDelete().Model((*userRow)(nil)).Where(`"id" = ?`, id),
		} {
			if _, err := q.Exec(ctx); err != nil {
				return err
			}
		}
		return db.keepAdmin(ctx, tx, keep, &before, ev.At)
	})
}

// UsersAfter implements [authn.UserStore].
func (db *DB) UsersAfter(ctx context.Context, after string, limit int) ([]authn.User, error) {
	s, err := db.found()
	if err != nil {
		return nil, db.fail("list users", err)
	}
	var rows []userRow
	// Better Auth's column compares as the database does, or as numbers.
	id := bun.Safe(s.ids.text(`u."id"`) + " COLLATE " + db.dialect.bytewise)
	err = db.selectUsers(db.reader, s, &rows).Where("? > ?", id, after).OrderExpr("?", id).Limit(int64(limit)).Scan(ctx)
	if err != nil {
		return nil, db.fail("list users", err)
	}
	us := make([]authn.User, len(rows))
	for i := range rows {
		if us[i], err = rows[i].user(s); err != nil {
			return nil, db.fail("list users", err)
		}
	}
	return us, nil
}
