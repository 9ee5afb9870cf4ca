# Who is asking, and about what.
package ostiary

# The principal and the question are what the input schema says they are.
well_formed if {
	authenticated
	named
}

well_formed if {
	anonymous
	named
}

# Nobody is known to be asking.
anonymous if {
	input.principal.type == "anonymous"
	input.principal.credential == "none"
	not keyed
}

# Somebody is.
authenticated if {
	input.principal.credential == "session"
	is_object(input.principal.session)
	account
}

authenticated if {
	input.principal.credential == "api_key"
	is_object(input.principal.key)
	account
}

authenticated if {
	input.principal.credential == "asserted"
	input.principal.type != "anonymous"
	input.principal.type != ""
	is_string(input.principal.type)
	identified
	not described
}

authenticated if {
	input.principal.credential == "asserted"
	account
}

# A user or service account that the store knows, banned or not.
account if {
	input.principal.type in {"service_account", "user"}
	is_boolean(input.principal.user.banned)
	identified
}

identified if {
	input.principal.id != ""
	is_string(input.principal.id)
	is_array(input.principal.roles)
}

described if _ = input.principal.user

# An API key is at work: presented, or the one that the session was obtained
# with. Whatever stands there counts, even null: then it is a key without grants.
keyed if _ = input.principal.key

impersonated if _ = input.principal.session.impersonatedBy

# A session that does not stand for a recent sign-in.
stale if {
	input.principal.credential == "session"
	not fresh
}

fresh if input.principal.session.fresh == true

# The resource is the principal itself, or its session or key.
own if {
	input.resource.type == "user"
	input.resource.id == input.principal.id
	account
}

own if {
	input.resource.type in {"apiKey", "session"}
	input.resource.properties.owner == input.principal.id
	account
}

# Users of settings.admin_user_ids, whatever their roles.
administrator if {
	data.permits.admins[input.principal.id] == true
	account
}

# The question is about one resource, not about all of a type.
targeted if _ = input.resource.id

# The permission that a route is mapped to by data.routes; the service looks it
# up, and says it in the form "document:read".
mapped := {"type": type, "action": action} if {
	input.resource.type == "route"
	is_string(input.resource.properties.permission)
	colon := indexof(input.resource.properties.permission, ":")
	colon > 0
	type := substring(input.resource.properties.permission, 0, colon)
	action := substring(input.resource.properties.permission, colon + 1, -1)
	action != ""
}

# The question has a permission: a resource type and an action.
named if {
	input.resource.type != ""
	input.action.name != ""
	is_string(input.resource.type)
	is_string(input.action.name)
}
