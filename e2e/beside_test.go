package e2e_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/internal/pgtest"
)

// An application with Better Auth, and Ostiary beside it on the same database,
// whatever makes the ids there.
func TestBesideBetterAuth(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("these tests need Node: ", err)
	}
	install(t)
	binary := build(t)
	for _, ids := range []string{"default", "uuid", "serial"} {
		t.Run("ids/"+ids, func(t *testing.T) {
			t.Parallel()
			shared := []string{
				"OSTIARY_DATABASE=" + pgtest.Schema(t),
				"OSTIARY_SECRET=the secret of the application and of Ostiary",
				"OSTIARY_COOKIES_CACHE=true",
			}
			// The application is first: it makes its tables, Ostiary adopts them.
			application := startApplication(t, node, append(shared, "GENERATE_ID="+ids))
			s := start(t, binary, shared...)
			play(t, node, "beside/story.test.mjs", append(s.env, "APPLICATION_URL="+application))
		})
	}
}

func startApplication(t *testing.T, node string, env []string) (url string) {
	t.Helper()
	cmd := exec.Command(node, "beside/application.mjs")
	cmd.Env = append(os.Environ(), env...)
	var log output
	cmd.Stderr = &log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the application ended with %v", err)
		}
		if t.Failed() {
			t.Logf("log of the application:\n%s", log.String())
		}
	})
	lines := bufio.NewReader(stdout)
	if url, err = lines.ReadString('\n'); err != nil {
		t.Fatalf("the application did not start: %v\n%s", err, log.String())
	}
	go io.Copy(io.Discard, lines)
	return strings.TrimSpace(url)
}
