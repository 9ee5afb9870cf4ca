# Todos. Who has which role is stored; whose a todo is, the application says.
package app.todo

allow contains "member" if {
	input.action.name == "can_read_todos"
	input.principal.known
}

allow contains role if {
	input.action.name == "can_create_todo"
	some role in ({"admin", "editor"} & roles)
}

allow contains "evil_genius" if {
	input.action.name == "can_update_todo"
	"evil_genius" in roles
}

allow contains "admin" if {
	input.action.name == "can_delete_todo"
	"admin" in roles
}

allow contains "owner" if {
	input.action.name in {"can_update_todo", "can_delete_todo"}
	"editor" in roles
	input.resource.properties.ownerID == input.principal.properties.email
}

roles contains role if {
	input.principal.known
	some role in input.principal.properties.roles
}
