# Everybody stays within their tenant, administrators too. The tenant of a user is
# a column that the application added to the users; that of a project is what is
# stored of it, or what the question says. A question about projects as a whole
# ("may they create one?") says for which tenant: {"tenant": "acme"}.
package app.project

deny contains {"code": "other_tenant", "message": "the project belongs to another tenant"} if not same_tenant

# Whoever or whatever has no tenant is in nobody's: that two have none does not
# put them together.
same_tenant if {
	is_string(input.principal.user.attributes.tenant)
	input.principal.user.attributes.tenant != ""
	input.resource.properties.tenant == input.principal.user.attributes.tenant
}
