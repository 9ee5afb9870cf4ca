package app.payout_test

clerk := {
	"type": "user", "id": "u-ann", "credential": "session", "roles": ["clerk"],
	"user": {"id": "u-ann", "name": "ann", "banned": false}, "session": {"id": "s1", "fresh": true},
}

decide(action, context) := d if {
	d := data.ostiary.decision with input as {
		"principal": clerk,
		"action": {"name": action, "properties": {}},
		"resource": {"type": "payout", "id": "p1", "properties": {}},
		"context": context,
	}
}

closed(context) if {
	d := decide("release", context)
	not d.allow
	d.reasons == [{"code": "closed", "message": "payouts are released when the office is open"}]
}

test_open[note] if {
	some note, time in {
		"the first moment of a winter's day": "2026-01-05T08:00:00.000Z",
		"the last moment of a winter's day": "2026-01-05T16:29:59.999Z",
		"the first moment of a summer's day": "2026-07-06T07:00:00.000Z",
		"the last moment of a summer's day": "2026-07-06T15:29:59.999Z",
		"the first Monday of summer time": "2026-03-30T07:00:00.000Z",
		"the first Monday of winter time": "2026-10-26T08:00:00.000Z",
		"the same moment, told in another zone": "2026-01-05T17:00:00+09:00",
	}
	decide("release", {"time": time}).allow
}

test_closed[note] if {
	some note, time in {
		"a moment before it opens": "2026-01-05T07:59:59.999Z",
		"the moment at which it closes": "2026-01-05T16:30:00.000Z",
		"a moment before it opens in summer": "2026-07-06T06:59:59.999Z",
		"the moment at which it closes in summer": "2026-07-06T15:30:00.000Z",
		"the Friday before summer time, as if it had begun": "2026-03-27T07:30:00.000Z",
		"midnight": "2026-01-04T23:00:00.000Z",
		"Saturday": "2026-01-03T10:00:00.000Z",
		"Sunday": "2026-01-04T10:00:00.000Z",
		"a holiday": "2026-12-25T10:00:00.000Z",
	}
	closed({"time": time})
}

# It is Monday in the office while it is still Sunday in UTC.
test_the_day_is_the_offices if {
	decide("release", {"time": "2026-01-04T23:30:00.000Z"}).allow with data.office.opens as "00:00"
	closed({"time": "2026-01-09T23:30:00.000Z"}) with data.office.opens as "00:00"
}

test_without_a_time_it_is_closed if closed({})

# Also if what is said about the office is not complete, or makes no sense.
test_without_hours_it_is_closed[note] if {
	some note, office in {
		"nothing": {},
		"no zone": object.remove(data.office, ["zone"]),
		"no holidays": object.remove(data.office, ["holidays"]),
		"no days": object.remove(data.office, ["days"]),
		"no end": object.remove(data.office, ["closes"]),
		"over midnight": object.union(data.office, {"opens": "17:30", "closes": "09:00"}),
	}
	closed({"time": "2026-01-05T10:00:00.000Z"}) with data.office as office
}

test_reading_has_no_hours if decide("read", {"time": "2026-01-03T22:00:00.000Z"}).allow
