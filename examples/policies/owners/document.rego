# Documents belong to somebody. The application says to whom when it asks:
# resource.properties has owner, and perhaps shared (user ids) and frozen.
package app.document

# Owners do with their documents what they like,
allow contains "owner" if input.resource.properties.owner == input.principal.id

# those with whom they are shared read them,
allow contains "shared" if {
	input.action.name == "read"
	input.principal.id in input.resource.properties.shared
}

# and published ones are for everybody, known or not.
allow contains "published" if {
	input.action.name == "read"
	input.resource.properties.published == true
}

# What is frozen stays as it is, whoever asks: deny wins over every role.
deny contains {"code": "frozen", "message": "the document is frozen"} if {
	input.action.name in {"write", "delete"}
	input.resource.properties.frozen == true
}

# The application shows only excerpts to those who are not signed in.
context := {"excerpt": true} if input.principal.type == "anonymous"
