package http

import (
	"testing"
	"time"

	"forebay/uplink/lane"
)

// What was answered to HEAD long before a batch was taken is not what its
// target answers: a portal may have stood there when the machine started.
func TestAnOldAnswerToHEADIsNotTheTargets(t *testing.T) {
	s, err := New(Config{URL: "http://127.0.0.1:9/"}, lane.Home{})
	if err != nil {
		t.Fatal(err)
	}
	const url = "http://127.0.0.1:9/"
	for _, c := range []struct {
		age  time.Duration
		seen bool
	}{{freshTime + time.Second, false}, {0, true}} {
		x := s.at(url)
		x.seen, x.seenAt = greeting{status: 302}, time.Now().Add(-c.age)
		s.accept(url, &parcel{})
		if got := x.normal != (greeting{}); got != c.seen {
			t.Errorf("seen %s ago: normal is %+v", c.age, x.normal)
		}
	}
}
