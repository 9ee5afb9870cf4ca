// Command saas serves several tenants from one database: people have roles of
// features ("billing:editor"), and those count within their tenant.
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
	o, err := ostiary.Open(context.Background(), ostiary.Options{Database: "sqlite:saas.db", Policies: rules, Enrich: enrich})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	log.Print(http.ListenAndServe("127.0.0.1:8081", routes(o)))
}

type member struct{ tenant, plan string }

// These stand for the program's own database.
var (
	members = map[string]member{"ann@example.com": {"acme", "gold"}, "bob@example.com": {"globex", "free"}}
	tenants = map[string]map[string]string{ // of what, by type and id
		"project": {"rocket": "acme", "plant": "globex"},
		"invoice": {"2026-1": "acme", "2026-2": "globex"},
	}
)

// enrich tells policies what only this program knows of a user. An address that
// nobody has proven to be theirs makes them no member.
func enrich(_ context.Context, who authz.Identity) (map[string]any, error) {
	m, ok := members[who.User.Email]
	if !ok || !who.User.EmailVerified {
		return nil, nil
	}
	return map[string]any{"tenant": m.tenant, "plan": m.plan}, nil
}

func routes(o *ostiary.Ostiary) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/auth/", o.Handler())
	for pattern, guarded := range map[string]func(http.Handler) http.Handler{
		"GET /projects/{id}":         o.Require("read", of("project")),
		"DELETE /projects/{id}":      o.Require("delete", of("project")),
		"GET /invoices/{id}":         o.Require("read", of("invoice")),
		"POST /invoices/{id}/export": o.Require("export", of("invoice")),
	} {
		mux.Handle(pattern, guarded(http.HandlerFunc(answer)))
	}
	return mux
}

// of makes resources of a type, with the tenant to whom they belong. What is not
// there belongs to nobody, so that a denial does not tell what is.
func of(resourceType string) func(*http.Request) authz.Resource {
	return func(r *http.Request) authz.Resource {
		id := r.PathValue("id")
		return authz.Resource{Type: resourceType, ID: id, Properties: map[string]any{"tenant": tenants[resourceType][id]}}
	}
}

func answer(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s, for %s\n", r.PathValue("id"), ostiary.PrincipalFrom(r.Context()).User().Name)
}
