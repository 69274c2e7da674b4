package lane_test

import (
	"math"
	"strings"
	"testing"

	"forebay/uplink/lane"
)

func TestCoverText(t *testing.T) {
	for _, c := range []lane.Cover{
		{},
		{Began: 1, Shape: "0123456789abcdef0123456789abcdef", Arrived: 1763800000000000000},
		{Began: math.MaxUint64, Shape: strings.Repeat("f", 32), Arrived: math.MinInt64},
		{Arrived: -1},
	} {
		text := c.String()
		if got := lane.ParseCover(text); got != c || len(text) > lane.MaxCover {
			t.Errorf("%q (%d bytes): %+v, want %+v", text, len(text), got, c)
		}
	}
	for _, text := range []string{"", "1", "1 a", "x a 1", "1 a x", "1 a 1 1", "-1 a 1"} {
		if got := lane.ParseCover(text); got != (lane.Cover{}) {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
