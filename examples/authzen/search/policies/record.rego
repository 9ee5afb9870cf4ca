# Records that belong to a person and to a department.
package app.record

allow contains "owner" if {
	input.action.name in {"view", "edit", "delete"}
	known
	input.resource.properties.owner == input.principal.id
}

allow contains "department" if {
	input.action.name == "view"
	known
	same_department
}

allow contains "manager" if {
	input.action.name == "view"
	known
	manager
}

allow contains "manager" if {
	input.action.name == "edit"
	known
	manager
	same_department
}

known if {
	input.principal.known
	input.resource.known
}

manager if input.principal.properties.role == "manager"

same_department if input.resource.properties.department == input.principal.properties.department
