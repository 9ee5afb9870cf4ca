package instances

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// Once a revocation has returned, no use succeeds on that instance, however
// the two raced.
func TestNoUseAfterRevocationReturned(t *testing.T) {
	o, err := ostiary.Open(t.Context(), ostiary.Options{Database: "sqlite::memory:"})
	must(t, err)
	defer o.Close()
	const workers, pairs = 1, 10_000
	var wg sync.WaitGroup
	for w := range workers {
		owner, err := o.Authn().CreateUser(t.Context(), program, authn.NewUser{Name: "P", Email: fmt.Sprintf("p%d@example.test", w)})
		must(t, err)
		wg.Go(func() {
			for range pairs / workers {
				k, secret, err := o.Authn().CreateKey(t.Context(), program, authn.NewKey{OwnerID: owner.ID, Permissions: authz.Permissions{"*": {"*"}}})
				if err != nil {
					t.Error(err)
					return
				}
				use := func() error {
					_, err := o.Authn().Authenticate(t.Context(), authn.Credential{Kind: authn.APIKeySecret, Secret: secret})
					return err
				}
				var user sync.WaitGroup
				begun := make(chan struct{})
				user.Go(func() { // fills the memory while the key goes
					close(begun)
					for use() == nil {
					}
				})
				<-begun
				if err := o.Authn().DeleteKey(t.Context(), program, k.ID); err != nil {
					t.Error(err)
				}
				for range 2 {
					if err := use(); !errors.Is(err, authn.ErrBadCredential) {
						t.Errorf("after the revocation returned: %v", err)
						return
					}
				}
				user.Wait()
			}
		})
	}
	wg.Wait()
}
