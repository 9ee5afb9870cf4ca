package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"unicode"

	"github.com/uptrace/bun"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// traced makes spans of queries that are part of something that is traced: looks
// for changes and housekeeping, which nobody asked for, make none.
//
// A span names the operation and the table. It has neither the query, which bun
// gives with its values, nor the text of an error, in which databases repeat them.
type traced struct {
	tracer trace.Tracer
	system attribute.KeyValue
}

// BeforeQuery implements [bun.QueryHook].
func (h traced) BeforeQuery(ctx context.Context, e *bun.QueryEvent) context.Context {
	table := ""
	if e.IQuery != nil {
		table = e.IQuery.GetTableName()
	}
	return h.begin(ctx, e.Operation(), table)
}

// AfterQuery implements [bun.QueryHook].
func (h traced) AfterQuery(ctx context.Context, e *bun.QueryEvent) { h.end(ctx, e.Err) }

// begin begins the span of a query, which end ends.
func (h traced) begin(ctx context.Context, operation, table string) context.Context {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	attributes := []attribute.KeyValue{h.system, attribute.String("db.operation.name", operation)}
	name := operation
	if namesTable(table) {
		attributes = append(attributes, attribute.String("db.collection.name", table))
		name += " " + table
	}
	ctx, _ = h.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
	return context.WithValue(ctx, startedKey{}, true)
}

// namesTable reports whether text is the name of a table, and not an expression.
func namesTable(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}

type startedKey struct{}

func (h traced) end(ctx context.Context, err error) {
	if ctx.Value(startedKey{}) == nil {
		return
	}
	span := trace.SpanFromContext(ctx)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// trace has db's queries traced. It is called before anything is asked.
func (db *DB) trace(tracer trace.Tracer) {
	h := traced{tracer, attribute.String("db.system.name", db.dialect.name)}
	db.traced = &h
	reader := db.reader.WithQueryHook(h)
	if db.writer == db.reader {
		db.writer = reader
	} else {
		db.writer = db.writer.WithQueryHook(h)
	}
	db.reader = reader
}
