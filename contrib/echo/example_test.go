package ostiaryecho_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"testing/fstest"

	"github.com/labstack/echo/v4"

	"github.com/ostiary/ostiary"
	ostiaryecho "github.com/ostiary/ostiary/contrib/echo"
)

// A route of echo, by an embedded instance; a client.Client does as well.
func ExampleRequire() {
	o, err := ostiary.Open(context.Background(), ostiary.Options{
		Database: "sqlite::memory:",
		Policies: fstest.MapFS{"page.rego": {Data: []byte("package app.page\n\nallow if input.resource.id == \"welcome\"\n")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	e := echo.New()
	e.GET("/pages/:id", func(c echo.Context) error {
		return c.String(http.StatusOK, fmt.Sprintf("anonymous: %t", ostiaryecho.Principal(c).Anonymous()))
	}, ostiaryecho.Require(o, "read", ostiaryecho.ByParam("page", "id")))
	for _, path := range []string{"/pages/welcome", "/pages/plans"} {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Println(path, w.Code)
	}
	// Output:
	// /pages/welcome 200
	// /pages/plans 401
}
