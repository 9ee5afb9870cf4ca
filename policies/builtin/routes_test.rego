package ostiary_test

import data.ostiary

# A route, mapped to a permission, to "public", or to nothing.
route(permission) := {"type": "route", "id": "/documents/1", "properties": {"path": "/documents/1", "permission": permission}}

unmapped := {"type": "route", "id": "/elsewhere", "properties": {"path": "/elsewhere"}}

reader := with_roles(bob, ["reader"])

getter := with_roles(bob, ["getter"])

test_routes[note] if {
	some note, c in routes
	d := ostiary.decision with input as ask(c.principal, "GET", c.resource)
		with data.permits.holders as holders({"reader": {"document": {"read": true}}, "getter": {"route": {"GET": true}}})
	print(d)
	d.allow == c.allow
	codes(d.reasons) == c.codes
}

routes := {
	"a role holds the permission": {"principal": reader, "resource": route("document:read"), "allow": true, "codes": ["role"]},
	"a role holds another": {"principal": reader, "resource": route("document:write"), "allow": false, "codes": ["role_missing"]},
	"a role holds the route's own": {"principal": getter, "resource": route("document:write"), "allow": true, "codes": ["role"]},
	"nobody, and a permission": {"principal": nobody, "resource": route("document:read"), "allow": false, "codes": ["unauthenticated"]},
	"nobody, and a public route": {"principal": nobody, "resource": route("public"), "allow": true, "codes": ["public"]},
	"somebody, and a public route": {"principal": bob, "resource": route("public"), "allow": true, "codes": ["public"]},
	"somebody banned, and a public route": {"principal": banned(bob), "resource": route("public"), "allow": false, "codes": ["owner_banned"]},
	"malformed, and a public route": {"principal": {"type": "user"}, "resource": route("public"), "allow": false, "codes": ["unauthenticated"]},
	"public is no other type's": {
		"principal": nobody, "resource": {"type": "document", "properties": {"permission": "public"}},
		"allow": false, "codes": ["unauthenticated"],
	},
	"a permission is no other type's": {
		"principal": reader, "resource": {"type": "page", "properties": {"permission": "document:read"}},
		"allow": false, "codes": ["role_missing"],
	},
	"nothing is mapped": {"principal": reader, "resource": unmapped, "allow": false, "codes": ["role_missing"]},
	"no permission": {"principal": reader, "resource": route("document"), "allow": false, "codes": ["role_missing"]},
	"no type": {"principal": reader, "resource": route(":read"), "allow": false, "codes": ["role_missing"]},
	"no action": {"principal": reader, "resource": route("document:"), "allow": false, "codes": ["role_missing"]},
	"no text": {"principal": reader, "resource": route(7), "allow": false, "codes": ["role_missing"]},
	"a key with the permission": {"principal": by_key(reader, {"document": ["read"]}), "resource": route("document:read"), "allow": true, "codes": ["role"]},
	"a key with the route's own": {"principal": by_key(reader, {"route": ["GET"]}), "resource": route("document:read"), "allow": true, "codes": ["role"]},
	"a key with another": {"principal": by_key(reader, {"document": ["write"]}), "resource": route("document:read"), "allow": false, "codes": ["grant_missing"]},
	"a key with more than its owner": {"principal": by_key(bob, {"document": ["read"]}), "resource": route("document:read"), "allow": false, "codes": ["role_missing"]},
	"a key with the permission of another type": {"principal": by_key(reader, {"document": ["read"]}), "resource": unmapped, "allow": false, "codes": ["grant_missing", "role_missing"]},
	"a key without grants, and a public route": {"principal": by_key(bob, {}), "resource": route("public"), "allow": false, "codes": ["grant_missing"]},
	"a key with the route's own, and a public route": {"principal": by_key(bob, {"route": ["GET"]}), "resource": route("public"), "allow": true, "codes": ["public"]},
}

test_denials_name_the_permission_of_the_route if {
	d := ostiary.decision with input as ask(by_key(bob, {}), "GET", route("document:read:all"))
	{r.permission | some r in d.reasons} == {"document:read:all"}
}

test_applications_judge_routes_too if {
	d := ostiary.decision with input as ask(bob, "GET", unmapped)
		with data.app.route.allow as true
	d.allow
	e := ostiary.decision with input as ask(bob, "GET", route("public"))
		with data.app.route.deny as {"not today"}
	codes(e.reasons) == ["denied"]
}
