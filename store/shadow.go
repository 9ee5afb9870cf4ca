package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/policies"
)

type shadowRow struct {
	bun.BaseModel `bun:"table:ostiary_shadow,alias:s"`

	ID             string   `bun:"id,pk"`
	Revision       string   `bun:"revision"`
	PolicyRevision string   `bun:"policyRevision"`
	Note           string   `bun:"note"`
	StartedAt      instant  `bun:"startedAt"`
	EndsAt         *instant `bun:"endsAt"`
	actorRow
}

// Each instance replaces its own rows, one for each policy that it compared with.
type shadowReportRow struct {
	bun.BaseModel `bun:"table:ostiary_shadow_report,alias:sr"`

	ID       string  `bun:"id,pk"`
	ShadowID string  `bun:"shadowId"`
	Against  string  `bun:"against"`
	At       instant `bun:"at"`
	Report   string  `bun:"report"`
}

func newShadowRow(s policies.Shadow) *shadowRow {
	row := &shadowRow{ID: s.ID, Revision: s.Revision, PolicyRevision: s.PolicyRevision, Note: s.Note, StartedAt: newInstant(s.StartedAt), actorRow: actorRow(s.By)}
	if !s.EndsAt.IsZero() {
		ends := newInstant(s.EndsAt)
		row.EndsAt = &ends
	}
	return row
}

// StartShadow implements [policies.ShadowStore].
func (db *DB) StartShadow(ctx context.Context, r policies.Revision, s policies.Shadow, ev audit.Event) error {
	revision, err := newRevisionRow(r)
	if err != nil {
		return err
	}
	return db.change(ctx, "start shadow", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(revision).On(`CONFLICT ("revision") DO NOTHING`).Exec(ctx); err != nil {
			return err
		}
		if _, err := endShadows(ctx, tx, s.StartedAt); err != nil {
			return err
		}
		_, err := tx.NewInsert().Model(newShadowRow(s)).Exec(ctx)
		return err
	})
}

// EndShadow implements [policies.ShadowStore].
func (db *DB) EndShadow(ctx context.Context, at time.Time, ev audit.Event) error {
	return db.change(ctx, "end shadow", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		n, err := endShadows(ctx, tx, at)
		if err == nil && n == 0 {
			return rejected{authn.ErrNotFound}
		}
		return err
	})
}

// endShadows ends what would end later, and says how many.
func endShadows(ctx context.Context, tx bun.Tx, at time.Time) (int64, error) {
	res, err := tx.NewUpdate().Model((*shadowRow)(nil)).Set(`"endsAt" = ?`, newInstant(at)).Where(`"endsAt" > ?`, newInstant(at)).Exec(ctx)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// Shadow implements [policies.ShadowStore].
func (db *DB) Shadow(ctx context.Context, id string) (policies.Shadow, error) {
	var row shadowRow
	q := db.reader.NewSelect().Model(&row).OrderExpr(`"startedAt" DESC, "id"`).Limit(1)
	if id != "" {
		q = q.Where(`"id" = ?`, id)
	}
	if err := q.Scan(ctx); err != nil {
		return policies.Shadow{}, db.fail("read shadow", err)
	}
	s := policies.Shadow{ID: row.ID, Revision: row.Revision, PolicyRevision: row.PolicyRevision, Note: row.Note, StartedAt: row.StartedAt.Time, By: audit.Actor(row.actorRow)}
	if row.EndsAt != nil {
		s.EndsAt = row.EndsAt.Time
	}
	return s, nil
}

// WriteShadowReport implements [policies.ShadowStore].
func (db *DB) WriteShadowReport(ctx context.Context, s policies.Shadow, id string, r policies.ShadowReport) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("report of shadow %s: %w", s.ID, err)
	}
	row := shadowReportRow{ID: id, ShadowID: s.ID, Against: r.Against, At: newInstant(r.At), Report: string(text)}
	return db.fail("write shadow report", db.writer.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(newShadowRow(s)).On("CONFLICT DO NOTHING").Exec(ctx); err != nil {
			return err
		}
		_, err := tx.NewInsert().Model(&row).On(`CONFLICT ("id") DO UPDATE`).Set(`"at" = EXCLUDED."at", "report" = EXCLUDED."report"`).Exec(ctx)
		return err
	}))
}

// ShadowReports implements [policies.ShadowStore].
func (db *DB) ShadowReports(ctx context.Context, id string, limit int) ([]policies.ShadowReport, error) {
	var rows []shadowReportRow
	if err := db.reader.NewSelect().Model(&rows).Where(`"shadowId" = ?`, id).OrderExpr(`"at" DESC, "id"`).Limit(int64(limit)).Scan(ctx); err != nil {
		return nil, db.fail("read shadow reports", err)
	}
	rs := make([]policies.ShadowReport, len(rows))
	for i, row := range rows {
		if err := json.Unmarshal([]byte(row.Report), &rs[i]); err != nil {
			return nil, fmt.Errorf("report of shadow %s: %w", id, err)
		}
	}
	return rs, nil
}

// DeleteShadows removes shadows that were over before a time, with their reports,
// and says how many.
func (db *DB) DeleteShadows(ctx context.Context, before time.Time) (int, error) {
	old := newInstant(before)
	if _, err := db.writer.NewDelete().Model((*shadowReportRow)(nil)).Where(`"at" < ?`, old).Exec(ctx); err != nil {
		return 0, db.fail("delete shadow reports", err)
	}
	res, err := db.writer.NewDelete().Model((*shadowRow)(nil)).Where(`coalesce("endsAt", "startedAt") < ?`, old).
		Where(`NOT EXISTS (SELECT 1 FROM ostiary_shadow_report AS sr WHERE sr."shadowId" = s."id")`).Exec(ctx)
	if err != nil {
		return 0, db.fail("delete shadows", err)
	}
	n, err := res.RowsAffected()
	return int(n), db.fail("delete shadows", err)
}
