package authz

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Op is what a [Condition] says.
type Op int

// Conditions are two-valued: each holds of a thing, or does not. A comparison
// holds only if the field is there, so Not(Eq) is not the same as Ne; a field
// whose value is null is there.
const (
	Never  Op = iota
	Always    // holds of everything
	And       // all of Of hold
	Or        // one of Of holds
	Not       // Of[0] does not hold

	Defined // the field is there
	IsText  // the field is text
	Long    // the field is a number of more than 15 characters
	Eq      // the field equals Value (a scalar) or, if Other is set, the field Other
	Ne      // both are there, and differ
	// The order of values is Rego's: null, false, true, numbers, text (byte by
	// byte), lists, objects.
	Lt
	Lte
	Gt
	Gte
	Has        // the field is a list or an object, and one of its elements or values equals Value (a scalar)
	StartsWith // the field is text that begins with Value; EndsWith and Contains alike
	EndsWith
	Contains
)

var opNames = [...]string{"never", "always", "and", "or", "not", "defined", "is_text", "long", "eq", "ne", "lt", "lte", "gt", "gte", "has", "startswith", "endswith", "contains"}

func (o Op) String() string { return opNames[o] }

// Holds reports whether a comparison holds between two values of which the first is
// less (order < 0), equal (0) or greater.
func (o Op) Holds(order int) bool {
	switch o {
	case Eq:
		return order == 0
	case Ne:
		return order != 0
	case Lt:
		return order < 0
	case Lte:
		return order <= 0
	case Gt:
		return order > 0
	case Gte:
		return order >= 0
	}
	return false
}

// Condition says of which things something holds. The zero Condition holds of none.
type Condition struct {
	Op    Op
	Of    []Condition // of And, Or and Not
	Field Field
	Other Field // of Eq and Ne, instead of Value
	Value any   // nil, bool, string or json.Number
}

// Field is a path into the thing that is searched: {"id"}, {"properties", "owner"}.
type Field []string

func (f Field) String() string { return strings.Join(f, ".") }

// Fields tells the kinds of fields by their names: "id", "properties.owner".
type Fields map[string]FieldKind

// Kind returns the kind of f, Untold if it is not there.
func (fs Fields) Kind(f Field) FieldKind {
	for _, name := range f {
		if strings.Contains(name, ".") { // it could be taken for two
			return Untold
		}
	}
	return fs[f.String()]
}

// UCAST returns c in the form of UCAST's conditions: {"type": "field", "operator",
// "field", "value"} and {"type": "compound", "operator": "and"|"or"|"not",
// "value": […]}. A field that is absent counts as null. Always is an and of
// nothing, Never an or of nothing.
func (c Condition) UCAST() map[string]any {
	compound := func(op string, of []Condition) map[string]any {
		value := make([]any, len(of))
		for i, part := range of {
			value[i] = part.UCAST()
		}
		return map[string]any{"type": "compound", "operator": op, "value": value}
	}
	switch c.Op {
	case Always:
		return compound("and", nil)
	case Never:
		return compound("or", nil)
	case And, Or, Not:
		return compound(c.Op.String(), c.Of)
	}
	present := map[string]any{"type": "field", "operator": "ne", "field": c.Field.String(), "value": nil}
	if c.Op == Defined {
		return present
	}
	leaf := map[string]any{"type": "field", "operator": c.Op.String(), "field": c.Field.String(), "value": c.Value}
	if c.Other != nil {
		leaf["value"] = map[string]any{"field": c.Other.String()}
	}
	// Said in full, so that it can be negated where a comparison with nothing is
	// neither true nor false.
	return map[string]any{"type": "compound", "operator": "and", "value": []any{present, leaf}}
}

// String returns c as an expression, for people.
func (c Condition) String() string {
	switch c.Op {
	case Never, Always:
		return c.Op.String()
	case And, Or:
		parts := make([]string, len(c.Of))
		for i, p := range c.Of {
			parts[i] = p.String()
		}
		return "(" + strings.Join(parts, " "+c.Op.String()+" ") + ")"
	case Not:
		return "not " + c.Of[0].String()
	case Defined, IsText, Long:
		return fmt.Sprintf("%s(%s)", c.Op, c.Field)
	}
	if c.Other != nil {
		return fmt.Sprintf("%s %s %s", c.Field, c.Op, c.Other)
	}
	value, _ := json.Marshal(c.Value)
	return fmt.Sprintf("%s %s %s", c.Field, c.Op, value)
}

var (
	never  = Condition{Op: Never}
	always = Condition{Op: Always}
)

// all and anyHolds leave out what does not matter, so that what remains is short.
func all(cs ...Condition) Condition      { return combine(And, always, never, cs) }
func anyHolds(cs ...Condition) Condition { return combine(Or, never, always, cs) }

func combine(op Op, neutral, absorbing Condition, cs []Condition) Condition {
	var kept []Condition
	for _, c := range cs {
		switch {
		case c.Op == absorbing.Op:
			return absorbing
		case c.Op == neutral.Op:
		case c.Op == op:
			kept = append(kept, c.Of...)
		default:
			kept = append(kept, c)
		}
	}
	kept = distinct(kept)
	switch len(kept) {
	case 0:
		return neutral
	case 1:
		return kept[0]
	}
	return Condition{Op: op, Of: kept}
}

// distinct leaves out repetitions, of which partial evaluation makes many.
func distinct(cs []Condition) []Condition {
	seen := make(map[string]bool, len(cs))
	kept := cs[:0]
	for _, c := range cs {
		if key := c.key(); !seen[key] {
			seen[key] = true
			kept = append(kept, c)
		}
	}
	return kept
}

// key tells conditions apart, whatever stands in names and values.
func (c Condition) key() string {
	encoded, err := json.Marshal(c)
	if err != nil {
		return fmt.Sprintf("%#v", c)
	}
	return string(encoded)
}

func negate(c Condition) Condition {
	switch c.Op {
	case Never:
		return always
	case Always:
		return never
	case Not:
		return c.Of[0]
	}
	return Condition{Op: Not, Of: []Condition{c}}
}

// searchText is how StartsWith, EndsWith and Contains read.
func searchText(op Op, text, s string) bool {
	switch op {
	case StartsWith:
		return strings.HasPrefix(text, s)
	case EndsWith:
		return strings.HasSuffix(text, s)
	case Contains:
		return strings.Contains(text, s)
	}
	return false
}
