// Command desktop is an application on somebody's own machine. They sign in with
// a key of theirs, in the browser, on a page that the application itself serves on
// the loopback; the application keeps the session that it gets for it.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/ostiary/ostiary/access"
	"github.com/ostiary/ostiary/client"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	service := os.Getenv("OSTIARY_URL")
	token, err := signIn(ctx, service, func(page string) { fmt.Println("open", page) })
	if err != nil {
		log.Fatal(err)
	}
	who, may, err := mayRead(ctx, service, token)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("hello, %s: you may read documents: %t\n", who, may)
}

const form = `<!doctype html><title>Sign in</title>
<form method="post" autocomplete="off"><label>Key <input type="password" name="key" autofocus></label> <button>Sign in</button></form>`

// signIn has open show somebody a page that takes their key, and returns the
// token of the session that the service gives for it. It ends with ctx.
//
// Other programs and pages on the machine can reach the loopback as well. They
// do not know the path, a name that leads here by DNS is not the host, and a form
// of another site is refused; so nobody signs a person in as somebody else.
func signIn(ctx context.Context, service string, open func(page string)) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	host, path := l.Addr().String(), "/"+rand.Text()
	tokens := make(chan string, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, form)
	})
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 4096)
		token, err := exchange(r.Context(), service, r.PostFormValue("key"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden) // try again
			return
		}
		fmt.Fprintln(w, "You are signed in. Close this page.")
		select {
		case tokens <- token:
		default: // one is enough
		}
	})
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'")
		if r.Host != host {
			http.Error(w, "not here", http.StatusMisdirectedRequest)
			return
		}
		mux.ServeHTTP(w, r)
	}))}
	go srv.Serve(l) // until it is shut down below
	defer func() {
		// So that the last page arrives.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
	}()
	open("http://" + host + path)
	select {
	case token := <-tokens:
		return token, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// exchange gets a session for a key. The key is used this once and forgotten: the
// session ends when the key does.
func exchange(ctx context.Context, service, key string) (string, error) {
	body, err := json.Marshal(map[string]string{"key": key})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", service+"/api/auth/sign-in/api-key", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", errors.New("the service cannot be reached")
	}
	defer res.Body.Close()
	var answer struct{ Token, Message string }
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&answer); err != nil {
		return "", errors.New("the service does not answer as it should")
	}
	if res.StatusCode != http.StatusOK || answer.Token == "" {
		return "", fmt.Errorf("not signed in: %s", answer.Message)
	}
	return answer.Token, nil
}

// mayRead asks who has the session, and whether they may read documents.
func mayRead(ctx context.Context, service, token string) (name string, may bool, err error) {
	c, err := client.New(client.Options{URL: service, Retries: -1})
	if err != nil {
		return "", false, err
	}
	defer c.Close()
	me := &http.Request{Header: http.Header{"Authorization": {"Bearer " + token}}}
	who, err := c.Authenticate(me.WithContext(ctx))
	if err != nil {
		return "", false, err
	}
	d, err := c.Decide(ctx, access.Request{
		Subject: who.Subject(), Action: access.Action{Name: "read"}, Resource: access.Resource{Type: "document"},
	})
	return who.Subject().Identity().User.Name, d.Allow, err
}
