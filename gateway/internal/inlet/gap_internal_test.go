package inlet

import (
	"testing"
	"time"
)

func TestAGapThatWasNotWrittenKeepsItsSpan(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 11, 5, 14, 0, s, 0, time.UTC) }
	var g gap
	check := func(wantN uint64, wantReason string, wantFrom, wantTo time.Time) {
		t.Helper()
		if n, reason, from, to := g.take(); n != wantN || reason != wantReason || !from.Equal(wantFrom) || !to.Equal(wantTo) {
			t.Errorf("%d lost (%s) from %v to %v; want %d (%s) from %v to %v", n, reason, from, to, wantN, wantReason, wantFrom, wantTo)
		}
	}
	g.add(2, "held back", at(1))
	g.add(3, "held back", at(4))
	n, reason, from, to := g.take()
	g.giveBack(n, reason, from, to)
	check(5, "held back", at(1), at(4))
	g.add(1, "oversize", at(9)) // lost while the write was tried
	g.giveBack(n, reason, from, to)
	check(6, "oversize", at(1), at(9))
}
