package main

import (
	"bufio"
	"strings"
	"testing"
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
