package bench_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"forebay/gateway/internal/bench"
)

// TestMain lets the test binary be the child that fills a spool and is killed,
// and the one that opens it.
func TestMain(m *testing.M) {
	kind, args := os.Getenv("FOREBAY_BENCH_CHILD"), []string(nil)
	if kind == "" {
		os.Exit(m.Run())
	}
	if len(os.Args) > 1 {
		args = os.Args[1:]
	}
	run := bench.Fill
	if kind == "reopen" {
		run = bench.Reopen
	}
	if err := run(context.Background(), os.Stdout, args); err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

func child(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "FOREBAY_BENCH_CHILD="+args[0])
	return cmd
}

func TestEveryKindGivesItsFigures(t *testing.T) {
	for kind, works := range map[string][]string{
		"append": {
			"append 1 shard x 10,000, 1 producer", "append 1 shard x 10,000, 2 producers", "append 4 shards x 2,500, 4 producers",
			"append 4 shards x 100, 4 producers", "append single records, 64 producers",
		},
		"sustained": {"sustained for 50ms: 4 shards x 2,500, 4 producers", "commit p99 for 50ms: 4 shards x 100, 4 producers"},
		"lone":      {"lone record", "lone records, one after the other"},
		"trickle":   {"trickle, 800 shards x 1 record/s for 50ms", "idle shard of 800", "open files, 800 shards"},
		"read":      {"replay, 1 reader, page cache warm", "replay, 8 readers of one shard at once", "seek p99 by sequence among 20.0 k, warm", "seek p99 by time among 20.0 k, warm"},
		"open":      {"reopen after kill -9, ", "idle RSS, "},
	} {
		if kind == "append" && testing.Short() {
			continue // it writes a gigabyte, by the code that the sustained loads use
		}
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			rep, err := bench.Spool(t.Context(), bench.Options{
				Dir: dir, Only: []string{kind}, Rounds: 1, Slice: 5 * time.Millisecond, Duration: 50 * time.Millisecond,
				Records: 20_000, Size: 4e6, Segments: 4, Idle: 10 * time.Millisecond, Child: child,
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range works {
				found := false
				for _, l := range rep.Lines {
					found = found || strings.HasPrefix(l.Work, w) && l.Unit != ""
				}
				if !found {
					t.Errorf("no line for %q in %+v", w, rep.Lines)
				}
			}
			for _, l := range rep.Lines {
				if l.Figure.Median < 0 || l.Figure.Min > l.Figure.Median || l.Figure.Median > l.Figure.Max {
					t.Errorf("line %+v", l)
				}
				if r := l.Rival; r != nil && (r.Figure.Median <= 0 || r.Ratio.Median <= 0) {
					t.Errorf("rival of %q: %+v", l.Work, r)
				}
			}
			if b, err := json.Marshal(rep); err != nil || !strings.Contains(string(b), `"work"`) {
				t.Errorf("as JSON: %s, %v", b, err)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestTargetsAreJudgedByTheFigure(t *testing.T) {
	l := bench.Line{Targets: []bench.Target{{Text: "a <= 1", Met: true}, {Text: "b < 2", Met: false}}}
	if got := l.TargetText() + " / " + l.Verdict(); got != "a <= 1; b < 2 / met; MISSED" {
		t.Error(got)
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	for name, o := range map[string]bench.Options{
		"only": {Only: []string{"speed"}}, "payload": {Payload: 1e6}, "rounds": {Rounds: -1}, "slice": {Slice: -1}, "records": {Records: -1},
	} {
		if _, err := bench.Spool(t.Context(), o); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
