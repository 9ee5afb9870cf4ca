package ostiarygin_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"testing/fstest"

	"github.com/gin-gonic/gin"

	"github.com/ostiary/ostiary"
	ostiarygin "github.com/ostiary/ostiary/contrib/gin"
)

// A route of gin, by an embedded instance; a client.Client does as well.
func ExampleRequire() {
	gin.SetMode(gin.ReleaseMode)
	o, err := ostiary.Open(context.Background(), ostiary.Options{
		Database: "sqlite::memory:",
		Policies: fstest.MapFS{"page.rego": {Data: []byte("package app.page\n\nallow if input.resource.id == \"welcome\"\n")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer o.Close()
	r := gin.New()
	r.GET("/pages/:id", ostiarygin.Require(o, "read", ostiarygin.ByParam("page", "id")), func(c *gin.Context) {
		c.String(http.StatusOK, "anonymous: %t", ostiarygin.Principal(c).Anonymous())
	})
	for _, path := range []string{"/pages/welcome", "/pages/plans"} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		fmt.Println(path, w.Code)
	}
	// Output:
	// /pages/welcome 200
	// /pages/plans 401
}
