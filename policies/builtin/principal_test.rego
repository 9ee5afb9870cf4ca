package ostiary_test

import data.ostiary

# Whatever is not what the schema says denies, even where every rule permits.
test_malformed_input_is_denied[note] if {
	some name, value in malformed
	some how, rules in permissive
	d := ostiary.decision with input as value
		with data.permits.holders as holders(rules.roles)
		with data.permits.self as rules.self
		with data.app as rules.app
	print(d)
	note := sprintf("%s, %s", [name, how])
	d.allow == false
	count(d.reasons) > 0
	d.context == {}
	every r in d.reasons {
		is_string(r.code)
		is_string(r.message)
	}
}

permissive := {
	"by role": {"roles": {"admin": {"user": {"list": true}}}, "self": {}, "app": {}},
	"by a role for everything": {"roles": {"admin": {"*": {"*": true}}}, "self": {}, "app": {}},
	"by self": {"roles": {}, "self": {"*": {"*": true}}, "app": {}},
	"by the application": {"roles": {}, "self": {}, "app": {"user": {"allow": true}}},
	"by a set of the application": {"roles": {}, "self": {}, "app": {"user": {"allow": {"x"}}}},
}

good := ask(ann, "list", user("u-ann", {}))

test_the_input_that_is_malformed_below_is_permitted if {
	every value in [good, by_key_good, robot_good] {
		d := ostiary.decision with input as value
		d.allow
	}
}

by_key_good := ask(by_key(ann, {"*": ["*"]}), "list", user("u-ann", {}))

robot_good := ask({"type": "robot", "id": "u-ann", "credential": "asserted", "roles": ["admin"]}, "list", user("u-ann", {}))

malformed := {
	"null": null,
	"a number": 1,
	"text": "admin",
	"a list": [good],
	"empty": {},
	"no principal": object.remove(good, ["principal"]),
	"no action": object.remove(good, ["action"]),
	"no resource": object.remove(good, ["resource"]),
	"null principal": object.union(object.remove(good, ["principal"]), {"principal": null}),
	"principal is text": object.union(object.remove(good, ["principal"]), {"principal": "u-ann"}),
	"principal is a list": object.union(object.remove(good, ["principal"]), {"principal": [ann]}),
	"action is text": object.union(object.remove(good, ["action"]), {"action": "list"}),
	"resource is text": object.union(object.remove(good, ["resource"]), {"resource": "user"}),
	"empty action": patched("/action/name", ""),
	"action is null": patched("/action/name", null),
	"action is a number": patched("/action/name", 1),
	"action is a list": patched("/action/name", ["list"]),
	"action without name": without("/action/name"),
	"empty resource type": patched("/resource/type", ""),
	"resource type is null": patched("/resource/type", null),
	"resource type is a number": patched("/resource/type", 0),
	"resource without type": without("/resource/type"),
	"no type": without("/principal/type"),
	"type is null": patched("/principal/type", null),
	"type is a number": patched("/principal/type", 7),
	"type is empty": patched("/principal/type", ""),
	"type of somebody else's": patched("/principal/type", "robot"),
	"anonymous with a session": patched("/principal/type", "anonymous"),
	"no id": without("/principal/id"),
	"id is null": patched("/principal/id", null),
	"id is empty": patched("/principal/id", ""),
	"id is a number": patched("/principal/id", 1),
	"no credential": without("/principal/credential"),
	"credential none": patched("/principal/credential", "none"),
	"unknown credential": patched("/principal/credential", "password"),
	"credential is null": patched("/principal/credential", null),
	"credential is a list": patched("/principal/credential", ["session"]),
	"key without key": patched("/principal/credential", "api_key"),
	"no roles": without("/principal/roles"),
	"roles are null": patched("/principal/roles", null),
	"roles are text": patched("/principal/roles", "admin"),
	"roles are an object": patched("/principal/roles", {"admin": "admin"}),
	"roles are a number": patched("/principal/roles", 1),
	"no user": without("/principal/user"),
	"user is null": patched("/principal/user", null),
	"user is empty": patched("/principal/user", {}),
	"banned is text": patched("/principal/user/banned", "no"),
	"banned is null": patched("/principal/user/banned", null),
	"banned is missing": without("/principal/user/banned"),
	"banned": patched("/principal/user/banned", true),
	"no session": without("/principal/session"),
	"session is null": patched("/principal/session", null),
	"session is text": patched("/principal/session", "s-ann"),
	"key is null": patched("/principal/key", null),
	"key is false": patched("/principal/key", false),
	"key is true": patched("/principal/key", true),
	"key is text": patched("/principal/key", "k1"),
	"key is empty": patched("/principal/key", {}),
	"grants are null": patched("/principal/key", {"permissions": null}),
	"grants are a list": patched("/principal/key", {"permissions": ["user", "*"]}),
	"grants are text": patched("/principal/key", {"permissions": "*"}),
	"grants of a type are text": patched("/principal/key", {"permissions": {"user": "list"}}),
	"grants of a type are an object": patched("/principal/key", {"permissions": {"user": {"list": "list"}}}),
	"grants of a type are true": patched("/principal/key", {"permissions": {"user": true, "*": true}}),
	"grants of a type are an object with *": patched("/principal/key", {"permissions": {"user": {"list": "*"}}}),
	"unknown credential with a key": object.union(by_key_good, {"principal": {"credential": "guess"}}),
	"no credential with a key": json.remove(by_key_good, ["/principal/credential"]),
	"a key of nobody": json.remove(by_key_good, ["/principal/user"]),
	"a key without id": json.remove(by_key_good, ["/principal/id"]),
	"a key without roles": json.remove(by_key_good, ["/principal/roles"]),
	"nobody with a key": ask(object.union(nobody, {"key": {"permissions": {"*": ["*"]}}}), "list", user("u-ann", {})),
	"nobody with a credential": ask(object.union(nobody, {"credential": "session"}), "list", user("u-ann", {})),
	"nobody does nothing": ask(nobody, null, user("u-ann", {})),
	"nobody does something empty": ask(nobody, "", user("u-ann", {})),
	"asserted, anonymous, without user": object.union(robot_good, {"principal": {"type": "anonymous"}}),
	"asserted, with a number for a type": object.union(robot_good, {"principal": {"type": 7}}),
	"asserted, without id": json.remove(robot_good, ["/principal/id"]),
	"asserted, without roles": json.remove(robot_good, ["/principal/roles"]),
	"asserted, anonymous": object.union(good, {"principal": {"credential": "asserted", "type": "anonymous"}}),
	"asserted, with a user of which little is known": object.union(without("/principal/user/banned"), {"principal": {"credential": "asserted"}}),
	"asserted, without type": object.union(
		json.remove(good, ["/principal/type", "/principal/user"]),
		{"principal": {"credential": "asserted"}},
	),
	"asserted, with an empty type": object.union(
		json.remove(good, ["/principal/user"]),
		{"principal": {"credential": "asserted", "type": ""}},
	),
}

patched(path, value) := json.patch(good, [{"op": "add", "path": path, "value": value}])

without(path) := json.remove(good, [path])

# Roles that are no text give nothing, and the others what they give.
test_odd_roles_give_nothing[note] if {
	some note, role in {"null": null, "number": 1, "list": ["admin"], "object": {"admin": true}, "true": true}
	d := ostiary.decision with input as ask(with_roles(ann, [role]), "list", users)
	codes(d.reasons) == ["role_missing"]
}

test_asserted_subjects_are_judged_by_their_roles[note] if {
	some note, c in {
		"of the application's own type": {
			"principal": {"type": "robot", "id": "r2", "credential": "asserted", "roles": ["admin"]},
			"allow": true, "codes": ["role"],
		},
		"without role": {
			"principal": {"type": "robot", "id": "r2", "credential": "asserted", "roles": []},
			"allow": false, "codes": ["role_missing"],
		},
		"a user that is known": {
			"principal": {"type": "user", "id": "u-ann", "credential": "asserted", "roles": ["admin"], "user": {"banned": false}},
			"allow": true, "codes": ["role"],
		},
		"a user that is banned": {
			"principal": {"type": "user", "id": "u-ann", "credential": "asserted", "roles": ["admin"], "user": {"banned": true}},
			"allow": false, "codes": ["owner_banned"],
		},
		"with a key": {
			"principal": {"type": "user", "id": "u-ann", "credential": "asserted", "roles": ["admin"], "user": {"banned": false}, "key": {"name": "System"}},
			"allow": false, "codes": ["grant_missing"],
		},
	}
	holds(object.union(c, {"action": "list", "resource": users}), c.allow)
}

# One's own is what belongs to the account, not to whoever has the same id.
test_only_accounts_have_their_own[note] if {
	robot := {"type": "robot", "id": "u-bob", "credential": "asserted", "roles": []}
	some note, resource in {"user": user("u-bob", {}), "session": session_of("u-bob"), "key": key_of("u-bob")}
	d := ostiary.decision with input as ask(robot, "get", resource)
		with data.permits.self as {"*": {"*": true}}
	codes(d.reasons) == ["role_missing"]
}

test_nothing_else_is_ones_own[note] if {
	some note, resource in {
		"a key by the name of the user": {"type": "apiKey", "id": "u-bob", "properties": {"owner": "u-eve"}},
		"a document of the user": {"type": "document", "properties": {"owner": "u-bob"}},
		"a user that the user owns": user("u-eve", {"owner": "u-bob"}),
	}
	d := ostiary.decision with input as ask(bob, "get", resource)
		with data.permits.self as {"*": {"*": true}}
	codes(d.reasons) == ["role_missing"]
}
