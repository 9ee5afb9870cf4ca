package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/authn"
	"github.com/ostiary/ostiary/directory"
	"github.com/spf13/cobra"
)

func entityCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "entity",
		Short: "Manage what applications tell of their subjects and resources",
		Long: `Manage what applications tell of their subjects and resources, on a running or
a stopped service. What is stored fills what a question leaves out.`,
		Args: cobra.ArbitraryArgs,
		RunE: group,
	}
	cmd.AddCommand(entityImport(), entityList(), entityGet(), entityDelete())
	return cmd
}

func entityImport() *cobra.Command {
	var asJSON bool
	cmd := subcommand("import FILE", "Store the entities in a file, all or none", []string{"FILE"}, func(cmd *cobra.Command, args []string) error {
		text, err := readFileOrStdin(cmd, args[0])
		if err != nil {
			return err
		}
		found, err := readEntities(text)
		if err != nil {
			return &usageError{fmt.Errorf("%s:%w", args[0], err)}
		}
		return with(cmd, func(o *ostiary.Ostiary) error {
			es := make([]directory.Entity, len(found))
			for i, f := range found {
				es[i] = f.Entity
			}
			created, err := o.Directory().Import(cmd.Context(), caller, es)
			if wrong, ok := errors.AsType[*authn.InvalidError](err); ok {
				return &usageError{fmt.Errorf("%s:%w", args[0], inLine(wrong, found))}
			}
			if err != nil {
				return fmt.Errorf("import %s: %w", args[0], err)
			}
			doc := map[string]int{"created": created, "replaced": len(es) - created}
			return show(cmd, asJSON, doc, fmt.Sprintf("%d created, %d replaced", created, len(es)-created))
		})
	})
	cmd.Long = `Store the entities in a file (- is standard input): all of them, or none if there
is a mistake. Those that are there are replaced; none is removed.

The file is an array of entities, an object that has such arrays as entities,
subjects or resources, or one entity on each line. An entity is
{"type": "document", "id": "d1", "properties": {"owner": "ann"}}.`
	cmd.Example = `  ostiary entity import entities.json
  ostiary entity list document --limit 0 --json | ostiary entity import - --database sqlite:other.db`
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the numbers as JSON")
	return cmd
}

func readFileOrStdin(cmd *cobra.Command, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(cmd.InOrStdin())
	}
	return os.ReadFile(name)
}

// placed is an entity, and the line of the file in which it begins.
type placed struct {
	directory.Entity
	line int
}

// readEntities reads all forms in which a file can have entities. The same
// entity as subject and as resource is one, if the same is said of it.
// Mistakes begin with the line.
func readEntities(text []byte) ([]placed, error) {
	r := entityReader{text: text, seen: map[string]int{}}
	d := jsontext.NewDecoder(bytes.NewReader(text))
	for {
		v, err := d.ReadValue()
		if err == io.EOF {
			if len(r.found) == 0 {
				return nil, errors.New(" there is no entity in it")
			}
			return r.found, nil
		}
		if err != nil {
			if wrong, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
				return nil, r.wrong(int(wrong.ByteOffset), "not valid JSON: %v", wrong.Err)
			}
			return nil, r.wrong(int(d.InputOffset()), "not valid JSON: %v", err)
		}
		if err := r.read(v, int(d.InputOffset())-len(v)); err != nil {
			return nil, err
		}
	}
}

type entityReader struct {
	text  []byte
	found []placed
	seen  map[string]int // name → place in found
}

// wrong words a mistake at an offset of the text.
func (r *entityReader) wrong(at int, format string, args ...any) error {
	return fmt.Errorf("%d: "+format, append([]any{r.line(at)}, args...)...)
}

func (r *entityReader) line(at int) int {
	return 1 + bytes.Count(r.text[:min(at, len(r.text))], []byte("\n"))
}

// read takes a value that begins at an offset: an entity, an object with lists
// of them, or such a list.
func (r *entityReader) read(v jsontext.Value, at int) error {
	switch v.Kind() {
	case '[':
		return r.list(v, at)
	case '{':
	default:
		return r.wrong(at, "must be an entity or a list of entities")
	}
	d := jsontext.NewDecoder(bytes.NewReader(v))
	_, _ = d.ReadToken()
	lists := false
	for d.PeekKind() != '}' {
		name, _ := d.ReadToken() // all of it was read once and is valid
		member := name.String()
		inner, _ := d.ReadValue()
		switch member {
		case "type":
			return r.entity(v, at)
		case "entities", "subjects", "resources":
			begins := at + int(d.InputOffset()) - len(inner)
			if inner.Kind() != '[' {
				return r.wrong(begins, "%s must be a list of entities", member)
			}
			lists = true
			if err := r.list(inner, begins); err != nil {
				return err
			}
		}
	}
	if !lists {
		return r.entity(v, at)
	}
	return nil
}

func (r *entityReader) list(v jsontext.Value, at int) error {
	d := jsontext.NewDecoder(bytes.NewReader(v))
	_, _ = d.ReadToken()
	for d.PeekKind() != ']' {
		inner, _ := d.ReadValue()
		if err := r.entity(inner, at+int(d.InputOffset())-len(inner)); err != nil {
			return err
		}
	}
	return nil
}

func (r *entityReader) entity(v jsontext.Value, at int) error {
	d := json.NewDecoder(bytes.NewReader(v))
	d.UseNumber()
	d.DisallowUnknownFields()
	var e struct {
		Type       *string         `json:"type"`
		ID         *string         `json:"id"`
		Properties map[string]any  `json:"properties"`
		UpdatedAt  json.RawMessage `json:"updatedAt"` // of a list; not ours to set
	}
	if err := d.Decode(&e); err != nil {
		return r.wrong(at, "not an entity: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if e.Type == nil || e.ID == nil {
		return r.wrong(at, "an entity needs a type and an id")
	}
	p := placed{directory.Entity{Type: *e.Type, ID: *e.ID, Properties: e.Properties}, r.line(at)}
	name := p.Type + "/" + p.ID
	if before, twice := r.seen[name]; twice {
		if first := r.found[before]; len(first.Properties)+len(p.Properties) > 0 && !reflect.DeepEqual(first.Properties, p.Properties) {
			return r.wrong(at, "%s is in line %d with other properties", name, first.line)
		}
		return nil
	}
	r.seen[name] = len(r.found)
	r.found = append(r.found, p)
	return nil
}

// inLine words a mistake in entities/N with the line in which the entity begins.
func inLine(wrong *authn.InvalidError, found []placed) error {
	parts := strings.SplitN(wrong.Field, "/", 3)
	if len(parts) == 3 {
		if i, err := strconv.Atoi(parts[1]); err == nil && i < len(found) {
			return fmt.Errorf("%d: %s: %s", found[i].line, parts[2], wrong.Reason)
		}
	}
	return fmt.Errorf(" %w", wrong)
}

func entityList() *cobra.Command {
	var asJSON bool
	var after string
	var limit int
	cmd := subcommand("list [TYPE]", "List the entities of a type, or the types", nil, func(cmd *cobra.Command, args []string) error {
		return with(cmd, func(o *ostiary.Ostiary) error {
			if len(args) == 0 {
				types, err := o.Directory().Types(cmd.Context(), caller)
				if err != nil {
					return fmt.Errorf("list types: %w", err)
				}
				if len(types) == 0 && !asJSON {
					return nil
				}
				return show(cmd, asJSON, types, strings.Join(types, "\n"))
			}
			es, next, err := listEntities(cmd, o, args[0], after, limit)
			if err != nil {
				return fmt.Errorf("list %s: %w", args[0], err)
			}
			if next != "" {
				hint(cmd, "there are more: --after %q", next)
			}
			if asJSON {
				return show(cmd, true, mapped(es, entityDocument), "")
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tUPDATED\tPROPERTIES")
			for _, e := range es {
				fmt.Fprintf(w, "%s\t%s\t%s\n", e.ID, at(e.UpdatedAt), propertiesText(e))
			}
			return w.Flush()
		})
	})
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return misuse(cmd, "unexpected argument %q", args[1])
		}
		return nil
	}
	cmd.Flags().StringVar(&after, "after", "", "only ids behind this one")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most this many; 0 is all")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// listEntities reads page after page.
func listEntities(cmd *cobra.Command, o *ostiary.Ostiary, typ, after string, limit int) (all []directory.Entity, next string, err error) {
	for {
		q := directory.EntityQuery{Type: typ, After: after, Limit: directory.MaxList}
		if limit > 0 {
			q.Limit = min(directory.MaxList, limit-len(all))
		}
		var es []directory.Entity
		if es, after, err = o.Directory().List(cmd.Context(), caller, q); err != nil {
			return nil, "", err
		}
		if all = append(all, es...); after == "" || limit > 0 && len(all) >= limit {
			return all, after, nil
		}
	}
}

func entityGet() *cobra.Command {
	var asJSON bool
	cmd := subcommand("get TYPE/ID", "Show an entity", []string{"TYPE/ID"}, func(cmd *cobra.Command, args []string) error {
		typ, id, _ := strings.Cut(args[0], "/")
		return with(cmd, func(o *ostiary.Ostiary) error {
			e, err := o.Directory().Entity(cmd.Context(), caller, typ, id)
			if err != nil {
				return noEntity(err, args[0])
			}
			text := fmt.Sprintf("type        %s\nid          %s\nupdated     %s\nproperties  %s", e.Type, e.ID, at(e.UpdatedAt), propertiesText(e))
			return show(cmd, asJSON, entityDocument(e), text)
		})
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the entity as JSON")
	return cmd
}

func entityDelete() *cobra.Command {
	return subcommand("delete TYPE/ID", "Delete an entity", []string{"TYPE/ID"}, func(cmd *cobra.Command, args []string) error {
		typ, id, _ := strings.Cut(args[0], "/")
		return with(cmd, func(o *ostiary.Ostiary) error {
			return noEntity(o.Directory().Delete(cmd.Context(), caller, typ, id), args[0])
		})
	})
}

func noEntity(err error, name string) error {
	if errors.Is(err, authn.ErrNotFound) {
		return &hintError{fmt.Errorf("there is no entity %q", name), "ostiary entity list"}
	}
	return err
}

// entityDocument is the entity as the HTTP API shows it.
func entityDocument(e directory.Entity) any {
	return struct {
		Type       string         `json:"type"`
		ID         string         `json:"id"`
		Properties map[string]any `json:"properties"`
		UpdatedAt  string         `json:"updatedAt"`
	}{e.Type, e.ID, e.Properties, at(e.UpdatedAt)}
}

func propertiesText(e directory.Entity) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(e.Properties) // it came from JSON
	return strings.TrimSpace(b.String())
}
