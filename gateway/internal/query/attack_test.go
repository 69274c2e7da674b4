package query_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/internal/query"
	"forebay/spool"
	"forebay/spool/record"
)

// What is not reading is refused before anything runs, in words.
func TestRefused(t *testing.T) {
	e := floor(t, query.Options{})
	victim := filepath.Join(t.TempDir(), "victim")
	for _, sql := range []string{
		"ATTACH '" + victim + "' AS x", "DETACH main", "VACUUM", "VACUUM INTO '" + victim + "'",
		"PRAGMA writable_schema=1", "PRAGMA database_list", "PRAGMA temp_store_directory='/tmp'",
		"CREATE TABLE x(a)", "CREATE TABLE x AS SELECT 1", "CREATE TEMP VIEW v AS SELECT 1", "CREATE VIRTUAL TABLE v USING fts5(a)",
		"CREATE VIRTUAL TABLE v USING forebay_stream(1)", "CREATE VIRTUAL TABLE v USING forebay_output(1)",
		"CREATE TRIGGER t AFTER INSERT ON sensors BEGIN SELECT 1; END",
		"DROP TABLE sensors", "ALTER TABLE sensors RENAME TO x", "REINDEX", "ANALYZE",
		"INSERT INTO sensors(key) VALUES ('x')", "UPDATE sensors SET key = 'x'", "DELETE FROM sensors", "REPLACE INTO sensors(key) VALUES ('x')",
		"BEGIN", "COMMIT", "SAVEPOINT x", "RELEASE x", "END",
		"WITH x AS (SELECT 1) INSERT INTO sensors(key) SELECT * FROM x", "WITH x AS (SELECT 1) DELETE FROM sensors", "WITH x AS (SELECT 1) UPDATE sensors SET key='x'",
		"WITH x AS (SELECT 1) REPLACE INTO sensors(key) SELECT * FROM x",
		"WITH x AS (DELETE FROM sensors RETURNING key) SELECT * FROM x",
		"EXPLAIN DELETE FROM sensors", "EXPLAIN ATTACH 'x' AS y", "EXPLAIN QUERY PLAN DROP TABLE sensors", "EXPLAIN PRAGMA page_size", "EXPLAIN VACUUM",
		"SELECT 1; DROP TABLE sensors", "SELECT 1;; SELECT 2", "SELECT 1 /* ; */ ; --\n SELECT 2", ";SELECT 1; ;x",
		"SELECT load_extension('x')", "SELECT writefile('" + victim + "', 'x')", "SELECT readfile('/etc/passwd')", "SELECT edit('x')",
		"SELECT fts3_tokenizer('simple')", "SELECT randomblob(10)", "SELECT zeroblob(10)", "SELECT sqlite_offset(key) FROM sensors",
		"SELECT * FROM pragma_database_list", "SELECT * FROM pragma_function_list", "SELECT * FROM pragma_temp_store_directory('/tmp')",
		"SELECT * FROM sqlite_schema", "SELECT * FROM sqlite_master", "SELECT * FROM temp.sqlite_schema", "SELECT * FROM sqlite_temp_master",
		"SELECT * FROM dbstat", "SELECT * FROM sqlite_dbpage", "SELECT * FROM bytecode('SELECT 1')", "SELECT * FROM sqlite_stmt",
		"SELECT * FROM fts5vocab", "SELECT * FROM rtree", "SELECT * FROM forebay_stream", "SELECT * FROM forebay_output",
		"SELECT * FROM 'output of 1'", "SELECT * FROM temp.\"output of 60\"",
		"SELECT ?", "SELECT ?1", "SELECT :a", "SELECT @a", "SELECT $a", "", " -- nothing", "/* nothing */", ";", "SELECT 'abc", "SELECT \"abc", "SELECT [abc", "SELECT 1\x00; DROP TABLE sensors",
		"SELECT 1" + strings.Repeat("+1", 300), "EXPLAIN", "EXPLAIN QUERY PLAN", "EXPLAIN EXPLAIN SELECT 1",
		"SELECT count(*) FROM sqlite_schema", "SELECT count(*) FROM pragma_database_list", "SELECT count(*) FROM dbstat", "SELECT count(*) FROM sqlite_dbpage",
		"SELECT 1" + strings.Repeat(" UNION ALL SELECT 1", 100), "SELECT 1" + strings.Repeat(",1", 500), "SELECT '" + strings.Repeat("x", 70_000) + "'",
		"SELECT max(" + strings.Repeat("1,", 200) + "1)", "SELECT 'x' LIKE '" + strings.Repeat("%a", 300) + "'",
		"SELECT printf('%1000000000d', 1)", "SELECT printf('%.*c', 1000000000, 'x')", "SELECT format('%2000000000s', 'x')", "SELECT hex(replace(printf('%2000000d', 1), ' ', 'xxxxx'))",
		"WITH a(x) AS (SELECT printf('%2000000d', 1)), b(x) AS (SELECT x||x||x FROM a) SELECT length(x||x||x) FROM b",
		"WITH RECURSIVE g(x) AS (SELECT 'x' UNION ALL SELECT x||x FROM g) SELECT max(length(x)) FROM g",
	} {
		var s sheet
		_, err := e.Run(t.Context(), query.Query{SQL: sql, Timeout: 10 * time.Second}, &s)
		told, ok := errors.AsType[*query.Error](err)
		if !ok || told.Kind == query.TimedOut || told.Kind == query.Busy || strings.Contains(told.Message, "not authorized") || told.Message == "" {
			t.Errorf("%.100q: answers %q with %v", sql, s.b.String(), err)
		}
		if s.rows > 0 {
			t.Errorf("%.100q: gives rows: %q", sql, s.b.String())
		}
	}
	if _, err := os.Stat(victim); !os.IsNotExist(err) {
		t.Errorf("a file was written: %v", err)
	}
	var s sheet
	if _, err := e.Run(t.Context(), query.Query{SQL: "SELECT count(*) FROM sensors"}, &s); err != nil || s.b.String() != "count(*)\n8\n" {
		t.Errorf("afterwards: %q, %v", s.b.String(), err)
	}
}

// What never ends is ended, by time or by memory, also between two rows.
func TestRunaways(t *testing.T) {
	e := floor(t, query.Options{Memory: 48 << 20})
	const numbers = "WITH RECURSIVE g(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM g) "
	for _, c := range []struct {
		sql  string
		kind query.Kind
	}{
		{numbers + "SELECT count(*) FROM g", query.TimedOut},
		{numbers + "SELECT x FROM g WHERE x < 3", query.TimedOut}, // two rows, then none for ever
		{numbers + "SELECT length(group_concat('a somewhat longer text')) FROM g", query.TimedOut},
		{numbers + "SELECT sum(a.x) FROM g a, g b, g c", query.TimedOut},
		{"SELECT count(*) FROM sensors a, sensors b, sensors c, sensors d, sensors e, sensors f, sensors g, sensors h, sensors i, sensors j", query.TimedOut},
		{numbers + "SELECT x FROM g ORDER BY x DESC", query.TooLarge},
		{numbers + "SELECT DISTINCT hex(x) || 'some more of it to fill the memory' FROM g WHERE x < 0 OR x % 2 = 0 GROUP BY x || 'abc'", query.TooLarge},
		{numbers + "SELECT json_array_length(json_group_array('some text that takes room')) FROM g", query.TooLarge},
		{numbers + "SELECT x, count(*) OVER (), 'some text that takes room' FROM g", query.TooLarge},
		{numbers + "SELECT count(*) FROM (SELECT printf('%100000d', x) AS y FROM g ORDER BY y)", query.TooLarge},
	} {
		var s sheet
		start := time.Now()
		limit := 300 * time.Millisecond
		if c.kind == query.TooLarge {
			limit = 30 * time.Second
			if testing.Short() {
				limit = time.Second
			}
		}
		_, err := e.Run(t.Context(), query.Query{SQL: c.sql, Timeout: limit, MaxRows: query.MaxRows}, &s)
		told, ok := errors.AsType[*query.Error](err)
		want := c.kind
		if !canTellMemory {
			want = query.TimedOut
		}
		ended := ok && (told.Kind == want || testing.Short() && told.Kind == query.TimedOut) // the race detector makes it too slow to fill the memory
		if !ended {
			t.Errorf("%s: %v", c.sql, err)
		}
		if d := time.Since(start); d > 40*time.Second {
			t.Errorf("%s: ended after %v", c.sql, d)
		}
	}
}

func TestRowLimitAndResultsError(t *testing.T) {
	e := floor(t, query.Options{})
	var s sheet
	const numbers = "WITH RECURSIVE g(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM g) SELECT x FROM g"
	sum, err := e.Run(t.Context(), query.Query{SQL: numbers, MaxRows: 7}, &s)
	if err != nil || s.rows != 7 || sum.Rows != 7 || !sum.Truncated {
		t.Errorf("%d rows, %+v, %v", s.rows, sum, err)
	}
	sum, err = e.Run(t.Context(), query.Query{SQL: numbers + " LIMIT 7", MaxRows: 7}, &sheet{})
	if err != nil || sum.Rows != 7 || sum.Truncated {
		t.Errorf("all there is: %+v, %v", sum, err)
	}
	gone := errors.New("the client is gone")
	s = sheet{fail: gone}
	if _, err := e.Run(t.Context(), query.Query{SQL: numbers}, &s); !errors.Is(err, gone) || s.rows != 1 {
		t.Errorf("%d rows, %v", s.rows, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := e.Run(ctx, query.Query{SQL: numbers}, &sheet{}); !errors.Is(err, gone) {
		t.Errorf("a context that ended: %v", err)
	}
}

// slow lets the test hold a query in its first row.
type slow struct {
	at      chan struct{}
	release chan struct{}
}

func (s slow) Columns([]string) error { return nil }
func (s slow) Row([]any) error {
	s.at <- struct{}{}
	<-s.release
	return nil
}

func TestAFewAtOnce(t *testing.T) {
	e := floor(t, query.Options{AtOnce: 2})
	s := slow{make(chan struct{}), make(chan struct{})}
	ended := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := e.Run(context.Background(), query.Query{SQL: "SELECT 1"}, s)
			ended <- err
		}()
		<-s.at
	}
	_, err := e.Run(t.Context(), query.Query{SQL: "SELECT 1"}, &sheet{})
	if told, ok := errors.AsType[*query.Error](err); !ok || told.Kind != query.Busy {
		t.Errorf("a third: %v", err)
	}
	close(s.release)
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if _, err := e.Run(t.Context(), query.Query{SQL: "SELECT 1"}, &sheet{}); err != nil {
		t.Errorf("after them: %v", err)
	}
}

// A value beyond what a query takes is told with the record it is in, and can
// be left out by its size.
func TestLargeValue(t *testing.T) {
	sp := newSpool(t)
	st := stream(t, sp, "video", 1)
	put(t, st, record.Record{Key: "small", Data: []byte("x")}, record.Record{Key: "big", Data: make([]byte, 3<<20)})
	e := engine(t, sp, query.Options{})
	_, err := e.Run(t.Context(), query.Query{SQL: "SELECT data FROM video"}, &sheet{})
	if told, ok := errors.AsType[*query.Error](err); !ok || told.Kind != query.TooLarge || !strings.Contains(err.Error(), "record 2 of shard 0 of video has 3145728 bytes") {
		t.Errorf("a large value: %v", err)
	}
	var s sheet
	if _, err := e.Run(t.Context(), query.Query{SQL: "SELECT key, bytes FROM video WHERE bytes > 2 UNION ALL SELECT data, 0 FROM video WHERE bytes <= 2097152"}, &s); err != nil || s.b.String() != "key|bytes\n\"big\"|3145728\n\"x\"|0\n" {
		t.Errorf("%q, %v", s.b.String(), err)
	}
}

// Every comparison that reaches down to the log gives what SQLite gives without
// help.
func TestPushDownIsOnlyFaster(t *testing.T) {
	e := floor(t, query.Options{})
	ask := func(sql string) string {
		t.Helper()
		var s sheet
		if _, err := e.Run(t.Context(), query.Query{SQL: sql}, &s); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		_, rows, _ := strings.Cut(s.b.String(), "\n")
		return rows
	}
	values := map[string][]string{
		"ts":      {"1793887199.5", "1793887200", "1793888700", "1924992000", "0", "-1e18", "1e18", "9e999", "NULL", "'1793888700'", "now()"},
		"arrived": {"1793887200", "1793888700.0", "1793889900", "1e12", "NULL"},
		"at":      {"1793887200", "1793887199.5", "1924992000", "NULL"},
		"seq":     {"1", "2", "3.5", "'2'", "0", "-5", "9223372036854775807", "1e300", "-1e300", "NULL", "'x'"},
		"shard":   {"0", "1", "2", "0.5", "'1'", "-1", "NULL"},
		"key":     {"'oven'", "'gate'", "''", "5", "NULL", "x'6f76656e'"},
		"temp":    {"30", "20.5", "'30'", "NULL"},
	}
	for col, vs := range values {
		for _, op := range []string{"=", "<", "<=", ">", ">=", "<>", "IS", "IS NOT"} {
			for _, v := range vs {
				const what = "SELECT shard, seq, key FROM sensors WHERE "

				got := ask(fmt.Sprintf("%s%s %s %s ORDER BY 1, 2", what, col, op, v))
				want := ask(fmt.Sprintf("SELECT shard, seq, key FROM (SELECT shard, seq, key, %s AS c FROM sensors LIMIT 1000) WHERE c %s %s ORDER BY 1, 2", col, op, v))
				if got != want {
					t.Errorf("%s %s %s: got\n%swant\n%s", col, op, v, got, want)
				}
			}
		}
	}
}

// An answer is of one moment of each shard, while records keep coming in.
func TestQueryWhileAppending(t *testing.T) {
	sp := newSpool(t)
	st := stream(t, sp, "sensors", 4)
	e := engine(t, sp, query.Options{AtOnce: 4})
	stop := make(chan struct{})
	var writers, readers sync.WaitGroup
	writers.Go(func() {
		for i := range 400 { // so that a slow reader meets an end
			select {
			case <-stop:
				return
			default:
			}
			recs := make([]record.Record, 50)
			for k := range recs {
				recs[k] = record.Record{Key: fmt.Sprint("k", k), Data: fmt.Appendf(nil, `{"n": %d}`, i*50+k)}
			}
			if _, err := st.Put(context.Background(), recs); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 3 {
		readers.Go(func() {
			for range 15 {
				var s sheet
				sum, err := e.Run(t.Context(), query.Query{SQL: "SELECT count(*) = count(n), max(n) + 1 >= count(*) FROM sensors WHERE ts > now() - 3600"}, &s)
				if err != nil || !strings.HasSuffix(s.b.String(), "\n1|1\n") && sum.Scanned > 0 {
					t.Errorf("%q, %v", s.b.String(), err)
				}
			}
		})
	}
	readers.Wait()
	close(stop)
	writers.Wait()
}

// Damage is left out of the answer and named.
func TestQueryOverDamage(t *testing.T) {
	dir := t.TempDir()
	open := func() *spool.Spool {
		sp, err := spool.Open(t.Context(), dir, spool.Config{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return sp
	}
	sp := open()
	st := stream(t, sp, "sensors", 1)
	for i := range 5 {
		put(t, st, record.Record{Key: "k", Data: fmt.Appendf(nil, `{"needle": %d}`, i)}, record.Record{Key: "k", Data: []byte("{}")})
	}
	if err := sp.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "log-*", "*.seg"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte(`{"needle": 2}`))
	if at < 0 {
		t.Fatal("the payload is not in the file")
	}
	b[at] ^= 1
	if err := os.WriteFile(files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	sp = open()
	defer func() {
		if err := sp.Close(); err != nil {
			t.Error(err)
		}
	}()
	e := engine(t, sp, query.Options{})
	for _, sql := range []string{"SELECT sum(needle) FROM sensors", "SELECT sum(needle) FROM sensors WHERE seq < 7", "SELECT count(*) FROM sensors"} {
		var s sheet
		sum, err := e.Run(t.Context(), query.Query{SQL: sql}, &s)
		_, got, _ := strings.Cut(s.b.String(), "\n")
		want := "8\n" // 0+1+3+4, and as many records as are left
		if strings.Contains(sql, "seq") {
			want = "1\n"
		}
		if err != nil || got != want || len(sum.Warnings) != 1 || !strings.Contains(sum.Warnings[0], "stream sensors") || !strings.Contains(sum.Warnings[0], "records 5 to 6 of shard") {
			t.Errorf("%s: %q, %v, %v", sql, got, sum.Warnings, err)
		}
	}
}
