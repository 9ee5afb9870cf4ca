package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing/fstest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

// measureCurves writes how cost grows with what there is: keys, roles, rules,
// entities, instances. Each size is measured by passes over the same calls, and
// the median stands for it.
func measureCurves(ctx context.Context, out io.Writer, passes, most int) error {
	for _, curve := range []func(context.Context, io.Writer, int, int) error{curveKeys, curveRoles, curveRules, curveEntities, curveInstances} {
		if err := curve(ctx, out, passes, most); err != nil {
			return err
		}
	}
	return nil
}

// sizes are powers of ten from one to another.
func sizes(from, to int) []int {
	var list []int
	for n := from; n <= to; n *= 10 {
		list = append(list, n)
	}
	return list
}

// calls returns the median time of a call, over passes of n calls each.
func calls(passes, n int, f func(i int) error) (float64, error) {
	var took []float64
	for pass := range passes {
		began := time.Now()
		for i := range n {
			if err := f(pass*n + i); err != nil {
				return 0, err
			}
		}
		took = append(took, float64(time.Since(began).Nanoseconds())/float64(n))
	}
	_, mid, _ := quartiles(took)
	return mid, nil
}

// filled opens an instance on a database of its own after fill has put rows in.
func filled(ctx context.Context, o ostiary.Options, fill func(*sql.Tx) error) (*ostiary.Ostiary, func(), error) {
	dir, err := os.MkdirTemp("", "ostiary-bench")
	if err != nil {
		return nil, nil, err
	}
	none := 0.0
	o.Database, o.Audit = "sqlite:"+filepath.Join(dir, "bench.db"), audit.Options{Sample: &none}
	first, err := ostiary.Open(ctx, o) // makes the tables
	if err == nil {
		err = errors.Join(first.Close(), insert(ctx, filepath.Join(dir, "bench.db"), fill))
	}
	var i *ostiary.Ostiary
	if err == nil {
		i, err = ostiary.Open(ctx, o)
	}
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return i, func() { _ = i.Close(); _ = os.RemoveAll(dir) }, nil
}

func insert(ctx context.Context, path string, fill func(*sql.Tx) error) (err error) {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fill(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	// What was put in is older than whoever looks.
	if _, err := tx.ExecContext(ctx, `DELETE FROM changes WHERE seq < (SELECT MAX(seq) FROM changes)`); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

const insertedAt = "2026-03-04T05:06:07.089Z"

// insertKeys makes n users with three roles and a key each.
func insertKeys(n int) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		users, err := tx.Prepare(`INSERT INTO "user" ("id", "name", "email", "emailVerified", "createdAt", "updatedAt", "role") VALUES (?, 'n', ?, TRUE, ?, ?, ?)`)
		if err != nil {
			return err
		}
		keys, err := tx.Prepare(`INSERT INTO apikey ("id", "configId", "referenceId", "key", "enabled", "createdAt", "updatedAt", "permissions") VALUES (?, 'default', ?, ?, TRUE, ?, ?, ?)`)
		if err != nil {
			return err
		}
		roles, grants := "user,"+role(3)+","+role(7), encoded(named(keyed).who.Key.Permissions)
		for i := range n {
			id := fmt.Sprintf("u%d", i)
			digest := sha256.Sum256([]byte(secretOf(i).Reveal()))
			_, err := users.Exec(id, id+"@example.com", insertedAt, insertedAt, roles)
			if err == nil {
				_, err = keys.Exec("k"+id, id, base64.RawURLEncoding.EncodeToString(digest[:]), insertedAt, insertedAt, grants)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

func secretOf(i int) authn.Secret { return authn.Secret(fmt.Sprintf("a-key-of-the-bench-%045d", i)) }

// curveKeys: a key that is remembered, one that is not, and what it takes to
// remember one.
func curveKeys(ctx context.Context, out io.Writer, passes, most int) error {
	fmt.Fprint(out, "\nusers, each with a key and three roles (SQLite)\n\n| keys | known key and decision | key from the database | memory for each remembered |\n| --- | --- | --- | --- |\n")
	for _, n := range sizes(1, most) {
		o, stop, err := filled(ctx, ostiary.Options{Policies: bundle(), Authn: authn.Options{CacheSize: max(n, 1)}}, insertKeys(n))
		if err != nil {
			return err
		}
		resolve := func(i int) (authn.Principal, error) {
			return o.Authn().Authenticate(ctx, authn.Credential{Kind: authn.APIKeySecret, Secret: secretOf(i % n)})
		}
		remembered := min(n, 100_000)
		before := heap()
		// Each key once: none is remembered yet.
		cold, err := calls(1, remembered, func(i int) error { _, err := resolve(i); return err })
		if err != nil {
			stop()
			return err
		}
		each := float64(heap()-before) / float64(remembered)
		what := named(keyed).what
		warm, err := calls(passes, 10_000, func(i int) error {
			p, err := resolve(i % remembered)
			if err != nil {
				return err
			}
			r := what
			r.Subject = p.Subject()
			d, err := o.Decide(ctx, r)
			if err == nil && !d.Allow {
				err = errors.New("denied")
			}
			return err
		})
		stop()
		if err != nil {
			return err
		}
		memory := "–"
		if n >= 1000 { // fewer are lost in the noise
			memory = fmt.Sprintf("%.0f bytes", each)
		}
		fmt.Fprintf(out, "| %d | %s | %s | %s |\n", n, nanoseconds(warm), nanoseconds(cold), memory)
	}
	return nil
}

// heap returns how much of the heap is in use.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one's finalizers let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// deciding measures a policy: how long it takes to put it in force, and to decide
// by it about q.
func deciding(ctx context.Context, rules fs.FS, q *question, passes int) (load, decide float64, err error) {
	var engine *authz.Engine
	load, err = calls(min(passes, 3), 1, func(int) error {
		engine = authz.NewEngine(authz.Options{})
		_, err := policies.Open(ctx, policies.Options{Engine: engine, FS: rules})
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	r := q.what
	if r.Subject, err = authz.NewSubject(q.who); err != nil {
		return 0, 0, err
	}
	decide, err = calls(passes, 5_000, func(int) error {
		d, err := engine.Decide(ctx, r)
		if err == nil && d.Allow != q.allow {
			err = fmt.Errorf("%s: answers %v", q.name, d.Allow)
		}
		return err
	})
	return load, decide, err
}

func curveRoles(ctx context.Context, out io.Writer, passes, most int) error {
	fmt.Fprint(out, "\nroles, each with ten permissions; whoever asks has three\n\n| roles | put in force | a decision |\n| --- | --- | --- |\n")
	for _, n := range sizes(10, min(most, 10_000)) {
		roles := map[string]any{"user": map[string]any{}}
		for i := range n {
			roles[role(i)] = statements(i)
		}
		text, err := json.Marshal(map[string]any{"roles": roles})
		if err != nil {
			return err
		}
		load, decide, err := deciding(ctx, fstest.MapFS{"data.json": {Data: text}}, named(typical), passes)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "| %d | %s | %s |\n", n, nanoseconds(load), nanoseconds(decide))
	}
	return nil
}

func curveRules(ctx context.Context, out io.Writer, passes, most int) error {
	fmt.Fprint(out, "\nrules of an author, five for each type of resource\n\n| rules | put in force | a decision |\n| --- | --- | --- |\n")
	for _, n := range sizes(1, min(most, 1000)) {
		rules := fstest.MapFS{}
		for i := range n {
			rules[fmt.Sprintf("thing%d.rego", i)] = &fstest.MapFile{Data: fmt.Appendf(nil, `package app.thing%d

allow if input.resource.properties.owner == input.principal.id

allow if {
	input.action.name == "read"
	input.resource.properties.public
}

allow if {
	input.action.name == "comment"
	input.principal.user.emailVerified
}

deny contains {"code": "frozen", "message": "it is frozen"} if input.resource.properties.frozen

deny contains {"code": "away", "message": "it is archived"} if input.resource.properties.archived
`, i)}
		}
		q := *named(typical)
		q.what.Action.Name = "read"
		q.what.Resource = authz.Resource{Type: "thing0", ID: "t1", Properties: map[string]any{"owner": q.who.ID}}
		load, decide, err := deciding(ctx, rules, &q, passes)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "| %d | %s | %s |\n", 5*n, nanoseconds(load), nanoseconds(decide))
	}
	return nil
}

func curveEntities(ctx context.Context, out io.Writer, passes, most int) error {
	fmt.Fprint(out, "\nentities that decisions are about (SQLite)\n\n| entities | decision about one that is remembered | about one from the database |\n| --- | --- | --- |\n")
	rules := fstest.MapFS{"paper.rego": {Data: []byte("package app.paper\n\nallow if input.resource.properties.owner == input.principal.id\n")}}
	for _, n := range sizes(1, most) {
		o, stop, err := filled(ctx, ostiary.Options{Policies: rules}, func(tx *sql.Tx) error {
			put, err := tx.Prepare(`INSERT INTO ostiary_entity ("type", "id", "properties", "updatedAt") VALUES ('paper', ?, '{"owner":"ann","pages":12}', ?)`)
			for i := 0; i < n && err == nil; i++ {
				_, err = put.Exec(fmt.Sprintf("p%d", i), insertedAt)
			}
			return err
		})
		if err != nil {
			return err
		}
		subject, err := authz.NewSubject(named(typical).who)
		if err != nil {
			stop()
			return err
		}
		ask := func(i int) error {
			d, err := o.Decide(ctx, authz.Request{Subject: subject, Action: authz.Action{Name: "read"}, Resource: authz.Resource{Type: "paper", ID: fmt.Sprintf("p%d", i)}})
			if err == nil && !d.Allow {
				err = errors.New("denied")
			}
			return err
		}
		remembered := min(n, 50_000)
		cold, err := calls(1, remembered, ask)
		if err != nil {
			stop()
			return err
		}
		warm, err := calls(passes, 5_000, func(i int) error { return ask(i % remembered) })
		stop()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "| %d | %s | %s |\n", n, nanoseconds(warm), nanoseconds(cold))
	}
	return nil
}

// curveInstances has instances in one process on one database: what each costs the
// database, and so how soon the last of them knows of a change, is the same as if
// they were apart.
func curveInstances(ctx context.Context, out io.Writer, passes, _ int) error {
	fmt.Fprint(out, "\ninstances on one SQLite file; a key that all of them remember is revoked on one\n\n| instances | known everywhere after | slowest |\n| --- | --- | --- |\n")
	dir, err := os.MkdirTemp("", "ostiary-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, n := range []int{1, 2, 4, 8} {
		took, err := revocations(ctx, "sqlite:"+filepath.Join(dir, fmt.Sprintf("%d.db", n)), n, passes)
		if err != nil {
			return err
		}
		_, mid, _ := quartiles(took)
		fmt.Fprintf(out, "| %d | %s | %s |\n", n, nanoseconds(mid), nanoseconds(slices.Max(took)))
	}
	return nil
}

func revocations(ctx context.Context, database string, n, passes int) (took []float64, err error) {
	var all []*ostiary.Ostiary
	defer func() {
		for _, o := range all {
			err = errors.Join(err, o.Close())
		}
	}()
	for range n {
		o, err := ostiary.Open(ctx, ostiary.Options{Database: database, Policies: bundle()})
		if err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	q := *named(keyed)
	for pass := range passes {
		user := *q.who.User
		user.Email = fmt.Sprintf("%d-%s", pass, user.Email)
		q.who.User = &user
		c, err := enrol(ctx, all[0], &q)
		if err != nil {
			return nil, err
		}
		var key *authn.APIKey
		for _, o := range all {
			p, err := o.Authn().Authenticate(ctx, c)
			if err != nil {
				return nil, err
			}
			key = p.Key()
		}
		began := time.Now()
		if err := all[0].Authn().DeleteKey(ctx, authn.System("bench"), key.ID); err != nil {
			return nil, err
		}
		for _, o := range all {
			for {
				if _, err := o.Authn().Authenticate(ctx, c); errors.Is(err, authn.ErrBadCredential) {
					break
				} else if time.Since(began) > 10*time.Second {
					return nil, fmt.Errorf("a revoked key still works: %w", err)
				}
				time.Sleep(100 * time.Microsecond)
			}
		}
		took = append(took, float64(time.Since(began).Nanoseconds()))
	}
	return took, nil
}
