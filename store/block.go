package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/bits-and-blooms/bloom/v3"
	"github.com/klauspost/compress/s2"
	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/audit"
)

// blockRow is a block, many records of decisions in one row: a row each would cost
// several times what the decision did, and a kilobyte. Records are JSON lines in the
// order of their positions, compressed. What is beside them tells which blocks a search
// may pass by. Blocks overlap in time, and a record may be in two of them.
type blockRow struct {
	bun.BaseModel `bun:"table:ostiary_decision_block,alias:b"`

	// Key is made of the lines, so that the same ones written again are one block.
	Key     string  `bun:"key,pk"`
	FirstAt instant `bun:"firstAt"`
	LastAt  instant `bun:"lastAt"`
	MinID   []byte  `bun:"minId"`
	MaxID   []byte  `bun:"maxId"`
	Records int     `bun:"records"`
	Size    int     `bun:"size"`  // of the lines before they were compressed
	Terms   []byte  `bun:"terms"` // a Bloom filter
	Lines   []byte  `bun:"lines"` // with a checksum before them
}

const (
	// blockRecords and blockBytes bound a block. Batches of the log are as long.
	blockRecords = 2000
	blockBytes   = 8 << 20
	// recordBytes bounds a record, which may be a block by itself, and so what
	// decompression yields.
	recordBytes = 64 << 20
)

// position is where a record stands among all.
type position struct {
	at int64 // in milliseconds
	id string
}

func positionOf(r *audit.Record) position {
	return position{newInstant(r.At).UnixMilli(), stored(r.ID)}
}

func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(p.at, q.at), strings.Compare(p.id, q.id))
}

// next is the first position after p.
func (p position) next() position { return position{p.at, p.id + "\x00"} }

func instantOf(ms int64) instant { return newInstant(time.UnixMilli(ms)) }

// stored is s as JSON gives it back.
func stored(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s)) // each byte that is wrong is one replacement
}

// facet is something that a query may ask to have a value.
type facet int

// Filters are kept with these numbers.
const (
	facetPrincipal facet = iota
	facetKey
	facetAsserter
	facetAction
	facetResourceType
	facetResource
	facetRevision
	facetAllow
	facetCode // of which a record may have several
	facets
)

// members are what stands before the value of a facet in a line, and perhaps before
// others.
var members = [facets]string{`"id":`, `"keyId":`, `"id":`, `"action":`, `"type":`, `"id":`, `"policyRevision":`, `"allow":`, `"code":`}

// values are those of r, except for its codes.
func values(r *audit.Record) [facetCode]string {
	return [...]string{r.Actor.ID, r.Actor.KeyID, r.AssertedBy.ID, r.Action, r.Resource.Type, r.Resource.ID, r.Revision, truth(r.Allow)}
}

// asked are the values that q asks for.
func asked(q *audit.Query) [facets]string {
	all := [facets]string{q.PrincipalID, q.KeyID, q.AssertedBy, q.Action, q.ResourceType, q.ResourceID, q.Revision, "", q.Code}
	if q.Allow != nil {
		all[facetAllow] = truth(*q.Allow)
	}
	return all
}

func truth(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// term is a value of a facet: what the filter of a block has.
type term struct {
	facet facet
	value string
}

// hashes is how often a filter hashes a term, and bits how many it has for each: one
// in a hundred that is not there seems to be. Filters are kept, so neither may change.
const (
	hashes = 7
	bits   = 10
)

// append appends what is hashed of t.
func (t term) append(b []byte) []byte { return append(append(b, byte(t.facet)), t.value...) }

// filterOf returns the filter of a block to be asked, or nil if it is none.
func filterOf(text []byte) *bloom.BloomFilter {
	words := make([]uint64, len(text)/8)
	if len(words) == 0 || len(text)%8 != 0 {
		return nil
	}
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(text[8*i:])
	}
	return bloom.From(words, hashes)
}

// packer makes blocks of records, which it is given in the order of their positions and
// each once.
type packer struct {
	blocks []blockRow

	lines       []byte
	n           int
	first, last position
	least, most string // of the ids
	terms       map[term]struct{}
	latest      [facetCode]string // which most often come again
	scratch     []byte
}

// add adds r, which is at, and whose line is made by appending to what it is given.
func (p *packer) add(at position, r *audit.Record, line func([]byte) ([]byte, error)) (err error) {
	start := len(p.lines)
	if p.lines, err = line(p.lines); err != nil {
		p.lines = p.lines[:start]
		return err
	}
	p.lines = append(p.lines, '\n')
	if n := len(p.lines) - start; n > recordBytes {
		p.lines = p.lines[:start]
		return fmt.Errorf("%d bytes are more than %d", n, recordBytes)
	}
	if p.n > 0 && (p.n == blockRecords || len(p.lines) > blockBytes) {
		p.end(start)
	}
	if p.n == 0 {
		p.first, p.least, p.most = at, at.id, at.id
	}
	p.n++
	p.last, p.least, p.most = at, min(p.least, at.id), max(p.most, at.id)
	for f, v := range values(r) {
		if v != "" && v != p.latest[f] {
			p.terms[term{facet(f), v}], p.latest[f] = struct{}{}, v
		}
	}
	for i := range r.Reasons {
		p.terms[term{facetCode, r.Reasons[i].Code}] = struct{}{}
	}
	return nil
}

// end makes a block of the lines before n.
func (p *packer) end(n int) {
	if n == 0 {
		return
	}
	lines := p.lines[:n]
	// Beside zstd at its fastest, s2 takes a quarter of the time: 0.4 µs a record
	// instead of 1.5, of the 4 that a record may cost in all. It leaves 80 bytes
	// instead of 46, which is still a tenth of a row.
	sum := crc32.Checksum(lines, castagnoli)
	p.scratch = binary.LittleEndian.AppendUint32(slices.Grow(p.scratch[:0], 4+s2.MaxEncodedLen(n)), sum)
	packed := s2.Encode(p.scratch[4:cap(p.scratch)], lines)
	b := blockRow{
		Key:     blockKey(p, sum),
		FirstAt: instantOf(p.first.at), LastAt: instantOf(p.last.at),
		MinID: []byte(p.least), MaxID: []byte(p.most),
		Records: p.n, Size: n,
		Lines: bytes.Clone(p.scratch[:4+len(packed)]),
	}
	filter := bloom.From(make([]uint64, (bits*len(p.terms)+63)/64), hashes)
	for t := range p.terms {
		t.value = stored(t.value)
		p.scratch = t.append(p.scratch[:0])
		filter.Add(p.scratch)
	}
	for _, word := range filter.BitSet().Words() {
		b.Terms = binary.LittleEndian.AppendUint64(b.Terms, word)
	}
	p.blocks = append(p.blocks, b)
	p.lines = append(p.lines[:0], p.lines[n:]...)
	p.begin()
}

// blockKey returns the key of a block. Ids are made by chance, so blocks that begin and end
// alike are the same ones; the checksum of the lines stands for those between.
func blockKey(p *packer, sum uint32) string {
	text := fmt.Appendf(nil, "%d %q %q %d %x", p.n, p.first.id, p.last.id, p.first.at, sum)
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:16])
}

// begin begins a block.
func (p *packer) begin() {
	p.n, p.latest = 0, [facetCode]string{}
	clear(p.terms)
}

// packed returns the blocks of all that add adds to a packer.
func (db *DB) packed(add func(*packer) error) ([]blockRow, error) {
	// One is kept for what it has grown to, usually a few megabytes.
	p := db.packer.Swap(nil)
	if p == nil {
		p = &packer{terms: map[term]struct{}{}}
	}
	defer func() {
		p.blocks, p.lines = nil, p.lines[:0]
		p.begin() // whatever there was of a mistake
		if cap(p.lines) <= blockBytes {
			db.packer.Store(p)
		}
	}()
	if err := add(p); err != nil {
		return nil, err
	}
	p.end(len(p.lines))
	return p.blocks, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// unpacked returns the lines of b, each with its line feed.
func (b *blockRow) unpacked() ([][]byte, error) {
	all, err := b.decompressed()
	if err != nil {
		return nil, b.unreadable(err)
	}
	lines := slices.AppendSeq(make([][]byte, 0, b.Records), bytes.Lines(all))
	if len(lines) != b.Records {
		return nil, b.unreadable(fmt.Errorf("it has %d lines for %d records", len(lines), b.Records))
	}
	return lines, nil
}

func (b *blockRow) decompressed() ([]byte, error) {
	if len(b.Lines) < 4 {
		return nil, errors.New("it is cut off")
	}
	switch n, err := s2.DecodedLen(b.Lines[4:]); {
	case err != nil:
		return nil, err
	case n != b.Size || n > recordBytes:
		return nil, fmt.Errorf("its lines take %d bytes, not %d", n, b.Size)
	}
	all, err := s2.Decode(nil, b.Lines[4:])
	if err == nil && crc32.Checksum(all, castagnoli) != binary.LittleEndian.Uint32(b.Lines) {
		err = errors.New("its checksum is another")
	}
	return all, err
}

func (b *blockRow) unreadable(err error) error {
	return fmt.Errorf("block %s of decisions cannot be read: %w", b.Key, err)
}

// recordOf reads a line. Numbers keep their digits, because a replay must see what
// the policy saw.
func recordOf(line []byte) (audit.Record, error) {
	var d audit.Document
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	if err := dec.Decode(&d); err != nil {
		return audit.Record{}, err
	}
	return d.Record()
}

// headingOf reads what of a line a block is told by, and nothing else: the rest takes
// most of the time.
func headingOf(line []byte) (audit.Record, error) {
	var h struct {
		audit.Document
		Input          json.RawMessage `json:"input"`
		Context        json.RawMessage `json:"context"`
		NDBuiltinCache json.RawMessage `json:"ndBuiltinCache"`
	}
	if err := json.Unmarshal(line, &h); err != nil {
		return audit.Record{}, err
	}
	return h.Record()
}

// heading is a line with what a block is told by.
type heading struct {
	position
	record audit.Record
	line   []byte
}

// headings reads all of b.
func (b *blockRow) headings() ([]heading, error) {
	lines, err := b.unpacked()
	if err != nil {
		return nil, err
	}
	all := make([]heading, len(lines))
	for i, line := range lines {
		r, err := headingOf(line)
		if err != nil {
			return nil, b.unreadable(err)
		}
		all[i] = heading{positionOf(&r), r, line}
	}
	return all, nil
}

// repacked makes blocks of what was read from others. What is there twice is kept once.
func (db *DB) repacked(all []heading) ([]blockRow, error) {
	slices.SortFunc(all, func(a, b heading) int { return a.compare(b.position) })
	all = slices.CompactFunc(all, func(a, b heading) bool { return a.position == b.position })
	return db.packed(func(p *packer) error {
		for i := range all {
			h := &all[i]
			if err := p.add(h.position, &h.record, func(b []byte) ([]byte, error) { return append(b, h.line[:len(h.line)-1]...), nil }); err != nil {
				return err
			}
		}
		return nil
	})
}

// The times that there are in JSON.
var (
	firstYear = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	lastYear  = time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC).UnixMilli()
)

// WriteRecords implements [audit.Store]. A batch may be written again after a failure;
// what of it is there already is told once.
func (db *DB) WriteRecords(ctx context.Context, records []audit.Record) error {
	if len(records) == 0 {
		return nil
	}
	type placed struct {
		position
		r *audit.Record
	}
	all := make([]placed, len(records))
	for i := range records {
		r := &records[i]
		all[i] = placed{positionOf(r), r}
		if at := all[i].at; at < firstYear || at > lastYear {
			return fmt.Errorf("write records: record %s: no such time in JSON", r.ID)
		}
	}
	slices.SortFunc(all, func(a, b placed) int { return a.compare(b.position) })
	all = slices.CompactFunc(all, func(a, b placed) bool { return a.position == b.position })
	// All that takes long is done before others have to wait for this transaction.
	blocks, err := db.packed(func(p *packer) error {
		for _, x := range all {
			if err := p.add(x.position, x.r, x.r.AppendJSON); err != nil {
				return fmt.Errorf("record %s: %w", x.r.ID, err)
			}
		}
		return nil
	})
	if err == nil {
		err = db.writer.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error { return db.insertBlocks(ctx, tx, blocks) })
	}
	return db.fail("write records", err)
}

// insertBlocks writes blocks, except for those that are there.
func (db *DB) insertBlocks(ctx context.Context, tx bun.Tx, blocks []blockRow) (err error) {
	if traced := db.traced; traced != nil {
		ctx = traced.begin(ctx, "INSERT", "ostiary_decision_block")
		defer func() { traced.end(ctx, err) }()
	}
	for i := range blocks {
		b := &blocks[i]
		args := append(slices.Clip(db.dialect.binary), b.Key, b.FirstAt, b.LastAt, b.MinID, b.MaxID, b.Records, b.Size, b.Terms, b.Lines)
		if _, err := tx.Tx.ExecContext(ctx, `INSERT INTO "ostiary_decision_block"
			("key", "firstAt", "lastAt", "minId", "maxId", "records", "size", "terms", "lines")
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING`, args...); err != nil {
			return err
		}
	}
	return nil
}

// replace writes blocks in the place of those that have keys. If one of these is gone
// somebody else has been at it, and nothing is done.
func (db *DB) replace(ctx context.Context, keys []string, blocks []blockRow) (done bool, err error) {
	err = db.writer.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		// Two that lock the same rows one after the other could each wait for the other.
		if err := db.dialect.exclude(ctx, tx); err != nil {
			return err
		}
		res, err := tx.NewDelete().Model((*blockRow)(nil)).Where(`"key" IN (?)`, bun.List(keys)).Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || int(n) != len(keys) {
			return cmp.Or(err, errNothing)
		}
		return db.insertBlocks(ctx, tx, blocks)
	})
	if errors.Is(err, errNothing) {
		return false, nil
	}
	return err == nil, err
}

// deletedAtOnce is how many blocks one transaction deletes, so that nobody waits for
// long to write.
const deletedAtOnce = 100

// DeleteRecords implements [audit.Store]. What was kept twice counts twice.
func (db *DB) DeleteRecords(ctx context.Context, before time.Time) (int, error) {
	n, err := db.deleteBlocks(ctx, newInstant(before))
	if err == nil {
		err = db.cutBlocks(ctx, newInstant(before), &n)
	}
	return n, db.fail("delete records", err)
}

// deleteBlocks deletes the blocks that end before.
func (db *DB) deleteBlocks(ctx context.Context, before instant) (n int, err error) {
	for {
		var gone []int
		if err := db.writer.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			if err := db.dialect.exclude(ctx, tx); err != nil {
				return err
			}
			old := tx.NewSelect().Model((*blockRow)(nil)).Column("key").Where(`"lastAt" < ?`, before).OrderExpr(`"lastAt"`).Limit(deletedAtOnce)
			_, err := tx.NewDelete().Model((*blockRow)(nil)).Where(`"key" IN (?)`, old).Returning(`"records"`).Exec(ctx, &gone)
			return err
		}); err != nil || len(gone) == 0 {
			return n, err
		}
		for _, records := range gone {
			n += records
		}
	}
}

// cutBlocks takes out of the blocks that begin before what is before, and counts it.
func (db *DB) cutBlocks(ctx context.Context, before instant, n *int) error {
	for {
		var rows []blockRow
		if err := db.reader.NewSelect().Model(&rows).Where(`"firstAt" < ?`, before).Limit(1).Scan(ctx); err != nil || len(rows) == 0 {
			return err
		}
		all, err := rows[0].headings()
		if err != nil {
			return err
		}
		kept := slices.DeleteFunc(all, func(h heading) bool { return h.at < before.UnixMilli() })
		blocks, err := db.repacked(kept)
		if err != nil {
			return err
		}
		done, err := db.replace(ctx, []string{rows[0].Key}, blocks)
		if err != nil {
			return err
		}
		if done {
			*n += rows[0].Records - len(kept)
		}
	}
}

// CompactRecords merges small blocks, of which an instance with little to do writes
// several a second, where they are older than before. Others may read, write, delete
// and do the same meanwhile.
func (db *DB) CompactRecords(ctx context.Context, before time.Time) error {
	var errs []error
	var from blockRow
	for {
		var rows []blockRow
		err := db.reader.NewSelect().Model(&rows).Column("key", "firstAt", "records", "size").
			Where(`"records" < ?`, blockRecords/2).Where(`"size" < ?`, blockBytes/2).Where(`"lastAt" < ?`, newInstant(before)).
			Where(`("firstAt", "key") > (?, ?)`, from.FirstAt, from.Key).OrderExpr(`"firstAt", "key"`).Limit(blockRecords).Scan(ctx)
		if err != nil {
			return db.fail("compact records", errors.Join(append(errs, err)...))
		}
		var keys []string
		for records, size := 0, 0; len(rows) > 0; rows = rows[1:] {
			if records, size = records+rows[0].Records, size+rows[0].Size; records > blockRecords || size > blockBytes {
				break
			}
			from = rows[0]
			keys = append(keys, from.Key)
		}
		if len(keys) < 2 {
			// Any two fit: this one is the last, and waits for others.
			return errors.Join(errs...)
		}
		if done, err := db.merge(ctx, keys); err != nil {
			errs = append(errs, db.fail("compact records", err))
		} else if !done {
			return errors.Join(errs...)
		}
	}
}

// merge makes one block of those that have keys, unless somebody else has been at it.
func (db *DB) merge(ctx context.Context, keys []string) (done bool, err error) {
	var rows []blockRow
	if err := db.reader.NewSelect().Model(&rows).Where(`"key" IN (?)`, bun.List(keys)).Scan(ctx); err != nil || len(rows) != len(keys) {
		return false, err
	}
	var all []heading
	for i := range rows {
		of, err := rows[i].headings()
		if err != nil {
			return false, err
		}
		all = append(all, of...)
	}
	blocks, err := db.repacked(all)
	if err != nil {
		return false, err
	}
	return db.replace(ctx, keys, blocks)
}
