package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
)

// served runs `ostiary serve` in this process on the database. stop is
// SIGTERM; it returns the exit status.
func served(t *testing.T, database string, args ...string) (url string, stop func() int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var log lockedBuffer
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, append([]string{"serve", "--listen", address, "--database", database}, args...), strings.NewReader(""), io.Discard, &log)
	}()
	stop = sync.OnceValue(func() int {
		cancel()
		return <-status
	})
	t.Cleanup(func() { stop() })
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get("http://" + address + "/readyz")
		if err == nil {
			resp.Body.Close()
			return "http://" + address, stop
		}
		if time.Now().After(until) {
			t.Fatalf("not ready: %v\n%s", err, log.String())
		}
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func post(url, path, body string) (*http.Response, error) {
	r, err := http.NewRequest("POST", url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	return http.DefaultClient.Do(r)
}

// A request that is being answered when the service is told to stop is
// answered; afterwards nothing is accepted.
func TestShutdownFinishesWhatIsInFlight(t *testing.T) {
	url, stop := served(t, "sqlite::memory:")
	// The service asks for the body when its handler reads it: from then on the
	// request is in flight.
	const text = `{"email":"p@example.com","name":"P","password":"a long password"}`
	body, rest := io.Pipe()
	asked := make(chan struct{})
	trace := &httptrace.ClientTrace{Got100Continue: func() { close(asked) }}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "POST", url+"/api/auth/sign-up/email", body)
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = int64(len(text))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Expect", "100-continue")
	answer := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(r)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %d", resp.StatusCode)
			}
		}
		answer <- err
	}()
	select {
	case <-asked:
	case err := <-answer:
		t.Fatalf("answered before the body was sent: %v", err)
	}
	status := make(chan int, 1)
	go func() { status <- stop() }()
	for { // the listener is closed first
		resp, err := http.Get(url + "/healthz")
		if err != nil {
			break
		}
		resp.Body.Close()
		time.Sleep(time.Millisecond)
	}
	if _, err := io.WriteString(rest, text); err != nil {
		t.Error(err)
	}
	rest.Close()
	if err := <-answer; err != nil {
		t.Errorf("a request in flight was lost: %v", err)
	}
	if got := <-status; got != 0 {
		t.Errorf("exit status %d, want 0", got)
	}
}

// The last decisions before the end are on record after it.
func TestShutdownWritesDecisions(t *testing.T) {
	database := "sqlite:" + filepath.Join(t.TempDir(), "ostiary.db")
	url, stop := served(t, database)
	resp, err := post(url, "/v1/authorize", `{"action":"read","resource":{"type":"document"}}`)
	if err != nil {
		t.Fatal(err)
	}
	var decision struct {
		ID string `json:"decisionId"`
	}
	err = json.NewDecoder(resp.Body).Decode(&decision)
	resp.Body.Close()
	if err != nil || decision.ID == "" {
		t.Fatalf("no decision: %v", err)
	}
	if status := stop(); status != 0 {
		t.Errorf("exit status %d, want 0", status)
	}

	o, err := ostiary.Open(t.Context(), ostiary.Options{Database: database})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if _, err := o.Decisions().Record(t.Context(), decision.ID); err != nil {
		t.Errorf("decision %s: %v", decision.ID, err)
	}
}

// Garbage has room where nobody said how much memory there is.
func TestGarbageHasRoom(t *testing.T) {
	for limit, room := range map[string]bool{"": true, "1GiB": false} {
		t.Setenv("GOMEMLIMIT", limit)
		_, stop := served(t, "sqlite::memory:")
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		// By itself Go collects when what is in use has doubled.
		if got := m.NextGC >= 2*garbage; got != room {
			t.Errorf("GOMEMLIMIT=%s: collected at %d MiB, want more than %d MiB: %v", limit, m.NextGC>>20, 2*garbage>>20, room)
		}
		stop()
		runtime.GC()
	}
}

// What is configured arrives where it is used.
func TestConfigurationArrives(t *testing.T) {
	url, _ := served(t, "sqlite::memory:",
		"--sign-up=false", "--base-url=https://auth.example.test", "--cookies-prefix=lab", "--key-headers=x-lab-key", "--limits-body=64B", "--base-path=/auth")
	for _, tt := range []struct {
		name, path, body string
		header           [2]string
		status           int
		want             string
	}{
		{"sign_up", "/auth/sign-up/email", `{"email":"a@b.de","name":"","password":"12345678"}`, [2]string{}, 400, "SIGN_UP_DISABLED"},
		{"base_path", "/api/auth/sign-out", `{}`, [2]string{}, 404, ""},
		{"base_url", "/auth/sign-out", `{}`, [2]string{"Origin", url}, 200, ""},
		{"key_headers", "/v1/authorize", `{"action":"a","resource":{"type":"t"}}`, [2]string{"x-lab-key", "nonsense"}, 401, ""},
		{"key_headers", "/v1/authorize", `{"action":"a","resource":{"type":"t"}}`, [2]string{"x-api-key", "nonsense"}, 200, ""},
		{"limits.body", "/v1/authorize", `{"action":"` + strings.Repeat("a", 64) + `","resource":{"type":"t"}}`, [2]string{}, 413, ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), "POST", url+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		if tt.header[0] != "" {
			r.Header.Set(tt.header[0], tt.header[1])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || !strings.Contains(string(body), tt.want) {
			t.Errorf("%s: got %d %s, want %d %s", tt.name, resp.StatusCode, body, tt.status, tt.want)
		}
	}
}

// Whatever is off by default in the configuration is off in the options,
// where zero means the default.
func TestZeroTurnsOff(t *testing.T) {
	c, err := loaded(t, "", nil, "--throttle-per-account=0", "--throttle-per-address=0", "--cache-size=0", "--session-fresh-age=0s")
	if err != nil {
		t.Fatal(err)
	}
	o := c.options(nil, "").Authn
	if o.FailuresPerAccount >= 0 || o.FailuresPerAddress >= 0 || o.CacheSize >= 0 || o.FreshAge == nil || *o.FreshAge != 0 {
		t.Errorf("got %d %d %d %v", o.FailuresPerAccount, o.FailuresPerAddress, o.CacheSize, o.FreshAge)
	}
}

var _ io.Writer = (*lockedBuffer)(nil)

// Envoy asks on an address of its own, which ends with the service.
func TestExternalAuthorizationHasItsOwnListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, stop := served(t, "sqlite::memory:", "--ext-authz-listen", address)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The beginning of HTTP/2, as gRPC is spoken: a client's preface and its
	// empty settings, answered by the server's.
	if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 9)
	if _, err := io.ReadFull(conn, frame); err != nil || frame[3] != 4 {
		t.Errorf("got frame %x, %v; want settings", frame, err)
	}
	if status := stop(); status != 0 {
		t.Errorf("status %d", status)
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}

// A secret of the proxies reaches the endpoints, and without one there are none.
func TestForwardAuthIsConfigured(t *testing.T) {
	for secret, want := range map[string]int{"": http.StatusNotFound, strings.Repeat("s", 32): http.StatusForbidden} {
		url, _ := served(t, "sqlite::memory:", "--forward-auth-secret", secret)
		resp, err := http.Get(url + "/forward-auth/nginx")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("with %d characters: got %d, want %d", len(secret), resp.StatusCode, want)
		}
	}
}
