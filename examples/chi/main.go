// Command chi is an API that sells forecasts: people make keys of a tier, and
// what a key may and how often is its tier's.
package main

import (
	"context"
	"embed"
	"encoding/json"
	"io/fs"
	"log"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/guard"
)

//go:embed policies
var files embed.FS

func main() {
	rules, err := fs.Sub(files, "policies")
	if err != nil {
		log.Fatal(err)
	}
	o, err := ostiary.Open(context.Background(), ostiary.Options{Database: "sqlite:chi.db", Policies: rules})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	log.Print(http.ListenAndServe("127.0.0.1:8081", routes(o)))
}

// tier is what its keys may, and how often in a minute.
type tier struct {
	grants    authz.Permissions
	perMinute int64
}

var tiers = map[string]tier{
	"free": {authz.Permissions{"forecast": {"today"}}, 5},
	"pro":  {authz.Permissions{"forecast": {"today", "week"}}, 60},
}

func routes(o *ostiary.Ostiary) http.Handler {
	r := chi.NewRouter()
	r.Handle("/api/auth/*", o.Handler())
	r.With(o.Require("issue", guard.ByPath("tier", "tier"))).Post("/keys/{tier}", issue(o))
	r.With(o.Require("today", guard.ByPath("forecast", "city"))).Get("/forecasts/{city}/today", answer("rain"))
	r.With(o.Require("week", guard.ByPath("forecast", "city"))).Get("/forecasts/{city}/week", answer("rain, then sun"))
	return r
}

// issue makes a key for the caller. People may not set the limits of their keys:
// the program does, in its own name, once the policy has said that they may.
func issue(o *ostiary.Ostiary) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("tier")
		t, ok := tiers[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, secret, err := o.Authn().CreateKey(r.Context(), authn.System("forecasts"), authn.NewKey{
			OwnerID: ostiary.PrincipalFrom(r.Context()).User().ID, Name: &name, Permissions: t.grants,
			Limits: authn.KeyLimits{
				RateLimitEnabled:    new(true),
				RateLimitMax:        new(new(t.perMinute)),
				RateLimitTimeWindow: new(new(int64(60_000))), // milliseconds
			},
		})
		if err != nil {
			o.Refuse(r.Context(), w, err)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(map[string]string{"key": secret.Reveal()}) // shown this once
	}
}

func answer(forecast string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(r.PathValue("city") + ": " + forecast + "\n"))
	}
}
