package app.project_test

person(roles, attributes) := {
	"type": "user", "id": "u-ann", "credential": "session", "roles": roles,
	"user": {"id": "u-ann", "name": "ann", "banned": false, "attributes": attributes},
	"session": {"id": "s1", "fresh": true},
}

decide(principal, action, properties) := d if {
	d := data.ostiary.decision with input as {
		"principal": principal,
		"action": {"name": action, "properties": {}},
		"resource": {"type": "project", "id": "p1", "properties": properties},
		"context": {"time": "2026-01-02T03:04:05.000Z"},
	}
}

ann := person(["manager"], {"tenant": "acme"})

test_roles_count_within_the_tenant if {
	decide(ann, "update", {"tenant": "acme"}).allow
	d := decide(person(["member"], {"tenant": "acme"}), "update", {"tenant": "acme"})
	not d.allow
	d.reasons[0].code == "role_missing"
}

test_no_role_reaches_another_tenant[role] if {
	some role in ["member", "manager", "admin"]
	d := decide(person([role], {"tenant": "acme"}), "read", {"tenant": "globex"})
	not d.allow
	"other_tenant" in {r.code | some r in d.reasons}
}

test_the_tenant_alone_permits_nothing if {
	d := decide(person([], {"tenant": "acme"}), "read", {"tenant": "acme"})
	not d.allow
}

test_what_has_no_tenant_is_in_nobodys[note] if {
	some note, c in {
		"the project": {"attributes": {"tenant": "acme"}, "properties": {}},
		"the user": {"attributes": {}, "properties": {"tenant": "acme"}},
		"neither": {"attributes": {}, "properties": {}},
		"both null": {"attributes": {"tenant": null}, "properties": {"tenant": null}},
		"both empty": {"attributes": {"tenant": ""}, "properties": {"tenant": ""}},
		"both a list": {"attributes": {"tenant": ["acme"]}, "properties": {"tenant": ["acme"]}},
		"one of several": {"attributes": {"tenant": "acme"}, "properties": {"tenant": ["acme", "globex"]}},
	}
	d := decide(person(["manager"], c.attributes), "read", c.properties)
	not d.allow
	d.reasons[0].code == "other_tenant"
}

# The application that asks about somebody may say anything of them, but their
# account is not its to say.
test_what_an_application_asserts_is_not_the_account if {
	asserted := {
		"type": "user", "id": "u-ann", "credential": "asserted", "known": true, "roles": ["manager"],
		"properties": {"tenant": "globex"},
		"user": {"id": "u-ann", "name": "ann", "banned": false, "attributes": {"tenant": "acme"}},
	}
	d := decide(asserted, "read", {"tenant": "globex"})
	not d.allow
}
