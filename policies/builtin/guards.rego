# What is forbidden, however much is permitted. The codes of the guards that
# hold; the sentences are in reasons.rego.
package ostiary

# A banned account does nothing, and nobody signs in to it.
guards contains "owner_banned" if banned

guards contains "owner_banned" if {
	input.resource.type == "session"
	input.action.name == "create"
	input.resource.properties.user.banned == true
}

banned if input.principal.user.banned == true

# Impersonating somebody is not being them.
guards contains "impersonating" if {
	input.resource.type == "user"
	input.action.name in {"change-email", "change-password"}
	impersonated
}

guards contains "impersonating" if {
	input.resource.type == "user"
	input.action.name == "delete"
	impersonated
	own
}

guards contains "impersonating" if {
	input.resource.type == "apiKey"
	input.action.name in {"create", "rotate"}
	impersonated
}

# A session that was not signed in to recently. Sessions that were obtained with
# a key are shown no tokens, so for them the list is harmless.
guards contains "session_not_fresh" if {
	input.resource.type == "session"
	input.action.name == "list"
	own
	stale
	not keyed
}

guards contains "session_not_fresh" if {
	input.resource.type == "user"
	input.action.name == "delete"
	own
	stale
	not confirmed
}

# The password was asked for and is right.
confirmed if input.resource.properties.confirmed == true

# Somebody has to be left who can let others in. It must be known that there is.
guards contains "last_admin" if {
	input.resource.type == "user"
	input.action.name in {"ban", "delete"}
	targeted
	not dispensable
}

guards contains "last_admin" if {
	input.resource.type == "user"
	input.action.name == "set-role"
	targeted
	not dispensable
	not stays_administrator
}

dispensable if input.resource.properties.lastAdmin == false

stays_administrator if target_administrator

stays_administrator if {
	is_array(input.resource.properties.newRoles)
	some role in input.resource.properties.newRoles
	role in data.settings.admin_roles
}

# Nobody hands out more than they have: with a key,
guards contains "escalation" if {
	input.resource.type == "apiKey"
	input.action.name in {"create", "rotate", "update"}
	hands_out_grants
	not grants_within
}

# with the roles of a new user,
guards contains "escalation" if {
	input.resource.type == "user"
	input.action.name == "create"
	hands_out_roles
	not new_roles_within
	not may_set_roles
}

# or, for a key, by taking over the account of somebody who has more.
guards contains "escalation" if {
	input.resource.type == "user"
	input.action.name in {"impersonate", "set-email", "set-password"}
	targeted
	keyed
	not target_within
}

hands_out_grants if _ = input.resource.properties.permissions

grants_within if input.resource.properties.permissions == null

grants_within if {
	is_object(input.resource.properties.permissions)
	every type, actions in input.resource.properties.permissions {
		is_array(actions)
		every action in actions {
			is_string(action)
			may_hand_out(type, action)
		}
	}
}

# Permissions of a type that the application has a policy for may go to one's
# own keys: the policy decides what they are worth.
may_hand_out(type, action) if holds(type, action)

may_hand_out(type, action) if {
	own
	by_self(type, action)
	key_at_work_permits(type, action)
}

may_hand_out(type, action) if {
	own
	data.permits.app[type]
	key_at_work_permits(type, action)
}

hands_out_roles if _ = input.resource.properties.newRoles

new_roles_within if roles_within(input.resource.properties.newRoles)

may_set_roles if holds("user", "set-role")

target_within if {
	roles_within(input.resource.properties.roles)
	not target_administrator
}

target_within if {
	roles_within(input.resource.properties.roles)
	roles_within(data.settings.admin_roles)
}

target_administrator if data.permits.admins[input.resource.id] == true

# The principal has every permission that these roles give.
roles_within(list) if {
	is_array(list)
	every role in list {
		is_string(role)
		every type, actions in object.get(data.permits.roles, role, {}) {
			every action, _ in actions {
				holds(type, action)
			}
		}
	}
}

# The principal has the permission by role, as far as the key at work reaches.
holds(type, action) if {
	by_role(type, action)
	key_at_work_permits(type, action)
}

key_at_work_permits(type, action) if key_permits(type, action)

key_at_work_permits(_, _) if not keyed
