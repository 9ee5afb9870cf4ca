package ostiary_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing/fstest"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/store"
)

// A route that needs a permission, and a policy of the application's own.
func Example() {
	ctx := context.Background()
	o, err := ostiary.Open(ctx, ostiary.Options{
		Database: "sqlite::memory:",
		Policies: fstest.MapFS{"document.rego": {Data: []byte(`package app.document

allow if {
	input.action.name == "read"
	input.resource.properties.owner == input.principal.id
}
`)}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()

	canRead := o.Require("read", func(r *http.Request) authz.Resource {
		return authz.Resource{Type: "document", ID: r.PathValue("id"), Properties: map[string]any{"owner": ownerOf(r.PathValue("id"))}}
	})
	mux := http.NewServeMux()
	mux.Handle("GET /documents/{id}", canRead(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s reads %s", ostiary.PrincipalFrom(r.Context()).User().Name, r.PathValue("id"))
	})))

	// The program itself makes a user and a key that may read documents.
	program := authn.System("example")
	ann, err := o.Authn().CreateUser(ctx, program, authn.NewUser{Name: "Ann", Email: "ann@example.com"})
	if err != nil {
		log.Fatal(err)
	}
	owners["plan"] = ann.ID
	_, key, err := o.Authn().CreateKey(ctx, program, authn.NewKey{OwnerID: ann.ID, Permissions: authz.Permissions{"document": {"read"}}})
	if err != nil {
		log.Fatal(err)
	}

	get := func(path, key string) {
		r := httptest.NewRequest("GET", path, nil)
		if key != "" {
			r.Header.Set("x-api-key", key)
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Result().Header.Get("Content-Type"))
	}
	get("/documents/plan", key.Reveal())
	get("/documents/diary", key.Reveal())
	get("/documents/plan", "")
	// Output:
	// 200 text/plain; charset=utf-8
	// 403 application/problem+json
	// 401 application/problem+json
}

var owners = map[string]string{"diary": "somebody else"}

func ownerOf(id string) string { return owners[id] }

// The rows of the application's own table that a caller may read, in one query.
func ExampleOstiary_Filter() {
	ctx := context.Background()
	o, err := ostiary.Open(ctx, ostiary.Options{
		Database: "sqlite::memory:",
		Policies: fstest.MapFS{"document.rego": {Data: []byte(`package app.document

allow if {
	input.action.name == "read"
	input.resource.properties.public
}
`)}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()

	fields := authz.Fields{"properties.public": authz.Boolean}
	f, err := o.Filter(ctx, authz.Request{
		Subject:  authz.Anonymous,
		Action:   authz.Action{Name: "read"},
		Resource: authz.Resource{Type: "document"},
	}, fields)
	if err != nil {
		log.Fatal(err)
	}
	if !f.Exact() {
		log.Fatalf("the policy is no filter: %v", f.Unsaid)
	}
	where, args, err := store.FilterSQL("postgresql", f.Sure, map[string]string{"properties.public": "d.is_public"}, fields)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("SELECT d.id FROM document AS d WHERE", where, args)
	// Output:
	// SELECT d.id FROM document AS d WHERE ("d"."is_public" IS NOT NULL AND NOT (("d"."is_public" IS NOT NULL AND ("d"."is_public" = FALSE)))) []
}

// Who sends a request, what they may do about several things at once, and why not.
func ExampleOstiary_Authenticate() {
	ctx := context.Background()
	o, err := ostiary.Open(ctx, ostiary.Options{Database: "sqlite::memory:"})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	program := authn.System("example")
	ann, err := o.Authn().CreateUser(ctx, program, authn.NewUser{Name: "Ann", Email: "ann@example.com", Roles: []string{"admin"}, RolesGiven: true})
	if err != nil {
		log.Fatal(err)
	}
	_, key, err := o.Authn().CreateKey(ctx, program, authn.NewKey{OwnerID: ann.ID, Permissions: authz.Permissions{"user": {"list"}}})
	if err != nil {
		log.Fatal(err)
	}

	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("x-api-key", key.Reveal())
	who, err := o.Authenticate(r)
	if err != nil {
		log.Fatal(err)
	}
	ds, err := o.DecideAll(ctx, []authz.Request{
		{Subject: who.Subject(), Action: authz.Action{Name: "list"}, Resource: authz.Resource{Type: "user"}},
		{Subject: who.Subject(), Action: authz.Action{Name: "ban"}, Resource: authz.Resource{Type: "user", ID: "u1"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range ds {
		fmt.Println(who.User().Name, d.Allow, d.Reasons[0].Code)
	}
	// Output:
	// Ann true role
	// Ann false grant_missing
}

// Sign-up, sign-in, keys and the native API, beside the program's own routes.
func ExampleOstiary_Handler() {
	o, err := ostiary.Open(context.Background(), ostiary.Options{Database: "sqlite::memory:"})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the program's own") })
	for _, path := range []string{"/api/auth/", "/v1/"} {
		mux.Handle(path, o.Handler())
	}
	post := func(path, body string, cookies ...*http.Cookie) *http.Response {
		r := httptest.NewRequest("POST", path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		for _, c := range cookies {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		fmt.Println(path, w.Code)
		return w.Result()
	}
	ann := post("/api/auth/sign-up/email", `{"name": "Ann", "email": "ann@example.com", "password": "correct horse"}`)
	post("/v1/authorize", `{"action": "list", "resource": {"type": "user"}}`, ann.Cookies()...)
	// Output:
	// /api/auth/sign-up/email 200
	// /v1/authorize 200
}

// A question about a caller, and which rules answered it.
func ExampleOstiary_Explain() {
	ctx := context.Background()
	o, err := ostiary.Open(ctx, ostiary.Options{Database: "sqlite::memory:"})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	question := authz.Request{
		Subject:  authz.Anonymous,
		Action:   authz.Action{Name: "list"},
		Resource: authz.Resource{Type: "user"},
	}
	d, err := o.Decide(ctx, question)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.Allow, d.Reasons[0].Code)
	why, err := o.Explain(ctx, question)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(why.Decision.Allow, len(why.Fired) > 0)
	// Output:
	// false unauthenticated
	// false true
}

// All that is wrong with the options comes at once.
func ExampleOpen() {
	_, err := ostiary.Open(context.Background(), ostiary.Options{Database: "oracle:x", Secrets: []string{"short"}})
	for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
		var wrong *ostiary.OptionError
		if errors.As(e, &wrong) {
			fmt.Println(wrong.Field)
		}
	}
	// Unordered output:
	// Database
	// Secrets
}
