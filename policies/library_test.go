package policies_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	open   = "package app.document\n\nallow if input.action.name == \"read\"\n"
	closed = "package app.document\n\nallow if input.action.name == \"close\"\n"
	broken = "package app.document\n\nallow if nowhere(input)\n"
)

// desk is an engine, a library over a folder, and what they say.
type desk struct {
	*testing.T
	engine  *authz.Engine
	library *policies.Library
	dir     string
	log     buffer
	swapped chan string
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Split(strings.TrimSpace(b.b.String()), "\n")
}

func newDesk(t *testing.T, dir string) *desk {
	t.Helper()
	d := &desk{T: t, engine: authz.NewEngine(authz.Options{}), dir: dir, swapped: make(chan string, 100)}
	var err error
	d.library, err = policies.Open(t.Context(), policies.Options{
		Engine:  d.engine,
		Dir:     dir,
		Log:     slog.New(slog.NewTextHandler(&d.log, nil)),
		Swapped: func(revision string) { d.swapped <- revision },
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) watch() {
	d.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- d.library.Watch(ctx) }()
	d.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			d.Errorf("Watch: %v", err)
		}
	})
}

var robot = sync.OnceValue(func() *authz.Subject {
	s, err := authz.NewSubject(authz.Identity{Type: "robot", ID: "r2", Credential: authz.CredentialAsserted})
	if err != nil {
		panic(err)
	}
	return s
})

// may reports whether the policy in force permits action on documents.
func (d *desk) may(action string) bool {
	d.Helper()
	decision, err := d.engine.Decide(context.Background(), authz.Request{
		Subject: robot(), Action: authz.Action{Name: action}, Resource: authz.Resource{Type: "document"},
	})
	if err != nil {
		d.Fatal(err)
	}
	return decision.Allow
}

func (d *desk) eventually(what string, ok func() bool) {
	d.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			d.Fatalf("%s: never happened; status %+v; log:\n%s", what, d.library.Status(), strings.Join(d.log.lines(), "\n"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenFailsWithEveryMistake(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.rego"), broken)
	write(t, filepath.Join(dir, "b.rego"), "package app.page\n\nallow if http.send({\"url\": \"http://example.com\", \"method\": \"get\"}).status_code == 200\n")
	_, err := policies.Open(t.Context(), policies.Options{Engine: authz.NewEngine(authz.Options{}), Dir: dir})
	if err == nil {
		t.Fatal("opened")
	}
	for _, want := range []string{"a.rego:3:10: undefined function nowhere", "b.rego:3:10: undefined function http.send"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestOpenRefusesAFolderThatIsNotThere(t *testing.T) {
	_, err := policies.Open(t.Context(), policies.Options{Engine: authz.NewEngine(authz.Options{}), Dir: filepath.Join(t.TempDir(), "nowhere")})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestOpenPutsTheBuiltinPolicyInForce(t *testing.T) {
	e := authz.NewEngine(authz.Options{})
	l, err := policies.Open(t.Context(), policies.Options{Engine: e})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := e.Policy().Revision(), l.Status().Revision; got != want || got == "" || got != l.Bundle().Source.Revision {
		t.Errorf("revision in force %q, status %q, bundle %q", got, want, l.Bundle().Source.Revision)
	}
	if l.Status().Loaded.IsZero() || l.Status().Err != nil {
		t.Errorf("status: %+v", l.Status())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Watch(ctx) }()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Watch: %v", err)
	}
}

func TestReloadKeepsThePolicyInForceOnFailure(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "document.rego")
	write(t, file, open)
	d := newDesk(t, dir)
	before := d.library.Status()

	write(t, file, broken)
	if err := d.library.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "document.rego:3:10") {
		t.Errorf("Reload: %v", err)
	}
	if s := d.library.Status(); s.Err == nil || s.Revision != before.Revision || !s.Loaded.Equal(before.Loaded) {
		t.Errorf("status: %+v", s)
	}
	if !d.may("read") {
		t.Error("the policy before is not in force")
	}
	_ = d.library.Reload(t.Context())
	if lines := d.log.lines(); len(lines) != 1 || !strings.Contains(lines[0], "document.rego:3:10") {
		t.Errorf("the same failure twice: got %q, want one line", lines)
	}

	write(t, file, open)
	if err := d.library.Reload(t.Context()); err != nil || d.library.Status().Err != nil {
		t.Errorf("Reload of what is in force: %v, status %v", err, d.library.Status().Err)
	}
	if len(d.swapped) != 1 {
		t.Errorf("swapped %d times, want once: nothing new came into force", len(d.swapped))
	}

	write(t, file, closed)
	if err := d.library.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.may("read") || !d.may("close") {
		t.Error("the new policy is not in force")
	}
}

func TestReloadOfNobodyWhoWaitsChangesNothing(t *testing.T) {
	dir := t.TempDir()
	d := newDesk(t, dir)
	write(t, filepath.Join(dir, "a.rego"), broken)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.library.Reload(ctx); !errors.Is(err, context.Canceled) || d.library.Status().Err != nil {
		t.Errorf("Reload: %v, status %v", err, d.library.Status().Err)
	}
}

func TestSavedFilesComeIntoForce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "document.rego")
	write(t, file, closed)
	d := newDesk(t, dir)
	d.watch()

	write(t, file, open)
	d.eventually("a file that is written", func() bool { return d.may("read") })

	replacement := filepath.Join(dir, ".document.rego.tmp") // as editors save
	write(t, replacement, closed)
	must(t, os.Rename(replacement, file))
	d.eventually("a file that is replaced", func() bool { return !d.may("read") })

	write(t, filepath.Join(dir, "sub", "deeper", "more.rego"), "package app.document\n\nallow if input.action.name == \"print\"\n")
	d.eventually("a file in a new folder", func() bool { return d.may("print") })
	write(t, filepath.Join(dir, "sub", "deeper", "more.rego"), "package app.document\n\nallow if input.action.name == \"copy\"\n")
	d.eventually("a change in the new folder", func() bool { return d.may("copy") && !d.may("print") })

	must(t, os.RemoveAll(filepath.Join(dir, "sub")))
	d.eventually("a folder that is removed", func() bool { return !d.may("copy") })
	must(t, os.Remove(file))
	d.eventually("a file that is removed", func() bool { return !d.may("close") })
}

func TestBrokenSaveLeavesTheOldInForce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "document.rego")
	write(t, file, open)
	d := newDesk(t, dir)
	d.watch()

	write(t, file, broken)
	d.eventually("the failure", func() bool { return d.library.Status().Err != nil })
	if !d.may("read") {
		t.Error("the policy before is not in force")
	}
	write(t, file, closed)
	d.eventually("the correction", func() bool { return d.library.Status().Err == nil && d.may("close") })
}

func TestFolderThatDisappearsIsAFailure(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policies")
	file := filepath.Join(dir, "document.rego")
	write(t, file, open)
	d := newDesk(t, dir)
	d.watch()

	must(t, os.RemoveAll(dir))
	d.eventually("the failure", func() bool { return errors.Is(d.library.Status().Err, fs.ErrNotExist) })
	if !d.may("read") {
		t.Error("the policy before is not in force")
	}
	write(t, file, closed)
	d.eventually("its return", func() bool { return d.library.Status().Err == nil && d.may("close") })
}

// Deployments swap a link to a folder, or, as Kubernetes does, a link inside.
func TestSwappedLinksComeIntoForce(t *testing.T) {
	swap := func(t *testing.T, link, target string) {
		t.Helper()
		must(t, os.Symlink(target, link+".new"))
		must(t, os.Rename(link+".new", link))
	}
	t.Run("the folder", func(t *testing.T) {
		root := t.TempDir()
		write(t, filepath.Join(root, "v1", "p", "document.rego"), open)
		write(t, filepath.Join(root, "v2", "p", "document.rego"), closed)
		swap(t, filepath.Join(root, "current"), "v1")
		d := newDesk(t, filepath.Join(root, "current", "p"))
		d.watch()
		if !d.may("read") {
			t.Fatal("v1 is not in force")
		}
		swap(t, filepath.Join(root, "current"), "v2")
		d.eventually("v2", func() bool { return d.may("close") && !d.may("read") })
		write(t, filepath.Join(root, "v2", "p", "document.rego"), open)
		d.eventually("a change in v2", func() bool { return d.may("read") })
	})
	t.Run("inside, as in a config map", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "..v1", "document.rego"), open)
		write(t, filepath.Join(dir, "..v2", "document.rego"), closed)
		swap(t, filepath.Join(dir, "..data"), "..v1")
		swap(t, filepath.Join(dir, "document.rego"), filepath.Join("..data", "document.rego"))
		d := newDesk(t, dir)
		d.watch()
		if !d.may("read") {
			t.Fatal("v1 is not in force")
		}
		swap(t, filepath.Join(dir, "..data"), "..v2")
		d.eventually("v2", func() bool { return d.may("close") && !d.may("read") })
	})
	t.Run("a file elsewhere", func(t *testing.T) {
		root := t.TempDir()
		dir := filepath.Join(root, "policies")
		must(t, os.Mkdir(dir, 0o755))
		write(t, filepath.Join(root, "shared", "document.rego"), open)
		swap(t, filepath.Join(dir, "document.rego"), filepath.Join("..", "shared", "document.rego"))
		d := newDesk(t, dir)
		d.watch()
		write(t, filepath.Join(root, "shared", "document.rego"), closed)
		d.eventually("the change", func() bool { return d.may("close") && !d.may("read") })
	})
}

// A policy that is saved while decisions are made is one or the other.
func TestDecisionsDuringReloads(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "document.rego")
	write(t, file, open)
	d := newDesk(t, dir)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				decision, err := d.engine.Decide(context.Background(), authz.Request{
					Subject: robot(), Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "document"},
				})
				if err != nil || decision.Revision == "" || (!decision.Allow && decision.Reasons[0].Code != "role_missing") {
					t.Errorf("got %+v, %v", decision, err)
					return
				}
				_, _ = d.library.Status(), d.library.Bundle()
			}
		})
	}
	for i := range 10 {
		write(t, file, []string{closed, open}[i%2])
		if err := d.library.Reload(t.Context()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
}
