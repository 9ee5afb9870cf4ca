package access

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is text that must not be seen: it prints, logs and marshals as
// "[redacted]". It must not be the key of a map, which encoding/json writes as
// it is.
type Secret string

const redacted = "[redacted]"

// Format prints "[redacted]" whatever the verb. Without it fmt would print the
// text itself for a verb that does not suit strings.
func (s Secret) Format(f fmt.State, verb rune) { _, _ = io.WriteString(f, redacted) }

func (s Secret) String() string               { return redacted }
func (s Secret) GoString() string             { return redacted }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// Reveal returns the text itself.
func (s Secret) Reveal() string { return string(s) }
