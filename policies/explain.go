package policies

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ostiary/ostiary/authz"
)

// Explained is an explanation as the command and the HTTP API show it.
type Explained struct {
	Allow          bool           `json:"allow"`
	Reasons        []authz.Reason `json:"reasons"`
	Context        map[string]any `json:"context,omitempty"`
	PolicyRevision string         `json:"policyRevision"`
	Failure        string         `json:"failure,omitempty"` // why the policy gave no answer
	Fired          []authz.Rule   `json:"fired"`             // rules that held
	Failed         []authz.Rule   `json:"failed"`            // rules that were tried and did not
	Unmet          []authz.Unmet  `json:"unmet"`             // where those ended
	Advice         []string       `json:"advice"`            // what would allow it
}

// Explained words x, which is of b.
func (b Bundle) Explained(x authz.Explanation) Explained {
	d := x.Decision
	return Explained{
		Allow: d.Allow, Reasons: append([]authz.Reason{}, d.Reasons...), Context: d.Context, PolicyRevision: d.Revision, Failure: x.Failure,
		Fired: append([]authz.Rule{}, x.Fired...), Failed: append([]authz.Rule{}, x.Failed...),
		Unmet: append([]authz.Unmet{}, x.Unmet...), Advice: append([]string{}, b.Advice(d)...),
	}
}

// Lines returns x in plain words: the answer, its reasons, the author's rules that
// held, the conditions that failed with their values, and what would allow it.
// verbose lists the built-in rules too.
func (x Explained) Lines(verbose bool) []string {
	lines := []string{"deny"}
	if x.Allow {
		lines[0] = "allow"
	}
	for _, r := range x.Reasons {
		lines = append(lines, fmt.Sprintf("  %s: %s", r.Code, r.Message))
	}
	if x.Failure != "" {
		lines = append(lines, "  because "+x.Failure)
	}
	authors := func(file string) bool { return verbose || !strings.HasPrefix(file, "builtin/") }
	for _, r := range x.Fired {
		if authors(r.File) {
			lines = append(lines, fmt.Sprintf("  held    %s:%d %s", r.File, r.Line, r.Name))
		}
	}
	for _, c := range x.Unmet {
		// A rule that forbids or tells and does not hold stands in nobody's way, and
		// of what is allowed nothing does.
		if !authors(c.File) || !verbose && (x.Allow || strings.HasSuffix(c.Rule, ".deny") || strings.HasSuffix(c.Rule, ".context")) {
			continue
		}
		lines = append(lines, fmt.Sprintf("  failed  %s:%d:%d %s: %s", c.File, c.Line, c.Column, c.Rule, c.Text))
		for _, v := range c.Values {
			text := "is missing"
			if !v.Missing {
				value, err := json.Marshal(v.Value)
				text = "= " + cmp.Or(string(value), fmt.Sprint(err))
			}
			lines = append(lines, fmt.Sprintf("            %s %s", v.Path, text))
		}
	}
	for _, a := range x.Advice {
		lines = append(lines, "  to allow it: "+a)
	}
	return lines
}

// Advice says in plain words what would have to change for a denial to be an
// allow, one sentence for each reason. Sentences that begin with "or" are
// alternatives to the one before.
func (b Bundle) Advice(d authz.Decision) []string {
	var all []string
	if d.Allow {
		return all
	}
	for _, r := range d.Reasons {
		switch r.Code {
		case "role_missing":
			all = append(all, b.roleAdvice(r.Permission)...)
		case "grant_missing":
			all = append(all, fmt.Sprintf("grant the key %s", r.Permission))
		case "unauthenticated":
			all = append(all, "present a credential: a session or an API key")
		case "owner_banned":
			all = append(all, "lift the ban of the account")
		case "impersonating":
			all = append(all, "leave it to the person: end the impersonation")
		case "session_not_fresh":
			all = append(all, "sign in again, so that the session is fresh")
		case "last_admin":
			all = append(all, "make somebody else an administrator first")
		case "escalation":
			all = append(all, "ask for no more than whoever asks has, or let somebody ask who has more")
		case authz.CodePolicyError:
			all = append(all, "mend the rule that failed")
		case authz.CodeDeadline:
			all = append(all, "make the rules faster, or raise decisions.deadline")
		case authz.CodeUnavailable:
			all = append(all, "ask again when the service is well: no rule decided this")
		default:
			all = append(all, fmt.Sprintf("the rule that says %q must not hold", r.Message))
		}
	}
	return all
}

func (b Bundle) roleAdvice(permission string) []string {
	resourceType, action, _ := strings.Cut(permission, ":")
	var all, roles []string
	for _, role := range slices.Sorted(maps.Keys(b.Roles)) {
		if b.Roles[role].Allows(resourceType, action) {
			roles = append(roles, role)
		}
	}
	if len(roles) > 0 {
		all = append(all, fmt.Sprintf("give the principal a role that permits %s: %s", permission, strings.Join(roles, ", ")))
	} else {
		all = append(all, fmt.Sprintf("no role permits %s: give one the permission, in data.roles", permission))
	}
	if b.appTypes()[resourceType] {
		all = append(all, fmt.Sprintf("or meet a condition of a rule allow of package app.%s", resourceType))
	}
	return all
}
