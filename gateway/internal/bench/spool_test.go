package bench_test

import (
	"testing"
	"time"

	"forebay/gateway/internal/bench"
)

func TestSpoolMeasuresEveryLine(t *testing.T) {
	dir := t.TempDir()
	rep, err := bench.Spool(t.Context(), bench.Options{Dir: dir, Payload: 100, Slice: 10 * time.Millisecond, Rounds: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Lines) != 4 || rep.Reads.Median <= 0 || rep.FsyncMS.Median <= 0 {
		t.Fatalf("report %+v", rep)
	}
	for i, n := range []int{1, 100, 1000, 10000} {
		l := rep.Lines[i]
		if l.PerCall != n || l.Spool.Median <= 0 || l.Plain.Median <= 0 || l.Ratio.Min > l.Ratio.Max || l.P99MS < l.CommitMS {
			t.Errorf("line %+v", l)
		}
	}
}
