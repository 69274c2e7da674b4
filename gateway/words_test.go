package main

import (
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
)

func TestWordsGoWithTheirNumbers(t *testing.T) {
	for n, want := range map[uint64]string{0: ", 0 records wait", 1: ", 1 record waits", 2: ", 2 records wait"} {
		if got := uplinkLine(api.Uplink{ID: "cloud", Waiting: n}, time.Now()); !strings.HasSuffix(got, want) {
			t.Errorf("%q does not end with %q", got, want)
		}
	}
	if got := errandLine(api.Errand{ID: "cloud~redrive-1", Total: 1, Done: 1, Left: 1}); !strings.Contains(got, "1 of 1 record") || strings.Contains(got, "1 of 1 records") || !strings.Contains(got, "1 more waits for another redrive") {
		t.Error(got)
	}
	var b strings.Builder
	if err := refusedLine(&b, api.Refused{Total: 1, Redrive: 1}); err != nil || !strings.Contains(b.String(), "1 more was sent again") {
		t.Error(b.String(), err)
	}
}
