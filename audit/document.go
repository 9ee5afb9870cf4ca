package audit

import (
	"fmt"
	"time"

	"github.com/ostiary/ostiary/authz"
)

// Document is a record in JSON: the same in the HTTP API, in exports and
// wherever else records are told.
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
