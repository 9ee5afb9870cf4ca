package store

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

// generator makes policies and things at random that are about each other.
type generator struct {
	*rand.Rand
	fields []string // what policies read of a resource
}

// n numbers variables.
func (g generator) n() int { return g.IntN(1 << 30) }

func (g generator) pick(from ...string) string { return from[g.IntN(len(from))] }

var anyFields = []string{"id", "properties.owner", "properties.team", "properties.size", "properties.open", "properties.tags",
	"properties.deep.er", "properties.deep.er.still", "properties.none", `properties["an odd. name"]`}

var propertyNames = []string{"owner", "team", "size", "open", "tags", "deep", "none"}

// constant is a value in JSON and Rego alike.
func (g generator) constant() string {
	return g.pick(`"ann"`, `"bob"`, `"a"`, `""`, `"Ä"`, `"true"`, `"10"`, `10`, `10.5`, `-1`, `0`, `1e3`, `1.0000000000000001`, `1`, `true`, `false`, `null`, `["ann"]`, `{"ann": 1}`, `[]`)
}

func (g generator) scalar() string {
	return g.pick(`"ann"`, `"bob"`, `"a"`, `"10"`, `10`, `10.5`, `-1`, `true`, `false`, `null`)
}

func (g generator) thing() string {
	var members []string
	for _, name := range propertyNames {
		if g.IntN(4) == 0 {
			continue // absent
		}
		v := g.constant()
		switch name {
		case "tags":
			v = g.pick(`[]`, `["ann", "bob"]`, `[10, true, null]`, `{"x": "ann"}`, `"ann"`, `[["ann"]]`, g.constant())
		case "deep":
			v = g.pick(`{}`, `{"er": `+g.constant()+`}`, `{"er": {"still": `+g.constant()+`}}`, `[{"er": "ann"}]`, g.constant())
		}
		members = append(members, fmt.Sprintf("%q: %s", name, v))
	}
	return "{" + strings.Join(members, ", ") + "}"
}

func (g generator) field() string {
	return "input.resource." + g.pick(g.fields...)
}

func (g generator) literal(depth int) string {
	op := func() string { return g.pick("==", "!=", "<", "<=", ">", ">=") }
	var l string
	kind := g.IntN(32)
	if (kind == 9 || kind > 13 && kind < 30) && g.IntN(4) > 0 {
		kind = g.IntN(8) // what can't be said shall not stand everywhere
	}
	switch kind {
	case 0, 1, 2, 3:
		l = g.field() + " " + op() + " " + g.constant()
	case 4:
		l = g.constant() + " " + op() + " " + g.field()
	case 5:
		l = g.field()
	case 6:
		l = fmt.Sprintf("%s in {%s, %s}", g.field(), g.scalar(), g.scalar())
	case 7:
		l = fmt.Sprintf("%s in %s", g.scalar(), g.field())
	case 8:
		return fmt.Sprintf("%s[_] == %s", g.field(), g.scalar())
	case 9:
		l = fmt.Sprintf("%s(%s, %s)", g.pick("startswith", "endswith", "contains"), g.field(), g.pick(`"a"`, `"b"`, `""`, `"nn"`))
	case 10, 11:
		a, b := g.field(), g.field()
		if a == b && g.IntN(5) > 0 {
			b = g.constant() // a comparison with itself spoils the whole policy
		}
		l = fmt.Sprintf("%s %s %s", a, g.pick("==", "!="), b)
	case 12:
		l = g.field() + " == input.principal.id"
	case 13:
		l = g.field() + " == input.principal.properties.team"
	case 14:
		l = fmt.Sprintf("is_string(%s)", g.field())
	case 15:
		l = fmt.Sprintf("count(%s) > 1", g.field()) // not to be said
	case 16:
		l = fmt.Sprintf("lower(%s) == %s", g.field(), g.constant())
	case 17:
		l = fmt.Sprintf(`object.get(input.resource.properties, "owner", "ann") == %s`, g.constant())
	case 18:
		l = fmt.Sprintf("input.action.name == %q", g.pick("view", "edit"))
	case 19:
		return "some t in " + g.field() + "; t == " + g.scalar()
	case 20:
		l = fmt.Sprintf("data.teams[%s] == %s", g.field(), g.scalar())
	case 21:
		return fmt.Sprintf("x%d := %s; %sx%[1]d == %[4]s", g.n(), g.field(), g.pick("", "not "), g.constant())
	case 22:
		return fmt.Sprintf("x%d := %s; %sx%[1]d", g.n(), g.field(), g.pick("", "not "))
	case 23:
		return g.pick("", "not ") + fmt.Sprintf("mine(%s)", g.pick("input.resource", "input.resource.properties", g.field()))
	case 25:
		return fmt.Sprintf("x%d := %s == %s; not x%[1]d", g.n(), g.field(), g.constant())
	case 26:
		return fmt.Sprintf("x%d := %s; %sx%[1]d[%[4]s] == %[5]s", g.n(), g.pick(`{"k": `+g.field()+`}`, `["a", `+g.field()+`]`), g.pick("", "not "), g.pick(`"k"`, "1"), g.constant())
	case 27:
		return g.pick("", "not ") + fmt.Sprintf("off(%s == %s)", g.field(), g.constant())
	case 28, 29:
		if depth == 0 {
			return g.field()
		}
		if kind == 29 {
			return g.pick("", "not ") + `attrs.k == ` + g.pick("1", "2")
		}
		return g.pick("", "not ") + `role == ` + g.pick(`"a"`, `"b"`)
	case 24:
		return g.pick("", "not ") + fmt.Sprintf("same(%s, %s)", g.field(), g.constant())
	default:
		if depth > 0 {
			return g.pick("", "not ") + fmt.Sprintf("helper%d", g.IntN(2))
		}
		l = g.field()
	}
	if g.IntN(4) == 0 {
		return "not " + l
	}
	return l
}

func (g generator) body(depth int) string {
	ls := make([]string, 1+g.IntN(3))
	for i := range ls {
		ls[i] = g.literal(depth)
	}
	return "{ " + strings.Join(ls, "; ") + " }"
}

func (g generator) policy() string {
	var b strings.Builder
	b.WriteString("package app.thing\n\n")
	if g.IntN(2) == 0 {
		b.WriteString("default allow := false\n\n")
	}
	for range 1 + g.IntN(3) {
		fmt.Fprintf(&b, "allow if %s\n\n", g.body(1))
	}
	switch g.IntN(4) {
	case 0:
		for range 1 + g.IntN(2) {
			fmt.Fprintf(&b, "deny contains %q if %s\n\n", g.pick("no", "never"), g.body(1))
		}
	case 1:
		fmt.Fprintf(&b, "deny contains sprintf(\"not %%v\", [%s]) if %s\n\n", g.field(), g.body(1))
	case 2:
		fmt.Fprintf(&b, "deny if %s\n\n", g.body(1))
	}
	b.WriteString("mine(r) if r.properties.owner == input.principal.id\n\nmine(r) if not r.owner == \"bob\"\n\n")
	b.WriteString("off(b) if not b\n\n")
	fmt.Fprintf(&b, "role := \"a\" if %s\n\nattrs[\"k\"] := 1 if %s\n\n", g.body(0), g.body(0))
	if g.IntN(6) == 0 {
		fmt.Fprintf(&b, "role := \"b\" if %s\n\nattrs[\"k\"] := 2 if %s\n\n", g.body(0), g.body(0))
	}
	if g.IntN(8) == 0 {
		fmt.Fprintf(&b, "context := {\"n\": to_number(%s)} if %s\n\n", g.field(), g.body(0))
	}
	b.WriteString("same(a, b) if { b != 10; not b in [a] }\n\n")
	for i := range 2 {
		fmt.Fprintf(&b, "helper%d if %s\n\n", i, g.body(0))
	}
	return b.String()
}

// What a filter selects is what decisions allow, whatever the policy says and
// whatever is missing or null in the things.
func TestFilteredListIsWhatDecisionsAllow(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		g := generator{rand.New(rand.NewPCG(7, uint64(len(t.Name())))), anyFields}
		execSQL(t, db, `CREATE TABLE thing (id text, properties `+map[bool]string{true: "jsonb", false: "text"}[db.dialect.name == "postgres"]+`)`)
		things := map[string]map[string]any{}
		for i := range 60 {
			id := fmt.Sprintf("t%02d", i)
			if i == 0 {
				id = "ann"
			}
			text := g.thing()
			d := json.NewDecoder(strings.NewReader(text))
			d.UseNumber()
			var properties map[string]any
			if err := d.Decode(&properties); err != nil {
				t.Fatal(err)
			}
			things[id] = properties
			if _, err := db.writer.NewRaw(`INSERT INTO thing (id, properties) VALUES (?, ?)`, id, text).Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		kind := func(f authz.Field) authz.FieldKind {
			if f[0] == "id" {
				return authz.AlwaysText
			}
			if _, ok := property("t.properties", f[1:]); ok {
				return authz.AnyJSON
			}
			return authz.Untold
		}
		find := func(f authz.Field) (place, bool) {
			if f[0] == "id" {
				return place{column: "t.id", kind: authz.AlwaysText}, true
			}
			return property("t.properties", f[1:])
		}
		filters := sqliteFilters
		if db.dialect.name == "postgres" {
			filters = postgresFilters
		}
		subject, err := authz.NewSubject(authz.Identity{Type: "person", ID: "ann", Credential: authz.CredentialAsserted, Properties: map[string]any{"team": "bob"}})
		if err != nil {
			t.Fatal(err)
		}
		g.compare(t, db, "thing AS t", filters, things, subject, kind, find)
	})
}

// The same for a table of an application, with columns of a type that may be NULL.
func TestFilteredRowsAreWhatDecisionsAllow(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		g := generator{rand.New(rand.NewPCG(2, uint64(len(t.Name())))), []string{"id", "properties.owner", "properties.team", "properties.size", "properties.open"}}
		collation := map[bool]string{true: "", false: " COLLATE NOCASE"}[db.dialect.name == "postgres"]
		execSQL(t, db, `CREATE TABLE document (id text NOT NULL, owner text`+collation+`, team text, size double precision, open boolean)`)
		columns := map[string]string{"id": "d.id", "properties.owner": "d.owner", "properties.team": "team", "properties.size": "d.size", "properties.open": "d.open"}
		fields := authz.Fields{"id": authz.AlwaysText, "properties.owner": authz.Text, "properties.team": authz.Text, "properties.size": authz.Number, "properties.open": authz.Boolean}
		things := map[string]map[string]any{}
		for i := range 60 {
			id := g.pick("ann", "bob", "a", "") + fmt.Sprint(i)
			row := map[string]any{}
			for name, v := range map[string]any{
				"owner": g.pick("ann", "Ann", "bob", "", "a", "10", "true", "Ä", "ann "),
				"team":  g.pick("ann", "bob", "zz"),
				"size":  []float64{10, 10.5, -1, 0, 1000}[g.IntN(5)],
				"open":  g.IntN(2) == 0,
			} {
				if g.IntN(4) > 0 {
					row[name] = v
				}
			}
			things[id] = row
			if _, err := db.writer.NewRaw(`INSERT INTO document (id, owner, team, size, open) VALUES (?, ?, ?, ?, ?)`,
				id, row["owner"], row["team"], row["size"], row["open"]).Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		subject, err := authz.NewSubject(authz.Identity{Type: "person", ID: "ann", Credential: authz.CredentialAsserted, Properties: map[string]any{"team": "bob"}})
		if err != nil {
			t.Fatal(err)
		}
		d := dialects["sqlite"]
		if db.dialect.name == "postgres" {
			d = dialects["postgresql"]
		}
		g.compare(t, db, "document AS d", d, things, subject, fields.Kind, applicationColumns(d, columns, fields))
	})
}

// compare makes policies and holds, for each, what its filter selects from the
// table against a decision about every thing.
func (g generator) compare(t *testing.T, db *DB, table string, filters *filterDialect, things map[string]map[string]any, subject *authz.Subject,
	kind func(authz.Field) authz.FieldKind, find func(authz.Field) (place, bool)) {
	const rounds = 80
	exact, allowed, told, skipped := 0, 0, 0, 0
	for round := range rounds {
		text := g.policy()
		bundle, err := policies.Load(fstest.MapFS{"thing.rego": {Data: []byte(text)}, "data.json": {Data: []byte(`{"teams": {"ann": 10, "bob": "a"}}`)}}, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		policy, err := authz.Compile(t.Context(), bundle.Source)
		if err != nil {
			skipped++ // a comparison that the compiler knows to be wrong
			continue
		}
		engine := authz.NewEngine(authz.Options{})
		engine.Swap(policy)
		question := authz.Request{Subject: subject, Action: authz.Action{Name: "view"}, Resource: authz.Resource{Type: "thing"}}
		f, err := engine.Filter(t.Context(), question, authz.UnknownResource, kind)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if f.Exact() {
			exact++
		}
		sure, args, err := filterSQL(filters, f.Sure, find)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		maybe, more, err := filterSQL(filters, f.Maybe, find)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		var rows []struct {
			ID   string
			Sure bool
		}
		if err := db.reader.NewRaw(`SELECT id, `+sure+` AS sure FROM `+table+` WHERE `+maybe, append(args, more...)...).Scan(t.Context(), &rows); err != nil {
			t.Fatalf("%v\n%s\n%s", err, text, f)
		}
		selected := map[string]bool{} // id → sure
		for _, r := range rows {
			selected[r.ID] = r.Sure
		}
		for id, properties := range things {
			question.Resource.ID, question.Resource.Properties = id, properties
			d, err := engine.Decide(t.Context(), question)
			if err != nil {
				t.Fatal(err)
			}
			sure, maybe := selected[id]
			if d.Allow {
				allowed++
				if sure {
					told++
				}
			}
			if d.Allow && !maybe || !d.Allow && sure {
				shown, _ := json.Marshal(properties)
				t.Fatalf("round %d: %s %s: decided %v %v, sure %v, maybe %v\n%s\n%s", round, id, shown, d.Allow, d.Reasons, sure, maybe, text, f)
			}
		}
	}
	t.Logf("%d policies, %d of them exact, %d not compiled, %d of %d decisions allow, of which filters told %d", rounds-skipped, exact, skipped, allowed, (rounds-skipped)*len(things), told)
	if told < 5 {
		t.Error("hardly anything was told")
	}
}

func TestFiltersAddToQueries(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		execSQL(t, db, `CREATE TABLE document (id text NOT NULL, owner text)`)
		execSQL(t, db, `INSERT INTO document (id, owner) VALUES ('1', 'ann'), ('2', 'bob'), ('3', NULL)`)
		c := authz.Condition{Op: authz.Not, Of: []authz.Condition{{Op: authz.Eq, Field: authz.Field{"properties", "owner"}, Value: "ann"}}}
		columns, fields := map[string]string{"properties.owner": "d.owner"}, authz.Fields{"properties.owner": authz.Text}
		q, err := FilterWhere(db.reader.NewSelect().TableExpr("document AS d").Column("id"), c, columns, fields)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		if err := q.Order("id").Scan(t.Context(), &ids); err != nil || strings.Join(ids, " ") != "2 3" {
			t.Errorf("got %v, %v", ids, err)
		}
		for _, columns := range []map[string]string{{}, {"properties.owner": `d"; DROP TABLE document`}} {
			if _, err := FilterWhere(db.reader.NewSelect(), c, columns, fields); err == nil {
				t.Errorf("%v: no error", columns)
			}
		}
	})
}
