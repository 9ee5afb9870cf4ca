package app.access_test

fleet := {
	"type": "service_account", "id": "u-fleet", "credential": "session", "roles": ["admin"],
	"user": {"id": "u-fleet", "name": "fleet", "banned": false}, "session": {"id": "s1", "fresh": true},
}

decide(properties) := d if {
	d := data.ostiary.decision with input as {
		"principal": fleet,
		"action": {"name": "evaluate"},
		"resource": {"type": "access", "properties": properties},
	}
}

test_robots_may_be_asserted if decide({"subject": {"type": "robot", "id": "r2", "properties": {"model": 2}}}).allow

test_others_may_not[note] if {
	some note, properties in {
		"a user": {"subject": {"type": "user", "id": "ann"}},
		"nobody in particular": {"subject": {}},
		"nothing": {},
	}
	d := decide(properties)
	not d.allow
	d.reasons[_].message == "only robots may be asserted"
}

test_roles_may_not_be_asserted if {
	d := decide({"subject": {"type": "robot", "id": "r2", "properties": {"role": "admin"}}})
	not d.allow
	d.reasons[_].message == "a role may not be asserted"
}
