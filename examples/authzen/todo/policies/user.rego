# Whoever the application knows may see who wrote a todo.
package app.user

allow contains "member" if {
	input.action.name == "can_read_user"
	input.principal.known
}
