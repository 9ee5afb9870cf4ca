package app.wallet_test

ann := {
	"type": "user", "id": "u-ann", "credential": "session", "roles": ["customer"],
	"user": {"id": "u-ann", "name": "ann", "banned": false},
	"session": {"id": "s1", "createdAt": "2026-01-02T03:00:00.000Z", "fresh": true},
}

key := {"id": "k1", "name": "robot", "permissions": {"wallet": ["*"]}}

ask(principal, action, time) := {
	"principal": principal,
	"action": {"name": action, "properties": {}},
	"resource": {"type": "wallet", "id": "w1", "properties": {}},
	"context": {"time": time},
}

decide(principal, action, time) := d if {
	d := data.ostiary.decision with input as ask(principal, action, time)
}

test_a_recent_sign_in_pays[time] if {
	some time in {"2026-01-02T03:00:00.000Z", "2026-01-02T03:04:59.999Z"}
	decide(ann, "pay", time).allow
}

test_an_older_one_does_not[time] if {
	some time in {"2026-01-02T03:05:00.000Z", "2026-01-03T03:00:00.000Z", "2026-01-02T02:59:59.999Z"}
	d := decide(ann, "pay", time)
	not d.allow
	d.reasons == [{"code": "sign_in_again", "message": "this needs a recent sign-in"}]
}

test_reading_needs_none if decide(ann, "read", "2026-01-05T03:00:00.000Z").allow

test_nothing_else_is_a_sign_in[note] if {
	some note, principal in {
		"a key": object.union(object.remove(ann, ["session"]), {"credential": "api_key", "key": key}),
		"a session obtained with a key": object.union(ann, {"key": key}),
		"an impersonated session": object.union(ann, {"session": {"impersonatedBy": "u-root"}}),
		"what an application says": object.union(ann, {"credential": "asserted"}),
		"a session that nobody knows the age of": json.remove(ann, ["/session/createdAt"]),
	}
	d := decide(principal, "pay", "2026-01-02T03:00:00.000Z")
	not d.allow
	d.reasons[0].code == "sign_in_again"
}

test_without_a_time_nothing_is_recent if {
	d := data.ostiary.decision with input as json.remove(ask(ann, "pay", ""), ["/context/time"])
	not d.allow
}

test_without_a_limit_nothing_is_recent if {
	d := decide(ann, "pay", "2026-01-02T03:00:00.000Z") with data.step_up as {}
	not d.allow
	d.reasons[0].code == "sign_in_again"
}
