package app.document

allow if {
	input.action.name == "read"
	input.resource.properties.owner == input.principal.user.email
}
