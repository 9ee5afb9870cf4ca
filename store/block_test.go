package store

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

// blocksOf counts the blocks of db.
func blocksOf(t *testing.T, db *DB) (n int) {
	t.Helper()
	must(t, db.reader.DB.QueryRowContext(t.Context(), `SELECT count(*) FROM ostiary_decision_block`).Scan(&n))
	return n
}

// every returns the ids of all records, in the order in which they are told.
func every(t *testing.T, db *DB) (ids []string) {
	t.Helper()
	must(t, db.EachRecord(t.Context(), audit.Query{}, func(r audit.Record) error {
		ids = append(ids, r.ID)
		return nil
	}))
	return ids
}

// series are n records, one each millisecond from the ith on, and their ids.
func series(i, n int) (records []audit.Record, ids []string) {
	for ; n > 0; n-- {
		records = append(records, record(fmt.Sprintf("r%06d", i), base.Add(time.Duration(i)*time.Millisecond)))
		ids = append(ids, records[len(records)-1].ID)
		i++
	}
	return records, ids
}

// naive is what a store should tell: all that was written, in order.
type naive []audit.Record

func (n naive) find(q audit.Query) ([]string, error) {
	one := func(id string) (r *audit.Record, err error) {
		if id != "" {
			i := slices.IndexFunc(n, func(r audit.Record) bool { return r.ID == id })
			if i < 0 {
				return nil, audit.ErrNotFound
			}
			r = &n[i]
		}
		return r, nil
	}
	last, err := one(q.Before)
	first, err2 := one(q.After)
	if err := cmp.Or(err, err2); err != nil {
		return nil, err
	}
	after := func(r, s audit.Record) bool { return cmp.Or(r.At.Compare(s.At), strings.Compare(r.ID, s.ID)) > 0 }
	var ids []string
	for _, r := range n {
		ok := (q.PrincipalID == "" || q.PrincipalID == r.Actor.ID) && (q.KeyID == "" || q.KeyID == r.Actor.KeyID) &&
			(q.AssertedBy == "" || q.AssertedBy == r.AssertedBy.ID) && (q.Action == "" || q.Action == r.Action) &&
			(q.ResourceType == "" || q.ResourceType == r.Resource.Type) && (q.ResourceID == "" || q.ResourceID == r.Resource.ID) &&
			(q.Allow == nil || *q.Allow == r.Allow) && (q.Revision == "" || q.Revision == r.Revision) &&
			(q.Code == "" || slices.ContainsFunc(r.Reasons, func(x authz.Reason) bool { return x.Code == q.Code })) &&
			(q.Since.IsZero() || !r.At.Before(q.Since)) && (q.Until.IsZero() || r.At.Before(q.Until)) &&
			(last == nil || after(*last, r)) && (first == nil || after(r, *first))
		if ok {
			ids = append(ids, r.ID)
		}
	}
	if !q.OldestFirst {
		slices.Reverse(ids)
	}
	return ids[:min(len(ids), q.Limit)], nil
}

// Several instances write, each its own batches, whose times overlap; some are written
// again as parts of others. What is read page after page, forth or back, is what one
// list would have, whatever is merged and deleted between the pages.
func TestBlocksThatOverlapAreToldAsOneList(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx, random := t.Context(), rand.New(rand.NewPCG(8, 11))
		oneOf := func(values ...string) string { return values[random.IntN(len(values))] }
		fill := func(from, to int) audit.Record { // some time in between, in milliseconds
			r := record(fmt.Sprintf("%x", random.Uint64()), base.Add(time.Duration(from+random.IntN(to-from))*time.Millisecond))
			r.Actor.ID, r.Actor.KeyID, r.AssertedBy.ID = oneOf("u1", "u2", "u3", "u\"4"), oneOf("", "k1", "k2"), oneOf("", "", "s1")
			r.Action, r.Resource.ID, r.Revision, r.Allow = oneOf("read", "write"), oneOf("d1", "d2", "<d3>"), oneOf("one", "two"), random.IntN(3) > 0
			for range random.IntN(3) {
				r.Reasons = append(r.Reasons, authz.Reason{Code: oneOf("a", "b", "ab")})
			}
			// What others are asked for stands elsewhere in lines, too.
			r.Context = map[string]any{"id": oneOf("u1", "d2"), "code": oneOf("a", "b"), "allow": random.IntN(2) > 0}
			return r
		}
		var all naive
		for i := range 60 {
			n := []int{1, 2, 30, 150}[random.IntN(4)]
			if i == 30 {
				n = blockRecords + 500
			}
			var batch []audit.Record
			for range n {
				batch = append(batch, fill(10*i, 10*i+50))
			}
			if len(all) > 10 && i%4 == 0 {
				again := random.IntN(len(all) - 10)
				must(t, db.WriteRecords(ctx, append(slices.Clone(all[again:again+10]), batch...)))
			} else {
				must(t, db.WriteRecords(ctx, batch))
			}
			all = append(all, batch...)
		}
		slices.SortFunc(all, func(a, b audit.Record) int { return cmp.Or(a.At.Compare(b.At), strings.Compare(a.ID, b.ID)) })
		some := func(likely int, set func()) {
			if random.IntN(likely) == 0 {
				set()
			}
		}
		pages, found, deleted := 0, 0, 0
		for i := range 40 {
			q := audit.Query{Limit: []int{1, 3, 40, 150}[random.IntN(4)], OldestFirst: random.IntN(2) == 0}
			some(4, func() { q.PrincipalID = oneOf("u1", "u\"4", "nobody") })
			some(6, func() { q.KeyID = "k1" })
			some(6, func() { q.AssertedBy = "s1" })
			some(6, func() { q.Action = "write" })
			some(6, func() { q.ResourceType = "document" })
			some(6, func() { q.ResourceID = oneOf("d1", "<d3>") })
			some(6, func() { q.Revision = "two" })
			some(6, func() { q.Code = oneOf("a", "ab") })
			some(4, func() { q.Allow = ptr(random.IntN(2) == 0) })
			some(3, func() { q.Since = base.Add(time.Duration(random.IntN(700)) * time.Millisecond) })
			some(3, func() { q.Until = base.Add(time.Duration(random.IntN(700)) * time.Millisecond) })
			some(3, func() { q.Before = all[random.IntN(len(all))].ID })
			some(3, func() { q.After = all[random.IntN(len(all))].ID })
			for range 6 {
				want, missing := all.find(q)
				records, err := db.Records(ctx, q)
				var got []string
				for _, r := range records {
					got = append(got, r.ID)
				}
				if !errors.Is(err, missing) || !slices.Equal(got, want) {
					t.Fatalf("%+v: got %d records %v, %v\nwant %d %v, %v", q, len(got), got, err, len(want), want, missing)
				}
				if pages, found = pages+1, found+len(got); len(got) < q.Limit {
					break
				}
				if q.OldestFirst {
					q.After = got[len(got)-1]
				} else {
					q.Before = got[len(got)-1]
				}
				if i > 15 && pages%5 == 0 {
					must(t, db.CompactRecords(ctx, base.Add(time.Duration(random.IntN(700))*time.Millisecond)))
				}
				if i > 25 && pages%3 == 0 {
					before := base.Add(time.Duration(deleted) * time.Millisecond)
					left := slices.DeleteFunc(slices.Clone(all), func(r audit.Record) bool { return r.At.Before(before) })
					_, err := db.DeleteRecords(ctx, before)
					must(t, err)
					all, deleted = left, deleted+9
				}
			}
		}
		if pages < 60 || found < 1000 || deleted < 90 {
			t.Errorf("only %d pages and %d records were read, and %d ms of them deleted", pages, found, deleted)
		}
		for _, i := range []int{0, len(all) / 2, len(all) - 1} {
			got, err := db.Record(ctx, all[i].ID)
			must(t, err)
			diff(t, "by id", got, all[i])
		}
	})
}

func TestSmallBlocksAreMerged(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		all, ids := series(0, 5000)
		write := func(from, to int) { must(t, db.WriteRecords(ctx, all[from:to])) }
		write(1500, 3500) // full
		for i := 0; i < 1500; i += 3 {
			write(i, i+3)
		}
		for i := 3500; i < 4900; i += 50 {
			write(i, i+50)
		}
		write(4900, 4995) // ends too late
		write(4995, 5000)
		must(t, db.CompactRecords(ctx, base.Add(4990*time.Millisecond)))
		// 2900 in 528 blocks become two. The full one and those that are too young stay.
		if n := blocksOf(t, db); n != 5 {
			t.Errorf("got %d blocks, want 5", n)
		}
		diff(t, "records", every(t, db), ids)
		must(t, db.CompactRecords(ctx, base.Add(time.Hour)))
		if n := blocksOf(t, db); n != 3 {
			t.Errorf("later: got %d blocks, want 3", n)
		}
		must(t, db.CompactRecords(ctx, base.Add(time.Hour)))
		diff(t, "records", every(t, db), ids)

		// What is written again afterwards is told once, and not kept twice for good.
		write(0, 3)
		write(4990, 5000)
		if n := blocksOf(t, db); n != 5 {
			t.Errorf("written again: got %d blocks, want 5", n)
		}
		diff(t, "written again", every(t, db), ids)
		must(t, db.CompactRecords(ctx, base.Add(time.Hour)))
		diff(t, "and merged", every(t, db), ids)
		var records int
		must(t, db.reader.DB.QueryRowContext(ctx, `SELECT sum("records") FROM ostiary_decision_block`).Scan(&records))
		if n := blocksOf(t, db); n > 4 || records > 5013 {
			t.Errorf("and merged: got %d blocks of %d records", n, records)
		}
	})
}

// Whoever reads or merges meanwhile.
func TestBlocksAreMergedOnceByAll(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		all, ids := series(0, 3000)
		for i := 0; i < len(all); i += 10 {
			must(t, db.WriteRecords(t.Context(), all[i:i+10]))
		}
		var busy sync.WaitGroup
		for range 4 {
			busy.Go(func() {
				if err := db.CompactRecords(t.Context(), base.Add(time.Hour)); err != nil {
					t.Error(err)
				}
			})
			busy.Go(func() {
				i, newest := 0, ""
				if err := db.EachRecord(t.Context(), audit.Query{}, func(r audit.Record) error {
					if i < len(ids) {
						newest = ids[i]
					}
					if i++; r.ID != newest {
						return fmt.Errorf("got %s, want %s", r.ID, newest)
					}
					return nil
				}); err != nil || i != len(ids) {
					t.Errorf("read %d: %v", i, err)
				}
			})
		}
		busy.Wait()
		must(t, db.CompactRecords(t.Context(), base.Add(time.Hour)))
		if n := blocksOf(t, db); n != 2 {
			t.Errorf("got %d blocks, want 2", n)
		}
		diff(t, "records", every(t, db), ids)
	})
}

// To the record, whatever block it is in.
func TestRecordsAreDeletedToTheMillisecond(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		all, ids := series(0, 3*deletedAtOnce*2)
		for i := 0; i < len(all); i += 2 {
			must(t, db.WriteRecords(ctx, all[i:i+2]))
		}
		wide, _ := series(0, 1)
		wide[0].ID = "wide"
		must(t, db.WriteRecords(ctx, append(wide, all[300:]...)))                                                                                         // these are kept, and counted, twice
		for _, c := range []struct{ before, deleted, first int }{{0, 0, 0}, {1, 2, 1}, {251, 250, 251}, {401, 251, 401}, {599, 396, 599}, {600, 1, -1}} { // at last both blocks have the same, and are one
			n, err := db.DeleteRecords(ctx, base.Add(time.Duration(c.before)*time.Millisecond+time.Microsecond))
			must(t, err)
			var want []string
			switch c.first {
			case 0:
				want = append([]string{ids[0], "wide"}, ids[1:]...)
			case -1:
			default:
				want = ids[c.first:]
			}
			if n != c.deleted {
				t.Errorf("before %d: reported %d, want %d", c.before, n, c.deleted)
			}
			diff(t, fmt.Sprint("before ", c.before), every(t, db), want)
		}
		if n := blocksOf(t, db); n != 0 {
			t.Errorf("%d blocks of nothing are left", n)
		}
	})
}

// A block of which the filter says that nothing is in it is not read: the lines of
// these could not be.
func TestBlocksWithoutTheTermAreNotRead(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		all, ids := series(0, 3000)
		must(t, db.WriteRecords(ctx, all))
		rare := record("zz", base)
		rare.Actor.ID, rare.Reasons = "rare", []authz.Reason{{Code: "seldom"}}
		must(t, db.WriteRecords(ctx, []audit.Record{rare}))
		execSQL(t, db, `UPDATE ostiary_decision_block SET "lines" = "terms" WHERE "records" > 1`)
		for _, q := range []audit.Query{{PrincipalID: "rare"}, {Code: "seldom"}} {
			got, err := db.Records(ctx, q)
			must(t, err)
			diff(t, "found", got, []audit.Record{rare})
		}
		got, err := db.Record(ctx, "zz")
		must(t, err)
		diff(t, "by id", got, rare)
		if _, err := db.Records(ctx, audit.Query{PrincipalID: "u1"}); err == nil {
			t.Error("others are read all the same")
		}
		if _, err := db.Record(ctx, ids[0]); err == nil {
			t.Error("one of the others is read all the same")
		}
	})
}

// Whatever is wrong with a block, the error says which it is, and nothing is told as
// if it had not been there.
func TestDamagedBlockIsAnError(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		all, _ := series(0, 10)
		for name, damage := range map[string]func(*blockRow){
			"one bit":         func(b *blockRow) { b.Lines[len(b.Lines)/2] ^= 4 },
			"the checksum":    func(b *blockRow) { b.Lines[1] ^= 1 },
			"cut off":         func(b *blockRow) { b.Lines = b.Lines[:len(b.Lines)-1] },
			"no lines":        func(b *blockRow) { b.Lines = []byte{} },
			"a length":        func(b *blockRow) { b.Lines = slices.Concat(b.Lines[:4], []byte{0xff, 0xff, 0xff, 0xff, 0x0f}) },
			"another size":    func(b *blockRow) { b.Size++ },
			"another number":  func(b *blockRow) { b.Records++ },
			"no filter":       func(b *blockRow) { b.Terms = []byte{} },
			"half a filter":   func(b *blockRow) { b.Terms = b.Terms[1:] },
			"what is no JSON": func(b *blockRow) { *b = *unreadable(t, *b) },
		} {
			must(t, db.WriteRecords(ctx, all[:9]))
			must(t, db.WriteRecords(ctx, all[9:]))
			var b blockRow
			must(t, db.reader.NewSelect().Model(&b).Where(`"records" = 9`).Scan(ctx))
			damage(&b)
			_, err := db.writer.NewUpdate().Model(&b).WherePK().Exec(ctx)
			must(t, err)
			want := "block " + b.Key
			reads := []func() error{
				func() error { _, err := db.Records(ctx, audit.Query{}); return err },
				func() error { _, err := db.Records(ctx, audit.Query{PrincipalID: "u1", Limit: 3}); return err },
				func() error { return db.EachRecord(ctx, audit.Query{}, func(audit.Record) error { return nil }) },
				func() error { _, err := db.Record(ctx, all[3].ID); return err },
				func() error { _, err := db.DeleteRecords(ctx, all[3].At); return err },
				func() error { return db.CompactRecords(ctx, base.Add(time.Hour)) },
			}
			if strings.HasSuffix(name, "filter") {
				reads = reads[:3] // the others do without
			}
			for i, read := range reads {
				if err := read(); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s, %d: got %v, want an error that names the %s", name, i, err, want)
				}
			}
			_, err = db.DeleteRecords(ctx, base.Add(time.Hour))
			must(t, err)
		}
	})
}

// unreadable is b with lines that are no JSON, and right in all else.
func unreadable(t *testing.T, b blockRow) *blockRow {
	t.Helper()
	blocks, err := new(DB).packed(func(p *packer) error {
		for i := range b.Records {
			r := record(fmt.Sprint("r", i), base)
			if err := p.add(positionOf(&r), &r, func(b []byte) ([]byte, error) {
				return append(b, `{"id":"r000003","principal":{"type":"user","id":"u1"}`...), nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, err)
	b.Lines, b.Size = blocks[0].Lines, blocks[0].Size
	return &b
}

func TestBlocksAreBounded(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		all, ids := series(0, 5)
		for i := range all {
			all[i].Context = map[string]any{"text": strings.Repeat("x", 3<<20)}
		}
		must(t, db.WriteRecords(ctx, all))
		must(t, db.CompactRecords(ctx, base.Add(time.Hour)))
		if n := blocksOf(t, db); n != 3 {
			t.Errorf("15 MiB are in %d blocks, want 3", n)
		}
		diff(t, "records", every(t, db), ids)
		large := record("large", base)
		large.Context = map[string]any{"text": strings.Repeat("x", recordBytes)}
		if err := db.WriteRecords(ctx, []audit.Record{record("small", base), large}); err == nil || !strings.Contains(err.Error(), "record large") {
			t.Errorf("got %v, want an error that names the record", err)
		}
		for _, year := range []int{-1, 10_000} {
			if err := db.WriteRecords(ctx, []audit.Record{record("old", base.AddDate(year-base.Year(), 0, 0))}); err == nil || !strings.Contains(err.Error(), "record old") {
				t.Errorf("year %d: got %v, want an error that names the record", year, err)
			}
		}
		diff(t, "records", every(t, db), ids)
		for _, year := range []int{1, 1969, 9999} {
			r := record(fmt.Sprint(year), base.AddDate(year-base.Year(), 0, 0))
			must(t, db.WriteRecords(ctx, []audit.Record{r}))
			got, err := db.Records(ctx, audit.Query{Since: r.At, Until: r.At.Add(time.Millisecond)})
			must(t, err)
			diff(t, "of an odd year", got, []audit.Record{r})
		}
	})
}

// Blocks are read by later versions: what is hashed, and how, may not change.
func TestFilterIsReadAsItWasKept(t *testing.T) {
	r := record("r1", base)
	r.AssertedBy.ID, r.Reasons = "s1", []authz.Reason{{Code: "role_missing"}}
	blocks, err := new(DB).packed(func(p *packer) error { return p.add(positionOf(&r), &r, r.AppendJSON) })
	must(t, err)
	const kept = "Wbx1UlKVFrU="
	if got := base64.StdEncoding.EncodeToString(blocks[0].Terms); got != kept {
		t.Errorf("got %s, want %s", got, kept)
	}
}
