# Records, as the certification scenario of AuthZEN 1.0 has them. They have an
# author, and are active or archived. The role admin is for what is archived, and
# for nothing more. Role and status may come with the question, and then go before
# what is stored.
package app.record

allow contains "reader" if {
	input.action.name == "read"
	known
}

allow contains "author" if {
	input.action.name == "write"
	known
	author
	not archived
}

# What is deleted softly can be brought back.
allow contains "author" if {
	input.action.name == "delete"
	input.action.properties.soft == true
	known
	author
}

allow contains "admin" if {
	input.action.name == "write"
	known
	input.principal.properties.role == "admin"
	archived
}

# The application told us of both. Those who only administer this service are no
# users of the application.
known if {
	input.principal.type == "user"
	input.principal.known
	not administers
	input.resource.known
}

administers if _ = input.principal.user

author if input.resource.properties.author == input.principal.id

archived if input.resource.properties.status == "archived"
