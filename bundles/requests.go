package bundles

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/plugins/rest"
)

// answerTime is how long an answer may take, beside what a long poll waits.
const answerTime = time.Minute

// pace is the least time between two requests, whatever the server answers.
const pace = time.Second

// requests sends the downloader's requests. It implements [rest.HTTPAuthPlugin],
// which is where OPA's client lets others in.
type requests struct {
	server    *Server
	transport *http.Transport

	mu   sync.Mutex
	last time.Time
}

func newRequests(s *Server) *requests {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true // a bundle is packed already
	return &requests{server: s, transport: t}
}

// NewClient implements [rest.HTTPAuthPlugin].
func (r *requests) NewClient(rest.Config) (*http.Client, error) {
	return &http.Client{Transport: r, CheckRedirect: func(to *http.Request, via []*http.Request) error {
		switch {
		case len(via) >= 10:
			return errors.New("too many redirects")
		case via[0].URL.Scheme == "https" && to.URL.Scheme != "https":
			return errors.New("a redirect leaves https")
		}
		return nil
	}}, nil
}

// Prepare implements [rest.HTTPAuthPlugin].
func (r *requests) Prepare(q *http.Request) error {
	if r.server.o.Token != "" {
		q.Header.Set("Authorization", "Bearer "+r.server.o.Token)
	}
	// The downloader asks by what it got last, and goes on with it after that was
	// refused. What counts is what is in force.
	q.Header.Del("If-None-Match")
	if etag := r.server.taken(); etag != "" {
		q.Header.Set("If-None-Match", etag)
	}
	q.Header.Set("Prefer", strings.Replace(q.Header.Get("Prefer"), "modes=snapshot,delta", "modes=snapshot", 1))
	return nil
}

// RoundTrip implements [http.RoundTripper]. It ends in time, and a bundle that it
// returns is within the limit.
func (r *requests) RoundTrip(q *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(q.Context(), r.server.o.LongPoll+answerTime)
	defer cancel()
	if err := r.wait(ctx); err != nil {
		return nil, err
	}
	answer, err := r.transport.RoundTrip(q.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	var packed []byte
	if answer.StatusCode == http.StatusOK {
		if packed, err = bounded(answer.Body, r.server.o.MaxBytes); err != nil {
			return nil, err
		}
	}
	answer.Body = io.NopCloser(bytes.NewReader(packed))
	return answer, nil
}

// wait keeps the pace.
func (r *requests) wait(ctx context.Context) error {
	r.mu.Lock()
	now := time.Now()
	begin := now
	if next := r.last.Add(pace); next.After(now) {
		begin = next
	}
	r.last = begin
	r.mu.Unlock()
	if begin == now {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(begin.Sub(now)):
		return nil
	}
}

// bounded reads a packed bundle that has at most so many bytes, packed and unpacked.
// OPA's reader limits files one by one.
func bounded(from io.Reader, most int64) ([]byte, error) {
	packed, err := io.ReadAll(io.LimitReader(from, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(packed)) > most {
		return nil, tooLarge(most)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("is not a bundle: %w", err)
	}
	n, err := io.Copy(io.Discard, io.LimitReader(z, most+1))
	if err != nil {
		return nil, fmt.Errorf("is not a bundle: %w", err)
	}
	if n > most {
		return nil, tooLarge(most)
	}
	return packed, nil
}

func tooLarge(most int64) error { return fmt.Errorf("has more than %d bytes", most) }
