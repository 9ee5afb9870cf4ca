package app.invoice_test

person(roles, attributes) := {
	"type": "user", "id": "u-ann", "credential": "session", "roles": roles,
	"user": {"id": "u-ann", "name": "ann", "banned": false, "attributes": attributes},
	"session": {"id": "s1", "fresh": true},
}

decide(principal, action) := d if {
	d := data.ostiary.decision with input as {
		"principal": principal,
		"action": {"name": action},
		"resource": {"type": "invoice", "id": "i1"},
	}
}

test_a_viewer_reads_and_no_more if {
	ann := person(["billing:viewer"], {})
	decide(ann, "read").allow
	d := decide(ann, "update")
	not d.allow
	d.reasons[0].code == "role_missing"
}

test_a_role_of_another_feature_does_not_count if {
	d := decide(person(["reports:viewer"], {"plan": "gold"}), "read")
	not d.allow
}

test_exports_need_the_plan[name] if {
	some name, attributes in {"none": {}, "null": {"plan": null}, "another": {"plan": "free"}}
	d := decide(person(["billing:editor"], attributes), "export")
	not d.allow
	d.reasons == [{"code": "plan", "message": "exports come with the plan gold"}]
}

test_an_editor_with_the_plan_exports if decide(person(["billing:editor"], {"plan": "gold"}), "export").allow

test_the_plan_alone_permits_nothing if {
	d := decide(person([], {"plan": "gold"}), "export")
	not d.allow
}

test_pages_are_told_of_features_and_plan if {
	d := decide(person(["billing:editor", "reports:viewer", "user"], {"plan": "gold"}), "read")
	d.context == {"features": {"billing": {"editor"}, "reports": {"viewer"}}, "gold": true}
}
