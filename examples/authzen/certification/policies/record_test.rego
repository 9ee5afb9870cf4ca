package app.record_test

alice := {"id": "alice", "properties": {}}

bob := {"id": "bob", "properties": {"role": "admin"}}

active := {"status": "active", "author": "alice"}

archived := {"status": "archived", "author": "alice"}

allows(principal, action, properties) if {
	ask(
		object.union({"type": "user", "credential": "asserted", "roles": [], "known": true}, principal),
		action, {"id": "r", "known": true, "properties": properties},
	)
}

ask(principal, action, resource) if {
	data.ostiary.decision.allow with input as {
		"principal": principal,
		"action": action,
		"resource": object.union({"type": "record"}, resource),
	}
}

test_users_read if {
	every user in [alice, bob] {
		every record in [active, archived] {
			allows(user, {"name": "read"}, record)
		}
	}
}

test_author_writes_what_is_active if {
	allows(alice, {"name": "write"}, active)
	not allows(alice, {"name": "write"}, archived)
}

test_admin_writes_what_is_archived_and_no_more if {
	allows(bob, {"name": "write"}, archived)
	not allows(bob, {"name": "write"}, active)
	not allows(bob, {"name": "delete", "properties": {"soft": true}}, archived)
}

test_deletes_are_soft if {
	allows(alice, {"name": "delete", "properties": {"soft": true}}, active)
	not allows(alice, {"name": "delete", "properties": {"soft": false}}, active)
	not allows(alice, {"name": "delete"}, active)
}

test_strangers_get_nothing if {
	not allows({"id": "eve", "known": false}, {"name": "read"}, active)
	not allows({"id": "eve", "known": false, "properties": {"role": "admin"}}, {"name": "write"}, archived)
	not allows({"id": "alice", "type": "robot", "properties": {}}, {"name": "read"}, active)
}

test_nothing_is_known_of_unknown_records if {
	user := object.union({"type": "user", "credential": "asserted", "roles": [], "known": true}, alice)
	not ask(user, {"name": "read"}, {"id": "x", "known": false, "properties": {}})
}

test_administrators_of_the_service_are_no_users if {
	not allows({"id": "root", "user": {"id": "root", "banned": false}, "properties": {}}, {"name": "read"}, active)
}
