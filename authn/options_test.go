package authn_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary/authn"
)

func TestOptionsReportEveryMistakeAtOnce(t *testing.T) {
	_, err := authn.New(authn.Options{
		SessionLife: -1, FreshAge: pointer(-time.Second), PasswordMin: 20, PasswordMax: 10, DefaultRole: "a,b",
		Keys: authn.KeyOptions{Prefix: pointer("a b"), Length: 1000, RateLimitMax: 3, MinLife: 400 * 24 * time.Hour, PrefixMax: 100},
	}, &counted{}, nil)
	if err == nil {
		t.Fatal("no mistake")
	}
	for _, field := range []string{"SessionLife", "FreshAge", "PasswordMax", "DefaultRole", "Keys.Prefix", "Keys.Length", "Keys.RateLimitWindow", "Keys.MaxLife", "Keys.PrefixMax"} {
		if !strings.Contains(err.Error(), field+": ") {
			t.Errorf("%s is not reported in: %v", field, err)
		}
	}
	if _, err := authn.New(authn.Options{}, nil, nil); err == nil {
		t.Error("works without a store")
	}
}
