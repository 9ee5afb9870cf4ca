package app.document_test

ann := person("u-ann", [])

eve := person("u-eve", ["editor"])

person(id, roles) := {
	"type": "user", "id": id, "credential": "session", "roles": roles,
	"user": {"id": id, "name": id, "banned": false}, "session": {"id": "s1", "fresh": true},
}

# Tests ask the rule that the service asks, so they see roles, guards and the
# grants of keys at work too.
decide(principal, action, properties) := d if {
	d := data.ostiary.decision with input as {
		"principal": principal,
		"action": {"name": action, "properties": {}},
		"resource": {"type": "document", "id": "d1", "properties": properties},
		"context": {"time": "2026-01-02T03:04:05.000Z"},
	}
}

test_owners_may_everything[action] if {
	some action in data.actions.document
	decide(ann, action, {"owner": "u-ann"}).allow
}

test_shared_documents_are_read_and_no_more if {
	decide(ann, "read", {"owner": "u-bob", "shared": ["u-ann"]}).allow
	d := decide(ann, "write", {"owner": "u-bob", "shared": ["u-ann"]})
	not d.allow
}

test_strangers_may_nothing if {
	d := decide(ann, "read", {"owner": "u-bob"})
	not d.allow
	d.reasons[0].code == "role_missing"
}

test_editors_write_what_is_not_theirs if decide(eve, "write", {"owner": "u-bob"}).allow

test_frozen_is_frozen_for_everybody if {
	every principal in [ann, eve] {
		d := decide(principal, "write", {"owner": "u-ann", "frozen": true})
		not d.allow
		d.reasons == [{"code": "frozen", "message": "the document is frozen"}]
	}
}
