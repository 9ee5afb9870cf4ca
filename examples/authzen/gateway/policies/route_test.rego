package app.route_test

allows(principal, method, route) if {
	data.ostiary.decision.allow with input as {
		"principal": object.union(
			{"type": "identity", "id": "p1", "credential": "asserted", "roles": [], "known": true},
			principal,
		),
		"action": {"name": method},
		"resource": {"type": "route", "id": route, "properties": {}},
	}
}

routes(role) := {concat(" ", [method, route]) |
	some route in ["/users/{userId}", "/todos", "/todos/{todoId}"]
	some method in ["GET", "POST", "PUT", "DELETE"]
	allows({"properties": {"roles": [role]}}, method, route)
}

test_routes[role] if {
	some role, more in {
		"viewer": set(),
		"editor": {"POST /todos", "PUT /todos/{todoId}", "DELETE /todos/{todoId}"},
		"admin": {"POST /todos", "DELETE /todos/{todoId}"},
		"evil_genius": {"PUT /todos/{todoId}"},
	}
	routes(role) == {"GET /users/{userId}", "GET /todos"} | more
}

test_strangers_get_nothing if {
	not allows({"known": false, "properties": {"roles": ["editor"]}}, "GET", "/todos")
	not allows({"properties": {}}, "GET", "/todos")
}

test_what_is_not_in_the_table_is_closed if not allows({"properties": {"roles": ["admin"]}}, "GET", "/admin")
