package store

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
)

func TestUserQueries(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		for i, u := range []authn.User{
			{ID: "z", Name: "Zoe Lee", Email: "zoe@one.test", Role: ptr("admin")},
			{ID: "b", Name: "bob", Email: "bob@two.test", Role: ptr("user"), Banned: true, BanExpires: ptr(base)},
			{ID: "a", Name: "Ann lee", Email: "ann@one.test", EmailVerified: true, Username: ptr("ann_1")},
		} {
			u.CreatedAt = base.Add(time.Duration(i) * time.Hour)
			u.UpdatedAt = u.CreatedAt
			mustCreateUser(t, db, u)
		}
		execSQL(t, db, `UPDATE "user" SET "banned" = NULL WHERE "id" = 'z'`)
		f := func(field, op string, values ...string) authn.UserQuery {
			return authn.UserQuery{Filter: &authn.UserFilter{Field: field, Operator: op, Values: values}}
		}
		second := base.Add(time.Hour).Format(time.RFC3339Nano)
		for _, c := range []struct {
			name string
			q    authn.UserQuery
			want string
		}{
			{"all, as they came", authn.UserQuery{}, "z b a 3"},
			{"search email by default", authn.UserQuery{SearchValue: "one.test"}, "z a 2"},
			{"search name, start", authn.UserQuery{SearchField: "name", SearchOperator: "starts_with", SearchValue: "Zo"}, "z 1"},
			{"search name, end", authn.UserQuery{SearchField: "name", SearchOperator: "ends_with", SearchValue: "Lee"}, "z 1"},
			{"letter case", authn.UserQuery{SearchField: "name", SearchValue: "LEE"}, "0"},
			{"wildcards stay wildcards", authn.UserQuery{SearchValue: "o%t"}, "z b a 3"},
			{"search and filter", authn.UserQuery{SearchValue: "one", Filter: &authn.UserFilter{Field: "role", Operator: "eq", Values: []string{"admin"}}}, "z 1"},
			{"operator eq by default", f("id", "", "b"), "b 1"},
			{"eq", f("role", "eq", "user"), "b 1"},
			{"ne leaves NULL out", f("role", "ne", "user"), "z 1"},
			{"text true", f("banned", "eq", "true"), "b 1"},
			{"any other text is false", f("emailVerified", "eq", "no"), "z b 2"},
			{"false is not NULL", f("banned", "eq", "false"), "a 1"},
			{"lt date", f("createdAt", "lt", second), "z 1"},
			{"lte date", f("createdAt", "lte", second), "z b 2"},
			{"gt date", f("createdAt", "gt", second), "a 1"},
			{"gte date", f("createdAt", "gte", second), "b a 2"},
			{"eq date", f("banExpires", "eq", base.Format(time.RFC3339Nano)), "b 1"},
			{"in", f("id", "in", "a", "b", "x"), "b a 2"},
			{"not in", f("id", "not_in", "a", "b"), "z 1"},
			{"contains", f("username", "contains", "nn"), "a 1"},
			{"starts", f("email", "starts_with", "b"), "b 1"},
			{"ends", f("email", "ends_with", "two.test"), "b 1"},
			{"empty value", f("role", "eq", ""), "0"},
			{"quotes", f("name", "eq", "' OR 1=1 --"), "0"},
			{"sorted", authn.UserQuery{SortBy: "email"}, "a b z 3"},
			{"sorted down", authn.UserQuery{SortBy: "createdAt", SortDescending: true}, "a b z 3"},
			{"page", authn.UserQuery{SortBy: "email", Limit: 1, Offset: 1}, "b 3"},
			{"beyond", authn.UserQuery{Offset: 50}, "3"},
		} {
			us, n, err := db.Users(ctx, c.q)
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			var got strings.Builder
			for _, u := range us {
				got.WriteString(u.ID + " ")
			}
			if got := fmt.Sprint(got.String(), n); got != c.want {
				t.Errorf("%s: got %s, want %s", c.name, got, c.want)
			}
		}
		for name, q := range map[string]authn.UserQuery{
			"unknown field":          f("password", "eq", "x"),
			"unknown operator":       f("role", "like", "x"),
			"one value in":           f("id", "in", "a"),
			"no value":               f("id", "eq"),
			"several values":         f("id", "eq", "a", "b"),
			"no date":                f("createdAt", "lt", "yesterday"),
			"date as text":           f("createdAt", "contains", "2024"),
			"unknown sort":           {SortBy: "nope"},
			"negative limit":         {Limit: -1},
			"negative offset":        {Offset: -1},
			"search in another":      {SearchField: "role", SearchValue: "x"},
			"search with comparison": {SearchOperator: "eq", SearchValue: "x"},
			"injected field":         f(`id" = 'a' OR "id`, "eq", "x"),
			"injected sort":          {SortBy: `id" DESC --`},
		} {
			_, _, err := db.Users(ctx, q)
			wantInvalid(t, name, err)
		}
	})
}

func TestUsersPageHoldsAHundredUnlessAsked(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		for i := range 101 {
			mustCreateUser(t, db, someone(fmt.Sprint("u", i)))
		}
		us, n, err := db.Users(t.Context(), authn.UserQuery{})
		must(t, err)
		if len(us) != 100 || n != 101 {
			t.Errorf("got %d of %d, want 100 of 101", len(us), n)
		}
		us, _, err = db.Users(t.Context(), authn.UserQuery{Limit: 500})
		must(t, err)
		if len(us) != 101 {
			t.Errorf("got %d, want all 101", len(us))
		}
	})
}

func TestKeyQueries(t *testing.T) {
	eachDialect(t, func(t *testing.T, db *DB) {
		ctx := t.Context()
		for i, id := range []string{"c", "a", "b"} {
			k := keyOf("u1", id)
			k.CreatedAt = base.Add(time.Duration(i) * time.Second)
			if id == "b" {
				k.ConfigID = "other"
			}
			mustCreateKey(t, db, k)
		}
		mustCreateKey(t, db, keyOf("u2", "d"))
		mustCreateKey(t, db, keyOf("", "e"))
		for _, c := range []struct {
			q    authn.KeyQuery
			want string
		}{
			{authn.KeyQuery{OwnerID: "u1", Limit: -1}, "c a b 3"},
			{authn.KeyQuery{OwnerID: "u1", Limit: 0}, "3"},
			{authn.KeyQuery{OwnerID: "u1", Limit: 2, Offset: 1}, "a b 3"},
			{authn.KeyQuery{OwnerID: "u1", Limit: -1, SortBy: "id"}, "a b c 3"},
			{authn.KeyQuery{OwnerID: "u1", Limit: -1, SortBy: "createdAt", SortDescending: true}, "b a c 3"},
			{authn.KeyQuery{OwnerID: "u1", Limit: -1, ConfigID: "other"}, "b 1"},
			{authn.KeyQuery{OwnerID: "u3", Limit: -1}, "0"},
		} {
			ks, n, err := db.Keys(ctx, c.q)
			must(t, err)
			var got strings.Builder
			for _, k := range ks {
				got.WriteString(k.ID + " ")
			}
			if got := fmt.Sprint(got.String(), n); got != c.want {
				t.Errorf("%+v: got %s, want %s", c.q, got, c.want)
			}
		}
		for _, q := range []authn.KeyQuery{{SortBy: "nope", Limit: 1}, {SortBy: "key", Limit: 1}, {Offset: -1}} {
			_, _, err := db.Keys(ctx, q)
			wantInvalid(t, fmt.Sprintf("%+v", q), err)
		}
	})
}
