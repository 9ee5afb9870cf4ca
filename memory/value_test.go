package memory_test

import (
	"testing"
	"time"

	"github.com/ostiary/ostiary/memory"
)

func TestOneValueIsUsedUntilItIsForgottenOrOld(t *testing.T) {
	var v memory.Value[string]
	expect := func(want string, at time.Time) {
		t.Helper()
		if got, ok := v.Get(at); got != want || ok != (want != "") {
			t.Errorf("got %q, %v, want %q", got, ok, want)
		}
	}
	expect("", now)
	v.Put(v.Generation(), "x", now.Add(time.Minute))
	expect("x", now)
	expect("x", now.Add(time.Minute-1))
	expect("", now.Add(time.Minute))

	generation := v.Generation()
	v.Forget()
	expect("", now)
	v.Put(generation, "read before", now.Add(time.Minute))
	expect("", now)
	v.Put(v.Generation(), "y", now.Add(time.Minute))
	expect("y", now)
}
