package directory_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/internal/pgtest"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/store"
)

// house is a directory over the real store and the real engine, with the
// built-in rules and, if there are any, an author's.
type house struct {
	testing.TB
	*directory.Service
	db      *counted
	engine  *authz.Engine
	users   *authn.Service
	records *recorder
	key     authn.Principal // an administrator's, granted to ask and to write
}

type files = map[string]string

var system = authn.System("test")

// counted counts what is read, and can hold up reads.
type counted struct {
	*store.DB
	entities, types, users atomic.Int64
	hold                   func()
	sure                   bool // of everything, whatever the filter says
}

func (c *counted) Matches(ctx context.Context, q directory.EntityQuery) ([]directory.Entity, []bool, error) {
	if !c.sure {
		return c.DB.Matches(ctx, q)
	}
	q.Filter = nil
	es, err := c.DB.Entities(ctx, q)
	sure := make([]bool, len(es))
	for i := range sure {
		sure[i] = true
	}
	return es, sure, err
}

func (c *counted) Entity(ctx context.Context, typ, id string) (directory.Entity, error) {
	c.entities.Add(1)
	e, err := c.DB.Entity(ctx, typ, id)
	if c.hold != nil {
		c.hold()
	}
	return e, err
}

func (c *counted) EntityTypes(ctx context.Context) ([]string, error) {
	c.types.Add(1)
	return c.DB.EntityTypes(ctx)
}

func (c *counted) User(ctx context.Context, id string) (authn.User, error) {
	c.users.Add(1)
	return c.DB.User(ctx, id)
}

func (c *counted) all() int64 { return c.entities.Load() + c.types.Load() + c.users.Load() }

// recorder keeps what would be written.
type recorder struct{ requests []authz.Request }

func (r *recorder) Record(_ context.Context, o authz.Outcome) error {
	r.requests = append(r.requests, o.Request)
	return nil
}

// each runs a test on both databases.
func each(t *testing.T, author files, test func(t *testing.T, h *house)) {
	t.Helper()
	for name, dsn := range map[string]string{
		"sqlite":   "sqlite:" + filepath.Join(t.TempDir(), "test.db"),
		"postgres": "postgres",
	} {
		t.Run(name, func(t *testing.T) {
			if dsn == "postgres" {
				dsn = pgtest.Schema(t)
			}
			test(t, open(t, dsn, author))
		})
	}
}

func open(t testing.TB, dsn string, author files, options ...func(*directory.Options)) *house {
	t.Helper()
	db, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &house{TB: t, db: &counted{DB: db}, records: &recorder{}}
	h.engine = authz.NewEngine(authz.Options{Recorder: h.records, Describe: func(ctx context.Context, r authz.Resource, action string) (authz.Resource, error) {
		return h.Describe(ctx, r, action)
	}})
	if h.users, err = authn.New(authn.Options{}, h.db, h.engine); err != nil {
		t.Fatal(err)
	}
	fsys := fstest.MapFS{}
	for name, text := range author {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	bundle, err := policies.Load(fsys, nil)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := authz.Compile(t.Context(), bundle.Source)
	if err != nil {
		t.Fatal(err)
	}
	h.engine.Swap(policy)
	o := directory.Options{Actions: bundle.Actions}
	for _, set := range options {
		set(&o)
	}
	if h.Service, err = directory.New(o, h.db, h.engine, h.users); err != nil {
		t.Fatal(err)
	}
	h.key = h.caller(authz.Permissions{"access": {"evaluate", "search"}, "entity": {"read", "write"}}, "admin")
	h.records.requests = nil
	return h
}

var serial atomic.Int64

func (h *house) user(change ...func(*authn.NewUser)) authn.User {
	h.Helper()
	n := serial.Add(1)
	in := authn.NewUser{Name: "U", Email: fmt.Sprintf("u%d@example.com", n)}
	for _, f := range change {
		f(&in)
	}
	return must(h.users.CreateUser(h.Context(), system, in))(h)
}

// caller is somebody with a key that has these grants.
func (h *house) caller(grants authz.Permissions, roles ...string) authn.Principal {
	h.Helper()
	u := h.user(func(u *authn.NewUser) { u.Roles, u.RolesGiven = roles, true })
	_, secret, err := h.users.CreateKey(h.Context(), system, authn.NewKey{OwnerID: u.ID, Permissions: grants})
	if err != nil {
		h.Fatal(err)
	}
	return must(h.users.Authenticate(h.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: secret}))(h)
}

// put stores entities, each "type/id" with its properties.
func (h *house) put(es map[string]map[string]any) {
	h.Helper()
	for name, properties := range es {
		typ, id, _ := strings.Cut(name, "/")
		if _, _, err := h.Put(h.Context(), system, directory.Entity{Type: typ, ID: id, Properties: properties}); err != nil {
			h.Fatal(err)
		}
	}
}

// decide is the input that a decision about r is made on, and the decision.
func (h *house) decide(r authz.Request) (map[string]any, authz.Decision) {
	h.Helper()
	h.records.requests = nil
	d := must(h.engine.Decide(h.Context(), r))(h)
	return h.records.requests[0].Document(nil, time.Now()), d
}

// resource is the resource of the input when typ/id is asked about.
func (h *house) resource(typ, id string, said map[string]any) map[string]any {
	h.Helper()
	in, _ := h.decide(authz.Request{Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: typ, ID: id, Properties: said, Known: true}})
	return in["resource"].(map[string]any)
}

func (h *house) event(kind string) audit.Event {
	h.Helper()
	for _, ev := range must(h.db.Events(h.Context(), 0))(h) {
		if ev.Kind == kind {
			return ev
		}
	}
	h.Fatalf("no event %s", kind)
	return audit.Event{}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func denied(t testing.TB, err error, code string) {
	t.Helper()
	if d, ok := errors.AsType[*authz.DeniedError](err); !ok || !d.Has(code) {
		t.Errorf("got %v, want a denial with %s", err, code)
	}
}

func refused(t testing.TB, err error, field string) {
	t.Helper()
	if e, ok := errors.AsType[*authn.InvalidError](err); !ok || e.Field != field {
		t.Errorf("got %v, want that %s is invalid", err, field)
	}
}

func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) && !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
