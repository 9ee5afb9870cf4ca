# Who holds which permission.
#
# The tables are data.roles (role → type → actions), data.self (type → actions)
# and the grants of the key at work. data.permits has the first two with objects
# for lists, {type: {action: true}}, and in holders who has what, {type: {action:
# {role: true}}}, so that a permission is one look-up away, however many roles there are.
# In all of them "*" stands for every type or every action, where it is written.
package ostiary

# As is usual; the tables have only names that are well-formed.
role_permits if {
	authenticated
	holders := data.permits.holders[input.resource.type][input.action.name]
	some role in input.principal.roles
	holders[role]
}

role_permits if {
	named
	authenticated
	by_role(input.resource.type, input.action.name)
}

# A route is permitted to whoever holds the permission that it is mapped to.
role_permits if {
	input.resource.type == "route"
	named
	authenticated
	by_role(mapped.type, mapped.action)
}

self_permits if {
	named
	authenticated
	own
	by_self(input.resource.type, input.action.name)
}

# The key at work, if there is one, must be granted it too.
granted if not keyed

granted if key_permits(input.resource.type, input.action.name)

granted if {
	input.resource.type == "route"
	key_permits(mapped.type, mapped.action)
}

by_role(type, action) if held(data.permits.holders[type][action])

by_role(type, _) if held(data.permits.holders[type]["*"])

by_role(_, action) if held(data.permits.holders["*"][action])

by_role(_, _) if held(data.permits.holders["*"]["*"])

held(holders) if {
	some role in input.principal.roles
	holders[role]
}

held(holders) if {
	administrator
	some role in data.settings.admin_roles
	holders[role]
}

by_self(type, action) if data.permits.self[type][action]

by_self(type, _) if data.permits.self[type]["*"]

by_self(_, action) if data.permits.self["*"][action]

by_self(_, _) if data.permits.self["*"]["*"]

key_permits(type, action) if lists(input.principal.key.permissions[type], action)

key_permits(_, action) if lists(input.principal.key.permissions["*"], action)

lists(actions, action) if {
	is_array(actions)
	action in actions
}

lists(actions, _) if {
	is_array(actions)
	"*" in actions
}

# What the principal may do by role, and what with its own, as lists: as much
# of the tables as the key at work is granted too.
permissions := table(narrowed({[type, action] |
	standing
	some role in roles
	some type, actions in data.permits.roles[role]
	some action, _ in actions
}))

own_permissions := table(narrowed({[type, action] |
	standing
	account
	some type, actions in data.permits.self
	some action, _ in actions
}))

# The principal is somebody who may do anything at all.
standing if {
	authenticated
	not banned
}

roles contains role if some role in input.principal.roles

roles contains role if {
	administrator
	some role in data.settings.admin_roles
}

narrowed(pairs) := pairs if not keyed

narrowed(pairs) := {[type, action] |
	some pair in pairs
	some granted_type, granted_actions in input.principal.key.permissions
	is_array(granted_actions)
	some granted_action in granted_actions
	type := common(pair[0], granted_type)
	action := common(pair[1], granted_action)
} if {
	keyed
}

# What two names of a table both stand for.
common(a, b) := a if a == b

common(a, "*") := a

common("*", b) := b

table(pairs) := {type: sort(actions) |
	some [type, _] in pairs
	actions := {pair[1] | some pair in pairs; pair[0] == type}
}
