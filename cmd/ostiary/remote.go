package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// remote is a service that a command speaks to instead of opening the database.
type remote struct{ url, key string }

func (r *remote) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.url, "server", "", "ask the service at this URL instead of opening the database")
	cmd.Flags().StringVar(&r.key, "key", "", "API key for --server (default: the environment's OSTIARY_KEY)")
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// call sends in as JSON, if it is not nil, and reads the answer into out.
func (r *remote) call(cmd *cobra.Command, method, path string, in, out any) error {
	var body io.Reader
	if m, ok := in.(map[string]any); in != nil && (!ok || m != nil) {
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
	key := r.key
	if key == "" {
		key = os.Getenv("OSTIARY_KEY")
	}
	if key != "" {
		req.Header.Set("x-api-key", key)
	}
	req.Header.Set("Content-Type", "application/json")
	// A redirect could carry the key to another host.
	client := &http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode < 300 {
		return json.Unmarshal(text, out)
	}
	var problem struct {
		Detail string
		Errors []struct{ Message string }
	}
	if json.Unmarshal(text, &problem) != nil || problem.Detail == "" {
		return fmt.Errorf("%s answers %s", r.url, resp.Status)
	}
	if len(problem.Errors) == 0 {
		return errors.New(problem.Detail)
	}
	var all []error
	for _, e := range problem.Errors {
		all = append(all, errors.New(e.Message))
	}
	return errors.Join(all...)
}
