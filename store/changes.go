package store

import (
	"context"
	"time"

	"github.com/uptrace/bun"
)

// Change is a row that changed.
type Change struct {
	Seq  int64
	Kind string // "user", "session", "key"
	ID   string
	At   time.Time
}

type changeRow struct {
	bun.BaseModel `bun:"table:changes,alias:c"`

	Seq  int64   `bun:"seq,pk,autoincrement"`
	Kind string  `bun:"kind"`
	ID   string  `bun:"id"`
	At   instant `bun:"at"`
}

// Changes returns the changes after seq, oldest first, at most limit.
//
// On Postgres a transaction can commit after a later one has, so a reader
// looks again at a little before the last change that it saw.
func (db *DB) Changes(ctx context.Context, after int64, limit int) ([]Change, error) {
	var rows []changeRow
	err := db.reader.NewSelect().Model(&rows).Where("seq > ?", after).OrderExpr("seq").Limit(int64(limit)).Scan(ctx)
	if err != nil {
		return nil, db.fail("read changes", err)
	}
	cs := make([]Change, len(rows))
	for i, r := range rows {
		cs[i] = Change{Seq: r.Seq, Kind: r.Kind, ID: r.ID, At: r.At.Time}
	}
	return cs, nil
}

// LastChange returns the newest sequence number, 0 if there is none.
func (db *DB) LastChange(ctx context.Context) (int64, error) {
	seq, err := lastChange(ctx, db.reader)
	return seq, db.fail("read the last change", err)
}

func lastChange(ctx context.Context, db bun.IDB) (seq int64, err error) {
	err = db.NewSelect().Model((*changeRow)(nil)).ColumnExpr("coalesce(max(seq), 0)").Scan(ctx, &seq)
	return seq, err
}

// PruneChanges removes changes older than before, and reports how many. The
// newest one stays, so that sequence numbers never seem to start again.
func (db *DB) PruneChanges(ctx context.Context, before time.Time) (int, error) {
	res, err := db.writer.NewDelete().Model((*changeRow)(nil)).
		Where("at < ?", newInstant(before)).
		Where("seq < (SELECT max(seq) FROM changes)").
		Exec(ctx)
	if err != nil {
		return 0, db.fail("prune changes", err)
	}
	n, err := res.RowsAffected()
	return int(n), db.fail("prune changes", err)
}

// Bell returns a channel that receives after something was committed, here or
// (as soon as it is noticed) by another process. It carries no data, may ring
// once for many commits or without any, and is never closed. Counters and
// decision records don't ring it.
func (db *DB) Bell() <-chan struct{} { return db.bell }

func (db *DB) ring() {
	select {
	case db.bell <- struct{}{}:
	default: // it is ringing already
	}
}
