package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// remote is a service that a command asks instead of opening the database.
type remote struct{ url, key string }

func (r *remote) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.url, "server", "", "ask the service at this URL instead of opening the database")
	cmd.Flags().StringVar(&r.key, "key", os.Getenv("OSTIARY_KEY"), "with this API key (better: OSTIARY_KEY)")
	cmd.Flags().Lookup("key").DefValue = "" // not in the help
}

// named reports whether a service is to be asked.
func (r *remote) named(cmd *cobra.Command) (bool, error) {
	if r.url == "" {
		return false, nil
	}
	u, err := url.Parse(r.url)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return false, misuse(cmd, "--server is not an http:// or https:// URL")
	}
	if r.key == "" {
		return false, misuse(cmd, "--server needs --key")
	}
	return true, nil
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 256 << 20

// refused is an answer that is none of 2xx.
type refused struct {
	status int
	text   string
}

func (e *refused) Error() string { return e.text }

// call sends in as JSON, unless it is nil, and reads the answer into out. What is
// no answer of 2xx is a [refused].
func (r *remote) call(cmd *cobra.Command, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(cmd.Context(), method, strings.TrimSuffix(r.url, "/")+path, body)
	if err != nil {
		return misuse(cmd, "--server: %v", err)
	}
	req.Header.Set("X-Api-Key", r.key)
	req.Header.Set("Content-Type", "application/json")
	// Another place must not get the key.
	client := &http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	answer.UseNumber()
	if resp.StatusCode < 300 {
		return answer.Decode(out)
	}
	var problem struct {
		Detail string
		Errors []struct{ Message string }
	}
	_ = answer.Decode(&problem) // whatever else answers there
	var all []error
	for _, e := range problem.Errors {
		all = append(all, errors.New(e.Message))
	}
	text := fmt.Sprintf("%s: %s %s", r.url, resp.Status, problem.Detail)
	if len(all) > 0 {
		text = errors.Join(all...).Error()
	}
	return &refused{resp.StatusCode, text}
}
