package store

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	bundialect "github.com/uptrace/bun/dialect"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// place is where a field of a searched thing is kept: a column, or a path in a
// column of JSON.
type place struct {
	column string // an expression
	path   []string
	kind   authz.FieldKind
}

// filterDialect is how a database is asked what a condition says. Its
// expressions have ? for arguments, and none of them is ever NULL where it
// stands for true or false, so that it can be negated.
type filterDialect struct {
	// of JSON: the type's name ('' if absent), and the value if it is of that type
	typeOf, text, number func(*sqlText, place)
	names                typeNames
	equals               func(*sqlText, place, any) // JSON; the value is a scalar
	has                  func(*sqlText, place, any)
	long                 func(*sqlText, place)    // of a number: it has more than 15 characters
	binary               func(expr string) string // text that compares byte by byte
	search               map[authz.Op]string      // in text, %s; each argument is what is looked for
	quote                string                   // around names
}

// typeNames are what a database calls the types of JSON, in Rego's order.
type typeNames [6][]string

const (
	typeNull = iota
	typeBoolean
	typeNumber
	typeText
	typeList
	typeObject
)

// sqlText is a piece of SQL and its arguments.
type sqlText struct {
	strings.Builder
	args []any
	d    *filterDialect
	find func(authz.Field) (place, bool)
	err  error
}

func (s *sqlText) add(text string, args ...any) {
	s.WriteString(text)
	s.args = append(s.args, args...)
}

// filterSQL says c in SQL.
func filterSQL(d *filterDialect, c authz.Condition, find func(authz.Field) (place, bool)) (string, []any, error) {
	s := &sqlText{d: d, find: find}
	s.condition(c)
	return s.String(), s.args, s.err
}

func (s *sqlText) condition(c authz.Condition) {
	switch c.Op {
	case authz.Never:
		s.add("1 = 0")
	case authz.Always:
		s.add("1 = 1")
	case authz.Not:
		s.add("NOT (")
		s.condition(c.Of[0])
		s.add(")")
	case authz.And, authz.Or:
		between := map[authz.Op]string{authz.And: " AND ", authz.Or: " OR "}[c.Op]
		s.add("(")
		for i, part := range c.Of {
			if i > 0 {
				s.add(between)
			}
			s.condition(part)
		}
		s.add(")")
	default:
		p, ok := s.find(c.Field)
		if !ok {
			s.fail(c)
			return
		}
		if c.Other != nil {
			other, ok := s.find(c.Other)
			if !ok {
				s.fail(c)
				return
			}
			s.fields(c.Op, p, other)
			return
		}
		if p.kind == authz.AnyJSON {
			s.ofJSON(c, p)
		} else {
			s.ofColumn(c, p)
		}
	}
}

func (s *sqlText) fail(c authz.Condition) {
	if s.err == nil {
		s.err = fmt.Errorf("a condition on %s cannot be asked here: %s", c.Field, c)
	}
	s.add("1 = 0")
}

// ofColumn is a comparison of a typed column.
func (s *sqlText) ofColumn(c authz.Condition, p place) {
	if c.Op == authz.Defined {
		s.add(p.column + " IS NOT NULL")
		return
	}
	value := argument(c.Value)
	s.add("(" + p.column + " IS NOT NULL AND ")
	switch op, compares := operators[c.Op]; {
	case compares && p.kind == authz.Boolean:
		s.booleans(c, p.column)
	case compares && p.kind == authz.Number:
		s.add(p.column+op+"?", value)
	case compares && c.Op == authz.Eq:
		// The plain comparison is what an index helps with.
		s.add(p.column+" = ? AND "+s.d.binary(p.column)+" = ?", value, value)
	case compares:
		s.add(s.d.binary(p.column)+op+"?", value)
	case s.d.search[c.Op] != "":
		s.search(c.Op, p.column, nil, value)
	default:
		s.fail(c)
	}
	s.add(")")
}

var operators = map[authz.Op]string{
	authz.Eq: " = ", authz.Ne: " <> ", authz.Lt: " < ", authz.Lte: " <= ", authz.Gt: " > ", authz.Gte: " >= ",
}

// booleans: the order of false and true is not every database's.
func (s *sqlText) booleans(c authz.Condition, column string) {
	want, _ := c.Value.(bool)
	var cases []string
	for text, b := range map[string]bool{"FALSE": false, "TRUE": true} {
		if c.Op.Holds(order(b, want)) {
			cases = append(cases, column+" = "+text)
		}
	}
	slices.Sort(cases)
	if len(cases) == 0 {
		cases = []string{"1 = 0"}
	}
	s.add("(" + strings.Join(cases, " OR ") + ")")
}

func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// search looks for value in a text, whose expression has args.
func (s *sqlText) search(op authz.Op, text string, args []any, value any) {
	if value == "" { // every text has it
		s.add("1 = 1")
		return
	}
	pattern := s.d.search[op]
	s.add(fmt.Sprintf(pattern, s.d.binary(text)), slices.Concat(args, slices.Repeat([]any{value}, strings.Count(pattern, "?")))...)
}

// ofJSON is a comparison of whatever stands in JSON.
func (s *sqlText) ofJSON(c authz.Condition, p place) {
	switch c.Op {
	case authz.Defined:
		s.is(p, s.d.names[:]...)
	case authz.IsText:
		s.is(p, s.d.names[typeText])
	case authz.Long:
		s.when(p, typeNumber, func() { s.d.long(s, p) })
	case authz.Eq:
		s.d.equals(s, p, c.Value)
	case authz.Ne:
		s.add("(")
		s.is(p, s.d.names[:]...)
		s.add(" AND NOT ")
		s.d.equals(s, p, c.Value)
		s.add(")")
	case authz.Lt, authz.Lte, authz.Gt, authz.Gte:
		s.ordered(c, p)
	case authz.Has:
		s.d.has(s, p, c.Value)
	case authz.StartsWith, authz.EndsWith, authz.Contains:
		s.when(p, typeText, func() {
			text, args := s.d.textOf(p)
			s.search(c.Op, text, args, c.Value)
		})
	default:
		s.fail(c)
	}
}

// is: the value is there and of one of the types.
func (s *sqlText) is(p place, types ...[]string) {
	s.d.typeOf(s, p)
	s.add(" IN (")
	for i, name := range slices.Concat(types...) {
		if i > 0 {
			s.add(", ")
		}
		s.add("?", name)
	}
	s.add(")")
}

// when: the value is of the type and what holds. No database promises to look at
// the type first unless it is told so.
func (s *sqlText) when(p place, typ int, holds func()) {
	s.add("CASE WHEN ")
	s.is(p, s.d.names[typ])
	s.add(" THEN ")
	holds()
	s.add(" ELSE 1 = 0 END")
}

func typeOfValue(v any) int {
	switch v.(type) {
	case nil:
		return typeNull
	case bool:
		return typeBoolean
	case json.Number:
		return typeNumber
	}
	return typeText
}

func (s *sqlText) ordered(c authz.Condition, p place) {
	typ := typeOfValue(c.Value)
	others := s.d.names[:typ] // sorted before
	if c.Op == authz.Gt || c.Op == authz.Gte {
		others = s.d.names[typ+1:]
	}
	s.add("(")
	if len(others) > 0 {
		s.is(p, others...)
		s.add(" OR ")
	}
	switch typ {
	case typeNull:
		if s.add("1 = 0"); c.Op.Holds(0) {
			s.add(" OR ")
			s.is(p, s.d.names[typeNull])
		}
	case typeBoolean:
		s.add("1 = 0")
		for _, b := range []bool{false, true} {
			if c.Op.Holds(order(b, c.Value.(bool))) {
				s.add(" OR ")
				s.d.equals(s, p, b)
			}
		}
	case typeNumber:
		s.when(p, typ, func() {
			s.d.number(s, p)
			s.add(operators[c.Op]+"?", argument(c.Value))
		})
	default:
		s.when(p, typ, func() {
			text, args := s.d.textOf(p)
			s.add(s.d.binary(text)+operators[c.Op]+"?", append(args, c.Value)...)
		})
	}
	s.add(")")
}

// textOf is the expression for the text at p, and its arguments.
func (d *filterDialect) textOf(p place) (string, []any) {
	s := &sqlText{d: d}
	d.text(s, p)
	return s.String(), s.args
}

// fields compares two fields, of which at most one is JSON; the other is text.
func (s *sqlText) fields(op authz.Op, a, b place) {
	if a.kind == authz.AnyJSON {
		a, b = b, a
	}
	s.add("(" + a.column + " IS NOT NULL AND ")
	if b.kind != authz.AnyJSON {
		x, y := a.column, b.column
		if a.kind != authz.Number && a.kind != authz.Boolean {
			x, y = s.d.binary(x), s.d.binary(y)
		}
		s.add(b.column + " IS NOT NULL AND " + x + operators[op] + y + ")")
		return
	}
	if op == authz.Ne {
		s.is(b, s.d.names[:]...)
		s.add(" AND NOT ")
	}
	s.when(b, typeText, func() {
		s.add(a.column + " = ")
		s.d.text(s, b)
	})
	s.add(")")
}

// argument is a JSON scalar as databases take it.
func argument(v any) any {
	n, ok := v.(json.Number)
	if !ok {
		return v
	}
	if i, err := n.Int64(); err == nil {
		return i
	}
	f, _ := n.Float64()
	return f
}

// pathName are the names of members that SQLite's paths can spell.
var pathName = regexp.MustCompile(`^[^"\\[:cntrl:]]+$`)

// property is where a property of a thing is kept, if it is in a column of JSON
// objects.
func property(column string, names []string) (place, bool) {
	for _, n := range names {
		if !pathName.MatchString(n) {
			return place{}, false
		}
	}
	return place{column: column, path: names, kind: authz.AnyJSON}, len(names) > 0
}

var sqliteFilters = &filterDialect{
	quote: `"`,
	names: sqliteNames,
	typeOf: func(s *sqlText, p place) {
		s.add("coalesce(json_type("+p.column+", ?), '')", sqlitePath(p.path))
	},
	text:   sqliteValue,
	number: sqliteValue,
	long: func(s *sqlText, p place) {
		s.add("length("+p.column+" -> ?) > 15", sqlitePath(p.path))
	},
	equals: func(s *sqlText, p place, v any) {
		switch v := v.(type) {
		case nil:
			s.is(p, s.d.names[typeNull])
		case bool:
			s.is(p, []string{fmt.Sprint(v)})
		default:
			s.when(p, typeOfValue(v), func() {
				sqliteValue(s, p)
				s.add(" = ?", argument(v))
			})
		}
	},
	has: func(s *sqlText, p place, v any) {
		names := sqliteNames[typeOfValue(v)]
		if b, ok := v.(bool); ok {
			names = []string{fmt.Sprint(b)}
		}
		s.add("(")
		s.is(p, s.d.names[typeList], s.d.names[typeObject])
		s.add(" AND EXISTS (SELECT 1 FROM json_each("+p.column+", ?) AS element WHERE element.type IN ('"+strings.Join(names, "', '")+"')", sqlitePath(p.path))
		switch v.(type) {
		case nil, bool:
		default:
			s.add(" AND element.value = ?", argument(v))
		}
		s.add("))")
	},
	binary: func(expr string) string { return expr + " COLLATE BINARY" },
	search: map[authz.Op]string{
		authz.StartsWith: "substr(%s, 1, length(?)) = ?",
		authz.EndsWith:   "substr(%s, -length(?)) = ?",
		authz.Contains:   "instr(%s, ?) > 0",
	},
}

var sqliteNames = typeNames{{"null"}, {"false", "true"}, {"integer", "real"}, {"text"}, {"array"}, {"object"}}

func sqlitePath(path []string) string { return `$."` + strings.Join(path, `"."`) + `"` }

func sqliteValue(s *sqlText, p place) {
	s.add("json_extract("+p.column+", ?)", sqlitePath(p.path))
}

var postgresFilters = &filterDialect{
	quote: `"`,
	names: typeNames{{"null"}, {"boolean"}, {"number"}, {"string"}, {"array"}, {"object"}},
	typeOf: func(s *sqlText, p place) {
		s.add("coalesce(jsonb_typeof(")
		postgresValue(s, p)
		s.add("), '')")
	},
	text: func(s *sqlText, p place) {
		s.add("(")
		postgresValue(s, p)
		s.add(" #>> '{}')")
	},
	long: func(s *sqlText, p place) {
		s.add("length(")
		postgresValue(s, p)
		s.add(" #>> '{}') > 15")
	},
	number: func(s *sqlText, p place) {
		s.add("(")
		postgresValue(s, p)
		s.add(" #>> '{}')::numeric")
	},
	equals: func(s *sqlText, p place, v any) {
		s.add("coalesce(")
		postgresValue(s, p)
		s.add(" = ?::jsonb, false)", document(v))
	},
	has: func(s *sqlText, p place, v any) {
		s.add("CASE ")
		s.d.typeOf(s, p)
		s.add(" WHEN 'array' THEN ")
		postgresValue(s, p)
		s.add(" @> ?::jsonb WHEN 'object' THEN EXISTS (SELECT 1 FROM jsonb_each(", document([]any{v}))
		postgresValue(s, p)
		s.add(") AS element WHERE element.value = ?::jsonb) ELSE false END", document(v))
	},
	binary: func(expr string) string { return expr + ` COLLATE "C"` },
	search: map[authz.Op]string{
		authz.StartsWith: "starts_with(%s, ?)",
		authz.EndsWith:   "right(%s, length(?)) = ?",
		authz.Contains:   "strpos(%s, ?) > 0",
	},
}

func postgresValue(s *sqlText, p place) {
	s.add("(" + p.column)
	for _, name := range p.path {
		s.add(" -> ?::text", name)
	}
	s.add(")")
}

// document is v as JSON text.
func document(v any) string {
	encoded, err := json.Marshal(v)
	if err != nil {
		panic(err) // it is a scalar, a list of one or objects around one
	}
	return string(encoded)
}

// Dialects of SQL in which FilterSQL speaks to tables of applications.
var dialects = map[string]*filterDialect{
	"postgresql": postgresFilters,
	"sqlite":     sqliteFilters,
	"mysql":      mysqlFilters,
}

// columnName are names of columns, with the table's before them or without.
var columnName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*){0,2}$`)

// FilterSQL says c as a condition on the rows of an application's table, for a
// WHERE clause in the named dialect: "postgresql" (arguments $1, $2, …), "sqlite" or
// "mysql" (arguments ?). columns has the column of each field, by the field's name.
// A column that is NULL is a property that is absent. Text is compared byte by
// byte, whatever the column's collation.
func FilterSQL(dialect string, c authz.Condition, columns map[string]string, fields authz.Fields) (query string, args []any, err error) {
	query, args, err = applicationSQL(dialect, c, columns, fields)
	if err == nil && dialect == "postgresql" {
		query = numbered(query)
	}
	return query, args, err
}

// FilterWhere adds what [FilterSQL] says to a query of bun's, in its dialect.
func FilterWhere(q *bun.SelectQuery, c authz.Condition, columns map[string]string, fields authz.Fields) (*bun.SelectQuery, error) {
	names := map[bundialect.Name]string{bundialect.PG: "postgresql", bundialect.SQLite: "sqlite", bundialect.MySQL: "mysql"}
	query, args, err := applicationSQL(names[q.Dialect().Name()], c, columns, fields)
	if err != nil {
		return q, err
	}
	return q.Where(query, args...), nil
}

func applicationSQL(dialect string, c authz.Condition, columns map[string]string, fields authz.Fields) (string, []any, error) {
	d, ok := dialects[dialect]
	if !ok {
		return "", nil, &authn.InvalidError{Field: "dialect", Reason: "is none of mysql, postgresql and sqlite"}
	}
	for field, column := range columns {
		if !columnName.MatchString(column) {
			return "", nil, &authn.InvalidError{Field: "columns", Reason: fmt.Sprintf("%s: a column is named by letters, digits and _, with its table's name and a dot before it or without", field)}
		}
	}
	return filterSQL(d, c, applicationColumns(d, columns, fields))
}

func applicationColumns(d *filterDialect, columns map[string]string, fields authz.Fields) func(authz.Field) (place, bool) {
	return func(f authz.Field) (place, bool) {
		column, ok := columns[f.String()]
		quoted := d.quote + strings.ReplaceAll(column, ".", d.quote+"."+d.quote) + d.quote
		return place{column: quoted, kind: fields.Kind(f)}, ok
	}
}

// numbered writes $1, $2 and so on for ?, of which there is none in our own text.
func numbered(query string) string {
	var b strings.Builder
	n := 0
	for i := range len(query) {
		if query[i] != '?' {
			b.WriteByte(query[i])
			continue
		}
		n++
		fmt.Fprintf(&b, "$%d", n)
	}
	return b.String()
}

// Text in MySQL is compared by collations that know no case; as bytes it is not.
var mysqlFilters = &filterDialect{
	quote:  "`",
	binary: func(expr string) string { return "CAST(" + expr + " AS BINARY)" },
	search: map[authz.Op]string{
		authz.StartsWith: "LEFT(%s, LENGTH(?)) = CAST(? AS BINARY)",
		authz.EndsWith:   "RIGHT(%s, LENGTH(?)) = CAST(? AS BINARY)",
		authz.Contains:   "LOCATE(CAST(? AS BINARY), %s) > 0",
	},
}
