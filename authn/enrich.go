package authn

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime/debug"

	"golang.org/x/sync/errgroup"

	"github.com/ostiary/ostiary/authz"
)

const (
	// maxEnriching is how many calls of Options.Enrich there are at once, those that
	// nobody waits for any more included.
	maxEnriching = 128
	// enrichedAtOnce is how many of a list are enriched at once.
	enrichedAtOnce = 16
)

// enrich adds the application's attributes to who, a user that was just read.
func (s *Service) enrich(ctx context.Context, who *authz.Identity) error {
	if s.o.Enrich == nil {
		return nil
	}
	own, err := s.told(ctx, *who)
	if err != nil {
		return fmt.Errorf("%w: attributes of %s %q: %w", ErrUnavailable, who.Type, who.ID, err)
	}
	all := make(map[string]any, len(who.User.Attributes)+len(own))
	maps.Copy(all, who.User.Attributes)
	maps.Copy(all, own)
	who.User.Attributes = all
	return nil
}

// told asks the application about who, and waits no longer than it may take,
// whatever the application does. A call that hangs keeps its turn: when all are
// taken by such calls, nobody is known any more, and nothing else is lost.
func (s *Service) told(ctx context.Context, who authz.Identity) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.EnrichDeadline)
	defer cancel()
	select {
	case s.enriching <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%d calls of Enrich are under way: %w", maxEnriching, ctx.Err())
	}
	type answer struct {
		own map[string]any
		err error
	}
	answered := make(chan answer, 1)
	go func() {
		var a answer
		defer func() {
			<-s.enriching
			if v := recover(); v != nil { // nobody else could
				a = answer{err: fmt.Errorf("panic: %v\n%s", v, debug.Stack())}
			}
			answered <- a
		}()
		told, err := s.o.Enrich(ctx, who)
		if err == nil {
			// Here, since the application may change its own afterwards.
			told, err = copied(told)
		}
		a = answer{told, err}
	}()
	select {
	case a := <-answered:
		if a.err == nil {
			a.err = ctx.Err() // too late is not at all
		}
		return a.own, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// identities is what policies see of users, in order.
func (s *Service) identities(ctx context.Context, users []User) ([]authz.Identity, error) {
	ids := make([]authz.Identity, len(users))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(enrichedAtOnce)
	for i := range users {
		if ids[i] = s.identity(&users[i]); s.o.Enrich != nil {
			g.Go(func() error { return s.enrich(ctx, &ids[i]) })
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return ids, nil
}

// copied returns m as JSON values that nobody else has: the application may go
// on changing its own.
func copied(m map[string]any) (own map[string]any, err error) {
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	err = d.Decode(&own)
	return own, err
}
