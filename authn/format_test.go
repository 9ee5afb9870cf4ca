package authn

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestOneWrongLetterIsNoticed(t *testing.T) {
	s, err := New(Options{}, struct{ Store }{}, struct{ Engine }{})
	if err != nil {
		t.Fatal(err)
	}
	secret := string(s.newSecret(keyPrefix))
	if !looksOurs(secret) || !checksumRight(secret) || len(secret) != secretLength {
		t.Fatalf("%d characters, checksum right: %t", len(secret), checksumRight(secret))
	}
	for i := len(keyPrefix); i < len(secret); i++ {
		for _, c := range base62 {
			if wrong := secret[:i] + string(c) + secret[i+1:]; wrong != secret && checksumRight(wrong) {
				t.Errorf("%q at %d goes unnoticed", c, i)
			}
		}
	}
	for n := range len(secret) {
		if checksumRight(secret[:n]) {
			t.Errorf("cut to %d goes unnoticed", n)
		}
	}
}

func TestRandomTextIsUnbiased(t *testing.T) {
	const n = 62 * 2000
	counts := map[rune]int{}
	for _, r := range randomText(n, letters) {
		counts[r]++
	}
	for _, r := range letters {
		// Eight standard deviations: 2000 ± 8·√2000.
		if c := counts[r]; c < 1642 || c > 2358 {
			t.Errorf("%q comes %d times, want about 2000", r, c)
		}
	}
	if len(counts) != 62 || len(newID()) != 32 {
		t.Errorf("%d letters", len(counts))
	}
}

func TestAMalformedHashIsNoOpenDoor(t *testing.T) {
	key := strings.Repeat("0a", scryptLength)
	for _, stored := range []string{
		"", ":", "salt:", ":" + key, "salt", key, "salt:" + key[:126], "salt:" + key + "00", "salt:" + strings.Repeat("z", 128),
		"salt:" + key + ":" + key, noPassword,
	} {
		if salt, _, err := parseHash(stored); err == nil || salt == "" {
			t.Errorf("%q is taken for a hash", stored)
		}
	}
	if salt, got, err := parseHash("salt:" + key); err != nil || salt != "salt" || len(got) != scryptLength {
		t.Errorf("got %q, %d bytes, %v", salt, len(got), err)
	}
	p := newPasswords(hashMemory, time.Second, slog.New(slog.DiscardHandler))
	for _, stored := range []string{"salt:", noPassword} {
		if ok, err := p.matches(t.Context(), stored, ""); ok || err != nil {
			t.Errorf("%q matches %t, %v", stored, ok, err)
		}
	}
}

func TestThrottleCanBeOff(t *testing.T) {
	off, now := newThrottle(-1, time.Minute), time.Now()
	for range 1000 {
		off.failed("ann", now)
	}
	off.clear("ann")
	if err := off.check("ann", now); err != nil {
		t.Error(err)
	}
}

func FuzzKeyFormat(f *testing.F) {
	f.Add("ost_")
	f.Add("ost_" + strings.Repeat("a", 60))
	f.Add("ost_\xff\x00ü")
	f.Fuzz(func(t *testing.T, secret string) {
		if checksumRight(secret) && secret[len(secret)-checksumLength:] != checksum(secret[:len(secret)-checksumLength]) {
			t.Error("accepted with a wrong checksum")
		}
		_ = looksOurs(secret)
		sum := checksum(secret)
		if len(sum) != checksumLength || strings.Trim(sum, base62) != "" {
			t.Errorf("checksum %q", sum)
		}
		if len(secret) <= maxCredential && digestOf(secret) != digestOf(strings.Clone(secret)) {
			t.Error("one text, two digests")
		}
	})
}
