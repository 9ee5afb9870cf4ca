package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"
)

// An export is JSON lines: a head, a record on each line, and a tail with their
// number. Each line carries its number, the hash of the line before it and, at
// its end, its own: the SHA-256 of all of the line up to the comma before "hash".
//
//	{"seq":0,"prev":"0000…","head":{…},"hash":"…"}
//	{"seq":1,"prev":"…","record":{…},"hash":"…"}
//	{"seq":2,"prev":"…","tail":{"records":1},"hash":"…"}
//
// A line that is changed, removed or moved is found by whoever reads the file.
// Who can write all of it can hash all of it anew: the last hash, kept
// elsewhere, is what shows that.
type exportLine struct {
	Seq    int64       `json:"seq"`
	Prev   string      `json:"prev"`
	Head   *ExportHead `json:"head,omitempty"`
	Record *Document   `json:"record,omitempty"`
	Tail   *exportTail `json:"tail,omitempty"`
}

// ExportHead says what an export holds.
type ExportHead struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	At      string `json:"at"`              // when it was begun
	Since   string `json:"since,omitempty"` // included
	Until   string `json:"until,omitempty"` // not included
}

type exportTail struct {
	Records int64 `json:"records"`
}

const (
	exportFormat = "ostiary.decisions"
	// maxLine bounds a line of an export.
	maxLine = 64 << 20
)

// NoHash is what the first line of a chain has for the hash before it.
var NoHash = strings.Repeat("0", 2*sha256.Size)

const hashMember = `,"hash":"`

// hashTail is how many bytes the hash takes at the end of a line.
const hashTail = len(hashMember) + 2*sha256.Size + len(`"}`)

// ExportWriter writes an export. It is complete with [ExportWriter.Close].
type ExportWriter struct {
	w       io.Writer
	prev    string
	seq     int64
	records int64
	buf     bytes.Buffer
}

// NewExport begins an export of the records from since until until, either of
// which may be zero. prev is the last hash of the export that this one continues,
// or [NoHash].
func NewExport(w io.Writer, at, since, until time.Time, prev string) (*ExportWriter, error) {
	e := &ExportWriter{w: w, prev: prev}
	head := &ExportHead{Format: exportFormat, Version: 1, At: at.UTC().Format(timeLayout)}
	if !since.IsZero() {
		head.Since = since.UTC().Format(timeLayout)
	}
	if !until.IsZero() {
		head.Until = until.UTC().Format(timeLayout)
	}
	return e, e.line(exportLine{Head: head})
}

// Write adds a record.
func (e *ExportWriter) Write(r Record) error {
	d := r.Document()
	if err := e.line(exportLine{Record: &d}); err != nil {
		return err
	}
	e.records++
	return nil
}

// Close writes the tail. It does not close the writer below.
func (e *ExportWriter) Close() error {
	return e.line(exportLine{Tail: &exportTail{e.records}})
}

// Records counts those that were written.
func (e *ExportWriter) Records() int64 { return e.records }

// Hash is that of the last line.
func (e *ExportWriter) Hash() string { return e.prev }

func (e *ExportWriter) line(l exportLine) error {
	l.Seq, l.Prev = e.seq, e.prev
	e.buf.Reset()
	enc := json.NewEncoder(&e.buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		return err
	}
	e.buf.Truncate(e.buf.Len() - len("}\n"))
	hash := hashOf(e.buf.Bytes())
	e.buf.WriteString(hashMember + hash + "\"}\n")
	if _, err := e.w.Write(e.buf.Bytes()); err != nil {
		return err
	}
	e.prev = hash
	e.seq++
	return nil
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// A Fault is what is wrong with an export.
type Fault struct {
	Line int // from 1; 0 is the export as a whole
	What string
	err  error
}

func (f *Fault) Error() string {
	if f.Line == 0 {
		return f.What
	}
	return fmt.Sprintf("line %d %s", f.Line, f.What)
}

func (f *Fault) Unwrap() error { return f.err }

// ErrNotEnded reports an export without its tail: it was truncated, or is still
// being written.
var ErrNotEnded = errors.New("the end is missing: it was truncated, or is still being written")

// ExportSummary is what was found in an export.
type ExportSummary struct {
	Records int64
	// Heads counts exports that follow each other in one file, Broken those that
	// another one follows without a tail between them: the writer was killed.
	Heads, Broken int
	First         string // the hash before the first line
	Last          string // the hash of the last one
}

// ReadExport yields the records of an export in the order in which they stand,
// and between them a *[Fault] for each thing that is wrong with it. What the
// reader says last, other than io.EOF, is yielded as it is.
func ReadExport(r io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		c := chain{fault: func(f *Fault) bool { return yield(Record{}, f) }}
		if err := c.read(r, func(r Record) bool { return yield(r, nil) }); err != nil {
			yield(Record{}, err)
		}
	}
}

// VerifyExport reads all of an export and calls fault with each thing that is
// wrong with it.
func VerifyExport(r io.Reader, fault func(*Fault)) (ExportSummary, error) {
	c := chain{fault: func(f *Fault) bool { fault(f); return true }}
	err := c.read(r, func(Record) bool { return true })
	return c.sum, err
}

// chain reads an export and checks that each line follows the one before it.
type chain struct {
	fault func(*Fault) bool
	sum   ExportSummary

	line    int
	open    bool   // a head, and no tail yet
	last    string // hash of the line numbered next-1
	next    int64  // the number expected
	records int64  // since the head
	gaps    []gap
}

// gap is a range of numbers that were passed over, up to but without to.
type gap struct{ from, to int64 }

func (c *chain) read(r io.Reader, each func(Record) bool) error {
	in := bufio.NewReaderSize(r, 1<<16)
	for {
		text, err := line(in)
		if err != nil && err != io.EOF {
			return fmt.Errorf("line %d: %w", c.line+1, err)
		}
		if len(text) > 0 {
			c.line++
			if text[len(text)-1] != '\n' {
				if !c.wrong("is cut off") {
					return nil
				}
			} else if !c.take(text[:len(text)-1], each) {
				return nil
			}
		}
		if err == io.EOF {
			break
		}
	}
	if !c.close() {
		return nil
	}
	c.sum.Last = c.last
	switch {
	case c.line == 0:
		c.fault(&Fault{What: "it is empty", err: ErrNotEnded})
	case c.open:
		c.fault(&Fault{What: ErrNotEnded.Error(), err: ErrNotEnded})
	}
	return nil
}

// line reads up to and with the next line feed.
func line(r *bufio.Reader) ([]byte, error) {
	var all []byte
	for {
		part, err := r.ReadSlice('\n')
		if all = append(all, part...); len(all) > maxLine {
			return nil, fmt.Errorf("it is longer than %d bytes", maxLine)
		}
		if err != bufio.ErrBufferFull {
			return all, err
		}
	}
}

func (c *chain) wrong(format string, args ...any) bool {
	return c.fault(&Fault{Line: c.line, What: fmt.Sprintf(format, args...)})
}

// close tells of the numbers that never came.
func (c *chain) close() bool {
	for _, g := range c.gaps {
		what := fmt.Sprintf("the line numbered %d is missing", g.from)
		if g.to > g.from+1 {
			what = fmt.Sprintf("the lines numbered %d to %d are missing", g.from, g.to-1)
		}
		if !c.fault(&Fault{What: what}) {
			return false
		}
	}
	c.gaps = nil
	return true
}

// take checks one line. It reports whether to go on.
func (c *chain) take(text []byte, each func(Record) bool) bool {
	var l exportLine
	cut := len(text) - hashTail
	if cut < 0 || !bytes.HasPrefix(text[cut:], []byte(hashMember)) {
		return c.wrong("is not a line of an export")
	}
	dec := json.NewDecoder(bytes.NewReader(slices.Concat(text[:cut], []byte("}"))))
	dec.UseNumber() // a replay must see the digits
	if err := dec.Decode(&l); err != nil {
		return c.wrong("is not a line of an export")
	}
	hash := string(text[cut+len(hashMember) : len(text)-len(`"}`)])
	if hash != hashOf(text[:cut]) && !c.wrong("was altered: its content does not have its hash") {
		return false
	}

	if l.Head != nil {
		return c.begin(l, hash)
	}
	if !c.open && !c.wrong("stands outside of an export: no head is before it") {
		return false
	}
	switch {
	case l.Seq == c.next:
		if c.open && l.Prev != c.last && !c.wrong("does not follow the line before: one of both was replaced") {
			return false
		}
		c.last, c.next = hash, l.Seq+1
	case l.Seq > c.next:
		c.gaps = append(c.gaps, gap{c.next, l.Seq})
		c.last, c.next = hash, l.Seq+1
	default:
		what := "is there twice: number %d"
		if c.fill(l.Seq) {
			what = "is out of order: number %d"
		}
		if !c.wrong(what, l.Seq) {
			return false
		}
	}
	switch {
	case l.Record != nil:
		r, err := l.Record.Record()
		if err != nil {
			return c.wrong("has a record that cannot be read: %v", err)
		}
		c.records++
		c.sum.Records++
		return each(r)
	case l.Tail != nil:
		c.open = false
		if len(c.gaps) == 0 && l.Tail.Records != c.records {
			return c.wrong("says that there are %d records; there are %d", l.Tail.Records, c.records)
		}
		return true
	}
	return c.wrong("is neither head, record nor tail")
}

// begin takes a head. One that follows others has to continue their chain.
func (c *chain) begin(l exportLine, hash string) bool {
	if l.Head.Format != exportFormat || l.Head.Version != 1 {
		return c.wrong("is the head of another format: %s %d", l.Head.Format, l.Head.Version)
	}
	if c.sum.Heads++; c.sum.Heads == 1 {
		c.sum.First = l.Prev
		if c.line > 1 && !c.wrong("is a head, but not the first line") {
			return false
		}
	} else {
		if c.open {
			c.sum.Broken++
		}
		if l.Prev != c.last && !c.wrong("does not follow the line before: lines are missing or out of order") {
			return false
		}
	}
	if l.Seq != 0 && !c.wrong("is a head with the number %d", l.Seq) {
		return false
	}
	if !c.close() {
		return false
	}
	c.open, c.last, c.next, c.records = true, hash, 1, 0
	return true
}

// fill takes n out of the gaps, if it is in one.
func (c *chain) fill(n int64) bool {
	for i, g := range c.gaps {
		if n < g.from || n >= g.to {
			continue
		}
		var rest []gap
		if g.from < n {
			rest = append(rest, gap{g.from, n})
		}
		if n+1 < g.to {
			rest = append(rest, gap{n + 1, g.to})
		}
		c.gaps = slices.Replace(c.gaps, i, i+1, rest...)
		return true
	}
	return false
}
