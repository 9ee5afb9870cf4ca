package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/authz"
)

// Entity is a subject or a resource as an application describes it.
type Entity struct {
	Type, ID string
	// Properties are JSON values; nil, which only a caller writes, is none. Numbers from the store are of
	// type json.Number and have the digits that they were written with.
	Properties map[string]any
	UpdatedAt  time.Time // set when it is written
}

// Limits of an entity, and of one call.
const (
	MaxType       = 128      // characters
	MaxID         = 256      // characters
	MaxProperties = 64 << 10 // bytes of JSON
	MaxDepth      = 32       // of objects and lists in each other, the properties themselves being the first
	MaxImport     = 10_000   // entities in one import, unless the program itself makes it
	MaxList       = 1000     // entities on one page
)

// reserved are the types that Ostiary answers for itself. Users it lets others
// describe as well: those that it does not know.
var reserved = []string{
	"access", "anonymous", "apiKey", "decision", "entity", "event", "policy", authz.TypeServiceAccount, "session",
}

// check reports what is wrong with e. at is where it stands in what was sent:
// "" or "entities/3/".
func (e *Entity) check(at string) error {
	if err := checkType(at+"type", e.Type); err != nil {
		return err
	}
	if err := checkID(at+"id", e.ID); err != nil {
		return err
	}
	return checkProperties(at+"properties", e.Properties)
}

func checkType(field, typ string) error {
	invalid := func(format string, args ...any) error {
		return &authn.InvalidError{Field: field, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case typ == "":
		return invalid("is required")
	case !written(typ, MaxType):
		return invalid("must have at most %d characters, none of them a control character", MaxType)
	case strings.ContainsAny(typ, `/\%;`) || typ == "." || typ == ".." || typ == "*":
		// It stands in paths, in the names of changes, and in tables.
		return invalid(`must not be ".", ".." or "*" nor contain a slash, a backslash, "%%" or ";"`)
	case slices.Contains(reserved, typ):
		return invalid("%s is a type of Ostiary's own, of which there are no entities", typ)
	}
	return nil
}

func checkID(field, id string) error {
	switch {
	case id == "":
		return &authn.InvalidError{Field: field, Reason: "is required"}
	case !written(id, MaxID):
		return &authn.InvalidError{Field: field, Reason: fmt.Sprintf("must have at most %d characters, none of them a control character", MaxID)}
	}
	return nil
}

// written reports whether s is text of at most so many characters without
// control characters.
func written(s string, most int) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= most && !strings.ContainsFunc(s, unicode.IsControl)
}

// possible reports whether there can be such an entity.
func possible(typ, id string) bool { return checkType("", typ) == nil && checkID("", id) == nil }

func checkProperties(field string, properties map[string]any) error {
	invalid := func(reason string) error { return &authn.InvalidError{Field: field, Reason: reason} }
	if reason := checkValue(properties, MaxDepth); reason != "" {
		return invalid(reason)
	}
	text, err := json.Marshal(properties)
	switch {
	case err != nil:
		return invalid("are not JSON")
	case len(text) > MaxProperties:
		return invalid(fmt.Sprintf("must be at most %d bytes of JSON", MaxProperties))
	}
	return nil
}

// checkValue says why v cannot be kept, or nothing. What one database could
// keep and the other could not, neither does.
func checkValue(v any, depth int) string {
	switch v := v.(type) {
	case map[string]any:
		if depth == 0 {
			return fmt.Sprintf("must be at most %d deep", MaxDepth)
		}
		for name, member := range v {
			if reason := checkText(name); reason != "" {
				return reason
			}
			if reason := checkValue(member, depth-1); reason != "" {
				return reason
			}
		}
	case []any:
		if depth == 0 {
			return fmt.Sprintf("must be at most %d deep", MaxDepth)
		}
		for _, element := range v {
			if reason := checkValue(element, depth-1); reason != "" {
				return reason
			}
		}
	case string:
		return checkText(v)
	case json.Number:
		// A value too large or too small for others to read would be another
		// value to them; digits may be as many as they are.
		f, err := strconv.ParseFloat(v.String(), 64)
		mantissa, _, _ := strings.Cut(strings.ToLower(v.String()), "e")
		if err != nil || f == 0 && strings.ContainsAny(mantissa, "123456789") {
			return "must have no number that is too large or too small for a double"
		}
	case nil, bool, float64, float32, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
	default:
		return fmt.Sprintf("must be JSON values, not %T", v)
	}
	return ""
}

func checkText(s string) string {
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return "must have no text with U+0000 or what is not UTF-8"
	}
	return ""
}

// resource is what a decision about the entity is asked with. An empty id
// stands for all of the type, an empty type for all.
func resource(typ, id string) authz.Resource {
	r := authz.Resource{Type: "entity", Properties: map[string]any{}}
	if typ != "" {
		r.Properties["type"] = typ
	}
	if id != "" {
		r.ID, r.Properties["id"] = name{typ, id}.String(), id
	}
	return r
}

// Put makes or replaces an entity, and reports whether there was none before.
// entity:write.
func (s *Service) Put(ctx context.Context, caller authn.Principal, e Entity) (_ Entity, created bool, err error) {
	decision, err := s.permit(ctx, caller, "write", resource(e.Type, e.ID))
	if err != nil {
		return Entity{}, false, err
	}
	if err := e.check(""); err != nil {
		return Entity{}, false, err
	}
	e.UpdatedAt = s.now()
	if e.Properties == nil {
		e.Properties = map[string]any{}
	}
	id := name{e.Type, e.ID}.String()
	n, err := s.store.PutEntities(ctx, []Entity{e}, s.event(caller, "entity.put", id, decision, nil))
	if err != nil {
		return Entity{}, false, fmt.Errorf("write entity %s: %w", id, err)
	}
	s.Forget("entity", id)
	return e, n > 0, nil
}

// Entity returns an entity. entity:read. [authn.ErrNotFound].
func (s *Service) Entity(ctx context.Context, caller authn.Principal, typ, id string) (Entity, error) {
	if _, err := s.permit(ctx, caller, "read", resource(typ, id)); err != nil {
		return Entity{}, err
	}
	if !possible(typ, id) {
		return Entity{}, authn.ErrNotFound
	}
	e, err := s.store.Entity(ctx, typ, id)
	if err != nil {
		return Entity{}, fmt.Errorf("read entity %s/%s: %w", typ, id, err)
	}
	return e, nil
}

// Delete removes an entity. entity:write. [authn.ErrNotFound].
func (s *Service) Delete(ctx context.Context, caller authn.Principal, typ, id string) error {
	decision, err := s.permit(ctx, caller, "write", resource(typ, id))
	if err != nil {
		return err
	}
	if !possible(typ, id) {
		return authn.ErrNotFound
	}
	full := name{typ, id}.String()
	if err := s.store.DeleteEntity(ctx, typ, id, s.event(caller, "entity.delete", full, decision, nil)); err != nil {
		return fmt.Errorf("delete entity %s: %w", full, err)
	}
	s.Forget("entity", full)
	return nil
}

// List returns one page of the entities that q selects, and where the next one
// begins; empty if it was the last. entity:read, which is asked about the type
// as a whole; entities of which the policy denies it are left out, and do not show.
func (s *Service) List(ctx context.Context, caller authn.Principal, q EntityQuery) (_ []Entity, next string, err error) {
	if _, err := s.permit(ctx, caller, "read", resource(q.Type, "")); err != nil {
		return nil, "", err
	}
	if q.Limit < 1 || q.Limit > MaxList {
		return nil, "", &authn.InvalidError{Field: "limit", Reason: fmt.Sprintf("must be from 1 to %d", MaxList)}
	}
	if checkType("", q.Type) != nil {
		return []Entity{}, "", nil
	}
	judge := s.engine.Judge()
	shown := []Entity{}
	end := s.deadline(ctx)
	// What is left out must not show where a page ends either: a page is full, or
	// the last.
	for read := 0; ; {
		es, err := s.store.Entities(ctx, EntityQuery{Type: q.Type, After: q.After, Limit: atOnce})
		if err != nil {
			return nil, "", fmt.Errorf("list entities: %w", err)
		}
		for _, e := range es {
			if _, err := authn.Permit(ctx, judge, caller, "read", resource(e.Type, e.ID)); err != nil {
				if errors.Is(err, authz.ErrDenied) {
					continue
				}
				return nil, "", err
			}
			if len(shown) == q.Limit {
				return shown, shown[q.Limit-1].ID, nil
			}
			shown = append(shown, e)
		}
		read += len(es)
		switch {
		case len(es) < atOnce:
			return shown, "", nil
		case (read >= s.o.SearchCandidates || !time.Now().Before(end)) && len(shown) > 0:
			return shown, shown[len(shown)-1].ID, nil
		case read >= s.o.SearchCandidates || !time.Now().Before(end):
			return nil, "", fmt.Errorf("%w: of %d entities the caller may read none", authn.ErrUnavailable, read)
		}
		q.After = es[len(es)-1].ID
	}
}

// Types lists the types of which there are entities, ascending byte by byte:
// those of which the caller may read. entity:read.
func (s *Service) Types(ctx context.Context, caller authn.Principal) ([]string, error) {
	if _, err := s.permit(ctx, caller, "read", resource("", "")); err != nil {
		return nil, err
	}
	types, err := s.store.EntityTypes(ctx)
	if err != nil {
		return nil, fmt.Errorf("list types of entities: %w", err)
	}
	judge := s.engine.Judge()
	shown := make([]string, 0, len(types))
	for _, t := range types {
		switch _, err := authn.Permit(ctx, judge, caller, "read", resource(t, "")); {
		case err == nil:
			shown = append(shown, t)
		case !errors.Is(err, authz.ErrDenied):
			return nil, err
		}
	}
	return shown, nil
}

// Import makes or replaces entities, all of them or none, with one event, and
// reports how many there were not before. entity:write, of each entity; on
// record is the decision about the first of each type, and the one that denies.
// At most [MaxImport] at once, unless the program itself imports them; the same
// entity twice is a mistake.
func (s *Service) Import(ctx context.Context, caller authn.Principal, es []Entity) (created int, err error) {
	decision, err := s.permitImport(ctx, caller, es)
	if err != nil {
		return 0, err
	}
	if len(es) == 0 {
		return 0, nil
	}
	now := s.now()
	rows := make([]Entity, len(es))
	seen := make(map[name]bool, len(es))
	types := map[string]bool{}
	for i, e := range es {
		at := "entities/" + strconv.Itoa(i) + "/"
		if err := e.check(at); err != nil {
			return 0, err
		}
		if n := (name{e.Type, e.ID}); seen[n] {
			return 0, &authn.InvalidError{Field: at + "id", Reason: fmt.Sprintf("%s is there twice", n)}
		} else {
			seen[n], types[e.Type] = true, true
		}
		e.UpdatedAt = now
		rows[i] = e
	}
	// An event is no place for thousands of types.
	named := slices.Sorted(maps.Keys(types))
	details := map[string]any{"count": len(es), "types": authz.Texts(named[:min(len(named), 20)])}
	if created, err = s.store.PutEntities(ctx, rows, s.event(caller, "entity.import", "", decision, details)); err != nil {
		return 0, fmt.Errorf("import entities: %w", err)
	}
	s.Forget("entity", "")
	return created, nil
}

func (s *Service) permitImport(ctx context.Context, caller authn.Principal, es []Entity) (decision string, err error) {
	if caller.IsSystem() {
		return "", nil
	}
	if len(es) > MaxImport {
		return "", &authn.InvalidError{Field: "entities", Reason: fmt.Sprintf("must be at most %d", MaxImport)}
	}
	judge := s.engine.Judge()
	asked := map[string]bool{}
	for i, e := range es {
		r := resource(e.Type, e.ID)
		if asked[e.Type] {
			if _, err := authn.Permit(ctx, judge, caller, "write", r); err == nil {
				continue
			}
		}
		asked[e.Type] = true
		d, err := s.permit(ctx, caller, "write", r)
		if err != nil {
			return "", err
		}
		if i == 0 {
			decision = d
		}
	}
	if len(es) == 0 {
		return s.permit(ctx, caller, "write", resource("", ""))
	}
	return decision, nil
}
