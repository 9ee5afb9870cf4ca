package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
)

// measureServers starts the servers, drives each for a round in turn, and writes
// requests per second, latencies and ratios.
func measureServers(ctx context.Context, out io.Writer, dir string, l load) (err error) {
	work, err := os.MkdirTemp("", "ostiary-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	s := &servers{ctx: ctx, dir: work, load: l}
	defer func() { err = errors.Join(err, s.stop()) }()
	targets, left, err := s.start()
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
	for _, t := range targets {
		err := t.verify(ctx)
		if err == nil {
			_, err = t.drive(ctx, l.connections, l.round) // warm
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	warm, err := s.memory()
	if err != nil {
		return err
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
	fmt.Fprintf(out, "| server | questions/s | quartiles | p50 | p99 | beside | it answers | spread |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for i, t := range targets {
		of := func(f func(round) float64) []float64 {
			var list []float64
			for _, r := range results[i] {
				list = append(list, f(r))
			}
			return list
		}
		base := index[t.against]
		ratios := make([]float64, l.passes)
		for n := range ratios {
			ratios[n] = results[i][n].rate() * float64(t.asks) / (results[base][n].rate() * float64(targets[base].asks))
		}
		low, mid, high := quartiles(of(func(r round) float64 { return r.rate() * float64(t.asks) }))
		_, p50, _ := quartiles(of(func(r round) float64 { return float64(r.p50) }))
		_, p99, _ := quartiles(of(func(r round) float64 { return float64(r.p99) }))
		rlow, rmid, rhigh := quartiles(ratios)
		fmt.Fprintf(out, "| %s | %.0f | %.0f to %.0f | %s | %s | %s | %.3g× | %.3g to %.3g |\n",
			t.name, mid, low, high, nanoseconds(p50), nanoseconds(p99), t.against, rmid, rlow, rhigh)
	}
	for _, line := range left {
		fmt.Fprintf(out, "| %s | | | | | | |\n", line)
	}
	if err := s.tell(out, warm); err != nil {
		return err
	}
	return raw.Close()
}

// memory returns how much of each instance is in memory.
func (s *servers) memory() ([]int64, error) {
	var list []int64
	for _, i := range s.ours {
		n, err := i.memory()
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// tell writes what the instances have come to: in memory, where it is told for
// Linux, and in records that were lost because more came than could be written.
func (s *servers) tell(out io.Writer, warm []int64) error {
	now, err := s.memory()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n| instance | in memory when warm | at the end | records lost |\n| --- | --- | --- | --- |\n")
	for n, i := range s.ours {
		lost, err := i.lost()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "| %s | %d MiB | %d MiB | %d |\n", i.name, warm[n]>>20, now[n]>>20, lost)
	}
	return nil
}

// ours is the target that most ratios are with.
const ours = "ostiary"

// forget has an instance remember no answers: each question here is asked again and
// again.
const forget = "OSTIARY_DECISIONS_MEMO=0"

// batch is how many questions a request with many has.
const batch = 100

// start builds and starts the servers. left has a row for each that is not run,
// with the reason.
func (s *servers) start() (targets []target, left []string, err error) {
	if err := s.build(); err != nil {
		return nil, nil, err
	}
	q, no := named(keyed), named("key-not-granted")
	add := func(i *instance, name, against string, about *question) {
		has := fmt.Sprintf(`{"allow":%v`, about.allow)
		targets = append(targets, target{name: name, address: i.address, request: i.ask(body(about)), has: has, asks: 1, against: against,
			other: string(i.ask(body(no))), otherHas: `{"allow":false`})
	}
	var instances []*instance
	for _, v := range []struct {
		name     string
		settings []string
	}{
		{ours, []string{"OSTIARY_DECISIONS_SAMPLE=0", forget}},
		{"ostiary-memo", []string{"OSTIARY_DECISIONS_SAMPLE=0"}},
		{"ostiary-recorded", []string{forget}},
		{"ostiary-topdown", []string{"OSTIARY_DECISIONS_SAMPLE=0", "OSTIARY_EVALUATOR=topdown"}},
	} {
		i, err := s.instance(v.name, q, v.settings...)
		if err != nil {
			return nil, nil, err
		}
		instances = append(instances, i)
		add(i, v.name, ours, q)
	}
	for _, i := range instances[:2] {
		targets = append(targets, target{name: i.name + "-batch", address: i.address, request: i.ask(bodies(q)), has: `{"allow":true`, asks: batch, against: i.name})
	}
	// Denials are always recorded, with the codes of their reasons. One that has no
	// room for records shows what that costs.
	forgetful, err := s.instance("ostiary-denied-forgotten", q, "OSTIARY_DECISIONS_BUFFER=1", forget)
	if err != nil {
		return nil, nil, err
	}
	add(forgetful, forgetful.name, forgetful.name, no)
	add(instances[0], "ostiary-denied", forgetful.name, no)

	t, err := s.opa(q, no)
	if err != nil {
		return nil, nil, err
	}
	targets = append(targets, t)
	if t, err = s.floor(q); err != nil {
		return nil, nil, err
	}
	targets = append(targets, t)
	if s.load.cerbos == "" {
		left = append(left, "cerbos | not run: -cerbos names no binary")
	} else {
		if t, err = s.cerbos(q, no); err != nil {
			return nil, nil, err
		}
		targets = append(targets, t)
	}
	if s.load.postgres == "" {
		left = append(left, "better-auth | not run: -postgres names no database")
		return targets, left, nil
	}
	sessions, err := s.betterAuth()
	return append(targets, sessions...), left, err
}

func named(name string) *question {
	list := questions()
	return &list[slices.IndexFunc(list, func(q question) bool { return q.name == name })]
}

// body is q as Ostiary is asked it.
func body(q *question) string {
	return fmt.Sprintf(`{"action":%q,"resource":{"type":%q,"id":%q}}`, q.what.Action.Name, q.what.Resource.Type, q.what.Resource.ID)
}

// bodies is q about so many things.
func bodies(q *question) string {
	var list []string
	for n := range batch {
		other := *q
		other.what.Resource.ID = fmt.Sprint("d", n)
		list = append(list, body(&other))
	}
	return `{"checks":[` + strings.Join(list, ",") + `]}`
}

func (i *instance) ask(body string) []byte {
	return post(i.address, "/v1/authorize", body, "X-Api-Key: "+i.key)
}

func encoded(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // not what this program makes
	}
	return string(text)
}

// betterAuth is a Better Auth application on a Postgres, with Ostiary beside it on
// the same one: both are asked for the same session, by cookie and by key.
func (s *servers) betterAuth() ([]target, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, err
	}
	env := []string{"OSTIARY_DATABASE=" + s.load.postgres, "OSTIARY_SECRET=the secret of the application and of Ostiary",
		"GENERATE_ID=default", "NODE_ENV=production", "OSTIARY_LOG_LEVEL=error"}
	cmd := exec.CommandContext(s.ctx, node, "beside/application.mjs")
	cmd.Dir, cmd.Env, cmd.Stderr = filepath.Join(s.house, "e2e"), append(os.Environ(), env...), os.Stderr
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
	here, _, err := s.serve(env, "/readyz", func(address string) []string { return []string{s.ostiary, "serve", "--listen", address} })
	if err != nil {
		return nil, err
	}
	byKey := fmt.Sprintf("X-Api-Key: %v", key["key"])
	var targets []target
	for _, by := range []struct{ name, header string }{{"cookie", "Cookie: " + cookie}, {"key", byKey}} {
		ours := "ostiary-get-session-by-" + by.name
		targets = append(targets,
			target{name: ours, address: here, request: get(here, "/api/auth/get-session", by.header), has: `"session"`, asks: 1, against: ours},
			target{name: "better-auth-get-session-by-" + by.name, address: there, request: get(there, "/api/auth/get-session", by.header), has: `"session"`, asks: 1, against: ours})
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
func (s *servers) opa(q, other *question) (target, error) {
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
	address, _, err := s.serve(nil, "/health", func(address string) []string {
		return []string{binary, "run", "--server", "--addr", address, "--log-level", "error", "--skip-version-check", dir}
	})
	if err != nil {
		return target{}, err
	}
	docs, err := documents([]question{*q, *other})
	if err != nil {
		return target{}, err
	}
	about := func(i int) []byte {
		return post(address, "/v1/data/ostiary/decision", encoded(map[string]any{"input": docs[i]}))
	}
	return target{name: "opa-run-server", address: address, request: about(0), has: `"allow":true`, asks: 1, against: ours,
		other: string(about(1)), otherHas: `"allow":false`}, nil
}

// floor is this program as a server that decides nothing.
func (s *servers) floor(q *question) (target, error) {
	self, err := os.Executable()
	if err != nil {
		return target{}, err
	}
	address, _, err := s.serve(nil, "/", func(address string) []string { return []string{self, "-listen", address, "floor"} })
	if err != nil {
		return target{}, err
	}
	return target{name: "chi-encoding-json", address: address, request: post(address, "/v1/authorize", body(q)), has: `"allow":true`, asks: 1, against: ours}, nil
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
		Type       string   `json:"type"`
		ID         string   `json:"id"`
		Credential string   `json:"credential"`
		Roles      []string `json:"roles"`
		KeyID      string   `json:"keyId"`
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
			principal{"user", "NIgY5FXOkttPfjpoxBXwIASvckmAs5tN", "api_key", []string{"user", "role3", "role7"}, "NIgY5FXOkttPfjpoxBXwIASvckmAs5tN"},
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
