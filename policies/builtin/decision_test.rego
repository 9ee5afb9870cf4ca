package ostiary_test

import data.ostiary

test_what_permits_comes_first_role_then_self_then_app[note] if {
	some note, c in {
		"role": {"principal": ann, "self": {"user": {"get": true}}, "want": "role"},
		"self": {"principal": bob, "self": {"user": {"get": true}}, "want": "self"},
		"app": {"principal": bob, "self": {}, "want": "app"},
	}
	d := ostiary.decision with input as ask(c.principal, "get", user(c.principal.id, {}))
		with data.permits.self as c.self
		with data.app.user.allow as true
	d.allow
	codes(d.reasons) == [c.want]
}

test_applications_allow[note] if {
	some note, c in {
		"true": {"allow": true, "want": true},
		"false": {"allow": false, "want": false},
		"a set": {"allow": {"owner"}, "want": true},
		"an empty set": {"allow": set(), "want": false},
		"a list": {"allow": ["owner"], "want": false},
		"an object": {"allow": {"owner": true}, "want": false},
		"text": {"allow": "yes", "want": false},
		"a number": {"allow": 1, "want": false},
		"null": {"allow": null, "want": false},
	}
	every principal in [bob, nobody] {
		d := ostiary.decision with input as ask(principal, "read", {"type": "document"})
			with data.app.document as {"allow": c.allow}
		d.allow == c.want
		passes({"principal": principal, "action": "read", "resource": {"type": "document"}}) == c.want with data.app.document as {"allow": c.allow}
	}
}

# An application that permits gives a key nothing that it was not granted.
test_applications_cannot_widen_a_key if {
	d := ostiary.decision with input as ask(by_key(bob, {"document": ["read"]}), "write", {"type": "document"})
		with data.app.document.allow as true
	codes(d.reasons) == ["grant_missing"]
}

test_applications_permit_their_own_type_only if {
	d := ostiary.decision with input as ask(bob, "read", {"type": "document"})
		with data.app.folder.allow as true
	codes(d.reasons) == ["role_missing"]
}

test_applications_deny[note] if {
	some note, c in {
		"a sentence": {"deny": {"not today"}, "want": [{"code": "denied", "message": "not today"}]},
		"several": {"deny": {"b", "a"}, "want": [{"code": "denied", "message": "a"}, {"code": "denied", "message": "b"}]},
		"an object": {
			"deny": {{"code": "frozen", "message": "it is frozen", "until": "May"}},
			"want": [{"code": "frozen", "message": "it is frozen", "until": "May"}],
		},
		"an object without code": {"deny": {{"message": "m"}}, "want": [{"code": "denied", "message": "m"}]},
		"an object without message": {"deny": {{"code": "c"}}, "want": [{"code": "c", "message": "the policy for user forbids it"}]},
		"an empty sentence": {"deny": {""}, "want": [{"code": "denied", "message": "the policy for user forbids it"}]},
		"an object with empty members": {"deny": {{"code": "", "message": ""}}, "want": [{"code": "denied", "message": "the policy for user forbids it"}]},
		"an object with odd members": {"deny": {{"code": 1, "message": null}}, "want": [{"code": "denied", "message": "the policy for user forbids it"}]},
		"a set of something else": {"deny": {7}, "want": [{"code": "denied", "message": "the policy for user forbids it"}]},
		"a list": {"deny": ["a"], "want": [{"code": "denied", "message": "a"}]},
		"true": {"deny": true, "want": [{"code": "denied", "message": "the policy for user forbids it"}]},
		"text": {"deny": "no", "want": [{"code": "denied", "message": "no"}]},
		"a single object": {"deny": {"code": "c", "message": "m"}, "want": [{"code": "c", "message": "m"}]},
		"a number": {"deny": 0, "want": [{"code": "denied", "message": "the policy for user forbids it"}]},
		"null": {"deny": null, "want": [{"code": "denied", "message": "the policy for user forbids it"}]},
	}
	d := ostiary.decision with input as ask(ann, "list", users)
		with data.app.user as {"deny": c.deny}
	print(d)
	not d.allow
	d.reasons == c.want
}

test_applications_that_do_not_deny[note] if {
	some note, deny in {"false": false, "an empty set": set(), "an empty list": []}
	d := ostiary.decision with input as ask(ann, "list", users)
		with data.app.user as {"deny": deny}
	d.allow
}

test_applications_that_do_not_deny_give_no_reason[note] if {
	some note, deny in {"false": false, "an empty set": set(), "an empty list": []}
	d := ostiary.decision with input as ask(bob, "list", users)
		with data.app.user as {"deny": deny}
	codes(d.reasons) == ["role_missing"]
}

test_applications_deny_beside_other_reasons if {
	d := ostiary.decision with input as ask(by_key(bob, {}), "list", users)
		with data.app.user as {"deny": {"not today"}}
	codes(d.reasons) == ["denied", "grant_missing", "role_missing"]
}

test_applications_hand_back_a_context[note] if {
	some note, c in {
		"an object": {"context": {"fields": ["name"]}, "want": {"fields": ["name"]}},
		"none": {"context": null, "want": {}},
		"text": {"context": "name", "want": {}},
	}
	every principal in [ann, bob] {
		d := ostiary.decision with input as ask(principal, "list", users)
			with data.app.user as {"context": c.context}
		d.context == c.want
	}
}

test_sign_up[note] if {
	some note, c in {
		"open": {"open": true, "resource": {"type": "user", "properties": {"method": "sign-up"}}, "codes": ["public"]},
		"closed": {"open": false, "resource": {"type": "user", "properties": {"method": "sign-up"}}, "codes": ["unauthenticated"]},
		"open is no text": {"open": "true", "resource": {"type": "user", "properties": {"method": "sign-up"}}, "codes": ["unauthenticated"]},
		"without method": {"open": true, "resource": users, "codes": ["unauthenticated"]},
		"of somebody": {"open": true, "resource": user("u-eve", {"method": "sign-up"}), "codes": ["unauthenticated"]},
	}
	d := ostiary.decision with input as ask(nobody, "create", c.resource)
		with data.settings.sign_up as c.open
	codes(d.reasons) == c.codes
	d.allow == permits(c.codes)
	passes({"principal": nobody, "action": "create", "resource": c.resource}) == d.allow with data.settings.sign_up as c.open
}

permits(list) if list[0] in {"public", "self"}

else := false

# Nobody may do what is called alike.
test_only_signing_up_and_in_are_for_anybody[note] if {
	some note, c in {
		"another action": {"principal": nobody, "action": "update", "resource": {"type": "user", "properties": {"method": "sign-up"}}},
		"another type": {"principal": nobody, "action": "create", "resource": {"type": "document", "properties": {"method": "sign-up"}}},
		"another action on sessions": {"principal": nobody, "action": "list", "resource": {"type": "session", "properties": {"owner": "u-bob", "method": "password"}}},
		"another type than a session": {"principal": nobody, "action": "create", "resource": {"type": "document", "properties": {"owner": "u-bob", "method": "password"}}},
		"somebody, for another": {"principal": bob, "action": "create", "resource": {"type": "session", "properties": {"owner": "u-eve", "method": "password"}}},
	}
	d := ostiary.decision with input as ask(c.principal, c.action, c.resource)
	not d.allow
}

test_sign_up_is_for_nobody_yet if {
	d := ostiary.decision with input as ask(bob, "create", {"type": "user", "properties": {"method": "sign-up"}})
	codes(d.reasons) == ["role_missing"]
}

test_sign_in[note] if {
	some note, c in {
		"with a password": {"principal": nobody, "properties": {"owner": "u-bob", "method": "password", "user": {"banned": false}}, "codes": ["public"]},
		"to nobody's account": {"principal": nobody, "properties": {"method": "password"}, "codes": ["unauthenticated"]},
		"otherwise": {"principal": nobody, "properties": {"owner": "u-bob", "method": "magic"}, "codes": ["unauthenticated"]},
		"with a key that may": {
			"principal": by_key(bob, {"session": ["create"]}),
			"properties": {"owner": "u-bob", "method": "api_key", "user": {"banned": false}}, "codes": ["self"],
		},
		"with a key that may not": {
			"principal": by_key(bob, {"session": ["list"]}),
			"properties": {"owner": "u-bob", "method": "api_key", "user": {"banned": false}}, "codes": ["grant_missing"],
		},
	}
	d := ostiary.decision with input as ask(c.principal, "create", {"type": "session", "properties": c.properties})
	codes(d.reasons) == c.codes
	d.allow == permits(c.codes)
}

test_an_application_can_refuse_a_sign_in if {
	d := ostiary.decision with input as ask(by_key(bob, {"session": ["create"]}), "create", session_of("u-bob"))
		with data.app.session as {"deny": {"keys do not sign in"}}
	codes(d.reasons) == ["denied"]
}

# Reasons are sentences that name what they are about.
test_reasons[note] if {
	some note, c in sentences
	d := ostiary.decision with input as ask(c.principal, c.action, c.resource)
	print(d)
	not d.allow
	d.reasons == c.want
}

sentences := {
	"role": {
		"principal": bob, "action": "list", "resource": users,
		"want": [{"code": "role_missing", "message": "no role of bob permits user:list", "permission": "user:list"}],
	},
	"role, nameless": {
		"principal": object.union(bob, {"user": {"name": ""}}), "action": "list", "resource": users,
		"want": [{"code": "role_missing", "message": "no role of u-bob permits user:list", "permission": "user:list"}],
	},
	"grant": {
		"principal": by_key(ann, {"user": ["list"]}), "action": "set-password", "resource": users,
		"want": [{"code": "grant_missing", "message": "key \"System\" is not granted user:set-password", "permission": "user:set-password"}],
	},
	"grant, nameless": {
		"principal": object.union(by_key(ann, {}), {"key": {"name": ""}}), "action": "list", "resource": users,
		"want": [{"code": "grant_missing", "message": "key \"k1\" is not granted user:list", "permission": "user:list"}],
	},
	"grant, of a key of which nothing is known": {
		"principal": object.union(by_key(ann, {}), {"key": {"name": null, "id": null}}), "action": "list", "resource": users,
		"want": [{"code": "grant_missing", "message": "key \"without a name\" is not granted user:list", "permission": "user:list"}],
	},
	"nobody": {
		"principal": nobody, "action": "list", "resource": users,
		"want": [{"code": "unauthenticated", "message": "user:list needs a credential", "permission": "user:list"}],
	},
	"nobody creates a user": {
		"principal": nobody, "action": "create", "resource": users,
		"want": [{"code": "unauthenticated", "message": "user:create needs a credential", "permission": "user:create"}],
	},
	"nobody updates a user": {
		"principal": nobody, "action": "update", "resource": {"type": "user", "properties": {"method": "sign-up"}},
		"want": [{"code": "unauthenticated", "message": "user:update needs a credential", "permission": "user:update"}],
	},
	"nobody creates something else": {
		"principal": nobody, "action": "create", "resource": {"type": "document", "properties": {"method": "sign-up"}},
		"want": [{"code": "unauthenticated", "message": "document:create needs a credential", "permission": "document:create"}],
	},
	"unnamed, by an empty name": {
		"principal": ann, "action": "", "resource": users,
		"want": [{"code": "role_missing", "message": "no role of ann permits an unnamed permission", "permission": "an unnamed permission"}],
	},
	"malformed": {
		"principal": {"type": "user", "id": "u-bob"}, "action": "list", "resource": users,
		"want": [{"code": "unauthenticated", "message": "the principal is missing or malformed", "permission": "user:list"}],
	},
	"unnamed": {
		"principal": ann, "action": null, "resource": users,
		"want": [{"code": "role_missing", "message": "no role of ann permits an unnamed permission", "permission": "an unnamed permission"}],
	},
	"banned": {
		"principal": banned(ann), "action": "list", "resource": users,
		"want": [{"code": "owner_banned", "message": "the account is banned"}],
	},
	"impersonating": {
		"principal": impersonated(bob), "action": "change-password", "resource": user("u-bob", {}),
		"want": [{"code": "impersonating", "message": "user:change-password is for the person, not for whoever impersonates them"}],
	},
	"not fresh": {
		"principal": stale(bob), "action": "list", "resource": session_of("u-bob"),
		"want": [{"code": "session_not_fresh", "message": "session:list needs a recent sign-in"}],
	},
	"last administrator": {
		"principal": ann, "action": "delete", "resource": user("u-eve", {"lastAdmin": true}),
		"want": [{"code": "last_admin", "message": "u-eve is the last administrator"}],
	},
	"last administrator, perhaps": {
		"principal": ann, "action": "delete", "resource": user("u-eve", {}),
		"want": [{"code": "last_admin", "message": "it is not known whether u-eve is the last administrator"}],
	},
	"escalation": {
		"principal": bob, "action": "create", "resource": key_with("u-bob", {"user": ["list", "ban"], "session": ["list"]}),
		"want": [{"code": "escalation", "message": "apiKey:create would hand out more than bob may: user:ban, user:list"}],
	},
	"escalation to an account": {
		"principal": by_key(ann, {"user": ["set-password"]}), "action": "set-password", "resource": user("u-eve", {"roles": ["admin"]}),
		"want": [{"code": "escalation", "message": "user:set-password would give ann more than the credential permits"}],
	},
	"sign-up with roles, of somebody odd": {
		"principal": object.union(nobody, {"id": 5}), "action": "create", "resource": {"type": "user", "properties": {"method": "sign-up", "newRoles": ["admin"]}},
		"want": [{"code": "escalation", "message": "user:create would give the principal more than the credential permits"}],
	},
	"sign-up with roles, of nobody": {
		"principal": nobody, "action": "create", "resource": {"type": "user", "properties": {"method": "sign-up", "newRoles": ["admin"]}},
		"want": [{"code": "escalation", "message": "user:create would give the principal more than the credential permits"}],
	},
}

test_closed_sign_up_says_so if {
	d := ostiary.decision with input as ask(nobody, "create", {"type": "user", "properties": {"method": "sign-up"}})
		with data.settings.sign_up as false
	d.reasons == [{"code": "unauthenticated", "message": "sign-up is closed", "permission": "user:create"}]
}

# Should a denial ever be without reasons, it is still a denial with one.
test_denies_without_reasons_too if {
	d := ostiary.decision with input as ask(bob, "list", users)
		with data.ostiary.reasons as set()
	d == {"allow": false, "reasons": [{"code": "role_missing", "message": "nothing permits it"}], "context": {}}
}
