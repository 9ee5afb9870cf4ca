package authz

import (
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/authz/compiled"
)

// terms are what is made of a subject once, for all decisions about it: what most
// rules read, what many subjects have in common, and what may be large. The rest
// of the form in which policies read it is made when it is read, for subjects are
// remembered by the thousand and few of them are asked about at a time.
type terms struct {
	// version is no other subject's. It is zero for one that was asserted, which is
	// made anew for each question: nothing is remembered about it.
	version    uint64
	id         ast.Term
	userName   ast.Term // which reasons tell, as they do
	keyName    ast.Term // the name of the key
	roles      *common
	grants     *common         // of the key; nil without one, as are
	metadata   *ast.Term       // those
	attributes *ast.Term       // of the user, likewise
	properties *ast.Term       // of one that was asserted, likewise
	whole      held[*ast.Term] // the principal as a whole
	text       held[[]byte]    // and as JSON
}

// held is what is made of all of a subject, with a session that is fresh or is not.
// Who wants it once mostly wants it again, so it stays until the next garbage
// collection.
type held[T any] struct {
	last atomic.Pointer[weak.Pointer[made[T]]]
}

type made[T any] struct {
	fresh bool
	of    T
}

func (h *held[T]) get(fresh bool) (of T, ok bool) {
	if last := h.last.Load(); last != nil {
		if m := last.Value(); m != nil && m.fresh == fresh {
			return m.of, true
		}
	}
	return of, false
}

func (h *held[T]) put(fresh bool, of T) {
	last := weak.Make(&made[T]{fresh, of})
	h.last.Store(&last)
}

// versions counts the subjects that were made.
var versions atomic.Uint64

// NewSubject prepares id for policies. It fails if a map in it holds a value
// that is not JSON. The maps and slices in id must not change afterwards. Roles
// and grants that equal those of another subject are shared with it.
func NewSubject(id Identity) (*Subject, error) {
	t, err := prepare(&id)
	if err != nil {
		return nil, fmt.Errorf("subject %s %q: %w", id.Type, id.ID, err)
	}
	return access.NewSubject(id, t), nil
}

// prepare also puts into id what it shares with others: copies, so that whoever
// changes their own, against the rules, changes nobody else's.
func prepare(id *Identity) (t *terms, err error) {
	t = &terms{id: ast.Term{Value: ast.String(id.ID)}}
	asserted := id.Credential == CredentialAsserted
	if !asserted {
		t.version = versions.Add(1)
	}
	if t.roles, err = inCommon(common{roles: slices.Clone(id.Roles)}, access.Texts(id.Roles), !asserted); err != nil {
		return nil, err
	}
	id.Roles = t.roles.roles
	if id.User != nil {
		t.userName.Value = ast.String(id.User.Name)
		if t.attributes, err = kept(id.User.Attributes); err != nil {
			return nil, err
		}
	}
	if id.Key != nil {
		key := *id.Key
		t.keyName.Value = ast.String(key.Name)
		own := maps.Clone(key.Permissions)
		for resource, actions := range own {
			own[resource] = slices.Clone(actions)
		}
		if t.grants, err = inCommon(common{permissions: own}, key.Permissions.Document(), !asserted); err != nil {
			return nil, err
		}
		if t.metadata, err = kept(key.Metadata); err != nil {
			return nil, err
		}
		key.Permissions, id.Key = t.grants.permissions, &key
	}
	if asserted {
		t.properties, err = kept(id.Properties)
	}
	return t, err
}

var anonymous = func() *terms {
	id := Anonymous.Identity()
	t, err := prepare(&id)
	if err != nil {
		panic(err)
	}
	return t
}()

func termsOf(s *Subject) (t *terms, ok bool) {
	if s == Anonymous {
		return anonymous, true
	}
	t, ok = s.Prepared().(*terms)
	return t, ok
}

// common are roles or grants, as programs and as policies read them. Few
// combinations of them are in use, by many subjects.
type common struct {
	roles       []string
	permissions Permissions
	term        ast.Term
}

// commons has those in use, by their text. It keeps none: one goes with the last
// subject that has it, so that this grows no further than the memory of subjects.
var commons sync.Map // string → weak.Pointer[common]

// inCommon returns c, which reads as doc, or the same that others have already.
func inCommon(c common, doc any, share bool) (*common, error) {
	value, err := ast.InterfaceToValue(doc)
	if err != nil {
		return nil, err
	}
	compiled.Seal(value)
	c.term.Value = value
	text, short := appendValue(nil, doc)
	if !share || !short {
		return &c, nil
	}
	key, held := string(text), weak.Make(&c)
	for {
		before, there := commons.LoadOrStore(key, held)
		if !there {
			runtime.AddCleanup(&c, func(key string) { commons.CompareAndDelete(key, held) }, key)
			return &c, nil
		}
		if same := before.(weak.Pointer[common]).Value(); same != nil {
			// A list that is nil reads as one that is empty, and is not the same.
			if reflect.DeepEqual(same.roles, c.roles) && reflect.DeepEqual(same.permissions, c.permissions) {
				return same, nil
			}
			return &c, nil
		}
		commons.CompareAndDelete(key, before)
	}
}

// kept is a JSON value that an application keeps of somebody, as policies read it.
func kept(v any) (*ast.Term, error) {
	if v == nil {
		return ast.InternedNullTerm, nil
	}
	if m, ok := v.(map[string]any); ok && len(m) == 0 {
		return noProperties, nil
	}
	return term(v)
}

// grants returns the grants of the key at work, and whether there is one.
func grants(s *Subject) (Permissions, bool) {
	key := s.Identity().Key
	if key == nil {
		return nil, false
	}
	return key.Permissions, true
}

// term turns JSON values into a term that goroutines may share.
func term(v any) (*ast.Term, error) {
	value, err := ast.InterfaceToValue(v)
	if err != nil {
		return nil, err
	}
	compiled.Seal(value)
	return ast.NewTerm(value), nil
}
