package demo

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/firmware-sim/factory"
	"forebay/firmware-sim/fleet"
	"forebay/firmware-sim/link"
)

// TestScreen compares the screen with testdata/NAME.txt.
func TestScreen(t *testing.T) {
	now := time.Date(2026, 3, 4, 15, 4, 5, 0, time.UTC)
	at, hot, flow := now.Add(-90*time.Second), 101.27, 31.0
	var v view
	v.status.Gateway, v.status.Title, v.status.In.PerSecond, v.status.In.Total, v.status.Disk.Used = "edge-07", "Press shop", 32.4, 1944, 4_100_000
	v.uplinks = []uplinkState{{ID: "site", State: "down", Error: "connection refused", Waiting: 2900, Oldest: &at, Delivered: 1200}}
	v.alarms = []alarm{
		{ID: "1", Rule: "press-hot", Key: "a/b/c/press1/temperature", Severity: 1, State: "unacked", Text: "Press over temperature"},
		{ID: "0", Rule: "press-hot", Key: "a/b/c/press2/temperature", Severity: 1, State: "normal", Text: "over"},
	}
	v.tiles = []tile{{Label: "Line 1 temp", Unit: "Cel", Value: &hot, Alarm: 1}, {Label: "Coolant flow", Unit: "L/min", Value: &flow}, {Label: "Cell humidity", Unit: "%"}}
	f := factory.Stats{Fleet: fleet.Stats{Devices: 20, Connected: 19, Acked: 1800}, Serial: 120, Chunks: 30}
	for name, v := range map[string]view{"outage": v, "gone": {err: errors.New("/v1/status: connection refused")}} {
		lines := screen(v, link.Stats{State: link.Cut, BytesIn: 12345}, f, now, now.Add(-2*time.Hour), "logs and data: /tmp/demo", 100)
		for _, l := range lines {
			if len([]rune(l)) > 100 {
				t.Errorf("%s: a line of %d columns: %q", name, len([]rune(l)), l)
			}
		}
		got := strings.Join(lines, "\n") + "\n"
		want, err := os.ReadFile(filepath.Join("testdata", name+".txt"))
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s:\n%swant:\n%s", name, got, want)
		}
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"a": `"a"`, `C:\x "y"`: `"C:\\x \"y\""`, "READ\r\n": `"READ\r\n"`, "\x01ü": `"\u0001ü"`,
	} {
		if got := quote(in); got != want {
			t.Errorf("%q became %s, want %s", in, got, want)
		}
	}
}
