# Payouts are released during office hours. The time is input.context.time, the
# service's own clock in UTC, which no question can set; the hours are those of the
# office, so summer time is counted as there.
package app.payout

deny contains {"code": "closed", "message": "payouts are released when the office is open"} if {
	input.action.name == "release"
	not open
}

open if {
	weekday in data.office.days
	data.office.opens <= clock
	clock < data.office.closes
	every holiday in data.office.holidays {
		holiday != date
	}
}

# In the office, now: "Monday", "09:05", "2026-03-30".
weekday := time.weekday([now, data.office.zone])

clock := time.format([now, data.office.zone, "15:04"])

date := time.format([now, data.office.zone, "2006-01-02"])

now := time.parse_rfc3339_ns(input.context.time)
