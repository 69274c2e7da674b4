package view_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/ui/view"
)

func uplink(waiting uint64, bytes int64, state string, eta *float64) api.Uplink {
	return api.Uplink{ID: "cloud", Target: "kinesis", State: state, Since: at(-60), Waiting: waiting, WaitBytes: bytes, Oldest: new(at(-60)), ETA: eta, DrainBps: 4e6, Out: api.Rate{Bytes: 4e6}}
}

func withUplink(now time.Time, u api.Uplink, in float64) api.Event {
	return api.Event{Kind: "status", Status: &api.Status{Gateway: "g", Now: now, In: api.Rate{Bytes: in}, Uplinks: []api.Uplink{u}, Disk: api.Disk{DaysLeft: new(9.43)}}}
}

// A drain at a constant rate: the words never go back up, never promise an
// end while something waits, and are within a fifth and a step of the truth.
func TestDrainWordsOnlyFall(t *testing.T) {
	for _, noise := range []float64{0, 0.1} {
		rng := rand.New(rand.NewPCG(7, 7))
		m := model()
		const in, out = 1e6, 4e6
		left, last := 20e9, 1<<30
		for s := 0.0; ; s++ {
			left -= out - in
			if left < 0 {
				left = 0
			}
			truth := left / (out - in)
			eta := truth * (1 + noise*(2*rng.Float64()-1))
			n := uint64(left / 700)
			if left > 0 && n == 0 {
				n = 1
			}
			m.Event(at(s), withUplink(at(s), uplink(n, int64(left), "up", &eta), in))
			b := frame(t, m, at(s)).Backlog
			if n == 0 {
				if !b.Empty || b.Waiting != "nothing waiting" || b.Drain != "" {
					t.Fatalf("drained: %+v", b)
				}
				break
			}
			if b.Empty || strings.Contains(b.Waiting, "nothing") || strings.Contains(b.Drain, "done") || strings.Contains(b.Drain+b.Waiting, "%") {
				t.Fatalf("%d records wait, but it says %q, %q", n, b.Waiting, b.Drain)
			}
			i := stepOf(t, strings.TrimPrefix(b.Drain, "drains in "))
			if i > last {
				t.Fatalf("noise %v: at second %v the words went up to %q", noise, s, b.Drain)
			}
			last = i
		}
	}
}

// stepOf turns the words back into minutes.
func stepOf(t *testing.T, words string) int {
	t.Helper()
	for d := time.Minute; d < 1000*24*time.Hour; d += time.Minute {
		if view.ETA(d) == words {
			return int(d / time.Minute)
		}
	}
	t.Fatalf("%q is not a time to drain", words)
	return 0
}

func TestETAWordsGrowWithTheTime(t *testing.T) {
	seen := map[string]bool{}
	last := ""
	for d := time.Second; d < 500*24*time.Hour; d += max(time.Second, d/500) {
		w := view.ETA(d)
		if w == last {
			continue
		}
		if seen[w] {
			t.Fatalf("%q comes back at %v", w, d)
		}
		seen[w], last = true, w
	}
	for d, want := range map[time.Duration]string{
		0: "under a minute", 59 * time.Second: "under a minute", 61 * time.Second: "2 min", 8 * time.Minute: "8 min",
		21 * time.Minute: "25 min", 61 * time.Minute: "1½ h", 7 * time.Hour: "7 h", 3 * 24 * time.Hour: "3 days",
	} {
		if got := view.ETA(d); got != want {
			t.Errorf("ETA(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestUplinkDownIsAnotherFaultThanGatewayLost(t *testing.T) {
	m := model()
	u := uplink(2_410_000, 1_800_000_000, "down", nil)
	u.RetryAt = new(at(12))
	u.Oldest = new(at(-33 * 60))
	m.Event(at(0), withUplink(at(0), u, 9e6))
	s := frame(t, m, at(0))
	b := s.Backlog
	if want := "Gateway cannot reach the cloud — spooling, 9.4 days of space"; b.Headline != want {
		t.Errorf("%q, want %q", b.Headline, want)
	}
	if b.Waiting != "2.41 M records  1.8 GB" || b.State != "DOWN since 13:59, next try in 12 s" || b.Oldest != "33 min" {
		t.Errorf("%+v", b)
	}
	if b.Drain != "drains in 10 min once up (4.0 MB/s)" {
		t.Errorf("%q", b.Drain)
	}
	if s.Banner.Kind != view.BannerQuiet || s.Stale() {
		t.Errorf("an uplink that is down makes the console say that it lost the gateway: %+v", s.Banner)
	}
	m.Lost(at(1), nil)
	s = frame(t, m, at(40))
	if s.Backlog.Headline != "" || s.Backlog.Drain != "" || !s.Backlog.Old || s.Banner.Kind != view.BannerLost {
		t.Errorf("with the gateway lost: %+v", s.Backlog)
	}
}

func TestBacklogThatDoesNotShrinkHasNoEnd(t *testing.T) {
	m := model()
	for s := range 12 {
		n := uint64(5000 + 100*s)
		m.Event(at(float64(s)), withUplink(at(float64(s)), uplink(n, 1e6, "up", nil), 9e6))
		b := frame(t, m, at(float64(s))).Backlog
		want := "time to drain not known yet"
		if s >= 10 {
			want = "growing, though 4.0 MB/s leave"
		}
		if b.Drain != want {
			t.Errorf("second %d: %q, want %q", s, b.Drain, want)
		}
	}
	// Down, and as much gathers as ever left: nobody knows what the link can do.
	m.Event(at(20), withUplink(at(20), uplink(5000, 400e6, "down", nil), 9e6))
	if b := frame(t, m, at(20)).Backlog; b.Drain != "time to drain known once up" {
		t.Errorf("%q", b.Drain)
	}
}

func TestBarSpanHoldsTheBacklog(t *testing.T) {
	for _, age := range []time.Duration{0, time.Second, 4 * time.Minute, time.Hour, 20 * time.Hour, 29 * 24 * time.Hour, 3000 * 24 * time.Hour} {
		m := model()
		u := uplink(1, 1, "up", new(1.0))
		u.Oldest = new(at(0).Add(-age))
		m.Event(at(0), withUplink(at(0), u, 0))
		sp := frame(t, m, at(0)).Backlog.Span
		if sp.Oldest > sp.Window || sp.Oldest != age {
			t.Errorf("age %v: %+v", age, sp)
		}
		for _, k := range sp.Ticks {
			if k.Age <= 0 || k.Age >= sp.Window {
				t.Errorf("age %v: tick %v outside", age, k.Age)
			}
		}
	}
}

func TestWorstUplinkIsShown(t *testing.T) {
	m := model()
	a, b := uplink(10, 10, "up", new(1.0)), uplink(5, 5, "down", nil)
	b.ID = "archive"
	m.Event(at(0), api.Event{Kind: "status", Status: &api.Status{Now: at(0), Uplinks: []api.Uplink{a, b}}})
	s := frame(t, m, at(0))
	if !strings.HasPrefix(s.Backlog.Title, "archive") || s.Backlog.Others != "cloud up, 10 waiting" {
		t.Errorf("%+v", s.Backlog)
	}
	if s.Status[2].Name != "Uplink archive" || s.Status[2].Severity == 0 {
		t.Errorf("%+v", s.Status)
	}
}

func TestFullDiskIsSaid(t *testing.T) {
	m := model()
	m.Event(at(0), api.Event{Kind: "status", Status: &api.Status{
		Now: at(0), Disk: api.Disk{Full: true},
		Problems: []api.Problem{{Kind: "disk", Text: "full"}, {Kind: "uplink", Text: "down"}, {Kind: "clock", Text: "clock not synchronised"}},
	}})
	s := frame(t, m, at(0))
	if d := s.Status[3]; d.Value != "FULL, producers held back" || d.Severity != 1 {
		t.Errorf("%+v", d)
	}
	if s.Notice.Text != "clock not synchronised" || s.Notice.More != 0 {
		t.Errorf("%+v", s.Notice)
	}
}

func TestFormats(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 60 * time.Millisecond: "60 ms", 14 * time.Second: "14 s", 33 * time.Minute: "33 min",
		125 * time.Minute: "2 h 05 min", 76 * time.Hour: "3 d 4 h", -time.Second: "0 s",
	} {
		if got := view.Span(d); got != want {
			t.Errorf("Span(%v) = %q, want %q", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0", 999: "999", 1284: "1,284", 241300: "241,300", 2_410_000: "2.41 M", 31_000_000_000: "31.0 G"} {
		if got := view.Count(n); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1800: "1.8 kB", 12_400_000_000: "12 GB", 999_600: "1.0 MB", -4: "0 B"} {
		if got := view.Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
	if got := view.Stopwatch(3723 * time.Second); got != "1:02:03" {
		t.Errorf("%q", got)
	}
}
