# Keys are for programs: they are not exchanged for sessions.
package app.session

deny contains "keys do not sign in" if {
	input.action.name == "create"
	input.principal.credential == "api_key"
}
