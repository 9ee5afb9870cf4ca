package instances

import (
	"errors"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
)

// Once a revocation has returned, no use succeeds on that instance, however
// the two raced.
func TestNoUseAfterRevocationReturned(t *testing.T) {
	o, err := ostiary.Open(t.Context(), ostiary.Options{Database: "sqlite::memory:"})
	must(t, err)
	defer o.Close()
	owner, err := o.Authn().CreateUser(t.Context(), program, authn.NewUser{Name: "P", Email: "p@example.test"})
	must(t, err)
	var k authn.APIKey
	var secret authn.Secret
	for n := range 10_000 {
		if k.ID == "" {
			k, secret, err = o.Authn().CreateKey(t.Context(), program, authn.NewKey{OwnerID: owner.ID})
			must(t, err)
		}
		credential := authn.Credential{Kind: authn.APIKeySecret, Secret: secret}
		use := func() error {
			_, err := o.Authn().Authenticate(t.Context(), credential)
			return err
		}
		begun, ended := make(chan struct{}), make(chan struct{})
		go func() { // fills the memory while the secret goes
			defer close(ended)
			err := use()
			for close(begun); err == nil; {
				time.Sleep(10 * time.Microsecond) // or it takes the core from the revocation
				err = use()
			}
		}()
		<-begun
		want := authn.ErrKeySuperseded
		if n%10 == 0 {
			want = authn.ErrBadCredential
			err = o.Authn().DeleteKey(t.Context(), program, k.ID)
			k = authn.APIKey{}
		} else {
			k, secret, err = o.Authn().RotateKey(t.Context(), program, k.ID, 0)
		}
		must(t, err)
		for range 2 {
			if err := use(); !errors.Is(err, want) {
				t.Fatalf("%d: after the revocation returned: got %v, want %v", n, err, want)
			}
		}
		<-ended
	}
}
