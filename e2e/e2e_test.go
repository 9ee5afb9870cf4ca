// Package e2e_test runs the stories in this folder with the real JavaScript
// client: each file against a service of its own, built from this tree, with
// every answer checked against the service's own OpenAPI document.
package e2e_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ostiary/ostiary/server/openapi"
)

const lease = 500 * time.Millisecond

func TestStories(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("these tests need Node: ", err)
	}
	install(t)
	binary := build(t)
	stories, err := filepath.Glob("*.test.mjs")
	if err != nil || len(stories) == 0 {
		t.Fatalf("no stories found: %v", err)
	}
	for _, story := range stories {
		t.Run(strings.TrimSuffix(story, ".test.mjs"), func(t *testing.T) {
			t.Parallel()
			s := start(t, binary)
			play(t, node, story, s.env)
			explained(t, s)
		})
	}
}

// play runs the tests of one file.
func play(t *testing.T, node, story string, env []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), node, "--test", "--test-reporter=spec", story)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else if testing.Verbose() {
		t.Logf("\n%s", out)
	}
	if bytes.Contains(out, []byte("tests 0\n")) {
		t.Errorf("no test was run\n%s", out)
	}
}

// install provides node_modules as the lock file says.
func install(t *testing.T) {
	t.Helper()
	lock, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	const mark = "node_modules/.installed-lock.json"
	if have, err := os.ReadFile(mark); err == nil && bytes.Equal(have, lock) {
		return
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	if err := os.WriteFile(mark, lock, 0o644); err != nil {
		t.Fatal(err)
	}
}

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "ostiary")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../cmd/ostiary")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// service is a running `ostiary serve`, and what stories are told of it.
type service struct {
	env      []string
	url, key string // itself, and the administrator's key
}

// explained has every denial that a story left in the log explained: by the same
// reasons, each with the rule that gave it, as the policy in force has it. What was
// decided while a story had put other rules in force is not asked about.
func explained(t *testing.T, s service) {
	t.Helper()
	ask := func(method, path string, body, out any) {
		t.Helper()
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Api-Key", s.key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode == http.StatusOK {
			err = json.Unmarshal(answer, out)
		}
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s %s: %d %s %v", method, path, text, resp.StatusCode, answer, err)
		}
	}
	type reason struct{ Code, Message, Permission string }
	var now struct{ PolicyRevision string }
	ask(http.MethodGet, "/v1/policy/bundle", nil, &now)
	asked, others := 0, 0
	for path := "/v1/decisions?allow=false&limit=500"; path != ""; {
		var page struct {
			Decisions []struct {
				ID, PolicyRevision string
				Reasons            []reason
			}
			Next *string
		}
		ask(http.MethodGet, path, nil, &page)
		for _, d := range page.Decisions {
			if d.PolicyRevision != now.PolicyRevision {
				others++
				continue
			}
			asked++
			var x struct {
				Allow   bool
				Reasons []reason
				Fired   []struct{ Rule, File string }
				Advice  []string
			}
			ask(http.MethodPost, "/v1/policy/explain", map[string]string{"decision": d.ID}, &x)
			named := 0
			for _, r := range x.Fired {
				if r.Rule == "data.ostiary.reasons" && r.File == "builtin/reasons.rego" {
					named++
				}
			}
			if x.Allow || !slices.Equal(x.Reasons, d.Reasons) || len(x.Advice) < len(d.Reasons) || named == 0 {
				t.Errorf("decision %s: denied for %+v, explained by %+v", d.ID, d.Reasons, x)
			}
		}
		if path = ""; page.Next != nil {
			path = "/v1/decisions?allow=false&limit=500&before=" + *page.Next
		}
	}
	t.Logf("%d denials explained, %d by rules that are no more", asked, others)
}

// start starts a service with an administrator, made on its database before
// it runs. It is stopped at the end of the test, and has to stop well. more
// are settings as in the environment.
func start(t *testing.T, binary string, more ...string) service {
	t.Helper()
	dir := t.TempDir()
	bundle := filepath.Join(dir, "policies")
	if err := os.Mkdir(bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	upstream := "127.0.0.1:" + freePort(t)
	front := proxy(t, upstream)

	settings := []string{
		"OSTIARY_DATABASE=sqlite:" + filepath.Join(dir, "ostiary.db"),
		"OSTIARY_LISTEN=" + upstream,
		"OSTIARY_BASE_URL=" + front,
		"OSTIARY_POLICIES=" + bundle,
		"OSTIARY_CACHE_LEASE=" + lease.String(),
		"OSTIARY_KEYS_MIN_LIFE=1s", // stories do not wait for a day
		"OSTIARY_CHANGE_EMAIL=true",
		"OSTIARY_DELETE_USER=true",
		"OSTIARY_LOG_FORMAT=json",
	}
	settings = append(settings, more...) // the last one counts
	run := func(stdin string, args ...string) map[string]any {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), settings...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				t.Fatalf("ostiary %q: %v\n%s", args, err, exit.Stderr)
			}
			t.Fatal(err)
		}
		var result map[string]any
		if err := json.Unmarshal(out, &result); err != nil {
			t.Fatalf("ostiary %q: %v\n%s", args, err, out)
		}
		return result
	}
	const email, password = "root@example.test", "the root password"
	root := run(password, "user", "create", "--email", email, "--name", "Root", "--role", "admin", "--password-stdin", "--json")
	key := run("", "key", "create", "--user", email, "--name", "root", "--permissions", `{"*":["*"]}`, "--json")

	// Not bound to the test's context: it is stopped, not killed.
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), binary, "serve")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), settings...)
	var log output
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("after SIGTERM the service ended with %v", err)
			}
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			t.Error("the service did not stop")
		}
		for _, secret := range []string{password, key["key"].(string)} {
			if strings.Contains(log.String(), secret) {
				t.Error("the log holds a secret")
			}
		}
		if t.Failed() {
			t.Logf("log of the service:\n%s", log.String())
		}
	})
	ready(t, "http://"+upstream, ended, &log)

	return service{url: "http://" + upstream, key: key["key"].(string), env: append(settings,
		"BASE_URL="+front,
		"UPSTREAM_URL=http://"+upstream,
		"OSTIARY="+binary,
		"POLICIES="+bundle,
		fmt.Sprintf("LEASE_MS=%d", lease.Milliseconds()),
		"ADMIN_ID="+root["id"].(string),
		"ADMIN_EMAIL="+email,
		"ADMIN_PASSWORD="+password,
		"ADMIN_KEY="+key["key"].(string),
	)}
}

func ready(t *testing.T, url string, ended <-chan error, log *output) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(url + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case err := <-ended:
			t.Fatalf("the service ended: %v\n%s", err, log)
		default:
		}
		if time.Now().After(until) {
			t.Fatalf("the service did not become ready: %v\n%s", err, log)
		}
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// proxy passes everything on to upstream, and fails the test for every answer
// that the service's OpenAPI document does not describe.
func proxy(t *testing.T, upstream string) (front string) {
	t.Helper()
	document, err := openapi.Load()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	told := map[string]bool{} // each complaint once
	p := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: upstream})
			r.Out.Host = r.In.Host
		},
		ModifyResponse: func(resp *http.Response) error {
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			resp.Body = io.NopCloser(bytes.NewReader(body))
			if resp.Header.Get("Content-Encoding") == "gzip" {
				z, err := gzip.NewReader(bytes.NewReader(body))
				if err != nil {
					return err
				}
				if body, err = io.ReadAll(z); err != nil {
					return err
				}
			}
			r := resp.Request
			if err := document.ValidateResponse(r.Method, r.URL.Path, resp.StatusCode, resp.Header.Get("Content-Type"), body); err != nil {
				mu.Lock()
				defer mu.Unlock()
				what := fmt.Sprintf("%s %s: %d: %v", r.Method, r.URL.Path, resp.StatusCode, err)
				if !told[what] {
					told[what] = true
					t.Errorf("not as /openapi.json says: %s\n%s", what, cmp.Or(string(body), "(empty)"))
				}
			}
			return nil
		},
	}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	return s.URL
}

// output is what a process wrote, readable while it writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
