package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
)

// load is how servers are driven: closed loops, one on each connection.
type load struct {
	passes, connections int
	round               time.Duration
	postgres            string
}

// A target is a request to a server that runs, and what its answer has to have.
type target struct {
	name    string
	address string
	request []byte // one after the other over a connection that stays
	has     string // in each answer
	against string // the target of Ostiary that does the same; empty: it is one
}

// measureServers starts the servers, drives each for a round in turn, and writes
// requests per second, latencies and ratios.
func measureServers(ctx context.Context, out io.Writer, dir string, l load) (err error) {
	work, err := os.MkdirTemp("", "ostiary-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	s := &servers{ctx: ctx, dir: work, postgres: l.postgres}
	defer func() { err = errors.Join(err, s.stop()) }()
	targets, err := s.start()
	if err != nil {
		return err
	}
	raw, err := os.Create(filepath.Join(dir, "http.txt"))
	if err != nil {
		return err
	}
	defer raw.Close()
	results := make([][]round, len(targets))
	index := map[string]int{}
	for i, t := range targets {
		index[t.name] = i
	}
	for i, t := range targets { // warm, and the answer is looked at
		if _, err := t.drive(ctx, l.connections, time.Second); err != nil {
			return fmt.Errorf("%s: %w", targets[i].name, err)
		}
	}
	for range l.passes {
		for i, t := range targets {
			r, err := t.drive(ctx, l.connections, l.round)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			results[i] = append(results[i], r)
			fmt.Fprintf(raw, "BenchmarkHTTP/%s/%d\t%d\t%.0f ns/op\t%.0f p50-ns\t%.0f p99-ns\t%.1f req/s\n",
				t.name, l.connections, r.requests, float64(r.took.Nanoseconds())/float64(r.requests), float64(r.p50), float64(r.p99), r.rate())
		}
	}
	fmt.Fprintf(out, "\nover loopback, %d connections, %d passes of %s\n\n", l.connections, l.passes, l.round)
	fmt.Fprintf(out, "| server | requests/s | quartiles | p50 | p99 | ostiary is | spread |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for i, t := range targets {
		of := func(f func(round) float64) []float64 {
			var list []float64
			for _, r := range results[i] {
				list = append(list, f(r))
			}
			return list
		}
		base := 0
		if t.against != "" {
			base = index[t.against]
		}
		ratios := make([]float64, l.passes)
		for n := range ratios {
			ratios[n] = results[base][n].rate() / results[i][n].rate()
		}
		low, mid, high := quartiles(of(round.rate))
		_, p50, _ := quartiles(of(func(r round) float64 { return float64(r.p50) }))
		_, p99, _ := quartiles(of(func(r round) float64 { return float64(r.p99) }))
		rlow, rmid, rhigh := quartiles(ratios)
		fmt.Fprintf(out, "| %s | %.0f | %.0f to %.0f | %s | %s | %.2f× | %.2f to %.2f |\n", t.name, mid, low, high, nanoseconds(p50), nanoseconds(p99), rmid, rlow, rhigh)
	}
	return raw.Close()
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

func (t *target) loop(ctx context.Context, end time.Time) ([]time.Duration, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	in := bufio.NewReaderSize(conn, 16<<10)
	took := make([]time.Duration, 0, 1<<14)
	var body []byte
	for now := time.Now(); now.Before(end); {
		if _, err := conn.Write(t.request); err != nil {
			return took, err
		}
		status, answer, err := readAnswer(in, body)
		if err != nil {
			return took, err
		}
		if body = answer; status != http.StatusOK || !bytes.Contains(answer, []byte(t.has)) {
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

// servers are the processes that are compared.
type servers struct {
	ctx      context.Context
	dir      string
	postgres string // empty: nothing is measured that needs one
	running  []*exec.Cmd
}

// start builds and starts them. The first target is the one that ratios refer to.
func (s *servers) start() ([]target, error) {
	rules := filepath.Join(s.dir, "rules")
	if err := os.CopyFS(rules, bundle()); err != nil {
		return nil, err
	}
	key := questions()[slices.IndexFunc(questions(), func(q question) bool { return q.name == keyed })]
	ostiary := filepath.Join(s.dir, "ostiary")
	house, err := s.output(nil, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/ostiary/ostiary")
	if err != nil {
		return nil, err
	}
	house = strings.TrimSpace(house)
	if err := s.run("go", "build", "-C", house, "-o", ostiary, "./cmd/ostiary"); err != nil {
		return nil, err
	}
	var targets []target
	for _, variant := range []struct{ name, evaluator, sample string }{
		{"ostiary", "auto", "0"},
		{"ostiary-recorded", "auto", "1"},
		{"ostiary-topdown", "topdown", "0"},
	} {
		database := "sqlite:" + filepath.Join(s.dir, variant.name+".db")
		env := []string{"OSTIARY_DATABASE=" + database, "OSTIARY_POLICIES=" + rules, "OSTIARY_DECISIONS_SAMPLE=" + variant.sample,
			"OSTIARY_EVALUATOR=" + variant.evaluator, "OSTIARY_LOG_LEVEL=error"}
		if err := s.runWith(env, ostiary, "user", "create", "--email", key.who.User.Email, "--role", strings.Join(key.who.Roles, ",")); err != nil {
			return nil, err
		}
		grants, err := json.Marshal(key.who.Key.Permissions)
		if err != nil {
			return nil, err
		}
		secret, err := s.output(env, ostiary, "key", "create", "--user", key.who.User.Email, "--name", "bench", "--permissions", string(grants))
		if err != nil {
			return nil, err
		}
		address, err := s.serve(env, "/readyz", func(address string) []string { return []string{ostiary, "serve", "--listen", address} })
		if err != nil {
			return nil, err
		}
		ask := fmt.Sprintf(`{"action":%q,"resource":{"type":%q,"id":%q}}`, key.what.Action.Name, key.what.Resource.Type, key.what.Resource.ID)
		targets = append(targets, target{variant.name, address, post(address, "/v1/authorize", ask, "X-Api-Key: "+strings.TrimSpace(secret)), `"allow":true`, ""})
	}
	for _, add := range []func(question) (target, error){s.opa, s.floor} {
		t, err := add(key)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	sessions, err := s.betterAuth(house, ostiary)
	return append(targets, sessions...), err
}

// betterAuth is a Better Auth application on a Postgres, with Ostiary beside it on
// the same one: both are asked for the same session, by cookie and by key.
func (s *servers) betterAuth(house, ostiary string) ([]target, error) {
	if s.postgres == "" {
		return nil, nil
	}
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, err
	}
	env := []string{"OSTIARY_DATABASE=" + s.postgres, "OSTIARY_SECRET=the secret of the application and of Ostiary",
		"GENERATE_ID=default", "NODE_ENV=production", "OSTIARY_LOG_LEVEL=error"}
	cmd := exec.CommandContext(s.ctx, node, "beside/application.mjs")
	cmd.Dir, cmd.Env, cmd.Stderr = filepath.Join(house, "e2e"), append(os.Environ(), env...), os.Stderr
	// It ends with its input.
	if _, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.running = append(s.running, cmd)
	url, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the application did not start: %w", err)
	}
	url = strings.TrimSpace(url)
	there := strings.TrimPrefix(url, "http://")
	email := fmt.Sprintf("bench%d@example.com", time.Now().UnixNano())
	_, cookie, err := ask(s.ctx, url, "/api/auth/sign-up/email", "", map[string]any{"email": email, "password": "a password of the bench", "name": "bench"})
	if err != nil {
		return nil, err
	}
	key, _, err := ask(s.ctx, url, "/api/auth/api-key/create", cookie, map[string]any{"name": "bench"})
	if err != nil {
		return nil, err
	}
	here, err := s.serve(env, "/readyz", func(address string) []string { return []string{ostiary, "serve", "--listen", address} })
	if err != nil {
		return nil, err
	}
	byKey := fmt.Sprintf("X-Api-Key: %v", key["key"])
	var targets []target
	for _, by := range []struct{ name, header string }{{"cookie", "Cookie: " + cookie}, {"key", byKey}} {
		ours := "ostiary-get-session-by-" + by.name
		targets = append(targets,
			target{ours, here, get(here, "/api/auth/get-session", by.header), `"session"`, ours},
			target{"better-auth-get-session-by-" + by.name, there, get(there, "/api/auth/get-session", by.header), `"session"`, ours})
	}
	return targets, nil
}

// ask asks the application, and returns its answer and the cookies that it sets.
func ask(ctx context.Context, url, path, cookie string, in map[string]any) (out map[string]any, cookies string, err error) {
	text, err := json.Marshal(in)
	if err != nil {
		return nil, "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+path, bytes.NewReader(text))
	if err != nil {
		return nil, "", err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Origin", url)
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if text, err = io.ReadAll(resp.Body); err != nil {
		return nil, "", err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("%s: %s %s", path, resp.Status, text)
	}
	var list []string
	for _, c := range resp.Cookies() {
		list = append(list, c.Name+"="+c.Value)
	}
	err = json.Unmarshal(text, &out)
	return out, strings.Join(list, "; "), err
}

// opa is OPA's own server on the same modules and data, without authentication:
// who asks stands in the question.
func (s *servers) opa(q question) (target, error) {
	src, _, err := source()
	if err != nil {
		return target{}, err
	}
	dir := filepath.Join(s.dir, "opa-bundle")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return target{}, err
	}
	n := 0
	for _, text := range src.Modules {
		n++
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("m%d.rego", n)), []byte(text), 0o644); err != nil {
			return target{}, err
		}
	}
	data, err := json.Marshal(src.Data)
	if err != nil {
		return target{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, "data.json"), data, 0o644); err != nil {
		return target{}, err
	}
	binary := filepath.Join(s.dir, "opa")
	if err := s.run("go", "build", "-o", binary, "github.com/open-policy-agent/opa"); err != nil {
		return target{}, err
	}
	address, err := s.serve(nil, "/health", func(address string) []string {
		return []string{binary, "run", "--server", "--addr", address, "--log-level", "error", "--skip-version-check", dir}
	})
	if err != nil {
		return target{}, err
	}
	docs, err := documents([]question{q})
	if err != nil {
		return target{}, err
	}
	body, err := json.Marshal(map[string]any{"input": docs[0]})
	if err != nil {
		return target{}, err
	}
	return target{"opa-run-server", address, post(address, "/v1/data/ostiary/decision", string(body)), `"allow":true`, ""}, nil
}

// floor is this program as a server that decides nothing.
func (s *servers) floor(q question) (target, error) {
	self, err := os.Executable()
	if err != nil {
		return target{}, err
	}
	address, err := s.serve(nil, "/", func(address string) []string { return []string{self, "-listen", address, "floor"} })
	if err != nil {
		return target{}, err
	}
	ask := fmt.Sprintf(`{"action":%q,"resource":{"type":%q,"id":%q}}`, q.what.Action.Name, q.what.Resource.Type, q.what.Resource.ID)
	return target{"chi-encoding-json", address, post(address, "/v1/authorize", ask), `"allow":true`, ""}, nil
}

// serveFloor answers with the same JSON to the same JSON, by chi and encoding/json.
func serveFloor(address string) error {
	type resource struct {
		Type       string         `json:"type"`
		ID         string         `json:"id"`
		Properties map[string]any `json:"properties,omitempty"`
	}
	type request struct {
		Action   string         `json:"action"`
		Resource resource       `json:"resource"`
		Context  map[string]any `json:"context"`
	}
	type reason struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	type principal struct {
		Type       string `json:"type"`
		ID         string `json:"id"`
		Credential string `json:"credential"`
		KeyID      string `json:"keyId"`
	}
	type answer struct {
		Allow          bool      `json:"allow"`
		DecisionID     string    `json:"decisionId"`
		PolicyRevision string    `json:"policyRevision"`
		Principal      principal `json:"principal"`
		Reasons        []reason  `json:"reasons"`
	}
	r := chi.NewRouter()
	r.Get("/", func(http.ResponseWriter, *http.Request) {})
	r.Post("/v1/authorize", func(w http.ResponseWriter, r *http.Request) {
		var in request
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out, err := json.Marshal(answer{true, "01a0f7c60d3a4d9f8a7b6c5d4e3f2a1b", "bf6fbefb135ed8c43983bc481c50b265",
			principal{"user", "NIgY5FXOkttPfjpoxBXwIASvckmAs5tN", "api_key", "NIgY5FXOkttPfjpoxBXwIASvckmAs5tN"},
			[]reason{{"role", "a role permits it"}}})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(out)
	})
	return http.ListenAndServe(address, r)
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

func (s *servers) run(command ...string) error { return s.runWith(nil, command...) }

func (s *servers) runWith(env []string, command ...string) error {
	_, err := s.output(env, command...)
	return err
}

func (s *servers) output(env []string, command ...string) (string, error) {
	cmd := exec.CommandContext(s.ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var failure bytes.Buffer
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, failure.Bytes())
	}
	return string(out), nil
}

// serve starts a server on an address that is free, and waits until it is ready.
func (s *servers) serve(env []string, ready string, command func(address string) []string) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return "", err
	}
	args := command(address)
	cmd := exec.CommandContext(s.ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return "", err
	}
	s.running = append(s.running, cmd)
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + address + ready)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return address, nil
			}
		}
		if time.Now().After(until) {
			return "", fmt.Errorf("%s is not ready: %v", args[0], err)
		}
	}
}

func (s *servers) stop() error {
	var errs []error
	for _, cmd := range s.running {
		errs = append(errs, cmd.Process.Signal(syscall.SIGTERM))
	}
	for _, cmd := range s.running {
		_ = cmd.Wait() // how it ends is not what is measured
	}
	return errors.Join(errs...)
}
