// Command embed is a small program whose routes Ostiary guards: people sign
// up and in under /api/auth, and see the documents that are theirs.
package main

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log"
	"net/http"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authz"
)

//go:embed policies
var files embed.FS

func main() {
	rules, err := fs.Sub(files, "policies")
	if err != nil {
		log.Fatal(err)
	}
	o, err := ostiary.Open(context.Background(), ostiary.Options{Database: "sqlite:embed.db", Policies: rules})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	log.Print(http.ListenAndServe("127.0.0.1:8081", routes(o)))
}

// owners stands for the program's own database.
var owners = map[string]string{"welcome": "ann@example.com"}

func routes(o *ostiary.Ostiary) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/auth/", o.Handler())
	canRead := o.Require("read", document)
	mux.Handle("GET /documents/{id}", canRead(http.HandlerFunc(show)))
	return mux
}

// document is what the program knows of the document that a request is about;
// policies/document.rego says who may read it.
func document(r *http.Request) authz.Resource {
	id := r.PathValue("id")
	return authz.Resource{Type: "document", ID: id, Properties: map[string]any{"owner": owners[id]}}
}

func show(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s, read by %s\n", r.PathValue("id"), ostiary.PrincipalFrom(r.Context()).User().Name)
}
