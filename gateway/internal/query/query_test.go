package query_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/gateway/internal/query"
	"forebay/spool"
	"forebay/spool/record"
)

var update = flag.Bool("update", false, "write what the golden cases answer now")

// sheet keeps a result as text.
type sheet struct {
	b    strings.Builder
	rows int
	fail error // of Row
}

func (s *sheet) Columns(names []string) error {
	s.b.WriteString(strings.Join(names, "|") + "\n")
	return nil
}

func (s *sheet) Row(row []any) error {
	s.rows++
	for i, v := range row {
		if i > 0 {
			s.b.WriteByte('|')
		}
		switch v := v.(type) {
		case nil:
			s.b.WriteString("NULL")
		case string:
			fmt.Fprintf(&s.b, "%q", v)
		case []byte:
			fmt.Fprintf(&s.b, "x'%x'", v)
		case float64:
			t := strconv.FormatFloat(v, 'f', -1, 64)
			if !strings.Contains(t, ".") {
				t += ".0"
			}
			s.b.WriteString(t)
		case int64:
			fmt.Fprint(&s.b, v)
		default:
			return fmt.Errorf("a value of type %T", v)
		}
	}
	s.b.WriteByte('\n')
	return s.fail
}

func newSpool(t testing.TB) *spool.Spool {
	t.Helper()
	sp, err := spool.Open(context.Background(), t.TempDir(), spool.Config{Gateway: "edge-07"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sp.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return sp
}

func stream(t testing.TB, sp *spool.Spool, name string, shards int) *spool.Stream {
	t.Helper()
	st, err := sp.Ensure(context.Background(), spool.StreamConfig{Name: conf.Stream(name), Shards: shards})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func put(t testing.TB, st *spool.Stream, recs ...record.Record) {
	t.Helper()
	res, err := st.Put(context.Background(), recs)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range res {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

// floor is a spool with the records of testdata, and an engine whose clock
// stands.
func floor(t testing.TB, opt query.Options) *query.Engine {
	t.Helper()
	sp := newSpool(t)
	b, err := os.ReadFile("testdata/records.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		var l struct {
			Stream, Key, Source, Type string
			Arrived, At               time.Time
			Attrs                     map[string]string
			Data                      string
			B64                       []byte
		}
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		shards := 1
		if l.Stream == "sensors" {
			shards = 2
		}
		put(t, stream(t, sp, l.Stream, shards), record.Record{
			Key: l.Key, Arrived: l.Arrived, At: l.At, Source: l.Source, Type: l.Type, Attrs: l.Attrs, Data: append([]byte(l.Data), l.B64...),
		})
	}
	if opt.Now == nil {
		opt.Now = func() time.Time { return time.Date(2026, 11, 5, 15, 0, 0, 0, time.UTC) }
	}
	return engine(t, sp, opt)
}

func engine(t testing.TB, sp *spool.Spool, opt query.Options) *query.Engine {
	t.Helper()
	e, err := query.New(sp, opt)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// The golden cases: testdata/cases/NAME.sql and what it answers, NAME.want.
func TestGolden(t *testing.T) {
	e := floor(t, query.Options{})
	cases, err := filepath.Glob("testdata/cases/*.sql")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".sql"), func(t *testing.T) {
			sql, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var s sheet
			sum, err := e.Run(t.Context(), query.Query{SQL: string(sql)}, &s)
			for _, w := range sum.Warnings {
				fmt.Fprintf(&s.b, "warning: %s\n", w)
			}
			if err != nil {
				if _, ok := errors.AsType[*query.Error](err); !ok {
					t.Errorf("%T is not for the one who asked: %v", err, err)
				}
				fmt.Fprintf(&s.b, "error: %v\n", err)
			}
			want := strings.TrimSuffix(file, ".sql") + ".want"
			if *update {
				if err := os.WriteFile(want, []byte(s.b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if s.b.String() != string(b) {
				t.Errorf("%s\nanswers\n%s\nwant\n%s", sql, s.b.String(), b)
			}
		})
	}
}
