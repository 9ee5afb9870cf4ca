package store

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/authn"
)

// ids says what the ids in Better Auth's tables are: one kind in all of them,
// chosen by whoever made the tables. Above the store an id is text, in the one
// spelling in which the database writes it. Tables of our own making have text.
type ids struct {
	kind   idKind
	column string // the type of the columns
}

type idKind int

const (
	idText idKind = iota
	idUUID
	idInteger // made by the database, one after the other
)

// spelling is how the database writes ids of a kind. Both databases read other
// spellings as well (" 1", "01", "{A0…}"), and some of what is none as an error.
var spelling = map[idKind]*regexp.Regexp{
	idText:    regexp.MustCompile(``),
	idUUID:    regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`),
	idInteger: regexp.MustCompile(`^(0|[1-9][0-9]{0,17})$`),
}

// can reports whether a row can have this id.
func (i ids) can(id string) bool { return spelling[i.kind].MatchString(id) }

// arg is what stands for an id from outside in a query: NULL, which equals
// none, if no row can have it.
func (i ids) arg(id string) any {
	if !i.can(id) {
		return nil
	}
	if i.kind == idInteger {
		// The text of a number that is too large for the column would be an error.
		n, _ := strconv.ParseInt(id, 10, 64)
		return n
	}
	return id
}

// args is arg of a list, without those that no row can have.
func (i ids) args(list []string) []any {
	var args []any
	for _, id := range list {
		if arg := i.arg(id); arg != nil {
			args = append(args, arg)
		}
	}
	return args
}

// text is an expression for an id as text.
func (i ids) text(expr string) string {
	if i.kind == idText {
		return expr
	}
	return "CAST(" + expr + " AS text)"
}

// arg is [ids.arg] once the database is migrated; before that nothing is found.
func (db *DB) arg(id string) any {
	s := db.schema.Load()
	if s == nil {
		return nil
	}
	return s.ids.arg(id)
}

// tables are those of which somebody else has to know an id before there is
// the row.
var tables = map[string]string{"user": "user", "session": "session", "key": "apikey"}

// NewID implements [authn.Store].
func (db *DB) NewID(ctx context.Context, kind string) (string, error) {
	id, err := db.newRowID(ctx, db.writer, tables[kind])
	return id, db.fail("make an id", err)
}

func (db *DB) newRowID(ctx context.Context, conn bun.IDB, table string) (string, error) {
	s, err := db.found()
	if err != nil {
		return "", err
	}
	switch s.ids.kind {
	case idUUID:
		return uuid.NewString(), nil
	case idInteger:
		return db.dialect.next(ctx, conn, table)
	}
	return newID(), nil
}

// idColumns are all columns with ids of the one kind.
var idColumns = []struct{ table, name string }{
	{"user", "id"}, {"session", "id"}, {"session", "userId"}, {"account", "id"}, {"account", "userId"},
	{"verification", "id"}, {"apikey", "id"}, {"apikey", "userId"},
}

// ids finds out what the ids in the database are.
func (d dialect) ids(ctx context.Context, conn bun.IDB) (ids, error) {
	found := ids{column: "text"}
	refuse := func(format string, a ...any) (ids, error) {
		return ids{}, &authn.InvalidError{Field: "database", Reason: fmt.Sprintf(format, a...)}
	}
	var first string
	for _, c := range idColumns {
		columns, err := d.columns(ctx, conn, c.table)
		if err != nil {
			return ids{}, err
		}
		if !has(columns, c.name) {
			continue
		}
		declared := columnType(columns, c.name)
		kind, known := d.idKinds[declared]
		switch {
		case isText(declared):
			kind = idText
		case !known:
			return refuse("column %s of table %s has ids of type %s; there is support for %s", c.name, c.table, declared, d.idTypes())
		}
		switch {
		case first == "":
			first = fmt.Sprintf("column %s of table %s", c.name, c.table)
			found.kind = kind
			if kind != idText {
				found.column = strings.ToLower(declared)
			}
		case kind != found.kind:
			return refuse("column %s of table %s has ids of type %s, %s of another", c.name, c.table, declared, first)
		case declared == "BIGINT":
			found.column = "bigint" // the wider of them
		}
		if kind == idInteger && c.name == "id" && d.makes != nil {
			if made, err := d.makes(ctx, conn, c.table); err != nil {
				return ids{}, err
			} else if !made {
				return refuse("table %s has ids of type %s without a sequence that is its own and may be gone ahead of", c.table, declared)
			}
		}
	}
	keys, err := d.columns(ctx, conn, "apikey")
	if err != nil {
		return ids{}, err
	}
	if has(keys, "referenceId") && !isText(columnType(keys, "referenceId")) {
		return refuse("column referenceId of table apikey is of type %s, not text", columnType(keys, "referenceId"))
	}
	return found, nil
}

func isText(declared string) bool {
	return strings.Contains(declared, "TEXT") || strings.Contains(declared, "CHAR")
}

func (d dialect) idTypes() string {
	types := []string{"text"}
	for t := range d.idKinds {
		types = append(types, strings.ToLower(t))
	}
	slices.Sort(types)
	return strings.Join(types, ", ")
}
