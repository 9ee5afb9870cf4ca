// Package instances tests several processes of the built binary on one
// database: what one revokes the others refuse, in time, whatever breaks; and
// limits are those of all of them together.
package instances
