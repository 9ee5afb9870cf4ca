package guard_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"testing/fstest"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/guard"
)

// The same route for an embedded instance and for a service elsewhere, which is a
// client.Client: both are a guard.Service.
func ExampleRequire() {
	o, err := ostiary.Open(context.Background(), ostiary.Options{
		Database: "sqlite::memory:",
		Policies: fstest.MapFS{"page.rego": {Data: []byte("package app.page\n\nallow if input.resource.id == \"welcome\"\n")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	mux := routes(o)
	for _, path := range []string{"/pages/welcome", "/pages/plans"} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Println(path, w.Code)
	}
	// Output:
	// /pages/welcome 200
	// /pages/plans 401
}

func routes(s guard.Service) http.Handler {
	mux := http.NewServeMux()
	show := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.PathValue("id")) })
	mux.Handle("GET /pages/{id}", guard.Require(s, "read", guard.ByPath("page", "id"))(show))
	return mux
}
