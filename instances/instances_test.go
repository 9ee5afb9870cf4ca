package instances

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/internal/pgtest"
)

const (
	lease  = 2 * time.Second
	secret = "the secret that all instances share"
)

var (
	binary   string
	postgres *pgtest.Server
	program  = authn.System("test")
	client   = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ostiary-instances")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "ostiary")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/ostiary").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	// Its own, whatever the environment names: it is stopped and started.
	if postgres, err = pgtest.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer postgres.Close()
	return m.Run()
}

// instance is a process that serves.
type instance struct {
	url   string
	cmd   *exec.Cmd
	ended chan struct{}
	log   *bytes.Buffer // complete once ended
}

// launch starts an instance without waiting for it.
func launch(t *testing.T, dsn string) *instance {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	l.Close()
	i := &instance{url: "http://" + address, ended: make(chan struct{}), log: &bytes.Buffer{}}
	i.cmd = exec.Command(binary, "serve")
	i.cmd.Dir = t.TempDir()
	i.cmd.Env = append(os.Environ(), "OSTIARY_LISTEN="+address, "OSTIARY_DATABASE="+dsn, "OSTIARY_SECRET="+secret,
		"OSTIARY_BASE_URL=http://all.test", "OSTIARY_CACHE_LEASE="+lease.String(), "OSTIARY_LOG_LEVEL=warn", "OSTIARY_POLICY_SOURCE=database")
	i.cmd.Stdout, i.cmd.Stderr = i.log, i.log
	must(t, i.cmd.Start())
	go func() { _ = i.cmd.Wait(); close(i.ended) }()
	t.Cleanup(func() {
		i.stop(t)
		if t.Failed() {
			text := i.log.String()
			t.Logf("log of %s:\n%s", i.url, text[max(0, len(text)-3000):])
		}
	})
	return i
}

func (i *instance) ready(t *testing.T) *instance {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if i.get("/readyz").status == http.StatusOK {
			return i
		}
		select {
		case <-i.ended:
			t.Fatalf("an instance ended: %s", i.log)
		default:
		}
		if time.Now().After(until) {
			t.Fatal("an instance did not become ready")
		}
	}
}

// stop ends the process as an operator would.
func (i *instance) stop(t *testing.T) {
	_ = i.cmd.Process.Signal(syscall.SIGCONT)
	_ = i.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-i.ended:
	case <-time.After(20 * time.Second):
		t.Error("an instance did not stop")
		_ = i.cmd.Process.Kill()
		<-i.ended
	}
}

func (i *instance) signal(t *testing.T, s os.Signal) {
	t.Helper()
	must(t, i.cmd.Process.Signal(s))
}

// answer is what came back; status 0 is nothing.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// get sends a request; headers are "Name: value".
func (i *instance) get(path string, headers ...string) answer {
	return i.send(http.MethodGet, path, nil, headers)
}

func (i *instance) post(path string, body any, headers ...string) answer {
	return i.send(http.MethodPost, path, body, append(headers, "Content-Type: application/json", "Origin: http://all.test"))
}

func (i *instance) send(method, path string, body any, headers []string) answer {
	var text io.Reader
	if body != nil {
		b, _ := json.Marshal(body)
		text = bytes.NewReader(b)
	}
	r, err := http.NewRequest(method, i.url+path, text)
	if err != nil {
		return answer{}
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	resp, err := client.Do(r)
	if err != nil {
		return answer{}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}
	}
	return answer{resp.StatusCode, resp.Header, b}
}

// house is a database with an administrator and instances on it.
type house struct {
	*testing.T
	dsn       string
	sdk       *ostiary.Ostiary // to set up with
	admin     string           // a header with the administrator's key
	instances []*instance
}

func open(t *testing.T, n int) *house {
	t.Helper()
	h := &house{T: t, dsn: postgres.Schema(t)}
	var err error
	h.sdk, err = ostiary.Open(t.Context(), ostiary.Options{Database: h.dsn, Secrets: []string{secret}})
	must(t, err)
	t.Cleanup(func() { h.sdk.Close() })
	admin, err := h.sdk.Authn().CreateUser(t.Context(), program, authn.NewUser{Name: "Root", Email: "root@example.test", Roles: []string{"admin"}, RolesGiven: true})
	must(t, err)
	h.admin, _ = h.key(admin.ID, nil)
	for range n {
		h.instances = append(h.instances, launch(t, h.dsn))
	}
	for _, i := range h.instances {
		i.ready(t)
	}
	return h
}

// key makes a key of a user, and returns it as a header and its id.
func (h *house) key(owner string, change func(*authn.NewKey)) (header, id string) {
	h.Helper()
	in := authn.NewKey{OwnerID: owner, Permissions: authz.Permissions{"*": {"*"}}}
	if change != nil {
		change(&in)
	}
	k, secret, err := h.sdk.Authn().CreateKey(h.Context(), program, in)
	must(h, err)
	return "x-api-key: " + secret.Reveal(), k.ID
}

var serial atomic.Int64

// person makes a user with a key and a session cookie.
func (h *house) person() (id, key, keyID, cookie string) {
	h.Helper()
	email := fmt.Sprintf("p%d@example.test", serial.Add(1))
	got := h.instances[0].post("/api/auth/sign-up/email", map[string]any{"email": email, "name": "P", "password": "a good password"})
	if got.status != http.StatusOK {
		h.Fatalf("sign up: %d %s", got.status, got.body)
	}
	var up struct{ User struct{ ID string } }
	must(h, json.Unmarshal(got.body, &up))
	for _, c := range got.header.Values("Set-Cookie") {
		if strings.Contains(c, "session_token=") {
			value, _, _ := strings.Cut(c, ";")
			cookie = "Cookie: " + value
		}
	}
	key, keyID = h.key(up.User.ID, nil)
	return up.User.ID, key, keyID, cookie
}

func (h *house) sql(query string, args ...any) {
	h.Helper()
	conn, err := pgx.Connect(h.Context(), h.dsn)
	must(h, err)
	defer conn.Close(context.Background())
	_, err = conn.Exec(h.Context(), query, args...)
	must(h, err)
}

func rows[T any](h *house, query string, args ...any) []T {
	h.Helper()
	conn, err := pgx.Connect(h.Context(), h.dsn)
	must(h, err)
	defer conn.Close(context.Background())
	result, err := conn.Query(h.Context(), query, args...)
	must(h, err)
	out, err := pgx.CollectRows(result, pgx.RowTo[T])
	must(h, err)
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// load keeps the instances busy until the test ends, and fails it if somebody
// who is good is refused.
func (h *house) load() (stop func()) {
	_, key, _, cookie := h.person()
	ctx, cancel := context.WithCancel(h.Context())
	var wg sync.WaitGroup
	for n := range 6 {
		credential := []string{key, cookie}[n%2]
		i := h.instances[n%len(h.instances)]
		wg.Go(func() {
			for ctx.Err() == nil {
				if got := i.get("/v1/me", credential); got.status != http.StatusOK && got.status < 500 && got.status != 0 {
					h.Errorf("under load a good credential is answered %d %s", got.status, got.body)
					return
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	return sync.OnceFunc(func() { cancel(); wg.Wait() })
}

// patience is how long a machine may be too busy to do what a test begins with.
const patience = time.Minute

// refusal watches credentials on the instances from the moment that revoke
// returned until each was refused everywhere, and a little longer. It returns
// how long the last instance took. An accept of a request that was sent after
// the lease, or after an instance had refused, fails the test.
func (h *house) refusal(what string, revoke func(), credentials ...string) time.Duration {
	h.Helper()
	for _, i := range h.instances {
		for _, c := range credentials {
			for until := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
				got := i.get("/v1/me", c)
				if got.status == http.StatusOK {
					break
				}
				if got.status != http.StatusServiceUnavailable || time.Now().After(until) {
					h.Fatalf("%s: before it: %d %s", what, got.status, got.body)
				}
			}
		}
	}
	revoke()
	revoked := time.Now()
	var last atomic.Int64
	var wg sync.WaitGroup
	for n, i := range h.instances {
		for _, c := range credentials {
			wg.Go(func() {
				refused := 0
				for refused < 5 {
					sent := time.Since(revoked)
					switch got := i.get("/v1/me", c); {
					case got.status == http.StatusOK && (sent > lease || refused > 0):
						h.Errorf("%s: instance %d accepts %v after it (refused before: %d)", what, n, sent, refused)
						return
					case got.status == http.StatusUnauthorized:
						if refused++; refused == 1 {
							took := int64(time.Since(revoked))
							for now := last.Load(); took > now && !last.CompareAndSwap(now, took); now = last.Load() {
							}
						}
					case sent > patience:
						h.Errorf("%s: instance %d still answers %d %s", what, n, got.status, got.body)
						return
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
	}
	wg.Wait()
	return time.Duration(last.Load())
}

// delete has the key deleted on an instance.
func (h *house) delete(i *instance, keyID string) {
	h.Helper()
	for until := time.Now().Add(patience); ; {
		got := i.post("/api/auth/api-key/delete", map[string]any{"keyId": keyID}, h.admin)
		switch {
		// Not found: it was deleted, and the answer lost with its connection.
		case got.status == http.StatusOK, got.status == http.StatusNotFound:
			return
		case got.status != 0 && got.status < 500, time.Now().After(until):
			h.Fatalf("delete a key: %d %s", got.status, got.body)
		}
	}
}

func figures(t *testing.T, what string, took []time.Duration) {
	t.Helper()
	slices.Sort(took)
	at := func(p int) time.Duration {
		return took[min(len(took)-1, len(took)*p/100)].Round(100 * time.Microsecond)
	}
	t.Logf("%s: until the last of three instances refused, %d times: p50 %v, p99 %v, max %v", what, len(took), at(50), at(99), took[len(took)-1].Round(100*time.Microsecond))
}

// What one instance, or anybody with SQL, revokes is refused by all.
func TestRevocationReachesEveryInstance(t *testing.T) {
	h := open(t, 3)
	defer h.load()()
	var keys, bans, sql []time.Duration
	for n := range 15 {
		id, key, keyID, cookie := h.person()
		on := h.instances[n%3]
		extra, extraID := h.key(id, nil)
		keys = append(keys, h.refusal("key deleted", func() { h.delete(on, keyID) }, key))
		if n%2 == 0 {
			bans = append(bans, h.refusal("owner banned", func() {
				if got := on.post("/api/auth/admin/ban-user", map[string]any{"userId": id}, h.admin); got.status != http.StatusOK {
					t.Fatalf("ban: %d %s", got.status, got.body)
				}
			}, extra, cookie))
			continue
		}
		sql = append(sql, h.refusal("key deleted with SQL", func() { h.sql(`DELETE FROM apikey WHERE id = $1`, extraID) }, extra))
		sql = append(sql, h.refusal("sessions deleted with SQL", func() { h.sql(`DELETE FROM session WHERE "userId" = $1`, id) }, cookie))
	}
	figures(t, "key deleted on one", keys)
	figures(t, "owner banned on one", bans)
	figures(t, "row deleted with SQL", sql)
}

// The bell is only a convenience: without it, and without connections at
// times, nothing is accepted late.
func TestRevocationWhileConnectionsAreCut(t *testing.T) {
	for what, victims := range map[string]string{
		"listeners cut": `query LIKE 'LISTEN%'`,
		"all cut":       `application_name = 'ostiary'`,
	} {
		t.Run(what, func(t *testing.T) {
			h := open(t, 3)
			defer h.load()()
			id, _, _, _ := h.person()
			var took []time.Duration
			for n := range 6 {
				key, keyID := h.key(id, nil)
				ctx, cancel := context.WithCancel(t.Context())
				var cutting sync.WaitGroup
				took = append(took, h.refusal(what, func() {
					cutting.Go(func() {
						conn, err := pgx.Connect(ctx, h.dsn)
						if err != nil {
							t.Error(err)
							return
						}
						defer conn.Close(context.WithoutCancel(ctx))
						for ctx.Err() == nil {
							if _, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND `+victims); err != nil && ctx.Err() == nil {
								t.Error(err)
							}
							time.Sleep(30 * time.Millisecond)
						}
					})
					time.Sleep(50 * time.Millisecond)
					h.delete(h.instances[n%3], keyID)
					time.AfterFunc(4*time.Second, cancel)
				}, key))
				cancel()
				cutting.Wait()
			}
			figures(t, what, took)
			for _, i := range h.instances {
				i.ready(t) // without a restart
			}
		})
	}
}

// An instance that was stopped longer than the lease trusts nothing when it
// goes on, not even for requests that have been waiting.
func TestStoppedInstanceWakesUpWithoutItsMemory(t *testing.T) {
	h := open(t, 2)
	id, _, _, _ := h.person()
	sleeper := h.instances[1]
	for range 3 {
		key, keyID := h.key(id, nil)
		for range 3 {
			if got := sleeper.get("/v1/me", key); got.status != http.StatusOK {
				t.Fatalf("before: %d", got.status)
			}
		}
		sleeper.signal(t, syscall.SIGSTOP)
		h.delete(h.instances[0], keyID)
		var waiting sync.WaitGroup
		for range 8 {
			waiting.Go(func() {
				if got := sleeper.get("/v1/me", key); got.status == http.StatusOK {
					t.Error("a request that waited was accepted")
				}
			})
		}
		time.Sleep(lease + 500*time.Millisecond)
		sleeper.signal(t, syscall.SIGCONT)
		waiting.Wait()
		if got := sleeper.get("/v1/me", key); got.status != http.StatusUnauthorized {
			t.Errorf("after: %d %s", got.status, got.body)
		}
	}
}

// Without the database: what is remembered until the lease ends, then 503;
// never "bad credential". With it again: everything, nothing lost.
func TestPostgresRestarts(t *testing.T) {
	h := open(t, 3)
	id, key, _, cookie := h.person()
	revoked, revokedID := h.key(id, nil)
	for _, i := range h.instances {
		for _, c := range []string{key, cookie, revoked} {
			if got := i.get("/v1/me", c); got.status != http.StatusOK {
				t.Fatalf("before: %d %s", got.status, got.body)
			}
		}
	}
	h.delete(h.instances[0], revokedID)
	at := time.Now()
	must(t, postgres.Down())
	down := time.Now()
	for time.Since(down) < lease+time.Second {
		for _, i := range h.instances {
			sent := time.Now()
			if got := i.get("/v1/me", revoked); got.status == http.StatusOK && sent.Sub(at) > lease {
				t.Errorf("revoked %v ago and accepted", sent.Sub(at))
			}
			for _, c := range []string{key, cookie} {
				sent := time.Now()
				got := i.get("/v1/me", c)
				switch {
				case got.status == http.StatusOK && sent.Sub(down) > lease:
					t.Errorf("accepted %v after the database went away", sent.Sub(down))
				case got.status == http.StatusServiceUnavailable && got.header.Get("Retry-After") == "":
					t.Error("503 without Retry-After")
				case got.status != http.StatusOK && got.status != http.StatusServiceUnavailable:
					t.Errorf("without the database: %d %s", got.status, got.body)
				}
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, i := range h.instances {
		if got := i.get("/readyz"); got.status != http.StatusServiceUnavailable {
			t.Errorf("readyz without the database: %d", got.status)
		}
	}
	must(t, postgres.Up())
	for _, i := range h.instances {
		i.ready(t)
		for _, c := range []string{key, cookie} {
			for until := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				got := i.get("/v1/me", c)
				if got.status == http.StatusOK {
					break
				}
				if time.Now().After(until) || got.status == http.StatusUnauthorized {
					t.Errorf("with the database again: %d %s", got.status, got.body)
					break
				}
			}
		}
		if got := i.get("/v1/me", revoked); got.status != http.StatusUnauthorized {
			t.Errorf("revoked before: %d %s", got.status, got.body)
		}
	}
	if n := rows[int64](h, `SELECT count(*) FROM ostiary_event WHERE kind = 'key.delete' AND "targetId" = $1`, revokedID)[0]; n != 1 {
		t.Errorf("%d events of the revocation, want 1", n)
	}
}

// A limit is one limit, however many instances there are, and nothing is lost
// when they stop.
func TestLimitsHoldOverAllInstances(t *testing.T) {
	h := open(t, 3)
	id, _, _, _ := h.person()
	for _, c := range []struct {
		name  string
		limit int64
		set   func(*authn.NewKey, *int64)
	}{
		{"remaining", 1000, func(k *authn.NewKey, n *int64) { k.Limits.Remaining = &n }},
		{"per minute", 100, func(k *authn.NewKey, n *int64) {
			minute := int64(60_000)
			window := &minute
			k.Limits.RateLimitMax, k.Limits.RateLimitTimeWindow = &n, &window
		}},
	} {
		key, keyID := h.key(id, func(k *authn.NewKey) { c.set(k, &c.limit) })
		var accepted atomic.Int64
		var wg sync.WaitGroup
		begun := time.Now()
		for n := range 64 {
			i := h.instances[n%3]
			wg.Go(func() {
				for refused := 0; refused < 3; {
					switch got := i.get("/v1/me", key); got.status {
					case http.StatusOK:
						accepted.Add(1)
					case http.StatusTooManyRequests:
						refused++
					default:
						t.Errorf("%s: %d %s", c.name, got.status, got.body)
						return
					}
				}
			})
		}
		wg.Wait()
		t.Logf("%s: %d of %d accepted in %v", c.name, accepted.Load(), c.limit, time.Since(begun).Round(time.Millisecond))
		if n := accepted.Load(); n > c.limit || n < c.limit*8/10 {
			t.Errorf("%s: %d accepted, want %d", c.name, n, c.limit)
		}
		if c.name != "remaining" {
			continue
		}
		defer func() {
			for _, i := range h.instances {
				i.stop(t)
			}
			if left := rows[int32](h, `SELECT remaining FROM apikey WHERE id = $1`, keyID)[0]; int64(left)+accepted.Load() != c.limit {
				t.Errorf("%d accepted and %d left, want %d together", accepted.Load(), left, c.limit)
			}
		}()
	}
}

// Whoever comes first migrates; the others wait, and find it done.
func TestManyStartsMakeOneMigration(t *testing.T) {
	h := &house{T: t, dsn: postgres.Schema(t)}
	first, second := launch(t, h.dsn), launch(t, h.dsn)
	first.ready(t)
	second.ready(t)
	migrated := rows[string](h, `SELECT name FROM ostiary_migrations ORDER BY id`)
	first.stop(t)
	second.stop(t)
	for range 20 {
		launch(t, h.dsn).ready(t).stop(t)
	}
	after := rows[string](h, `SELECT name FROM ostiary_migrations ORDER BY id`)
	if len(migrated) == 0 || !slices.Equal(migrated, after) || len(slices.Compact(slices.Clone(migrated))) != len(migrated) {
		t.Errorf("migrations: %q, after many starts %q", migrated, after)
	}
}

// A process that is killed leaves whole users and keys behind, each with its
// event and its changes, and everything that it had confirmed.
func TestKilledInstanceLeavesNothingHalfMade(t *testing.T) {
	h := open(t, 1)
	var mu sync.Mutex
	confirmed := map[string]bool{}
	for range 3 {
		i := launch(t, h.dsn).ready(t)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for n := 0; ; n++ {
					got := i.post("/v1/service-accounts", map[string]any{"name": fmt.Sprint("robot ", n), "key": map[string]any{"name": "k"}}, h.admin)
					if got.status == 0 {
						return
					}
					var made struct{ User, Key struct{ ID string } }
					if got.status != http.StatusCreated || json.Unmarshal(got.body, &made) != nil {
						t.Errorf("create: %d %s", got.status, got.body)
						return
					}
					mu.Lock()
					confirmed[made.User.ID] = true
					mu.Unlock()
					if n%3 == 0 && i.post("/api/auth/api-key/delete", map[string]any{"keyId": made.Key.ID}, h.admin).status == 0 {
						return
					}
				}
			})
		}
		time.Sleep(700 * time.Millisecond)
		i.signal(t, syscall.SIGKILL)
		wg.Wait()
		<-i.ended
	}
	if len(confirmed) < 20 {
		t.Fatalf("only %d were made", len(confirmed))
	}
	for _, id := range rows[string](h, `SELECT id FROM "user"`) {
		delete(confirmed, id)
	}
	if len(confirmed) > 0 {
		t.Errorf("%d that were confirmed are not there", len(confirmed))
	}
	for what, query := range map[string]string{
		"users without what belongs to them": `SELECT id FROM "user" u WHERE NOT EXISTS (SELECT FROM ostiary_user o WHERE o."userId" = u.id) AND email <> 'root@example.test'`,
		"users without event":                `SELECT id FROM "user" u WHERE NOT EXISTS (SELECT FROM ostiary_event e WHERE e.kind = 'user.create' AND e."targetId" = u.id)`,
		"users without a key or its end":     `SELECT id FROM "user" u WHERE NOT EXISTS (SELECT FROM ostiary_event e WHERE e.kind = 'key.create' AND e.details::jsonb ->> 'owner' = u.id)`,
		"keys without event":                 `SELECT id FROM apikey k WHERE NOT EXISTS (SELECT FROM ostiary_event e WHERE e.kind = 'key.create' AND e."targetId" = k.id)`,
		"keys deleted without event": `SELECT "targetId" FROM ostiary_event c WHERE kind = 'key.create' AND NOT EXISTS (SELECT FROM apikey k WHERE k.id = c."targetId")
			AND NOT EXISTS (SELECT FROM ostiary_event d WHERE d.kind = 'key.delete' AND d."targetId" = c."targetId")`,
		"keys there in spite of their event": `SELECT id FROM apikey k WHERE EXISTS (SELECT FROM ostiary_event d WHERE d.kind = 'key.delete' AND d."targetId" = k.id)`,
		"events without change": `SELECT "targetId" FROM ostiary_event e WHERE "targetType" IN ('user', 'apiKey')
			AND NOT EXISTS (SELECT FROM changes c WHERE c.id = e."targetId" AND c.kind = CASE e."targetType" WHEN 'user' THEN 'user' ELSE 'key' END)`,
		"changes without event": `SELECT id FROM changes c WHERE NOT EXISTS (SELECT FROM ostiary_event e WHERE e."targetId" = c.id)`,
	} {
		if found := rows[string](h, query); len(found) > 0 {
			t.Errorf("%s: %d, such as %s", what, len(found), found[0])
		}
	}
}
