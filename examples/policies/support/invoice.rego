# Who looks at something as somebody else changes nothing.
package app.invoice

allow contains "customer" if input.resource.properties.customer == input.principal.id

deny contains {"code": "impersonated", "message": "this is for the customer to do"} if {
	impersonated
	not reads
}

impersonated if _ = input.principal.session.impersonatedBy

reads if input.action.name in {"list", "read"}
