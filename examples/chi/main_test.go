package main

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ostiary/ostiary/ostiarytest"
)

func TestTiers(t *testing.T) {
	rules, err := fs.Sub(files, "policies")
	if err != nil {
		t.Fatal(err)
	}
	s := ostiarytest.New(t, ostiarytest.Policies(rules))
	api := routes(s.Ostiary)
	issued := func(who ostiarytest.Caller, tier string, want int) string {
		t.Helper()
		w := s.Do(api, who, "POST", "/keys/"+tier, nil)
		if w.Code != want {
			t.Fatalf("a %s key for %s: %d %s, want %d", tier, who, w.Code, w.Body, want)
		}
		var made struct{ Key string }
		if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil && want == http.StatusCreated {
			t.Fatal(err)
		}
		return made.Key
	}
	get := func(key, path string, want int) http.Header {
		t.Helper()
		r := httptest.NewRequest("GET", path, nil)
		if key != "" {
			r.Header.Set("X-Api-Key", key)
		}
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("GET %s: %d %s, want %d", path, w.Code, w.Body, want)
		}
		return w.Header()
	}
	ann, bob := s.User("Ann", "paying"), s.User("Bob")

	issued(s.Nobody(), "free", http.StatusUnauthorized)
	issued(bob.Session(), "pro", http.StatusForbidden)
	issued(ann.Key(map[string][]string{"*": {"*"}}), "free", http.StatusForbidden)
	issued(ann.Session(), "gold", http.StatusNotFound)
	pro, free := issued(ann.Session(), "pro", http.StatusCreated), issued(bob.Session(), "free", http.StatusCreated)

	get(pro, "/forecasts/oslo/today", http.StatusOK)
	get(pro, "/forecasts/oslo/week", http.StatusOK)
	get("", "/forecasts/oslo/today", http.StatusUnauthorized)
	if w := s.Do(api, ann.Session(), "GET", "/forecasts/oslo/today", nil); w.Code != http.StatusForbidden {
		t.Errorf("a session reads a forecast: %d", w.Code)
	}

	// The limit counts every use, whatever came of it.
	get(free, "/forecasts/oslo/week", http.StatusForbidden)
	for range tiers["free"].perMinute - 1 {
		get(free, "/forecasts/oslo/today", http.StatusOK)
	}
	if get(free, "/forecasts/oslo/today", http.StatusTooManyRequests).Get("Retry-After") == "" {
		t.Error("429 does not say when to come back")
	}
	get(pro, "/forecasts/oslo/today", http.StatusOK) // another key is not concerned
	s.Clock.Advance(time.Minute + time.Millisecond)
	get(free, "/forecasts/oslo/today", http.StatusOK)

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	get(pro, "/forecasts/oslo/today", http.StatusServiceUnavailable)
}
