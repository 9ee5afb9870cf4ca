package keys_test

ann := {
	"type": "user", "id": "u-ann", "credential": "session", "roles": ["editor"],
	"user": {"id": "u-ann", "name": "ann", "banned": false}, "session": {"id": "s1", "fresh": true},
}

key(grants) := {"id": "k1", "name": "sync", "permissions": grants}

everything := {"document": ["*"], "comment": ["*"]}

by_key(grants) := object.union(object.remove(ann, ["session"]), {"credential": "api_key", "key": key(grants)})

robot(grants) := object.union(by_key(grants), {"type": "service_account"})

decide(principal, action, type) := d if {
	d := data.ostiary.decision with input as {
		"principal": principal,
		"action": {"name": action, "properties": {}},
		"resource": {"type": type, "id": "x1", "properties": {}},
		"context": {"time": "2026-01-02T03:04:05.000Z"},
	}
}

codes(d) := {r.code | some r in d.reasons}

test_people_write if decide(ann, "write", "document").allow

test_their_keys_read if decide(by_key(everything), "read", "document").allow

test_their_keys_change_nothing[note] if {
	some note, c in {
		"documents": {"principal": by_key(everything), "action": "write", "type": "document"},
		"comments": {"principal": by_key(everything), "action": "write", "type": "comment"},
		"by another name": {"principal": by_key(everything), "action": "share", "type": "document"},
		"by a session": {"principal": object.union(ann, {"key": key(everything)}), "action": "write", "type": "document"},
	}
	codes(decide(c.principal, c.action, c.type)) == {"read_only_key"}
}

test_what_is_malformed_changes_nothing[note] if {
	some note, principal in {
		"no type": object.remove(by_key(everything), ["type"]),
		"no key": object.union(object.remove(by_key(everything), ["key"]), {"key": null}),
	}
	"read_only_key" in codes(decide(principal, "write", "document"))
}

test_keys_of_service_accounts_do_what_they_are_granted if {
	decide(robot({"document": ["write"]}), "write", "document").allow
	codes(decide(robot({"document": ["write"]}), "write", "comment")) == {"grant_missing"}
}

test_reading_needs_the_grant_too if {
	codes(decide(by_key({"document": ["list"]}), "read", "document")) == {"grant_missing"}
}

test_without_a_table_nothing_reads if {
	d := decide(by_key(everything), "read", "document") with data.reading as []
	codes(d) == {"read_only_key"}
}
