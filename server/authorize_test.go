package server_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

var documents = fstest.MapFS{
	"document.rego": {Data: []byte(`package app.document

allow if input.resource.properties.owner == input.principal.id

allow if {
	input.action.name == "stamp"
	input.action.properties.ink == "blue"
	input.context.desk == "front"
}

deny contains {"code": "frozen", "message": "it is frozen", "until": input.resource.properties.until} if input.resource.properties.frozen

context := {"watermark": true, "copies": 3}
`)},
	"data.json": {Data: []byte(`{"roles": {"reader": {"document": ["read"]}, "lister": {"user": ["list"]}}}`)},
}

type decision struct {
	Allow          bool
	DecisionID     string `json:"decisionId"`
	PolicyRevision string `json:"policyRevision"`
	Principal      struct {
		Type, ID, Credential string
		Roles                []string
		KeyID                string `json:"keyId"`
	}
	Reasons []authz.Reason
	Context map[string]any
	Missing authz.Permissions
	Explain *struct{ Fired, Failed []authz.Rule }
	Results []decision
}

func (d decision) codes() string {
	var codes []string
	for _, r := range d.Reasons {
		codes = append(codes, r.Code)
	}
	return strings.Join(codes, " ")
}

func TestAuthorizeAnswersAboutTheCredentialOnTheRequest(t *testing.T) {
	h := open(t, documents)
	admin, ann, reader := h.user(t, "root", "admin"), h.user(t, "ann"), h.user(t, "reader", "reader")
	_, adminKey := h.key(t, admin, authz.Permissions{"user": {"list", "get"}, "document": {"*"}})
	annKey, annSecret := h.key(t, ann, authz.Permissions{"document": {"read", "write"}})
	_, bare := h.key(t, admin, nil)
	_, readerKey := h.key(t, reader, authz.Permissions{"*": {"*"}})
	session := h.signIn(t, "ann@example.com")

	for _, c := range []struct {
		name, key, body string
		allow           bool
		codes           string
	}{
		{"role and grant", adminKey, `{"action":"list","resource":{"type":"user"}}`, true, "role"},
		{"role without grant", adminKey, `{"action":"set-password","resource":{"type":"user","id":"` + ann.ID + `"}}`, false, "grant_missing"},
		{"no grants at all", bare, `{"action":"list","resource":{"type":"user"}}`, false, "grant_missing"},
		{"grant without role", annSecret, `{"action":"list","resource":{"type":"user"}}`, false, "grant_missing role_missing"},
		{"every grant without role", readerKey, `{"action":"list","resource":{"type":"user"}}`, false, "role_missing"},
		{"author's role", readerKey, `{"action":"read","resource":{"type":"document","id":"d1"}}`, true, "role"},
		{"author's rule", annSecret, `{"action":"write","resource":{"type":"document","id":"d1","properties":{"owner":"` + ann.ID + `"}}}`, true, "app"},
		{"author's rule, another's", annSecret, `{"action":"write","resource":{"type":"document","id":"d1","properties":{"owner":"` + admin.ID + `"}}}`, false, "role_missing"},
		{"author's denial", annSecret, `{"action":"write","resource":{"type":"document","properties":{"owner":"` + ann.ID + `","frozen":true,"until":"May"}}}`, false, "frozen"},
		{"action with properties, context", annSecret, `{"action":{"name":"stamp","properties":{"ink":"blue"}},"resource":{"type":"document"},"context":{"desk":"front"}}`, false, "grant_missing"},
		{"own account", session, `{"action":"update","resource":{"type":"user","id":"` + ann.ID + `"}}`, true, "self"},
		{"another's account", session, `{"action":"update","resource":{"type":"user","id":"` + admin.ID + `"}}`, false, "role_missing"},
		{"nobody's account", session, `{"action":"update","resource":{"type":"user","id":"nobody"}}`, false, "role_missing"},
		{"nobody", "", `{"action":"list","resource":{"type":"user"}}`, false, "unauthenticated"},
		{"nobody, where all may", "", `{"action":"stamp","resource":{"type":"document"}}`, false, "unauthenticated"},
		{"charset", adminKey, `{"action":"list","resource":{"type":"user"}}`, true, "role"},

		// What the body says of a stored thing does not count.
		{"says it is the owner", annSecret, `{"action":"delete","resource":{"type":"session","id":"x","properties":{"owner":"` + ann.ID + `"}}}`, false, "grant_missing role_missing"},
		{"says the owner of another's key", session, `{"action":"delete","resource":{"type":"apiKey","id":"` + keyOf(t, h, admin) + `","properties":{"owner":"` + ann.ID + `"}}}`, false, "role_missing"},
		{"own key, says another owner", session, `{"action":"delete","resource":{"type":"apiKey","id":"` + annKey.ID + `","properties":{"owner":"` + admin.ID + `"}}}`, true, "self"},

		// Nor does anything else in it change who is asked about.
		{"principal in context", annSecret, `{"action":"list","resource":{"type":"user"},"context":{"principal":{"roles":["admin"]}}}`, false, "grant_missing role_missing"},
	} {
		var headers []string
		if c.key != "" {
			headers = append(headers, "Authorization: Bearer "+c.key)
		}
		got := h.do(t, "POST", "/v1/authorize", c.body, headers...)
		if got.StatusCode != 200 {
			t.Errorf("%s: %d %s", c.name, got.StatusCode, got.body)
			continue
		}
		var d decision
		got.decode(t, &d)
		if d.Allow != c.allow || d.codes() != c.codes {
			t.Errorf("%s: got %v for %q, want %v for %q", c.name, d.Allow, d.codes(), c.allow, c.codes)
		}
		if d.DecisionID == "" || d.DecisionID != got.Header.Get("Ostiary-Decision") || d.PolicyRevision != h.library.Status().Revision {
			t.Errorf("%s: decision %q, header %q, revision %q", c.name, d.DecisionID, got.Header.Get("Ostiary-Decision"), d.PolicyRevision)
		}
		if got.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: Cache-Control %q", c.name, got.Header.Get("Cache-Control"))
		}
	}

	var d decision
	h.do(t, "POST", "/v1/authorize", `{"action":"set-role","resource":{"type":"user"}}`, "x-api-key: "+adminKey).decode(t, &d)
	p := d.Principal
	if p.Type != "user" || p.ID != admin.ID || p.Credential != "api_key" || fmt.Sprint(p.Roles) != "[admin]" || p.KeyID == "" {
		t.Errorf("principal: got %+v", p)
	}
	if d.Reasons[0].Permission != "user:set-role" || !strings.Contains(d.Reasons[0].Message, "user:set-role") {
		t.Errorf("a missing grant is not named: %+v", d.Reasons)
	}
	d = decision{}
	h.do(t, "POST", "/v1/authorize", `{"action":"write","resource":{"type":"document","properties":{"frozen":true,"until":"May"}}}`, "x-api-key: "+adminKey).decode(t, &d)
	if d.Context["watermark"] != true || d.Context["copies"] != 3.0 {
		t.Errorf("context of the policy: got %v", d.Context)
	}
	d = decision{}
	h.do(t, "POST", "/v1/authorize", `{"action":"x","resource":{"type":"y"}}`).decode(t, &d)
	if p := d.Principal; p.Type != "anonymous" || p.ID != "" || p.Credential != "none" || p.Roles == nil {
		t.Errorf("anonymous principal: got %+v", p)
	}
}

func keyOf(t *testing.T, h *house, u authn.User) string {
	k, _ := h.key(t, u, nil)
	return k.ID
}

func TestAuthorizeChecksAnswerInOrder(t *testing.T) {
	h := open(t, documents)
	_, key := h.key(t, h.user(t, "root", "admin"), authz.Permissions{"user": {"list"}})
	got := h.do(t, "POST", "/v1/authorize", `{"checks":[
		{"action":"list","resource":{"type":"user"}},
		{"action":"ban","resource":{"type":"user"}},
		{"action":{"name":"list"},"resource":{"type":"user"},"context":{"a":1}}]}`, "x-api-key: "+key)
	var d decision
	got.decode(t, &d)
	if len(d.Results) != 3 || !d.Results[0].Allow || d.Results[1].Allow || !d.Results[2].Allow {
		t.Errorf("got %s", got.body)
	}
	if got.Header.Get("Ostiary-Decision") != d.Results[2].DecisionID {
		t.Errorf("the header names %q, not the last decision", got.Header.Get("Ostiary-Decision"))
	}
	ids := map[string]bool{}
	for _, r := range d.Results {
		ids[r.DecisionID] = true
	}
	if len(ids) != 3 {
		t.Errorf("%d different decisions", len(ids))
	}

	many := func(n int) string {
		return `{"checks":[` + strings.TrimSuffix(strings.Repeat(`{"action":"list","resource":{"type":"user"}},`, n), ",") + `]}`
	}
	if got := h.do(t, "POST", "/v1/authorize", many(100), "x-api-key: "+key); got.StatusCode != 200 || got.Header.Get("Content-Length") != strconv.Itoa(len(got.body)) {
		t.Errorf("100 checks: %d, %d bytes of %q", got.StatusCode, len(got.body), got.Header.Get("Content-Length"))
	}
	for _, n := range []int{0, 101} {
		if got := h.do(t, "POST", "/v1/authorize", many(n), "x-api-key: "+key); got.StatusCode != 400 || !strings.Contains(got.body, fmt.Sprintf("1 to 100 checks, not %d", n)) {
			t.Errorf("%d checks: %d %s", n, got.StatusCode, got.body)
		}
	}
}

func TestAuthorizePermissionsAreAllowedIfAllAre(t *testing.T) {
	h := open(t, documents)
	both := h.user(t, "both", "reader", "lister")
	_, key := h.key(t, both, authz.Permissions{"*": {"*"}})
	for _, c := range []struct {
		body    string
		allow   bool
		missing string
	}{
		{`{"permissions":{"user":["list"],"document":["read"]}}`, true, "map[]"}, // each role gives half
		{`{"permissions":{"user":["list","set-password"]}}`, false, "map[user:[set-password]]"},
		{`{"permissions":{"user":["ban","list"],"document":["read","burn"],"x":["y"]}}`, false, "map[document:[burn] user:[ban] x:[y]]"},
	} {
		got := h.do(t, "POST", "/v1/authorize", c.body, "x-api-key: "+key)
		var d decision
		got.decode(t, &d)
		if d.Allow != c.allow || d.Missing == nil || fmt.Sprint(d.Missing) != c.missing {
			t.Errorf("%s: got %s", c.body, got.body)
		}
		if got.Header.Get("Ostiary-Decision") != d.DecisionID {
			t.Errorf("%s: the header names %q, the body %q", c.body, got.Header.Get("Ostiary-Decision"), d.DecisionID)
		}
		if !c.allow {
			if d.codes() == "" || strings.Contains(d.codes(), "role ") {
				t.Errorf("%s: reasons %q", c.body, d.codes())
			}
		}
	}
}

func TestExplainNamesRulesWithFileAndLine(t *testing.T) {
	h := open(t, documents)
	ann := h.user(t, "ann")
	_, key := h.key(t, ann, authz.Permissions{"document": {"write"}})
	var d decision
	h.do(t, "POST", "/v1/authorize", `{"explain":true,"action":"write","resource":{"type":"document","properties":{"owner":"`+ann.ID+`"}}}`, "x-api-key: "+key).decode(t, &d)
	if !d.Allow || d.Explain == nil {
		t.Fatalf("got %+v", d)
	}
	has := func(rules []authz.Rule, name string, line int) bool {
		for _, r := range rules {
			if strings.HasSuffix(r.File, "document.rego") && r.Line == line && strings.HasPrefix(r.Name, name) {
				return true
			}
		}
		return false
	}
	if !has(d.Explain.Fired, "data.app.document.allow", 3) {
		t.Errorf("the rule that allowed is not among those that fired: %+v", d.Explain.Fired)
	}
	if !has(d.Explain.Failed, "data.app.document.deny", 11) {
		t.Errorf("the rule that did not deny is not among those that failed: %+v", d.Explain.Failed)
	}
	var batch decision
	h.do(t, "POST", "/v1/authorize", `{"explain":true,"checks":[{"action":"write","resource":{"type":"document"}}]}`, "x-api-key: "+key).decode(t, &batch)
	if len(batch.Results) != 1 || batch.Results[0].Explain == nil {
		t.Errorf("a check is not explained: %+v", batch)
	}
	var plain decision
	h.do(t, "POST", "/v1/authorize", `{"action":"write","resource":{"type":"document"},"explain":false}`, "x-api-key: "+key).decode(t, &plain)
	if plain.Explain != nil {
		t.Error("explained unasked")
	}
}

// A question that is not put exactly as it must be is not answered: a policy
// must never judge something else than what was meant.
func TestAuthorizeRefusesWhatItDoesNotUnderstand(t *testing.T) {
	h := open(t, documents)
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	for _, c := range []struct {
		body, pointer, message string
	}{
		{``, "", "ends too soon"},
		{`{`, "", "ends too soon"},
		{`null`, "/action", "is required"},
		{`[]`, "", "must be an object, not an array"},
		{`"x"`, "", "must be an object, not text"},
		{`{}`, "/action", "is required"},
		{`{} {}`, "", "malformed"},
		{`{"action":"a","resource":{"type":"t"}}x`, "", "malformed"},
		{`{"resource":{"type":"t"}}`, "/action", "is required"},
		{`{"action":"","resource":{"type":"t"}}`, "/action", "must have a name"},
		{`{"action":{},"resource":{"type":"t"}}`, "/action", "must have a name"},
		{`{"action":{"name":1},"resource":{"type":"t"}}`, "/action/name", "must be text, not a number"},
		{`{"action":{"name":null},"resource":{"type":"t"}}`, "/action/name", "must not be null"},
		{`{"action":{"name":"a","prop":{}},"resource":{"type":"t"}}`, "/action/prop", "is not a known member"},
		{`{"action":{"name":"a","properties":[]},"resource":{"type":"t"}}`, "/action/properties", "must be an object"},
		{`{"action":["a"],"resource":{"type":"t"}}`, "/action", "must be text or an object with a name"},
		{`{"action":null,"resource":{"type":"t"}}`, "/action", "must be text or an object with a name"},
		{`{"action":7,"resource":{"type":"t"}}`, "/action", "must be text or an object with a name"},
		{`{"action":"a"}`, "/resource", "is required"},
		{`{"action":"a","resource":null}`, "/resource", "must not be null"},
		{`{"action":"a","resource":"t"}`, "/resource", "must be an object, not text"},
		{`{"action":"a","resource":{}}`, "/resource/type", "is required"},
		{`{"action":"a","resource":{"type":""}}`, "/resource/type", "is required"},
		{`{"action":"a","resource":{"type":["t"]}}`, "/resource/type", "must be text, not an array"},
		{`{"action":"a","resource":{"type":"t","id":""}}`, "/resource/id", "must not be empty"},
		{`{"action":"a","resource":{"type":"t","id":null}}`, "/resource/id", "must not be null"},
		{`{"action":"a","resource":{"type":"t","id":7}}`, "/resource/id", "must be text, not a number"},
		{`{"action":"a","resource":{"type":"t","properties":null}}`, "/resource/properties", "must be an object"},
		{`{"action":"a","resource":{"type":"t","properties":"x"}}`, "/resource/properties", "must be an object"},
		{`{"action":"a","resource":{"type":"t","Properties":{}}}`, "/resource/Properties", "is not a known member"},
		{`{"action":"a","resource":{"type":"t"},"context":[]}`, "/context", "must be an object"},
		{`{"action":"a","resource":{"type":"t"},"context":null}`, "/context", "must be an object"},
		{`{"action":"a","resource":{"type":"t"},"contxt":{}}`, "/contxt", "is not a known member"},
		{`{"action":"a","resource":{"type":"t"},"principal":{"id":"root"}}`, "/principal", "is not a known member"},
		{`{"action":"a","resource":{"type":"t"},"subject":{"id":"root"}}`, "/subject", "is not a known member"},
		{`{"Action":"a","resource":{"type":"t"}}`, "/Action", "is not a known member"},
		{`{"a/b~c":1}`, "/a~1b~0c", "is not a known member"},
		{`{"action":"a","action":"b","resource":{"type":"t"}}`, "/action", "appears twice"},
		{`{"action":"a","resource":{"type":"t","type":"u"}}`, "/resource/type", "appears twice"},
		{`{"action":"a","resource":{"type":"t","properties":{"x":{"y":1,"y":2}}}}`, "/resource/properties/x/y", "appears twice"},
		{`{"action":"a","resource":{"type":"t","properties":{"n":9007199254740993}}}`, "/resource/properties/n", "cannot be represented exactly"},
		{`{"action":"a","resource":{"type":"t","properties":{"n":[1,1e400]}}}`, "/resource/properties/n/1", "cannot be represented exactly"},
		{"{\"action\":\"a\xff\",\"resource\":{\"type\":\"t\"}}", "/action", "malformed"},
		{"{\"action\":\"a\",\"resource\":{\"type\":\"t\",\"properties\":{\"\xff\":1}}}", "/resource/properties", "malformed"},
		{`{"action":"a\ud800","resource":{"type":"t"}}`, "/action", "malformed"},
		{`{"action":'a'}`, "/action", "malformed"},
		{`{"action":"a",}`, "", "malformed"},
		{`{"action":"a","resource":{"type":"t"},"explain":"yes"}`, "/explain", "must be true or false, not text"},
		{`{"action":"a","resource":{"type":"t"},"explain":null}`, "/explain", "must not be null"},
		{`{"action":"a","resource":{"type":"t"},"context":` + deep + `}`, "", "nested too deeply"},
		{`{"checks":null}`, "/checks", "must not be null"},
		{`{"checks":{}}`, "/checks", "must be an array, not an object"},
		{`{"checks":[]}`, "/checks", "must hold 1 to 100"},
		{`{"checks":[{"action":"a","resource":{"type":"t"}},{"action":"a"}]}`, "/checks/1/resource", "is required"},
		{`{"checks":[{"action":"a","resource":{"type":"t"}},{"resource":{"type":"t"}}]}`, "/checks/1/action", "is required"},
		{`{"checks":[{"action":"a","resource":{"type":"t"},"explain":true}]}`, "/checks/0/explain", "is not a known member"},
		{`{"checks":[null]}`, "/checks/0/action", "is required"},
		{`{"checks":[7]}`, "/checks/0", "must be an object, not a number"},
		{`{"checks":[{"action":"a","resource":{"type":"t"}}],"action":"a"}`, "", "only one of"},
		{`{"checks":[{"action":"a","resource":{"type":"t"}}],"context":{}}`, "", "only one of"},
		{`{"checks":[{"action":"a","resource":{"type":"t"}}],"permissions":{"a":["b"]}}`, "", "only one of"},
		{`{"permissions":{"a":["b"]},"action":"a"}`, "", "only one of"},
		{`{"permissions":{"a":["b"]},"resource":{"type":"t"}}`, "", "only one of"},
		{`{"permissions":null}`, "/permissions", "must not be null"},
		{`{"permissions":[]}`, "/permissions", "must be an object, not an array"},
		{`{"permissions":{}}`, "/permissions", "must hold 1 to 100"},
		{`{"permissions":{"user":[]}}`, "/permissions/user", "must name an action"},
		{`{"permissions":{"user":null}}`, "/permissions/user", "must name an action"},
		{`{"permissions":{"user":"list"}}`, "/permissions/user", "must be an array, not text"},
		{`{"permissions":{"user":[""]}}`, "/permissions/user/0", "must not be empty"},
		{`{"permissions":{"user":["a",7]}}`, "/permissions/user/1", "must be text, not a number"},
		{`{"permissions":{"":["a"]}}`, "/permissions", "must not name an empty type"},
		{`{"permissions":{"a/b":[]}}`, "/permissions/a~1b", "must name an action"},
	} {
		got := h.do(t, "POST", "/v1/authorize", c.body, "Content-Type: application/json")
		var p struct {
			Code, Detail string
			Errors       []struct{ Pointer, Message string }
		}
		got.decode(t, &p)
		if got.StatusCode != 400 || p.Code != "INVALID" || len(p.Errors) != 1 {
			t.Errorf("%s: got %d %s", c.body, got.StatusCode, got.body)
			continue
		}
		if e := p.Errors[0]; e.Pointer != c.pointer || !strings.Contains(e.Message, c.message) {
			t.Errorf("%s:\n got %q %q\nwant %q %q", c.body, e.Pointer, e.Message, c.pointer, c.message)
		}
		if got.Header.Get("Ostiary-Decision") != "" {
			t.Errorf("%s was decided", c.body)
		}
	}
}

func TestBodiesOfOtherTypesAndSizes(t *testing.T) {
	h := open(t, nil)
	good := `{"action":"a","resource":{"type":"t"}}`
	for _, c := range []struct {
		media, body string
		status      int
		code        string
	}{
		{"application/json", good, 200, ""},
		{"application/json; charset=utf-8", good, 200, ""},
		{"Application/JSON", good, 200, ""},
		{"text/plain", good, 415, "UNSUPPORTED_MEDIA_TYPE"},
		{"application/x-www-form-urlencoded", good, 415, "UNSUPPORTED_MEDIA_TYPE"},
		{"application/jsonx", good, 415, "UNSUPPORTED_MEDIA_TYPE"},
		{"", good, 415, "UNSUPPORTED_MEDIA_TYPE"},
		{"application/json", `{"action":"` + strings.Repeat("a", 1<<20) + `","resource":{"type":"t"}}`, 413, "PAYLOAD_TOO_LARGE"},
	} {
		got := h.do(t, "POST", "/v1/authorize", c.body, "Content-Type: "+c.media)
		if got.StatusCode != c.status || c.code != "" && got.code(t) != c.code {
			t.Errorf("%q: got %d %.200s", c.media, got.StatusCode, got.body)
		}
	}
}

// Without a policy everything is denied, and says so.
func TestAuthorizeWithoutPolicyDenies(t *testing.T) {
	h := open(t, nil)
	h.engine.Swap(nil)
	var d decision
	h.do(t, "POST", "/v1/authorize", `{"action":"a","resource":{"type":"t"},"explain":true}`).decode(t, &d)
	if d.Allow || d.codes() != "unavailable" {
		t.Errorf("got %+v", d)
	}
	if got := h.do(t, "GET", "/readyz", ""); got.StatusCode != 503 || got.Header.Get("Retry-After") == "" {
		t.Errorf("readyz: got %d", got.StatusCode)
	}
	if got := h.do(t, "GET", "/healthz", ""); got.StatusCode != 200 {
		t.Errorf("healthz: got %d", got.StatusCode)
	}
}
