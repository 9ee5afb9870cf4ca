package policies

import (
	"strings"
	"testing"
)

const readers = `package app.document

allow if input.action.name == "read"

deny contains "sealed" if {
	input.resource.properties.sealed == true
}
`

// A test that fails says what did not hold, and cases which of them.
func TestTestsSayWhatFailed(t *testing.T) {
	r, err := Test(t.Context(), files("document.rego", readers, "document_test.rego", `package app.document_test

ask(action) if data.app.document.allow with input as {"action": {"name": action}}

test_read if ask("read")

test_write if {
	print("writing")
	ask("write")
}

test_many[name] if {
	some name, want in {"read": true, "copy": true}
	ask(name) == want
}

test_error if to_number("x") == 1

todo_test_later if ask("later")
`), nil, TestOptions{Coverage: true})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]TestResult{}
	for _, result := range r.Tests {
		got[result.Name] = result
	}
	if len(r.Tests) != 5 || r.Failed() != 3 {
		t.Fatalf("got %+v", r.Tests)
	}
	if got["test_read"].Outcome != "pass" || got["todo_test_later"].Outcome != "skip" {
		t.Errorf("got %+v", r.Tests)
	}
	if w := got["test_write"]; w.Outcome != "fail" || w.Line != 7 || w.Output != "writing" ||
		w.Message != `document_test.rego:9:2: this did not hold: ask("write")` {
		t.Errorf("got %+v", w)
	}
	if w := got["test_many"]; w.Outcome != "fail" || len(w.Cases) != 1 || w.Cases[0] != "copy" {
		t.Errorf("got %+v", w)
	}
	if w := got["test_error"]; w.Outcome != "error" || !strings.Contains(w.Message, "to_number") {
		t.Errorf("got %+v", w)
	}
}

func TestCoverageIsOfTheAuthorsRules(t *testing.T) {
	fsys := files("document.rego", readers, "document_test.rego", "package app.document_test\n\ntest_read if data.app.document.allow with input as {\"action\": {\"name\": \"read\"}}\n")
	r, err := Test(t.Context(), fsys, nil, TestOptions{Coverage: true})
	if err != nil {
		t.Fatal(err)
	}
	c := r.Coverage
	if c.Percent <= 0 || c.Percent >= 100 || len(c.Missed) == 0 || c.Missed[0].File != "document.rego" || c.Missed[0].First != 5 {
		t.Errorf("got %+v", c)
	}
	for _, m := range c.Missed {
		if m.File != "document.rego" {
			t.Errorf("of another file: %+v", m)
		}
	}
}

func TestTestsAreChosenByName(t *testing.T) {
	fsys := files("document_test.rego", "package app.document_test\n\ntest_a if true\n\ntest_b if false\n")
	r, err := Test(t.Context(), fsys, nil, TestOptions{Run: "_test.test_a$"})
	if err != nil || len(r.Tests) != 1 || r.Failed() != 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	if _, err := Test(t.Context(), fsys, nil, TestOptions{Run: "("}); err == nil {
		t.Error("not a regular expression: accepted")
	}
}

func TestTestsHaveNoNetwork(t *testing.T) {
	fsys := files("document_test.rego", "package app.document_test\n\ntest_a if http.send({})\n")
	if _, err := Test(t.Context(), fsys, nil, TestOptions{}); err == nil || !strings.HasPrefix(err.Error(), "document_test.rego:3:11: ") {
		t.Errorf("got %v", err)
	}
}
