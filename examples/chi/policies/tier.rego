# Who may have a key of which tier. Somebody who is signed in makes a key for
# themselves; a key, or a session that was obtained with one, makes none.
package app.tier

allow contains "free" if {
	signed_in
	input.resource.id == "free"
}

allow contains "paying" if {
	signed_in
	"paying" in input.principal.roles
}

signed_in if {
	input.action.name == "issue"
	input.principal.credential == "session"
}

deny contains {"code": "no_keys_by_key", "message": "sign in to make a key"} if input.principal.key
