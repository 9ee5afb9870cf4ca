package app.transfer_test

person(id, roles) := {
	"type": "user", "id": id, "credential": "session", "roles": roles,
	"user": {"id": id, "name": id, "banned": false}, "session": {"id": "s1", "fresh": true},
}

eve := person("u-eve", ["approver", "clerk"])

key := {"id": "k1", "name": "robot", "permissions": {"transfer": ["*"]}}

decide(principal, action, properties) := d if {
	d := data.ostiary.decision with input as {
		"principal": principal,
		"action": {"name": action, "properties": {}},
		"resource": {"type": "transfer", "id": "t1", "properties": properties},
		"context": {"time": "2026-01-02T03:04:05.000Z"},
	}
}

codes(d) := {r.code | some r in d.reasons}

test_another_approves[note] if {
	some note, by in {"the first": [], "the second": ["u-bob"]}
	decide(eve, "approve", {"requestedBy": "u-ann", "approvedBy": by}).allow
}

test_the_requester_does_not_whatever_their_roles[role] if {
	some role in ["approver", "clerk"]
	d := decide(person("u-ann", [role]), "approve", {"requestedBy": "u-ann", "approvedBy": []})
	not d.allow
	"own_request" in codes(d)
}

test_nobody_approves_twice if {
	d := decide(eve, "approve", {"requestedBy": "u-ann", "approvedBy": ["u-eve"]})
	codes(d) == {"approved_already"}
}

test_it_has_to_be_known_who_did_what[note] if {
	some note, c in {
		"who requested it": {"properties": {"approvedBy": []}, "code": "own_request"},
		"who requested it, null": {"properties": {"requestedBy": null, "approvedBy": []}, "code": "own_request"},
		"who requested it, empty": {"properties": {"requestedBy": "", "approvedBy": []}, "code": "own_request"},
		"who approved it": {"properties": {"requestedBy": "u-ann"}, "code": "approved_already"},
		"who approved it, no list": {"properties": {"requestedBy": "u-ann", "approvedBy": "u-bob"}, "code": "approved_already"},
	}
	codes(decide(eve, "approve", c.properties)) == {c.code}
}

test_only_people_approve[note] if {
	some note, principal in {
		"a key": object.union(object.remove(eve, ["session"]), {"credential": "api_key", "key": key}),
		"a session obtained with a key": object.union(eve, {"key": key}),
		"an impersonator": object.union(eve, {"session": {"impersonatedBy": "u-root"}}),
		"a service account": object.union(eve, {"type": "service_account"}),
		"somebody whom an application names": object.union(eve, {"credential": "asserted"}),
	}
	codes(decide(principal, "approve", {"requestedBy": "u-ann", "approvedBy": []})) == {"not_a_person"}
}

test_two_others_have_to_approve[note] if {
	some note, c in {
		"nobody": {"by": [], "allow": false},
		"one": {"by": ["u-bob"], "allow": false},
		"one, twice": {"by": ["u-bob", "u-bob"], "allow": false},
		"one and the requester": {"by": ["u-bob", "u-ann"], "allow": false},
		"one and nobody": {"by": ["u-bob", null], "allow": false},
		"two": {"by": ["u-bob", "u-cid"], "allow": true},
		"three": {"by": ["u-bob", "u-cid", "u-dan"], "allow": true},
	}
	d := decide(eve, "execute", {"requestedBy": "u-ann", "approvedBy": c.by})
	d.allow == c.allow
}

test_without_requester_or_approvals_nothing_is_executed[note] if {
	some note, properties in {
		"neither": {},
		"no requester": {"approvedBy": ["u-bob", "u-cid"]},
		"no approvals": {"requestedBy": "u-ann"},
	}
	codes(decide(eve, "execute", properties)) == {"approval"}
}
