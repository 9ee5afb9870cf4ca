# What people's own keys may not. A package by a name of one's own is for those of
# the types to use.
package keys

# People's keys only read, whatever they are granted and their owner may; those of
# service accounts do what they are granted. A session that was obtained with a key
# is the key.
refused contains {"code": "read_only_key", "message": "keys of people only read"} if {
	keyed
	not of_service
	not reads
}

keyed if _ = input.principal.key

of_service if input.principal.type == "service_account"

reads if input.action.name in data.reading
