package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
)

type entityRow struct {
	bun.BaseModel `bun:"table:ostiary_entity,alias:en"`

	Type       string  `bun:"type,pk"`
	ID         string  `bun:"id,pk"`
	Properties string  `bun:"properties"`
	UpdatedAt  instant `bun:"updatedAt"`
}

func newEntityRow(e directory.Entity) (entityRow, error) {
	properties := []byte("{}")
	if e.Properties != nil {
		var err error
		if properties, err = json.Marshal(e.Properties); err != nil {
			return entityRow{}, rejected{&authn.InvalidError{Field: "properties", Reason: "are not JSON"}}
		}
	}
	return entityRow{Type: e.Type, ID: e.ID, Properties: string(properties), UpdatedAt: newInstant(e.UpdatedAt)}, nil
}

func (r *entityRow) entity() (directory.Entity, error) {
	e := directory.Entity{Type: r.Type, ID: r.ID, UpdatedAt: r.UpdatedAt.Time}
	if err := decode(&r.Properties, &e.Properties); err != nil {
		return e, fmt.Errorf("properties of %s/%s: %w", r.Type, r.ID, err)
	}
	return e, nil
}

// Entity implements [directory.Store]. Numbers keep their digits: they are of
// type json.Number.
func (db *DB) Entity(ctx context.Context, typ, id string) (directory.Entity, error) {
	var row entityRow
	err := db.reader.NewSelect().Model(&row).Where(`en."type" = ? AND en."id" = ?`, typ, id).Scan(ctx)
	if err != nil {
		return directory.Entity{}, db.fail("read entity", err)
	}
	e, err := row.entity()
	return e, db.fail("read entity", err)
}

// Entities implements [directory.Store].
func (db *DB) Entities(ctx context.Context, q directory.EntityQuery) ([]directory.Entity, error) {
	var rows []entityRow
	err := db.reader.NewSelect().Model(&rows).Where(`en."type" = ? AND en."id" > ?`, q.Type, q.After).
		OrderExpr(`en."id"`).Limit(int64(q.Limit)).Scan(ctx)
	if err != nil {
		return nil, db.fail("list entities", err)
	}
	es := make([]directory.Entity, len(rows))
	for i := range rows {
		if es[i], err = rows[i].entity(); err != nil {
			return nil, db.fail("list entities", err)
		}
	}
	return es, nil
}

// Matches implements [directory.Store].
func (db *DB) Matches(ctx context.Context, q directory.EntityQuery) ([]directory.Entity, []bool, error) {
	sure, sureArgs, err := filterSQL(db.dialect.filters, q.Filter.Sure, entityPlace)
	if err != nil {
		return nil, nil, db.fail("search entities", err)
	}
	ids, args, err := db.matchingIDs(q.Type, q.After, q.Filter.Maybe, q.Limit)
	if err != nil {
		return nil, nil, db.fail("search entities", err)
	}
	var rows []struct {
		entityRow
		Sure bool `bun:"sure"`
	}
	err = db.reader.NewRaw(`SELECT en.*, `+sure+` AS "sure" FROM ostiary_entity AS en WHERE en."type" = ? AND en."id" IN (SELECT "id" FROM (`+ids+`) AS found) ORDER BY en."id"`,
		slices.Concat(sureArgs, []any{q.Type}, args)...).Scan(ctx, &rows)
	if err != nil {
		return nil, nil, db.fail("search entities", err)
	}
	es, told := make([]directory.Entity, len(rows)), make([]bool, len(rows))
	for i := range rows {
		if es[i], err = rows[i].entity(); err != nil {
			return nil, nil, db.fail("search entities", err)
		}
		told[i] = rows[i].Sure
	}
	return es, told, nil
}

// entityPlace is where the fields of an entity are.
func entityPlace(f authz.Field) (place, bool) {
	if f[0] == "id" {
		return place{column: `en."id"`, kind: authz.AlwaysText}, true
	}
	return property(`en."properties"`, f[1:])
}

// EntityTypes implements [directory.Store]. It goes from type to type by the
// index, however many entities there are of each.
func (db *DB) EntityTypes(ctx context.Context) ([]string, error) {
	types := []string{}
	err := db.reader.NewRaw(`WITH RECURSIVE found ("type") AS (
	SELECT min("type") FROM ostiary_entity
	UNION ALL
	SELECT (SELECT min(en."type") FROM ostiary_entity AS en WHERE en."type" > found."type") FROM found WHERE found."type" IS NOT NULL
) SELECT "type" FROM found WHERE "type" IS NOT NULL`).Scan(ctx, &types)
	return types, db.fail("list types of entities", err)
}

// A statement writes at most so many entities, and begins no other one after
// so many bytes of them.
const (
	entitiesAtOnce = 200
	bytesAtOnce    = 256 << 10
)

// PutEntities implements [directory.Store].
func (db *DB) PutEntities(ctx context.Context, es []directory.Entity, ev audit.Event) (created int, err error) {
	rows := make([]entityRow, len(es))
	for i, e := range es {
		if rows[i], err = newEntityRow(e); err != nil {
			return 0, db.fail("write entities", err)
		}
	}
	// All who write several take them in the same order, and never wait for
	// each other in a circle.
	slices.SortFunc(rows, func(a, b entityRow) int { return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID)) })
	err = db.change(ctx, "write entities", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		created = 0
		for len(rows) > 0 {
			n, bytes := 0, 0
			for n < min(len(rows), entitiesAtOnce) && bytes < bytesAtOnce {
				bytes += len(rows[n].Properties)
				n++
			}
			new, err := putEntities(ctx, tx, rows[:n])
			if err != nil {
				return err
			}
			created += new
			rows = rows[n:]
		}
		return nil
	})
	return created, err
}

func putEntities(ctx context.Context, tx bun.Tx, rows []entityRow) (created int, err error) {
	res, err := tx.NewInsert().Model(&rows).On(`CONFLICT ("type", "id") DO NOTHING`).Exec(ctx)
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	if err != nil || int(n) == len(rows) {
		return int(n), err
	}
	_, err = tx.NewInsert().Model(&rows).On(`CONFLICT ("type", "id") DO UPDATE`).
		Set(`"properties" = EXCLUDED."properties"`).Set(`"updatedAt" = EXCLUDED."updatedAt"`).Exec(ctx)
	return int(n), err
}

// DeleteEntity implements [directory.Store].
func (db *DB) DeleteEntity(ctx context.Context, typ, id string, ev audit.Event) error {
	return db.change(ctx, "delete entity", []audit.Event{ev}, func(ctx context.Context, tx bun.Tx) error {
		res, err := tx.NewDelete().Model((*entityRow)(nil)).Where(`"type" = ? AND "id" = ?`, typ, id).Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return cmp.Or(err, authn.ErrNotFound)
		}
		return nil
	})
}
