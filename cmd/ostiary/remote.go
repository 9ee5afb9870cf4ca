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

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/policies"
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

// instead reports whether a service is to be asked instead of reading a folder,
// which is then left out.
func (r *remote) instead(cmd *cobra.Command, args []string) (bool, error) {
	named, err := r.named(cmd)
	switch {
	case err != nil:
		return false, err
	case named && len(args) > 0:
		return false, misuse(cmd, "DIR and --server exclude each other")
	case !named && len(args) == 0:
		return false, misuse(cmd, "DIR is missing")
	}
	return named, nil
}

// either asks the service, if one is named, and reads its answer into out, unless it
// is nil; otherwise it opens the database for local.
func (r *remote) either(cmd *cobra.Command, method, path string, in, out any, local func(o *ostiary.Ostiary) error) error {
	named, err := r.named(cmd)
	switch {
	case err != nil:
		return err
	case named:
		return r.call(cmd, method, path, in, out)
	}
	return with(cmd, local)
}

// without refuses flags that a command has for what it does itself.
func without(cmd *cobra.Command, names ...string) error {
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			return misuse(cmd, "--%s does not go with --server", name)
		}
	}
	return nil
}

// bundle is the policy in force at the service.
func (r *remote) bundle(cmd *cobra.Command) (policies.Bundle, error) {
	var doc struct {
		PolicyRevision string            `json:"policyRevision"`
		Files          map[string]string `json:"files"`
		Settings       map[string]any    `json:"settings"`
	}
	if err := r.call(cmd, http.MethodGet, "/v1/policy/bundle", nil, &doc); err != nil {
		return policies.Bundle{}, err
	}
	b, err := policies.LoadFiles(doc.Files, doc.Settings)
	if err == nil && b.Source.Revision != doc.PolicyRevision {
		hint(cmd, "the service is of another version: its built-in rules are not those of this command")
	}
	return b, err
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 256 << 20

// refused is an answer that is none of 2xx.
type refused struct {
	status int
	text   string
}

func (e *refused) Error() string { return e.text }

// call sends in as JSON, unless it is nil, and reads the answer into out, unless it is nil. What is
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
		if out == nil {
			return nil
		}
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
