package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/audit"
	"github.com/spf13/cobra"
)

func decisionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "decisions",
		Short: "Search, export and verify what was decided",
		Long: `Search, export and verify what was decided: in the database, whether the service
is running or not, or with --server by asking a service.`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(decisionsList(), decisionsShow(), decisionsExport(), decisionsVerify())
	return cmd
}

// decisionLog is where decisions are read: a database or a service.
type decisionLog interface {
	Record(ctx context.Context, id string) (audit.Record, error)
	Records(ctx context.Context, q audit.Query) ([]audit.Record, error)
	EachRecord(ctx context.Context, q audit.Query, f func(audit.Record) error) error
}

// read runs do on the log of the service, or else of the database.
func (r *remote) read(cmd *cobra.Command, do func(decisionLog) error) error {
	switch named, err := r.named(cmd); {
	case err != nil:
		return err
	case named:
		return do(remoteLog{r, cmd})
	}
	return with(cmd, func(o *ostiary.Ostiary) error { return do(o.Decisions()) })
}

// remoteLog is the log of a service.
type remoteLog struct {
	*remote
	cmd *cobra.Command
}

// Record implements decisionLog.
func (r remoteLog) Record(_ context.Context, id string) (audit.Record, error) {
	var d audit.Document
	err := r.call(r.cmd, http.MethodGet, "/v1/decisions/"+url.PathEscape(id), nil, &d)
	if e, ok := errors.AsType[*refused](err); ok && e.status == http.StatusNotFound {
		return audit.Record{}, audit.ErrNotFound
	}
	if err != nil {
		return audit.Record{}, err
	}
	return d.Record()
}

// Records implements decisionLog.
func (r remoteLog) Records(_ context.Context, q audit.Query) ([]audit.Record, error) {
	v := url.Values{}
	for name, text := range map[string]string{
		"principal": q.PrincipalID, "key": q.KeyID, "assertedBy": q.AssertedBy, "action": q.Action, "resourceType": q.ResourceType,
		"resourceId": q.ResourceID, "code": q.Code, "revision": q.Revision, "before": q.Before, "after": q.After,
	} {
		if text != "" {
			v.Set(name, text)
		}
	}
	if q.Allow != nil {
		v.Set("allow", fmt.Sprint(*q.Allow))
	}
	if !q.Since.IsZero() {
		v.Set("since", at(q.Since))
	}
	if !q.Until.IsZero() {
		v.Set("until", at(q.Until))
	}
	if q.OldestFirst {
		v.Set("wait", "0")
	}
	v.Set("limit", fmt.Sprint(q.Limit))
	var page struct{ Decisions []audit.Document }
	if err := r.call(r.cmd, http.MethodGet, "/v1/decisions?"+v.Encode(), nil, &page); err != nil {
		return nil, err
	}
	records := make([]audit.Record, len(page.Decisions))
	for i := range page.Decisions {
		var err error
		if records[i], err = page.Decisions[i].Record(); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// EachRecord implements decisionLog.
func (r remoteLog) EachRecord(ctx context.Context, q audit.Query, f func(audit.Record) error) error {
	q.OldestFirst, q.Limit = true, 500
	if q.Until.IsZero() {
		q.Until = time.Now() // or reading would never come to an end
	}
	for {
		records, err := r.Records(ctx, q)
		if err != nil {
			return err
		}
		for _, record := range records {
			if err := f(record); err != nil {
				return err
			}
			q.After = record.ID
		}
		if len(records) < q.Limit {
			return nil
		}
	}
}

// decisionFilter is a query as flags.
type decisionFilter struct {
	q                    audit.Query
	resource             string
	allowed, denied      bool
	sinceText, untilText string
}

func (f *decisionFilter) flags(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.q.PrincipalID, "principal", "", "only about this id")
	s.StringVar(&f.q.KeyID, "of-key", "", "only with this key at work")
	s.StringVar(&f.q.AssertedBy, "asserted-by", "", "only about those whom this id vouched for")
	s.StringVar(&f.q.Action, "action", "", "only about this action")
	s.StringVar(&f.resource, "resource", "", "only about TYPE or TYPE/ID")
	s.BoolVar(&f.allowed, "allowed", false, "only what was allowed")
	s.BoolVar(&f.denied, "denied", false, "only what was denied")
	s.StringVar(&f.q.Code, "code", "", "only with a reason of this code")
	s.StringVar(&f.q.Revision, "revision", "", "only by this revision of the policy")
	timeFlags(cmd, &f.sinceText, &f.untilText)
}

func timeFlags(cmd *cobra.Command, since, until *string) {
	cmd.Flags().StringVar(since, "since", "", "not before: a time, or a duration such as 24h")
	cmd.Flags().StringVar(until, "until", "", "before: a time, or a duration")
}

func (f *decisionFilter) query(cmd *cobra.Command) (q audit.Query, err error) {
	q = f.q
	q.ResourceType, q.ResourceID, _ = strings.Cut(f.resource, "/")
	if f.allowed && f.denied {
		return q, misuse(cmd, "--allowed and --denied exclude each other")
	}
	if f.allowed || f.denied {
		q.Allow = &f.allowed
	}
	if q.Since, err = timeFlag(cmd, "since", f.sinceText); err != nil {
		return q, err
	}
	q.Until, err = timeFlag(cmd, "until", f.untilText)
	return q, err
}

// timeFlag reads a time, or how long ago it was.
func timeFlag(cmd *cobra.Command, name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := parseDuration(text); err == nil && d >= 0 {
		return time.Now().Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, misuse(cmd, "--%s: %q is neither a time as 2026-01-02T15:04:05Z nor a duration", name, text)
	}
	return t, nil
}

func decisionsList() *cobra.Command {
	var f decisionFilter
	var r remote
	var asJSON, follow bool
	var limit int
	cmd := subcommand("list", "List decisions, the newest first", nil, func(cmd *cobra.Command, _ []string) error {
		q, err := f.query(cmd)
		if err != nil {
			return err
		}
		if limit < 0 {
			return misuse(cmd, "--limit is negative")
		}
		return r.read(cmd, func(l decisionLog) error {
			if follow {
				return followDecisions(cmd, l, q, asJSON)
			}
			for left := limit; left > 0 || limit == 0; {
				if q.Limit = 500; limit > 0 {
					q.Limit = min(left, 500)
				}
				records, err := l.Records(cmd.Context(), q)
				if err != nil {
					return fmt.Errorf("list decisions: %w", err)
				}
				for i := range records {
					if err := printDecision(cmd, &records[i], asJSON); err != nil {
						return err
					}
				}
				if len(records) < q.Limit {
					break
				}
				left -= len(records)
				q.Before = records[len(records)-1].ID
			}
			return nil
		})
	})
	cmd.Long = `List decisions, the newest first, one on a line.

With --follow those that are made from now on are told, the oldest first and about
a second after they were made, until the command is interrupted. Decisions about
reading decisions are left out, unless --resource asks for them.`
	cmd.Example = `  ostiary decisions list --denied --since 24h
  ostiary decisions list --resource document/d1 --json
  ostiary decisions list --follow --server https://auth.example.com`
	f.flags(cmd)
	r.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 50, "at most this many; 0 is all")
	cmd.Flags().BoolVar(&follow, "follow", false, "tell what is decided from now on (or --since)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object on each line")
	return cmd
}

// followDecisions tells decisions as they are made, until it is interrupted.
func followDecisions(cmd *cobra.Command, l decisionLog, q audit.Query, asJSON bool) error {
	q.OldestFirst, q.Limit = true, 500
	if q.Since.IsZero() {
		q.Since = time.Now()
	}
	until := q.Until
	for {
		// Other instances write theirs a moment later; by then all are there.
		q.Until = time.Now().Add(-time.Second)
		over := !until.IsZero() && !until.After(q.Until)
		if over {
			q.Until = until
		}
		records, err := l.Records(cmd.Context(), q)
		if cmd.Context().Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("follow decisions: %w", err)
		}
		for i := range records {
			q.After = records[i].ID
			if records[i].Resource.Type == "decision" && q.ResourceType == "" {
				continue // each look at a service is one, and would be told by the next
			}
			if err := printDecision(cmd, &records[i], asJSON); err != nil {
				return err
			}
		}
		if len(records) == q.Limit {
			continue
		}
		if over {
			return nil
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func printDecision(cmd *cobra.Command, r *audit.Record, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetEscapeHTML(false)
		return enc.Encode(r.Document())
	}
	answer := "deny "
	if r.Allow {
		answer = "allow"
	}
	var codes []string
	for _, reason := range r.Reasons {
		codes = append(codes, reason.Code)
	}
	about := r.Resource.Type
	if r.Resource.ID != "" {
		about += "/" + r.Resource.ID
	}
	// Quoted, because an id is whatever somebody asked about.
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  %s  %s  %s  %s  %s\n", at(r.At), answer, plainWord(r.Actor.Type+"/"+r.Actor.ID),
		plainWord(r.Action), plainWord(about), plainWord(strings.Join(codes, ",")), r.ID)
	return err
}

// plainWord quotes what would not be one word on a terminal.
func plainWord(s string) string {
	quoted := fmt.Sprintf("%+q", s)
	if quoted[1:len(quoted)-1] == s && s != "" && !strings.Contains(s, " ") {
		return s
	}
	return quoted
}

func decisionsShow() *cobra.Command {
	var r remote
	cmd := subcommand("show ID", "Show a decision with all that it was made of, as JSON", []string{"ID"}, func(cmd *cobra.Command, args []string) error {
		return r.read(cmd, func(l decisionLog) error {
			record, err := l.Record(cmd.Context(), args[0])
			if errors.Is(err, audit.ErrNotFound) {
				return &hintError{fmt.Errorf("there is no decision %q", args[0]), "ostiary decisions list"}
			}
			if err != nil {
				return err
			}
			return show(cmd, true, record.Document(), "")
		})
	})
	r.flags(cmd)
	return cmd
}

func decisionsExport() *cobra.Command {
	var since, until, out string
	cmd := subcommand("export", "Write decisions as a chain of hashes, the oldest first", nil, func(cmd *cobra.Command, _ []string) (err error) {
		var q audit.Query
		if q.Since, err = timeFlag(cmd, "since", since); err != nil {
			return err
		}
		if q.Until, err = timeFlag(cmd, "until", until); err != nil {
			return err
		}
		return with(cmd, func(o *ostiary.Ostiary) (err error) {
			w := cmd.OutOrStdout()
			if out != "" {
				f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, f.Close()) }()
				w = f
			}
			e, err := audit.NewExport(w, time.Now(), q.Since, q.Until, audit.NoHash)
			if err == nil {
				err = o.Decisions().EachRecord(cmd.Context(), q, e.Write)
			}
			if err == nil {
				err = e.Close()
			}
			if err != nil {
				return fmt.Errorf("export: %w", err)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "ostiary: %d decisions, last hash %s\n", e.Records(), e.Hash())
			return nil
		})
	})
	cmd.Long = `Write decisions as JSON lines, the oldest first. Each line has the hash of the line
before and its own; the last one is printed: keep it elsewhere, and "ostiary
decisions verify --hash" shows whether the file is still the one that was written.`
	cmd.Example = `  ostiary decisions export --since 2026-01-01T00:00:00Z --until 2026-02-01T00:00:00Z --out january.jsonl
  ostiary decisions verify january.jsonl`
	timeFlags(cmd, &since, &until)
	cmd.Flags().StringVar(&out, "out", "", "write to this new file")
	return cmd
}

func decisionsVerify() *cobra.Command {
	var hash string
	var open bool
	cmd := &cobra.Command{
		Use:   "verify FILE…",
		Short: "Check that nobody changed an export",
		Long: `Check exports, and files that the service writes (decisions.sinks). Each line that
was altered, removed, moved or added is named. Files that continue each other, as
rotated ones do, are given together, the oldest first.

Who can write a whole file can make all its hashes anew: with --hash the last one
has to be the one that was told when the file was written.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return misuse(cmd, "FILE is missing")
			}
			return nil
		},
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			wrong := false
			say := func(name string, format string, args ...any) {
				wrong = true
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", name, fmt.Sprintf(format, args...))
			}
			last := ""
			for i, name := range args {
				f, err := os.Open(name)
				if err != nil {
					return err
				}
				sum, err := audit.VerifyExport(f, func(fault *audit.Fault) {
					if open && i == len(args)-1 && notEnded(fault) {
						return
					}
					say(name, "%v", fault)
				})
				f.Close()
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				if i > 0 && sum.First != last {
					say(name, "does not continue %s", args[i-1])
				}
				last = sum.Last
				if !wrong {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %d decisions, last hash %s\n", name, sum.Records, sum.Last)
				}
			}
			if hash != "" && hash != last {
				say(args[len(args)-1], "the last hash is %s, not %s", last, hash)
			}
			if wrong {
				return errNo
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&hash, "hash", "", "the last hash, as it was told")
	cmd.Flags().BoolVar(&open, "open", false, "the last file is still being written, so it has no end yet")
	return cmd
}

// notEnded reports whether fault is only that the end is not there yet.
func notEnded(fault *audit.Fault) bool { return errors.Is(fault, audit.ErrNotEnded) }
