package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"github.com/ostiary/ostiary/audit"
)

type actorRow struct {
	Type           string `bun:"actorType"`
	ID             string `bun:"actorId"`
	Credential     string `bun:"actorCredential"`
	KeyID          string `bun:"actorKeyId"`
	ImpersonatedBy string `bun:"actorImpersonatedBy"`
}

type eventRow struct {
	bun.BaseModel `bun:"table:ostiary_event,alias:e"`

	ID   string  `bun:"id,pk"`
	At   instant `bun:"at"`
	Kind string  `bun:"kind"`
	actorRow
	TargetType string  `bun:"targetType"`
	TargetID   string  `bun:"targetId"`
	DecisionID string  `bun:"decisionId"`
	Details    *string `bun:"details"`
}

// stamped gives ev an id and a time if it has none.
func stamped(ev audit.Event) audit.Event {
	if ev.ID == "" {
		ev.ID = newID()
	}
	if ev.At.IsZero() {
		ev.At = time.Now()
	}
	return ev
}

// insertEvents writes evs. Whatever is wrong with an event is a failure of the
// change, not a mistake of the caller's.
func (db *DB) insertEvents(ctx context.Context, tx bun.IDB, evs []audit.Event) error {
	if len(evs) == 0 {
		return nil
	}
	rows := make([]eventRow, len(evs))
	for i, ev := range evs {
		ev = stamped(ev)
		details, err := encode(ev.Details)
		if err != nil {
			return rejected{fmt.Errorf("details of event %s: %w", ev.Kind, err)}
		}
		rows[i] = eventRow{
			ID: ev.ID, At: newInstant(ev.At), Kind: ev.Kind, actorRow: actorRow(ev.Actor),
			TargetType: ev.TargetType, TargetID: ev.TargetID, DecisionID: ev.DecisionID, Details: details,
		}
	}
	_, err := tx.NewInsert().Model(&rows).Exec(ctx)
	if kind, _ := db.dialect.fault(err); err != nil && kind != faultUnavailable && kind != faultOther {
		return rejected{fmt.Errorf("write event: %w", err)}
	}
	return err
}

// Events returns the newest events, newest first. Limit 0 is 50; more than 500
// are never returned.
func (db *DB) Events(ctx context.Context, limit int) ([]audit.Event, error) {
	var rows []eventRow
	err := db.reader.NewSelect().Model(&rows).OrderExpr(`"at" DESC, "id" DESC`).Limit(recordLimit(limit)).Scan(ctx)
	if err != nil {
		return nil, db.fail("read events", err)
	}
	evs := make([]audit.Event, len(rows))
	for i, r := range rows {
		evs[i] = audit.Event{
			ID: r.ID, At: r.At.Time, Kind: r.Kind, Actor: audit.Actor(r.actorRow),
			TargetType: r.TargetType, TargetID: r.TargetID, DecisionID: r.DecisionID,
		}
		if err := decode(r.Details, &evs[i].Details); err != nil {
			return nil, fmt.Errorf("details of event %s: %w", r.ID, err)
		}
	}
	return evs, nil
}

func recordLimit(n int) int64 {
	if n <= 0 {
		return 50
	}
	return int64(min(n, 500))
}

// decode reads what encode wrote. Numbers keep their digits, because a replay
// must see what the policy saw.
func decode(s *string, v any) error {
	if s == nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader([]byte(*s)))
	d.UseNumber()
	return d.Decode(v)
}
