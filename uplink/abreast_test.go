package uplink_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"forebay/uplink/lane"
)

// spreading is a target whose requests hold a record of a lane.
type spreading struct{ *scripted }

func (spreading) Spreads() bool { return true }

// Where a request holds a record of each lane, lanes send alike, and those that
// have many records keep up with those that have few: what arrived at the same
// time goes out at about the same time.
func TestLanesKeepAbreast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		sink.delay = 10 * time.Millisecond
		const lanes, few = 120, 3000
		began := time.Now()
		for i := range lanes {
			c, n := log.shard("s"), few*(1+i%2)
			c.put(n, strings.Repeat("k", 200))
			for k := range c.recs {
				c.recs[k].Arrived = began.Add(time.Duration(k) * time.Hour / time.Duration(n))
			}
		}
		at := make([]float64, lanes)
		least := 1.0
		sink.act = func(b lane.Batch) lane.Outcome {
			at[b.Lane.Shard-1] = b.Recs[len(b.Recs)-1].Arrived.Sub(began).Hours()
			if at[b.Lane.Shard-1] > 0.9 { // those that have few are nearly through
				for _, x := range at {
					least = min(least, x)
				}
			}
			return lane.Outcome{Done: len(b.Recs)}
		}
		_, stop := start(t, config(), spreading{sink}, log)
		for log.pending() > 0 {
			time.Sleep(time.Second)
		}
		stop()
		sink.inOrder(t, log, nil)
		if least < 0.47 {
			t.Errorf("when the first lanes were through, the last was at %.0f %%", 100*least)
		}
		most := 0
		for _, s := range sink.sends[10:] {
			most = max(most, len(s))
		}
		if most < lanes/5 {
			t.Errorf("a Send had %d lanes at most", most)
		}
	})
}
