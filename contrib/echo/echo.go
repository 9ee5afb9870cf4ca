// Package ostiaryecho protects routes of echo.
//
//	e.GET("/documents/:id", show, ostiaryecho.Require(o, "read", ostiaryecho.ByParam("document", "id")))
package ostiaryecho

import (
	"github.com/labstack/echo/v4"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/guard"
)

// Require returns middleware that lets a request through if its caller may do
// action on the resource that it names, and has s refuse it otherwise; see
// [guard.Require]. A refusal is an answer and no error: echo's error handler
// does not see it. Handlers find the caller by [Principal].
func Require(s guard.Service, action string, resource func(echo.Context) access.Resource) echo.MiddlewareFunc {
	what := access.Action{Name: action}
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			ctx, d, err := guard.Admit(s, c.Request(), what, resource(c))
			guard.Note(ctx, c.Response().Header(), d)
			if err != nil {
				s.Refuse(ctx, c.Response(), err)
				return nil
			}
			c.SetRequest(c.Request().WithContext(ctx))
			return next(c)
		}
	}
}

// Principal returns who is calling, as [Require] found it; nil if it did not.
func Principal(c echo.Context) guard.Principal { return guard.PrincipalFrom(c.Request().Context()) }

// ByParam makes resources of one type whose id is the parameter of that name in
// the route. Where the route has none, the request is refused
// ([guard.ErrNoResource]).
func ByParam(resourceType, name string) func(echo.Context) access.Resource {
	return func(c echo.Context) access.Resource {
		if id := c.Param(name); id != "" {
			return access.Resource{Type: resourceType, ID: id}
		}
		return access.Resource{}
	}
}

// ByRoute makes resources of one type whose id is the pattern of the route,
// "/documents/:id".
func ByRoute(resourceType string) func(echo.Context) access.Resource {
	return func(c echo.Context) access.Resource {
		if pattern := c.Path(); pattern != "" {
			return access.Resource{Type: resourceType, ID: pattern}
		}
		return access.Resource{}
	}
}

// OfType makes the resource that is a type as a whole: for "list" and "create".
func OfType(resourceType string) func(echo.Context) access.Resource {
	return func(echo.Context) access.Resource { return access.Resource{Type: resourceType} }
}
