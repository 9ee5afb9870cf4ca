# A transfer is executed once two persons have approved it, neither of them the one
# who requested it. The application keeps who did: resource.properties has
# requestedBy, an id, and approvedBy, a list of ids that is there from the start.
package app.transfer

deny contains {"code": "not_a_person", "message": "people approve, in a session of their own"} if {
	input.action.name == "approve"
	not person
}

deny contains {"code": "own_request", "message": "whoever requested it does not approve it"} if {
	input.action.name == "approve"
	not requested_by_another
}

deny contains {"code": "approved_already", "message": "the same person does not approve twice"} if {
	input.action.name == "approve"
	not first_time
}

deny contains {"code": "approval", "message": "two persons have to approve it"} if {
	input.action.name == "execute"
	not approved
}

# Not a key, nor a session that was obtained with one or by an impersonator.
person if {
	input.principal.type == "user"
	input.principal.credential == "session"
	not by_key
	not impersonated
}

by_key if _ = input.principal.key

impersonated if _ = input.principal.session.impersonatedBy

requested_by_another if {
	requested
	input.resource.properties.requestedBy != input.principal.id
}

first_time if {
	is_array(input.resource.properties.approvedBy)
	every id in input.resource.properties.approvedBy {
		id != input.principal.id
	}
}

approved if {
	requested
	approvers := {id |
		some id in input.resource.properties.approvedBy
		is_string(id)
		id != input.resource.properties.requestedBy
	}
	count(approvers) >= 2
}

requested if {
	is_string(input.resource.properties.requestedBy)
	input.resource.properties.requestedBy != ""
}
