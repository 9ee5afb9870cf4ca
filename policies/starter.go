package policies

import (
	"embed"
	"io/fs"
)

//go:embed starter
var starter embed.FS

// Starter returns a small bundle to begin with: a table of roles, rules for one
// resource type, their tests and a README.
func Starter() fs.FS {
	sub, err := fs.Sub(starter, "starter")
	if err != nil {
		panic(err) // the name is well-formed
	}
	return sub
}
