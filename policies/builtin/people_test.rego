# Who appears in the tests, and how the tests ask.
package ostiary_test

import data.ostiary

ann := {
	"type": "user",
	"id": "u-ann",
	"credential": "session",
	"roles": ["admin"],
	"user": {"id": "u-ann", "name": "ann", "email": "ann@example.com", "banned": false},
	"session": {"id": "s-ann", "fresh": true},
}

bob := {
	"type": "user",
	"id": "u-bob",
	"credential": "session",
	"roles": ["user"],
	"user": {"id": "u-bob", "name": "bob", "email": "bob@example.com", "banned": false},
	"session": {"id": "s-bob", "fresh": true},
}

nobody := {"type": "anonymous", "credential": "none", "roles": []}

# Somebody with a key, and somebody in a session that was obtained with one.
by_key(person, grants) := object.union(
	object.remove(person, ["session"]),
	{"credential": "api_key", "key": {"id": "k1", "name": "System", "permissions": grants}},
)

by_key_session(person, grants) := object.union(person, {
	"session": {"fresh": false},
	"key": {"id": "k1", "name": "System", "permissions": grants},
})

stale(person) := object.union(person, {"session": {"fresh": false}})

impersonated(person) := object.union(person, {"session": {"impersonatedBy": "u-ann"}})

banned(person) := object.union(person, {"user": {"banned": true}})

with_roles(person, roles) := object.union(person, {"roles": roles})

user(id, properties) := {"type": "user", "id": id, "properties": properties}

users := {"type": "user", "properties": {}}

session_of(id) := {"type": "session", "properties": {"owner": id}}

key_of(id) := {"type": "apiKey", "properties": {"owner": id}}

key_with(id, grants) := {"type": "apiKey", "properties": {"owner": id, "permissions": grants}}

ask(principal, action, resource) := {"principal": principal, "action": {"name": action}, "resource": resource}

# Who holds which permission, by these tables of roles.
holders(roles) := {type: {action: {role: true | some role; roles[role][type][action]} |
	some role
	some action, _ in roles[role][type]
} |
	some role
	some type, _ in roles[role]
}

codes(reasons) := [r.code | some r in reasons]

# A case has a principal, an action, a resource and the codes that are expected:
# those of a denial, or of what permits it.
holds(c, allow) if {
	d := ostiary.decision with input as ask(c.principal, c.action, c.resource)
	print(d)
	d.allow == allow
	codes(d.reasons) == c.codes
	passes(c) == allow
}

# Whether a filter would have it.
passes(c) if ostiary.passes with input as ask(c.principal, c.action, c.resource)

else := false
