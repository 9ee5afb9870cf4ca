package authz

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/topdown/builtins"

	"github.com/ostiary/ostiary/authz/compiled"
)

// The rules about records of decisions, by OPA's names.
const (
	maskRule = "data.system.log.mask"
	dropRule = "data.system.log.drop"
)

// A Mask is what a policy wants taken out of a record, or replaced in it.
type Mask struct {
	Pointer string // as the rule has it: "/input/context/ip"
	Replace bool   // with Value; otherwise it is taken out
	Value   any    // JSON
}

// Masking reports whether p has a rule about records.
func (p *Policy) Masking() bool {
	return p.topdown.queries[maskRule] != nil || p.topdown.queries[dropRule] != nil
}

// Masks returns what data.system.log.mask says of event, a decision as OPA logs
// it. Its errors say where the rule failed and not on what: a record goes where
// what is masked must not.
func (p *Policy) Masks(ctx context.Context, event map[string]any, now time.Time, within time.Duration) ([]Mask, error) {
	v, err := p.about(ctx, maskRule, event, now, within)
	if v == nil || err != nil {
		return nil, err
	}
	doc, err := ast.JSON(v)
	if err != nil {
		return nil, errors.New(maskRule + " is not JSON")
	}
	list, ok := doc.([]any)
	if !ok {
		return nil, errors.New(maskRule + " is not a set")
	}
	masks := make([]Mask, len(list))
	for i, item := range list {
		m := &masks[i]
		switch item := item.(type) {
		case string:
			m.Pointer = item
		case map[string]any:
			m.Pointer, _ = item["path"].(string)
			switch item["op"] {
			case "remove":
			case "upsert":
				m.Replace, m.Value = true, item["value"]
			default:
				return nil, errors.New(maskRule + ` holds an object whose op is neither "remove" nor "upsert"`)
			}
		default:
			return nil, errors.New(maskRule + " holds something that is neither a string nor an object")
		}
		part, _, _ := strings.Cut(strings.TrimPrefix(m.Pointer, "/"), "/")
		if !strings.HasPrefix(m.Pointer, "/") || part != "input" && part != "result" && part != "nd_builtin_cache" {
			return nil, errors.New(maskRule + " holds a path that is not below /input, /result or /nd_builtin_cache")
		}
	}
	return masks, nil
}

// Drops reports whether data.system.log.drop is true of event.
func (p *Policy) Drops(ctx context.Context, event map[string]any, now time.Time, within time.Duration) (bool, error) {
	v, err := p.about(ctx, dropRule, event, now, within)
	return v != nil && v.Compare(ast.Boolean(true)) == 0, err
}

func (p *Policy) about(ctx context.Context, rule string, event map[string]any, now time.Time, within time.Duration) (ast.Value, error) {
	if p.topdown.queries[rule] == nil {
		return nil, nil
	}
	in, err := term(event)
	if err != nil {
		return nil, errors.New(rule + ": the event is not JSON")
	}
	v, err := p.topdown.evaluate(ctx, rule, compiled.Document{Term: in}, now, time.Now().Add(within), nil)
	if e, ok := errors.AsType[*topdown.Error](err); ok {
		return nil, fmt.Errorf("%s: %s at %s", rule, e.Code, e.Location)
	}
	if err != nil && !errors.Is(err, errDeadline) && ctx.Err() == nil {
		err = errors.New("failed")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rule, err)
	}
	return v, nil
}

// Nondeterminism is what built-ins answered whose answer depends on more than
// their operands: the clock, chance.
type Nondeterminism struct{ cache builtins.NDBCache }

// nondeterminism is where answers are put while p decides. A policy without
// such built-ins costs nothing.
func (p *Policy) nondeterminism() Nondeterminism {
	if !p.nondeterministic {
		return Nondeterminism{}
	}
	return Nondeterminism{builtins.NDBCache{}}
}

// clone returns a copy that can be added to. Nobody else may look at n meanwhile:
// OPA sorts what it walks through.
func (n Nondeterminism) clone() Nondeterminism {
	if n.cache == nil {
		return n
	}
	c := make(builtins.NDBCache, len(n.cache))
	for name, answers := range n.cache {
		c[name] = answers.Copy()
	}
	return Nondeterminism{c}
}

// Document returns n as JSON values: the name of a built-in, its operands as the
// JSON text of a list, the answer. It is nil if there is nothing in n.
func (n Nondeterminism) Document() (map[string]any, error) {
	if len(n.cache) == 0 {
		return nil, nil
	}
	doc, err := ast.JSON(n.cache.AsValue())
	if err != nil {
		return nil, err
	}
	return doc.(map[string]any), nil
}

// ReadNondeterminism is the reverse of [Nondeterminism.Document].
func ReadNondeterminism(doc map[string]any) (Nondeterminism, error) {
	n := Nondeterminism{builtins.NDBCache{}}
	for name, answers := range doc {
		list, ok := answers.(map[string]any)
		if !ok {
			return Nondeterminism{}, fmt.Errorf("answers of %s: not an object", name)
		}
		for text, answer := range list {
			d := json.NewDecoder(strings.NewReader(text))
			d.UseNumber()
			var operands []any
			if err := d.Decode(&operands); err != nil {
				return Nondeterminism{}, fmt.Errorf("operands of %s: %w", name, err)
			}
			k, err := ast.InterfaceToValue(operands)
			if err != nil {
				return Nondeterminism{}, fmt.Errorf("operands of %s: %w", name, err)
			}
			v, err := ast.InterfaceToValue(answer)
			if err != nil {
				return Nondeterminism{}, fmt.Errorf("answer of %s: %w", name, err)
			}
			n.cache.Put(name, k, v)
		}
	}
	return n, nil
}

// nondeterministic reports whether a rule calls a built-in whose answer depends
// on more than its operands.
func nondeterministic(modules map[string]*ast.Module) bool {
	found := false
	for _, m := range modules {
		ast.WalkExprs(m, func(e *ast.Expr) bool {
			if e.IsCall() {
				b := ast.BuiltinMap[e.Operator().String()]
				found = found || b != nil && b.Nondeterministic
			}
			return found
		})
	}
	return found
}
