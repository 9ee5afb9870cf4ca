package bundles_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/compile"
	"go.uber.org/goleak"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/bundles"
	"github.com/ostiary/ostiary/policies"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// signer makes signatures.
type signer struct {
	key   crypto.Signer
	alg   string
	id    string
	scope string
}

var (
	rsaKey, _     = rsa.GenerateKey(rand.Reader, 2048)
	ecKey, _      = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ec384Key, _   = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	ec521Key, _   = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	_, edKey, _   = ed25519.GenerateKey(rand.Reader)
	otherKey, _   = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	release       = signer{key: ecKey, alg: "ES256", id: "release"}
	believed      = map[string]crypto.PublicKey{"release": ecKey.Public()}
	readers       = map[string]string{"document.rego": "package app.document\n\nallow if input.action.name == \"read\"\n"}
	writers       = map[string]string{"document.rego": "package app.document\n\nallow if input.action.name == \"write\"\n"}
	editors       = map[string]string{"document.rego": readers["document.rego"], "roles/data.json": `{"editor": {"document": ["read", "write"]}}`, "more/data.yaml": "x: 1\n"}
	nobody        = signer{}
	withoutNumber = map[string]any(nil)
)

func number(n int) map[string]any { return map[string]any{"sequence": n} }

// build makes a bundle as opa build does.
func build(t *testing.T, files map[string]string, revision string, metadata map[string]any, by signer) []byte {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	var out bytes.Buffer
	c := compile.New().WithFS(fsys).WithPaths(".").WithAsBundle(true).WithRevision(revision).WithRegoVersion(ast.RegoV1).WithOutput(&out)
	if metadata != nil {
		c = c.WithMetadata(&metadata)
	}
	if by.key != nil {
		c = c.WithBundleSigningConfig(by.config(t)).WithBundleVerificationKeyID(by.id)
	}
	must(t, c.Build(t.Context()))
	return out.Bytes()
}

func (s signer) config(t *testing.T) *bundle.SigningConfig {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	must(t, err)
	claims := ""
	if s.scope != "" {
		claims = filepath.Join(t.TempDir(), "claims.json")
		must(t, os.WriteFile(claims, fmt.Appendf(nil, `{"scope": %q}`, s.scope), 0o600))
	}
	return bundle.NewSigningConfig(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), s.alg, claims)
}

// rewritten is a bundle with each file as change has it; nil leaves it out.
func rewritten(t *testing.T, packed []byte, change func(name string, text []byte) []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(packed))
	must(t, err)
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	w := tar.NewWriter(zw)
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		text, err := io.ReadAll(r)
		must(t, err)
		if text = change(h.Name, text); text == nil {
			continue
		}
		h.Size = int64(len(text))
		must(t, w.WriteHeader(h))
		_, err = w.Write(text)
		must(t, err)
	}
	must(t, w.Close())
	must(t, zw.Close())
	return out.Bytes()
}

// pack makes a bundle by hand.
func pack(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	w := tar.NewWriter(zw)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Typeflag: tar.TypeReg, Size: int64(len(files[name]))}))
		_, err := io.WriteString(w, files[name])
		must(t, err)
	}
	must(t, w.Close())
	must(t, zw.Close())
	return out.Bytes()
}

// depot is a bundle server.
type depot struct {
	*httptest.Server
	mu       sync.Mutex
	packed   []byte
	away     bool
	long     bool // can poll long
	changed  chan struct{}
	asked    []http.Header
	answered map[int]int
}

func newDepot(t *testing.T, packed []byte) *depot {
	d := &depot{packed: packed, changed: make(chan struct{}), answered: map[int]int{}}
	d.Server = httptest.NewServer(d)
	t.Cleanup(d.Close)
	return d
}

func (d *depot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.asked = append(d.asked, r.Header.Clone())
	changed, long := d.changed, d.long
	same := r.Header.Get("If-None-Match") == d.etag()
	d.mu.Unlock()
	if _, wait, ok := strings.Cut(r.Header.Get("Prefer"), "wait="); ok && long && same {
		seconds, _ := time.ParseDuration(wait + "s")
		select {
		case <-changed:
		case <-time.After(seconds):
		case <-r.Context().Done():
			return
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	status := http.StatusOK
	switch {
	case r.URL.Path != "/team/a%20b.tar.gz" && r.URL.EscapedPath() != "/team/a%20b.tar.gz":
		status = http.StatusNotFound
	case d.away:
		status = http.StatusBadGateway
	case r.Header.Get("If-None-Match") == d.etag():
		status = http.StatusNotModified
	}
	d.answered[status]++
	w.Header().Set("Content-Type", "application/gzip")
	if d.long {
		w.Header().Set("Content-Type", "application/vnd.openpolicyagent.bundles")
	}
	w.Header().Set("ETag", d.etag())
	w.WriteHeader(status)
	if status == http.StatusOK {
		w.Write(d.packed)
	}
}

func (d *depot) etag() string {
	sum := sha256.Sum256(d.packed)
	return `"` + hex.EncodeToString(sum[:8]) + `"`
}

func (d *depot) serve(packed []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.packed = packed
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *depot) leave(away bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.away = away
}

func (d *depot) count(status int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.answered[status]
}

func (d *depot) url() string { return d.URL + "/team/a%20b.tar.gz" }

// instance takes its policies from a depot.
type instance struct {
	*testing.T
	*policies.Library
	engine *authz.Engine
	log    *lines
	stop   func()
}

type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func start(t *testing.T, o bundles.Options) *instance {
	t.Helper()
	if o.MinDelay == 0 {
		o.MinDelay, o.MaxDelay = time.Second, time.Second
	}
	s, err := bundles.New(o)
	must(t, err)
	i := &instance{T: t, engine: authz.NewEngine(authz.Options{}), log: &lines{}}
	i.Library, err = policies.Open(t.Context(), policies.Options{Engine: i.engine, Courier: s, Log: slog.New(slog.NewTextHandler(i.log, nil))})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- i.Watch(ctx) }()
	i.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	t.Cleanup(i.stop)
	return i
}

// may returns which of reading and writing documents is permitted, or the code of
// the denial of both.
func (i *instance) may() string {
	i.Helper()
	s, err := authz.NewSubject(authz.Identity{Type: "robot", ID: "r2", Credential: authz.CredentialAsserted})
	must(i.T, err)
	for _, action := range []string{"read", "write"} {
		d, err := i.engine.Decide(context.Background(), authz.Request{Subject: s, Action: authz.Action{Name: action}, Resource: authz.Resource{Type: "document"}})
		must(i.T, err)
		if d.Allow {
			return action
		}
		if d.Reasons[0].Code == authz.CodeUnavailable {
			return "unavailable"
		}
	}
	return "nothing"
}

func (i *instance) eventually(what string, ok func() bool) {
	i.Helper()
	for until := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			i.Fatalf("%s: never happened; status %+v; log:\n%s", what, i.Status(), i.log)
		}
	}
}

// refused waits for what is new to be refused for a reason.
func (i *instance) refused(why string) {
	i.Helper()
	i.eventually(why, func() bool { err := i.Status().Err; return err != nil && strings.Contains(err.Error(), why) })
	if !strings.Contains(i.log.String(), "level=ERROR") {
		i.Errorf("%s: nothing in the log", why)
	}
}

func TestSignedBundlesComeIntoForce(t *testing.T) {
	for name, by := range map[string]signer{
		"RSA":     {key: rsaKey, alg: "RS256", id: "k"},
		"P-256":   {key: ecKey, alg: "ES256", id: "k"},
		"P-384":   {key: ec384Key, alg: "ES384", id: "k"},
		"P-521":   {key: ec521Key, alg: "ES512", id: "k"},
		"Ed25519": {key: edKey, alg: "EdDSA", id: "k"},
		"no id":   {key: ecKey, alg: "ES256"},
		"scope":   {key: ecKey, alg: "ES256", scope: "production"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDepot(t, build(t, editors, "r1", withoutNumber, by))
			i := start(t, bundles.Options{URL: d.url(), Keys: map[string]crypto.PublicKey{"k": by.key.Public()}, Scope: by.scope})
			if i.may() != "read" || i.Status().Published != "r1" || i.Bundle().Roles["editor"] == nil || i.Bundle().Source.Data["more"] == nil {
				t.Fatalf("not in force at the start: %+v", i.Status())
			}
			d.serve(build(t, writers, "r2", withoutNumber, by))
			i.eventually("the next bundle", func() bool { return i.may() == "write" && i.Status().Published == "r2" })
		})
	}
}

// A server is asked by what is in force, for whole bundles, with the token.
func TestUnchangedBundlesAreNotSentAgain(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	d := newDepot(t, build(t, readers, "r1", withoutNumber, nobody))
	i := start(t, bundles.Options{URL: d.url(), Token: "t0ken"})
	before := i.Status()
	i.eventually("looks", func() bool { return d.count(http.StatusNotModified) >= 2 })
	if n := d.count(http.StatusOK); n != 1 || i.Status() != before {
		t.Errorf("sent %d times; status %+v, before %+v", n, i.Status(), before)
	}
	// Away and back: what is in force is still the newest.
	d.leave(true)
	i.refused("Bad Gateway")
	d.leave(false)
	i.eventually("its return", func() bool { return i.Status().Err == nil })
	if n := d.count(http.StatusOK); n != 1 || i.may() != "read" {
		t.Errorf("sent %d times", n)
	}
	d.serve([]byte("nonsense"))
	i.refused("is not a bundle")
	d.serve(build(t, readers, "r1", withoutNumber, nobody))
	i.eventually("what is in force", func() bool { return i.Status().Err == nil })
	i.stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	for n, h := range d.asked {
		if h.Get("Authorization") != "Bearer t0ken" || h.Get("Prefer") != "modes=snapshot" || (h.Get("If-None-Match") == "") != (n == 0) {
			t.Errorf("request %d: %v", n, h)
		}
	}
	if strings.Contains(i.log.String(), "t0ken") {
		t.Error("the token is in the log")
	}
	d.Close()
}

// A server that can wait tells at once, and is not asked meanwhile.
func TestLongPolling(t *testing.T) {
	d := newDepot(t, build(t, readers, "r1", withoutNumber, nobody))
	d.long = true
	i := start(t, bundles.Options{URL: d.url(), MinDelay: time.Hour, MaxDelay: time.Hour, LongPoll: 3 * time.Second})
	time.Sleep(1500 * time.Millisecond)
	d.serve(build(t, writers, "r2", withoutNumber, nobody))
	i.eventually("the next bundle", func() bool { return i.may() == "write" })
	asked := d.count(http.StatusOK) + d.count(http.StatusNotModified)
	if asked > 3 {
		t.Errorf("asked %d times", asked)
	}
}

// Whatever is wrong with a bundle, the one before stays in force, and it is said.
func TestWhatIsWrongLeavesTheOldInForce(t *testing.T) {
	more := func(change ...string) map[string]string {
		files := maps.Clone(writers)
		for n := 0; n < len(change); n += 2 {
			files[change[n]] = change[n+1]
		}
		return files
	}
	good := build(t, writers, "r2", withoutNumber, release)
	for name, c := range map[string]struct {
		packed []byte
		why    string
	}{
		"unsigned":  {build(t, writers, "r2", withoutNumber, nobody), "missing .signatures.json"},
		"wrong key": {build(t, writers, "r2", withoutNumber, signer{key: otherKey, alg: "ES256", id: "release"}), "failed to verify JWT signature"},
		"scope":     {build(t, writers, "r2", withoutNumber, signer{key: ecKey, alg: "ES256", scope: "staging"}), "scope mismatch"},
		// The public key is no secret: who signs with it as one signs nothing.
		"a key for a secret": {rewritten(t, good, func(name string, text []byte) []byte {
			if !strings.HasSuffix(name, ".signatures.json") {
				return text
			}
			return forged(t, text)
		}), "verif"},
		"tampered": {rewritten(t, good, func(name string, text []byte) []byte {
			return bytes.ReplaceAll(text, []byte(`"write"`), []byte(`"erase"`))
		}), "digest mismatch"},
		"a file more": {rewritten(t, good, func(name string, text []byte) []byte {
			if strings.HasSuffix(name, "data.json") {
				return []byte(`{"roles": {"user": {"*": ["*"]}}}`)
			}
			return text
		}), "data.json"},
		"a file less": {rewritten(t, good, func(name string, text []byte) []byte {
			if strings.HasSuffix(name, ".rego") {
				return nil
			}
			return text
		}), "not found in the target bundle"},
		"another number": {rewritten(t, build(t, writers, "r2", number(2), release), func(name string, text []byte) []byte {
			return bytes.ReplaceAll(text, []byte(`"sequence":2`), []byte(`"sequence":9`))
		}), "digest mismatch"},
		"no bundle":            {[]byte("<html>"), "is not a bundle"},
		"a delta":              {pack(t, map[string]string{"patch.json": `{"data": [{"op": "upsert", "path": "/x", "value": 1}]}`}), "delta"},
		"a syntax error":       {raw(t, map[string]string{"document.rego": "package app.document\n\nallow {"}), "document.rego:3"},
		"a typo in input":      {raw(t, more("document.rego", "package app.document\n\nallow if input.principal.rolez == []\n")), "document.rego:3:10: input.principal.rolez"},
		"a role":               {raw(t, more("roles/data.json", `{"editor": {}}`, "document.rego", "package app.document\n\nallow if \"edtor\" in input.principal.roles\n")), `did you mean "editor"?`},
		"an unsafe built-in":   {raw(t, more("x.rego", "package x\n\ny := opa.runtime()\n")), "undefined function opa.runtime"},
		"data.ostiary":         {raw(t, more("x.rego", "package ostiary\n\nallowed := true\n")), "data.ostiary is reserved to Ostiary"},
		"data of data.permits": {raw(t, more("permits/data.json", `{"x": 1}`)), "data.permits is reserved to Ostiary"},
		"a table":              {raw(t, more("roles/data.json", `{"a,b": {}}`)), "roles"},
		"a path":               {raw(t, more("a\nb.rego", "package x\n")), "is not the path"},
		"a hidden file":        {raw(t, more(".x/y.rego", "package x\n")), "is not the path"},
		"a name":               {build(t, writers, strings.Repeat("r", 201), withoutNumber, release), "its revision has 201 bytes"},
		"a number":             {build(t, writers, "r2", map[string]any{"sequence": "1.5"}, release), "metadata.sequence is not a whole number"},
		"compiled modules": {signed(t, bundle.Bundle{
			Manifest: bundle.Manifest{Revision: "r2"}, Data: map[string]any{},
			PlanModules: []bundle.PlanModuleFile{{URL: "/plan.json", Path: "/plan.json", Raw: []byte("{}")}},
		}), "only Rego"},
		"too much":        {build(t, map[string]string{"x/data.json": `"` + noise(400<<10) + `"`}, "r2", withoutNumber, release), "more than 262144 bytes"},
		"much of nothing": {build(t, map[string]string{"x/data.json": `"` + strings.Repeat("x", 1<<20) + `"`}, "r2", withoutNumber, release), "more than 262144 bytes"},
		"much in parts": {raw(t, map[string]string{
			"a/data.json": `"` + strings.Repeat("x", 100<<10) + `"`, "b/data.json": `"` + strings.Repeat("x", 100<<10) + `"`, "c/data.json": `"` + strings.Repeat("x", 100<<10) + `"`,
		}), "more than 262144 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			d := newDepot(t, build(t, readers, "r1", withoutNumber, release))
			o := bundles.Options{URL: d.url(), Keys: believed, Directory: dir, MaxBytes: 256 << 10}
			i := start(t, o)
			before := i.Status()
			i.stop()
			d.serve(c.packed)
			i = start(t, o) // looks at once
			i.refused(c.why)
			if now := i.Status(); now.Revision != before.Revision || now.Published != "r1" || i.may() != "read" {
				t.Errorf("in force %+v, before %+v", now, before)
			}
			i.stop()
			d.serve(good)
			i = start(t, o)
			if i.may() != "read" {
				t.Errorf("kept: %+v", i.Status())
			}
			i.eventually("what is good", func() bool { return i.may() == "write" && i.Status().Err == nil })
		})
	}
}

// raw is a signed bundle of files that opa build would not have taken.
func raw(t *testing.T, files map[string]string) []byte {
	t.Helper()
	b := bundle.Bundle{Manifest: bundle.Manifest{Revision: "r2"}, Data: map[string]any{}}
	all := map[string]string{".manifest": `{"revision":"r2","roots":[""]}`}
	var infos []bundle.FileInfo
	hasher, err := bundle.NewSignatureHasher(bundle.SHA256)
	must(t, err)
	maps.Copy(all, files)
	for name, text := range all {
		var value any = []byte(text)
		if bundle.IsStructuredDoc(name) {
			must(t, json.Unmarshal([]byte(text), &value))
		}
		sum, err := hasher.HashFile(value)
		must(t, err)
		infos = append(infos, bundle.NewFile(name, hex.EncodeToString(sum), string(bundle.SHA256)))
	}
	token, err := bundle.GenerateSignedToken(infos, release.config(t), "release")
	must(t, err)
	b.Signatures.Signatures = []string{token}
	text, err := json.Marshal(b.Signatures)
	must(t, err)
	all[".signatures.json"] = string(text)
	return pack(t, all)
}

func signed(t *testing.T, b bundle.Bundle) []byte {
	t.Helper()
	must(t, b.GenerateSignature(release.config(t), "release", true))
	var out bytes.Buffer
	must(t, bundle.NewWriter(&out).UseModulePath(true).Write(b))
	return out.Bytes()
}

// forged signs what a signature says with the public key, as if it were a secret.
func forged(t *testing.T, text []byte) []byte {
	t.Helper()
	var c bundle.SignaturesConfig
	must(t, json.Unmarshal(text, &c))
	der, err := x509.MarshalPKIXPublicKey(ecKey.Public())
	must(t, err)
	public := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	reader, err := bundle.VerifyBundleSignature(c, bundle.NewVerificationConfig(map[string]*bundle.KeyConfig{"release": {Key: public, Algorithm: "ES256"}}, "", "", nil))
	must(t, err)
	token, err := bundle.GenerateSignedToken(slices.Collect(maps.Values(reader)), bundle.NewSigningConfig(public, "HS256", ""), "release")
	must(t, err)
	out, err := json.Marshal(bundle.SignaturesConfig{Signatures: []string{token}})
	must(t, err)
	return out
}

// noise cannot be packed much.
func noise(n int) string {
	b := make([]byte, n/2)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// Of several keys the signature says which one, so that keys can be replaced.
func TestSignatureNamesOneOfSeveralKeys(t *testing.T) {
	t.Parallel()
	d := newDepot(t, build(t, readers, "r1", withoutNumber, release))
	i := start(t, bundles.Options{URL: d.url(), Keys: map[string]crypto.PublicKey{"release": ecKey.Public(), "next": rsaKey.Public()}})
	if i.may() != "read" {
		t.Fatalf("%+v", i.Status())
	}
	d.serve(build(t, writers, "r2", withoutNumber, signer{key: otherKey, alg: "ES256", id: "other"}))
	i.refused("key corresponding to ID other not found")
	d.serve(build(t, writers, "r2", withoutNumber, signer{key: ecKey, alg: "ES256", id: "next"}))
	i.refused("verify")
	d.serve(build(t, writers, "r2", withoutNumber, signer{key: rsaKey, alg: "RS256", id: "next"}))
	i.eventually("the next key", func() bool { return i.may() == "write" })
}

// A signed bundle that nobody configured a key for is no unsigned one.
func TestSignedBundleNeedsAKey(t *testing.T) {
	t.Parallel()
	d := newDepot(t, build(t, readers, "r1", withoutNumber, release))
	i := start(t, bundles.Options{URL: d.url()})
	i.refused("verification key not provided")
	if i.may() != "unavailable" {
		t.Error("in force")
	}
}

// Without the server an instance starts with what it kept, or denies everything
// until the server is there.
func TestServerIsAwayAtTheStart(t *testing.T) {
	t.Parallel()
	d := newDepot(t, build(t, readers, "r1", withoutNumber, release))
	d.leave(true)
	o := bundles.Options{URL: d.url(), Keys: believed, Directory: filepath.Join(t.TempDir(), "not", "there")}
	i := start(t, o)
	i.refused("Bad Gateway")
	if i.may() != "unavailable" || i.Status().Revision != "" || i.engine.Policy() != nil {
		t.Errorf("something is in force: %+v", i.Status())
	}
	d.leave(false)
	i.eventually("the first bundle", func() bool { return i.may() == "read" && i.Status().Err == nil })
	i.stop()

	d.leave(true)
	i = start(t, o)
	if i.may() != "read" || i.Status().Published != "r1" {
		t.Errorf("what was kept is not in force: %+v", i.Status())
	}
	i.refused("Bad Gateway")
	i.stop()

	// What is on the disk has to be signed as well.
	kept := filepath.Join(o.Directory, "bundle.tar.gz")
	if info, err := os.Stat(kept); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("kept: %v, %v", info, err)
	}
	must(t, os.WriteFile(kept, build(t, writers, "r1", withoutNumber, nobody), 0o600))
	i = start(t, o)
	i.refused("Bad Gateway")
	if i.may() != "unavailable" || !strings.Contains(i.log.String(), "the bundle that was kept: bundle missing .signatures.json") {
		t.Error("what somebody put there is in force")
	}
	d.leave(false)
	i.eventually("the bundle", func() bool { return i.may() == "read" && i.Status().Err == nil })
}

// A bundle that is older than the one in force is not taken, from whomever, whenever.
func TestDowngradeIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		byRevision bool
		make       func(files map[string]string, n int) []byte
		without    string
	}{
		"metadata": {false, func(files map[string]string, n int) []byte {
			if n == 0 {
				return build(t, files, "r", withoutNumber, release)
			}
			return build(t, files, "r", number(n), release)
		}, "has sequence 0, but 5 was in force"},
		"revision": {true, func(files map[string]string, n int) []byte {
			if n == 0 {
				return build(t, files, "v6", withoutNumber, release)
			}
			return build(t, files, fmt.Sprint(n), withoutNumber, release)
		}, "its revision is not a whole number"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDepot(t, c.make(readers, 5))
			o := bundles.Options{URL: d.url(), Keys: believed, Directory: t.TempDir(), ByRevision: c.byRevision}
			i := start(t, o)
			for n, why := range []string{c.without, "has sequence 4, but 5 was in force: what is older is not taken", "has sequence 5 like the one before, and other files"} {
				d.serve(c.make(writers, []int{0, 4, 5}[n]))
				i.refused(why)
				again := start(t, o) // knows by what it kept
				again.refused(why)
				if i.may() != "read" || again.may() != "read" {
					t.Error("in force")
				}
				again.stop()
			}
			// Back to the files before, with a higher number.
			d.serve(c.make(writers, 6))
			i.eventually("the next", func() bool { return i.may() == "write" })
			d.serve(c.make(readers, 7))
			i.eventually("back", func() bool { return i.may() == "read" && i.Status().Err == nil })
			d.serve(c.make(writers, 6))
			i.refused("has sequence 6, but 7 was in force")
		})
	}
}

// A bundle that cannot be kept is in force all the same, and that is said.
func TestBundleThatCannotBeKept(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	d := newDepot(t, build(t, readers, "r1", withoutNumber, nobody))
	i := start(t, bundles.Options{URL: d.url(), Directory: filepath.Join(file, "dir")})
	if err := i.Status().Err; err == nil || i.may() != "read" {
		t.Fatalf("%+v", i.Status())
	}
	must(t, os.Remove(file))
	i.eventually("the place for it", func() bool { return i.Status().Err == nil })
	if _, err := os.Stat(filepath.Join(file, "dir", "bundle.tar.gz")); err != nil {
		t.Error(err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	_, err = bundles.New(bundles.Options{
		URL: "https://user:pa55@example.com/b.tar.gz", MinDelay: 2 * time.Minute, LongPoll: 1500 * time.Millisecond,
		Keys: map[string]crypto.PublicKey{"small": small.Public(), "odd": "key"},
	})
	if err == nil {
		t.Fatal("no mistake")
	}
	for _, want := range []string{"without credentials and query", `key "small": has 1024 bits`, `key "odd": is neither RSA`, "1.5s is not a number of whole seconds"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "pa55") {
		t.Errorf("a password is in %v", err)
	}
}
