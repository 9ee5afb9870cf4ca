package extauthz_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server/extauthz"
	"github.com/ostiary/ostiary/server/forwardauth"
	"github.com/ostiary/ostiary/server/request"
)

var site = fstest.MapFS{
	"data.json": &fstest.MapFile{Data: []byte(`{
		"routes": [
			{"method": "*", "pattern": "/docs/{id}", "permission": "document:read"},
			{"method": "GET", "pattern": "/public/*", "permission": "public"}
		],
		"roles": {"reader": {"document": ["read"]}}}`)},
	"route.rego": &fstest.MapFile{Data: []byte(`package app.route

deny contains "broken" if {
	input.resource.properties.path == "/public/broken"
	to_number("x") == 1
}

allow if input.resource.properties.path == sprintf("/from/%s", [input.context.ip])

allow if input.resource.properties.path == sprintf("/extended/%s", [input.resource.properties.extensions.tenant])
`)},
}

// envoy is a client of a server that runs, and the service behind it.
type envoy struct {
	*testing.T
	*ostiary.Ostiary
	authv3.AuthorizationClient
	server *extauthz.Server
}

func newEnvoy(t *testing.T, change ...func(*ostiary.Options)) *envoy {
	t.Helper()
	o := ostiary.Options{Database: "sqlite::memory:", Secrets: []string{strings.Repeat("s", 32)}, Policies: site}
	for _, f := range change {
		f(&o)
	}
	i, err := ostiary.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &envoy{T: t, Ostiary: i, server: extauthz.NewServer(extauthz.Options{Gate: i.Gate()})}
	ended := make(chan error, 1)
	go func() { ended <- e.server.Serve(l) }()
	t.Cleanup(func() {
		e.server.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	e.AuthorizationClient = authv3.NewAuthorizationClient(conn)
	return e
}

// holding is what Envoy asks about a GET of path. headers are "name: value".
func holding(path string, headers ...string) *authv3.CheckRequest {
	h := map[string]string{":path": path, ":method": "GET", ":authority": "app.test"}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		h[name] = value
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
			SocketAddress: &corev3.SocketAddress{Address: "203.0.113.7", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 1234}},
		}}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: path, Host: "app.test", Scheme: "https", Headers: h,
		}},
	}}
}

// ask asks, and fails the test if the call does.
func (e *envoy) ask(in *authv3.CheckRequest) *authv3.CheckResponse {
	e.Helper()
	out, err := e.Check(e.Context(), in)
	if err != nil {
		e.Fatal(err)
	}
	return out
}

// verdict is 200, or the status that a client is told.
func verdict(out *authv3.CheckResponse) int {
	if out.GetStatus().GetCode() == int32(codes.OK) && out.GetOkResponse() != nil {
		return 200
	}
	if out.GetOkResponse() != nil || out.GetDeniedResponse().GetStatus().GetCode() < 400 {
		return -1
	}
	return int(out.GetDeniedResponse().GetStatus().GetCode())
}

func headers(list []*corev3.HeaderValueOption) http.Header {
	h := http.Header{}
	for _, o := range list {
		h.Add(o.GetHeader().GetKey(), o.GetHeader().GetValue())
	}
	return h
}

func (e *envoy) key(grants authz.Permissions) (owner authn.User, secret string) {
	e.Helper()
	owner, err := e.Authn().CreateUser(e.Context(), authn.System("test"), authn.NewUser{
		Name: "Ré", Email: "reader@example.com", Roles: []string{"reader"}, RolesGiven: true,
	})
	if err != nil {
		e.Fatal(err)
	}
	_, k, err := e.Authn().CreateKey(e.Context(), authn.System("test"), authn.NewKey{OwnerID: owner.ID, Permissions: grants})
	if err != nil {
		e.Fatal(err)
	}
	return owner, k.Reveal()
}

func TestVerdicts(t *testing.T) {
	e := newEnvoy(t)
	_, key := e.key(authz.Permissions{"document": {"read"}})
	with := func(in *authv3.CheckRequest, change func(*authv3.AttributeContext)) *authv3.CheckRequest {
		change(in.Attributes)
		return in
	}
	raw := func(list ...*corev3.HeaderValue) *authv3.CheckRequest {
		return with(holding("/docs/1"), func(a *authv3.AttributeContext) {
			a.Request.Http.Headers, a.Request.Http.HeaderMap = nil, &corev3.HeaderMap{Headers: list}
		})
	}
	for name, tt := range map[string]struct {
		in     *authv3.CheckRequest
		status int
	}{
		"who may":                     {holding("/docs/1?x=/../y", "x-api-key: "+key), 200},
		"by bearer":                   {holding("/docs/1", "authorization: Bearer "+key), 200},
		"anybody":                     {holding("/public/x"), 200},
		"nobody":                      {holding("/docs/1"), 401},
		"a bad credential":            {holding("/docs/1", "x-api-key: nonsense"), 401},
		"who may not":                 {holding("/elsewhere", "x-api-key: "+key), 403},
		"two credentials":             {holding("/docs/1", "x-api-key: "+key, "authorization: Bearer other"), 400},
		"two credentials, joined":     {holding("/docs/1", "x-api-key: "+key+","+key), 401},
		"raw headers":                 {raw(&corev3.HeaderValue{Key: "x-api-key", Value: key}), 200},
		"raw bytes":                   {raw(&corev3.HeaderValue{Key: "x-api-key", RawValue: []byte(key)}), 200},
		"raw headers, two":            {raw(&corev3.HeaderValue{Key: "x-api-key", Value: key}, &corev3.HeaderValue{Key: "x-api-key", Value: "other"}), 400},
		"an odd path":                 {holding("/public/../docs/1", "x-api-key: "+key), 400},
		"an encoded slash":            {holding("/docs%2f1", "x-api-key: "+key), 400},
		"a path parameter":            {holding("/public/..;/docs/1", "x-api-key: "+key), 400},
		"a broken policy":             {holding("/public/broken"), 403},
		"nothing":                     {&authv3.CheckRequest{}, 400},
		"no path":                     {with(holding("/public/x"), func(a *authv3.AttributeContext) { a.Request.Http.Path = "" }), 400},
		"no method":                   {with(holding("/public/x"), func(a *authv3.AttributeContext) { a.Request.Http.Method = "" }), 400},
		"no host":                     {with(holding("/public/x"), func(a *authv3.AttributeContext) { a.Request.Http.Host = "" }), 400},
		"another method":              {with(holding("/public/x"), func(a *authv3.AttributeContext) { a.Request.Http.Method = "POST" }), 401},
		"a method that a header says": {with(holding("/public/x", ":method: GET"), func(a *authv3.AttributeContext) { a.Request.Http.Method = "DELETE" }), 401},
		"from where":                  {holding("/from/203.0.113.7"), 200},
		"from where a header says":    {holding("/from/198.51.100.1", "x-forwarded-for: 198.51.100.1"), 401},
		"what Envoy is configured to say": {with(holding("/extended/blue"), func(a *authv3.AttributeContext) {
			a.ContextExtensions = map[string]string{"tenant": "blue"}
		}), 200},
	} {
		out := e.ask(tt.in)
		if got := verdict(out); got != tt.status {
			t.Errorf("%s: got %d, want %d: %v", name, got, tt.status, out)
		}
		if challenge := headers(out.GetDeniedResponse().GetHeaders()).Get("WWW-Authenticate"); (tt.status == 401) != (challenge != "") {
			t.Errorf("%s: challenge %q", name, challenge)
		}
	}
	e.Close()
	if got := verdict(e.ask(holding("/docs/1", "x-api-key: "+strings.Repeat("x", 64)))); got != 503 {
		t.Errorf("without a store: got %d, want 503", got)
	}
}

// Each identity header is either set, over what the client sent, or removed.
func TestIdentityIsSetOrRemoved(t *testing.T) {
	e := newEnvoy(t)
	owner, key := e.key(authz.Permissions{"document": {"read"}})
	for _, in := range []*authv3.CheckRequest{holding("/docs/1", "x-api-key: "+key, "ostiary-user: root"), holding("/public/x", "ostiary-user: root")} {
		ok := e.ask(in).GetOkResponse()
		for _, o := range ok.GetHeaders() {
			if o.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD || o.GetHeader().GetValue() == "" {
				t.Errorf("%v is not set over what is there", o)
			}
		}
		set := headers(ok.GetHeaders())
		for _, name := range append([]string{forwardauth.SecretHeader}, forwardauth.IdentityHeaders...) {
			if removed := slices.Contains(ok.GetHeadersToRemove(), strings.ToLower(name)); removed == (len(set[name]) == 1) {
				t.Errorf("%s: set %q, removed %t", name, set[name], removed)
			}
		}
		if set.Get(request.DecisionHeader) == "" {
			t.Error("no decision is named")
		}
	}
	set := headers(e.ask(holding("/docs/1", "x-api-key: "+key)).GetOkResponse().GetHeaders())
	if set.Get("Ostiary-User") != owner.ID || set.Get("Ostiary-Name") != "R%C3%A9" || set.Get("Ostiary-Roles") != "reader" {
		t.Errorf("got %v", set)
	}
}

func TestOnlyProxiesMayAsk(t *testing.T) {
	const secret = "what Envoy and the service share"
	e := newEnvoy(t, func(o *ostiary.Options) { o.ForwardSecrets = []string{secret} })
	for _, tt := range []struct {
		sent   []string
		status int
	}{{[]string{secret}, 200}, {nil, 403}, {[]string{"x"}, 403}, {[]string{secret, secret}, 403}} {
		ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{"ostiary-forward-secret": tt.sent})
		out, err := e.Check(ctx, holding("/public/x", "ostiary-forward-secret: "+secret))
		if err != nil || verdict(out) != tt.status {
			t.Errorf("%d secrets: got %v, %v; want %d", len(tt.sent), out, err, tt.status)
		}
	}
	e = newEnvoy(t, func(o *ostiary.Options) { o.ForwardProxies = []string{"192.0.2.0/24"} })
	if got := verdict(e.ask(holding("/public/x"))); got != 403 {
		t.Errorf("from another address: got %d", got)
	}
	e = newEnvoy(t, func(o *ostiary.Options) { o.ForwardProxies = []string{"127.0.0.1"} })
	if got := verdict(e.ask(holding("/public/x"))); got != 200 {
		t.Errorf("from the address: got %d", got)
	}
}

func TestQuestionsAreBounded(t *testing.T) {
	e := newEnvoy(t)
	in := holding("/public/x")
	in.Attributes.Request.Http.Body = strings.Repeat("x", 1<<19)
	if got := verdict(e.ask(in)); got != 200 {
		t.Errorf("half a mebibyte: got %d", got)
	}
	in.Attributes.Request.Http.Body = strings.Repeat("x", 1<<20)
	if _, err := e.Check(t.Context(), in); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("more than a mebibyte: got %v", err)
	}
}

func TestShutdownEndsWellOrInTime(t *testing.T) {
	e := newEnvoy(t)
	e.ask(holding("/public/x"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := e.server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if _, err := e.Check(t.Context(), holding("/public/x")); err == nil {
		t.Error("answered after the end")
	}
}

// Every field of the example is one that Envoy has.
func TestExampleIsAConfigurationOfEnvoy(t *testing.T) {
	text, err := os.ReadFile("../../examples/forward-auth/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	var b bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(asJSON, &b); err != nil {
		t.Fatal(err)
	}
	if err := b.ValidateAll(); err != nil {
		t.Error(err)
	}
	if n := len(b.GetStaticResources().GetListeners()); n != 2 {
		t.Errorf("%d listeners", n)
	}
}
