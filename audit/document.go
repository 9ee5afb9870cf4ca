package audit

import (
	"fmt"
	"strconv"
	"time"

	"github.com/ostiary/ostiary/authz"
)

// Document is a record in JSON: the same in the HTTP API, in exports and
// wherever else records are told or kept.
type Document struct {
	ID             string            `json:"id"`
	Time           string            `json:"time"` // UTC, in milliseconds
	Allow          bool              `json:"allow"`
	PolicyRevision string            `json:"policyRevision"`
	DataRevision   int64             `json:"dataRevision,omitzero"`
	Principal      ActorDocument     `json:"principal"`
	AssertedBy     *AsserterDocument `json:"assertedBy,omitempty"`
	Action         string            `json:"action"`
	Resource       ResourceDocument  `json:"resource"`
	Mapped         string            `json:"mapped,omitempty"`
	Reasons        []authz.Reason    `json:"reasons"`
	Failure        string            `json:"failure,omitempty"`
	RequestID      string            `json:"requestId,omitempty"`
	Context        map[string]any    `json:"context,omitempty"`
	Input          map[string]any    `json:"input,omitempty"`
	NDBuiltinCache map[string]any    `json:"ndBuiltinCache,omitempty"`
	Erased         []string          `json:"erased,omitempty"`
	Masked         []string          `json:"masked,omitempty"`
	MaskFailure    string            `json:"maskFailure,omitempty"`
}

// ActorDocument is an Actor in JSON.
type ActorDocument struct {
	Type           string `json:"type"`
	ID             string `json:"id,omitempty"`
	Credential     string `json:"credential,omitempty"`
	KeyID          string `json:"keyId,omitempty"`
	ImpersonatedBy string `json:"impersonatedBy,omitempty"`
}

// AsserterDocument is an Asserter in JSON.
type AsserterDocument struct {
	Type  string `json:"type"`
	ID    string `json:"id,omitempty"`
	KeyID string `json:"keyId,omitempty"`
}

// ResourceDocument names a resource in JSON. Its properties are in the input.
type ResourceDocument struct {
	Type string `json:"type"`
	ID   string `json:"id,omitempty"`
}

const timeLayout = "2006-01-02T15:04:05.000Z"

// Document returns r in JSON. It shares r's maps.
func (r *Record) Document() Document {
	d := Document{
		ID: r.ID, Time: r.At.UTC().Format(timeLayout), Allow: r.Allow, PolicyRevision: r.Revision, DataRevision: r.DataRevision,
		Principal: ActorDocument(r.Actor), Action: r.Action, Resource: ResourceDocument{r.Resource.Type, r.Resource.ID}, Mapped: r.Mapped,
		Reasons: r.Reasons, Failure: r.Failure, RequestID: r.RequestID,
		Context: r.Context, Input: r.input(), NDBuiltinCache: r.NDBuiltinCache,
		Erased: r.Erased, Masked: r.Masked, MaskFailure: r.MaskFailure,
	}
	if d.Reasons == nil {
		d.Reasons = []authz.Reason{}
	}
	if r.AssertedBy != (Asserter{}) {
		by := AsserterDocument(r.AssertedBy)
		d.AssertedBy = &by
	}
	return d
}

// AppendJSON appends [Record.Document] as JSON, without making it: id and time come
// first, and a text is escaped where JSON demands it and nowhere else.
func (r *Record) AppendJSON(b []byte) (_ []byte, err error) {
	text := func(name, s string) { b = authz.AppendText(append(b, name...), s) }
	some := func(name, s string) {
		if s != "" {
			text(name, s)
		}
	}
	object := func(name string, m map[string]any) {
		if err == nil && len(m) > 0 {
			b, err = authz.AppendJSON(append(b, name...), m, nil)
		}
	}
	list := func(name string, of []string) {
		for i, s := range of {
			if i > 0 {
				name = ","
			}
			text(name, s)
		}
		if len(of) > 0 {
			b = append(b, ']')
		}
	}
	text(`{"id":`, r.ID)
	b = authz.AppendMoment(append(b, `,"time":`...), r.At)
	b = strconv.AppendBool(append(b, `,"allow":`...), r.Allow)
	text(`,"policyRevision":`, r.Revision)
	if r.DataRevision != 0 {
		b = strconv.AppendInt(append(b, `,"dataRevision":`...), r.DataRevision, 10)
	}
	text(`,"principal":{"type":`, r.Actor.Type)
	some(`,"id":`, r.Actor.ID)
	some(`,"credential":`, r.Actor.Credential)
	some(`,"keyId":`, r.Actor.KeyID)
	some(`,"impersonatedBy":`, r.Actor.ImpersonatedBy)
	if r.AssertedBy != (Asserter{}) {
		text(`},"assertedBy":{"type":`, r.AssertedBy.Type)
		some(`,"id":`, r.AssertedBy.ID)
		some(`,"keyId":`, r.AssertedBy.KeyID)
	}
	text(`},"action":`, r.Action)
	text(`,"resource":{"type":`, r.Resource.Type)
	some(`,"id":`, r.Resource.ID)
	b = append(b, '}')
	some(`,"mapped":`, r.Mapped)
	b = append(b, `,"reasons":[`...)
	for i := range r.Reasons {
		if i > 0 {
			b = append(b, ',')
		}
		if err == nil {
			b, err = authz.AppendReason(b, &r.Reasons[i], nil)
		}
	}
	b = append(b, ']')
	some(`,"failure":`, r.Failure)
	some(`,"requestId":`, r.RequestID)
	object(`,"context":`, r.Context)
	if r.decided == nil {
		object(`,"input":`, r.Input)
	} else if err == nil {
		b, err = authz.AppendDocument(append(b, `,"input":`...), &r.decided.Request, r.decided.Facts, r.decided.Decision.Time)
	}
	object(`,"ndBuiltinCache":`, r.NDBuiltinCache)
	list(`,"erased":[`, r.Erased)
	list(`,"masked":[`, r.Masked)
	some(`,"maskFailure":`, r.MaskFailure)
	return append(b, '}'), err
}

// Record is the reverse of [Record.Document].
func (d *Document) Record() (Record, error) {
	at, err := time.Parse(time.RFC3339, d.Time)
	if err != nil {
		return Record{}, fmt.Errorf("time: %w", err)
	}
	r := Record{
		ID: d.ID, At: at.UTC(), Allow: d.Allow, Revision: d.PolicyRevision, DataRevision: d.DataRevision,
		Actor: Actor(d.Principal), Action: d.Action, Resource: authz.Resource{Type: d.Resource.Type, ID: d.Resource.ID}, Mapped: d.Mapped,
		Reasons: d.Reasons, Failure: d.Failure, RequestID: d.RequestID,
		Context: d.Context, Input: d.Input, NDBuiltinCache: d.NDBuiltinCache,
		Erased: d.Erased, Masked: d.Masked, MaskFailure: d.MaskFailure,
	}
	if d.AssertedBy != nil {
		r.AssertedBy = Asserter(*d.AssertedBy)
	}
	if about, ok := d.Input["resource"].(map[string]any); ok {
		if properties, ok := about["properties"].(map[string]any); ok && len(properties) > 0 {
			r.Resource.Properties = properties
		}
	}
	return r, nil
}
