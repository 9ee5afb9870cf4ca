package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/authz"
)

// The table ostiary_entity_text is an index of entities: it has a row for each
// property that is a text and, marked as element, for each text in a property that
// is a list or an object. Triggers keep it, whoever writes. Its key is in the
// order in which a search lists ids, so that the first page of what has some owner
// is found without a look at the others.
var entityText = table{name: "ostiary_entity_text", columns: []columnDef{
	{name: "type", def: "text COLLATE {bytewise} NOT NULL"},
	{name: "name", def: "text COLLATE {bytewise} NOT NULL"},
	{name: "element", def: "{bool} NOT NULL"},
	{name: "value", def: "text COLLATE {bytewise} NOT NULL"},
	{name: "id", def: "text COLLATE {bytewise} NOT NULL"},
}, key: []string{"type", "name", "element", "value", "id"},
	indexes: []index{{name: "ostiary_entity_text_id_idx", on: `"type", "id"`}}}

// maxIndexed is the length in bytes of the names and values that are in the index:
// keys of indexes must not be too long.
const maxIndexed = 200

func sqliteEntityTexts(ctx context.Context, tx bun.IDB) error {
	remove := `DELETE FROM ostiary_entity_text WHERE "type" = OLD."type" AND "id" = OLD."id";`
	add := fmt.Sprintf(`INSERT OR IGNORE INTO ostiary_entity_text ("type", "name", "element", "value", "id")
	SELECT NEW."type", p.key, FALSE, p.value, NEW."id" FROM json_each(NEW."properties") AS p
	WHERE p.type = 'text' AND length(CAST(p.key AS blob)) <= %[1]d AND length(CAST(p.value AS blob)) <= %[1]d
	UNION SELECT NEW."type", p.key, TRUE, e.value, NEW."id"
	FROM json_each(NEW."properties") AS p, json_each(CASE WHEN p.type IN ('array', 'object') THEN p.value ELSE '[]' END) AS e
	WHERE e.type = 'text' AND length(CAST(p.key AS blob)) <= %[1]d AND length(CAST(e.value AS blob)) <= %[1]d;`, maxIndexed)
	for name, trigger := range map[string]string{
		"insert": "AFTER INSERT ON ostiary_entity BEGIN " + add,
		"update": "AFTER UPDATE ON ostiary_entity BEGIN " + remove + add,
		"delete": "AFTER DELETE ON ostiary_entity BEGIN " + remove,
	} {
		if _, err := tx.NewRaw("CREATE TRIGGER ostiary_entity_text_" + name + " " + trigger + " END").Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// It runs as its owner, like ostiary_note.
const postgresEntityText = `CREATE FUNCTION %[1]s.ostiary_entity_text() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $index$
BEGIN
	IF TG_OP <> 'INSERT' THEN
		DELETE FROM %[1]s.ostiary_entity_text WHERE "type" = OLD."type" AND "id" = OLD."id";
	END IF;
	IF TG_OP <> 'DELETE' THEN
		INSERT INTO %[1]s.ostiary_entity_text ("type", "name", "element", "value", "id")
		SELECT NEW."type", p.key, false, p.value #>> '{}', NEW."id" FROM jsonb_each(NEW."properties") AS p
		WHERE jsonb_typeof(p.value) = 'string' AND octet_length(p.key) <= %[2]d AND octet_length(p.value #>> '{}') <= %[2]d
		UNION SELECT NEW."type", p.key, true, e.value #>> '{}', NEW."id" FROM jsonb_each(NEW."properties") AS p,
			jsonb_array_elements(CASE WHEN jsonb_typeof(p.value) = 'array' THEN p.value ELSE '[]' END) AS e(value)
		WHERE jsonb_typeof(e.value) = 'string' AND octet_length(p.key) <= %[2]d AND octet_length(e.value #>> '{}') <= %[2]d
		UNION SELECT NEW."type", p.key, true, e.value #>> '{}', NEW."id" FROM jsonb_each(NEW."properties") AS p,
			jsonb_each(CASE WHEN jsonb_typeof(p.value) = 'object' THEN p.value ELSE '{}' END) AS e
		WHERE jsonb_typeof(e.value) = 'string' AND octet_length(p.key) <= %[2]d AND octet_length(e.value #>> '{}') <= %[2]d;
	END IF;
	RETURN NULL;
END $index$`

func postgresEntityTexts(ctx context.Context, tx bun.IDB) error {
	var schema string
	if err := tx.NewSelect().ColumnExpr("quote_ident(current_schema())").Scan(ctx, &schema); err != nil {
		return err
	}
	for _, statement := range []string{
		fmt.Sprintf(postgresEntityText, schema, maxIndexed),
		"CREATE TRIGGER ostiary_entity_text AFTER INSERT OR UPDATE OR DELETE ON ostiary_entity FOR EACH ROW EXECUTE FUNCTION " + schema + ".ostiary_entity_text()",
	} {
		if _, err := tx.NewRaw(statement).Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// maxBranches is how many alternatives of a condition are looked up one by one.
const maxBranches = 10

// indexed returns the alternatives of c, each with a part of it that the index
// answers; none if one has no such part.
func indexed(c authz.Condition) (branches, keys []authz.Condition) {
	if branches = []authz.Condition{c}; c.Op == authz.Or {
		branches = c.Of
	}
	if len(branches) > maxBranches {
		return nil, nil
	}
	for _, b := range branches {
		parts := []authz.Condition{b}
		if b.Op == authz.And {
			parts = b.Of
		}
		i := slices.IndexFunc(parts, inIndex)
		if i < 0 {
			return nil, nil
		}
		keys = append(keys, parts[i])
	}
	return branches, keys
}

func inIndex(c authz.Condition) bool {
	value, text := c.Value.(string)
	return (c.Op == authz.Eq || c.Op == authz.Has) && c.Other == nil && text && len(value) <= maxIndexed &&
		len(c.Field) == 2 && c.Field[0] == "properties" && len(c.Field[1]) <= maxIndexed
}

// matchingIDs is a query for the ids of the first entities of a type behind after
// for which c holds.
func (db *DB) matchingIDs(typ, after string, c authz.Condition, limit int) (string, []any, error) {
	branches, keys := indexed(c)
	if branches == nil {
		text, args, err := filterSQL(db.dialect.filters, c, entityPlace)
		return `SELECT en."id" FROM ostiary_entity AS en WHERE en."type" = ? AND en."id" > ? AND ` + text + ` ORDER BY en."id" LIMIT ?`,
			slices.Concat([]any{typ, after}, args, []any{limit}), err
	}
	var alternatives []string
	var args []any
	for i, b := range branches {
		text, of, err := filterSQL(db.dialect.filters, b, entityPlace)
		if err != nil {
			return "", nil, err
		}
		alternatives = append(alternatives, fmt.Sprintf(`SELECT "id" FROM (SELECT t."id" FROM ostiary_entity_text AS t
	JOIN ostiary_entity AS en ON en."type" = t."type" AND en."id" = t."id"
	WHERE t."type" = ? AND t."name" = ? AND t."element" = ? AND t."value" = ? AND t."id" > ? AND %s ORDER BY t."id" LIMIT ?) AS b%d`, text, i))
		args = slices.Concat(args, []any{typ, keys[i].Field[1], keys[i].Op == authz.Has, keys[i].Value, after}, of, []any{limit})
	}
	return strings.Join(alternatives, " UNION ") + ` ORDER BY 1 LIMIT ?`, append(args, limit), nil
}
