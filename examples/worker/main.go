// Command worker does in the background what people have ordered, if they still
// may when their turn comes. It asks a service, as a service account.
package main

import (
	"context"
	"errors"
	"log"
	"os"
	"time"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/client"
)

func main() {
	c, err := client.New(client.Options{URL: os.Getenv("OSTIARY_URL"), Key: os.Getenv("OSTIARY_KEY")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	queue := []job{{by: os.Getenv("USER_ID"), invoice: "2026-1"}}
	for len(queue) > 0 {
		queue, err = work(context.Background(), c, queue, func(j job) { log.Printf("invoice %s is exported", j.invoice) })
		if err != nil {
			log.Print(err)
			time.Sleep(10 * time.Second)
		}
	}
}

// job is the export of an invoice that somebody ordered.
type job struct{ by, invoice string }

// work does the jobs in order and returns those that are still to be done. A job
// that its orderer may not have is dropped. When there is no answer nothing is done:
// the job and those behind it stay for later.
func work(ctx context.Context, c *client.Client, queue []job, export func(job)) ([]job, error) {
	for i, j := range queue {
		d, err := c.Decide(ctx, access.Request{
			Subject:  c.Named("user", j.by, nil),
			Action:   access.Action{Name: "export"},
			Resource: access.Resource{Type: "invoice", ID: j.invoice},
		})
		switch {
		case errors.Is(err, client.ErrInvalid):
			log.Printf("job %d is dropped: %v", i, err) // it would not get better
		case err != nil:
			// Also ErrDenied and ErrUnauthenticated, which are about the worker's
			// own key: for the operator to mend.
			return queue[i:], err
		case d.Allow:
			export(j)
		default:
			log.Printf("%s may not export invoice %s: decision %s", j.by, j.invoice, d.ID)
		}
	}
	return nil, nil
}
