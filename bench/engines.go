package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/casbin/casbin/v3"
	"github.com/casbin/casbin/v3/model"
	"github.com/cedar-policy/cedar-go"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

// An engine answers questions. What it prepares for a question is not measured:
// what a server would have at hand between two requests.
type engine struct {
	name string
	open func(qs []question) (func(i int) (bool, error), func(), error)
	// can reports whether it can be asked q.
	can func(q *question) bool
}

func everything(*question) bool { return true }

// aboutRoles selects what roles alone answer. What a key was granted is left to
// the others.
func aboutRoles(q *question) bool { return q.role || q.name == keyed }

// Names of engines that ratios refer to.
const (
	compiled = "ostiary"
	prepared = "opa-prepared-map"
)

func engines() []engine {
	return []engine{
		{compiled, decider(authz.Options{Memo: -1}), everything},
		{"ostiary-memo", decider(authz.Options{}), everything},
		{"ostiary-topdown", decider(authz.Options{Topdown: true}), everything},
		{"ostiary-key-and-decision", service(ostiary.Options{DecisionMemo: -1}), func(q *question) bool { return q.name == keyed }},
		{"ostiary-key-and-memo", service(ostiary.Options{Audit: audit.Options{Sample: new(float64)}}), func(q *question) bool { return q.name == keyed }},
		{prepared, openPrepared, everything},
		{"cedar-go", openCedar, everything},
		{"casbin", openCasbin(false), aboutRoles},
		{"casbin-cached", openCasbin(true), aboutRoles},
		{"go", openFloor, everything},
	}
}

// decider is Ostiary's engine as a program has it that embeds it, without a
// database; what it is told of the credential is at hand.
func decider(o authz.Options) func([]question) (func(int) (bool, error), func(), error) {
	return func(qs []question) (func(int) (bool, error), func(), error) {
		e := authz.NewEngine(o)
		if _, err := policies.Open(context.Background(), policies.Options{Engine: e, FS: bundle()}); err != nil {
			return nil, nil, err
		}
		requests := make([]authz.Request, len(qs))
		for i, q := range qs {
			requests[i] = q.what
			var err error
			if requests[i].Subject, err = authz.NewSubject(q.who); err != nil {
				return nil, nil, err
			}
		}
		ctx := context.Background()
		return func(i int) (bool, error) {
			d, err := e.Decide(ctx, requests[i])
			return d.Allow, err
		}, func() {}, nil
	}
}

// service is the whole of it: a credential is resolved and a question decided.
func service(options ostiary.Options) func([]question) (func(int) (bool, error), func(), error) {
	return func(qs []question) (func(int) (bool, error), func(), error) {
		ctx := context.Background()
		options.Database, options.Policies = "sqlite::memory:", bundle()
		o, err := ostiary.Open(ctx, options)
		if err != nil {
			return nil, nil, err
		}
		stop := func() { _ = o.Close() }
		credential, err := enrol(ctx, o, &qs[0])
		if err != nil {
			stop()
			return nil, nil, err
		}
		return func(i int) (bool, error) {
			p, err := o.Authn().Authenticate(ctx, credential)
			if err != nil {
				return false, err
			}
			r := qs[i].what
			r.Subject = p.Subject()
			d, err := o.Decide(ctx, r)
			return d.Allow, err
		}, stop, nil
	}
}

// enrol makes the person of q and a key with the grants of theirs.
func enrol(ctx context.Context, o *ostiary.Ostiary, q *question) (authn.Credential, error) {
	u, err := o.Authn().CreateUser(ctx, authn.System("bench"), authn.NewUser{Email: q.who.User.Email, Name: q.who.User.Name, Roles: q.who.Roles, RolesGiven: true})
	if err != nil {
		return authn.Credential{}, err
	}
	name := "bench"
	_, secret, err := o.Authn().CreateKey(ctx, authn.System("bench"), authn.NewKey{OwnerID: u.ID, Name: &name, Permissions: q.who.Key.Permissions})
	if err != nil {
		return authn.Credential{}, err
	}
	return authn.Credential{Kind: authn.APIKeySecret, Secret: secret}, nil
}

// source is what all engines are made from.
func source() (authz.Source, map[string]map[string]map[string]bool, error) {
	b, err := policies.Load(bundle(), nil)
	if err != nil {
		return authz.Source{}, nil, err
	}
	roles := map[string]map[string]map[string]bool{}
	for name, types := range b.Source.Data["permits"].(map[string]any)["roles"].(map[string]any) {
		roles[name] = map[string]map[string]bool{}
		for t, actions := range types.(map[string]any) {
			roles[name][t] = map[string]bool{}
			for a := range actions.(map[string]any) {
				roles[name][t][a] = true
			}
		}
	}
	return b.Source, roles, nil
}

// openPrepared is OPA's package rego on the same modules and data: the query is
// prepared, the input is a map, as its documentation shows.
func openPrepared(qs []question) (func(int) (bool, error), func(), error) {
	src, _, err := source()
	if err != nil {
		return nil, nil, err
	}
	options := []func(*rego.Rego){rego.Query("data.ostiary.decision"), rego.Store(inmem.NewFromObject(src.Data))}
	for name, text := range src.Modules {
		options = append(options, rego.Module(name, text))
	}
	ctx := context.Background()
	query, err := rego.New(options...).PrepareForEval(ctx)
	if err != nil {
		return nil, nil, err
	}
	inputs, err := documents(qs)
	if err != nil {
		return nil, nil, err
	}
	return func(i int) (bool, error) {
		rs, err := query.Eval(ctx, rego.EvalInput(inputs[i]))
		if err != nil || len(rs) != 1 {
			return false, fmt.Errorf("%d results: %v", len(rs), err)
		}
		return rs[0].Expressions[0].Value.(map[string]any)["allow"] == true, nil
	}, func() {}, nil
}

// documents are the questions as input documents.
func documents(qs []question) ([]map[string]any, error) {
	list := make([]map[string]any, len(qs))
	for i, q := range qs {
		r := q.what
		var err error
		if r.Subject, err = authz.NewSubject(q.who); err != nil {
			return nil, err
		}
		list[i] = r.Document(nil, time.Now())
	}
	return list, nil
}

// openCedar has a permit for each role, one for the owner, and the forbids.
func openCedar(qs []question) (func(int) (bool, error), func(), error) {
	_, roles, err := source()
	if err != nil {
		return nil, nil, err
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		for _, t := range slices.Sorted(maps.Keys(roles[name])) {
			var actions []string
			for _, a := range slices.Sorted(maps.Keys(roles[name][t])) {
				actions = append(actions, fmt.Sprintf("Action::%q", a))
			}
			fmt.Fprintf(&text, "permit (principal in Role::%q, action in [%s], resource is %s);\n", name, strings.Join(actions, ", "), t)
		}
	}
	text.WriteString(`
permit (principal, action in [Action::"get", Action::"update", Action::"change-password"], resource is user) when { resource.owner == principal };
forbid (principal, action, resource) when { principal.banned };
forbid (principal, action, resource) when { context has grants && !context.grants.contains(context.permission) };
forbid (principal, action in [Action::"change-password", Action::"change-email"], resource is user) when { context has impersonated };
forbid (principal, action in [Action::"ban", Action::"delete"], resource is user) when { !(context has lastAdmin) || context.lastAdmin };
`)
	set, err := cedar.NewPolicySetFromBytes("bench.cedar", []byte(text.String()))
	if err != nil {
		return nil, nil, err
	}
	type prepared struct {
		entities cedar.EntityMap
		request  cedar.Request
	}
	list := make([]prepared, len(qs))
	for i, q := range qs {
		r := q.what
		me := cedar.NewEntityUID("Principal", cedar.String(q.who.ID))
		var parents []cedar.EntityUID
		p := &list[i]
		p.entities = cedar.EntityMap{}
		for _, name := range q.who.Roles {
			uid := cedar.NewEntityUID("Role", cedar.String(name))
			parents = append(parents, uid)
			p.entities[uid] = cedar.Entity{UID: uid}
		}
		p.entities[me] = cedar.Entity{UID: me, Parents: cedar.NewEntityUIDSet(parents...), Attributes: cedar.NewRecord(cedar.RecordMap{
			"banned": cedar.Boolean(q.who.User.Banned),
		})}
		it := cedar.NewEntityUID(cedar.EntityType(r.Resource.Type), cedar.String(r.Resource.ID))
		p.entities[it] = cedar.Entity{UID: it, Attributes: cedar.NewRecord(cedar.RecordMap{
			"owner": cedar.NewEntityUID("Principal", cedar.String(r.Resource.ID)),
		})}
		about := cedar.RecordMap{"permission": cedar.String(r.Resource.Type + ":" + r.Action.Name)}
		if k := q.who.Key; k != nil {
			var grants []cedar.Value
			for t, actions := range k.Permissions {
				for _, a := range actions {
					grants = append(grants, cedar.String(t+":"+a))
				}
			}
			about["grants"] = cedar.NewSet(grants...)
		}
		if s := q.who.Session; s != nil && s.ImpersonatedBy != "" {
			about["impersonated"] = cedar.True
		}
		if last, ok := r.Resource.Properties["lastAdmin"].(bool); ok {
			about["lastAdmin"] = cedar.Boolean(last)
		}
		p.request = cedar.Request{
			Principal: me, Action: cedar.NewEntityUID("Action", cedar.String(r.Action.Name)),
			Resource: it, Context: cedar.NewRecord(about),
		}
	}
	return func(i int) (bool, error) {
		d, diagnostic := cedar.Authorize(set, list[i].entities, list[i].request)
		if len(diagnostic.Errors) > 0 {
			return false, fmt.Errorf("cedar: %v", diagnostic.Errors)
		}
		return d == cedar.Allow, nil
	}, func() {}, nil
}

// openCasbin is role-based access control as its documentation has it. It is
// asked about roles alone: it has no keys, guards or owners here.
func openCasbin(cached bool) func([]question) (func(int) (bool, error), func(), error) {
	return func(qs []question) (func(int) (bool, error), func(), error) {
		_, roles, err := source()
		if err != nil {
			return nil, nil, err
		}
		m, err := model.NewModelFromString(`
[request_definition]
r = sub, obj, act
[policy_definition]
p = sub, obj, act
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act
`)
		if err != nil {
			return nil, nil, err
		}
		var rules, groups [][]string
		for name, types := range roles {
			for t, actions := range types {
				for a := range actions {
					rules = append(rules, []string{name, t, a})
				}
			}
		}
		slices.SortFunc(rules, slices.Compare)
		seen := map[string]bool{}
		for _, q := range qs {
			for _, name := range q.who.Roles {
				if !seen[q.who.ID+"/"+name] {
					seen[q.who.ID+"/"+name] = true
					groups = append(groups, []string{q.who.ID, name})
				}
			}
		}
		type enforcer interface {
			Enforce(rvals ...any) (bool, error)
			AddPolicies(rules [][]string) (bool, error)
			AddGroupingPolicies(rules [][]string) (bool, error)
		}
		var e enforcer
		if cached {
			e, err = casbin.NewCachedEnforcer(m)
		} else {
			e, err = casbin.NewEnforcer(m)
		}
		if err == nil {
			_, err = e.AddPolicies(rules)
		}
		if err == nil {
			_, err = e.AddGroupingPolicies(groups)
		}
		if err != nil {
			return nil, nil, err
		}
		return func(i int) (bool, error) {
			return e.Enforce(qs[i].who.ID, qs[i].what.Resource.Type, qs[i].what.Action.Name)
		}, func() {}, nil
	}
}

func openFloor(qs []question) (func(int) (bool, error), func(), error) {
	_, roles, err := source()
	if err != nil {
		return nil, nil, err
	}
	return func(i int) (bool, error) { return floor(&qs[i], roles), nil }, func() {}, nil
}
