package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// What is compared answers the same: everything that an engine can be asked.
func TestEnginesAgree(t *testing.T) {
	for _, e := range engines() {
		var asked []question
		for _, q := range questions() {
			if e.can(&q) {
				asked = append(asked, q)
			}
		}
		decide, stop, err := e.open(asked)
		if err != nil {
			t.Errorf("%s: %v", e.name, err)
			continue
		}
		if err := verify(asked, decide); err != nil {
			t.Errorf("%s: %v", e.name, err)
		}
		stop()
	}
}

func TestWrongAnswersAreNotMeasured(t *testing.T) {
	qs := questions()
	if err := verify(qs, func(int) (bool, error) { return true, nil }); err == nil || !strings.Contains(err.Error(), "key-not-granted") {
		t.Errorf("verify: %v", err)
	}
}

// What is put into databases past the service is what the service would put there:
// keys work, entities are found, and each decision is as expected.
func TestCurvesAreOfWhatWorks(t *testing.T) {
	var out strings.Builder
	if err := measureCurves(t.Context(), &out, 1, 10); err != nil {
		t.Error(err)
	}
	if n := strings.Count(out.String(), "\n| 10 | "); n != 3 {
		t.Errorf("%d curves reach 10:\n%s", n, out.String())
	}
}

func TestNumbersAreFound(t *testing.T) {
	if n, err := number([]byte("x 1\ny 2.3e+01\n"), `(?m)^y (\S+)$`, 1024); n != 23<<10 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := number([]byte("x 1\n"), `(?m)^y (\d+)$`, 1); err == nil {
		t.Error("what is not there is taken for nothing")
	}
}

// A server that permits everything is not measured.
func TestServersProveThatTheyDecide(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"allow":true}`) })}
	defer server.Close()
	go func() { _ = server.Serve(l) }()
	ask := post(l.Addr().String(), "/", "{}")
	yes := target{address: l.Addr().String(), request: ask, has: `"allow":true`, asks: 1}
	if err := yes.verify(t.Context()); err != nil {
		t.Error(err)
	}
	if r, err := yes.drive(t.Context(), 2, 10*time.Millisecond); err != nil || r.requests < 2 {
		t.Errorf("%+v, %v", r, err)
	}
	yes.other, yes.otherHas = string(ask), `"allow":false`
	if err := yes.verify(t.Context()); err == nil {
		t.Error("it permits what is to be denied")
	}
	yes.asks = 2
	if _, err := yes.drive(t.Context(), 1, 10*time.Millisecond); err == nil {
		t.Error("half an answer counts")
	}
}

func TestQuartiles(t *testing.T) {
	if low, mid, high := quartiles([]float64{4, 1, 3, 2, 5}); low != 2 || mid != 3 || high != 4 {
		t.Errorf("got %v %v %v", low, mid, high)
	}
	if low, mid, high := quartiles([]float64{1, 2}); low != 1.25 || mid != 1.5 || high != 1.75 {
		t.Errorf("got %v %v %v", low, mid, high)
	}
}

func TestAnswersAreRead(t *testing.T) {
	in := bufio.NewReader(strings.NewReader("HTTP/1.1 200 OK\r\nX: y\r\ncontent-length: 5\r\n\r\nhelloHTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nnoHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nin \r\n5\r\nparts\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"))
	for _, want := range []struct {
		status int
		body   string
	}{{200, "hello"}, {403, "no"}, {200, "in parts"}} {
		status, body, err := readAnswer(in, nil)
		if err != nil || status != want.status || string(body) != want.body {
			t.Errorf("got %d %q, %v", status, body, err)
		}
	}
	if _, _, err := readAnswer(in, nil); err == nil {
		t.Error("an answer without a length is taken")
	}
}
