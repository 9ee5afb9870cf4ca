package store

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// instant is a time as it is kept: UTC, in milliseconds. It is written as
// Better Auth writes it on SQLite, which Postgres reads as well.
type instant struct{ time.Time }

const instantLayout = "2006-01-02T15:04:05.000Z"

func newInstant(t time.Time) instant { return instant{t.UTC().Truncate(time.Millisecond)} }

func newInstantPtr(t *time.Time) *instant {
	if t == nil {
		return nil
	}
	i := newInstant(*t)
	return &i
}

func (i *instant) ptr() *time.Time {
	if i == nil {
		return nil
	}
	return &i.Time
}

// Value implements [driver.Valuer].
func (i instant) Value() (driver.Value, error) { return i.UTC().Format(instantLayout), nil }

// Scan implements [sql.Scanner]. Others may have spelled the time differently.
func (i *instant) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*i = instant{}
	case time.Time:
		*i = newInstant(v)
	case int64:
		*i = newInstant(time.UnixMilli(v))
	case float64:
		*i = newInstant(time.UnixMilli(int64(v)))
	case []byte:
		return i.parse(string(v))
	case string:
		return i.parse(v)
	default:
		return fmt.Errorf("%T is no time", src)
	}
	return nil
}

// layouts are tried in order. Go accepts fractions of a second in all of them.
var layouts = []string{
	time.RFC3339,
	"2006-01-02 15:04:05",
	"2006-01-02 15:04:05Z07:00",
	"2006-01-02 15:04:05Z07",
	"2006-01-02T15:04:05",
	"2006-01-02T15:04Z07:00",
	time.DateOnly,
}

func (i *instant) parse(s string) error {
	for _, layout := range layouts {
		if t, err := time.Parse(layout, s); err == nil {
			*i = newInstant(t)
			return nil
		}
	}
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil {
		*i = newInstant(time.UnixMilli(ms))
		return nil
	}
	return fmt.Errorf("%q is no time", s)
}

// encode returns v as JSON text, nil for an empty v.
func encode(v any) (*string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	switch s := string(b); s {
	case "null", "{}", "[]":
		return nil, nil
	default:
		return &s, nil
	}
}
