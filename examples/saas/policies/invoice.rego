# Invoices belong to the feature billing, whose roles are in data.yaml.
package app.invoice

# Exports come with a plan: plan is a column that the application added to the
# users. Without the column, or without a value in it, nobody has the plan.
deny contains {"code": "plan", "message": "exports come with the plan gold"} if {
	input.action.name == "export"
	not gold
}

gold if input.principal.user.attributes.plan == "gold"

# What pages need to know besides yes and no comes with every answer.
context := {"features": features, "gold": gold_plan}

features[feature] contains level if {
	some role in input.principal.roles
	[feature, level] := split(role, ":")
}

default gold_plan := false

gold_plan if gold
