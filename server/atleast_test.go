package server_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/server"
)

// A request that names a revision is answered when it is known here, and not
// before; whatever is not plainly one revision is a mistake.
func TestRequestWaitsForTheRevisionThatItNames(t *testing.T) {
	var reached []int64
	h := open(t, nil, func(o *server.Options) {
		o.AtLeast = func(ctx context.Context, revision int64) error {
			reached = append(reached, revision)
			if revision > 7 {
				return fmt.Errorf("%w: not here", authn.ErrUnavailable)
			}
			return nil
		}
	})
	for _, path := range []string{"/v1/roles", "/healthz", "/readyz", "/openapi.json", "/api/auth/ok", "/api/auth/get-session"} {
		reached = nil
		without := h.do(t, "GET", path, "")
		if got := h.do(t, "GET", path, "", "Ostiary-At-Least: 7"); got.StatusCode != without.StatusCode || len(reached) != 1 || reached[0] != 7 {
			t.Errorf("%s: known revision: got %d and waited for %v, want %d", path, got.StatusCode, reached, without.StatusCode)
		}
		got := h.do(t, "GET", path, "", "Ostiary-At-Least: 8")
		if got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("Retry-After") == "" || got.code(t) != "UNAVAILABLE" {
			t.Errorf("%s: unknown revision: got %d %s, Retry-After %q", path, got.StatusCode, got.body, got.Header.Get("Retry-After"))
		}
		reached = nil
		for _, bad := range []string{"", "x", "-1", "+1", "01", " 1", "1 ", "1,2", "1.0", "1e3", "0x1", "9223372036854775808", strings.Repeat("1", 100)} {
			want := "INVALID"
			if strings.HasPrefix(path, "/api/auth/") {
				want = "VALIDATION_ERROR"
			}
			if got := h.do(t, "GET", path, "", "Ostiary-At-Least: "+bad); got.StatusCode != http.StatusBadRequest || got.code(t) != want {
				t.Errorf("%s: %q: got %d %s", path, bad, got.StatusCode, got.body)
			}
		}
		if len(reached) > 0 {
			t.Errorf("%s: waited for %v", path, reached)
		}
	}
}

func TestReadinessTellsTheFeed(t *testing.T) {
	h := open(t, nil, func(o *server.Options) {
		o.Feed = func() (time.Duration, int64) { return 1500 * time.Millisecond, 42 }
	})
	if got := h.do(t, "GET", "/readyz", ""); !strings.Contains(got.body, `"feed":{"ageMs":1500,"revision":"42"}`) {
		t.Errorf("got %s", got.body)
	}
	if text := scrape(h); !strings.Contains(text, "ostiary_feed_age_seconds 1.5") {
		t.Errorf("got %s", grep(text, "feed"))
	}
}
