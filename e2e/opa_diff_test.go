package e2e_test

import (
	_ "github.com/open-policy-agent/opa/v1/plugins"
	_ "github.com/open-policy-agent/opa/v1/server"
)
