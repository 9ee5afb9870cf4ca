package audit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/ostiary/ostiary/authz"
)

// event is r as rules about records see it, and as OPA logs decisions. It shares
// r's maps.
func (r *Record) event() (map[string]any, error) {
	result, err := r.result()
	if err != nil {
		return nil, err
	}
	e := map[string]any{
		"decision_id": r.ID,
		"path":        "ostiary/decision",
		"timestamp":   r.At.UTC().Format(timeLayout),
		"bundles":     map[string]any{"ostiary": map[string]any{"revision": r.Revision}},
		"input":       r.Input,
		"result":      result,
	}
	if r.NDBuiltinCache != nil {
		e["nd_builtin_cache"] = r.NDBuiltinCache
	}
	if r.Failure != "" {
		e["error"] = map[string]any{"message": r.Failure}
	}
	return e, nil
}

// result is the answer as the policy gave it.
func (r *Record) result() (map[string]any, error) {
	var reasons []any
	if err := convert(r.Reasons, &reasons); err != nil {
		return nil, err
	}
	if reasons == nil {
		reasons = []any{}
	}
	result := map[string]any{"allow": r.Allow, "reasons": reasons}
	if r.Context != nil {
		result["context"] = r.Context
	}
	return result, nil
}

func convert(from, to any) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return d.Decode(to)
}

// failureMasked stands for what a policy that failed said, which can quote
// anything that it saw.
const failureMasked = "the policy failed; how is masked"

// mask applies masks to r and event, which is r's. Nothing that others share is
// changed.
func (r *Record) mask(event map[string]any, masks []authz.Mask) {
	// Replacements first, and of a list its end before its beginning: so each
	// pointer still means what it meant to the rule.
	slices.SortStableFunc(masks, func(a, b authz.Mask) int {
		if a.Replace != b.Replace {
			if a.Replace {
				return -1
			}
			return 1
		}
		return comparePointers(b.Pointer, a.Pointer)
	})
	before := map[string]any{"input": event["input"]}
	var doc any = map[string]any{"input": event["input"], "result": event["result"]}
	if nd, ok := event["nd_builtin_cache"]; ok {
		doc.(map[string]any)["nd_builtin_cache"] = nd
	}
	for _, m := range masks {
		next, ok := edited(doc, strings.Split(m.Pointer[1:], "/"), m)
		if !ok {
			continue // there is nothing at this place
		}
		doc = next
		if m.Replace {
			r.Masked = append(r.Masked, m.Pointer)
		} else {
			r.Erased = append(r.Erased, m.Pointer)
		}
	}
	if len(r.Erased)+len(r.Masked) == 0 {
		return
	}
	after := doc.(map[string]any)
	r.Input, _ = after["input"].(map[string]any)
	r.NDBuiltinCache, _ = after["nd_builtin_cache"].(map[string]any)
	result, _ := after["result"].(map[string]any)
	r.Context, _ = result["context"].(map[string]any)
	r.Reasons = nil
	if convert(result["reasons"], &r.Reasons) != nil {
		r.Reasons = nil // replaced with something else
	}
	for _, c := range r.copies() {
		was, now := lookup(before, c.path), lookup(after, c.path)
		if !reflect.DeepEqual(was, now) {
			*c.text, _ = now.(string)
		}
	}
	if !reflect.DeepEqual(lookup(before, propertiesPath), lookup(after, propertiesPath)) {
		r.Resource.Properties, _ = lookup(after, propertiesPath).(map[string]any)
	}
	if r.Failure != "" {
		r.Failure = failureMasked
	}
}

// withhold erases all that a rule could have masked: it failed, and why is
// where. Which codes the answer had stays, as do the times and ids.
func (r *Record) withhold(why string) {
	r.MaskFailure = why
	r.Erased, r.Masked = []string{"/input", "/result"}, nil
	if r.NDBuiltinCache != nil {
		r.Erased = append(r.Erased, "/nd_builtin_cache")
	}
	r.Input, r.NDBuiltinCache, r.Context, r.Resource.Properties = nil, nil, nil, nil
	for _, c := range r.copies() {
		*c.text = ""
	}
	var codes []authz.Reason
	for _, reason := range r.Reasons {
		codes = append(codes, authz.Reason{Code: reason.Code})
	}
	r.Reasons = codes
	if r.Failure != "" {
		r.Failure = failureMasked
	}
}

type copied struct {
	text *string
	path []string
}

// copies are the members that say what the input says as well.
func (r *Record) copies() []copied {
	return []copied{
		{&r.Actor.Type, []string{"input", "principal", "type"}},
		{&r.Actor.ID, []string{"input", "principal", "id"}},
		{&r.Actor.Credential, []string{"input", "principal", "credential"}},
		{&r.Actor.KeyID, []string{"input", "principal", "key", "id"}},
		{&r.Actor.ImpersonatedBy, []string{"input", "principal", "session", "impersonatedBy"}},
		{&r.AssertedBy.Type, []string{"input", "principal", "assertedBy", "type"}},
		{&r.AssertedBy.ID, []string{"input", "principal", "assertedBy", "id"}},
		{&r.AssertedBy.KeyID, []string{"input", "principal", "assertedBy", "keyId"}},
		{&r.Action, []string{"input", "action", "name"}},
		{&r.Resource.Type, []string{"input", "resource", "type"}},
		{&r.Resource.ID, []string{"input", "resource", "id"}},
		{&r.Mapped, []string{"input", "resource", "properties", "permission"}},
	}
}

var propertiesPath = []string{"input", "resource", "properties"}

func lookup(doc any, path []string) any {
	for _, name := range path {
		m, _ := doc.(map[string]any)
		doc = m[name]
	}
	return doc
}

// edited returns a copy of node with the mask applied at path; false if there is
// no such place. Only what leads to the place is copied.
func edited(node any, path []string, m authz.Mask) (any, bool) {
	switch node := node.(type) {
	case map[string]any:
		name, there := memberOf(node, path[0])
		var next any
		switch {
		case len(path) == 1 && !m.Replace:
			if !there {
				return nil, false
			}
			c := maps.Clone(node)
			delete(c, name)
			return c, true
		case len(path) == 1:
			next = m.Value
		case !there && !m.Replace:
			return nil, false
		default:
			child := node[name]
			if !there {
				child = map[string]any{}
			}
			var ok bool
			if next, ok = edited(child, path[1:], m); !ok {
				return nil, false
			}
		}
		c := maps.Clone(node)
		c[name] = next
		return c, true
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i < 0 || i >= len(node) {
			return nil, false
		}
		if len(path) == 1 && !m.Replace {
			return slices.Delete(slices.Clone(node), i, i+1), true
		}
		next := m.Value
		if len(path) > 1 {
			var ok bool
			if next, ok = edited(node[i], path[1:], m); !ok {
				return nil, false
			}
		}
		c := slices.Clone(node)
		c[i] = next
		return c, true
	}
	return nil, false
}

// memberOf finds the member that part of a pointer names: as it is, as a JSON
// pointer escapes it, or as OPA does. That one of them is missed would leave what
// is to be masked.
func memberOf(m map[string]any, part string) (string, bool) {
	spellings := []string{part, strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")}
	if plain, err := url.PathUnescape(part); err == nil {
		spellings = append(spellings, plain)
	}
	for _, name := range spellings {
		if _, there := m[name]; there {
			return name, true
		}
	}
	return part, false
}

// comparePointers orders the numbers in pointers as numbers.
func comparePointers(a, b string) int {
	return slices.CompareFunc(strings.Split(a, "/"), strings.Split(b, "/"), func(a, b string) int {
		i, errA := strconv.Atoi(a)
		j, errB := strconv.Atoi(b)
		if errA == nil && errB == nil {
			return cmp.Compare(i, j)
		}
		return strings.Compare(a, b)
	})
}
