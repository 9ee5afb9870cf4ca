package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

type actorRow struct {
	Type           string `bun:"actorType"`
	ID             string `bun:"actorId"`
	Credential     string `bun:"actorCredential"`
	KeyID          string `bun:"actorKeyId"`
	ImpersonatedBy string `bun:"actorImpersonatedBy"`
}

type eventRow struct {
	bun.BaseModel `bun:"table:ostiary_event,alias:e"`

	ID   string  `bun:"id,pk"`
	At   instant `bun:"at"`
	Kind string  `bun:"kind"`
	actorRow
	TargetType string  `bun:"targetType"`
	TargetID   string  `bun:"targetId"`
	DecisionID string  `bun:"decisionId"`
	Details    *string `bun:"details"`
}

type recordRow struct {
	bun.BaseModel `bun:"table:ostiary_decision,alias:d"`

	ID       string  `bun:"id,pk"`
	At       instant `bun:"at"`
	Allow    bool    `bun:"allow"`
	Revision string  `bun:"revision"`
	actorRow
	DataRevision       int64   `bun:"dataRevision"`
	AssertedByType     string  `bun:"assertedByType"`
	AssertedByID       string  `bun:"assertedById"`
	AssertedByKeyID    string  `bun:"assertedByKeyId"`
	Action             string  `bun:"action"`
	ResourceType       string  `bun:"resourceType"`
	ResourceID         string  `bun:"resourceId"`
	ResourceProperties *string `bun:"resourceProperties"`
	Mapped             string  `bun:"mapped"`
	Input              *string `bun:"input"`
	Reasons            *string `bun:"reasons"`
	Codes              string  `bun:"codes"` // of the reasons, each between two bars
	Failure            string  `bun:"failure"`
	RequestID          string  `bun:"requestId"`
	Context            *string `bun:"context"`
	NDBuiltinCache     *string `bun:"ndBuiltinCache"`
	Erased             *string `bun:"erased"`
	Masked             *string `bun:"masked"`
	MaskFailure        string  `bun:"maskFailure"`
}

// stamped gives ev an id and a time if it has none.
func stamped(ev audit.Event) audit.Event {
	if ev.ID == "" {
		ev.ID = newID()
	}
	if ev.At.IsZero() {
		ev.At = time.Now()
	}
	return ev
}

// insertEvents writes evs. Whatever is wrong with an event is a failure of the
// change, not a mistake of the caller's.
func (db *DB) insertEvents(ctx context.Context, tx bun.IDB, evs []audit.Event) error {
	if len(evs) == 0 {
		return nil
	}
	rows := make([]eventRow, len(evs))
	for i, ev := range evs {
		ev = stamped(ev)
		details, err := encode(ev.Details)
		if err != nil {
			return rejected{fmt.Errorf("details of event %s: %w", ev.Kind, err)}
		}
		rows[i] = eventRow{
			ID: ev.ID, At: newInstant(ev.At), Kind: ev.Kind, actorRow: actorRow(ev.Actor),
			TargetType: ev.TargetType, TargetID: ev.TargetID, DecisionID: ev.DecisionID, Details: details,
		}
	}
	_, err := tx.NewInsert().Model(&rows).Exec(ctx)
	if kind, _ := db.dialect.fault(err); err != nil && kind != faultUnavailable && kind != faultOther {
		return rejected{fmt.Errorf("write event: %w", err)}
	}
	return err
}

// Events returns the newest events, newest first. Limit 0 is 50; more than 500
// are never returned.
func (db *DB) Events(ctx context.Context, limit int) ([]audit.Event, error) {
	var rows []eventRow
	err := db.reader.NewSelect().Model(&rows).OrderExpr(`"at" DESC, "id" DESC`).Limit(recordLimit(limit)).Scan(ctx)
	if err != nil {
		return nil, db.fail("read events", err)
	}
	evs := make([]audit.Event, len(rows))
	for i, r := range rows {
		evs[i] = audit.Event{
			ID: r.ID, At: r.At.Time, Kind: r.Kind, Actor: audit.Actor(r.actorRow),
			TargetType: r.TargetType, TargetID: r.TargetID, DecisionID: r.DecisionID,
		}
		if err := decode(r.Details, &evs[i].Details); err != nil {
			return nil, fmt.Errorf("details of event %s: %w", r.ID, err)
		}
	}
	return evs, nil
}

func recordLimit(n int) int64 {
	if n <= 0 {
		return 50
	}
	return int64(min(n, 500))
}

// decode reads what encode wrote. Numbers keep their digits, because a replay
// must see what the policy saw.
func decode(s *string, v any) error {
	if s == nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader([]byte(*s)))
	d.UseNumber()
	return d.Decode(v)
}

// WriteRecords implements [audit.Store]. A record that is there already is
// passed over, so a batch may be written again after a failure.
func (db *DB) WriteRecords(ctx context.Context, records []audit.Record) error {
	if len(records) == 0 {
		return nil
	}
	rows := make([]*recordRow, len(records))
	for i, r := range records {
		var err error
		if rows[i], err = newRecordRow(r); err != nil {
			return fmt.Errorf("record %s: %w", r.ID, err)
		}
	}
	return db.fail("write records", db.writer.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		// One statement, but not one whose text grows without bound.
		for len(rows) > 0 {
			n := min(len(rows), 200)
			batch := rows[:n]
			if _, err := tx.NewInsert().Model(&batch).On("CONFLICT DO NOTHING").Exec(ctx); err != nil {
				return err
			}
			rows = rows[n:]
		}
		return nil
	}))
}

func newRecordRow(r audit.Record) (*recordRow, error) {
	row := &recordRow{
		ID: r.ID, At: newInstant(r.At), Allow: r.Allow, Revision: r.Revision, actorRow: actorRow(r.Actor),
		Action: storable(r.Action), ResourceType: storable(r.Resource.Type), ResourceID: storable(r.Resource.ID), Mapped: storable(r.Mapped),
		Failure: storable(r.Failure), RequestID: storable(r.RequestID), DataRevision: r.DataRevision, MaskFailure: storable(r.MaskFailure),
		AssertedByType: storable(r.AssertedBy.Type), AssertedByID: storable(r.AssertedBy.ID), AssertedByKeyID: storable(r.AssertedBy.KeyID),
	}
	row.actorRow.Type, row.actorRow.ID = storable(r.Actor.Type), storable(r.Actor.ID)
	var codes strings.Builder
	for _, reason := range r.Reasons {
		codes.WriteString("|" + reason.Code + "|")
	}
	row.Codes = storable(codes.String())
	var errs [7]error
	row.ResourceProperties, errs[0] = encode(r.Resource.Properties)
	row.Input, errs[1] = encode(r.Input)
	row.Reasons, errs[2] = encode(r.Reasons)
	row.Masked, errs[3] = encode(r.Masked)
	row.Context, errs[4] = encode(r.Context)
	row.NDBuiltinCache, errs[5] = encode(r.NDBuiltinCache)
	row.Erased, errs[6] = encode(r.Erased)
	return row, errors.Join(errs[:]...)
}

// storable is s without what no text column takes. Names in a record are whatever
// somebody asked about, and one that cannot be written would hold up all that
// wait behind it. The input, which is JSON, still has the name as it was.
func storable(s string) string { return strings.ReplaceAll(s, "\x00", "\ufffd") }

func (r *recordRow) record() (audit.Record, error) {
	rec := audit.Record{
		ID: r.ID, At: r.At.Time, Allow: r.Allow, Revision: r.Revision, Actor: audit.Actor(r.actorRow),
		Action: r.Action, Resource: authz.Resource{Type: r.ResourceType, ID: r.ResourceID}, Mapped: r.Mapped,
		Failure: r.Failure, RequestID: r.RequestID, DataRevision: r.DataRevision, MaskFailure: r.MaskFailure,
		AssertedBy: audit.Asserter{Type: r.AssertedByType, ID: r.AssertedByID, KeyID: r.AssertedByKeyID},
	}
	err := errors.Join(
		decode(r.ResourceProperties, &rec.Resource.Properties),
		decode(r.Input, &rec.Input),
		decode(r.Reasons, &rec.Reasons),
		decode(r.Context, &rec.Context),
		decode(r.NDBuiltinCache, &rec.NDBuiltinCache),
		decode(r.Erased, &rec.Erased),
		decode(r.Masked, &rec.Masked),
	)
	if err != nil {
		return audit.Record{}, fmt.Errorf("record %s: %w", r.ID, err)
	}
	return rec, nil
}

// Record implements [audit.Store].
func (db *DB) Record(ctx context.Context, id string) (audit.Record, error) {
	row, err := db.recordRow(ctx, id)
	if err != nil {
		return audit.Record{}, err
	}
	return row.record()
}

func (db *DB) recordRow(ctx context.Context, id string) (*recordRow, error) {
	var rows []recordRow
	if err := db.reader.NewSelect().Model(&rows).Where(`"id" = ?`, id).Scan(ctx); err != nil {
		return nil, db.fail("read record", err)
	}
	if len(rows) == 0 {
		return nil, audit.ErrNotFound
	}
	return &rows[0], nil
}

// Records implements [audit.Store].
func (db *DB) Records(ctx context.Context, q audit.Query) ([]audit.Record, error) {
	q.Limit = int(recordLimit(q.Limit))
	p, err := db.recordPages(ctx, q)
	if err != nil {
		return nil, err
	}
	return p.next(ctx)
}

// EachRecord implements [audit.Store].
func (db *DB) EachRecord(ctx context.Context, q audit.Query, f func(audit.Record) error) error {
	left := q.Limit
	q.OldestFirst = true
	p, err := db.recordPages(ctx, q)
	if err != nil {
		return err
	}
	for {
		p.limit = batchOfRecords
		if q.Limit > 0 {
			p.limit = min(p.limit, left)
		}
		recs, err := p.next(ctx)
		if err != nil {
			return err
		}
		for _, r := range recs {
			if err := f(r); err != nil {
				return err
			}
		}
		if left -= len(recs); len(recs) < p.limit || q.Limit > 0 && left <= 0 {
			return nil
		}
	}
}

const batchOfRecords = 500

// recordPages reads what a query selects, page after page. Pages are told apart
// by the row at their end, so that it may be deleted meanwhile.
type recordPages struct {
	db     *DB
	q      audit.Query
	limit  int
	before *recordRow // the page ends before it
	after  *recordRow // the page begins after it
}

func (db *DB) recordPages(ctx context.Context, q audit.Query) (p *recordPages, err error) {
	p = &recordPages{db: db, q: q, limit: q.Limit}
	if q.Before != "" {
		if p.before, err = db.recordRow(ctx, q.Before); err != nil {
			return nil, err
		}
	}
	if q.After != "" {
		if p.after, err = db.recordRow(ctx, q.After); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *recordPages) next(ctx context.Context) ([]audit.Record, error) {
	var rows []recordRow
	sel := p.db.reader.NewSelect().Model(&rows)
	for _, c := range []struct{ column, value string }{
		{"actorId", p.q.PrincipalID}, {"actorKeyId", p.q.KeyID}, {"assertedById", p.q.AssertedBy}, {"action", p.q.Action},
		{"resourceType", p.q.ResourceType}, {"resourceId", p.q.ResourceID}, {"revision", p.q.Revision},
	} {
		if c.value != "" {
			sel = sel.Where("? = ?", bun.Ident("d."+c.column), c.value)
		}
	}
	if p.q.Allow != nil {
		sel = sel.Where(`"allow" = ?`, *p.q.Allow)
	}
	if p.q.Code != "" {
		// Unlike LIKE, exact and without wildcards on both databases.
		sel = sel.Where(`replace("codes", ?, '') <> "codes"`, "|"+p.q.Code+"|")
	}
	if !p.q.Since.IsZero() {
		sel = sel.Where(`"at" >= ?`, newInstant(p.q.Since))
	}
	if !p.q.Until.IsZero() {
		sel = sel.Where(`"at" < ?`, newInstant(p.q.Until))
	}
	if p.before != nil {
		sel = sel.Where(`("at", "id") < (?, ?)`, p.before.At, p.before.ID)
	}
	if p.after != nil {
		sel = sel.Where(`("at", "id") > (?, ?)`, p.after.At, p.after.ID)
	}
	order := `"at" DESC, "id" DESC`
	if p.q.OldestFirst {
		order = `"at", "id"`
	}
	if err := sel.OrderExpr(order).Limit(int64(p.limit)).Scan(ctx); err != nil {
		return nil, p.db.fail("read records", err)
	}
	recs := make([]audit.Record, len(rows))
	for i := range rows {
		var err error
		if recs[i], err = rows[i].record(); err != nil {
			return nil, err
		}
	}
	if len(rows) > 0 && p.q.OldestFirst {
		p.after = &rows[len(rows)-1]
	}
	return recs, nil
}

// DeleteRecords implements [audit.Store].
func (db *DB) DeleteRecords(ctx context.Context, before time.Time) (int, error) {
	res, err := db.writer.NewDelete().Model((*recordRow)(nil)).Where(`"at" < ?`, newInstant(before)).Exec(ctx)
	if err != nil {
		return 0, db.fail("delete records", err)
	}
	n, err := res.RowsAffected()
	return int(n), db.fail("delete records", err)
}
