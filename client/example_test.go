package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/client"
	"github.com/ostiary/ostiary/guard"
)

// A route whose callers a remote service knows.
func ExampleClient_Require() {
	c, err := client.New(client.Options{URL: "https://auth.example", DecisionLife: time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	show := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello", client.PrincipalFrom(r.Context()).Subject().Identity().ID)
	})
	mux := http.NewServeMux()
	mux.Handle("GET /documents/{id}", c.Require("read", guard.ByPath("document", "id"))(show))
}

// service is a service with an administrator, who has a key that may do everything
// that administrators may.
func service() (url, key string, stop func()) {
	o, err := ostiary.Open(context.Background(), ostiary.Options{Database: "sqlite::memory:", Policies: fstest.MapFS{
		"document.rego": {Data: []byte("package app.document\n\nallow if input.resource.properties.owner == input.principal.id\n")},
	}})
	if err != nil {
		log.Fatal(err)
	}
	root, err := o.Authn().CreateUser(context.Background(), authn.System("example"), authn.NewUser{Name: "Root", Email: "root@example.com", Roles: []string{"admin"}})
	if err != nil {
		log.Fatal(err)
	}
	_, secret, err := o.Authn().CreateKey(context.Background(), authn.System("example"), authn.NewKey{OwnerID: root.ID, Permissions: access.Permissions{"*": {"*"}}})
	if err != nil {
		log.Fatal(err)
	}
	srv := httptest.NewServer(o.Handler())
	return srv.URL, secret.Reveal(), func() {
		srv.Close()
		o.Close()
	}
}

// A program manages users and keys in its own name, and says so.
func ExampleClient_Authn() {
	url, key, stop := service()
	defer stop()
	c, err := client.New(client.Options{URL: url, Key: key})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	ctx := context.Background()
	me, err := c.Program(ctx)
	if err != nil {
		log.Fatal(err)
	}
	ann, err := c.Authn().CreateUser(ctx, me, client.NewUser{Name: "Ann", Email: "ann@example.com"})
	if err != nil {
		log.Fatal(err)
	}
	_, secret, err := c.Authn().CreateKey(ctx, me, client.NewKey{OwnerID: ann.ID, Name: "ci"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ann.Name, "has the key", secret) // secret.Reveal() is the text, to show once
	_, err = c.Authn().CreateUser(ctx, me, client.NewUser{Name: "Ann", Email: "ann@example.com"})
	fmt.Println("taken:", errors.Is(err, client.ErrConflict))
	// Output:
	// Ann has the key [redacted]
	// taken: true
}

// Policies are checked before anybody publishes them; and what the caller of a
// request may not do, the program may not do for them.
func ExampleClient_Policies() {
	url, key, stop := service()
	defer stop()
	c, err := client.New(client.Options{URL: url})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	check := func(w http.ResponseWriter, r *http.Request) {
		caller, err := c.Authenticate(r)
		if err == nil {
			var trial client.Trial
			trial, err = c.Policies().Check(r.Context(), caller, map[string]string{"a.rego": "package app.a\n\nallow if nonsense\n"})
			if err == nil {
				fmt.Println(trial.OK, trial.Mistakes[0])
			}
		}
		if err != nil {
			fmt.Println("not authenticated:", errors.Is(err, client.ErrUnauthenticated))
		}
	}
	r := httptest.NewRequest("POST", "/", nil)
	check(httptest.NewRecorder(), r)
	r.Header.Set("x-api-key", key)
	check(httptest.NewRecorder(), r)
	// Output:
	// not authenticated: true
	// false a.rego:3:10: var nonsense is unsafe
}

// The policy as a condition for the program's own query.
func ExampleClient_Filter() {
	url, key, stop := service()
	defer stop()
	c, err := client.New(client.Options{URL: url, Key: key})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	me, err := c.Program(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	f, err := c.Filter(context.Background(), access.Request{
		Subject: me.Subject(), Action: access.Action{Name: "read"}, Resource: access.Resource{Type: "document"},
	}, client.PostgreSQL, map[string]client.Column{"properties.owner": {Name: "owner_id", Type: "text"}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("select * from documents where", f.SQL)
	fmt.Println(len(f.Args), "arguments")
	// Output:
	// select * from documents where ("owner_id" IS NOT NULL AND "owner_id" = $1 AND "owner_id" COLLATE "C" = $2)
	// 2 arguments
}

// What was changed counts for the next question, whichever instance it comes to.
func ExampleWithReceipt() {
	url, key, stop := service()
	defer stop()
	c, err := client.New(client.Options{URL: url, Key: key})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	me, err := c.Program(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	var receipt client.Receipt
	ctx := client.WithReceipt(context.Background(), &receipt)
	ann, err := c.Authn().CreateUser(ctx, me, client.NewUser{Name: "Ann", Email: "ann@example.com"})
	if err != nil {
		log.Fatal(err)
	}
	d, err := c.Decide(client.WithAtLeast(ctx, receipt.Revision), access.Request{
		Subject:  c.Named("user", ann.ID, nil),
		Action:   access.Action{Name: "read"},
		Resource: access.Resource{Type: "document", ID: "d1", Properties: map[string]any{"owner": ann.ID}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.Allow, d.Reasons[0].Code)
	// Output: true app
}

// A worker asks about a user whom it names, and tells the failures apart.
func ExampleClient_Decide() {
	c, err := client.New(client.Options{URL: "https://auth.example", Key: "not a key"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	d, err := c.Decide(context.Background(), access.Request{
		Subject:  c.Named("user", "u1", nil),
		Action:   access.Action{Name: "read"},
		Resource: access.Resource{Type: "document", ID: "d1"},
	})
	switch {
	case errors.Is(err, client.ErrUnavailable):
		// later
	case err != nil:
		log.Print(err)
	case d.Allow:
		// go on
	default:
		log.Print(d.Reasons)
	}
	// Output: client: Key: has characters that no key has
}
