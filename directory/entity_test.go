package directory_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
)

// What is stored fills what a question leaves out, one property by one, and only
// what is stored is known.
func TestStoredPropertiesFillWhatIsLeftOut(t *testing.T) {
	each(t, nil, func(t *testing.T, h *house) {
		h.put(map[string]map[string]any{"document/d1": {"owner": "ann", "tags": []any{"x"}, "n": json.Number("1")}, "document/empty": nil})
		for _, tt := range []struct {
			typ, id    string
			said       map[string]any
			properties map[string]any
			known      any
		}{
			{"document", "d1", nil, map[string]any{"owner": "ann", "tags": []any{"x"}, "n": 1}, true},
			{"document", "d1", map[string]any{"owner": "bob", "more": nil}, map[string]any{"owner": "bob", "tags": []any{"x"}, "n": 1, "more": nil}, true},
			{"document", "empty", map[string]any{"a": 1}, map[string]any{"a": 1}, true},
			{"document", "D1", map[string]any{"a": 1}, map[string]any{"a": 1}, nil},
			{"Document", "d1", nil, map[string]any{}, nil},
			{"document", "", map[string]any{"a": 1}, map[string]any{"a": 1}, nil},
			{"document", "", nil, map[string]any{}, nil},
		} {
			r := h.resource(tt.typ, tt.id, tt.said)
			same(t, tt.typ+"/"+tt.id, r["properties"], tt.properties)
			same(t, tt.typ+"/"+tt.id+" known", r["known"], tt.known)
		}
		if e := must(h.Entity(t.Context(), h.key, "document", "d1"))(t); e.Properties["owner"] != "ann" || len(e.Properties) != 3 {
			t.Errorf("what is stored was changed: %v", e.Properties)
		}
	})
}

// Of what is Ostiary's own the tables tell; an entity adds nothing.
func TestOstiarysOwnAreDescribedByItsTables(t *testing.T) {
	each(t, nil, func(t *testing.T, h *house) {
		u := h.user()
		h.put(map[string]map[string]any{"user/" + u.ID: {"admin": true, "vip": true}, "user/alice": {"role": "admin", "owner": "eve"}})
		r := h.resource("user", u.ID, map[string]any{"owner": "me", "note": "x"})
		properties := r["properties"].(map[string]any)
		if r["known"] != true || properties["owner"] != u.ID || properties["admin"] != false || properties["note"] != "x" || properties["vip"] != nil {
			t.Errorf("a user: %v", r)
		}
		r = h.resource("user", "alice", map[string]any{"owner": "me", "note": "x"})
		same(t, "an entity", r["properties"], map[string]any{"role": "admin", "owner": "eve", "note": "x"})
		same(t, "an entity", r["known"], true)
		r = h.resource("user", "nobody", map[string]any{"owner": "me", "note": "x"})
		same(t, "nobody", r["properties"], map[string]any{"note": "x"})
		same(t, "nobody", r["known"], nil)
	})
}

// Only those of its own types that it shares can be described by others.
func TestThereAreNoEntitiesOfOstiarysOwnTypes(t *testing.T) {
	h := open(t, "sqlite::memory:", nil)
	for typ := range must(h.engine.Permissions(t.Context(), h.caller(authz.Permissions{"*": {"*"}}, "admin").Subject()))(t) {
		_, _, err := h.Put(t.Context(), system, directory.Entity{Type: typ, ID: "x"})
		if typ == "user" {
			must(true, err)(t)
			continue
		}
		refused(t, err, "type")
	}
	for _, typ := range []string{"anonymous", "service_account"} {
		_, _, err := h.Put(t.Context(), system, directory.Entity{Type: typ, ID: "x"})
		refused(t, err, "type")
	}
}

func TestLimitsOfEntities(t *testing.T) {
	each(t, nil, func(t *testing.T, h *house) {
		deep := func(n int) map[string]any {
			v := map[string]any{}
			for range n - 1 {
				v = map[string]any{"a": v}
			}
			return v
		}
		text := func(n int) map[string]any { return map[string]any{"a": strings.Repeat("x", n-len(`{"a":""}`))} }
		for _, tt := range []struct {
			name  string
			e     directory.Entity
			field string // that is refused; empty: none
		}{
			{"longest type", directory.Entity{Type: strings.Repeat("ü", directory.MaxType), ID: "x"}, ""},
			{"longer type", directory.Entity{Type: strings.Repeat("ü", directory.MaxType+1), ID: "x"}, "type"},
			{"no type", directory.Entity{ID: "x"}, "type"},
			{"a slash in the type", directory.Entity{Type: "a/b", ID: "x"}, "type"},
			{"any type", directory.Entity{Type: "*", ID: "x"}, "type"},
			{"dots", directory.Entity{Type: "..", ID: "x"}, "type"},
			{"a control character in the type", directory.Entity{Type: "a\n", ID: "x"}, "type"},
			{"a type that is not UTF-8", directory.Entity{Type: "a\xff", ID: "x"}, "type"},
			{"a URN for a type", directory.Entity{Type: "urn:example:doc v1?", ID: "x"}, ""},
			{"longest id", directory.Entity{Type: "t", ID: strings.Repeat("ü", directory.MaxID)}, ""},
			{"longer id", directory.Entity{Type: "t", ID: strings.Repeat("ü", directory.MaxID+1)}, "id"},
			{"no id", directory.Entity{Type: "t"}, "id"},
			{"a control character in the id", directory.Entity{Type: "t", ID: "a\x00"}, "id"},
			{"an id that is not UTF-8", directory.Entity{Type: "t", ID: "\xff"}, "id"},
			{"any other id", directory.Entity{Type: "t", ID: ` a/b\c'"?%;..//`}, ""},
			{"deepest", directory.Entity{Type: "t", ID: "x", Properties: deep(directory.MaxDepth)}, ""},
			{"deeper", directory.Entity{Type: "t", ID: "x", Properties: deep(directory.MaxDepth + 1)}, "properties"},
			{"lists count", directory.Entity{Type: "t", ID: "x", Properties: map[string]any{"a": []any{deep(directory.MaxDepth - 1)}}}, "properties"},
			{"largest", directory.Entity{Type: "t", ID: "x", Properties: text(directory.MaxProperties)}, ""},
			{"larger", directory.Entity{Type: "t", ID: "x", Properties: text(directory.MaxProperties + 1)}, "properties"},
			{"U+0000", directory.Entity{Type: "t", ID: "x", Properties: map[string]any{"a": "\x00"}}, "properties"},
			{"U+0000 in a name", directory.Entity{Type: "t", ID: "x", Properties: map[string]any{"\x00": 1}}, "properties"},
			{"not UTF-8", directory.Entity{Type: "t", ID: "x", Properties: map[string]any{"a": []any{"\xff"}}}, "properties"},
			{"the largest number", directory.Entity{Type: "t", ID: "x", Properties: map[string]any{"a": json.Number("1.7e308")}}, ""},
			{"a larger one", directory.Entity{Type: "t", ID: "x", Properties: map[string]any{"a": json.Number("1e309")}}, "properties"},
			{"a smaller one", directory.Entity{Type: "t", ID: "x", Properties: map[string]any{"a": json.Number("0.1e-400")}}, "properties"},
			{"nothing at all", directory.Entity{Type: "t", ID: "x", Properties: map[string]any{"a": json.Number("0e-400")}}, ""},
			{"no number", directory.Entity{Type: "t", ID: "x", Properties: map[string]any{"a": json.Number("NaN")}}, "properties"},
			{"what is not JSON", directory.Entity{Type: "t", ID: "x", Properties: map[string]any{"a": func() {}}}, "properties"},
		} {
			_, _, err := h.Put(t.Context(), system, tt.e)
			switch {
			case tt.field != "":
				t.Run(tt.name, func(t *testing.T) { refused(t, err, tt.field) })
			case err != nil:
				t.Errorf("%s: %v", tt.name, err)
			default:
				got := must(h.Entity(t.Context(), system, tt.e.Type, tt.e.ID))(t)
				if got.Type != tt.e.Type || got.ID != tt.e.ID {
					t.Errorf("%s: got %s/%s", tt.name, got.Type, got.ID)
				}
			}
		}
	})
}

// All of an import is stored, with one event, or nothing is.
func TestAnImportIsStoredWholeOrNotAtAll(t *testing.T) {
	each(t, nil, func(t *testing.T, h *house) {
		ctx := t.Context()
		h.put(map[string]map[string]any{"document/d0": {"old": true}})
		var es []directory.Entity
		for i := range 450 { // more than one statement takes
			es = append(es, directory.Entity{Type: []string{"document", "folder"}[i%2], ID: fmt.Sprint("d", i), Properties: map[string]any{"n": i}})
		}
		broken := append(append([]directory.Entity{}, es...), directory.Entity{Type: "document", ID: "last", Properties: map[string]any{"a": "\x00"}})
		_, err := h.Import(ctx, h.key, broken)
		refused(t, err, "entities/450/properties")
		_, err = h.Import(ctx, h.key, append(append([]directory.Entity{}, es...), es[7]))
		refused(t, err, "entities/450/id")
		if got := must(h.Types(ctx, h.key))(t); fmt.Sprint(got) != "[document]" {
			t.Errorf("something was stored: %v", got)
		}

		h.records.requests = nil
		if n := must(h.Import(ctx, h.key, es))(t); n != 449 {
			t.Errorf("created: got %d", n)
		}
		ev := h.event("entity.import")
		same(t, "details", ev.Details, map[string]any{"count": json.Number("450"), "types": []any{"document", "folder"}})
		if ev.DecisionID == "" || ev.Actor.KeyID == "" {
			t.Errorf("event: %+v", ev)
		}
		if n := len(h.records.requests); n != 2 {
			t.Errorf("%d records of an import of two types", n)
		}
		var all []directory.Entity
		for after := ""; ; {
			page, next, err := h.List(ctx, h.key, directory.EntityQuery{Type: "document", After: after, Limit: 100})
			if err != nil {
				t.Fatal(err)
			}
			if all = append(all, page...); next == "" {
				break
			}
			after = next
		}
		if len(all) != 225 || all[1].ID != "d10" || fmt.Sprint(all[0].Properties) != "map[n:0]" {
			t.Errorf("got %d: %v", len(all), all[:2])
		}

		if _, err := h.Import(ctx, h.key, make([]directory.Entity, directory.MaxImport+1)); err == nil {
			t.Error("there is no limit")
		} else {
			refused(t, err, "entities")
		}
		_, err = h.Import(ctx, system, make([]directory.Entity, directory.MaxImport+1))
		refused(t, err, "entities/0/type") // the program itself has none
		if n := must(h.Import(ctx, h.key, nil))(t); n != 0 {
			t.Errorf("nothing: got %d", n)
		}
	})
}

// Who may read and write is policy, down to single entities, whichever way
// they are reached.
func TestEntitiesAreForThoseWhomThePolicyPermits(t *testing.T) {
	h := open(t, "sqlite::memory:", files{"entity.rego": `package app.entity

deny contains "secret" if startswith(input.resource.properties.id, "secret")

deny contains "no vaults" if input.resource.properties.type == "vault"
`})
	ctx := t.Context()
	h.put(map[string]map[string]any{"document/a": nil, "document/secret": nil, "document/z": nil, "vault/v": nil})
	for _, c := range []struct {
		limit     int
		ids, next string
	}{{1, "a", "a"}, {2, "a z", ""}} {
		page, next, err := h.List(ctx, h.key, directory.EntityQuery{Type: "document", Limit: c.limit})
		var ids []string
		for _, e := range page {
			ids = append(ids, e.ID)
		}
		if err != nil || strings.Join(ids, " ") != c.ids || next != c.next {
			t.Errorf("list of %d: got %v, %q, %v", c.limit, ids, next, err)
		}
	}
	same(t, "types", must(h.Types(ctx, h.key))(t), []string{"document"})
	_, _, err := h.List(ctx, h.key, directory.EntityQuery{Type: "vault", Limit: 2})
	denied(t, err, "denied")
	for what, err := range map[string]error{
		"read":   second(h.Entity(ctx, h.key, "document", "secret")),
		"write":  third(h.Put(ctx, h.key, directory.Entity{Type: "document", ID: "secret2"})),
		"delete": h.Delete(ctx, h.key, "document", "secret"),
		"import": second(h.Import(ctx, h.key, []directory.Entity{{Type: "document", ID: "b"}, {Type: "document", ID: "secret3"}})),
		// Permission is asked before anything is said about what exists, or is wrong.
		"unknown": h.Delete(ctx, h.key, "document", "secret9"),
		"invalid": third(h.Put(ctx, h.key, directory.Entity{Type: "vault", ID: "\x00"})),
	} {
		t.Run(what, func(t *testing.T) { denied(t, err, "denied") })
	}
	if _, err := h.Entity(ctx, h.key, "document", "b"); !errors.Is(err, authn.ErrNotFound) {
		t.Errorf("part of the import was stored: %v", err)
	}
	reader := h.caller(authz.Permissions{"entity": {"read"}}, "admin")
	must(h.Entity(ctx, reader, "document", "a"))(t)
	denied(t, h.Delete(ctx, reader, "document", "a"), "grant_missing")
	if err := h.Delete(ctx, authn.Principal{}, "document", "a"); !errors.Is(err, authn.ErrUnauthenticated) {
		t.Errorf("nobody: %v", err)
	}
}

func TestChangesOfEntitiesAreOnRecord(t *testing.T) {
	h := open(t, "sqlite::memory:", nil)
	if _, created, err := h.Put(t.Context(), h.key, directory.Entity{Type: "document", ID: "a/b"}); err != nil || !created {
		t.Fatal(created, err)
	}
	if _, created, err := h.Put(t.Context(), h.key, directory.Entity{Type: "document", ID: "a/b"}); err != nil || created {
		t.Fatal(created, err)
	}
	if err := h.Delete(t.Context(), h.key, "document", "a/b"); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"entity.put", "entity.delete"} {
		ev := h.event(kind)
		if ev.TargetType != "entity" || ev.TargetID != "document/a/b" || ev.DecisionID == "" || ev.Actor.KeyID != h.key.Key().ID {
			t.Errorf("%s: %+v", kind, ev)
		}
	}
	if err := h.Delete(t.Context(), h.key, "document", "a/b"); !errors.Is(err, authn.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }
