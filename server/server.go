// Package server says it in HTTP.
//
// It routes, and around every route it does once what no endpoint may forget:
// request ids, limits on size, depth and time, the one credential that
// counts, decoding, and one table from errors to answers. Each API family has
// its own file or package and words its own errors.
package server

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/server/betterauth"
	"github.com/ostiary/ostiary/server/request"
)

// Options is what the server stands on.
type Options struct {
	Authn    *authn.Service
	Engine   *authz.Engine
	Policies *policies.Library
	Audit    audit.Store // reads decisions
	Log      *slog.Logger
	Ready    func(ctx context.Context) error // nil error: ready
	Version  string
	Request  request.Options    // credentials, addresses, limits
	Auth     betterauth.Options // the Better Auth surface
}

// New returns the handler of all surfaces.
func New(o Options) (http.Handler, error) { return nil, nil }
