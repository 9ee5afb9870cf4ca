package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// load is how servers are driven: closed loops, one on each connection, as many
// for each server.
type load struct {
	passes, connections int
	round               time.Duration
	postgres            string // empty: nothing is measured that needs one
	cerbos              string // its binary; empty: it is not measured
}

// A target is a request to a server that runs, and what its answer has to have.
type target struct {
	name    string
	address string
	request []byte // one after the other over a connection that stays
	has     string // in each answer, as often as it has questions
	asks    int    // how many questions there are in a request
	against string // the target that the ratio is with

	// A question that must be answered otherwise, asked once before anything is
	// measured: a server that says yes to everything is quick.
	other, otherHas string
}

// round is what one server did in one pass.
type round struct {
	requests int
	took     time.Duration
	p50, p99 time.Duration
}

func (r round) rate() float64 { return float64(r.requests) / r.took.Seconds() }

// drive asks over so many connections at once for so long. Answers other than the
// one that is expected are an error: a fast refusal is no speed.
func (t *target) drive(ctx context.Context, connections int, long time.Duration) (round, error) {
	ctx, cancel := context.WithTimeout(ctx, long+10*time.Second)
	defer cancel()
	var mu sync.Mutex
	var all []time.Duration
	var failure error
	var wg sync.WaitGroup
	began := time.Now()
	end := began.Add(long)
	for range connections {
		wg.Go(func() {
			took, err := t.loop(ctx, end)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			failure = cmp.Or(failure, err)
		})
	}
	wg.Wait()
	r := round{requests: len(all), took: time.Since(began)}
	if failure != nil || len(all) == 0 {
		return r, cmp.Or(failure, errors.New("no answer"))
	}
	slices.Sort(all)
	r.p50, r.p99 = all[len(all)/2], all[len(all)*99/100]
	return r, nil
}

// verify asks what is measured once, and what must be answered otherwise.
func (t *target) verify(ctx context.Context) error {
	probes := []target{{address: t.address, request: t.request, has: t.has, asks: t.asks}}
	if t.other != "" {
		probes = append(probes, target{address: t.address, request: []byte(t.other), has: t.otherHas, asks: 1})
	}
	for _, p := range probes {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		_, err := p.loop(ctx, time.Now().Add(time.Nanosecond))
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *target) loop(ctx context.Context, end time.Time) ([]time.Duration, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	in, has := bufio.NewReaderSize(conn, 16<<10), []byte(t.has)
	took := make([]time.Duration, 0, 1<<14)
	var body []byte
	for now := time.Now(); len(took) == 0 || now.Before(end); {
		if _, err := conn.Write(t.request); err != nil {
			return took, err
		}
		status, answer, err := readAnswer(in, body)
		if err != nil {
			return took, err
		}
		if body = answer; status != http.StatusOK || bytes.Count(answer, has) < t.asks {
			return took, fmt.Errorf("%d %s", status, answer)
		}
		then := time.Now()
		took = append(took, then.Sub(now))
		now = then
	}
	return took, nil
}

// readAnswer reads one answer, with as little work as it can: the cores are shared
// with the server that is measured.
func readAnswer(in *bufio.Reader, body []byte) (status int, _ []byte, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	if len(line) < 12 {
		return 0, nil, fmt.Errorf("no HTTP: %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, err
	}
	length, chunked := -1, false
	for {
		if line, err = in.ReadSlice('\n'); err != nil {
			return 0, nil, err
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, nil, err
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = true
		}
	}
	if chunked {
		whole := bytes.NewBuffer(body[:0])
		if _, err = whole.ReadFrom(httputil.NewChunkedReader(in)); err == nil {
			_, err = in.Discard(2) // the line that ends the trailers
		}
		return status, whole.Bytes(), err
	}
	if length < 0 {
		return 0, nil, errors.New("an answer without a length")
	}
	body = slices.Grow(body[:0], length)[:length]
	_, err = io.ReadFull(in, body)
	return status, body, err
}

func post(host, path, body string, headers ...string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench/1.0\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s",
		path, host, lines(headers), len(body), body)
}

func get(host, path string, headers ...string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench/1.0\r\n%s\r\n", path, host, lines(headers))
}

func lines(headers []string) string {
	var b strings.Builder
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	return b.String()
}
