package server

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

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
		policies.StepReplay: CodePolicyReplay,
	}[refused.Step]
	p := problem(http.StatusUnprocessableEntity, code, refused.Mistakes[0].Error())
	if more := len(refused.Mistakes) - 1; more > 0 {
		p.Detail = fmt.Sprintf("%s (and %d more)", p.Detail, more)
	}
	for _, m := range refused.Mistakes {
		p.Errors = append(p.Errors, FieldError{pointerTo(m), m.Error()})
	}
	p.Replay = refused.Replay
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
	Replay field[gateDocument]      `json:"replay"`
}

type gateDocument struct {
	Since  field[string]                 `json:"since"`
	FailOn field[string]                 `json:"failOn"`
	Expect field[[]policies.Expectation] `json:"expect"`
}

func (d gateDocument) gate() (policies.ReplayGate, error) {
	since, err := duration(d.Since, "/replay/since")
	return policies.ReplayGate{Since: since, FailOn: d.FailOn.value, Expect: d.Expect.value}, err
}

// duration reads how long something is, zero if that is not said.
func duration(in field[string], pointer string) (time.Duration, error) {
	if !in.set {
		return 0, nil
	}
	d, err := time.ParseDuration(in.value)
	if err != nil || d <= 0 {
		return 0, invalid(pointer, "must be a duration such as 24h")
	}
	return d, nil
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
	Sequence       int64                  `json:"sequence"`
	Revision       string                 `json:"revision"`
	PolicyRevision string                 `json:"policyRevision"`
	Parent         *string                `json:"parent"`
	At             stamp                  `json:"at"`
	By             audit.ActorDocument    `json:"by"`
	Note           string                 `json:"note"`
	Tests          testedDocument         `json:"tests"`
	Replay         *policies.ReplayReport `json:"replay,omitempty"`
}

func documentOfPublication(p policies.Publication) publicationDocument {
	d := publicationDocument{
		Sequence: p.Sequence, Revision: p.Revision, PolicyRevision: p.PolicyRevision, At: stamp(p.At),
		By: audit.ActorDocument(p.By), Note: p.Note, Tests: testedDocument(p.Tests), Replay: p.Replay,
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
	gate, err := in.Replay.value.gate()
	if err != nil {
		return err
	}
	p, err := s.Policies.Publish(c.ctx, c.caller, policies.Upload{
		Files: in.Files.value, Note: in.Note.value, Expect: expected(in.Expect), DryRun: in.DryRun.value, Replay: gate,
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

type shadowDocument struct {
	ID             string                  `json:"id"`
	Running        bool                    `json:"running"`
	Revision       string                  `json:"revision,omitempty"`
	PolicyRevision string                  `json:"policyRevision"`
	StartedAt      stamp                   `json:"startedAt"`
	EndsAt         *stamp                  `json:"endsAt"`
	By             audit.ActorDocument     `json:"by"`
	Note           string                  `json:"note"`
	Reports        []policies.ShadowReport `json:"reports"`
}

func documentOfShadow(s policies.Shadow, running bool, reports []policies.ShadowReport) shadowDocument {
	d := shadowDocument{
		ID: s.ID, Running: running, Revision: s.Revision, PolicyRevision: s.PolicyRevision, StartedAt: stamp(s.StartedAt),
		By: audit.ActorDocument(s.By), Note: s.Note, Reports: reports,
	}
	if !s.EndsAt.IsZero() {
		ends := stamp(s.EndsAt)
		d.EndsAt = &ends
	}
	return d
}

func (s *server) startShadow(c *call) error {
	in, err := decodeWith[struct {
		Files    field[map[string]string] `json:"files"`
		Revision field[string]            `json:"revision"`
		For      field[string]            `json:"for"`
		Note     field[string]            `json:"note"`
	}](s.Reader.Larger(maxPolicyBody), c)
	if err != nil {
		return err
	}
	if in.Files.set == (in.Revision.value != "") {
		return invalid("", "must have either files or revision")
	}
	start := policies.ShadowStart{Files: in.Files.value, Revision: in.Revision.value, Note: in.Note.value}
	if start.For, err = duration(in.For, "/for"); err != nil {
		return err
	}
	shadow, err := s.Policies.StartShadow(c.ctx, c.caller, start)
	if err != nil {
		return err
	}
	return answer(c.w, http.StatusCreated, documentOfShadow(shadow, true, []policies.ShadowReport{}))
}

func (s *server) stopShadow(c *call) error {
	if err := queryOf(c.r).err(); err != nil {
		return err
	}
	if err := s.Policies.StopShadow(c.ctx, c.caller); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) shadow(c *call) error {
	if err := queryOf(c.r).err(); err != nil {
		return err
	}
	shadow, running, reports, err := s.Policies.ShowShadow(c.ctx, c.caller)
	if err != nil {
		return err
	}
	return answer(c.w, http.StatusOK, documentOfShadow(shadow, running, reports))
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

// replayPolicy asks a bundle what was decided before. That answers would be others
// is an answer, not an error.
func (s *server) replayPolicy(c *call) error {
	in, err := decodeWith[struct {
		Files  field[map[string]string]      `json:"files"`
		Since  field[string]                 `json:"since"`
		Expect field[[]policies.Expectation] `json:"expect"`
	}](s.Reader.Larger(maxPolicyBody), c)
	if err != nil {
		return err
	}
	if !in.Files.set {
		return invalid("/files", "is required")
	}
	since, err := duration(in.Since, "/since")
	if err != nil {
		return err
	}
	report, err := s.Policies.Replay(c.ctx, c.caller, in.Files.value, since, in.Expect.value)
	if err != nil {
		return err
	}
	return answer(c.w, http.StatusOK, report)
}

// maxEvaluated is the largest answer to a query, in bytes of JSON.
const maxEvaluated = 1 << 20

// evalPolicy answers a query over the bundle in force or over another.
func (s *server) evalPolicy(c *call) error {
	in, err := decodeWith[struct {
		Query field[string]            `json:"query"`
		Input field[exact]             `json:"input"`
		Files field[map[string]string] `json:"files"`
	}](s.Reader.Larger(maxPolicyBody), c)
	if err != nil {
		return err
	}
	if !in.Query.set {
		return invalid("/query", "is required")
	}
	x, err := s.Policies.Eval(c.ctx, c.caller, in.Query.value, in.Input.value, in.Files.value)
	if err != nil {
		return queryProblem(err)
	}
	out, err := encode(x)
	if err != nil {
		return err
	}
	if len(out) > maxEvaluated {
		return problem(http.StatusUnprocessableEntity, CodeQueryFailed, fmt.Sprintf("the query comes to more than %d bytes", maxEvaluated))
	}
	send(c.w, http.StatusOK, out)
	return nil
}

// queryProblem words why a query has no answer; what is not about the query stays
// as it is.
func queryProblem(err error) error {
	if errors.Is(err, policies.ErrEvalTime) {
		return problem(http.StatusUnprocessableEntity, CodeQueryFailed, err.Error())
	}
	wrong, ok := errors.AsType[*authz.RegoError](err)
	if !ok {
		return err
	}
	code := CodeQueryInvalid
	if wrong.Stage == authz.Evaluating {
		code = CodeQueryFailed
	}
	p := problem(http.StatusUnprocessableEntity, code, wrong.Error())
	for _, d := range wrong.Details {
		var m struct {
			Message  string `json:"message"`
			Location *struct {
				File string `json:"file"`
				Row  int    `json:"row"`
				Col  int    `json:"col"`
			} `json:"location"`
		}
		if err := json.Unmarshal(d, &m); err != nil {
			return err
		}
		if at := m.Location; at != nil {
			m.Message = strings.TrimPrefix(fmt.Sprintf("%s:%d:%d: %s", at.File, at.Row, at.Col, m.Message), ":")
		}
		p.Errors = append(p.Errors, FieldError{"/query", m.Message})
	}
	if len(p.Errors) > 0 {
		p.Detail = p.Errors[0].Message
	}
	return p
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
