// Package policies says which rules are in force.
//
// A [Bundle] is Rego modules and data; its revision is the hash of its
// contents. The built-in bundle ships with the program; an author's bundle is
// added to it and can define everything except what is reserved to Ostiary.
// A [Library] compiles bundles, puts them in force and reloads them when their
// files change. A bundle that does not compile leaves the one before in force.
package policies

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"github.com/ostiary/ostiary/authz"
)

// Bundle is a set of rules: the built-in ones with an author's.
type Bundle struct {
	Source authz.Source
	// Roles is the roles table as written; with the built-in roles, unless
	// the author's bundle defines a role of the same name.
	Roles map[string]authz.Permissions
	// AuthorRoles reports whether the author's bundle defines roles.
	AuthorRoles bool
}

// Load reads the built-in bundle and adds author's (nil for none). settings
// win over data.settings of both. The error lists every mistake, with
// file, line and column where there is one.
func Load(author fs.FS, settings map[string]any) (Bundle, error) {
	return Bundle{}, errors.New("unimplemented")
}

// Options configures a Library.
type Options struct {
	Engine   *authz.Engine // told of each new policy
	FS       fs.FS         // the author's bundle, or nil
	Dir      string        // instead of FS: a folder that is watched for changes
	Settings map[string]any
	Log      *slog.Logger
	// Swapped, if set, is called after each new policy is in force.
	Swapped func(revision string)
}

// Library keeps the policy in force.
type Library struct{}

// Status tells what is in force.
type Status struct {
	Revision string
	Loaded   time.Time
	// Err is why the newest files are not in force, or nil.
	Err error
}

// Open loads, compiles and puts in force, or fails.
func Open(ctx context.Context, o Options) (*Library, error) { return nil, errors.New("unimplemented") }

// Watch reloads until ctx ends. Without a Dir it just waits.
func (l *Library) Watch(ctx context.Context) error { return nil }

// Reload loads again now. On failure the policy before stays in force.
func (l *Library) Reload(ctx context.Context) error { return nil }

// Status is safe for concurrent use.
func (l *Library) Status() Status { return Status{} }

// Bundle returns the bundle in force.
func (l *Library) Bundle() Bundle { return Bundle{} }
