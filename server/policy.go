package server

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/ostiary/ostiary/audit"
	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/policies"
)

// maxPolicyBody is the largest body with a bundle in it: [policies.MaxBytes] as
// JSON. The limit of all other bodies counts where it is higher.
const maxPolicyBody = policies.MaxBytes * 4 / 3

// policyProblem words why a policy was not put in force, or returns nil.
func policyProblem(err error) *Problem {
	if overtaken, ok := errors.AsType[*policies.OvertakenError](err); ok {
		return problem(http.StatusConflict, CodeOvertaken, overtaken.Error())
	}
	if errors.Is(err, policies.ErrRoleAssigned) {
		return problem(http.StatusConflict, CodeRoleInUse, err.Error())
	}
	refused, ok := errors.AsType[*policies.RefusedError](err)
	if !ok {
		return nil
	}
	code := map[string]string{
		policies.StepCheck: CodePolicyInvalid, policies.StepTest: CodePolicyTests, policies.StepLockout: CodePolicyLockout,
	}[refused.Step]
	p := problem(http.StatusUnprocessableEntity, code, refused.Mistakes[0].Error())
	if more := len(refused.Mistakes) - 1; more > 0 {
		p.Detail = fmt.Sprintf("%s (and %d more)", p.Detail, more)
	}
	for _, m := range refused.Mistakes {
		p.Errors = append(p.Errors, FieldError{pointerTo(m), m.Error()})
	}
	return p
}

// pointerTo is the file that a mistake begins with, as a place in the body.
func pointerTo(mistake error) string {
	file, _, ok := strings.Cut(mistake.Error(), ":")
	if !ok || strings.ContainsAny(file, " \"") || !strings.Contains(file, ".") {
		return "/files"
	}
	return "/files/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(file)
}

// upload is a bundle, and what is said about it. expect may be null: no revision
// was published yet.
type upload struct {
	Files  field[map[string]string] `json:"files"`
	Note   field[string]            `json:"note"`
	Expect nullable[string]         `json:"expect"`
	DryRun field[bool]              `json:"dryRun"`
}

// expected is the revision that has to be in force.
func expected(n nullable[string]) *string {
	none := ""
	if n.set && n.value == nil {
		return &none
	}
	return n.value
}

type testedDocument struct {
	Count    int     `json:"count"`
	Coverage float64 `json:"coverage"`
}

type publicationDocument struct {
	Sequence       int64               `json:"sequence"`
	Revision       string              `json:"revision"`
	PolicyRevision string              `json:"policyRevision"`
	Parent         *string             `json:"parent"`
	At             stamp               `json:"at"`
	By             audit.ActorDocument `json:"by"`
	Note           string              `json:"note"`
	Tests          testedDocument      `json:"tests"`
}

func documentOfPublication(p policies.Publication) publicationDocument {
	d := publicationDocument{
		Sequence: p.Sequence, Revision: p.Revision, PolicyRevision: p.PolicyRevision, At: stamp(p.At),
		By: audit.ActorDocument(p.By), Note: p.Note, Tests: testedDocument(p.Tests),
	}
	if p.Parent != "" {
		d.Parent = &p.Parent
	}
	return d
}

// published answers with a publication, or with what it would be.
func published(c *call, p policies.Publication, dryRun bool, err error) error {
	if err != nil {
		return err
	}
	status := http.StatusCreated
	if dryRun {
		status = http.StatusOK
	}
	return answer(c.w, status, documentOfPublication(p))
}

func (s *server) publishPolicy(c *call) error {
	in, err := decodeWith[upload](s.Reader.Larger(maxPolicyBody), c)
	if err != nil {
		return err
	}
	if !in.Files.set {
		return invalid("/files", "is required")
	}
	p, err := s.Policies.Publish(c.ctx, c.caller, policies.Upload{
		Files: in.Files.value, Note: in.Note.value, Expect: expected(in.Expect), DryRun: in.DryRun.value,
	})
	return published(c, p, in.DryRun.value, err)
}

func (s *server) rollbackPolicy(c *call) error {
	in, err := decode[struct {
		Revision field[string]    `json:"revision"`
		Note     field[string]    `json:"note"`
		Expect   nullable[string] `json:"expect"`
	}](s, c)
	if err != nil {
		return err
	}
	p, err := s.Policies.Rollback(c.ctx, c.caller, in.Revision.value, in.Note.value, expected(in.Expect))
	return published(c, p, false, err)
}

// publications answers with what was published, the newest first.
func (s *server) publications(c *call) error {
	in := queryOf(c.r, "before", "limit")
	before := in.number("before", 1, 1<<53, 0)
	limit := in.number("limit", 1, policies.MaxHistory, 50)
	if err := in.err(); err != nil {
		return err
	}
	ps, err := s.Policies.History(c.ctx, c.caller, int64(before), limit)
	if err != nil {
		return err
	}
	page := struct {
		Revisions []publicationDocument `json:"revisions"`
		Next      string                `json:"next,omitempty"`
	}{Revisions: make([]publicationDocument, len(ps))}
	for i, p := range ps {
		page.Revisions[i] = documentOfPublication(p)
	}
	if last := len(ps) - 1; len(ps) == limit && ps[last].Sequence > 1 {
		page.Next = strconv.FormatInt(ps[last].Sequence, 10)
	}
	return answer(c.w, http.StatusOK, page)
}

func (s *server) policyRevision(c *call) error {
	if err := queryOf(c.r).err(); err != nil {
		return err
	}
	r, err := s.Policies.Revision(c.ctx, c.caller, pathParam(c.r, "revision"))
	if err != nil {
		return err
	}
	return answer(c.w, http.StatusOK, struct {
		Revision  string            `json:"revision"`
		CreatedAt stamp             `json:"createdAt"`
		Tests     testedDocument    `json:"tests"`
		Files     map[string]string `json:"files"`
	}{r.ID, stamp(r.CreatedAt), testedDocument(r.Tests), r.Files})
}

type trialDocument struct {
	OK       bool               `json:"ok"`
	Revision string             `json:"revision,omitempty"`
	Tests    *testedDocument    `json:"tests,omitempty"`
	Mistakes []string           `json:"mistakes"`
	Warnings []policies.Finding `json:"warnings"`
}

func (s *server) checkPolicy(c *call) error { return s.tryPolicy(c, false) }

func (s *server) testPolicy(c *call) error { return s.tryPolicy(c, true) }

// tryPolicy checks a bundle and may run its tests. That there is something wrong
// with it is an answer, not an error.
func (s *server) tryPolicy(c *call, tested bool) error {
	in, err := decodeWith[struct {
		Files field[map[string]string] `json:"files"`
	}](s.Reader.Larger(maxPolicyBody), c)
	if err != nil {
		return err
	}
	if !in.Files.set {
		return invalid("/files", "is required")
	}
	try := s.Policies.Check
	if tested {
		try = s.Policies.Test
	}
	t, err := try(c.ctx, c.caller, in.Files.value)
	out := trialDocument{OK: err == nil, Revision: t.Revision, Mistakes: []string{}, Warnings: []policies.Finding{}}
	refused, wrong := errors.AsType[*policies.RefusedError](err)
	switch {
	case wrong:
		for _, m := range refused.Mistakes {
			out.Mistakes = append(out.Mistakes, m.Error())
		}
	case err != nil:
		return err
	default:
		out.Warnings = t.Warnings
		if tested {
			tests := testedDocument(t.Tests)
			out.Tests = &tests
		}
	}
	return answer(c.w, http.StatusOK, out)
}

func (s *server) roles(c *call) error {
	if err := s.ask(c, "read", authz.Resource{Type: "policy"}); err != nil {
		return err
	}
	if err := queryOf(c.r).err(); err != nil {
		return err
	}
	b := s.Policies.Bundle()
	return answer(c.w, http.StatusOK, struct {
		PolicyRevision string                       `json:"policyRevision"`
		Roles          map[string]authz.Permissions `json:"roles"`
	}{b.Source.Revision, b.Roles})
}

func (s *server) setRole(c *call) error {
	in, err := decode[struct {
		Permissions field[authz.Permissions] `json:"permissions"`
		Note        field[string]            `json:"note"`
		Expect      nullable[string]         `json:"expect"`
		DryRun      field[bool]              `json:"dryRun"`
	}](s, c)
	if err != nil {
		return err
	}
	if !in.Permissions.set {
		return invalid("/permissions", "is required")
	}
	p, err := s.Policies.SetRole(c.ctx, c.caller, pathParam(c.r, "name"), in.Permissions.value, policies.Upload{
		Note: in.Note.value, Expect: expected(in.Expect), DryRun: in.DryRun.value,
	})
	return published(c, p, in.DryRun.value, err)
}

func (s *server) deleteRole(c *call) error {
	in := queryOf(c.r, "note", "expect")
	if err := in.err(); err != nil {
		return err
	}
	u := policies.Upload{Note: in.text("note")}
	if in.values.Has("expect") {
		expect := in.text("expect")
		u.Expect = &expect
	}
	p, err := s.Policies.DeleteRole(c.ctx, c.caller, pathParam(c.r, "name"), u)
	return published(c, p, false, err)
}
