package policies

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// mostHolders is how many people are asked about before nobody is said to be
// able to publish.
const mostHolders = 1000

// keepsPublisher refuses a candidate under which nobody could publish the next
// one, be it for its roles or for its rules: only the command line would be left.
// Who could not before is locked out of nothing.
func (l *Library) keepsPublisher(ctx context.Context, caller authn.Principal, c *candidate) error {
	may, err := l.somebodyMayPublish(ctx, caller, c.bundle, c.policy)
	if may || err != nil {
		return err
	}
	if could, err := l.somebodyMayPublish(ctx, caller, l.Bundle(), l.options.Engine.Policy()); !could || err != nil {
		return err
	}
	return &RefusedError{StepLockout, []error{errors.New("nobody who may publish now could publish the next policy: policy:publish has to remain with somebody who is not banned")}}
}

// somebodyMayPublish asks about the caller and about those who may by their
// roles, as if each had just signed in. Whoever may by a rule alone has to be
// the caller to be found.
func (l *Library) somebodyMayPublish(ctx context.Context, caller authn.Principal, b Bundle, p *authz.Policy) (bool, error) {
	engine := authz.NewEngine(authz.Options{Clock: l.options.Clock})
	engine.Swap(p)
	may := func(id authz.Identity) (bool, error) {
		if id.Type == authz.TypeServiceAccount {
			id.Credential, id.Session = authz.CredentialAPIKey, nil
			id.Key = &authz.KeyFacts{ID: "any", Name: "any", Permissions: authz.Permissions{"*": {"*"}}}
		} else {
			now := l.now()
			id.Credential, id.Key = authz.CredentialSession, nil
			id.Session = &authz.SessionFacts{ID: "any", CreatedAt: now, ExpiresAt: now.Add(time.Hour), FreshUntil: now.Add(time.Hour)}
		}
		subject, err := authz.NewSubject(id)
		if err != nil {
			return false, err
		}
		d, err := engine.Decide(ctx, authz.Request{
			Subject: subject, Action: authz.Action{Name: "publish"}, Described: true, Resource: operation{name: "publish"}.resource(),
		})
		return d.Allow, err
	}
	if u := caller.User(); u != nil {
		if ok, err := may(caller.Subject().Identity()); ok || err != nil {
			return ok, err
		}
	}
	if l.options.Users == nil {
		return false, nil
	}
	settings := b.Source.Data["settings"].(map[string]any)
	rule := authn.AdminRule{IDs: names(settings["admin_user_ids"]), Roles: names(settings["admin_roles"])}
	for role, permissions := range b.Roles {
		if permissions.Allows("policy", "publish") {
			rule.Roles = append(rule.Roles, role)
		}
	}
	ids, err := l.options.Users.Holders(ctx, rule, mostHolders)
	if err != nil {
		return false, fmt.Errorf("look for somebody who may publish: %w", err)
	}
	for _, id := range ids {
		if id.User.Banned {
			continue
		}
		if ok, err := may(id); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}
