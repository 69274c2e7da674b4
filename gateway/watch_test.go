package main

import (
	"strings"
	"testing"
	"time"
)

func TestClockText(t *testing.T) {
	for off, want := range map[time.Duration]string{
		24 * time.Hour:       "is 1 d behind that of the target of uplink cloud;",
		-10*time.Minute - 99: "is 10 min ahead of that of the target of uplink cloud;",
	} {
		if got := clockText("cloud", off); !strings.Contains(got, want) {
			t.Errorf("%v: %q", off, got)
		}
	}
}
