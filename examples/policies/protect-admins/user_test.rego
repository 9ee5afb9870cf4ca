package app.user_test

ann := {
	"type": "user", "id": "u-ann", "credential": "session", "roles": ["admin"],
	"user": {"id": "u-ann", "name": "ann", "banned": false}, "session": {"id": "s1", "fresh": true},
}

decide(action, id, properties) := d if {
	d := data.ostiary.decision with input as {
		"principal": ann,
		"action": {"name": action},
		"resource": {"type": "user", "id": id, "properties": object.union({"lastAdmin": false}, properties)},
	}
}

test_administrators_are_protected[action] if {
	some action in ["ban", "delete", "set-role"]
	d := decide(action, "u-eve", {"admin": true})
	not d.allow
	d.reasons == [{"code": "protected", "message": "u-eve is an administrator"}]
}

test_others_are_not[action] if {
	some action in ["ban", "delete", "set-role"]
	decide(action, "u-bob", {"admin": false}).allow
}

test_one_may_leave if decide("delete", "u-ann", {"admin": true}).allow

test_the_rest_is_as_it_was if decide("set-password", "u-eve", {"admin": true}).allow

test_keys_do_not_sign_in if {
	key := object.union(object.remove(ann, ["session"]), {"credential": "api_key", "key": {"id": "k1", "name": "System", "permissions": {"session": ["create"]}}})
	d := data.ostiary.decision with input as {
		"principal": key,
		"action": {"name": "create"},
		"resource": {"type": "session", "properties": {"owner": "u-ann", "method": "api_key"}},
	}
	not d.allow
	d.reasons == [{"code": "denied", "message": "keys do not sign in"}]
}
