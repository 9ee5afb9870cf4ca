# Support staff touch customers: neither each other, nor administrators, nor the
# accounts of programs. Lists show them the customers alone, since lists are made
# from the same rules.
package app.user

deny contains {"code": "not_a_customer", "message": "support is for customers"} if {
	"support" in input.principal.roles
	about_somebody
	not own
	not customer
}

about_somebody if _ = input.resource.id

own if input.resource.id == input.principal.id

# What is not known of somebody makes them none.
customer if {
	input.resource.properties.admin == false
	input.resource.properties.serviceAccount == false
	every role in input.resource.properties.roles {
		role in data.customers
	}
}
