# Who may do what with documents, beside what roles permit. The application says
# whose a document is when it asks: resource.properties has owner, and perhaps
# shared (ids of users) and frozen.
package app.document

# Owners may do everything with what is theirs,
allow contains "owner" if input.resource.properties.owner == input.principal.id

# those with whom it is shared may read it.
allow contains "shared" if {
	input.action.name == "read"
	input.principal.id in input.resource.properties.shared
}

# What is frozen stays as it is, whoever asks.
deny contains {"code": "frozen", "message": "the document is frozen"} if {
	input.action.name in {"write", "delete"}
	input.resource.properties.frozen == true
}
