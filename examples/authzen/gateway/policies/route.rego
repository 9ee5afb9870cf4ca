# Routes, which a gateway asks about before it forwards a request: the resource is
# the template of the route, the action the method. The table is data.gateway.
package app.route

allow contains role if {
	input.principal.known
	some role in data.gateway[input.resource.id][input.action.name]
	role in input.principal.properties.roles
}
