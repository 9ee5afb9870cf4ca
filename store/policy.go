package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/policies"
)

// Neither of these rows is ever changed: a revision is what its name is the
// digest of, and a publication is what happened. The newest publication says
// what is in force.
type revisionRow struct {
	bun.BaseModel `bun:"table:ostiary_policy_revision,alias:pr"`

	Revision  string  `bun:"revision,pk"`
	Files     string  `bun:"files"`
	Tests     int     `bun:"tests"`
	Coverage  float64 `bun:"coverage"`
	CreatedAt instant `bun:"createdAt"`
}

type publicationRow struct {
	bun.BaseModel `bun:"table:ostiary_policy,alias:p"`

	Seq            int64   `bun:"seq,pk"`
	Revision       string  `bun:"revision"`
	PolicyRevision string  `bun:"policyRevision"`
	Parent         string  `bun:"parent"`
	At             instant `bun:"at"`
	Note           string  `bun:"note"`
	actorRow

	Tests    int     `bun:"tests,scanonly"`
	Coverage float64 `bun:"coverage,scanonly"`
}

func (r *publicationRow) publication() policies.Publication {
	return policies.Publication{
		Sequence: r.Seq, Revision: r.Revision, PolicyRevision: r.PolicyRevision, Parent: r.Parent,
		At: r.At.Time, Note: r.Note, By: audit.Actor(r.actorRow), Tests: policies.Tested{Count: r.Tests, Coverage: r.Coverage},
	}
}

// Publications implements [policies.Store].
func (db *DB) Publications(ctx context.Context, before int64, limit int) ([]policies.Publication, error) {
	var rows []publicationRow
	q := db.reader.NewSelect().Model(&rows).ColumnExpr(`p.*, pr."tests", pr."coverage"`).
		Join(`JOIN ostiary_policy_revision AS pr ON pr."revision" = p."revision"`)
	if before > 0 {
		q = q.Where(`p."seq" < ?`, before)
	}
	if err := q.OrderExpr(`p."seq" DESC`).Limit(int64(limit)).Scan(ctx); err != nil {
		return nil, db.fail("read publications", err)
	}
	ps := make([]policies.Publication, len(rows))
	for i := range rows {
		ps[i] = rows[i].publication()
	}
	return ps, nil
}

// PolicyRevision implements [policies.Store].
func (db *DB) PolicyRevision(ctx context.Context, name string) (policies.Revision, error) {
	var row revisionRow
	err := db.reader.NewSelect().Model(&row).
		Where(`pr."revision" = coalesce((SELECT p."revision" FROM ostiary_policy AS p WHERE p."policyRevision" = ? ORDER BY p."seq" DESC LIMIT 1), ?)`, name, name).
		Scan(ctx)
	if err != nil {
		return policies.Revision{}, db.fail("read policy revision", err)
	}
	r := policies.Revision{ID: row.Revision, CreatedAt: row.CreatedAt.Time, Tests: policies.Tested{Count: row.Tests, Coverage: row.Coverage}}
	if err := json.Unmarshal([]byte(row.Files), &r.Files); err != nil {
		return policies.Revision{}, fmt.Errorf("files of policy revision %s: %w", row.Revision, err)
	}
	return r, nil
}

// Publish implements [policies.Store].
func (db *DB) Publish(ctx context.Context, r policies.Revision, p policies.Publication, ev audit.Event) error {
	files, err := json.Marshal(r.Files)
	if err != nil {
		return fmt.Errorf("files of policy revision %s: %w", r.ID, err)
	}
	return db.change(ctx, "publish policy", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		// The same files have the same name, and were kept before.
		revision := revisionRow{Revision: r.ID, Files: string(files), Tests: r.Tests.Count, Coverage: r.Tests.Coverage, CreatedAt: newInstant(r.CreatedAt)}
		if _, err := tx.NewInsert().Model(&revision).On(`CONFLICT ("revision") DO NOTHING`).Exec(ctx); err != nil {
			return err
		}
		row := publicationRow{
			Seq: p.Sequence, Revision: r.ID, PolicyRevision: p.PolicyRevision, Parent: p.Parent,
			At: newInstant(p.At), Note: p.Note, actorRow: actorRow(p.By),
		}
		// Of two that follow the same one the number lets only one be written.
		_, err := tx.NewInsert().Model(&row).Exec(ctx)
		if kind, _ := db.dialect.fault(err); err != nil && kind == faultDuplicate {
			return rejected{&authn.ConflictError{Field: "sequence"}}
		}
		return err
	})
}
