package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

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

// recordColumns are written in this order, by [recordWriter.add]. Most records have
// for the last of them the usual value, which the statement then says by itself.
var recordColumns = columnsOfRecords{
	{name: "id"}, {name: "at"}, {name: "allow"}, {name: "revision"}, {name: "dataRevision"},
	{name: "actorType"}, {name: "actorId"}, {name: "actorCredential"}, {name: "actorKeyId"},
	{name: "action"}, {name: "resourceType"}, {name: "resourceId"}, {name: "resourceProperties"},
	{name: "input"}, {name: "reasons"}, {name: "codes"}, {name: "requestId"},
	{"actorImpersonatedBy", "''"}, {"assertedByType", "''"}, {"assertedById", "''"}, {"assertedByKeyId", "''"},
	{"mapped", "''"}, {"failure", "''"}, {"context", "NULL"}, {"ndBuiltinCache", "NULL"},
	{"erased", "NULL"}, {"masked", "NULL"}, {"maskFailure", "''"},
}

type columnsOfRecords []struct{ name, usual string }

// all are the names of the columns.
func (cs columnsOfRecords) all() string {
	var b strings.Builder
	for i, c := range cs {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(`"` + c.name + `"`)
	}
	return b.String()
}

// usual are the values that are no arguments, each after a comma. With all of the
// columns given there are none.
func (cs columnsOfRecords) usual(all bool) string {
	var b strings.Builder
	for _, c := range cs {
		if c.usual != "" && !all {
			b.WriteString(", " + c.usual)
		}
	}
	return b.String()
}

// WriteRecords implements [audit.Store]. A record that is there already is
// passed over, so a batch may be written again after a failure.
func (db *DB) WriteRecords(ctx context.Context, records []audit.Record) error {
	if len(records) == 0 {
		return nil
	}
	return db.fail("write records", db.writer.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		w := recordWriter{db: db, tx: tx, prepared: map[statementOf]*sql.Stmt{}}
		for len(records) > 0 {
			n := db.dialect.atOnce(len(records))
			if err := w.write(ctx, records[:n]); err != nil {
				return err
			}
			records = records[n:]
		}
		return nil
	}))
}

// recordWriter writes records in one transaction. Values are arguments: out of the
// text of a statement the database would have to read them again, at the price of
// keeping them.
type recordWriter struct {
	db       *DB
	tx       bun.Tx
	prepared map[statementOf]*sql.Stmt // where that pays

	args []any
	json []byte // of the records that are written together
	ends []int  // of each text in it
}

// statementOf is what a statement that writes records depends on: how many there are,
// and whether all of their columns are given.
type statementOf struct {
	n   int
	all bool
}

func (w *recordWriter) write(ctx context.Context, records []audit.Record) (err error) {
	if traced := w.db.traced; traced != nil {
		ctx = traced.begin(ctx, "INSERT", "ostiary_decision")
		defer func() { traced.end(ctx, err) }()
	}
	all := false
	for i := range records {
		all = all || rare(&records[i])
	}
	// First the texts, as one string that all arguments are parts of.
	w.json, w.ends = w.json[:0], w.ends[:0]
	for i := range records {
		if err := w.encode(&records[i], all); err != nil {
			return fmt.Errorf("record %s: %w", records[i].ID, err)
		}
	}
	texts := texts{string(w.json), w.ends, 0}
	w.args = w.args[:0]
	for i := range records {
		w.add(&records[i], &texts, all)
	}
	return w.db.dialect.write(ctx, w, statementOf{len(records), all}, w.args)
}

// rare reports whether r has something for the columns that most records have
// nothing for.
func rare(r *audit.Record) bool {
	return r.Actor.ImpersonatedBy != "" || r.AssertedBy != (audit.Asserter{}) || r.Mapped != "" || r.Failure != "" || len(r.Context) > 0 ||
		len(r.NDBuiltinCache) > 0 || len(r.Erased) > 0 || len(r.Masked) > 0 || r.MaskFailure != ""
}

// encode appends the texts that r has in JSON, in the order in which add takes them.
func (w *recordWriter) encode(r *audit.Record, all bool) (err error) {
	b := newInstant(r.At).AppendFormat(w.json, instantLayout)
	end := func() { w.ends = append(w.ends, len(b)) }
	end()
	object := func(m map[string]any) {
		if err == nil && len(m) > 0 {
			b, err = authz.AppendJSON(b, m, nil)
		}
		end()
	}
	list := func(of []string) {
		if len(of) > 0 {
			b, _ = authz.AppendJSON(b, authz.Texts(of), nil)
		}
		end()
	}
	object(r.Resource.Properties)
	if err == nil {
		b, err = r.AppendInput(b)
	}
	end()
	for i := range r.Reasons {
		if err == nil {
			b, err = authz.AppendReason(append(b, "[,"[min(i, 1)]), &r.Reasons[i], nil)
		}
	}
	if len(r.Reasons) > 0 {
		b = append(b, ']')
	}
	end()
	if all {
		object(r.Context)
		object(r.NDBuiltinCache)
		list(r.Erased)
		list(r.Masked)
	}
	w.json = b
	return err
}

// texts are what encode has appended, one after the other.
type texts struct {
	all  string
	ends []int
	from int
}

func (t *texts) next() string {
	s := t.all[t.from:t.ends[0]]
	t.from, t.ends = t.ends[0], t.ends[1:]
	return s
}

// some is next, and NULL if there is none.
func (t *texts) some() any {
	if s := t.next(); s != "" {
		return s
	}
	return nil
}

// add adds the arguments of r.
func (w *recordWriter) add(r *audit.Record, t *texts, all bool) {
	codes := ""
	for _, reason := range r.Reasons {
		codes += "|" + reason.Code + "|"
	}
	w.text(r.ID)
	w.args = append(w.args, t.next(), r.Allow)
	w.text(r.Revision)
	w.args = append(w.args, r.DataRevision)
	w.text(r.Actor.Type, r.Actor.ID, r.Actor.Credential, r.Actor.KeyID, r.Action, r.Resource.Type, r.Resource.ID)
	w.args = append(w.args, t.some(), t.some(), t.some())
	w.text(codes, r.RequestID)
	if all {
		w.text(r.Actor.ImpersonatedBy, r.AssertedBy.Type, r.AssertedBy.ID, r.AssertedBy.KeyID, r.Mapped, r.Failure)
		w.args = append(w.args, t.some(), t.some(), t.some(), t.some())
		w.text(r.MaskFailure)
	}
}

func (w *recordWriter) text(texts ...string) {
	for _, s := range texts {
		w.args = append(w.args, storable(s))
	}
}

// storable is s without what no text column takes. Names in a record are whatever
// somebody asked about, and one that cannot be written would hold up all that
// wait behind it. The input, which is JSON, still has the name as it was.
func storable(s string) string {
	if !utf8.ValidString(s) {
		s = string([]rune(s)) // each byte that is wrong is one replacement
	}
	return strings.ReplaceAll(s, "\x00", "\ufffd")
}

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
