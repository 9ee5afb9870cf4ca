package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/ostiary/ostiary/access"
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
