# The ledger is for the office's networks. The address is that of the connection,
# or what a proxy says that is one of trusted_proxies: behind another proxy
# everybody has the address of the proxy.
package app.ledger

deny contains {"code": "network", "message": "the ledger is for the office's networks"} if not inside

# An address that is not known is in none.
inside if {
	some range in data.networks.office
	net.cidr_contains(range, input.context.ip)
}
