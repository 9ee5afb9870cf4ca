package betterauth

import (
	"strconv"
	"strings"
	"sync"
	"time"
)

// limiter bounds requests per client and path. The window runs from the last
// accepted request. It remembers a bounded number of clients.
type limiter struct {
	mu   sync.Mutex
	seen map[visit]*visits
}

type visit struct{ client, path string }

type visits struct {
	n    int
	last time.Time
}

const (
	limiterSize   = 1 << 16
	limiterWindow = 10 * time.Second // of most paths, and the shortest
)

func newLimiter() *limiter { return &limiter{seen: map[visit]*visits{}} }

func limitOf(path string) (window time.Duration, most int) {
	for _, p := range []string{"/sign-in", "/sign-up", "/change-password", "/change-email"} {
		if strings.HasPrefix(path, p) {
			return limiterWindow, 3
		}
	}
	switch {
	case path == "/request-password-reset", path == "/send-verification-email", strings.HasPrefix(path, "/forget-password"):
		return time.Minute, 3
	}
	return limiterWindow, 100
}

// take counts a request. If it is one too many, it returns the whole seconds
// to wait. Unknown paths share one count, or anybody could fill the memory.
func (l *limiter) take(client, path string, known bool, now time.Time) (wait string, ok bool) {
	path = strings.TrimRight(path, "/")
	window, most := limitOf(path)
	if !known {
		path, window, most = "", limiterWindow, 100
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	v := l.seen[visit{client, path}]
	switch {
	case v == nil:
		if len(l.seen) >= limiterSize {
			l.forget(now)
		}
		l.seen[visit{client, path}] = &visits{1, now}
	case now.Sub(v.last) >= window:
		*v = visits{1, now}
	case v.n >= most:
		left := v.last.Add(window).Sub(now)
		return strconv.Itoa(int((left + time.Second - 1) / time.Second)), false
	default:
		*v = visits{v.n + 1, now}
	}
	return "", true
}

// forget makes room: what is over goes first, then anything.
func (l *limiter) forget(now time.Time) {
	for k, v := range l.seen {
		if window, _ := limitOf(k.path); now.Sub(v.last) >= window {
			delete(l.seen, k)
		}
	}
	for k := range l.seen {
		if len(l.seen) < limiterSize/2 {
			return
		}
		delete(l.seen, k)
	}
}
