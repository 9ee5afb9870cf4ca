# Invoices stay within their tenant by the rule that projects have.
package app.invoice

deny contains {"code": "other_tenant", "message": "the invoice belongs to another tenant"} if not data.app.project.same_tenant
