# Documents belong to somebody, whose they are the program says when it asks.
package app.document

allow contains "owner" if input.resource.properties.owner == input.principal.user.email
