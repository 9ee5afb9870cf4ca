package app.record_test

record := {"owner": "ann", "department": "Sales"}

actions(principal, resource) := {action |
	some action in data.actions.record
	data.ostiary.decision.allow with input as {
		"principal": object.union({"type": "user", "credential": "asserted", "roles": [], "known": true}, principal),
		"action": {"name": action},
		"resource": object.union({"type": "record", "id": "r", "known": true, "properties": record}, resource),
	}
}

test_owner if actions({"id": "ann", "properties": {"role": "employee", "department": "Legal"}}, {}) == {"view", "edit", "delete"}

test_colleague if actions({"id": "bob", "properties": {"role": "employee", "department": "Sales"}}, {}) == {"view"}

test_others if actions({"id": "bob", "properties": {"role": "employee", "department": "Legal"}}, {}) == set()

test_manager if actions({"id": "bob", "properties": {"role": "manager", "department": "Legal"}}, {}) == {"view"}

test_manager_of_the_department if actions({"id": "bob", "properties": {"role": "manager", "department": "Sales"}}, {}) == {"view", "edit"}

test_no_department_is_nobodys_department if {
	actions({"id": "bob", "properties": {}}, {"properties": {"owner": "ann"}}) == set()
}

test_strangers_get_nothing if {
	actions({"id": "ann", "known": false, "properties": {"role": "manager", "department": "Sales"}}, {}) == set()
	actions({"id": "ann", "properties": {"role": "manager", "department": "Sales"}}, {"known": false}) == set()
}
