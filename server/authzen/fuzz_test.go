package authzen

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ostiary/ostiary/server/request"
)

func surface(t testing.TB) *Surface {
	t.Helper()
	rd, err := request.New(request.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{}, rd, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// FuzzDecode: a body that is accepted means the same to every reader (RFC 7493),
// and its mistakes are mistakes of the caller's.
func FuzzDecode(f *testing.F) {
	for _, body := range []string{
		`{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"1"}}`,
		`{"subject":{"type":"user","id":"alice","\u0069d":"bob"}}`,
		`{"evaluations":[{},{"resource":null}],"options":{"evaluations_semantic":"deny_on_first_deny"}}`,
		`{"a":[1,1.0,1e400,-0,12345678901234567890,1e-400],"b":"\ud83d\ude00"}`,
		`{"a":"\ud800"}`, "{\"a\":\"\xff\"}", `{"page":{"limit":1.0,"token":"x"}}`, `[]`, `null`, `{} {}`, "\ufeff{}",
	} {
		f.Add([]byte(body))
	}
	s := surface(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		doc, err := s.decode(r)
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Errorf("%q: %v is no mistake of the caller's", body, err)
			}
			return
		}
		if !utf8.Valid(body) {
			t.Errorf("%q is not UTF-8 and was accepted", body)
		}
		d := stdjson.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		// That decoder puts U+FFFD where a surrogate stands alone.
		replaced := !bytes.Contains(body, []byte("\ufffd")) && !bytes.Contains(bytes.ToLower(body), []byte(`\ufffd`))
		if err := unambiguous(d, replaced); err != nil {
			t.Errorf("%q was accepted: %v", body, err)
		}
		if _, err := d.Token(); err != io.EOF {
			t.Errorf("%q: there is something behind the object", body)
		}
		// Whatever it says, it is taken in or refused, and the same each time.
		for _, read := range []func() error{
			func() error { _, err := doc.question(); return err },
			func() error { _, err := doc.batch(1000); return err },
			func() error { _, _, err := doc.limit(); return err },
			func() error { _, err := doc.token(); return err },
		} {
			first, second := read(), read()
			if _, ok := errors.AsType[*Error](first); first != nil && (!ok || second == nil || first.Error() != second.Error()) {
				t.Errorf("%q: %v, then %v", body, first, second)
			}
			if first != nil && strings.Contains(first.Error(), "alice") {
				t.Errorf("%q: the message repeats what was sent: %v", body, first)
			}
		}
	})
}

// unambiguous reads one value with another decoder than the one under test, and
// complains of names that are there twice, of what is outside of Unicode and of
// numbers that are out of range.
func unambiguous(d *stdjson.Decoder, replaced bool) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	switch v := token.(type) {
	case stdjson.Delim:
		seen := map[string]bool{}
		for d.More() {
			if v == '{' {
				name, err := d.Token()
				if err != nil {
					return err
				}
				if replaced && strings.ContainsRune(name.(string), utf8.RuneError) {
					return errors.New("a surrogate stands alone")
				}
				if seen[name.(string)] {
					return errors.New("a name is there twice")
				}
				seen[name.(string)] = true
			}
			if err := unambiguous(d, replaced); err != nil {
				return err
			}
		}
		_, err := d.Token()
		return err
	case string:
		if replaced && strings.ContainsRune(v, utf8.RuneError) {
			return errors.New("a surrogate stands alone")
		}
	case stdjson.Number:
		if f, err := v.Float64(); err != nil || math.IsInf(f, 0) {
			return errors.New("a number is out of range")
		}
	}
	return nil
}

// FuzzToken: of all tokens, only the one that was made opens, for the request that
// it was made for, in its time.
func FuzzToken(f *testing.F) {
	f.Add("alice", 1, "read", 0, byte(1), "x")
	f.Add("", 1000, "", 40, byte(128), "")
	now := time.Unix(1_800_000_000, 0)
	mine, err := newTokens([]string{"a secret that is long enough to be one", "an older one"})
	if err != nil {
		f.Fatal(err)
	}
	older, err := newTokens([]string{"an older one"})
	if err != nil {
		f.Fatal(err)
	}
	foreign, err := newTokens(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, after string, limit int, request string, at int, by byte, other string) {
		want := position{Limit: limit, After: []byte(after), Revision: "r"}
		token, err := mine.seal(want, []byte(request), now)
		if err != nil {
			t.Fatal(err)
		}
		got, err := mine.open(token, []byte(request), now.Add(TokenLife-time.Second))
		if err != nil || got.Limit != limit || string(got.After) != after || got.Revision != "r" {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		refused := func(name string, tokens *tokens, token, request string, now time.Time) {
			t.Helper()
			if p, err := tokens.open(token, []byte(request), now); err == nil || p.After != nil || p.Limit != 0 {
				t.Errorf("%s: %q opened: %+v", name, token, p)
			}
		}
		refused("too late", mine, token, request, now.Add(TokenLife))
		refused("foreign", foreign, token, request, now)
		refused("a new secret alone", older, token, request, now)
		if other != request {
			refused("another request", mine, token, other, now)
		}
		if other != token {
			refused("another token", mine, other, request, now)
		}
		altered := []byte(token)
		if by != 0 {
			altered[((at%len(token))+len(token))%len(token)] ^= by
			refused("altered", mine, string(altered), request, now)
		}
		refused("cut", mine, token[:len(token)-1], request, now)
		refused("longer", mine, token+"A", request, now)
		refused("a line break", mine, token[:3]+"\n"+token[3:], request, now)
		if len(after) >= 8 && strings.Contains(token, after) {
			t.Errorf("%q shows %q", token, after)
		}
		// A secret that was replaced still opens what it sealed.
		token, err = older.seal(want, []byte(request), now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mine.open(token, []byte(request), now); err != nil {
			t.Errorf("sealed by an old secret: %v", err)
		}
	})
}
