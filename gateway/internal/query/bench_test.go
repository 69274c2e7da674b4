package query_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"forebay/gateway/internal/query"
	"forebay/spool/record"
)

const benchRows = 2_000_000

// fields is what row i holds: some 60 bytes of JSON as a sensor sends them.
func fields(i int) (key string, data []byte, at time.Time) {
	at = time.Date(2026, 11, 5, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * 10 * time.Millisecond)
	return fmt.Sprintf("plant/line%d/press%d/temp", i%4, i%50), fmt.Appendf(nil, `{"temp": %d.%d, "unit": "Cel", "quality": "good", "n": %d}`, 20+i%60, i%10, i), at
}

// count takes a result and looks at every value of it.
type count struct{ rows, values int }

func (c *count) Columns([]string) error { return nil }
func (c *count) Row(row []any) error {
	c.rows++
	c.values += len(row)
	return nil
}

// BenchmarkQuery asks the same of two million records in a spool and of the
// same rows in a plain SQLite table (ts, key, data), in the same run.
func BenchmarkQuery(b *testing.B) {
	sp := newSpool(b)
	st := stream(b, sp, "sensors", 4)
	plain, err := sql.Open("sqlite", b.TempDir()+"/plain.db")
	if err != nil {
		b.Fatal(err)
	}
	defer plain.Close()
	plain.SetMaxOpenConns(1)
	exec := func(q string, args ...any) {
		if _, err := plain.ExecContext(context.Background(), q, args...); err != nil {
			b.Fatal(err)
		}
	}
	exec("CREATE TABLE sensors(seq INTEGER PRIMARY KEY, ts REAL, key TEXT, data TEXT)")
	exec("BEGIN")
	insert, err := plain.PrepareContext(context.Background(), "INSERT INTO sensors(ts, key, data) VALUES(?,?,?)")
	if err != nil {
		b.Fatal(err)
	}
	defer insert.Close()
	recs := make([]record.Record, 0, 5000)
	for i := range benchRows {
		key, data, at := fields(i)
		if _, err := insert.ExecContext(context.Background(), float64(at.UnixNano())/1e9, key, string(data)); err != nil {
			b.Fatal(err)
		}
		recs = append(recs, record.Record{Key: key, Source: "bench", Arrived: at, At: at.Add(-5 * time.Millisecond), Data: data})
		if len(recs) == cap(recs) {
			put(b, st, recs...)
			recs = recs[:0]
		}
	}
	exec("COMMIT")
	e := engine(b, sp, query.Options{})
	_, _, last := fields(benchRows - 1)
	recent := last.Add(-100 * time.Second).Unix() // ten thousand rows
	for _, c := range []struct {
		name, ours, theirs string
		rows               int // that are read
	}{
		{"count", "SELECT count(*) FROM sensors", "SELECT count(*) FROM sensors", benchRows},
		{"bytes", "SELECT max(ts), sum(length(data)) FROM sensors", "SELECT max(ts), sum(length(data)) FROM sensors", benchRows},
		{"groupByField", "SELECT key, avg(temp) FROM sensors GROUP BY key", "SELECT key, avg(data->>'temp') FROM sensors GROUP BY key", benchRows},
		{"groupByDevice", "SELECT device, avg(temp) FROM sensors GROUP BY device", "SELECT key, avg(data->>'temp') FROM sensors GROUP BY key", benchRows},
		{"recent", fmt.Sprintf("SELECT count(*), avg(temp) FROM sensors WHERE ts > %d", recent), fmt.Sprintf("SELECT count(*), avg(data->>'temp') FROM sensors WHERE ts > %d", recent), 10_000},
		{"key", "SELECT avg(temp) FROM sensors WHERE key = 'plant/line1/press1/temp'", "SELECT avg(data->>'temp') FROM sensors WHERE key = 'plant/line1/press1/temp'", benchRows},
		{"rows", "SELECT ts, key, data FROM sensors LIMIT 500000", "SELECT ts, key, data FROM sensors LIMIT 500000", 500_000},
	} {
		b.Run(c.name, func(b *testing.B) {
			var ours, theirs time.Duration
			for b.Loop() {
				start := time.Now()
				var n count
				if _, err := e.Run(b.Context(), query.Query{SQL: c.ours, Timeout: time.Minute, MaxRows: query.MaxRows}, &n); err != nil {
					b.Fatal(err)
				}
				ours += time.Since(start)
				start = time.Now()
				rows, err := plain.QueryContext(b.Context(), c.theirs)
				if err != nil {
					b.Fatal(err)
				}
				drain(b, rows)
				theirs += time.Since(start)
			}
			per := float64(b.N)
			b.ReportMetric(ours.Seconds()/per*1e3, "ms/ours")
			b.ReportMetric(theirs.Seconds()/per*1e3, "ms/plain")
			b.ReportMetric(float64(c.rows)*per/ours.Seconds()/1e6, "Mrows/s")
		})
	}
}

func drain(b *testing.B, rows *sql.Rows) {
	defer rows.Close()
	cols, err := rows.Columns()
	if err != nil {
		b.Fatal(err)
	}
	values, into := make([]any, len(cols)), make([]any, len(cols))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			b.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
}
