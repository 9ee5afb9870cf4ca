package server

import (
	"fmt"
	"net/http"

	"github.com/ostiary/ostiary/authz"
	"github.com/ostiary/ostiary/directory"
	"github.com/ostiary/ostiary/policies"
)

// recordedDocument is what was decided when it was.
type recordedDocument struct {
	Allow          bool           `json:"allow"`
	Reasons        []authz.Reason `json:"reasons"`
	PolicyRevision string         `json:"policyRevision"`
}

type explainedDocument struct {
	policies.Explained
	Recorded *recordedDocument `json:"recorded,omitempty"`
	// Withheld: a rule masks records, so what the input had is not told.
	Withheld bool `json:"withheld,omitzero"`
}

// explainPolicy says why the policy in force allows or denies something: an input
// document, what a record has, or what a user or key may. It quotes rules, so it
// needs policy:read, and for what it says of the input the same as who looks at
// that in another way.
func (s *server) explainPolicy(c *call) error {
	in, err := decode[struct {
		Input    field[exact]  `json:"input"`
		Decision field[string] `json:"decision"`
		User     field[string] `json:"user"`
		Key      field[string] `json:"key"`
		Action   action        `json:"action"`
		Resource resource      `json:"resource"`
		Context  object        `json:"context"`
	}](s, c)
	if err != nil {
		return err
	}
	asked := 0
	for _, set := range []bool{in.Input.set, in.Decision.set, in.User.set, in.Key.set} {
		if set {
			asked++
		}
	}
	somebody := in.User.set || in.Key.set
	if asked != 1 || !somebody && (in.Action.set || in.Resource.set || in.Context != nil) {
		return invalid("", "one of input, decision, and user or key with action and resource is to be explained")
	}
	if err := s.ask(c, "read", authz.Resource{Type: "policy"}); err != nil {
		return err
	}
	var x authz.Explanation
	var out explainedDocument
	switch {
	case in.Input.set:
		if err := s.ask(c, "test", authz.Resource{Type: "policy"}); err != nil {
			return err
		}
		x, err = s.explainDocument(c, in.Input.value, nil)
	case in.Decision.set:
		x, out.Recorded, err = s.explainRecord(c, in.Decision.value)
	default:
		if err := s.ask(c, "read", authz.Resource{Type: "decision"}); err != nil {
			return err
		}
		q, err := s.question(c, &check{in.Action, in.Resource, in.Context}, "")
		if err != nil {
			return err
		}
		if q.Subject, err = s.named(c, in.User.value, in.Key.value); err != nil {
			return err
		}
		// What is known of this request is not of theirs.
		if x, err = s.Engine.Explain(authz.WithFacts(c.ctx, nil), q); err != nil {
			return unavailable(err)
		}
		// A rule that keeps something out of records keeps it out of here.
		if p := s.Engine.Policy(); p == nil || p.Masking() {
			out.Withheld = true
			for i := range x.Unmet {
				x.Unmet[i].Values = []authz.Value{}
			}
			x.Failure = ""
		}
	}
	if err != nil {
		return err
	}
	out.Explained = s.Policies.Bundle().Explained(x)
	return answer(c.w, http.StatusOK, out)
}

// explainDocument explains what the policy in force says to doc, with what built-ins
// answered as a record has it.
func (s *server) explainDocument(c *call, doc, answered map[string]any) (authz.Explanation, error) {
	p := s.Engine.Policy()
	if p == nil {
		return authz.Explanation{}, unavailable(authz.ErrNoPolicy)
	}
	nd, err := authz.ReadNondeterminism(answered)
	if err != nil {
		return authz.Explanation{}, err
	}
	return p.Explain(c.ctx, doc, authz.TimeOf(doc), nd)
}

// explainRecord explains what the policy in force says to what a record has, unless
// some of that was taken out: then the answer would be a guess.
func (s *server) explainRecord(c *call, id string) (authz.Explanation, *recordedDocument, error) {
	if err := s.ask(c, "read", authz.Resource{Type: "decision", ID: id}); err != nil {
		return authz.Explanation{}, nil, err
	}
	r, err := s.Audit.Record(c.ctx, id)
	if err != nil {
		return authz.Explanation{}, nil, err
	}
	if why := r.Incomplete(); why != "" {
		return authz.Explanation{}, nil, problem(http.StatusUnprocessableEntity, CodeNotExplainable, why)
	}
	x, err := s.explainDocument(c, r.Input, r.NDBuiltinCache)
	return x, &recordedDocument{r.Allow, append([]authz.Reason{}, r.Reasons...), r.Revision}, err
}

// named is the user, by id or email, or whoever presents the key with this id. Who
// asks about others needs access:evaluate, and user:get or apiKey:read to know
// that they are there.
func (s *server) named(c *call, user, key string) (*authz.Subject, error) {
	var owner *authz.Subject
	if key != "" {
		var err error
		if owner, err = s.Authn.KeySubject(c.ctx, c.caller, key); err != nil {
			if p := problemOf(err, c.caller); p.Status == http.StatusUnauthorized && !c.caller.Anonymous() {
				// Of that key, not of the one that the caller presents.
				return nil, problem(http.StatusConflict, CodeConflict, fmt.Sprintf("the key is refused: %s", p.Detail))
			}
			return nil, err
		}
		user = owner.Identity().ID
	}
	u, err := s.Authn.FindUser(c.ctx, c.caller, user)
	if err != nil {
		return nil, err
	}
	asserted, err := s.Directory.Assert(c.ctx, c.caller, "evaluate", directory.Ref{Type: authz.TypeUser, ID: u.ID})
	if owner != nil && err == nil {
		return owner, nil
	}
	return asserted, err
}

// effective says what a user or key may, as it is enforced.
func (s *server) effective(c *call) error {
	in := queryOf(c.r, "user", "key")
	user, key := in.text("user"), in.text("key")
	if (user == "") == (key == "") {
		in.wrong("user", "or key is required, and not both")
	}
	if err := in.err(); err != nil {
		return err
	}
	subject, err := s.named(c, user, key)
	if err != nil {
		return err
	}
	may, err := s.permitted(c, subject)
	if err != nil {
		return err
	}
	return answer(c.w, http.StatusOK, may)
}

// bundle tells the rules in force, wherever they come from, without the built-in
// ones.
func (s *server) bundle(c *call) error {
	if err := s.ask(c, "read", authz.Resource{Type: "policy"}); err != nil {
		return err
	}
	if err := queryOf(c.r).err(); err != nil {
		return err
	}
	b := s.Policies.Bundle()
	return answer(c.w, http.StatusOK, struct {
		PolicyRevision string            `json:"policyRevision"`
		Files          map[string]string `json:"files"`
		Settings       map[string]any    `json:"settings"`
	}{b.Source.Revision, b.Files(), b.Settings()})
}
