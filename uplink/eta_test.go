package uplink_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"forebay/spool/record"
	"forebay/uplink"
)

// What is told of the time until nothing waits lies within a fifth of what
// really follows, wherever on the way it is read: arrivals by a script, a link
// or a cap that drains, and a schedule that changes the cap on the way.
func TestETAWithinAFifth(t *testing.T) {
	steady := func(perSecond int) func(int) int { return func(int) int { return perSecond } }
	for _, c := range []struct {
		name     string
		linkKbit float64
		way      time.Duration
		band     uplink.Bandwidth
		own      int
		backlog  int             // kilobytes, over four lanes
		arrivals func(s int) int // kilobytes in second s
		warm     time.Duration   // before the first reading
		rest     int             // kilobytes that are always on their way
		long     bool            // not in the short form
	}{
		{"link of 8 Mbit/s", 8000, 50 * time.Millisecond, uplink.Bandwidth{}, 0, 300_000, steady(200), 30 * time.Second, 1500, true},
		{"link of 8 Mbit/s, nothing comes", 8000, 50 * time.Millisecond, uplink.Bandwidth{}, 0, 100_000, steady(0), 20 * time.Second, 1500, false},
		{"cap of 8 Mbit/s", 100_000, 20 * time.Millisecond, uplink.Bandwidth{LimitKbit: 8000}, 0, 300_000, steady(300), 30 * time.Second, 1500, false},
		{"own cap of 800 kbit/s", 100_000, 20 * time.Millisecond, uplink.Bandwidth{LimitKbit: 8000}, 800, 60_000, steady(20), 60 * time.Second, 150, false},
		{"arrivals in gusts", 8000, 50 * time.Millisecond, uplink.Bandwidth{}, 0, 600_000, func(s int) int {
			if s%20 == 0 {
				return 4000
			}
			return 0
		}, 2 * time.Minute, 1500, true},
		{"arrivals at random", 8000, 50 * time.Millisecond, uplink.Bandwidth{}, 0, 400_000, func(s int) int {
			return rand.New(rand.NewPCG(uint64(s), 3)).IntN(800)
		}, time.Minute, 1500, true},
		// It begins at midnight: ten minutes at 800 kbit/s, then at 4 Mbit/s.
		{"a schedule that opens", 100_000, 20 * time.Millisecond, uplink.Bandwidth{LimitKbit: 4000, Timezone: "UTC", Schedule: []uplink.Hours{{From: "00:00", To: "00:10", LimitKbit: 800}}}, 0, 400_000, steady(50), 30 * time.Second, 750, false},
		{"a schedule that closes", 100_000, 20 * time.Millisecond, uplink.Bandwidth{LimitKbit: 800, Timezone: "UTC", Schedule: []uplink.Hours{{From: "00:00", To: "00:10", LimitKbit: 4000}}}, 0, 400_000, steady(50), 30 * time.Second, 150, true},
		// The link is faster than the cap, and there are hours without one.
		{"a schedule that lets go", 8000, 20 * time.Millisecond, uplink.Bandwidth{LimitKbit: 0, Timezone: "UTC", Schedule: []uplink.Hours{{From: "00:05", To: "00:15", LimitKbit: 800}}}, 0, 900_000, steady(50), 30 * time.Second, 1500, true},
	} {
		if c.long && testing.Short() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, sink := newLog(t), newPipe(c.linkKbit, c.way)
				sink.packet = 25_000
				for range 4 {
					log.classed("s", record.ClassTelemetry).fat(c.backlog/16, 4000)
				}
				cp, err := uplink.NewCap(c.band, nil)
				if err != nil {
					t.Fatal(err)
				}
				cfg := config()
				cfg.LimitKbit = c.own
				p, stop := startWith(t, cfg, sink, log, uplink.Options{Cap: cp})
				type reading struct {
					at    time.Time
					eta   time.Duration
					known bool
				}
				var told []reading
				begin := time.Now()
				for s := 0; log.pending() > uint64(c.rest/4); s++ {
					if n := c.arrivals(s); n > 0 {
						for i := range log.cursors {
							log.cursors[i].fat((n/4+3-i)/4, 4000)
						}
					}
					time.Sleep(time.Second)
					if time.Since(begin) >= c.warm && s%10 == 0 {
						st := p.Status()
						told = append(told, reading{time.Now(), st.ETA, st.ETAKnown})
					}
					if time.Since(begin) > 3*time.Hour {
						t.Fatal("it does not drain")
					}
				}
				end := time.Now()
				stop()
				wrong, unknown := 0, 0
				for _, r := range told {
					left := end.Sub(r.at)
					if left < time.Minute { // of the little that is left the end is cut off
						continue
					}
					if !r.known {
						unknown++
						continue
					}
					if off := r.eta.Seconds()/left.Seconds() - 1; off < -0.2 || off > 0.2 {
						wrong++
						t.Errorf("after %v: said %v, took %v (%+.0f%%)", r.at.Sub(begin), r.eta.Round(time.Second), left, 100*off)
					}
				}
				if len(told) < 5 || unknown > 4 { // two at each change of the limit
					t.Errorf("%d readings, %d of them unknown, %d wrong; it took %v", len(told), unknown, wrong, end.Sub(begin))
				}
			})
		})
	}
}
