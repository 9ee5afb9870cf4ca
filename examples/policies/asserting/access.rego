# Whom applications may ask about, naming them.
package app.access

# Robots, and nobody else,
deny contains "only robots may be asserted" if not robot

robot if input.resource.properties.subject.type == "robot"

# without saying what their role is: that is for the directory to know.
deny contains "a role may not be asserted" if _ = input.resource.properties.subject.properties.role
