package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// A Sink is told records after they are masked. A Log calls Write from one
// goroutine, and Close at its end.
type Sink interface {
	Write(ctx context.Context, records []Record) error
	Close(ctx context.Context) error
}

// Lines returns a sink that writes each record as a line of JSON.
func Lines(w io.Writer) Sink { return lines{w} }

type lines struct{ w io.Writer }

func (l lines) Write(_ context.Context, records []Record) error {
	var b []byte
	for i := range records {
		var err error
		if b, err = records[i].AppendJSON(b); err != nil {
			return err
		}
		b = append(b, '\n')
	}
	_, err := l.w.Write(b)
	return err
}

func (lines) Close(context.Context) error { return nil }

// File is a sink that appends to a file which is an export: each line has the
// hash of the one before. It may be written by one process alone.
type File struct {
	name string
	mu   sync.Mutex
	f    *os.File
	out  *ExportWriter
}

// OpenFile opens or creates the file, readable by its owner alone. A file that
// is there is continued; what a process that was killed left of a line is cut off.
func OpenFile(name string) (*File, error) {
	f := &File{name: name}
	return f, f.open(NoHash)
}

func (f *File) open(prev string) error {
	file, err := os.OpenFile(f.name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	last, end, err := lastLine(file)
	if err == nil && last != "" {
		prev = last
	}
	if err == nil {
		err = file.Truncate(end)
	}
	if err == nil {
		_, err = file.Seek(end, io.SeekStart)
	}
	if err == nil {
		f.out, err = NewExport(file, time.Now(), time.Time{}, time.Time{}, prev)
	}
	if err != nil {
		file.Close()
		return fmt.Errorf("%s: %w", f.name, err)
	}
	f.f = file
	return nil
}

// lastLine returns the hash of the last complete line, and where it ends.
func lastLine(f *os.File) (hash string, end int64, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", 0, err
	}
	// Backwards to the last line feed: nobody knows how long a torn line is.
	buf := make([]byte, 4<<10)
	for end = size; end > 0; {
		n := min(int64(len(buf)), end)
		if _, err := f.ReadAt(buf[:n], end-n); err != nil {
			return "", 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			end = end - n + int64(i) + 1
			break
		}
		end -= n
	}
	if end == 0 {
		return "", 0, nil
	}
	tail := make([]byte, min(int64(hashTail)+1, end))
	if _, err := f.ReadAt(tail, end-int64(len(tail))); err != nil {
		return "", 0, err
	}
	if len(tail) <= hashTail || !bytes.HasPrefix(tail, []byte(hashMember)) {
		return "", 0, errors.New("is there and is not a log of decisions")
	}
	return string(tail[len(hashMember) : len(tail)-len("\"}\n")]), end, nil
}

// Reopen ends the file and goes on in one of the same name, which has been moved
// away meanwhile. The new one continues the chain of the old.
func (f *File) Reopen() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		return os.ErrClosed
	}
	err := errors.Join(f.out.Close(), f.f.Close())
	f.f = nil
	return errors.Join(err, f.open(f.out.Hash()))
}

// Write implements [Sink].
func (f *File) Write(_ context.Context, records []Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		// Reopening failed; perhaps there is room now.
		if err := f.open(f.out.Hash()); err != nil {
			return err
		}
	}
	for _, r := range records {
		if err := f.out.Write(r); err != nil {
			// A part of a line may be there: cut it off before the next.
			f.f.Close()
			f.f = nil
			return err
		}
	}
	return nil
}

// Close implements [Sink].
func (f *File) Close(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		return nil
	}
	err := errors.Join(f.out.Close(), f.f.Sync(), f.f.Close())
	f.f = nil
	return err
}
