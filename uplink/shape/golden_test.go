package shape_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"forebay/spool/record"
	"forebay/uplink/shape"
)

var update = flag.Bool("update", false, "write the expected files anew")

// A list is a source that hands out records once, and counts what is passed.
type list struct {
	recs []record.Record
	read int
	done uint64
	t    record.Tally
	errs map[int]error // told once, in place of the record of that index
	cmt  error
}

func (l *list) Poll(_ context.Context, limit int) (record.Batch, error) {
	if err := l.errs[l.read]; err != nil {
		delete(l.errs, l.read)
		if isLoss(err) {
			l.read++
		}
		return record.Batch{}, err
	}
	to := min(l.read+limit, len(l.recs))
	for i := l.read; i < to; i++ {
		if l.errs[i] != nil {
			to = i
		}
	}
	recs := slices.Clone(l.recs[l.read:to])
	for i := range recs {
		recs[i].Data = bytes.Clone(recs[i].Data)
	}
	l.read = to
	return record.Batch{Recs: recs, Next: uint64(to) + 1}, nil
}

func (l *list) Next(ctx context.Context, limit int) (record.Batch, error) {
	b, err := l.Poll(ctx, limit)
	if err != nil || len(b.Recs) > 0 {
		return b, err
	}
	<-ctx.Done()
	return b, context.Cause(ctx)
}

func (l *list) Commit(upTo uint64, t record.Tally) error {
	if l.cmt != nil {
		return l.cmt
	}
	if upTo < l.done || upTo > uint64(l.read) {
		return fmt.Errorf("commit %d after %d, read up to %d", upTo, l.done, l.read)
	}
	l.done = upTo
	l.t.Delivered += t.Delivered
	l.t.Filtered += t.Filtered
	l.t.Refused += t.Refused
	return nil
}

func (l *list) Backlog() record.Backlog {
	return record.Backlog{Records: uint64(len(l.recs)) - l.done}
}

func (l *list) Close() error { return nil }

func isLoss(err error) bool {
	var trimmed *record.TrimmedError
	return errors.As(err, &trimmed)
}

// goldenRecord is a line of NAME.jsonl: a record that comes in.
type goldenRecord struct {
	Key     string            `json:"key"`
	Source  string            `json:"source"`
	At      time.Time         `json:"at"`
	Arrived float64           `json:"arrived"` // seconds
	Attrs   map[string]string `json:"attrs"`
	Data    json.RawMessage   `json:"data"`
	Text    string            `json:"text"` // a payload that is not JSON
}

// Each testdata/golden/NAME.toml is an uplink's shape, NAME.jsonl the records of
// a stream, and NAME.want what becomes of each. A new case is three new files.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			var c struct {
				Stream string         `toml:"stream"`
				Shape  []shape.Config `toml:"shape"`
			}
			if err := toml.NewDecoder(bytes.NewReader(read(t, file))).DisallowUnknownFields().Decode(&c); err != nil {
				t.Fatal(err)
			}
			s, err := shape.New(c.Shape)
			if err != nil {
				t.Fatal(err)
			}
			src := &list{}
			for line := range bytes.Lines(read(t, strings.TrimSuffix(file, ".toml")+".jsonl")) {
				src.recs = append(src.recs, recordOf(t, line, len(src.recs)))
			}
			got := "stream " + shape.Far(c.Shape, c.Stream) + "\n" + become(t, s, c.Stream, src)
			want := strings.TrimSuffix(file, ".toml") + ".want"
			if *update {
				if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if text := string(read(t, want)); text != got {
				t.Errorf("got\n%s\nwant\n%s", got, text)
			}
		})
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func recordOf(t *testing.T, line []byte, i int) record.Record {
	t.Helper()
	var g goldenRecord
	if err := json.Unmarshal(line, &g); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	r := record.Record{Key: g.Key, Source: g.Source, At: g.At, Attrs: g.Attrs, Data: g.Data, Pos: record.Pos{Shard: 1, Seq: uint64(i + 1)}}
	r.Arrived = time.Unix(1_800_000_000, 0).Add(time.Duration(g.Arrived * float64(time.Second)))
	if g.Data == nil {
		r.Data = []byte(g.Text)
	}
	return r
}

// become says what becomes of the records of a source, a line for each.
func become(t *testing.T, s *shape.Shape, stream string, src *list) string {
	t.Helper()
	if s.Empty(stream) {
		return "no entry\n"
	}
	cur := s.Cursor(stream, src, shape.Options{})
	var out strings.Builder
	seq := uint64(0)
	for len(src.recs) > src.read {
		b, err := cur.Poll(t.Context(), 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range b.Recs {
			for seq++; seq < r.Pos.Seq; seq++ {
				fmt.Fprintf(&out, "%d -\n", seq)
			}
			fmt.Fprintf(&out, "%d %s %s", seq, r.Key, r.Data)
			if len(r.Attrs) > 0 {
				attrs, err := json.Marshal(r.Attrs)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&out, " %s", attrs)
			}
			out.WriteByte('\n')
		}
	}
	for seq++; seq <= uint64(len(src.recs)); seq++ {
		fmt.Fprintf(&out, "%d -\n", seq)
	}
	return out.String()
}
