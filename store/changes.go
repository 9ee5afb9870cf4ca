package store

import (
	"context"
	"time"

	"github.com/uptrace/bun"
)

// Change is a row that changed.
type Change struct {
	Seq  int64
	Kind string // "user", "session", "key", "entity", "policy"
	ID   string // of an entity "type/id"
	At   time.Time
}

type changeRow struct {
	bun.BaseModel `bun:"table:changes,alias:c"`

	Seq  int64   `bun:"seq,pk,autoincrement"`
	Kind string  `bun:"kind"`
	ID   string  `bun:"id"`
	At   instant `bun:"at"`
}

// Mark is how far a reader of changes has come. The zero Mark is before all.
type Mark struct {
	Last     int64 // the newest sequence number
	position int64 // what was committed up to here was read
}

// Changes returns the changes since a mark, oldest first, at most limit, and
// the mark for the next time. If there are limit of them, some may be missing,
// and will not come later.
//
// Sequence numbers are given when a row is written and become visible when it
// is committed, so on Postgres a lower one can appear long after a higher one.
// A mark therefore says which transactions were over, and a change can come a
// second time as long as one that began before it is not.
func (db *DB) Changes(ctx context.Context, since Mark, limit int) ([]Change, Mark, error) {
	var rows []struct {
		Last     int64    `bun:"last"`
		Position int64    `bun:"position"`
		Seq      *int64   `bun:"seq"`
		Kind     *string  `bun:"kind"`
		ID       *string  `bun:"id"`
		At       *instant `bun:"at"`
	}
	// One statement, so that the mark and the rows are of one moment.
	err := db.reader.NewSelect().ColumnExpr("m.*, c.seq, c.kind, c.id, c.at").
		TableExpr("(SELECT coalesce(max(seq), 0) AS last, ? AS position FROM changes) AS m", bun.Safe(db.dialect.horizon)).
		Join("LEFT JOIN changes AS c ON c.? >= ?", bun.Safe(db.dialect.position), since.position).
		OrderExpr("c.seq").Limit(int64(limit)).Scan(ctx, &rows)
	if err != nil {
		return nil, since, db.fail("read changes", err)
	}
	mark := Mark{rows[0].Last, rows[0].Position}
	if rows[0].Seq == nil {
		return nil, mark, nil
	}
	cs := make([]Change, len(rows))
	for i, r := range rows {
		cs[i] = Change{Seq: *r.Seq, Kind: *r.Kind, ID: *r.ID, At: r.At.Time}
	}
	return cs, mark, nil
}

// Mark returns the mark of now.
func (db *DB) Mark(ctx context.Context) (Mark, error) {
	var m struct {
		Last     int64 `bun:"last"`
		Position int64 `bun:"position"`
	}
	err := db.reader.NewSelect().ColumnExpr("coalesce(max(seq), 0) AS last, ? AS position", bun.Safe(db.dialect.horizon)).
		TableExpr("changes").Scan(ctx, &m)
	return Mark{m.Last, m.Position}, db.fail("read the last change", err)
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
