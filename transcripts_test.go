package ostiary_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/internal/pgtest"
	"github.com/ostiary/ostiary/server/betterauth"
	"github.com/ostiary/ostiary/server/request"
)

// Transcripts are exchanges that were recorded from Better Auth. Each case
// starts from an empty database on a server of its profile, runs its fixture's
// steps and then its own, and every answer has to be exactly the recorded one,
// or the one that testdata/betterauth/differences.json lists in its stead.
//
// Two headers may be there that were not recorded, since our contract asks for
// them: Cache-Control: no-store on answers to and about somebody, and
// WWW-Authenticate where a credential is not good.
//
// They are played on both databases, each case on an empty one.
// OSTIARY_WIRE_TRANSCRIPTS names another folder of recordings.

type transcript struct {
	Format, Area, Secret string
	Fixtures             map[string]struct{ Steps []wireStep }
	Cases                []wireCase
}

type wireCase struct {
	Name, Profile, Fixture string
	Steps                  []wireStep
}

type wireStep struct {
	Name     string
	Request  *wireRequest
	Response *wireResponse
	SQL      string
	Rows     *[]any
	RowCount *int64
	SleepMs  int
}

type wireRequest struct {
	Method, Path string
	Headers      map[string]string
	Body         json.RawMessage
	RawBody      *string
	Server       string
}

type wireResponse struct {
	Status  int               `json:"status,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Cookies []wireCookie      `json:"cookies,omitempty"`
	Body    json.RawMessage   `json:"body,omitempty"`
	Empty   bool              `json:"empty,omitempty"`
	Text    *string           `json:"text,omitempty"`
	// Of SQL steps, in the list of differences.
	Rows     *[]any `json:"rows,omitempty"`
	RowCount *int64 `json:"rowCount,omitempty"`
}

type wireCookie struct {
	Name       string         `json:"name"`
	Value      string         `json:"value"`
	Attributes map[string]any `json:"attributes"`
}

// difference is a step that we answer otherwise on purpose.
type difference struct {
	File, Case, Step string
	Rule             int    // of the contract, section 6
	Why              string // in the words of that rule
	Response         wireResponse
}

func TestTranscripts(t *testing.T) {
	for _, database := range []string{"sqlite", "postgres"} {
		t.Run(database, func(t *testing.T) { playTranscripts(t, database) })
	}
}

func playTranscripts(t *testing.T, database string) {
	folder := os.Getenv("OSTIARY_WIRE_TRANSCRIPTS")
	if folder == "" {
		folder = "testdata/betterauth/transcripts"
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts in %s (%v)", folder, err)
	}
	differences := readDifferences(t)
	var mu sync.Mutex
	var all, passed, failed, differing int
	t.Run("all", func(t *testing.T) {
		for _, file := range files {
			area := strings.TrimSuffix(filepath.Base(file), ".json")
			var tr transcript
			readJSON(t, file, &tr)
			if tr.Format != "ba-wire-transcript/1" {
				t.Fatalf("%s: unknown format %q", file, tr.Format)
			}
			all += len(tr.Cases)
			for _, c := range tr.Cases {
				t.Run(area+"/"+c.Name, func(t *testing.T) {
					t.Parallel()
					r := &run{t: t, database: database, area: area, c: c, differences: differences}
					defer func() {
						mu.Lock()
						defer mu.Unlock()
						switch {
						case t.Failed():
							failed++
						case r.differing:
							differing++
						default:
							passed++
						}
					}()
					r.play(tr)
				})
			}
		}
	})
	t.Logf("transcripts: %d cases passed, %d failed, %d with listed differences (%d steps)", passed, failed, differing, len(differences))
	if os.Getenv("OSTIARY_WIRE_TRANSCRIPTS") == "" && passed+differing == all {
		for at, d := range differences {
			if !d.seen {
				t.Errorf("listed difference in a step that did not run: %s", at)
			}
		}
	}
}

type listedDifference struct {
	difference
	seen bool
}

func readDifferences(t *testing.T) map[string]*listedDifference {
	var list []difference
	readJSON(t, "testdata/betterauth/differences.json", &list)
	m := map[string]*listedDifference{}
	for _, d := range list {
		at := d.File + "/" + d.Case + "/" + d.Step
		if m[at] != nil {
			t.Fatalf("differences.json lists %s twice", at)
		}
		if d.Rule < 1 || d.Rule > 12 || d.Why == "" {
			t.Fatalf("differences.json: %s does not say why", at)
		}
		m[at] = &listedDifference{difference: d}
	}
	return m
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// run is one case being played.
type run struct {
	t           *testing.T
	database    string // "sqlite" or "postgres"
	area        string
	c           wireCase
	differences map[string]*listedDifference
	differing   bool

	o      *ostiary.Ostiary
	db     *sql.DB
	base   string // what <base> stands for
	url    string // where the server is
	client *http.Client
	secret string
	bound  map[string]string
}

func (r *run) play(tr transcript) {
	t := r.t
	o := profile(t, r.c.Profile)
	o.Secrets = []string{tr.Secret}
	var err error
	o.Database, r.db = r.empty()
	if r.o, err = ostiary.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r.o.Handler())
	t.Cleanup(func() {
		server.Close()
		if err := r.o.Close(); err != nil {
			t.Error(err)
		}
	})
	r.secret, r.url, r.base = tr.Secret, server.URL, server.URL
	if o.Auth.BaseURL != "" {
		r.base = o.Auth.BaseURL
	}
	r.client = server.Client()
	r.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	var ip [2]byte
	_, _ = rand.Read(ip[:])
	r.bound = map[string]string{
		"ip:a": fmt.Sprintf("198.18.%d.%d", ip[0], ip[1]),
		"ip:b": fmt.Sprintf("198.19.%d.%d", ip[0], ip[1]),
	}
	if r.c.Fixture != "" {
		fixture, ok := tr.Fixtures[r.c.Fixture]
		if !ok {
			t.Fatalf("unknown fixture %q", r.c.Fixture)
		}
		for _, s := range fixture.Steps {
			r.step(s, nil)
		}
	}
	for _, s := range r.c.Steps {
		r.step(s, r.differences[r.area+"/"+r.c.Name+"/"+s.Name])
	}
}

// empty makes an empty database and opens it for the recorded SQL.
func (r *run) empty() (string, *sql.DB) {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "ostiary.db")
	driver, name, dsn := "sqlite", "sqlite:"+path, "file:"+path+"?_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)&_txlock=immediate"
	if r.database == "postgres" {
		dsn = pgtest.Schema(r.t)
		driver, name = "pgx", dsn
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { db.Close() })
	return name, db
}

// step plays one step. A failure ends the case: what follows rests on it.
func (r *run) step(s wireStep, d *listedDifference) {
	r.t.Helper()
	before := maps.Clone(r.bound)
	var check func(want wireResponse) []string
	recorded := wireResponse{Rows: s.Rows, RowCount: s.RowCount}
	if s.Response != nil {
		recorded = *s.Response
	}
	switch {
	case s.SleepMs > 0:
		time.Sleep(time.Duration(s.SleepMs) * time.Millisecond)
		return
	case s.SQL != "":
		check = r.sql(s)
	case s.Request.Server != "":
		status, body := r.call(s.Request.Server, r.substitute(string(s.Request.Body)))
		check = func(want wireResponse) []string { return r.compareCall(want, status, body) }
	default:
		check = r.http(s.Request)
	}
	want := recorded
	if d != nil {
		d.seen, r.differing = true, true
		want = d.Response
	}
	if wrong := check(want); len(wrong) > 0 {
		r.t.Fatalf("%s:\n  %s", s.Name, strings.Join(wrong, "\n  "))
	}
	if d != nil {
		after := r.bound
		r.bound = before
		if len(check(recorded)) == 0 {
			r.t.Errorf("%s: listed as a difference, but it is none", s.Name)
		}
		r.bound = after
	}
}

// ---- Profiles ----

func profile(t *testing.T, name string) ostiary.Options {
	noPrefix := ""
	o := ostiary.Options{
		// What Better Auth's defaults are.
		Authn: authn.Options{Keys: authn.KeyOptions{Prefix: &noPrefix, RateLimitMax: 10, RateLimitWindow: 24 * time.Hour}},
		Auth:  betterauth.Options{TrustedOrigins: []string{"https://trusted.example"}},
	}
	switch name {
	case "default":
	case "no-key-session":
		o.Request.KeyHeaders = []string{}
	case "rate-limited":
		o.Auth.RateLimit = true
	case "cookie-cache":
		o.Auth.CookieCache = true
	case "https":
		o.Auth.CookieCache = true
		o.Auth.BaseURL = "https://auth.example.test"
		o.Request.SecureCookies = true
	case "custom-roles":
		o.Policies = fstest.MapFS{"data.json": {Data: []byte(customRoles)}}
		o.Authn.AdminRoles = []string{"admin", "superadmin", "everything"}
		o.Authn.AdminIDs = []string{"root-user"}
		o.Authn.DefaultBanReason, o.Authn.DefaultBanLife = "Spamming", time.Hour
		o.Authn.ImpersonationLife = 10 * time.Minute
		o.Auth.BannedMessage = "Account suspended"
	case "self-service":
		o.Auth.ChangeEmail, o.Auth.DeleteUser = true, true
	case "key-config":
		prefix := "lab_"
		o.Request = request.Options{KeyHeaders: []string{"x-lab-key", "x-api-key"}}
		o.Auth.MinKeyLength = 40
		o.Authn.Keys = authn.KeyOptions{
			Prefix: &prefix, NameRequired: true, Length: 40, NameMin: 2, NameMax: 10, PrefixMin: 2, PrefixMax: 8,
			StartLength: 10, DefaultLife: 24 * time.Hour, MinLife: 12 * time.Hour, MaxLife: 30 * 24 * time.Hour,
			MetadataDisabled: true, DefaultPermissions: authz.Permissions{"files": {"read"}},
			RateLimitDisabled: true, RateLimitMax: 10, RateLimitWindow: 24 * time.Hour,
		}
	case "verify-email":
		o.Authn.RequireVerifiedEmail = true
	default:
		t.Fatalf("unknown profile %q", name)
	}
	return o
}

// customRoles are the roles of the profile as an author's bundle. The role
// "everything" is held by nobody but, through AdminRoles, the configured
// administrators: to Better Auth they may do whatever is asked about.
const customRoles = `{"roles": {
	"admin": {
		"user": ["create", "list", "set-role", "ban", "impersonate", "delete", "set-password", "set-email", "set-phone", "get", "update"],
		"session": ["list", "revoke", "delete"], "project": ["create", "update"]
	},
	"superadmin": {
		"user": ["create", "list", "set-role", "ban", "impersonate", "impersonate-admins", "delete", "set-password", "set-email", "set-phone", "get", "update"],
		"session": ["list", "revoke", "delete"], "project": ["create", "share", "update", "delete"]
	},
	"user": {"project": ["create"]},
	"support": {"user": ["list", "get", "ban"], "session": ["list"]},
	"provisioner": {"user": ["create"]},
	"editor": {"user": ["update"]},
	"everything": {"*": ["*"]}
}}`

// ---- HTTP ----

// headers are those that are compared.
var headers = []string{"content-type", "location", "x-retry-after", "retry-after", "cache-control", "pragma", "allow", "www-authenticate"}

func (r *run) http(q *wireRequest) func(wireResponse) []string {
	var body io.Reader
	switch {
	case q.RawBody != nil:
		body = strings.NewReader(r.substitute(*q.RawBody))
	case q.Body != nil:
		var compact bytes.Buffer
		if err := json.Compact(&compact, q.Body); err != nil {
			r.t.Fatal(err)
		}
		body = strings.NewReader(r.substitute(compact.String()))
	}
	req, err := http.NewRequestWithContext(r.t.Context(), q.Method, r.url+r.substitute(q.Path), body)
	if err != nil {
		r.t.Fatal(err)
	}
	for name, value := range q.Headers {
		req.Header.Set(name, r.substitute(value))
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	now := time.Now()
	return func(want wireResponse) []string {
		m := &matching{r: r, now: now}
		if resp.StatusCode != want.Status {
			m.wrong("status: got %d, want %d", resp.StatusCode, want.Status)
		}
		m.headers(want.Headers, resp.Header)
		m.cookies(want.Cookies, resp.Header["Set-Cookie"])
		switch {
		case want.Empty:
			if len(got) > 0 {
				m.wrong("body: got %s, want none", got)
			}
		case want.Text != nil:
			m.match("body", *want.Text, string(got))
		default:
			m.json("body", want.Body, got)
		}
		if len(m.problems) > 0 {
			m.wrong("answer: %d %s", resp.StatusCode, got)
		}
		return m.done()
	}
}

func (m *matching) headers(want map[string]string, got http.Header) {
	for _, name := range headers {
		w, expected := want[name]
		g := got.Get(name)
		switch {
		case expected:
			if strings.Contains(w, "<number>") {
				w = "<number>"
			}
			m.match("header "+name, w, g)
		case name == "cache-control" && g == "no-store", name == "www-authenticate" && strings.HasPrefix(g, "Bearer"):
		case g != "":
			m.wrong("header %s: got %q, want none", name, g)
		}
	}
}

func (m *matching) cookies(want []wireCookie, lines []string) {
	byName := map[string][]wireCookie{}
	for _, line := range lines {
		c := parseSetCookie(m, line)
		byName[c.Name] = append(byName[c.Name], c)
	}
	wanted := map[string][]wireCookie{}
	for _, c := range want {
		wanted[c.Name] = append(wanted[c.Name], c)
	}
	for name := range byName {
		if wanted[name] == nil {
			m.wrong("cookie %s: got %d, want none", name, len(byName[name]))
		}
	}
	for name, ws := range wanted {
		gs := byName[name]
		if len(gs) != len(ws) {
			m.wrong("cookie %s: got %d, want %d", name, len(gs), len(ws))
			continue
		}
		for i := range ws {
			if !reflect.DeepEqual(ws[i].Attributes, gs[i].Attributes) {
				m.wrong("cookie %s: got %v, want %v", name, gs[i].Attributes, ws[i].Attributes)
			}
			m.match("cookie "+name, ws[i].Value, gs[i].Value)
			if gs[i].Value != "" && !strings.Contains(name, "session_data") {
				if _, ok := authn.VerifyCookie([]string{m.r.secret}, gs[i].Value); !ok {
					m.wrong("cookie %s: bad signature: %s", name, gs[i].Value)
				}
			}
		}
	}
}

// parseSetCookie also checks that the header is written exactly as Better Auth
// writes it.
func parseSetCookie(m *matching, line string) wireCookie {
	parts := strings.Split(line, "; ")
	c := wireCookie{Attributes: map[string]any{}}
	c.Name, c.Value, _ = strings.Cut(parts[0], "=")
	again := parts[0]
	for _, p := range parts[1:] {
		name, value, ok := strings.Cut(p, "=")
		switch n, err := strconv.Atoi(value); {
		case !ok:
			c.Attributes[name] = true
		case name == "Max-Age" && err == nil:
			c.Attributes[name] = float64(n)
		default:
			c.Attributes[name] = value
		}
	}
	for _, name := range []string{"Max-Age", "Domain", "Path", "HttpOnly", "Secure", "SameSite"} {
		switch v := c.Attributes[name].(type) {
		case nil:
		case bool:
			again += "; " + name
		default:
			again += fmt.Sprintf("; %s=%v", name, v)
		}
	}
	if again != line {
		m.wrong("cookie: got %q, want it written as %q", line, again)
	}
	return c
}

// ---- Matching ----

// matching compares one answer. What it binds counts only if all of it fits.
type matching struct {
	r        *run
	now      time.Time
	problems []string
	later    []func() // checks that need what the rest binds
	fresh    map[string]string
}

func (m *matching) wrong(format string, args ...any) {
	m.problems = append(m.problems, fmt.Sprintf(format, args...))
}

func (m *matching) done() []string {
	for _, check := range m.later {
		check()
	}
	if len(m.problems) == 0 {
		maps.Copy(m.r.bound, m.fresh)
	}
	return m.problems
}

func (m *matching) value(name string) (string, bool) {
	if v, ok := m.fresh[name]; ok {
		return v, true
	}
	v, ok := m.r.bound[name]
	return v, ok
}

func (m *matching) bind(name, v string) {
	if m.fresh == nil {
		m.fresh = map[string]string{}
	}
	m.fresh[name] = v
}

func (m *matching) json(at string, want, got []byte) {
	var w, g any
	if err := json.Unmarshal(want, &w); err != nil {
		m.r.t.Fatalf("%s: %v", at, err)
	}
	if err := json.Unmarshal(got, &g); err != nil {
		m.wrong("%s: got %q, which is no JSON", at, got)
		return
	}
	m.match(at, w, g)
}

func (m *matching) match(at string, want, got any) {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			m.wrong("%s: got %v, want an object", at, got)
			return
		}
		for _, k := range slices.Sorted(maps.Keys(w)) {
			if v, ok := g[k]; ok {
				m.match(at+"."+k, w[k], v)
			} else {
				m.wrong("%s.%s: missing", at, k)
			}
		}
		for k := range g {
			if _, ok := w[k]; !ok {
				m.wrong("%s.%s: got %v, want none", at, k, g[k])
			}
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			m.wrong("%s: got %v, want a list of %d", at, got, len(w))
			return
		}
		for i := range w {
			m.match(fmt.Sprintf("%s[%d]", at, i), w[i], g[i])
		}
	case string:
		m.text(at, w, got)
	default:
		if !reflect.DeepEqual(want, got) {
			m.wrong("%s: got %v, want %v", at, got, want)
		}
	}
}

var (
	placeholder = regexp.MustCompile(`<((?:id|token|key|cookie|ip):[^<>]+|base|text|number|datetime(?::[+-]\d+s)?|start:\d+:[^<>]+)>`)
	datetime    = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)
)

// text compares a text that may hold placeholders.
func (m *matching) text(at, want string, got any) {
	if want == "<number>" {
		if n, ok := got.(float64); ok && n == n {
			return
		}
		if s, ok := got.(string); ok {
			if _, err := strconv.ParseFloat(s, 64); err == nil {
				return
			}
		}
		m.wrong("%s: got %v, want a number", at, got)
		return
	}
	g, ok := got.(string)
	if !ok {
		m.wrong("%s: got %v, want %q", at, got, want)
		return
	}
	var pattern strings.Builder
	var names []string
	last := 0
	for _, span := range placeholder.FindAllStringSubmatchIndex(want, -1) {
		pattern.WriteString(regexp.QuoteMeta(want[last:span[0]]))
		pattern.WriteString("(.+)")
		names = append(names, want[span[2]:span[3]])
		last = span[1]
	}
	pattern.WriteString(regexp.QuoteMeta(want[last:]))
	found := regexp.MustCompile(`(?s)^` + pattern.String() + `$`).FindStringSubmatch(g)
	if found == nil {
		m.wrong("%s: got %q, want %q", at, g, want)
		return
	}
	for i, name := range names {
		m.placed(at, name, found[i+1])
	}
}

func (m *matching) placed(at, name, got string) {
	kind, rest, _ := strings.Cut(name, ":")
	switch kind {
	case "text":
	case "base":
		if got != m.r.base {
			m.wrong("%s: got %q, want %q", at, got, m.r.base)
		}
	case "datetime":
		t, err := time.Parse(time.RFC3339, got)
		if err != nil || !datetime.MatchString(got) {
			m.wrong("%s: got %q, want a date", at, got)
			return
		}
		if rest != "" {
			in, err := time.ParseDuration(strings.TrimPrefix(rest, "+"))
			if err != nil {
				m.r.t.Fatal(err)
			}
			if off := t.Sub(m.now.Add(in)); off.Abs() > 30*time.Second {
				m.wrong("%s: got %q, which is %v off now%s", at, got, off, rest)
			}
		}
	case "start":
		length, key, _ := strings.Cut(rest, ":")
		n, _ := strconv.Atoi(length)
		m.later = append(m.later, func() {
			whole, ok := m.value("key:" + key)
			if !ok || len(whole) < n || whole[:n] != got {
				m.wrong("%s: got %q, want the first %d of <key:%s>", at, got, n, key)
			}
		})
	default:
		if v, ok := m.value(name); !ok {
			m.bind(name, got)
		} else if v != got {
			m.wrong("%s: got %q, want <%s>, which is %q", at, got, name, v)
		}
	}
}

// substitute puts in what is bound.
func (r *run) substitute(s string) string {
	return placeholder.ReplaceAllStringFunc(s, func(p string) string {
		name := p[1 : len(p)-1]
		if name == "base" {
			return r.base
		}
		v, ok := r.bound[name]
		if !ok && r.differing && strings.HasPrefix(name, "cookie:") {
			// A listed difference kept it from being issued. What is asked with
			// it then stands for a cookie that is signed well and nobody's.
			return authn.SignCookie(r.secret, rand.Text())
		}
		if !ok {
			r.t.Fatalf("%s is not bound", p)
		}
		return v
	})
}

// ---- SQL ----

// sql runs a recorded statement on the database itself. The recordings are of
// Postgres; what they use of it is little enough to be put into SQLite's words.
func (r *run) sql(s wireStep) func(wireResponse) []string {
	statement, patterns := r.substitute(s.SQL), map[string]*regexp.Regexp(nil)
	if r.database == "sqlite" {
		statement, patterns = sqliteWords(statement)
	}
	// What somebody else writes is noticed by the change feed, in its time;
	// here at once.
	defer r.o.Authn().Forget("", "")
	if s.RowCount != nil {
		result, err := r.db.ExecContext(r.t.Context(), statement)
		if err != nil {
			r.t.Fatalf("%s: %v", statement, err)
		}
		n, _ := result.RowsAffected()
		return func(want wireResponse) []string {
			if want.RowCount == nil || n != *want.RowCount {
				return []string{fmt.Sprintf("rows: got %d, want %v", n, want.RowCount)}
			}
			return nil
		}
	}
	if err := r.o.Authn().FlushTouches(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	got := r.query(statement, patterns)
	now := time.Now()
	return func(want wireResponse) []string {
		m := &matching{r: r, now: now}
		if want.Rows == nil {
			return []string{"no rows to compare with"}
		}
		m.match("rows", *want.Rows, likewise(*want.Rows, got))
		return m.done()
	}
}

func (r *run) query(statement string, patterns map[string]*regexp.Regexp) []any {
	rows, err := r.db.QueryContext(r.t.Context(), statement)
	if err != nil {
		r.t.Fatalf("%s: %v", statement, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		r.t.Fatal(err)
	}
	got := []any{}
	for rows.Next() {
		values := make([]any, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			r.t.Fatal(err)
		}
		row := map[string]any{}
		for i, name := range columns {
			switch v := values[i].(type) {
			case int64:
				row[name] = float64(v)
			case int32:
				row[name] = float64(v)
			case time.Time:
				row[name] = v.UTC().Format("2006-01-02T15:04:05.000Z")
			case []byte:
				row[name] = string(v)
			default:
				row[name] = v
			}
			if p := patterns[name]; p != nil {
				row[name] = p.MatchString(fmt.Sprint(row[name]))
			}
		}
		got = append(got, row)
	}
	if err := rows.Err(); err != nil {
		r.t.Fatal(err)
	}
	return got
}

// likewise turns the numbers 0 and 1, which SQLite has for booleans, into
// booleans where such are wanted.
func likewise(want, got any) any {
	switch w := want.(type) {
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return got
		}
		out := make([]any, len(g))
		for i := range g {
			out[i] = likewise(w[i], g[i])
		}
		return out
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return got
		}
		out := map[string]any{}
		for k, v := range g {
			out[k] = likewise(w[k], v)
		}
		return out
	case bool:
		if got == 0.0 || got == 1.0 {
			return got == 1.0
		}
	}
	return got
}

var (
	pgCast     = regexp.MustCompile(`::[a-z]+`)
	pgNow      = regexp.MustCompile(`now\(\)(?: ([+-]) interval '([^']*)')?`)
	pgMatches  = regexp.MustCompile(`\(([^()~]+) ~ '([^']*)'\) as "?(\w+)"?`)
	pgSHA256   = regexp.MustCompile(`translate\(rtrim\(encode\(sha256\('([^']*)'\),'base64'\),'='\),'\+/','-_'\)`)
	wholeTime  = regexp.MustCompile(`'(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)Z'`)
	sqlitePart = regexp.MustCompile(`(\d+) (\w+)`)
)

// sqliteWords rewrites a statement, and returns the patterns that its columns
// are to be matched with here, since SQLite has no regular expressions.
func sqliteWords(s string) (string, map[string]*regexp.Regexp) {
	s = pgCast.ReplaceAllString(s, "")
	s = wholeTime.ReplaceAllString(s, "'$1.000Z'")
	s = pgNow.ReplaceAllStringFunc(s, func(now string) string {
		found := pgNow.FindStringSubmatch(now)
		out := `strftime('%Y-%m-%dT%H:%M:%fZ','now'`
		for _, part := range sqlitePart.FindAllString(found[2], -1) {
			out += ",'" + found[1] + part + "'"
		}
		return out + ")"
	})
	s = pgSHA256.ReplaceAllStringFunc(s, func(call string) string {
		sum := sha256.Sum256([]byte(pgSHA256.FindStringSubmatch(call)[1]))
		return "'" + base64.RawURLEncoding.EncodeToString(sum[:]) + "'"
	})
	patterns := map[string]*regexp.Regexp{}
	s = pgMatches.ReplaceAllStringFunc(s, func(column string) string {
		found := pgMatches.FindStringSubmatch(column)
		patterns[found[3]] = regexp.MustCompile(found[2])
		return found[1] + ` as "` + found[3] + `"`
	})
	return s, patterns
}

// ---- Functions of the server ----

// call runs what was recorded as an in-process call of a server function,
// through the SDK as the system itself.
func (r *run) call(function, body string) (int, any) {
	system := authn.System("transcript")
	auth, ctx := r.o.Authn(), r.t.Context()
	var in callBody
	if body != "" {
		if err := json.Unmarshal([]byte(body), &in); err != nil {
			// The SDK is typed: what is of another shape can't be said.
			return 400, wireError("[body.permissions.a] Invalid input: expected array, received string", "VALIDATION_ERROR")
		}
	}
	switch function {
	case "createUser":
		role := ""
		if in.Role != nil {
			role = *in.Role
		}
		u, err := auth.CreateUser(ctx, system, authn.NewUser{
			ID: in.Data.ID, Name: *in.Name, Email: in.Email, Password: authn.Secret(in.Password), Roles: []string{role},
		})
		r.must(err)
		return 200, map[string]any{"user": wireUser(u)}
	case "createApiKey":
		key, secret, err := auth.CreateKey(ctx, system, authn.NewKey{
			OwnerID: in.UserID, Name: in.Name, Permissions: in.Permissions, Limits: in.limits(),
		})
		r.must(err)
		out := wireKey(key)
		out["key"] = secret.Reveal()
		return 200, out
	case "updateApiKey":
		key, err := auth.UpdateKey(ctx, system, in.KeyID, authn.KeyChange{OwnerID: in.UserID, Limits: in.limits()})
		r.must(err)
		return 200, wireKey(key)
	case "verifyApiKey":
		if in.Key == nil {
			return 400, wireError("[body.key] Invalid input: expected string, received undefined", "VALIDATION_ERROR")
		}
		v, err := auth.VerifyKey(ctx, system, authn.Secret(*in.Key), in.Permissions)
		r.must(err)
		if v.Err != nil {
			return 200, map[string]any{"valid": false, "error": keyError(v.Err), "key": nil}
		}
		return 200, map[string]any{"valid": true, "error": nil, "key": wireKey(*v.Key)}
	case "deleteAllExpiredApiKeys":
		_, err := auth.DeleteEndedKeys(ctx, system)
		r.must(err)
		return 200, map[string]any{"success": true, "error": nil}
	case "userHasPermission":
		return r.hasPermission(ctx, in)
	}
	r.t.Fatalf("unknown server function %q", function)
	return 0, nil
}

type callBody struct {
	Email, Password, UserID, KeyID string
	Name, Key, Role                *string
	Data                           struct{ ID string }
	Permissions                    authz.Permissions
	Remaining                      *int64
	RefillAmount                   *int64
	RefillInterval                 *int64
	RateLimitEnabled               *bool
	RateLimitMax                   *int64
	RateLimitTimeWindow            *int64
}

func (in *callBody) limits() authn.KeyLimits {
	given := func(p *int64) **int64 {
		if p == nil {
			return nil
		}
		return &p
	}
	return authn.KeyLimits{
		Remaining: given(in.Remaining), RefillAmount: given(in.RefillAmount), RefillInterval: given(in.RefillInterval),
		RateLimitEnabled: in.RateLimitEnabled, RateLimitMax: given(in.RateLimitMax), RateLimitTimeWindow: given(in.RateLimitTimeWindow),
	}
}

func (r *run) hasPermission(ctx context.Context, in callBody) (int, any) {
	who := authz.Identity{Type: authz.TypeUser, Credential: authz.CredentialAsserted}
	switch {
	case in.Role != nil:
		who.ID, who.Roles = "holder", []string{*in.Role}
	case in.UserID != "":
		u, err := r.o.Authn().User(ctx, authn.System("transcript"), in.UserID)
		if errors.Is(err, authn.ErrUserNotFound) {
			return 400, map[string]any{"message": "user not found"}
		}
		r.must(err)
		who.ID, who.Roles = u.ID, strings.Split(*u.Role, ",")
	default:
		return 400, map[string]any{"message": "user id or role is required"}
	}
	subject, err := authz.NewSubject(who)
	r.must(err)
	success := true
	for resource, actions := range in.Permissions {
		for _, action := range actions {
			d, err := r.o.Decide(ctx, authz.Request{Subject: subject, Action: authz.Action{Name: action}, Resource: authz.Resource{Type: resource}})
			r.must(err)
			success = success && d.Allow
		}
	}
	return 200, map[string]any{"error": nil, "success": success}
}

func (r *run) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *run) compareCall(want wireResponse, status int, body any) []string {
	m := &matching{r: r, now: time.Now()}
	if status != want.Status {
		m.wrong("status: got %d, want %d", status, want.Status)
	}
	got, err := json.Marshal(body)
	r.must(err)
	m.json("body", want.Body, got)
	if len(m.problems) > 0 {
		m.wrong("answer: %s", got)
	}
	return m.done()
}

func wireError(message, code string) map[string]any {
	return map[string]any{"message": message, "code": code}
}

func keyError(err error) map[string]any {
	var retry *authn.RetryError
	switch {
	case errors.As(err, &retry):
		e := wireError("Rate limit exceeded.", "RATE_LIMITED")
		e["details"] = map[string]any{"tryAgainIn": retry.In.Milliseconds()}
		return e
	case errors.Is(err, authn.ErrBadCredential):
		return wireError("Invalid API key.", "INVALID_API_KEY")
	case errors.Is(err, authn.ErrKeyDisabled):
		return wireError("API Key is disabled", "KEY_DISABLED")
	case errors.Is(err, authn.ErrUsageExceeded):
		return wireError("API Key has reached its usage limit", "USAGE_EXCEEDED")
	case errors.Is(err, authn.ErrOwnerBanned):
		return wireError("User is banned", "USER_BANNED")
	case errors.Is(err, authn.ErrInsufficient):
		return wireError(err.Error(), "INSUFFICIENT_PERMISSIONS")
	}
	return wireError(err.Error(), "")
}

func wireTime(t *time.Time) any {
	if t == nil {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

func wireUser(u authn.User) map[string]any {
	return map[string]any{
		"name": u.Name, "email": u.Email, "emailVerified": u.EmailVerified, "image": u.Image,
		"createdAt": wireTime(&u.CreatedAt), "updatedAt": wireTime(&u.UpdatedAt), "username": u.Username,
		"displayUsername": u.DisplayUsername, "role": u.Role, "banned": u.Banned, "banReason": u.BanReason,
		"banExpires": wireTime(u.BanExpires), "id": u.ID,
	}
}

func wireKey(k authn.APIKey) map[string]any {
	out := map[string]any{
		"configId": k.ConfigID, "name": k.Name, "start": k.Start, "referenceId": k.OwnerID, "prefix": k.Prefix,
		"refillInterval": k.RefillInterval, "refillAmount": k.RefillAmount, "lastRefillAt": wireTime(k.LastRefillAt),
		"enabled": k.Enabled, "rateLimitEnabled": k.RateLimitEnabled, "rateLimitTimeWindow": k.RateLimitTimeWindow,
		"rateLimitMax": k.RateLimitMax, "requestCount": k.RequestCount, "remaining": k.Remaining,
		"lastRequest": wireTime(k.LastRequest), "expiresAt": wireTime(k.ExpiresAt),
		"createdAt": wireTime(&k.CreatedAt), "updatedAt": wireTime(&k.UpdatedAt),
		"permissions": nil, "metadata": nil, "id": k.ID,
	}
	if k.Permissions != nil {
		out["permissions"] = k.Permissions
	}
	if k.Metadata != nil {
		out["metadata"] = k.Metadata
	}
	return out
}
