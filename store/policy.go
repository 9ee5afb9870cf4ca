package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

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
	Published bool    `bun:"published,scanonly"`
}

func newRevisionRow(r policies.Revision) (*revisionRow, error) {
	files, err := json.Marshal(r.Files)
	if err != nil {
		return nil, fmt.Errorf("files of policy revision %s: %w", r.ID, err)
	}
	return &revisionRow{Revision: r.ID, Files: string(files), Tests: r.Tests.Count, Coverage: r.Tests.Coverage, CreatedAt: newInstant(r.CreatedAt)}, nil
}

type publicationRow struct {
	bun.BaseModel `bun:"table:ostiary_policy,alias:p"`

	Seq            int64   `bun:"seq,pk"`
	Revision       string  `bun:"revision"`
	PolicyRevision string  `bun:"policyRevision"`
	Parent         string  `bun:"parent"`
	At             instant `bun:"at"`
	Note           string  `bun:"note"`
	Replay         *string `bun:"replay"`
	actorRow

	Tests    int     `bun:"tests,scanonly"`
	Coverage float64 `bun:"coverage,scanonly"`
}

func (r *publicationRow) publication() (policies.Publication, error) {
	p := policies.Publication{
		Sequence: r.Seq, Revision: r.Revision, PolicyRevision: r.PolicyRevision, Parent: r.Parent,
		At: r.At.Time, Note: r.Note, By: audit.Actor(r.actorRow), Tests: policies.Tested{Count: r.Tests, Coverage: r.Coverage},
	}
	if err := decode(r.Replay, &p.Replay); err != nil {
		return p, fmt.Errorf("replay of publication %d: %w", r.Seq, err)
	}
	return p, nil
}

// Publications implements [policies.Store].
func (db *DB) Publications(ctx context.Context, before int64, limit int) ([]policies.Publication, error) {
	var rows []publicationRow
	q := db.reader.NewSelect().Model(&rows).ColumnExpr(`?TableColumns, pr."tests", pr."coverage"`).
		Join(`JOIN ostiary_policy_revision AS pr ON pr."revision" = p."revision"`)
	if before > 0 {
		q = q.Where(`p."seq" < ?`, before)
	}
	if err := q.OrderExpr(`p."seq" DESC`).Limit(int64(limit)).Scan(ctx); err != nil {
		return nil, db.fail("read publications", err)
	}
	ps := make([]policies.Publication, len(rows))
	for i := range rows {
		var err error
		if ps[i], err = rows[i].publication(); err != nil {
			return nil, err
		}
	}
	return ps, nil
}

// PolicyRevision implements [policies.Store].
func (db *DB) PolicyRevision(ctx context.Context, name string) (policies.Revision, error) {
	var row revisionRow
	err := db.reader.NewSelect().Model(&row).
		ColumnExpr(`?TableColumns, EXISTS (SELECT 1 FROM ostiary_policy AS p WHERE p."revision" = pr."revision") AS "published"`).
		Where(`pr."revision" = coalesce((SELECT p."revision" FROM ostiary_policy AS p WHERE p."policyRevision" = ? ORDER BY p."seq" DESC LIMIT 1), ?)`, name, name).
		Scan(ctx)
	if err != nil {
		return policies.Revision{}, db.fail("read policy revision", err)
	}
	r := policies.Revision{ID: row.Revision, CreatedAt: row.CreatedAt.Time, Published: row.Published, Tests: policies.Tested{Count: row.Tests, Coverage: row.Coverage}}
	if err := json.Unmarshal([]byte(row.Files), &r.Files); err != nil {
		return policies.Revision{}, fmt.Errorf("files of policy revision %s: %w", row.Revision, err)
	}
	return r, nil
}

// Publish implements [policies.Store].
func (db *DB) Publish(ctx context.Context, r policies.Revision, p policies.Publication, ev audit.Event) error {
	revision, err := newRevisionRow(r)
	if err != nil {
		return err
	}
	replay, err := encode(p.Replay)
	if err != nil {
		return fmt.Errorf("replay of policy revision %s: %w", r.ID, err)
	}
	return db.change(ctx, "publish policy", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		// The same files have the same name, and were kept before.
		done, err := tx.NewInsert().Model(revision).On(`CONFLICT ("revision") DO NOTHING`).Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err == nil && n == 0 {
			if err := unaltered(ctx, tx, r); err != nil {
				return err
			}
		}
		row := publicationRow{
			Seq: p.Sequence, Revision: r.ID, PolicyRevision: p.PolicyRevision, Parent: p.Parent,
			At: newInstant(p.At), Note: p.Note, Replay: replay, actorRow: actorRow(p.By),
		}
		// Of two that follow the same one the number lets only one be written.
		_, err = tx.NewInsert().Model(&row).Exec(ctx)
		if kind, _ := db.dialect.fault(err); err != nil && kind == faultDuplicate {
			return rejected{&authn.ConflictError{Field: "sequence"}}
		}
		return err
	})
}

// unaltered makes sure that a revision that is there holds what its name says.
func unaltered(ctx context.Context, tx bun.IDB, r policies.Revision) error {
	var there revisionRow
	if err := tx.NewSelect().Model(&there).Where(`pr."revision" = ?`, r.ID).Scan(ctx); err != nil {
		return err
	}
	var files map[string]string
	if err := json.Unmarshal([]byte(there.Files), &files); err != nil || !maps.Equal(files, r.Files) {
		return rejected{fmt.Errorf("revision %s is in the database with other files: somebody altered them", r.ID)}
	}
	return nil
}

// What was published stays as it was, whoever writes.
var permanent = []string{"ostiary_policy_revision", "ostiary_policy"}

func sqlitePermanent(ctx context.Context, tx bun.IDB) error {
	for _, t := range permanent {
		for _, change := range []string{"UPDATE", "DELETE"} {
			statement := fmt.Sprintf(`CREATE TRIGGER %[1]s_stays_%[2]s BEFORE %[2]s ON %[1]s BEGIN SELECT RAISE(ABORT, 'what was published is never changed'); END`, t, change)
			if _, err := tx.NewRaw(statement).Exec(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func postgresPermanent(ctx context.Context, tx bun.IDB) error {
	var schema string
	if err := tx.NewSelect().ColumnExpr("quote_ident(current_schema())").Scan(ctx, &schema); err != nil {
		return err
	}
	statements := []string{`CREATE FUNCTION ` + schema + `.ostiary_stays() RETURNS trigger LANGUAGE plpgsql AS $stays$
BEGIN
	RAISE EXCEPTION 'what was published is never changed' USING ERRCODE = 'restrict_violation';
END $stays$`}
	for _, t := range permanent {
		// Before every statement, even one that finds no row, and so TRUNCATE too.
		statements = append(statements, fmt.Sprintf(`CREATE TRIGGER %[1]s_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON %[1]s FOR EACH STATEMENT EXECUTE FUNCTION %[2]s.ostiary_stays()`, t, schema))
	}
	for _, s := range statements {
		if _, err := tx.NewRaw(s).Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}
