# Administrators do not delete, ban or demote each other.
package app.user

deny contains {"code": "protected", "message": sprintf("%s is an administrator", [input.resource.id])} if {
	input.action.name in {"ban", "delete", "set-role"}
	input.resource.properties.admin == true
	input.resource.id != input.principal.id
}
