# What the service answers to "may this principal do this to that?".
#
# Something has to permit it (a role, the principal's own self, the
# application's policy, or that anybody may), the API key at work has to be
# granted it, and nothing may forbid it. What is missing or malformed in the
# input permits nothing.
#
# Safe negation: `not` stands before a rule of this package only, never before
# an expression that reads input. If such an expression is undefined, so can be
# the whole negation, and a guard written that way stays silent.
package ostiary

# The last resort, so that there is a decision whatever happens.
default decision := {
	"allow": false,
	"reasons": [{"code": "role_missing", "message": "nothing permits it"}],
	"context": {},
}

decision := {"allow": true, "reasons": [permit], "context": context} if {
	allowed
} else := {"allow": false, "reasons": sort(reasons), "context": context} if {
	count(reasons) > 0
}

allowed if {
	permit
	granted
	not forbidden
}

# The same without the reason: what a filter is made from (which of these may they?).
# Whether any of four rules holds is not unfolded from a chain of elses.
passes if {
	permitted
	granted
	not forbidden
}

permitted if role_permits

permitted if self_permits

permitted if app_permits

permitted if public

# What permits it: the first that does.
permit := {"code": "role", "message": "a role permits it"} if {
	role_permits
} else := {"code": "self", "message": "it is the principal's own"} if {
	self_permits
} else := {"code": "app", "message": "the application's policy permits it"} if {
	app_permits
} else := {"code": "public", "message": "anybody may do it"} if {
	public
}

# What forbids it: a guard, or the application.
forbidden if some _ in guards

forbidden if app_forbids

# An application's allow is a rule that is true, or a set with something in it.
app_permits if {
	well_formed
	data.app[input.resource.type].allow == true
}

app_permits if {
	well_formed
	is_set(data.app[input.resource.type].allow)
	count(data.app[input.resource.type].allow) > 0
}

# An application's deny is a set of reasons. Any other shape forbids too, unless
# it is false or empty.
app_forbids if {
	deny := data.app[input.resource.type].deny
	deny != false
	deny != set()
	deny != []
}

# Sign-up and sign-in, for those whom we do not know yet.
public if {
	input.resource.type == "user"
	input.action.name == "create"
	input.resource.properties.method == "sign-up"
	data.settings.sign_up == true
	anonymous
	not targeted
}

public if {
	input.resource.type == "session"
	input.action.name == "create"
	input.resource.properties.method == "password"
	is_string(input.resource.properties.owner)
	anonymous
}

# Routes that data.routes opens to everybody.
public if {
	input.resource.type == "route"
	input.resource.properties.permission == "public"
	well_formed
}

# What the application wants to be told or done, on either answer.
context := data.app[input.resource.type].context if {
	is_object(data.app[input.resource.type].context)
} else := {}
