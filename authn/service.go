package authn

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
)

// Engine is what Service asks. *authz.Engine is one.
type Engine interface {
	authz.Decider
	// Permissions: see authz.Engine.Permissions.
	Permissions(ctx context.Context, s *authz.Subject) (authz.Permissions, error)
	// Judge: see authz.Engine.Judge.
	Judge() authz.Judge
}

// Service knows who is calling and manages users, sessions and keys.
// Its methods are safe for concurrent use. It starts no goroutine but one for each
// call of Options.Enrich, which ends with it.
type Service struct {
	o         Options
	store     Store
	engine    Engine
	cache     *cache
	known     *known
	touches   touches
	uses      uses
	passwords *passwords
	accounts  *throttle // failed sign-ins by account
	addresses *throttle // and by client address
	enriching chan struct{}
}

// New returns a Service over store that asks engine. It reports every mistake
// in o at once, as *[InvalidError]s joined.
func New(o Options, store Store, engine Engine) (*Service, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	if store == nil || engine == nil {
		return nil, errors.New("authn: New needs a store and an engine")
	}
	s := &Service{
		o:         o,
		store:     store,
		engine:    engine,
		cache:     newCache(o.CacheSize, o.CacheTTL),
		known:     newKnown(&o),
		passwords: newPasswords(o.HashMemory, o.HashWait, o.Log),
		accounts:  newThrottle(o.FailuresPerAccount, o.FailureWindow),
		addresses: newThrottle(o.FailuresPerAddress, o.FailureWindow),
		enriching: make(chan struct{}, maxEnriching),
	}
	return s, nil
}

// now is the time in the precision in which the tables keep it.
func (s *Service) now() time.Time { return s.o.Clock().UTC().Truncate(time.Millisecond) }

// Reason codes of the built-in bundle that answers here depend on.
const (
	codeRoleMissing     = "role_missing"
	codeSessionNotFresh = "session_not_fresh"
)

// Permit asks d whether caller may do action on r, of which nothing is known
// beside what r says, and returns the id of the decision. A denial is an error, as
// a decision's Err has it. The program itself is not asked about; a call that needs
// somebody and has nobody is ErrUnauthenticated.
func Permit(ctx context.Context, d authz.Decider, caller Principal, action string, r authz.Resource) (string, error) {
	if caller.IsSystem() {
		return "", nil
	}
	if caller.Anonymous() {
		return "", ErrUnauthenticated
	}
	return ask(ctx, d, caller.Subject(), action, r)
}

func (s *Service) permit(ctx context.Context, caller Principal, action string, r authz.Resource) (string, error) {
	return Permit(ctx, s.engine, caller, action, r)
}

// permitAnybody is permit for what people do before they are known: the
// anonymous principal is asked about, whoever calls.
func (s *Service) permitAnybody(ctx context.Context, caller Principal, action string, r authz.Resource) (string, error) {
	if caller.IsSystem() {
		return "", nil
	}
	return ask(ctx, s.engine, authz.Anonymous, action, r)
}

func ask(ctx context.Context, by authz.Decider, who *authz.Subject, action string, r authz.Resource) (string, error) {
	d, err := by.Decide(ctx, authz.Request{Subject: who, Action: authz.Action{Name: action}, Resource: r, Described: true})
	if err != nil {
		return "", fmt.Errorf("decide %s: %w", r.Permission(action), err)
	}
	return d.ID, d.Err(action, r)
}

// deniedFor reports whether err is a denial that gives the reason code.
func deniedFor(err error, code string) bool {
	d, ok := errors.AsType[*authz.DeniedError](err)
	return ok && d.Has(code)
}

// event describes a change by caller, permitted by the decision.
func (s *Service) event(caller Principal, kind, targetType, targetID, decision string, details map[string]any) audit.Event {
	return audit.Event{
		ID:         newID(),
		At:         s.now(),
		Kind:       kind,
		Actor:      caller.Actor(),
		TargetType: targetType,
		TargetID:   targetID,
		DecisionID: decision,
		Details:    details,
	}
}

// eventOf is event for what somebody does who became known only by doing it.
func (s *Service) eventOf(u *User, kind, targetType, targetID, decision string, details map[string]any) audit.Event {
	ev := s.event(Principal{}, kind, targetType, targetID, decision, details)
	ev.Actor = audit.Actor{Type: u.subjectType(), ID: u.ID, Credential: authz.CredentialNone}
	return ev
}

// Actor is p as the record names it.
func (p Principal) Actor() audit.Actor {
	if p.IsSystem() {
		return audit.Actor{Type: "system", ID: p.p.system}
	}
	return audit.ActorOf(p.Subject().Identity())
}

// Describe fills in what the store knows of a resource of a built-in type
// (user, session, apiKey); what the store knows wins over r's properties, and
// Known says whether it knows anything. Other types, and resources without an
// id, are returned as they are.
func (s *Service) Describe(ctx context.Context, r authz.Resource, action string) (authz.Resource, error) {
	if r.ID == "" {
		return r, nil
	}
	var known map[string]any
	var err error
	switch r.Type {
	case "user":
		var u *User
		var target authz.Resource
		if u, target, err = s.target(ctx, r.ID, action); u != nil {
			known = target.Properties
		}
	case "session":
		var sess Session
		if sess, err = s.store.Session(ctx, r.ID); err == nil {
			known = map[string]any{"owner": sess.UserID}
		}
	case "apiKey":
		var k APIKey
		if k, err = s.store.Key(ctx, r.ID); err == nil {
			known = keyFacts(&k)
			if _, asked := r.Properties["permissions"]; asked && action != "rotate" {
				// What the key is to carry afterwards is the asker's to say.
				delete(known, "permissions")
			}
		}
	default:
		return r, nil
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return r, fmt.Errorf("describe %s: %w", r.Type, err)
	}
	r.Known = known != nil
	merged := make(map[string]any, len(r.Properties)+len(known))
	for name, v := range r.Properties {
		// Nobody owns what does not exist, whatever the asker says.
		if len(known) > 0 || !slices.Contains(storeFacts, name) {
			merged[name] = v
		}
	}
	for name, v := range known {
		merged[name] = v
	}
	r.Properties = merged
	return r, nil
}

// Sayable returns r without the properties that only the store may say of a user, a
// session or a key: what is left of somebody's words about one that is not there.
func Sayable(r authz.Resource) authz.Resource {
	said := make(map[string]any, len(r.Properties))
	for name, v := range r.Properties {
		if !slices.Contains(storeFacts, name) {
			said[name] = v
		}
	}
	r.Properties = said
	return r
}

// storeFacts are the properties of built-in types that only the store may assert.
var storeFacts = []string{"owner", "role", "roles", "banned", "email", "username", "serviceAccount", "admin", "lastAdmin", "attributes"}

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// newID returns what events and session tokens are called: 32 characters, 190
// bits.
func newID() string { return randomText(32, letters) }

// randomText returns n unbiased random characters of the alphabet.
func randomText(n int, alphabet string) string {
	// What lies above the largest multiple of the alphabet in a byte would make
	// the first letters likelier.
	limit := byte(256 / len(alphabet) * len(alphabet))
	out := make([]byte, 0, n)
	var buf [96]byte
	for {
		_, _ = rand.Read(buf[:]) // never fails
		for _, b := range buf {
			if b >= limit {
				continue
			}
			if out = append(out, alphabet[int(b)%len(alphabet)]); len(out) == n {
				return string(out)
			}
		}
	}
}

func textOrNull(p *string) any {
	if p == nil {
		return nil
	}
	return *p
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
