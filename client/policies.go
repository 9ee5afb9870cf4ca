package client

import (
	"context"
	"encoding/json"
	"net/url"
	"time"

	"github.com/ostiary/ostiary/access"
)

// Policies checks, publishes and tells the rules in force. Each method takes who
// asks, as those of [Authn] do. Checking and testing take their time: these calls
// have a minute, or [Options.Timeout] if that is more.
type Policies struct{ c *Client }

// Policies checks, publishes and tells the rules of the service.
func (c *Client) Policies() Policies { return Policies{c} }

// Trial is what is to be said of files that are not published.
type Trial struct {
	OK       bool      `json:"ok"`
	Revision string    `json:"revision"` // that the files would be
	Tests    *Tests    `json:"tests"`    // of Test, if they passed
	Mistakes []string  `json:"mistakes"` // each begins with file, line and column, where it has them
	Warnings []Warning `json:"warnings"`
}

// Tests tells of the tests of a revision, all of which passed.
type Tests struct {
	Count    int     `json:"count"`
	Coverage float64 `json:"coverage"` // per cent of the lines
}

// Warning is something that is probably not meant.
type Warning struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
}

type filesDocument struct {
	Files map[string]string `json:"files"`
}

// Check finds mistakes in files, a text by each path: policy:test. That there are
// some is an answer, no error.
func (p Policies) Check(ctx context.Context, caller Principal, files map[string]string) (Trial, error) {
	return call[Trial](ctx, p.c, caller, reads("POST", "/v1/policy/check").patient(), filesDocument{given(files)})
}

// Test is Check, and runs the tests.
func (p Policies) Test(ctx context.Context, caller Principal, files map[string]string) (Trial, error) {
	return call[Trial](ctx, p.c, caller, reads("POST", "/v1/policy/test").patient(), filesDocument{given(files)})
}

// given has no files be none, not null.
func given(files map[string]string) map[string]string {
	if files == nil {
		return map[string]string{}
	}
	return files
}

// Publication is one time that a revision was put in force.
type Publication struct {
	Sequence       int64     `json:"sequence"`       // the highest is in force
	Revision       string    `json:"revision"`       // names the files: the same files have the same one
	PolicyRevision string    `json:"policyRevision"` // as decisions carry it
	Parent         string    `json:"parent"`         // the revision that was in force before; empty: none
	At             time.Time `json:"at"`
	By             Actor     `json:"by"`
	Note           string    `json:"note"`
	Tests          Tests     `json:"tests"`
	// Replay is what recorded decisions say of it, if that was demanded: a report
	// as POST /v1/policy/replay answers with.
	Replay json.RawMessage `json:"replay"`
}

// Actor is who did something.
type Actor struct {
	Type           string `json:"type"`
	ID             string `json:"id"`
	Credential     string `json:"credential"`
	KeyID          string `json:"keyId"`
	ImpersonatedBy string `json:"impersonatedBy"`
}

// Upload is what to publish, and what is said about it.
type Upload struct {
	Files map[string]string // path → text; of Publish
	Note  string
	// Expect, if set, is the revision that has to be in force, "" for none; another
	// is [ErrConflict].
	Expect *string
	DryRun bool    // do everything but publish
	Replay *Replay // of Publish
}

// Replay demands of a revision what recorded decisions have to say of it, more
// than the service is configured to demand anyhow.
type Replay struct {
	Since  time.Duration // how old they are at most; it has to be said
	FailOn string        // "deny-to-allow" (default), "any" or "none"
	Expect []Expectation // what is meant
}

// Expectation describes answers that are meant to change. Members that are empty
// fit all.
type Expectation struct {
	Flip         string `json:"flip,omitempty"` // "deny-to-allow" or "allow-to-deny"
	Was          string `json:"was,omitempty"`  // a code among the reasons on record
	Is           string `json:"is,omitempty"`   // a code among the new ones
	Role         string `json:"role,omitempty"`
	Action       string `json:"action,omitempty"`
	ResourceType string `json:"resourceType,omitempty"`
}

// document is what is said about a publication, without files.
func (u *Upload) document() map[string]any {
	doc := map[string]any{}
	if u.Note != "" {
		doc["note"] = u.Note
	}
	if u.Expect != nil {
		if doc["expect"] = *u.Expect; *u.Expect == "" {
			doc["expect"] = nil
		}
	}
	if u.DryRun {
		doc["dryRun"] = true
	}
	return doc
}

// Publish checks and tests files and puts them in force on all instances:
// policy:publish. What is wrong with them is [ErrInvalid], and an *[Error] with all
// Mistakes.
func (p Policies) Publish(ctx context.Context, caller Principal, in Upload) (Publication, error) {
	doc := in.document()
	doc["files"] = given(in.Files)
	if r := in.Replay; r != nil {
		gate := map[string]any{}
		if r.Since != 0 {
			gate["since"] = r.Since.String()
		}
		if r.FailOn != "" {
			gate["failOn"] = r.FailOn
		}
		if r.Expect != nil {
			gate["expect"] = r.Expect
		}
		doc["replay"] = gate
	}
	return call[Publication](ctx, p.c, caller, writes("POST", "/v1/policy/publish").patient(), doc)
}

// Rollback puts a revision in force that was before, the last one if it is empty:
// policy:publish. expect is as in [Upload].
func (p Policies) Rollback(ctx context.Context, caller Principal, revision, note string, expect *string) (Publication, error) {
	doc := (&Upload{Note: note, Expect: expect}).document()
	if revision != "" {
		doc["revision"] = revision
	}
	return call[Publication](ctx, p.c, caller, writes("POST", "/v1/policy/rollback").patient(), doc)
}

// History lists what was published, the newest first, before the one with this
// Sequence, if that is not 0, at most limit (default 50): policy:read.
func (p Policies) History(ctx context.Context, caller Principal, before int64, limit int) ([]Publication, error) {
	v := url.Values{}
	setNumber(v, "before", before)
	setNumber(v, "limit", int64(limit))
	out, err := call[struct {
		Revisions []Publication `json:"revisions"`
	}](ctx, p.c, caller, reads("GET", "/v1/policy/revisions?"+v.Encode()), nil)
	return out.Revisions, err
}

// Revision is what was published under one name.
type Revision struct {
	ID        string            `json:"revision"`
	CreatedAt time.Time         `json:"createdAt"`
	Tests     Tests             `json:"tests"`
	Files     map[string]string `json:"files"` // path → text
}

// Revision shows a revision, by its own name or the one that decisions carry:
// policy:read. [ErrNotFound].
func (p Policies) Revision(ctx context.Context, caller Principal, name string) (Revision, error) {
	return call[Revision](ctx, p.c, caller, reads("GET", "/v1/policy/revisions/"+url.PathEscape(name)), nil)
}

// Bundle is the rules in force, without the built-in ones.
type Bundle struct {
	PolicyRevision string            `json:"policyRevision"` // as decisions carry it
	Files          map[string]string `json:"files"`          // path → text
	Settings       map[string]any    `json:"settings"`
}

// Bundle shows the rules in force, wherever they come from: policy:read.
func (p Policies) Bundle(ctx context.Context, caller Principal) (Bundle, error) {
	return call[Bundle](ctx, p.c, caller, reads("GET", "/v1/policy/bundle"), nil)
}

// Roles is the table of roles in force, the built-in ones with the author's:
// policy:read.
func (p Policies) Roles(ctx context.Context, caller Principal) (map[string]access.Permissions, error) {
	out, err := call[struct {
		Roles map[string]access.Permissions `json:"roles"`
	}](ctx, p.c, caller, reads("GET", "/v1/roles"), nil)
	return out.Roles, err
}

// SetRole gives a role exactly these permissions: policy:publish. It is a
// publication like any; in's Files and Replay are not looked at.
func (p Policies) SetRole(ctx context.Context, caller Principal, role string, permissions access.Permissions, in Upload) (Publication, error) {
	doc := in.document()
	if permissions == nil {
		permissions = access.Permissions{}
	}
	doc["permissions"] = permissions
	return call[Publication](ctx, p.c, caller, writes("PUT", "/v1/roles/"+url.PathEscape(role)).patient(), doc)
}

// DeleteRole removes a role: policy:publish. One that somebody has, or that is
// built in, is [ErrConflict]. Of in, Note and Expect are looked at.
func (p Policies) DeleteRole(ctx context.Context, caller Principal, role string, in Upload) (Publication, error) {
	v := url.Values{}
	setText(v, "note", in.Note)
	if in.Expect != nil {
		v.Set("expect", *in.Expect)
	}
	return call[Publication](ctx, p.c, caller, writes("DELETE", "/v1/roles/"+url.PathEscape(role)+"?"+v.Encode()).patient(), nil)
}

// UserPermissions returns what a user, by id or email, may do by roles and with
// their own, without any key: access:evaluate and user:get. [ErrNotFound].
func (p Policies) UserPermissions(ctx context.Context, caller Principal, idOrEmail string) (byRole, own access.Permissions, err error) {
	return p.permissions(ctx, caller, url.Values{"user": {idOrEmail}})
}

// KeyPermissions returns what whoever presents the key with this id may do:
// access:evaluate, user:get and apiKey:read. [ErrNotFound].
func (p Policies) KeyPermissions(ctx context.Context, caller Principal, id string) (byRole, own access.Permissions, err error) {
	return p.permissions(ctx, caller, url.Values{"key": {id}})
}

func (p Policies) permissions(ctx context.Context, caller Principal, of url.Values) (byRole, own access.Permissions, err error) {
	out, err := call[permissionsDocument](ctx, p.c, caller, reads("GET", "/v1/policy/permissions?"+of.Encode()), nil)
	return out.Permissions, out.Own, err
}
