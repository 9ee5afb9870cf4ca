package app.todo_test

allows(roles, action, resource) if {
	data.ostiary.decision.allow with input as {
		"principal": {
			"type": "user", "id": "p1", "credential": "asserted", "roles": [], "known": true,
			"properties": {"email": "me@example.com", "roles": roles},
		},
		"action": {"name": action},
		"resource": resource,
	}
}

todo(owner) := {"type": "todo", "id": "t1", "properties": {"ownerID": owner}}

mine := todo("me@example.com")

theirs := todo("they@example.com")

# Role by role: what may be done to one's own, and to another's.
expected := {
	"viewer": {"own": set(), "others": set()},
	"editor": {"own": {"can_create_todo", "can_update_todo", "can_delete_todo"}, "others": {"can_create_todo"}},
	"admin": {"own": {"can_create_todo", "can_delete_todo"}, "others": {"can_create_todo", "can_delete_todo"}},
	"evil_genius": {"own": {"can_update_todo"}, "others": {"can_update_todo"}},
}

test_roles[role] if {
	some role, want in expected
	changes := {"can_create_todo", "can_update_todo", "can_delete_todo"}
	want.own == {action | some action in changes; allows([role], action, mine)}
	want.others == {action | some action in changes; allows([role], action, theirs)}
}

test_everybody_reads if {
	allows([], "can_read_todos", mine)
	allows([], "can_read_user", {"type": "user", "id": "they@example.com"})
}

test_strangers_get_nothing if {
	every c in [["can_read_todos", mine], ["can_update_todo", mine], ["can_read_user", {"type": "user", "id": "me@example.com"}]] {
		d := data.ostiary.decision with input as {
			"principal": {
				"type": "user", "id": "p1", "credential": "asserted", "roles": [], "known": false,
				"properties": {"email": "me@example.com", "roles": ["editor", "evil_genius"]},
			},
			"action": {"name": c[0]},
			"resource": c[1],
		}
		not d.allow
	}
}

test_nobody_owns_what_has_no_owner if {
	d := data.ostiary.decision with input as {
		"principal": {
			"type": "user", "id": "p1", "credential": "asserted", "roles": [], "known": true,
			"properties": {"roles": ["editor"]},
		},
		"action": {"name": "can_update_todo"},
		"resource": {"type": "todo", "id": "t1", "properties": {}},
	}
	not d.allow
}
