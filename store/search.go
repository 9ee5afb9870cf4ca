package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

// snapshot has all statements of a transaction see the same blocks: they are merged
// and deleted while others read.
var snapshot = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}

// Record implements [audit.Store].
func (db *DB) Record(ctx context.Context, id string) (record audit.Record, err error) {
	front := append(authz.AppendText([]byte(`{"id":`), id), ',')
	err = db.reader.RunInTx(ctx, snapshot, func(ctx context.Context, tx bun.Tx) error {
		// Ids of ours begin with the time, so that few blocks have it between theirs.
		var rows []blockRow
		if err := tx.NewSelect().Model(&rows).Column("key").Where(`"minId" <= ?`, []byte(id)).Where(`"maxId" >= ?`, []byte(id)).Scan(ctx); err != nil {
			return err
		}
		for _, row := range rows {
			if err := tx.NewSelect().Model(&row).Where(`"key" = ?`, row.Key).Scan(ctx); err != nil {
				return err
			}
			lines, err := row.unpacked()
			if err != nil {
				return err
			}
			if i := slices.IndexFunc(lines, func(line []byte) bool { return bytes.HasPrefix(line, front) }); i >= 0 {
				if record, err = recordOf(lines[i]); err != nil {
					return row.unreadable(err)
				}
				return nil
			}
		}
		return rejected{audit.ErrNotFound}
	})
	return record, db.fail("read record", err)
}

// Records implements [audit.Store].
func (db *DB) Records(ctx context.Context, q audit.Query) ([]audit.Record, error) {
	s, err := db.search(ctx, &q)
	if err != nil {
		return nil, err
	}
	return s.page(ctx, int(recordLimit(q.Limit)))
}

// pageOfRecords is how many records EachRecord has in memory at most. Besides there are
// the lines of the blocks that overlap where it is, about one for each instance, a group
// of others that are still compressed, and what tells the next few hundred apart.
const pageOfRecords = 500

// EachRecord implements [audit.Store]. Where it goes on is told by the last record of
// a page, because that and its block may be gone by then.
func (db *DB) EachRecord(ctx context.Context, q audit.Query, f func(audit.Record) error) error {
	q.OldestFirst = true
	s, err := db.search(ctx, &q)
	if err != nil {
		return err
	}
	left := q.Limit
	if left <= 0 {
		left = math.MaxInt
	}
	for {
		n := min(pageOfRecords, left)
		records, err := s.page(ctx, n)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := f(r); err != nil {
				return err
			}
		}
		if left -= len(records); len(records) < n || left == 0 {
			return nil
		}
		s.from = positionOf(&records[n-1]).next()
	}
}

// search reads what a query selects.
type search struct {
	db     *DB
	asked  [facets]string
	parts  [][]byte // that are in each line of what is asked
	oldest bool
	// Only what is at from or after it, and before until, if there are any.
	from, until position
}

const (
	always = math.MinInt64 // as the time of from
	never  = math.MaxInt64 // as that of until
)

func (db *DB) search(ctx context.Context, q *audit.Query) (*search, error) {
	s := &search{db: db, asked: asked(q), oldest: q.OldestFirst, from: position{at: always}, until: position{at: never}}
	for f, v := range s.asked {
		if v == "" {
			continue
		}
		part := []byte(members[f])
		if facet(f) == facetAllow {
			part = append(part, v...)
		} else {
			part = authz.AppendText(part, v)
		}
		s.parts = append(s.parts, part)
	}
	if !q.Since.IsZero() {
		s.from.at = newInstant(q.Since).UnixMilli()
	}
	if !q.Until.IsZero() {
		s.until.at = newInstant(q.Until).UnixMilli()
	}
	if q.After != "" {
		r, err := db.Record(ctx, q.After)
		if err != nil {
			return nil, err
		}
		if p := positionOf(&r).next(); p.compare(s.from) > 0 {
			s.from = p
		}
	}
	if q.Before != "" {
		r, err := db.Record(ctx, q.Before)
		if err != nil {
			return nil, err
		}
		if p := positionOf(&r); p.compare(s.until) < 0 {
			s.until = p
		}
	}
	return s, nil
}

// page returns the first n that are found, and no more than there are.
func (s *search) page(ctx context.Context, n int) ([]audit.Record, error) {
	var records []audit.Record
	err := s.db.reader.RunInTx(ctx, snapshot, func(ctx context.Context, tx bun.Tx) error {
		r := reading{search: s, tx: tx, portion: 8, told: position{at: always}}
		for len(records) < n {
			record, err := r.next(ctx)
			if err != nil {
				return err
			}
			if record == nil {
				break
			}
			records = append(records, *record)
		}
		return nil
	})
	if err != nil {
		return nil, s.db.fail("read records", err)
	}
	return records, nil
}

// wanted reports whether r is what was asked for.
func (s *search) wanted(r *audit.Record) bool {
	for f, v := range values(r) {
		if want := s.asked[f]; want != "" && want != v {
			return false
		}
	}
	code := s.asked[facetCode]
	return code == "" || slices.ContainsFunc(r.Reasons, func(reason authz.Reason) bool { return reason.Code == code })
}

// reading merges the blocks of one snapshot. Those of several instances overlap in
// time, so a record is told when nothing that is not open yet can come before it.
type reading struct {
	*search
	tx bun.Tx

	portion int        // how many heads are read next
	seen    *blockRow  // the last head that was read; nil: none was
	ended   bool       // there are no more heads
	heads   []blockRow // that may have what is asked for, in order
	open    []*opened
	told    position
}

// opened is a block from which records are told.
type opened struct {
	row   blockRow
	lines [][]byte // that are left
	head  *audit.Record
	at    position // of head
}

// next returns what comes next, or nil.
func (r *reading) next(ctx context.Context) (*audit.Record, error) {
	for {
		first, err := r.first()
		if err != nil {
			return nil, err
		}
		if err := r.look(ctx); err != nil {
			return nil, err
		}
		if len(r.heads) > 0 && (first == nil || r.mayPrecede(&r.heads[0], first.at.at)) {
			if err := r.unpack(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if first == nil {
			return nil, nil
		}
		record, at := first.head, first.at
		first.head = nil
		if at == r.told {
			continue // it is in two blocks: what was written again, as part of another batch
		}
		r.told = at
		return record, nil
	}
}

// mayPrecede reports whether something in the block may come before all that is at.
func (r *reading) mayPrecede(row *blockRow, at int64) bool {
	if r.oldest {
		return row.FirstAt.UnixMilli() <= at
	}
	return row.LastAt.UnixMilli() >= at
}

// first returns the open block whose head comes first, or nil. Lines are read no
// further than that.
func (r *reading) first() (first *opened, err error) {
	for _, o := range r.open {
		if err := r.advance(o); err != nil {
			return nil, o.row.unreadable(err)
		}
	}
	r.open = slices.DeleteFunc(r.open, func(o *opened) bool { return o.head == nil })
	for _, o := range r.open {
		if first == nil || (o.at.compare(first.at) < 0) == r.oldest {
			first = o
		}
	}
	return first, nil
}

// advance finds the head of o, unless it has one or there is none.
func (r *reading) advance(o *opened) error {
	for o.head == nil && len(o.lines) > 0 {
		var line []byte
		if r.oldest {
			line, o.lines = o.lines[0], o.lines[1:]
		} else {
			last := len(o.lines) - 1
			line, o.lines = o.lines[last], o.lines[:last]
		}
		// Most of what is not asked for is seen without reading it.
		if slices.ContainsFunc(r.parts, func(part []byte) bool { return !bytes.Contains(line, part) }) {
			continue
		}
		record, err := recordOf(line)
		if err != nil {
			return err
		}
		if r.wanted(&record) {
			o.head, o.at = &record, positionOf(&record)
		}
	}
	return nil
}

// look reads heads until there are some that may have what is asked for, or no more.
func (r *reading) look(ctx context.Context) error {
	for len(r.heads) == 0 && !r.ended {
		var rows []blockRow
		heads := r.tx.NewSelect().Model(&rows).Column("key", "firstAt", "lastAt", "size", "terms").Limit(int64(r.portion))
		if r.from.at != always {
			heads = heads.Where(`"lastAt" >= ?`, instantOf(r.from.at))
		}
		if r.until.at != never {
			heads = heads.Where(`"firstAt" <= ?`, instantOf(r.until.at))
		}
		if r.oldest {
			heads = heads.OrderExpr(`"firstAt", "key"`)
			if r.seen != nil {
				heads = heads.Where(`("firstAt", "key") > (?, ?)`, r.seen.FirstAt, r.seen.Key)
			}
		} else {
			heads = heads.OrderExpr(`"lastAt" DESC, "key" DESC`)
			if r.seen != nil {
				heads = heads.Where(`("lastAt", "key") < (?, ?)`, r.seen.LastAt, r.seen.Key)
			}
		}
		if err := heads.Scan(ctx); err != nil {
			return err
		}
		if r.ended = len(rows) < r.portion; !r.ended {
			r.seen = &blockRow{Key: rows[len(rows)-1].Key, FirstAt: rows[len(rows)-1].FirstAt, LastAt: rows[len(rows)-1].LastAt}
		}
		r.portion = min(2*r.portion, 512)
		for _, row := range rows {
			may, err := r.mayHave(&row)
			if err != nil {
				return err
			}
			if row.Terms = nil; may {
				r.heads = append(r.heads, row)
			}
		}
	}
	return nil
}

// mayHave reports whether the filter of a block has all terms that are asked for.
func (r *reading) mayHave(row *blockRow) (bool, error) {
	filter := filterOf(row.Terms)
	if filter == nil {
		return false, row.unreadable(errors.New("its filter is cut off"))
	}
	for f, v := range r.asked {
		if v != "" && !filter.Test(term{facet(f), v}.append(nil)) {
			return false, nil
		}
	}
	return true, nil
}

// groupBytes is how much of lines is fetched in one query, if a block is not longer:
// one of those that are full, or many that are small.
const groupBytes = 1 << 20

// unpack opens the first of the heads.
func (r *reading) unpack(ctx context.Context) error {
	if r.heads[0].Lines == nil {
		if err := r.fetch(ctx); err != nil {
			return err
		}
	}
	o := &opened{row: r.heads[0]}
	r.heads = r.heads[1:]
	lines, err := o.row.unpacked()
	if err != nil {
		return err
	}
	o.row.Lines = nil
	begin, end := 0, len(lines)
	if o.row.FirstAt.UnixMilli() <= r.from.at {
		begin = sort.Search(len(lines), func(i int) bool { return r.placed(lines[i], &err).compare(r.from) >= 0 })
	}
	if o.row.LastAt.UnixMilli() >= r.until.at {
		end = sort.Search(len(lines), func(i int) bool { return r.placed(lines[i], &err).compare(r.until) >= 0 })
	}
	if err != nil {
		return o.row.unreadable(err)
	}
	if begin < end {
		o.lines = lines[begin:end]
		r.open = append(r.open, o)
	}
	return nil
}

// placed is the position of a line.
func (r *reading) placed(line []byte, failed *error) position {
	record, err := headingOf(line)
	if err != nil {
		*failed = err
	}
	return positionOf(&record)
}

// fetch reads the lines of the first heads.
func (r *reading) fetch(ctx context.Context) error {
	var keys []string
	for size := 0; len(keys) < len(r.heads) && size < groupBytes; {
		head := &r.heads[len(keys)]
		keys, size = append(keys, head.Key), size+head.Size
	}
	var rows []blockRow
	if err := r.tx.NewSelect().Model(&rows).Column("key", "records", "size", "lines").Where(`"key" IN (?)`, bun.List(keys)).Scan(ctx); err != nil {
		return err
	}
	lines := make(map[string]blockRow, len(rows))
	for _, row := range rows {
		lines[row.Key] = row
	}
	for i := range keys {
		head := &r.heads[i]
		row, ok := lines[head.Key]
		if !ok {
			return fmt.Errorf("block %s of decisions is not there", head.Key)
		}
		head.Records, head.Size, head.Lines = row.Records, row.Size, row.Lines
	}
	return nil
}
