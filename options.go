package ostiary

import (
	"errors"
	"strings"

	"github.com/ostiary/ostiary/authn"
)

// OptionError is a mistake in [Options]. [Open] joins those that it finds: range
// over Unwrap() []error, or ask errors.As for the first.
type OptionError struct {
	Field  string // the member of Options, "Secrets" or "Authn.PasswordMax"
	Reason string // what is wrong with it
	Err    error  // what found it
}

func (e *OptionError) Error() string { return e.Err.Error() }
func (e *OptionError) Unwrap() error { return e.Err }

// members are those of Options that rooms call as the configuration file does.
var members = map[string]string{
	"secret":               "Secrets",
	"database":             "Database",
	"forward_auth.proxies": "ForwardProxies",
	"forward_auth.secret":  "ForwardSecrets",
	"opa.entrypoints":      "OPA.Entrypoints",
}

// optionErrors returns what err, which may join several, says about a member of
// Options.
func optionErrors(field string, err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		var lines []string
		for _, e := range joined.Unwrap() {
			all = append(all, optionErrors(field, e)...)
			lines = append(lines, e.Error())
		}
		// What says more than its parts is one mistake.
		if strings.Join(lines, "\n") == err.Error() {
			return all
		}
	}
	e := &OptionError{Field: field, Reason: err.Error(), Err: err}
	if invalid, ok := errors.AsType[*authn.InvalidError](err); ok {
		e.Field, e.Reason = field+"."+invalid.Field, invalid.Reason
		if member, ok := members[invalid.Field]; ok {
			e.Field = member
		}
	}
	return []error{e}
}
