// Package authn establishes who is calling.
//
// A request presents a [Credential]. [Service.Authenticate] turns it into a
// [Principal] or refuses it. Nothing else makes a Principal that stands for
// somebody, so holding one is proof. What is merely said about somebody is an
// [authz.Subject] and can never be taken for the caller.
//
// Every managing method takes the caller and asks the engine whether that
// caller may, so HTTP, the SDK and the command line meet the same rule in the
// same line. Permission is asked before anything is said about what exists. A
// program that acts in its own name says so with [System].
//
// # Errors
//
// The comment of a managing method begins with the permission that it needs. All of
// them fail with [ErrUnauthenticated] if nobody calls, with a *[authz.DeniedError] if
// the caller may not, and with [ErrUnavailable] if that cannot be found out or done
// now. What else a method fails with its comment says.
//
// # Secrets
//
// Of keys only digests are stored; of passwords, scrypt hashes. A [Secret]
// leaves this package when it is issued, and prints, logs and marshals as
// "[redacted]".
//
// # Caching
//
// Principals are remembered by the digest of their credential, users that were
// asked about by id. Each change to a user, session or key forgets what was built on it: after the commit, and
// before the method that changed it returns. Changes made by others arrive
// through [Service.Forget]. Whatever ends by itself (a session, a key, an
// overlap, a ban) is compared with the clock each time, remembered or not.
//
// What a caller reads from a Principal is shared and must not be changed.
package authn

import "github.com/ostiary/ostiary/access"

// Secret is text that must not be seen: it prints, logs and marshals as
// "[redacted]".
type Secret = access.Secret
