package authz_test

import (
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/authz/compiled"
)

// Policies read of a subject what the records of their decisions have, member by
// member and as a whole.
func TestPoliciesReadTheDocumentOfTheSubject(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 6e6, time.UTC)
	user := &authz.UserFacts{ID: "u1", Name: "Ann", Email: "ann@example.com", EmailVerified: true, Username: "ann", CreatedAt: now,
		Attributes: map[string]any{"team": "red", "levels": []any{1, 2.5}, "at": map[string]any{"site": "x"}}}
	key := &authz.KeyFacts{ID: "k1", Name: "System", Permissions: authz.Permissions{"user": {"list", "get"}, "*": {}, "document": nil},
		Metadata: map[string]any{"env": "prod"}, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}
	identities := []authz.Identity{
		{Type: authz.TypeAnonymous, Credential: authz.CredentialNone},
		{Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialSession, Roles: []string{"admin", "support"}, User: user,
			Session: &authz.SessionFacts{ID: "s1", CreatedAt: now, ExpiresAt: now.Add(time.Hour), FreshUntil: now.Add(time.Minute)}},
		{Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialSession, Roles: []string{"admin"}, User: &authz.UserFacts{ID: "u1", Banned: true},
			Session: &authz.SessionFacts{ID: "s1", FreshUntil: now, ImpersonatedBy: "u2"}},
		{Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialSession, User: user, Session: &authz.SessionFacts{}, Key: key},
		{Type: authz.TypeServiceAccount, ID: "u1", Credential: authz.CredentialAPIKey, Roles: []string{"admin"}, User: &authz.UserFacts{}, Key: key},
		{Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialAPIKey, User: user, Key: &authz.KeyFacts{Metadata: []any{"x"}}},
		{Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialAPIKey, User: user, Key: &authz.KeyFacts{Metadata: map[string]any{}}},
		{Type: "device", ID: "d1", Credential: authz.CredentialAsserted, Properties: map[string]any{"site": "x"}, Known: true,
			AssertedBy: &authz.Asserter{Type: authz.TypeServiceAccount, ID: "u9", KeyID: "k9"}},
		{Type: "device", Credential: authz.CredentialAsserted, User: user, AssertedBy: &authz.Asserter{Type: "device"}},
		{Known: true, Properties: map[string]any{"site": "x"}}, // which are nobody's but of who was asserted
	}
	names := []string{"none"}
	for _, id := range identities {
		doc := id.Document(true)
		names = slices.AppendSeq(names, maps.Keys(doc))
		for _, part := range doc {
			if members, ok := part.(map[string]any); ok {
				names = slices.AppendSeq(names, maps.Keys(members))
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for i, id := range identities {
		r := listUsers
		r.Subject = subject(t, id)
		if i == 0 {
			r.Subject = nil
		}
		whole := ast.NewTerm(ast.MustInterfaceToValue(r.Document(nil, now)))
		// find looks up a path as programs do.
		var find func(path []*ast.Term, glance bool) *ast.Term
		find = func(path []*ast.Term, glance bool) *ast.Term {
			in := input(t, r, now)
			if found, known := in.Find(path, glance); known || len(path) == 1 {
				return found
			}
			above := find(path[:len(path)-1], false)
			if above == nil {
				return nil
			}
			return above.Get(path[len(path)-1])
		}
		if got := input(t, r, now).Document(); !got.Equal(whole) {
			t.Errorf("%d: got  %v\nwant %v", i, got, whole)
		}
		compare := func(names ...string) {
			t.Helper()
			var path []*ast.Term
			want := whole
			for _, name := range names {
				path = append(path, ast.StringTerm(name))
				if want != nil {
					want = want.Get(path[len(path)-1])
				}
			}
			got, glimpse := find(path, false), find(path, true)
			if (got == nil) != (want == nil) || got != nil && !got.Equal(want) {
				t.Errorf("%d: %v: got %v, want %v", i, names, got, want)
			}
			if want != nil {
				if _, ok := want.Value.(ast.Object); ok && glimpse != nil {
					if _, ok := glimpse.Value.(ast.Object); ok {
						return
					}
				}
			}
			if (glimpse == nil) != (want == nil) || glimpse != nil && !glimpse.Equal(want) {
				t.Errorf("%d: at a glance %v: got %v, want %v", i, names, glimpse, want)
			}
		}
		compare("principal")
		for _, name := range names {
			compare("principal", name)
			for _, below := range names {
				compare("principal", name, below)
				compare("principal", name, below, "team")
			}
		}
	}
}

func input(t *testing.T, r authz.Request, now time.Time) compiled.Input {
	t.Helper()
	in, err := authz.Input(r, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// Roles and grants are shared by all who have the same, and by nobody else.
func TestEqualRolesAndGrantsAreShared(t *testing.T) {
	of := func(roles []string, grants authz.Permissions) authz.Identity {
		id := authz.Identity{Type: authz.TypeUser, ID: "u1", Credential: authz.CredentialAPIKey, Roles: roles, Key: &authz.KeyFacts{Permissions: grants}}
		before := id.Key.Permissions
		made := subject(t, id).Identity()
		if !reflect.DeepEqual(made.Roles, roles) || !reflect.DeepEqual(made.Key.Permissions, grants) || !reflect.DeepEqual(before, id.Key.Permissions) {
			t.Errorf("roles %#v, grants %#v became %#v and %#v", roles, grants, made.Roles, made.Key.Permissions)
		}
		return made
	}
	same := func(a, b authz.Permissions) bool {
		return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
	}
	a := of([]string{"x", "y"}, authz.Permissions{"user": {"list", "get"}, "key": {"read"}})
	b := of([]string{"x", "y"}, authz.Permissions{"key": {"read"}, "user": {"list", "get"}})
	if &a.Roles[0] != &b.Roles[0] || !same(a.Key.Permissions, b.Key.Permissions) {
		t.Error("what is the same is not shared")
	}
	roles, actions := []string{"mine"}, []string{"read"}
	mine := authz.Permissions{"mine": actions}
	c := of(roles, mine)
	roles[0], actions[0], mine["*"] = "admin", "*", []string{"*"} // against the rules
	if d := of([]string{"mine"}, authz.Permissions{"mine": {"read"}}); &c.Roles[0] != &d.Roles[0] {
		t.Error("what is the same is not shared")
	}
	for _, roles := range [][]string{{"y", "x"}, {"x"}, {"x", "y", "y"}, {"x,y"}, {"xy"}, {"x", "y", ""}, {}, nil} {
		of(roles, nil)
	}
	for _, grants := range []authz.Permissions{
		{"user": {"get", "list"}, "key": {"read"}}, {"user": {"list"}, "get": {}, "key": {"read"}}, {"user": {"list", "get"}}, {"user": {}}, {"user": nil}, {}, nil,
	} {
		of(nil, grants)
	}
	// Another that is too large to be looked for.
	many := make([]string, 1000)
	of(many, authz.Permissions{"user": many})
}

// What is shared goes with the last who has it, and nothing is kept of those who
// are merely named.
func TestWhatIsSharedGoesWithTheLastWhoHasIt(t *testing.T) {
	const n = 1000
	settled := func(most int) int {
		for range 100 {
			runtime.GC()
			if authz.InCommon() <= most {
				break
			}
			time.Sleep(10 * time.Millisecond) // clean-ups run beside
		}
		return authz.InCommon()
	}
	before := settled(0)
	for range n {
		subject(t, authz.Identity{Type: "device", Credential: authz.CredentialAsserted, Roles: []string{fmt.Sprint("asserted", n)}})
	}
	if got := authz.InCommon(); got > before {
		t.Errorf("%d more are kept for asserted subjects", got-before)
	}
	var all sync.WaitGroup
	subjects := make([]*authz.Subject, 4*n)
	for i := range 4 {
		all.Go(func() {
			for j := range n {
				roles := []string{"unlike any other", fmt.Sprint(j)}
				if s := subject(t, authz.Identity{Type: authz.TypeUser, Credential: authz.CredentialSession, Roles: roles}); i%2 == 0 {
					subjects[i*n+j] = s // the others go at once
				}
				if j%100 == 0 {
					runtime.GC()
				}
			}
		})
	}
	all.Wait()
	for i, s := range subjects {
		if s != nil && &s.Identity().Roles[0] != &subjects[i%n].Identity().Roles[0] {
			t.Fatalf("%d: the same roles are there twice", i)
		}
	}
	if got := settled(before + n); got < n || got > before+n {
		t.Errorf("%d are kept beside %d, want %d", got-before, before, n)
	}
	clear(subjects)
	if got := settled(before); got > before {
		t.Errorf("%d are kept that nobody has", got-before)
	}
}
