# What matters needs a sign-in a few minutes ago. The application, told
# sign_in_again, sends the person to the sign-in and asks again. (That a session
# stands for a sign-in within session.fresh_age is input.principal.session.fresh.)
package app.wallet

deny contains {"code": "sign_in_again", "message": "this needs a recent sign-in"} if {
	input.action.name in {"change-account", "pay"}
	not recent
}

# Only a session is a sign-in: not a key, a session that was obtained with one, one
# in which somebody impersonates the person, or what an application says.
recent if {
	input.principal.credential == "session"
	not by_key
	not impersonated
	age >= 0
	age < ((data.step_up.minutes * 60) * 1000) * 1000000
}

age := time.parse_rfc3339_ns(input.context.time) - time.parse_rfc3339_ns(input.principal.session.createdAt)

by_key if _ = input.principal.key

impersonated if _ = input.principal.session.impersonatedBy
