// Package openapi holds the description of the HTTP API, and checks answers
// against it.
package openapi

import _ "embed"

//go:embed openapi.json
var document []byte

// JSON returns the document. The caller must not change it.
func JSON() []byte { return document }
