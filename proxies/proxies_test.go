// Package proxies_test runs real reverse proxies, configured as in
// examples/forward-auth, between a client that says what it likes, an
// application that believes what it is sent, and the service.
package proxies_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/internal/spellings"
)

const (
	secret  = "shared by the proxy and the service"
	host    = "app.test"
	example = "../examples/forward-auth/"
)

// world is a proxy with what stands before and behind it.
type world struct {
	*testing.T
	address string // of the proxy
	service *httptest.Server
	app     *application

	member, chief, narrow string // keys
	memberID              string
	cookie                string // of a session of the chief
}

// kinds are the proxies that Debian has.
var kinds = []struct {
	name  string
	start func(t *testing.T, config string)
	file  string
	down  int // what the client gets when the service is away
}{
	{"nginx", startNginx, "nginx.conf", 500},
	{"caddy", startCaddy, "Caddyfile", 502},
}

func TestProxies(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			w := newWorld(t)
			w.address = "127.0.0.1:" + freePort(t)
			config, err := os.ReadFile(example + k.file)
			if err != nil {
				t.Fatal(err)
			}
			k.start(t, strings.NewReplacer(
				"127.0.0.1:8000", w.address,
				"127.0.0.1:8080", strings.TrimPrefix(w.service.URL, "http://"),
				"127.0.0.1:9000", w.app.address,
				"SECRET", secretFor(k.name),
				"http://:8000", "http://:"+w.address[strings.LastIndexByte(w.address, ':')+1:],
			).Replace(string(config)))
			w.wait()

			t.Run("who may passes", func(t *testing.T) { w.with(t).whoMayPasses() })
			t.Run("who may not does not", func(t *testing.T) { w.with(t).whoMayNotDoesNot() })
			t.Run("identities cannot be forged", func(t *testing.T) { w.with(t).identitiesCannotBeForged() })
			t.Run("the question cannot be forged", func(t *testing.T) { w.with(t).theQuestionCannotBeForged() })
			t.Run("conditions and ranges are the application's", func(t *testing.T) { w.with(t).conditions() })
			t.Run("methods", func(t *testing.T) { w.with(t).methods() })
			t.Run("no spelling leads past the policy", func(t *testing.T) { w.with(t).spellings() })
			t.Run("closed when the service is away", func(t *testing.T) {
				w := w.with(t)
				w.service.Close()
				for _, path := range []string{"/x", "/public/x", "/admin/x"} {
					if got, arrived := w.send("GET", path, "x-api-key: "+w.chief); got.StatusCode != k.down || len(arrived) > 0 {
						t.Errorf("%s: got %d, and %d requests arrived", path, got.StatusCode, len(arrived))
					}
				}
			})
		})
	}
}

func secretFor(kind string) string {
	if kind == "caddy" {
		return strconv.Quote(secret)
	}
	return secret
}

func (w *world) with(t *testing.T) *world {
	c := *w
	c.T = t
	return &c
}

func (w *world) whoMayPasses() {
	for _, c := range []struct{ path, header string }{
		{"/x", "x-api-key: " + w.member},
		{"/x?y=/../z&%2e", "Authorization: Bearer " + w.member},
		{"/x/", "x-api-key: " + w.member},
		{"/", "x-api-key: " + w.member},
		{"/admin/secret", "x-api-key: " + w.chief},
		{"/%61dmin/secret", "x-api-key: " + w.chief},
		{"/admin", "Cookie: a=b; better-auth.session_token=" + w.cookie},
		{"/public/x", ""},
		{"/caf%C3%A9/a%20b", "x-api-key: " + w.member},
	} {
		got, arrived := w.send("GET", c.path, c.header)
		if got.StatusCode != 200 || len(arrived) != 1 || arrived[0].target != c.path {
			w.Errorf("%s with %.20s: got %d, arrived %+v", c.path, c.header, got.StatusCode, arrived)
		}
	}
}

func (w *world) whoMayNotDoesNot() {
	for _, c := range []struct {
		path, header string
		status       int
	}{
		{"/admin/secret", "x-api-key: " + w.member, 403},
		{"/admin", "x-api-key: " + w.member, 403},
		{"/admin/", "x-api-key: " + w.member, 403},
		{"/x", "x-api-key: " + w.narrow, 403}, // its owner may, and it is not granted it
		{"/x", "", 401},
		{"/admin/secret", "", 401},
		{"/x", "x-api-key: ost_nonsense", 401},
		{"/public/x", "Authorization: Bearer nonsense", 401},
		{"/x", "Cookie: better-auth.session_token=forged.signature", 401},
		{"/public", "Authorization: Basic eDp5", 401},
	} {
		got, arrived := w.send("GET", c.path, c.header)
		challenge := got.Header.Get("WWW-Authenticate")
		if got.StatusCode != c.status || len(arrived) > 0 || (c.status == 401) != strings.HasPrefix(challenge, "Bearer ") {
			w.Errorf("%s with %.20s: got %d, challenge %q, arrived %+v; want %d", c.path, c.header, got.StatusCode, challenge, arrived, c.status)
		}
	}
	// Two that differ are none.
	if got, arrived := w.send("GET", "/x", "x-api-key: "+w.member, "Authorization: Bearer "+w.chief); got.StatusCode != 403 && got.StatusCode != 400 || len(arrived) > 0 {
		w.Errorf("two credentials: got %d, arrived %+v", got.StatusCode, arrived)
	}
}

func (w *world) identitiesCannotBeForged() {
	forged := []string{
		"Ostiary-User: root", "Ostiary-Type: user", "Ostiary-Name: Root", "Ostiary-Username: root", "Ostiary-Email: root@example.com",
		"Ostiary-Email-Verified: true", "Ostiary-Roles: admin", "Ostiary-Credential: session", "Ostiary-Session: s", "Ostiary-Impersonator: i",
		"Ostiary-Key: k", "Ostiary-Decision: d", "ostiary-roles: admin", "OSTIARY-USER: root2",
	}
	_, arrived := w.send("GET", "/x", append(forged, "x-api-key: "+w.member)...)
	if len(arrived) != 1 {
		w.Fatalf("arrived: %+v", arrived)
	}
	h := arrived[0].header
	for name, want := range map[string]string{
		"Ostiary-User": w.memberID, "Ostiary-Type": "user", "Ostiary-Name": "M%C3%A9mb%C3%A9r%20%2B%25", "Ostiary-Username": "",
		"Ostiary-Email": "member@example.com", "Ostiary-Email-Verified": "false", "Ostiary-Roles": "user,editor",
		"Ostiary-Credential": "api_key", "Ostiary-Session": "", "Ostiary-Impersonator": "",
	} {
		if got := strings.Join(h[name], "|"); got != want {
			w.Errorf("%s: the application saw %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"Ostiary-Key", "Ostiary-Decision"} {
		if got := h[name]; len(got) != 1 || len(got[0]) < 16 {
			w.Errorf("%s: the application saw %q", name, got)
		}
	}
	if len(h["Ostiary-Forward-Secret"]) > 0 {
		w.Error("the application saw the secret")
	}

	_, arrived = w.send("GET", "/public/x", forged...)
	if len(arrived) != 1 {
		w.Fatalf("arrived: %+v", arrived)
	}
	for name, values := range arrived[0].header {
		value := strings.Join(values, "|")
		if strings.HasPrefix(name, "Ostiary-") && value != "" &&
			!(name == "Ostiary-Type" && value == "anonymous" || name == "Ostiary-Credential" && value == "none" || name == "Ostiary-Decision" && len(value) > 16) {
			w.Errorf("of nobody the application saw %s: %s", name, value)
		}
	}
}

func (w *world) theQuestionCannotBeForged() {
	for _, c := range [][]string{
		{"X-Original-URI: /public/x"}, {"X-Original-Method: OPTIONS"}, {"X-Original-URL: http://app.test/public/x"},
		{"X-Forwarded-Uri: /public/x"}, {"X-Forwarded-Method: OPTIONS"}, {"X-Forwarded-Host: elsewhere.test"},
		{"Forwarded: for=127.0.0.1;host=elsewhere.test"}, {"X-Rewrite-URL: /public/x"}, {"X-HTTP-Method-Override: OPTIONS"},
		{"X_Original_URI: /public/x"}, {"Ostiary-Forward-Secret: guess"}, {"Ostiary-At-Least: nonsense"},
		{"X-Original-URI: /public/x", "X-Forwarded-Uri: /public/x", "X-Original-Method: OPTIONS", "X-Forwarded-Method: OPTIONS"},
	} {
		got, arrived := w.send("GET", "/admin/secret", append(c, "x-api-key: "+w.member)...)
		if got.StatusCode != 403 || len(arrived) > 0 {
			w.Errorf("with %q: got %d, arrived %+v", c, got.StatusCode, arrived)
		}
		got, arrived = w.send("GET", "/admin/secret", append(c, "x-api-key: "+w.chief)...)
		if got.StatusCode != 200 || len(arrived) != 1 {
			w.Errorf("with %q, who may: got %d", c, got.StatusCode)
			continue
		}
		for _, name := range []string{"X-Original-Uri", "X-Original-Url", "X-Rewrite-Url", "X-Http-Method-Override", "Ostiary-Forward-Secret"} {
			if v := arrived[0].header[name]; len(v) > 0 {
				w.Errorf("the application saw %s: %q", name, v)
			}
		}
	}
	// The endpoints themselves are not to be had through the proxy, nor without
	// the secret.
	if got, _ := w.send("GET", "/_ostiary", "x-api-key: "+w.member); got.StatusCode == 200 && got.Header.Get("Ostiary-User") != "" {
		w.Error("the proxy's own question can be asked from outside")
	}
	resp, err := http.Get(w.service.URL + "/forward-auth/nginx")
	if err != nil {
		w.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 403 {
		w.Errorf("without the secret: got %d", resp.StatusCode)
	}
}

func (w *world) conditions() {
	for _, header := range []string{
		`If-None-Match: *`, `If-None-Match: "x"`, `If-Match: "x"`, "If-Modified-Since: Sun, 01 Jan 2090 00:00:00 GMT",
		"If-Unmodified-Since: Sun, 01 Jan 1990 00:00:00 GMT", "Range: bytes=0-0", "If-Range: \"x\"", "Expect: 100-continue", "Cache-Control: only-if-cached", "Accept-Encoding: br",
	} {
		if got, arrived := w.send("GET", "/x", header, "x-api-key: "+w.member); got.StatusCode != 200 || len(arrived) != 1 {
			w.Errorf("%s: got %d, arrived %d", header, got.StatusCode, len(arrived))
		}
		if got, arrived := w.send("GET", "/admin", header, "x-api-key: "+w.member); got.StatusCode != 403 || len(arrived) > 0 {
			w.Errorf("%s, who may not: got %d, arrived %d", header, got.StatusCode, len(arrived))
		}
	}
}

func (w *world) methods() {
	for _, c := range []struct {
		method, path, header string
		status               int
	}{
		{"HEAD", "/x", "x-api-key: " + w.member, 200},
		{"HEAD", "/public/x", "", 200},
		{"HEAD", "/admin", "x-api-key: " + w.member, 403},
		{"HEAD", "/x", "", 401},
		{"OPTIONS", "/x", "", 200},
		{"OPTIONS", "/admin/secret", "", 401},
		{"POST", "/x", "x-api-key: " + w.member, 200},
		{"POST", "/public/x", "", 401},
		{"DELETE", "/admin/secret", "x-api-key: " + w.member, 403},
		{"DELETE", "/admin/secret", "x-api-key: " + w.chief, 200},
		{"PROPFIND", "/x", "x-api-key: " + w.member, 200},
		{"PROPFIND", "/public/x", "", 401},
	} {
		got, arrived := w.send(c.method, c.path, c.header)
		if got.StatusCode != c.status || (c.status == 200) != (len(arrived) == 1) || len(arrived) == 1 && arrived[0].method != c.method {
			w.Errorf("%s %s: got %d, arrived %+v; want %d", c.method, c.path, got.StatusCode, arrived, c.status)
		}
	}
	for _, method := range []string{"TRACE", "CONNECT", "get", "G@T", "OPTIONS"} {
		target := "*"
		if method != "OPTIONS" {
			target = "/admin/secret"
		}
		if got, arrived := w.send(method, target, "x-api-key: "+w.member); got.StatusCode < 400 && method != "OPTIONS" || len(arrived) > 0 {
			w.Errorf("%s %s: got %d, arrived %+v", method, target, got.StatusCode, arrived)
		}
	}
}

func (w *world) spellings() {
	all := spellings.Attacks(host)
	if len(all) < 60 {
		w.Fatalf("only %d spellings", len(all))
	}
	for _, target := range all {
		for _, header := range []string{"", "x-api-key: " + w.member} {
			got, arrived := w.send("GET", target, header)
			for _, a := range arrived {
				for _, reading := range spellings.Readings(a.target) {
					if strings.HasPrefix(reading, "/admin") {
						w.Errorf("%q with %.12s: got %d; it reached the application as %q, which can be read as %s", target, header, got.StatusCode, a.target, reading)
						break
					}
				}
			}
		}
	}
}

// ---- The parts ----

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, app: newApplication(t)}
	var log lockedBuffer
	const signing = "the secret that signs the cookies"
	o, err := ostiary.Open(t.Context(), ostiary.Options{
		Database: "sqlite::memory:", Secrets: []string{signing}, PoliciesDir: example + "policies",
		ForwardSecrets: []string{"the secret before this one, still good", secret},
		Log:            slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
		if strings.Contains(log.String(), secret) || strings.Contains(log.String(), w.member) {
			t.Error("the log holds a secret")
		}
		if t.Failed() {
			t.Logf("log of the service:\n%s", log.String())
		}
	})
	w.service = httptest.NewServer(o.Handler())
	t.Cleanup(w.service.Close)

	system := authn.System("test")
	person := func(name, email string, roles ...string) authn.User {
		t.Helper()
		u, err := o.Authn().CreateUser(t.Context(), system, authn.NewUser{Name: name, Email: email, Password: "correct-horse-1", Roles: roles, RolesGiven: true})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	key := func(owner string, grants authz.Permissions) string {
		t.Helper()
		_, k, err := o.Authn().CreateKey(t.Context(), system, authn.NewKey{OwnerID: owner, Permissions: grants})
		if err != nil {
			t.Fatal(err)
		}
		return k.Reveal()
	}
	member := person("Mémbér +%", "member@example.com", "user", "editor")
	chief := person("Chief", "chief@example.com", "admin")
	w.memberID = member.ID
	w.member = key(member.ID, authz.Permissions{"*": {"*"}})
	w.chief = key(chief.ID, authz.Permissions{"site": {"use", "administer"}})
	w.narrow = key(chief.ID, authz.Permissions{"document": {"read"}})
	in, err := o.Authn().SignIn(t.Context(), authn.Principal{}, authn.SignIn{Email: "chief@example.com", Password: "correct-horse-1"})
	if err != nil {
		t.Fatal(err)
	}
	w.cookie = authn.SignCookie(signing, in.Session.Token.Reveal())
	return w
}

// answer is what the client got.
type answer struct {
	StatusCode int
	Header     http.Header
}

// send sends a request as it is written here, and returns the answer and what
// arrived at the application meanwhile.
func (w *world) send(method, target string, headers ...string) (answer, []arrival) {
	w.Helper()
	w.app.take()
	conn, err := net.DialTimeout("tcp", w.address, 5*time.Second)
	if err != nil {
		w.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", method, target, host)
	for _, h := range headers {
		if h != "" {
			b.WriteString(h + "\r\n")
		}
	}
	if method == "POST" {
		b.WriteString("Content-Length: 4\r\n\r\nbody")
	} else {
		b.WriteString("\r\n")
	}
	if _, err := conn.Write(b.Bytes()); err != nil {
		w.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for {
		resp, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			// Some spellings are so bad that the proxy hangs up.
			return answer{StatusCode: 400, Header: http.Header{}}, w.app.take()
		}
		if resp.StatusCode < 200 { // 100 Continue
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return answer{resp.StatusCode, resp.Header}, w.app.take()
	}
}

// wait waits until the proxy answers.
func (w *world) wait() {
	w.Helper()
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("tcp", w.address); err == nil {
			conn.Close()
			return
		}
	}
	w.Fatal("the proxy does not listen")
}

// application notes what reaches it, as it stands on the wire.
type application struct {
	address string
	mu      sync.Mutex
	seen    []arrival
}

type arrival struct {
	method, target string
	header         textproto.MIMEHeader
}

func newApplication(t *testing.T) *application {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &application{address: l.Addr().String()}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); l.Close(); running.Wait() })
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { conn.Close() })
			running.Go(func() { a.serve(conn) })
		}
	})
	return a
}

func (a *application) serve(conn net.Conn) {
	defer conn.Close()
	r := textproto.NewReader(bufio.NewReader(conn))
	for {
		line, err := r.ReadLine()
		if err != nil {
			return
		}
		header, err := r.ReadMIMEHeader()
		if err != nil {
			return
		}
		method, rest, _ := strings.Cut(line, " ")
		target := rest[:max(0, strings.LastIndexByte(rest, ' '))]
		if n, _ := strconv.Atoi(header.Get("Content-Length")); n > 0 {
			_, _ = io.CopyN(io.Discard, r.R, int64(n))
		}
		a.mu.Lock()
		a.seen = append(a.seen, arrival{method, target, header})
		a.mu.Unlock()
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: \"x\"\r\n\r\n")
		if method != "HEAD" {
			fmt.Fprint(conn, "ok")
		}
	}
}

// take returns what has arrived since the last call.
func (a *application) take() []arrival {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := a.seen
	a.seen = nil
	return seen
}

func startNginx(t *testing.T, config string) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ostiary.conf"), config)
	write(t, filepath.Join(dir, "nginx.conf"), `worker_processes 1;
daemon off;
pid nginx.pid;
error_log stderr crit;
events { worker_connections 512; }
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	include ostiary.conf;
}
`)
	start(t, find(t, "nginx"), "-p", dir, "-e", "stderr", "-c", filepath.Join(dir, "nginx.conf"))
}

func startCaddy(t *testing.T, config string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	write(t, filepath.Join(dir, "Caddyfile"), "{\n\tadmin off\n}\n"+config)
	start(t, find(t, "caddy"), "run", "--adapter", "caddyfile", "--config", filepath.Join(dir, "Caddyfile"))
}

// find finds a proxy; where users have them, servers are not on the path.
func find(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path, err := exec.LookPath("/usr/sbin/" + name)
	if err != nil {
		t.Fatalf("this test needs %s: apt-get install %s", name, name)
	}
	return path
}

func start(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var log lockedBuffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, log.String())
		}
	})
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
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
