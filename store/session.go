package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
)

type sessionRow struct {
	bun.BaseModel `bun:"table:session,alias:s"`

	ID             string  `bun:"id,pk"`
	ExpiresAt      instant `bun:"expiresAt"`
	Token          string  `bun:"token"`
	CreatedAt      instant `bun:"createdAt"`
	UpdatedAt      instant `bun:"updatedAt"`
	IPAddress      *string `bun:"ipAddress"`
	UserAgent      *string `bun:"userAgent"`
	UserID         string  `bun:"userId"`
	ImpersonatedBy *string `bun:"impersonatedBy"`

	KeyID     *string `bun:"ostiaryKeyId,scanonly"`
	KeyDigest *string `bun:"ostiaryKeyDigest,scanonly"`
	Fixed     bool    `bun:"ostiaryFixed,scanonly"`
	NotFresh  bool    `bun:"ostiaryNotFresh,scanonly"`
}

// sessionExtraRow is what we keep of a session beside Better Auth's table.
type sessionExtraRow struct {
	bun.BaseModel `bun:"table:ostiary_session"`

	SessionID string  `bun:"sessionId,pk"`
	KeyID     *string `bun:"keyId"`
	KeyDigest *string `bun:"keyDigest"`
	Fixed     bool    `bun:"fixed"`
	NotFresh  bool    `bun:"notFresh"`
}

func (r *sessionRow) session() authn.Session {
	s := authn.Session{
		ID: r.ID, Token: authn.Secret(r.Token), UserID: r.UserID,
		CreatedAt: r.CreatedAt.Time, UpdatedAt: r.UpdatedAt.Time, ExpiresAt: r.ExpiresAt.Time,
		IPAddress: r.IPAddress, UserAgent: r.UserAgent, ImpersonatedBy: r.ImpersonatedBy,
		Fixed: r.Fixed, NotFresh: r.NotFresh,
	}
	if r.KeyID != nil {
		s.KeyID = *r.KeyID
	}
	if r.KeyDigest != nil {
		s.KeyDigest = *r.KeyDigest
	}
	return s
}

// credentialRow is what the two prepared statements answer.
type credentialRow struct {
	Session    sessionRow `bun:"embed:s_"`
	User       userRow    `bun:"embed:u_"`
	Key        keyRow     `bun:"embed:k_"`
	ValidUntil *instant   `bun:"validUntil"`
}

func (db *DB) scanCredential(ctx context.Context, stmt *sql.Stmt, table, arg string) (_ *credentialRow, err error) {
	if db.traced != nil {
		ctx = db.traced.begin(ctx, "SELECT", table)
		defer func() { db.traced.end(ctx, err) }()
	}
	rows, err := stmt.QueryContext(ctx, arg)
	if err != nil {
		return nil, err
	}
	var found []credentialRow
	if err := db.reader.ScanRows(ctx, rows, &found); err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, sql.ErrNoRows
	}
	return &found[0], nil
}

// SessionByToken implements [authn.SessionStore].
func (db *DB) SessionByToken(ctx context.Context, token authn.Secret) (authn.Session, authn.User, *authn.APIKey, error) {
	s, u, k, err := db.sessionByToken(ctx, token)
	if err != nil {
		return authn.Session{}, authn.User{}, nil, db.fail("read session", err)
	}
	return s, u, k, nil
}

func (db *DB) sessionByToken(ctx context.Context, token authn.Secret) (s authn.Session, u authn.User, key *authn.APIKey, err error) {
	schema, err := db.found()
	if err != nil {
		return s, u, nil, err
	}
	row, err := db.scanCredential(ctx, schema.sessionByToken, "session", token.Reveal())
	if err != nil {
		return s, u, nil, err
	}
	s = row.Session.session()
	if u, err = row.User.user(schema); err != nil {
		return s, u, nil, err
	}
	if s.KeyID == "" {
		return s, u, nil, nil
	}
	if row.Key.ID == "" {
		return s, u, nil, authn.ErrNotFound
	}
	k := row.Key.key()
	return s, u, &k, nil
}

// selectSessions begins a query for *sessionRow or *[]sessionRow.
func (db *DB) selectSessions(conn bun.IDB, s *schema, dest any) *bun.SelectQuery {
	return conn.NewSelect().Model(dest).ColumnExpr(s.sessionColumns).
		Join(`LEFT JOIN ostiary_session AS os ON os."sessionId" = s."id"`)
}

// Session returns the session with this id.
func (db *DB) Session(ctx context.Context, id string) (authn.Session, error) {
	schema, err := db.found()
	if err != nil {
		return authn.Session{}, db.fail("read session", err)
	}
	var row sessionRow
	if err := db.selectSessions(db.reader, schema, &row).Where(`s."id" = ?`, db.arg(id)).Scan(ctx); err != nil {
		return authn.Session{}, db.fail("read session", err)
	}
	return row.session(), nil
}

// Sessions implements [authn.SessionStore].
func (db *DB) Sessions(ctx context.Context, userID string) ([]authn.Session, error) {
	schema, err := db.found()
	if err != nil {
		return nil, db.fail("read sessions", err)
	}
	var rows []sessionRow
	err = db.selectSessions(db.reader, schema, &rows).Where(`s."userId" = ?`, db.arg(userID)).
		OrderExpr(`s."createdAt"`).OrderExpr(db.dialect.oldestFirst("s")).Scan(ctx)
	if err != nil {
		return nil, db.fail("read sessions", err)
	}
	ss := make([]authn.Session, len(rows))
	for i, r := range rows {
		ss[i] = r.session()
	}
	return ss, nil
}

// CreateSession implements [authn.SessionStore]. A session of nobody is
// ErrNotFound.
func (db *DB) CreateSession(ctx context.Context, s authn.Session, ev audit.Event) error {
	return db.change(ctx, "create session", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		return db.insertSession(ctx, tx, s)
	})
}

func (db *DB) insertSession(ctx context.Context, tx bun.IDB, s authn.Session) error {
	if db.arg(s.UserID) == nil {
		return authn.ErrNotFound
	}
	_, err := tx.NewInsert().Model(&sessionRow{
		ID: s.ID, Token: s.Token.Reveal(), UserID: s.UserID,
		CreatedAt: newInstant(s.CreatedAt), UpdatedAt: newInstant(s.UpdatedAt), ExpiresAt: newInstant(s.ExpiresAt),
		IPAddress: s.IPAddress, UserAgent: s.UserAgent, ImpersonatedBy: s.ImpersonatedBy,
	}).Exec(ctx)
	if err != nil || s.KeyID == "" && s.KeyDigest == "" && !s.Fixed && !s.NotFresh {
		return err
	}
	extra := &sessionExtraRow{SessionID: s.ID, Fixed: s.Fixed, NotFresh: s.NotFresh}
	if s.KeyID != "" {
		extra.KeyID = &s.KeyID
	}
	if s.KeyDigest != "" {
		extra.KeyDigest = &s.KeyDigest
	}
	_, err = tx.NewInsert().Model(extra).Exec(ctx)
	return err
}

// ExtendSession implements [authn.SessionStore]. A session that has ended by
// updatedAt is ErrNotFound: it does not come back.
func (db *DB) ExtendSession(ctx context.Context, id string, expiresAt, updatedAt time.Time) error {
	now := newInstant(updatedAt)
	res, err := db.writer.NewUpdate().Model(&sessionRow{ExpiresAt: newInstant(expiresAt), UpdatedAt: now}).
		Column("expiresAt", "updatedAt").
		Where(`"id" = ?`, db.arg(id)).Where(`"expiresAt" > ?`, now).Exec(ctx)
	if err != nil {
		return db.fail("extend session", err)
	}
	if n, err := res.RowsAffected(); err != nil {
		return db.fail("extend session", err)
	} else if n == 0 {
		return authn.ErrNotFound
	}
	db.ring()
	return nil
}

// DeleteSessions implements [authn.SessionStore]. NotToken alone selects none:
// it would be everybody's.
func (db *DB) DeleteSessions(ctx context.Context, f authn.SessionFilter, ev audit.Event) (int, error) {
	var n int
	err := db.change(ctx, "delete sessions", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) (err error) {
		n, err = db.deleteSessions(ctx, tx, f)
		if err == nil && n == 0 {
			err = errNothing
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

func (db *DB) deleteSessions(ctx context.Context, tx bun.IDB, f authn.SessionFilter) (int, error) {
	if f.ID == "" && f.Token == "" && f.UserID == "" {
		return 0, nil
	}
	q := tx.NewDelete().Model((*sessionRow)(nil))
	if f.ID != "" {
		q = q.Where(`"id" = ?`, db.arg(f.ID))
	}
	if f.Token != "" {
		q = q.Where(`"token" = ?`, f.Token.Reveal())
	}
	if f.UserID != "" {
		q = q.Where(`"userId" = ?`, db.arg(f.UserID))
	}
	if f.NotToken != "" {
		q = q.Where(`"token" <> ?`, f.NotToken.Reveal())
	}
	res, err := q.Exec(ctx)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	return int(n), err
}
