// Package ostiarygin protects routes of gin.
//
//	r.GET("/documents/:id", ostiarygin.Require(o, "read", ostiarygin.ByParam("document", "id")), show)
package ostiarygin

import (
	"github.com/gin-gonic/gin"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/guard"
)

// Require returns a handler that lets a request through if its caller may do
// action on the resource that it names, and has s refuse it and aborts
// otherwise; see [guard.Require]. Handlers find the caller by [Principal].
func Require(s guard.Service, action string, resource func(*gin.Context) access.Resource) gin.HandlerFunc {
	what := access.Action{Name: action}
	return func(c *gin.Context) {
		ctx, d, err := guard.Admit(s, c.Request, what, resource(c))
		guard.Note(ctx, c.Writer.Header(), d)
		if err != nil {
			s.Refuse(ctx, c.Writer, err)
			c.Abort()
			return
		}
		c.Request = c.Request.WithContext(ctx)
		c.Next()
	}
}

// Principal returns who is calling, as [Require] found it; nil if it did not.
func Principal(c *gin.Context) guard.Principal { return guard.PrincipalFrom(c.Request.Context()) }

// ByParam makes resources of one type whose id is the parameter of that name in
// the route. Where the route has none, the request is refused
// ([guard.ErrNoResource]).
func ByParam(resourceType, name string) func(*gin.Context) access.Resource {
	return func(c *gin.Context) access.Resource {
		if id := c.Param(name); id != "" {
			return access.Resource{Type: resourceType, ID: id}
		}
		return access.Resource{}
	}
}

// ByRoute makes resources of one type whose id is the pattern of the route,
// "/documents/:id".
func ByRoute(resourceType string) func(*gin.Context) access.Resource {
	return func(c *gin.Context) access.Resource {
		if pattern := c.FullPath(); pattern != "" {
			return access.Resource{Type: resourceType, ID: pattern}
		}
		return access.Resource{}
	}
}

// OfType makes the resource that is a type as a whole: for "list" and "create".
func OfType(resourceType string) func(*gin.Context) access.Resource {
	return func(*gin.Context) access.Resource { return access.Resource{Type: resourceType} }
}
