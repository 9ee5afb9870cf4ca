package ostiary_test

import data.ostiary

test_denies_nothing if {
	d := ostiary.decision with input as {}
	print(d)
	d.allow == false
}

test_admin if {
	d := ostiary.decision with input as {
		"principal": {"type": "user", "id": "ann", "credential": "session", "roles": ["admin"], "user": {"name": "ann", "banned": false}, "session": {"fresh": true}},
		"action": {"name": "list"},
		"resource": {"type": "user"}}
	print(d)
	d.allow
}
