package query_test

import (
	"fmt"
	"strings"
	"testing"

	"forebay/gateway/internal/query"
	"forebay/spool/record"
)

// splitting is a result that changes the stream's shards at its first row.
type splitting struct {
	sheet
	change func() error
}

func (s *splitting) Row(row []any) error {
	if s.change != nil {
		if err := s.change(); err != nil {
			return err
		}
		s.change = nil
	}
	return s.sheet.Row(row)
}

// Closed shards are asked too and keep their numbers; those that come while a
// query runs are for the next one.
func TestQueriesOverSplitsAndMerges(t *testing.T) {
	sp := newSpool(t)
	st := stream(t, sp, "mqtt", 2)
	fill := func(n int) {
		for i := range 40 {
			put(t, st, record.Record{Key: fmt.Sprintf("k%d", i), Data: fmt.Appendf(nil, `{"n":%d}`, n)})
		}
	}
	fill(1)
	if err := sp.Rescale(t.Context(), st, 3); err != nil {
		t.Fatal(err)
	}
	fill(2)
	e := engine(t, sp, query.Options{})
	ask := func(sql string) string {
		t.Helper()
		var s sheet
		if sum, err := e.Run(t.Context(), query.Query{SQL: sql}, &s); err != nil || len(sum.Warnings) > 0 {
			t.Fatalf("%s: %v, %v", sql, err, sum.Warnings)
		}
		return s.b.String()
	}
	if got := ask("SELECT count(*), sum(n), min(shard), max(shard) FROM mqtt"); !strings.Contains(got, fmt.Sprintf("80|120|0|%d\n", len(st.Shards())-1)) {
		t.Errorf("it answers %s", got)
	}
	if got := ask("SELECT * FROM mqtt WHERE key = 'k7'"); strings.Count(got, "\n") != 3 {
		t.Errorf("it answers %s", got)
	}
	if got := ask("SELECT count(*) FROM mqtt WHERE shard = 0 AND n = 2"); got != "count(*)\n0\n" {
		t.Errorf("the closed shard has %s", got)
	}
	s := splitting{change: func() error {
		if err := sp.Rescale(t.Context(), st, 5); err != nil {
			return err
		}
		fill(3)
		return nil
	}}
	// The join begins a pass of its own for every row.
	if _, err := e.Run(t.Context(), query.Query{SQL: "SELECT a.shard, a.seq, b.shard, b.seq, b.n FROM mqtt a JOIN mqtt b ON b.key = a.key WHERE a.n < 3"}, &s); err != nil {
		t.Fatal(err)
	}
	if s.rows != 160 || strings.Contains(s.b.String(), "|3\n") {
		t.Errorf("%d rows:\n%s", s.rows, s.b.String())
	}
}
