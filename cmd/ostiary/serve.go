package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/server"
	"github.com/ostiary/ostiary/server/extauthz"
	"github.com/spf13/cobra"
)

func serveCommand() *cobra.Command {
	var first bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the service",
		Long: `Run the service until it is told to stop (SIGTERM, SIGINT): it then accepts
nothing new, finishes what is in flight, writes what is left to write, and
ends with status 0. A second signal ends it at once.`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd, first) },
	}
	addFlags(cmd.Flags(), nil)
	cmd.Flags().BoolVar(&first, "bootstrap", false, "if there are no users yet, create an administrator with an API key, and print both")
	cmd.Flags().SortFlags = false
	return cmd
}

// endable is a server that can be stopped well, or at once.
type endable interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
	Close() error
}

// garbage is how much more of it may lie about before it is collected, in bytes. By
// itself Go collects when there is as much garbage as there is memory in use, which
// for the few megabytes of a small service is tens of times a second, and a tenth of
// the time of a request. Memory that is never touched counts as in use and is none.
const garbage = 64 << 20

func serve(cmd *cobra.Command, first bool) (err error) {
	ctx := cmd.Context()
	c, err := configure(cmd)
	if err != nil {
		return err
	}
	log := c.logger(cmd.ErrOrStderr())
	if os.Getenv("GOMEMLIMIT") == "" {
		room := make([]byte, garbage)
		defer runtime.KeepAlive(room)
	}

	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return err
	}
	defer ln.Close()
	baseURL := c.url(ln.Addr())
	options := c.options(log, baseURL)
	if options.Audit.Sinks, err = c.sinks(ctx, cmd.OutOrStdout(), log); err != nil {
		return err
	}
	o, err := open(ctx, options)
	if err != nil {
		return err
	}
	reopenFiles(ctx, options.Audit.Sinks, log)
	// Last of all, when no request is in flight: it writes the decisions that
	// were made for them.
	defer func() { err = errors.Join(err, o.Close()) }()

	attrs := []any{"address", ln.Addr().String(), "url", baseURL, "version", version(), "policy", o.Policies().Status().Revision}
	servers := []endable{server.HTTPServer(c.Listen, o.Handler(), log)}
	listeners := []net.Listener{ln}
	if c.MetricsListen != "" {
		mln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.MetricsListen)
		if err != nil {
			return err
		}
		defer mln.Close()
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", o.Metrics())
		servers = append(servers, server.HTTPServer(c.MetricsListen, mux, log))
		listeners = append(listeners, mln)
		attrs = append(attrs, "metrics", mln.Addr().String())
	}
	if c.ExtAuthzListen != "" {
		eln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.ExtAuthzListen)
		if err != nil {
			return err
		}
		defer eln.Close()
		servers = append(servers, extauthz.NewServer(extauthz.Options{Gate: o.Gate(), Log: log}))
		listeners = append(listeners, eln)
		attrs = append(attrs, "ext_authz", eln.Addr().String())
	}
	if first {
		if err := bootstrap(ctx, o, "http://"+ln.Addr().String(), cmd.OutOrStdout()); err != nil {
			return err
		}
	}

	log.Info("listening", attrs...)
	ended := make(chan error, len(servers))
	for i, s := range servers {
		go func() { ended <- s.Serve(listeners[i]) }()
	}

	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	log.Info("stopping", "grace", c.ShutdownGrace)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.ShutdownGrace)
	defer cancel()
	for _, s := range servers {
		if err := s.Shutdown(grace); err != nil {
			log.Warn("requests cut off", slog.Any("error", errors.Join(err, s.Close())))
		}
	}
	log.Info("stopped")
	return nil
}

// bootstrap makes a service that has no users yet usable: an administrator
// and a key with everything an administrator may do, printed this once.
func bootstrap(ctx context.Context, o *ostiary.Ostiary, url string, out io.Writer) error {
	_, total, err := o.Authn().Users(ctx, authn.System("bootstrap"), authn.UserQuery{Limit: 1})
	if err != nil || total > 0 {
		return err
	}
	password := rand.Text()
	admin, err := o.Authn().CreateUser(ctx, authn.System("bootstrap"), authn.NewUser{
		Email: "admin@example.com", Name: "Administrator", EmailVerified: true,
		Password: authn.Secret(password), Roles: []string{"admin"}, RolesGiven: true,
	})
	if err != nil {
		return fmt.Errorf("create the first administrator: %w", err)
	}
	name := "first"
	_, key, err := o.Authn().CreateKey(ctx, authn.System("bootstrap"), authn.NewKey{
		OwnerID: admin.ID, Name: &name, NoExpiry: true, Permissions: authz.Permissions{"*": {"*"}},
	})
	if err != nil {
		return fmt.Errorf("create the first administrator's key: %w", err)
	}
	ask := func(action string) string {
		return fmt.Sprintf(`curl -sS %s/v1/authorize -H 'x-api-key: %s' -H 'content-type: application/json' -d '{"action":%q,"resource":{"type":"user","id":%q}}'`,
			url, key.Reveal(), action, admin.ID)
	}
	_, err = fmt.Fprintf(out, `
This is the first start. The following is shown this once:

  administrator   %s
  password        %s
  API key         %s

Allowed, because the role admin permits it and the key is granted it:

%s

Denied, with the reason:

%s

`, admin.Email, password, key.Reveal(), ask("set-password"), ask("impersonate-admins"))
	return err
}
