package ostiary_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The program in the README, copied into an empty module, compiles, runs, and
// guards its route.
func TestProgramOfTheREADMERuns(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	readme := read("README.md")
	block := func(language string) string {
		found := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(readme)
		if found == nil {
			t.Fatalf("the README has no %s", language)
		}
		return found[1]
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	program := block("go")
	if !strings.Contains(program, "127.0.0.1:8081") {
		t.Fatal("the program listens elsewhere")
	}
	write("main.go", strings.ReplaceAll(program, "127.0.0.1:8081", addr))
	write("policies/document.rego", block("rego"))
	write("go.mod", "module newcomer\n\ngo 1.26.0\n\nrequire github.com/ostiary/ostiary v0.0.0\n\nreplace github.com/ostiary/ostiary => "+here+"\n")
	write("go.sum", read("go.sum"))
	build := exec.CommandContext(t.Context(), "go", "build", "-mod=mod", "-o", "newcomer", ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	run := exec.CommandContext(ctx, filepath.Join(dir, "newcomer"))
	run.Dir = dir
	var said strings.Builder
	run.Stderr = &said
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	get := func(path string) int {
		for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			res, err := http.Get("http://" + addr + path)
			if err == nil {
				res.Body.Close()
				return res.StatusCode
			}
			if time.Since(began) > 20*time.Second {
				cancel()
				_ = run.Wait()
				t.Fatalf("%v\n%s", err, said.String())
			}
		}
	}
	if got := get("/documents/plan"); got != http.StatusUnauthorized {
		t.Errorf("nobody: got %d, want 401", got)
	}
	if got := get("/api/auth/ok"); got != http.StatusOK {
		t.Errorf("the API: got %d, want 200", got)
	}
	cancel()
	_ = run.Wait()
}
