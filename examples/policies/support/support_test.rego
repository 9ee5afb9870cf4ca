package support_test

sue := person("u-sue", ["support"])

cid := person("u-cid", ["user"])

person(id, roles) := {
	"type": "user", "id": id, "credential": "session", "roles": roles,
	"user": {"id": id, "name": id, "banned": false}, "session": {"id": "s1", "fresh": true},
}

account(more) := object.union({"admin": false, "serviceAccount": false, "roles": ["user"], "lastAdmin": false}, more)

decide(principal, action, resource) := d if {
	d := data.ostiary.decision with input as {
		"principal": principal,
		"action": {"name": action, "properties": {}},
		"resource": resource,
		"context": {"time": "2026-01-02T03:04:05.000Z"},
	}
}

about(action, id, properties) := decide(sue, action, {"type": "user", "id": id, "properties": properties})

codes(d) := {r.code | some r in d.reasons}

test_customers_are_looked_after[action] if {
	some action in ["get", "impersonate", "ban"]
	about(action, "u-cid", account({})).allow
}

test_others_are_not[note] if {
	some note, properties in {
		"an administrator": account({"admin": true, "roles": ["admin"]}),
		"an administrator by id": account({"admin": true}),
		"another of the staff": account({"roles": ["support"]}),
		"a customer with another role": account({"roles": ["user", "auditor"]}),
		"a program": account({"serviceAccount": true}),
		"somebody of whom nothing is known": {"lastAdmin": false},
		"somebody who is not there": {"lastAdmin": false, "roles": []},
		"somebody whose roles are not known": object.remove(account({}), ["roles"]),
	}
	codes(about("impersonate", "u-eve", properties)) == {"not_a_customer"}
}

test_the_role_gives_no_more[action] if {
	some action in ["set-role", "set-password", "delete", "impersonate-admins"]
	codes(about(action, "u-cid", account({}))) == {"role_missing"}
}

test_more_roles_do_not_lift_the_limit if {
	d := decide(person("u-sue", ["support", "admin"]), "ban", {"type": "user", "id": "u-eve", "properties": account({"roles": ["support"]})})
	codes(d) == {"not_a_customer"}
}

test_lists_may_be_asked_for if decide(sue, "list", {"type": "user", "properties": {"lastAdmin": false}}).allow

test_ones_own_account_stays_ones_own if about("get", "u-sue", account({"roles": ["support"]})).allow

test_administrators_are_not_limited if {
	decide(person("u-root", ["admin"]), "ban", {"type": "user", "id": "u-sue", "properties": account({"roles": ["support"]})}).allow
}

invoice := {"type": "invoice", "id": "i1", "properties": {"customer": "u-cid"}}

as_customer := object.union(cid, {"session": {"impersonatedBy": "u-sue"}})

test_an_impersonator_reads if decide(as_customer, "read", invoice).allow

test_an_impersonator_changes_nothing if codes(decide(as_customer, "pay", invoice)) == {"impersonated"}

test_the_customer_pays if decide(cid, "pay", invoice).allow

test_others_do_not_even_read if codes(decide(sue, "read", invoice)) == {"role_missing"}
