package ostiary_test

import data.ostiary

# A guard is tried with somebody who may do it otherwise, so that nothing but
# the guard denies, and beside each denial stands what it lets pass.
guarded(c, code) if {
	d := ostiary.decision with input as ask(c.principal, c.action, c.resource)
		with data.permits.admins as {"u-zoe": true}
		with data.permits.roles as all_roles
		with data.permits.holders as holders(all_roles)
		with data.permits.app as {"note": true}
	print(d)
	verdict(d, code) == c.want
}

all_roles := object.union(data.permits.roles, {
	"editor": {"document": {"edit": true}, "apiKey": {"create": true}},
	"chief": {"user": {"impersonate": true, "set-password": true, "set-email": true, "create": true}, "document": {"*": true}},
})

verdict(d, _) := "allow" if d.allow

verdict(d, code) := "deny" if codes(d.reasons) == [code]

test_owner_banned[note] if {
	some note, c in {
		"banned": {"principal": banned(ann), "action": "list", "resource": users, "want": "deny"},
		"banned, with a key": {"principal": banned(by_key(ann, {"*": ["*"]})), "action": "list", "resource": users, "want": "deny"},
		"banned, on oneself": {"principal": banned(bob), "action": "get", "resource": user("u-bob", {}), "want": "deny"},
		"not banned": {"principal": ann, "action": "list", "resource": users, "want": "allow"},
		"signing in to a banned account": {"principal": nobody, "action": "create", "resource": sign_in({"banned": true}), "want": "deny"},
		"signing in": {"principal": nobody, "action": "create", "resource": sign_in({"banned": false}), "want": "allow"},
	}
	guarded(c, "owner_banned")
}

# Guards are for the types that they name. Applications have users of their own.
test_guards_leave_other_types_alone[note] if {
	everything := {
		"owner": "u-bob", "lastAdmin": true, "permissions": {"*": ["*"]}, "newRoles": ["editor"], "roles": ["admin"],
		"method": "password", "user": {"banned": true},
	}
	some who, principal in {
		"session": with_roles(stale(impersonated(bob)), ["chief"]),
		"key": with_roles(by_key(bob, {"document": ["*"]}), ["chief"]),
	}
	some action in ["create", "update", "rotate", "list", "delete", "ban", "set-role", "set-password", "set-email", "impersonate", "change-password", "change-email"]
	note := sprintf("%s %s", [who, action])
	guarded({"principal": principal, "action": action, "resource": {"type": "document", "id": "u-bob", "properties": everything}, "want": "allow"}, "none")
}

test_only_signing_in_is_about_the_account if {
	guarded({"principal": ann, "action": "list", "resource": sign_in({"banned": true}), "want": "allow"}, "none")
}

sign_in(user) := {"type": "session", "properties": {"owner": "u-bob", "method": "password", "user": user}}

test_impersonating[note] if {
	some note, c in {
		"change-password": {"principal": impersonated(bob), "action": "change-password", "resource": user("u-bob", {}), "want": "deny"},
		"change-email": {"principal": impersonated(bob), "action": "change-email", "resource": user("u-bob", {}), "want": "deny"},
		"delete oneself": {"principal": impersonated(bob), "action": "delete", "resource": user("u-bob", {"lastAdmin": false}), "want": "deny"},
		"delete oneself, with the password": {"principal": impersonated(bob), "action": "delete", "resource": user("u-bob", {"lastAdmin": false, "confirmed": true}), "want": "deny"},
		"delete another": {"principal": impersonated(ann), "action": "delete", "resource": user("u-bob", {"lastAdmin": false}), "want": "allow"},
		"create a key": {"principal": impersonated(bob), "action": "create", "resource": key_of("u-bob"), "want": "deny"},
		"rotate a key": {"principal": impersonated(bob), "action": "rotate", "resource": key_of("u-bob"), "want": "deny"},
		"create another's key": {"principal": impersonated(ann), "action": "create", "resource": key_of("u-bob"), "want": "deny"},
		"read a key": {"principal": impersonated(bob), "action": "read", "resource": key_of("u-bob"), "want": "allow"},
		"update": {"principal": impersonated(bob), "action": "update", "resource": user("u-bob", {}), "want": "allow"},
		"change-password oneself": {"principal": bob, "action": "change-password", "resource": user("u-bob", {}), "want": "allow"},
		"delete one's own session": {"principal": impersonated(bob), "action": "delete", "resource": session_of("u-bob"), "want": "allow"},
		"by null, which is no name": {
			"principal": object.union(bob, {"session": {"impersonatedBy": null}}),
			"action": "change-password", "resource": user("u-bob", {}), "want": "deny",
		},
	}
	guarded(c, "impersonating")
}

test_session_not_fresh[note] if {
	some note, c in {
		"own list, stale": {"principal": stale(bob), "action": "list", "resource": session_of("u-bob"), "want": "deny"},
		"own list, stale administrator": {"principal": stale(ann), "action": "list", "resource": session_of("u-ann"), "want": "deny"},
		"own list, fresh": {"principal": bob, "action": "list", "resource": session_of("u-bob"), "want": "allow"},
		"own list, freshness unknown": {
			"principal": json.remove(bob, ["/session/fresh"]),
			"action": "list", "resource": session_of("u-bob"), "want": "deny",
		},
		"own list, in a session from a key": {"principal": by_key_session(bob, {"session": ["list"]}), "action": "list", "resource": session_of("u-bob"), "want": "allow"},
		"own list, with a key": {"principal": by_key(bob, {"session": ["list"]}), "action": "list", "resource": session_of("u-bob"), "want": "allow"},
		"another's list, stale": {"principal": stale(ann), "action": "list", "resource": session_of("u-bob"), "want": "allow"},
		"own revoke, stale": {"principal": stale(bob), "action": "revoke", "resource": session_of("u-bob"), "want": "allow"},
		"delete oneself, stale": {"principal": stale(bob), "action": "delete", "resource": user("u-bob", {"lastAdmin": false}), "want": "deny"},
		"delete oneself, stale, not confirmed": {"principal": stale(bob), "action": "delete", "resource": user("u-bob", {"lastAdmin": false, "confirmed": false}), "want": "deny"},
		"delete oneself, stale, confirmed": {"principal": stale(bob), "action": "delete", "resource": user("u-bob", {"lastAdmin": false, "confirmed": true}), "want": "allow"},
		"delete oneself, fresh": {"principal": bob, "action": "delete", "resource": user("u-bob", {"lastAdmin": false}), "want": "allow"},
		"delete oneself, in a session from a key": {"principal": by_key_session(bob, {"user": ["delete"]}), "action": "delete", "resource": user("u-bob", {"lastAdmin": false}), "want": "deny"},
		"delete oneself, with a key": {"principal": by_key(bob, {"user": ["delete"]}), "action": "delete", "resource": user("u-bob", {"lastAdmin": false}), "want": "allow"},
		"update oneself, stale": {"principal": stale(bob), "action": "update", "resource": user("u-bob", {}), "want": "allow"},
		"list oneself, stale": {"principal": stale(ann), "action": "list", "resource": user("u-ann", {}), "want": "allow"},
		"delete one's own session, stale": {"principal": stale(bob), "action": "delete", "resource": session_of("u-bob"), "want": "allow"},
		"delete another, stale": {"principal": stale(ann), "action": "delete", "resource": user("u-bob", {"lastAdmin": false}), "want": "allow"},
	}
	guarded(c, "session_not_fresh")
}

test_last_admin[note] if {
	some note, c in {
		"ban": {"principal": ann, "action": "ban", "resource": user("u-eve", {"lastAdmin": true}), "want": "deny"},
		"ban another": {"principal": ann, "action": "ban", "resource": user("u-eve", {"lastAdmin": false}), "want": "allow"},
		"ban, not known": {"principal": ann, "action": "ban", "resource": user("u-eve", {}), "want": "deny"},
		"ban, malformed": {"principal": ann, "action": "ban", "resource": user("u-eve", {"lastAdmin": "no"}), "want": "deny"},
		"ban nobody in particular": {"principal": ann, "action": "ban", "resource": users, "want": "allow"},
		"delete": {"principal": ann, "action": "delete", "resource": user("u-eve", {"lastAdmin": true}), "want": "deny"},
		"delete oneself": {"principal": ann, "action": "delete", "resource": user("u-ann", {"lastAdmin": true, "confirmed": true}), "want": "deny"},
		"delete, not known": {"principal": ann, "action": "delete", "resource": {"type": "user", "id": "u-eve"}, "want": "deny"},
		"demote": {"principal": ann, "action": "set-role", "resource": user("u-eve", {"lastAdmin": true, "newRoles": ["user"]}), "want": "deny"},
		"take all roles": {"principal": ann, "action": "set-role", "resource": user("u-eve", {"lastAdmin": true, "newRoles": []}), "want": "deny"},
		"new roles not known": {"principal": ann, "action": "set-role", "resource": user("u-eve", {"lastAdmin": true}), "want": "deny"},
		"new roles malformed": {"principal": ann, "action": "set-role", "resource": user("u-eve", {"lastAdmin": true, "newRoles": {"admin": "admin"}}), "want": "deny"},
		"stays administrator": {"principal": ann, "action": "set-role", "resource": user("u-eve", {"lastAdmin": true, "newRoles": ["user", "admin"]}), "want": "allow"},
		"named administrator": {"principal": ann, "action": "set-role", "resource": user("u-zoe", {"lastAdmin": true, "newRoles": ["user"]}), "want": "allow"},
		"named administrator, ban": {"principal": ann, "action": "ban", "resource": user("u-zoe", {"lastAdmin": true}), "want": "deny"},
		"demote another": {"principal": ann, "action": "set-role", "resource": user("u-eve", {"lastAdmin": false, "newRoles": ["user"]}), "want": "allow"},
		"roles of a user to come": {"principal": ann, "action": "set-role", "resource": {"type": "user", "properties": {"newRoles": ["user"]}}, "want": "allow"},
		"update": {"principal": ann, "action": "update", "resource": user("u-eve", {"lastAdmin": true}), "want": "allow"},
	}
	guarded(c, "last_admin")
}

# Keys carry no more than their maker may hand out.
test_escalation_by_key[note] if {
	some note, c in {
		"own grants of self": {"principal": bob, "action": "create", "resource": key_with("u-bob", {"session": ["list"], "apiKey": ["read"]}), "want": "allow"},
		"own grants for the application": {"principal": bob, "action": "create", "resource": key_with("u-bob", {"note": ["read", "*"]}), "want": "allow"},
		"own grants of nobody's type": {"principal": bob, "action": "create", "resource": key_with("u-bob", {"invoice": ["read"]}), "want": "deny"},
		"own grants by no role": {"principal": bob, "action": "create", "resource": key_with("u-bob", {"user": ["list"]}), "want": "deny"},
		"one of several": {"principal": bob, "action": "create", "resource": key_with("u-bob", {"session": ["list"], "user": ["get", "ban"]}), "want": "deny"},
		"everything": {"principal": ann, "action": "create", "resource": key_with("u-ann", {"*": ["*"]}), "want": "deny"},
		"all actions, where only some were given": {"principal": ann, "action": "create", "resource": key_with("u-ann", {"user": ["*"]}), "want": "deny"},
		"by role": {"principal": ann, "action": "create", "resource": key_with("u-ann", {"user": ["list", "ban"]}), "want": "allow"},
		"all actions by role": {"principal": with_roles(bob, ["chief"]), "action": "create", "resource": key_with("u-bob", {"document": ["edit", "*"]}), "want": "allow"},
		"for another, by role": {"principal": ann, "action": "create", "resource": key_with("u-bob", {"user": ["list"]}), "want": "allow"},
		"for another, of self": {"principal": with_roles(bob, ["editor"]), "action": "create", "resource": key_with("u-eve", {"session": ["list"]}), "want": "deny"},
		"for another, for the application": {"principal": ann, "action": "create", "resource": key_with("u-bob", {"note": ["read"]}), "want": "deny"},
		"no grants": {"principal": bob, "action": "create", "resource": key_with("u-bob", {}), "want": "allow"},
		"null grants": {"principal": bob, "action": "create", "resource": key_with("u-bob", null), "want": "allow"},
		"a type without actions": {"principal": bob, "action": "create", "resource": key_with("u-bob", {"user": []}), "want": "allow"},
		"grants are text": {"principal": bob, "action": "create", "resource": key_with("u-bob", "session"), "want": "deny"},
		"grants are an empty list": {"principal": bob, "action": "create", "resource": key_with("u-bob", []), "want": "deny"},
		"grants are a list": {"principal": bob, "action": "create", "resource": key_with("u-bob", ["session"]), "want": "deny"},
		"actions are text": {"principal": bob, "action": "create", "resource": key_with("u-bob", {"session": "list"}), "want": "deny"},
		"actions are an object": {"principal": bob, "action": "create", "resource": key_with("u-bob", {"session": {"0": "list"}}), "want": "deny"},
		"an action is null": {"principal": bob, "action": "create", "resource": key_with("u-bob", {"note": [null]}), "want": "deny"},
		"by a key that has them": {"principal": by_key(ann, {"apiKey": ["create"], "user": ["list"]}), "action": "create", "resource": key_with("u-ann", {"user": ["list"]}), "want": "allow"},
		"by a key that has them not": {"principal": by_key(ann, {"apiKey": ["create"]}), "action": "create", "resource": key_with("u-ann", {"user": ["list"]}), "want": "deny"},
		"by a key, of self": {"principal": by_key(bob, {"apiKey": ["create"]}), "action": "create", "resource": key_with("u-bob", {"session": ["list"]}), "want": "deny"},
		"by a key, for the application": {"principal": by_key(bob, {"apiKey": ["create"], "note": ["read"]}), "action": "create", "resource": key_with("u-bob", {"note": ["read", "write"]}), "want": "deny"},
		"by a session from a key": {"principal": by_key_session(ann, {"apiKey": ["create"]}), "action": "create", "resource": key_with("u-ann", {"user": ["list"]}), "want": "deny"},
		"update": {"principal": bob, "action": "update", "resource": key_with("u-bob", {"user": ["list"]}), "want": "deny"},
		"update without grants": {"principal": bob, "action": "update", "resource": key_of("u-bob"), "want": "allow"},
		"rotate": {"principal": ann, "action": "rotate", "resource": key_with("u-bob", {"note": ["read"]}), "want": "deny"},
		"rotate one's own": {"principal": bob, "action": "rotate", "resource": key_with("u-bob", {"note": ["read"]}), "want": "allow"},
		"delete": {"principal": ann, "action": "delete", "resource": key_with("u-bob", {"*": ["*"]}), "want": "allow"},
	}
	guarded(c, "escalation")
}

# New users have no more than their maker, who may set no roles.
test_escalation_by_role[note] if {
	chief := with_roles(bob, ["chief"])
	some note, c in {
		"within": {"principal": chief, "action": "create", "resource": new_user(["user", "ghost"]), "want": "allow"},
		"beyond": {"principal": chief, "action": "create", "resource": new_user(["admin"]), "want": "deny"},
		"one beyond": {"principal": chief, "action": "create", "resource": new_user(["user", "editor"]), "want": "deny"},
		"covered by all actions": {"principal": with_roles(bob, ["chief", "editor"]), "action": "create", "resource": new_user(["editor", "chief"]), "want": "allow"},
		"who may set roles": {"principal": ann, "action": "create", "resource": new_user(["chief"]), "want": "allow"},
		"whose key may not": {"principal": by_key(ann, {"user": ["create"]}), "action": "create", "resource": new_user(["admin"]), "want": "deny"},
		"whose key may": {"principal": by_key(ann, {"user": ["create", "set-role"]}), "action": "create", "resource": new_user(["admin"]), "want": "allow"},
		"no roles": {"principal": chief, "action": "create", "resource": new_user([]), "want": "allow"},
		"no word of roles": {"principal": chief, "action": "create", "resource": users, "want": "allow"},
		"roles are text": {"principal": chief, "action": "create", "resource": new_user("user"), "want": "deny"},
		"roles are an object": {"principal": chief, "action": "create", "resource": new_user({"x": "user"}), "want": "deny"},
		"new roles that are not asked for": {"principal": chief, "action": "impersonate", "resource": new_user(["admin"]), "want": "allow"},
		"roles are null": {"principal": chief, "action": "create", "resource": new_user(null), "want": "deny"},
		"a role is a list": {"principal": chief, "action": "create", "resource": new_user([["admin"]]), "want": "deny"},
		"on sign-up": {
			"principal": nobody, "action": "create", "want": "deny",
			"resource": {"type": "user", "properties": {"method": "sign-up", "newRoles": ["admin"]}},
		},
	}
	guarded(c, "escalation")
}

new_user(roles) := {"type": "user", "properties": {"newRoles": roles}}

# A key does not take over the account of somebody who has more than the key.
test_escalation_by_account[note] if {
	grants := {"user": ["set-password", "set-email", "impersonate"]}
	some action in ["set-password", "set-email", "impersonate"]
	some name, c in {
		"of less": {"principal": by_key(ann, grants), "resource": user("u-bob", {"roles": ["user"]}), "want": "allow"},
		"of more": {"principal": by_key(ann, grants), "resource": user("u-eve", {"roles": ["admin"]}), "want": "deny"},
		"of more, beside less": {"principal": by_key(ann, grants), "resource": user("u-eve", {"roles": ["user", "admin"]}), "want": "deny"},
		"of a named administrator": {"principal": by_key(ann, grants), "resource": user("u-zoe", {"roles": ["user"]}), "want": "deny"},
		"of a named administrator, by as much": {"principal": by_key(ann, {"*": ["*"]}), "resource": user("u-zoe", {"roles": ["user"]}), "want": "allow"},
		"of a named administrator with more": {"principal": by_key(ann, {"*": ["*"]}), "resource": user("u-zoe", {"roles": ["chief"]}), "want": "deny"},
		"of its owner": {"principal": by_key(ann, grants), "resource": user("u-ann", {"roles": ["admin"]}), "want": "deny"},
		"of as much": {"principal": by_key(ann, {"*": ["*"]}), "resource": user("u-eve", {"roles": ["admin"]}), "want": "allow"},
		"in a session from a key": {"principal": by_key_session(ann, grants), "resource": user("u-eve", {"roles": ["admin"]}), "want": "deny"},
		"roles not known": {"principal": by_key(ann, grants), "resource": user("u-eve", {}), "want": "deny"},
		"roles malformed": {"principal": by_key(ann, grants), "resource": user("u-eve", {"roles": "user"}), "want": "deny"},
		"a role is null": {"principal": by_key(ann, grants), "resource": user("u-eve", {"roles": [null]}), "want": "deny"},
		"of nobody in particular": {"principal": by_key(ann, grants), "resource": users, "want": "allow"},
		"without a key": {"principal": ann, "resource": user("u-eve", {"roles": ["admin"]}), "want": "allow"},
	}
	note := sprintf("%s %s", [action, name])
	guarded(object.union(c, {"action": action}), "escalation")
}
