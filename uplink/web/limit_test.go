package web_test

import (
	"testing"

	"forebay/uplink/web"
)

// drive makes n requests as large as they may be to a target with a limit, and
// counts those that it refuses. A refused one is tried again smaller.
func drive(l *web.Limit, n, limit int) (refused, largest int) {
	for range n {
		for size := l.Size(); size > limit; size = l.Size() {
			l.Refused(size)
			refused++
		}
		l.Took(l.Size())
		largest = max(largest, l.Size())
	}
	return refused, largest
}

// The limit falls at once, rises again when the target takes more, and does not
// run into the same wall all the time.
func TestLimit(t *testing.T) {
	const most = 1 << 20
	l := web.NewLimit(most)
	if refused, _ := drive(l, 10, most); refused != 0 || l.Size() != most {
		t.Fatalf("%d refused, size %d", refused, l.Size())
	}
	refused, _ := drive(l, 1, 100_000)
	if refused > 4 || l.Size() > 100_000 || l.Size() < 50_000 {
		t.Fatalf("%d refused, size %d", refused, l.Size())
	}
	refused, largest := drive(l, 10_000, 100_000)
	if refused > 10 || largest < 90_000 {
		t.Errorf("%d of 10,000 refused, the largest has %d", refused, largest)
	}
	// It is raised: the limit rises again, all the way, in bounded time.
	if refused, _ = drive(l, 4096+32*16, most); refused != 0 || l.Size() != most {
		t.Errorf("%d refused, size %d", refused, l.Size())
	}
	// Small requests prove nothing.
	drive(l, 1, 1000)
	at := l.Size()
	for range 10_000 {
		l.Took(10)
	}
	if l.Size() != at {
		t.Errorf("from %d to %d", at, l.Size())
	}
	// A lower limit than what was taken is followed; two that were under way at
	// the same time count once.
	l = web.NewLimit(most)
	drive(l, 5, most)
	l.Refused(most)
	l.Refused(most)
	if l.Size() != most/2 {
		t.Errorf("after two at a time: %d", l.Size())
	}
	for range 100 {
		l.Refused(l.Size())
	}
	if l.Size() != 1 {
		t.Errorf("down to %d", l.Size())
	}
}
