package store

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// defaultLimit is the length of a page of users or keys when none is asked for.
const defaultLimit = 100

// kind is how the values of a column are read from text.
type kind int

const (
	kindText kind = iota
	kindBool
	kindTime
	kindNumber
	kindID // by the schema's ids
)

func invalid(field, reason string) error {
	return rejected{&authn.InvalidError{Field: field, Reason: reason}}
}

// userKind returns the kind of a column of users, by which they may be
// filtered and sorted.
func (s *schema) userKind(name string) (kind, bool) {
	switch name {
	case "emailVerified", "banned":
		return kindBool, true
	case "createdAt", "updatedAt", "banExpires":
		return kindTime, true
	case "id":
		return kindID, true
	case "name", "email", "image", "username", "displayUsername", "role", "banReason":
		return kindText, true
	}
	t := columnType(s.attributes, name)
	switch {
	case t == "":
		return 0, has(s.attributes, name)
	case strings.HasPrefix(t, "BOOL"):
		return kindBool, true
	case strings.HasPrefix(t, "DATE"), strings.HasPrefix(t, "TIMESTAMP"):
		return kindTime, true
	case numeric.MatchString(t):
		return kindNumber, true
	}
	return kindText, true
}

var numeric = regexp.MustCompile(`^(INT|INT[248]|INTEGER|(SMALL|BIG|TINY|MEDIUM)INT|REAL|FLOAT|DOUBLE|NUMERIC|DECIMAL)\b`)

// value reads text as a value of the column.
func (k kind) value(field, text string) (any, error) {
	switch k {
	case kindBool:
		return text == "true", nil
	case kindTime:
		var i instant
		if i.parse(text) != nil {
			return nil, invalid(field, "is compared with a date")
		}
		return i, nil
	case kindNumber:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n, nil
		}
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || f-f != 0 {
			return nil, invalid(field, "is compared with a number")
		}
		return f, nil
	}
	return text, nil
}

// pattern is the LIKE pattern of an operator. Wildcards in the text remain
// wildcards, as Better Auth leaves them.
func pattern(operator, text string) (string, bool) {
	switch operator {
	case "contains":
		return "%" + text + "%", true
	case "starts_with":
		return text + "%", true
	case "ends_with":
		return "%" + text, true
	}
	return "", false
}

var comparisons = map[string]string{"eq": "=", "ne": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}

func (s *schema) filterUsers(q *bun.SelectQuery, f authn.UserFilter) (*bun.SelectQuery, error) {
	k, ok := s.userKind(f.Field)
	if !ok {
		return nil, invalid(f.Field, "is no field of a user")
	}
	column := bun.Ident("u." + f.Field)
	values := make([]any, len(f.Values))
	if k == kindID {
		values = s.ids.args(f.Values)
	} else {
		for i, text := range f.Values {
			var err error
			if values[i], err = k.value(f.Field, text); err != nil {
				return nil, err
			}
		}
	}
	switch f.Operator {
	// One value is no list on the wire, and refused there.
	case "in":
		switch {
		case len(f.Values) < 2:
			return nil, invalid(f.Field, "needs several values with the operator in")
		case len(values) == 0:
			return q.Where("FALSE"), nil
		}
		return q.Where("? IN (?)", column, bun.List(values)), nil
	case "not_in":
		switch {
		case len(f.Values) == 0:
			return nil, invalid(f.Field, "needs values with the operator not_in")
		case len(values) == 0:
			return q, nil
		}
		return q.Where("? NOT IN (?)", column, bun.List(values)), nil
	}
	if len(f.Values) != 1 {
		return nil, invalid(f.Field, "is compared with one value")
	}
	operator := f.Operator
	if operator == "" {
		operator = "eq"
	}
	if op, ok := comparisons[operator]; ok {
		switch {
		case len(values) == 1:
			return q.Where("? "+op+" ?", column, values[0]), nil
		case operator == "ne":
			return q, nil
		}
		return q.Where("FALSE"), nil
	}
	p, ok := pattern(operator, f.Values[0])
	if !ok {
		return nil, invalid("operator", "is unknown")
	}
	switch k {
	case kindText:
	case kindID:
		return q.Where("? LIKE ?", bun.Safe(s.ids.text(`u."id"`)), p), nil
	default:
		return nil, invalid(f.Field, "is no text")
	}
	return q.Where("? LIKE ?", column, p), nil
}

// Users implements [authn.UserStore]. Unknown fields and values that don't
// suit them are *[authn.InvalidError].
func (db *DB) Users(ctx context.Context, q authn.UserQuery) ([]authn.User, int, error) {
	us, n, err := db.users(ctx, q)
	if err != nil {
		return nil, 0, db.fail("list users", err)
	}
	return us, n, nil
}

func (db *DB) users(ctx context.Context, q authn.UserQuery) ([]authn.User, int, error) {
	s, err := db.found()
	if err != nil {
		return nil, 0, err
	}
	limit := q.Limit
	switch {
	case limit < 0:
		return nil, 0, invalid("limit", "is negative")
	case q.Offset < 0:
		return nil, 0, invalid("offset", "is negative")
	case limit == 0:
		limit = defaultLimit
	}
	if !storableText(q.SearchValue) || q.Filter != nil && slices.ContainsFunc(q.Filter.Values, func(v string) bool { return !storableText(v) }) {
		return nil, 0, invalid("value", "has a character that no text here can have")
	}
	var rows []userRow
	sel := db.selectUsers(db.reader, s, &rows)
	if q.SearchValue != "" {
		field := q.SearchField
		switch field {
		case "":
			field = "email"
		case "email", "name":
		default:
			return nil, 0, invalid("searchField", "must be email or name")
		}
		operator := q.SearchOperator
		if operator == "" {
			operator = "contains"
		}
		p, ok := pattern(operator, q.SearchValue)
		if !ok {
			return nil, 0, invalid("searchOperator", "is unknown")
		}
		sel = sel.Where("? LIKE ?", bun.Ident("u."+field), p)
	}
	if q.Filter != nil {
		if sel, err = s.filterUsers(sel, *q.Filter); err != nil {
			return nil, 0, err
		}
	}
	if sel, err = db.where(sel, q.Where, s.userPlace); err != nil {
		return nil, 0, err
	}
	if q.SortBy != "" {
		if _, ok := s.userKind(q.SortBy); !ok {
			return nil, 0, invalid("sortBy", "is no field of a user")
		}
	}
	n, err := sel.Count(ctx)
	if err != nil {
		return nil, 0, err
	}
	sel = db.order(sel, "u", q.SortBy, q.SortDescending)
	if err := sel.Limit(int64(limit)).Offset(int64(q.Offset)).Scan(ctx); err != nil {
		return nil, 0, err
	}
	us := make([]authn.User, len(rows))
	for i := range rows {
		if us[i], err = rows[i].user(s); err != nil {
			return nil, 0, err
		}
	}
	return us, int(n), nil
}

// order sorts by a column, then as the rows came, so that pages fit together.
func (db *DB) order(q *bun.SelectQuery, alias, column string, descending bool) *bun.SelectQuery {
	direction := "ASC"
	if descending {
		direction = "DESC"
	}
	if column != "" {
		q = q.OrderExpr("? ?", bun.Ident(alias+"."+column), bun.Safe(direction))
	}
	return q.OrderExpr(db.dialect.oldestFirst(alias))
}

// keyFields are the members of a key on the wire. The digest is none.
var keyFields = []string{
	"id", "configId", "name", "start", "referenceId", "prefix", "refillInterval", "refillAmount", "lastRefillAt",
	"enabled", "rateLimitEnabled", "rateLimitTimeWindow", "rateLimitMax", "requestCount", "remaining",
	"lastRequest", "expiresAt", "createdAt", "updatedAt", "permissions", "metadata",
}

// Keys implements [authn.KeyStore]. No owner has no keys; limit 0 is an empty
// page, a negative one 100.
func (db *DB) Keys(ctx context.Context, q authn.KeyQuery) ([]authn.APIKey, int, error) {
	ks, n, err := db.keys(ctx, q)
	if err != nil {
		return nil, 0, db.fail("list keys", err)
	}
	return ks, n, nil
}

func (db *DB) keys(ctx context.Context, q authn.KeyQuery) ([]authn.APIKey, int, error) {
	s, err := db.found()
	if err != nil {
		return nil, 0, err
	}
	limit := q.Limit
	if limit < 0 {
		limit = defaultLimit
	}
	if q.Offset < 0 {
		return nil, 0, invalid("offset", "is negative")
	}
	if q.SortBy != "" && !slices.Contains(keyFields, q.SortBy) {
		return nil, 0, invalid("sortBy", "is no field of a key")
	}
	if !storableText(q.OwnerID) || !storableText(q.ConfigID) {
		return []authn.APIKey{}, 0, nil
	}
	var rows []keyRow
	sel := db.selectKeys(db.reader, s, &rows).Where("? = ?", bun.Safe(s.owner()), q.OwnerID)
	if q.ConfigID != "" {
		sel = sel.Where(`k."configId" = ?`, q.ConfigID)
	}
	if sel, err = db.where(sel, q.Where, s.keyPlace); err != nil {
		return nil, 0, err
	}
	n, err := sel.Count(ctx)
	if err != nil || limit == 0 {
		return []authn.APIKey{}, int(n), err
	}
	sel = db.order(sel, "k", q.SortBy, q.SortDescending)
	if err := sel.Limit(int64(limit)).Offset(int64(q.Offset)).Scan(ctx); err != nil {
		return nil, 0, err
	}
	ks := make([]authn.APIKey, len(rows))
	for i := range rows {
		ks[i] = rows[i].key()
	}
	return ks, int(n), nil
}

// where adds a condition; nil is none.
func (db *DB) where(q *bun.SelectQuery, c *authz.Condition, find func(authz.Field) (place, bool)) (*bun.SelectQuery, error) {
	if c == nil {
		return q, nil
	}
	text, args, err := filterSQL(db.dialect.filters, *c, find)
	return q.Where(text, args...), err
}

// userPlace is where [authn.UserFields] are.
func (s *schema) userPlace(f authz.Field) (place, bool) {
	column, ok := map[string]string{
		"id": s.ids.text(`u."id"`), "properties.owner": s.ids.text(`u."id"`), "properties.email": `u."email"`,
		"properties.role": `u."role"`, "properties.username": `u."username"`, "properties.serviceAccount": `coalesce(ou."serviceAccount", FALSE)`,
	}[f.String()]
	return place{column: column, kind: authn.UserFields.Kind(f)}, ok
}

// keyPlace is where [authn.KeyFields] are.
func (s *schema) keyPlace(f authz.Field) (place, bool) {
	column, ok := map[string]string{"id": s.ids.text(`k."id"`), "properties.name": `k."name"`}[f.String()]
	return place{column: column, kind: authn.KeyFields.Kind(f)}, ok
}

// storableText reports whether a database can have s: no text there has a NUL.
func storableText(s string) bool { return !strings.Contains(s, "\x00") }
