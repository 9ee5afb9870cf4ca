package app.ledger_test

accountant := {
	"type": "user", "id": "u-ann", "credential": "session", "roles": ["accountant"],
	"user": {"id": "u-ann", "name": "ann", "banned": false}, "session": {"id": "s1", "fresh": true},
}

decide(principal, context) := d if {
	d := data.ostiary.decision with input as {
		"principal": principal,
		"action": {"name": "read", "properties": {}},
		"resource": {"type": "ledger", "id": "2026", "properties": {}},
		"context": object.union({"time": "2026-01-02T03:04:05.000Z"}, context),
	}
}

outside(context) if {
	d := decide(accountant, context)
	not d.allow
	d.reasons == [{"code": "network", "message": "the ledger is for the office's networks"}]
}

test_inside[ip] if {
	some ip in {
		"192.0.2.0", "192.0.2.255", "198.51.100.17",
		"2001:0db8:0007:0000:0000:0000:0000:0000", "2001:0db8:0007:ffff:0000:0000:0000:0000",
	}
	decide(accountant, {"ip": ip}).allow
}

test_outside[ip] if {
	some ip in {
		"192.0.1.255", "192.0.3.0", "198.51.100.16", "198.51.100.18",
		"2001:0db8:0006:ffff:0000:0000:0000:0000", "2001:0db8:0008:0000:0000:0000:0000:0000",
		"0000:0000:0000:0000:0000:0000:0000:0001",
	}
	outside({"ip": ip})
}

test_an_address_that_is_not_known_is_outside if outside({})

test_without_networks_everything_is_outside[note] if {
	some note, networks in {"none": {"office": []}, "not told": {}}
	d := decide(accountant, {"ip": "192.0.2.1"}) with data.networks as networks
	not d.allow
}

test_the_network_alone_permits_nothing if {
	d := decide(object.union(accountant, {"roles": []}), {"ip": "192.0.2.1"})
	not d.allow
	d.reasons[0].code == "role_missing"
}
