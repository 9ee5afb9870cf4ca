package app.document_test

ann := person("u-ann", [])

arthur := person("u-arthur", ["archivist"])

anonymous := {"type": "anonymous", "credential": "none", "roles": []}

person(id, roles) := {
	"type": "user", "id": id, "credential": "session", "roles": roles,
	"user": {"id": id, "name": id, "banned": false}, "session": {"id": "s1", "fresh": true},
}

decide(principal, action, properties) := d if {
	d := data.ostiary.decision with input as {
		"principal": principal,
		"action": {"name": action},
		"resource": {"type": "document", "id": "d1", "properties": properties},
	}
}

test_owner_writes if decide(ann, "write", {"owner": "u-ann"}).allow

test_others_do_not if {
	d := decide(ann, "read", {"owner": "u-bob"})
	not d.allow
	d.reasons[0].code == "role_missing"
}

test_shared_is_for_reading if {
	decide(ann, "read", {"owner": "u-bob", "shared": ["u-ann"]}).allow
	d := decide(ann, "write", {"owner": "u-bob", "shared": ["u-ann"]})
	not d.allow
}

test_archivist_reads_by_role if {
	d := decide(arthur, "read", {"owner": "u-bob"})
	d.allow
	d.reasons[0].code == "role"
}

test_published_is_for_everybody_in_excerpts if {
	d := decide(anonymous, "read", {"owner": "u-bob", "published": true})
	d.allow
	d.context == {"excerpt": true}
}

test_published_ones_are_read_and_no_more if {
	eve := person("u-eve", [])
	decide(eve, "read", {"owner": "u-bob", "published": true}).allow
	d := decide(eve, "write", {"owner": "u-bob", "published": true})
	not d.allow
}

test_nobody_owns_what_has_no_owner if {
	d := decide(anonymous, "read", {})
	not d.allow
	d.reasons[0].code == "unauthenticated"
}

test_frozen_is_frozen_for_its_owner if {
	d := decide(ann, "write", {"owner": "u-ann", "frozen": true})
	not d.allow
	d.reasons == [{"code": "frozen", "message": "the document is frozen"}]
}

test_a_key_needs_the_grant_too if {
	key := object.union(object.remove(ann, ["session"]), {"credential": "api_key", "key": {"id": "k1", "name": "reader", "permissions": {"document": ["read"]}}})
	decide(key, "read", {"owner": "u-ann"}).allow
	d := decide(key, "write", {"owner": "u-ann"})
	not d.allow
	d.reasons[0].message == "key \"reader\" is not granted document:write"
}
