# Why it was denied. Read on a denial only, so sentences are free here.
package ostiary

reasons contains {"code": "unauthenticated", "message": unauthenticated, "permission": permission} if {
	not permit
	not authenticated
}

reasons contains {
	"code": "role_missing",
	"message": sprintf("no role of %s permits %s", [who, permission]),
	"permission": permission,
} if {
	authenticated
	not permit
}

reasons contains {
	"code": "grant_missing",
	"message": sprintf("key %q is not granted %s", [key_name, permission]),
	"permission": permission,
} if {
	not granted
}

# What guards know of the resource (that this is the last administrator) is for
# those whom something permits the action.
reasons contains {"code": code, "message": sentence(code)} if {
	permit
	some code in guards
}

reasons contains denial_reason(denial) if {
	app_forbids
	some denial in each(data.app[input.resource.type].deny)
}

each(deny) := deny if {
	type_name(deny) in {"array", "set"}
} else := [deny]

unauthenticated := sprintf("%s needs a credential", [permission]) if {
	anonymous
	not signing_up
} else := "sign-up is closed" if {
	anonymous
} else := "the principal is missing or malformed"

signing_up if {
	input.resource.type == "user"
	input.action.name == "create"
	input.resource.properties.method == "sign-up"
}

sentence("owner_banned") := "the account is banned"

sentence("impersonating") := sprintf("%s is for the person, not for whoever impersonates them", [permission])

sentence("session_not_fresh") := sprintf("%s needs a recent sign-in", [permission])

sentence("last_admin") := sprintf("%v is the last administrator", [input.resource.id]) if {
	input.resource.properties.lastAdmin == true
} else := sprintf("it is not known whether %v is the last administrator", [input.resource.id])

sentence("escalation") := sprintf("%s would hand out more than %s may: %s", [permission, who, concat(", ", sort(excess))]) if {
	count(excess) > 0
} else := sprintf("%s would give %s more than the credential permits", [permission, who])

# The grants of a key to be made that its maker may not hand out.
excess contains sprintf("%s:%s", [type, action]) if {
	some type, actions in input.resource.properties.permissions
	some action in actions
	not may_hand_out(type, action)
}

# An application denies with a sentence, or with an object that has a code, a
# message and whatever else it wants to say.
denial_reason(denial) := {"code": "denied", "message": denial} if {
	sayable(denial)
} else := object.union(denial, {"code": denial_code(denial), "message": denial_message(denial)}) if {
	is_object(denial)
} else := {"code": "denied", "message": the_policy_forbids}

denial_code(denial) := denial.code if sayable(denial.code)

else := "denied"

denial_message(denial) := denial.message if sayable(denial.message)

else := the_policy_forbids

sayable(text) if {
	is_string(text)
	text != ""
}

the_policy_forbids := sprintf("the policy for %v forbids it", [input.resource.type])

permission := concat(":", [mapped.type, mapped.action]) if {
	named
} else := concat(":", [input.resource.type, input.action.name]) if {
	named
} else := "an unnamed permission"

who := input.principal.user.name if {
	sayable(input.principal.user.name)
} else := input.principal.id if {
	is_string(input.principal.id)
} else := "the principal"

key_name := input.principal.key.name if {
	sayable(input.principal.key.name)
} else := input.principal.key.id if {
	is_string(input.principal.key.id)
} else := "without a name"
