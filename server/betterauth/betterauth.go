// Package betterauth speaks the HTTP API of Better Auth: core, username, admin
// and api-key, with Ostiary's additions.
package betterauth

// Options configures the surface. The zero value works.
type Options struct{}
