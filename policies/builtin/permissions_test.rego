package ostiary_test

import data.ostiary

test_may[note] if {
	some note, c in may
	holds(c, true)
}

may := {
	"an administrator lists users": {"principal": ann, "action": "list", "resource": users, "codes": ["role"]},
	"an administrator sets a password": {"principal": ann, "action": "set-password", "resource": user("u-bob", {}), "codes": ["role"]},
	"a key with the grant": {"principal": by_key(ann, {"user": ["list"]}), "action": "list", "resource": users, "codes": ["role"]},
	"a key with all actions": {"principal": by_key(ann, {"user": ["*"]}), "action": "list", "resource": users, "codes": ["role"]},
	"a key with the action on all types": {"principal": by_key(ann, {"*": ["list"]}), "action": "list", "resource": users, "codes": ["role"]},
	"a key with everything": {"principal": by_key(ann, {"*": ["*"]}), "action": "list", "resource": users, "codes": ["role"]},
	"a session from a key with the grant": {"principal": by_key_session(ann, {"user": ["list"]}), "action": "list", "resource": users, "codes": ["role"]},
	"one's own account": {"principal": bob, "action": "update", "resource": user("u-bob", {}), "codes": ["self"]},
	"one's own sessions": {"principal": bob, "action": "list", "resource": session_of("u-bob"), "codes": ["self"]},
	"one's own keys": {"principal": bob, "action": "read", "resource": key_of("u-bob"), "codes": ["self"]},
	"one's own with a key": {"principal": by_key(bob, {"session": ["create"]}), "action": "create", "resource": session_of("u-bob"), "codes": ["self"]},
	"a service account": {"principal": object.union(by_key(bob, {"apiKey": ["read"]}), {"type": "service_account"}), "action": "read", "resource": key_of("u-bob"), "codes": ["self"]},
	"a role beside an unknown one": {"principal": with_roles(ann, ["ghost", "admin"]), "action": "list", "resource": users, "codes": ["role"]},
}

test_may_not[note] if {
	some note, c in may_not
	holds(c, false)
}

may_not := {
	"a user": {"principal": bob, "action": "list", "resource": users, "codes": ["role_missing"]},
	"without role": {"principal": with_roles(bob, []), "action": "list", "resource": users, "codes": ["role_missing"]},
	"an unknown role": {"principal": with_roles(bob, ["ghost"]), "action": "list", "resource": users, "codes": ["role_missing"]},
	"another's account": {"principal": bob, "action": "update", "resource": user("u-ann", {}), "codes": ["role_missing"]},
	"another's session": {"principal": bob, "action": "revoke", "resource": session_of("u-ann"), "codes": ["role_missing"]},
	"a session of nobody": {"principal": bob, "action": "revoke", "resource": {"type": "session", "properties": {}}, "codes": ["role_missing"]},
	"what is not for oneself": {"principal": bob, "action": "set-role", "resource": user("u-bob", {"lastAdmin": false}), "codes": ["role_missing"]},
	"an administrator and other administrators": {"principal": ann, "action": "impersonate-admins", "resource": user("u-eve", {}), "codes": ["role_missing"]},
	"a key without the grant": {"principal": by_key(ann, {"user": ["list"]}), "action": "set-password", "resource": users, "codes": ["grant_missing"]},
	"a key without grants": {"principal": by_key(ann, {}), "action": "list", "resource": users, "codes": ["grant_missing"]},
	"a key whose owner may not": {"principal": by_key(bob, {"*": ["*"]}), "action": "list", "resource": users, "codes": ["role_missing"]},
	"neither key nor owner": {"principal": by_key(bob, {"user": ["get"]}), "action": "list", "resource": users, "codes": ["grant_missing", "role_missing"]},
	"a session from a key without the grant": {"principal": by_key_session(ann, {"user": ["get"]}), "action": "list", "resource": users, "codes": ["grant_missing"]},
	"one's own with a key without the grant": {"principal": by_key(bob, {}), "action": "get", "resource": user("u-bob", {}), "codes": ["grant_missing"]},
	"all actions, where only some were given": {"principal": ann, "action": "*", "resource": users, "codes": ["role_missing"]},
	"nobody": {"principal": nobody, "action": "list", "resource": users, "codes": ["unauthenticated"]},
	"nobody with a key": {"principal": object.union(nobody, {"key": {"permissions": {"*": ["*"]}}}), "action": "list", "resource": users, "codes": ["unauthenticated"]},
}

test_wildcards_in_roles[note] if {
	some note, c in {
		"all actions of a type": {"role": {"user": {"*": true}}, "allow": true},
		"an action on all types": {"role": {"*": {"list": true}}, "allow": true},
		"everything": {"role": {"*": {"*": true}}, "allow": true},
		"another type": {"role": {"session": {"*": true}}, "allow": false},
		"another action": {"role": {"*": {"get": true}}, "allow": false},
	}
	d := ostiary.decision with input as ask(bob, "list", users)
		with data.permits.holders as holders({"user": c.role})
	d.allow == c.allow
}

test_wildcards_in_self[note] if {
	some note, c in {
		"all actions of a type": {"self": {"user": {"*": true}}, "allow": true},
		"an action on all types": {"self": {"*": {"set-email": true}}, "allow": true},
		"everything": {"self": {"*": {"*": true}}, "allow": true},
		"another type": {"self": {"session": {"*": true}}, "allow": false},
	}
	d := ostiary.decision with input as ask(bob, "set-email", user("u-bob", {}))
		with data.permits.self as c.self
	d.allow == c.allow
}

test_roles_are_a_union if {
	p := with_roles(bob, ["reader", "writer"])
	every action in ["read", "write"] {
		d := ostiary.decision with input as ask(p, action, {"type": "entity"})
			with data.permits.holders as holders({"reader": {"entity": {"read": true}}, "writer": {"entity": {"write": true}}})
		d.allow
	}
}

test_named_administrators_need_no_role if {
	d := ostiary.decision with input as ask(bob, "list", users)
		with data.permits.admins as {"u-bob": true}
	d.allow
	p := ostiary.permissions with input as bob_asks
		with data.permits.admins as {"u-bob": true}
	"set-role" in p.user
}

test_named_administrators_may_what_administrators_may if {
	d := ostiary.decision with input as ask(bob, "impersonate-admins", users)
		with data.permits.admins as {"u-bob": true}
	codes(d.reasons) == ["role_missing"]
	e := ostiary.decision with input as ask(bob, "list", users)
		with data.permits.admins as {"u-bob": true}
		with data.settings.admin_roles as ["user"]
	codes(e.reasons) == ["role_missing"]
}

test_named_administrators_are_accounts if {
	robot := {"type": "robot", "id": "u-bob", "credential": "asserted", "roles": []}
	d := ostiary.decision with input as ask(robot, "list", users)
		with data.permits.admins as {"u-bob": true}
	not d.allow
}

bob_asks := {"principal": bob}

# What somebody may do is what roles and grants both name, "*" as written.
test_effective_permissions[note] if {
	some note, c in effective
	p := ostiary.permissions with input as {"principal": c.principal}
		with data.permits.roles as c.roles
	print(p)
	p == c.want
}

effective := {
	"role": {
		"principal": bob,
		"roles": {"user": {"user": {"list": true, "get": true}}},
		"want": {"user": ["get", "list"]},
	},
	"several roles": {
		"principal": with_roles(bob, ["a", "b", "ghost"]),
		"roles": {"a": {"user": {"list": true}}, "b": {"user": {"get": true}, "event": {"read": true}}},
		"want": {"user": ["get", "list"], "event": ["read"]},
	},
	"all actions by role, one by key": {
		"principal": by_key(bob, {"user": ["list"]}),
		"roles": {"user": {"user": {"*": true}}},
		"want": {"user": ["list"]},
	},
	"one by role, everything by key": {
		"principal": by_key(bob, {"*": ["*"]}),
		"roles": {"user": {"user": {"list": true}}},
		"want": {"user": ["list"]},
	},
	"everything by both": {
		"principal": by_key(bob, {"*": ["*"]}),
		"roles": {"user": {"*": {"*": true}}},
		"want": {"*": ["*"]},
	},
	"crossed": {
		"principal": by_key(bob, {"*": ["list"]}),
		"roles": {"user": {"user": {"*": true}}},
		"want": {"user": ["list"]},
	},
	"nothing in common": {
		"principal": by_key(bob, {"user": ["get"], "session": ["list"]}),
		"roles": {"user": {"user": {"list": true}}},
		"want": {},
	},
	"a type without actions": {
		"principal": bob,
		"roles": {"user": {"user": {}}},
		"want": {},
	},
	"a session from a key": {
		"principal": by_key_session(bob, {"user": ["list", "get"]}),
		"roles": {"user": {"user": {"list": true, "ban": true}}},
		"want": {"user": ["list"]},
	},
	"a key without grants": {
		"principal": object.union(by_key(bob, {}), {"key": {"permissions": null}}),
		"roles": {"user": {"*": {"*": true}}},
		"want": {},
	},
	"a key whose grants are no lists": {
		"principal": by_key(bob, {"user": "list", "session": {"list": "list"}}),
		"roles": {"user": {"*": {"*": true}}},
		"want": {},
	},
	"banned": {"principal": banned(bob), "roles": {"user": {"*": {"*": true}}}, "want": {}},
	"nobody": {"principal": nobody, "roles": {"user": {"*": {"*": true}}}, "want": {}},
	"null": {"principal": null, "roles": {"user": {"*": {"*": true}}}, "want": {}},
	"an unknown credential": {
		"principal": object.union(bob, {"credential": "guess"}),
		"roles": {"user": {"*": {"*": true}}},
		"want": {},
	},
}

test_own_permissions[note] if {
	some note, c in {
		"somebody": {"principal": bob, "want": {"user": ["get", "update"], "session": ["list"]}},
		"a key": {"principal": by_key(bob, {"user": ["*"]}), "want": {"user": ["get", "update"]}},
		"a key without grants": {"principal": by_key(bob, {}), "want": {}},
		"banned": {"principal": banned(bob), "want": {}},
		"nobody": {"principal": nobody, "want": {}},
		"null": {"principal": null, "want": {}},
		"an asserted subject that is no account": {"principal": {"type": "robot", "id": "r2", "credential": "asserted", "roles": []}, "want": {}},
	}
	p := ostiary.own_permissions with input as {"principal": c.principal}
		with data.permits.self as {"user": {"get": true, "update": true}, "session": {"list": true}}
	p == c.want
}

test_permissions_are_defined_without_input if {
	ostiary.permissions == {} with input as {}
	ostiary.own_permissions == {} with input as {}
}

# The default tables.
test_administrators_have_all_but_impersonating_each_other if {
	p := ostiary.permissions with input as {"principal": ann}
	p == {
		"user": sort([
			"create", "list", "get", "update", "set-role", "set-password", "set-email",
			"ban", "impersonate", "delete", "change-password", "change-email",
		]),
		"session": ["create", "delete", "list", "revoke"],
		"apiKey": ["create", "delete", "read", "rotate", "update", "verify"],
		"access": ["evaluate", "search"],
		"entity": ["read", "write"],
		"policy": ["publish", "read", "test"],
		"decision": ["read"],
		"event": ["read"],
	}
}

test_users_have_nothing_by_role if {
	ostiary.permissions == {} with input as {"principal": bob}
}
