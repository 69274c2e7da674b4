package uplink_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/lane"
)

// What a target may have is offered again at once and no shorter, whatever came
// before it in its batch, however the pump would cut by then: a target that
// knows repeated batches by a key of the whole can tell.
func TestWhatMayBeThereIsOfferedAgainWhole(t *testing.T) {
	for _, c := range []struct {
		name   string
		out    lane.Outcome
		no     int // times that there is no answer
		least  int // records of the next batches
		offers int
	}{
		{"all of it", lane.Outcome{Class: lane.Ambiguous}, 1, 700, 1},
		{"what lies behind others", lane.Outcome{Done: 100, Class: lane.Ambiguous}, 1, 600, 1},
		{"a part that the sink names", lane.Outcome{Done: 100, Class: lane.Ambiguous, Again: 300}, 1, 300, 1},
		{"a page instead of the answer", lane.Outcome{Class: lane.Offline, Again: 400}, 1, 400, 1},
		{"several times", lane.Outcome{Class: lane.Transient, Again: 500}, 12, 500, 12},
		{"more than was offered", lane.Outcome{Done: 650, Class: lane.Transient, Again: 5000}, 1, 5000, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, sink := newLog(t), newSink(t)
				log.shard("s").put(1000, "k")
				var offered []int
				lost, rest := 0, 0
				sink.act = func(b lane.Batch) lane.Outcome {
					if len(b.Recs) < 700 && lost == 0 {
						return lane.Outcome{Done: len(b.Recs)} // the pump begins small
					}
					if lost > 0 && len(offered) < c.offers {
						offered = append(offered, len(b.Recs))
					}
					if lost++; lost > c.no {
						return lane.Outcome{Done: len(b.Recs)}
					}
					out := c.out
					if lost == 1 {
						rest = len(b.Recs) - out.Done
					} else {
						out.Done = 0
					}
					// By the time that the pause is over the pump wants to measure the
					// way there and back by a small batch.
					out.Err, out.RetryAfter = errFake, 5*time.Minute
					return out
				}
				cfg := config()
				cfg.RetryMax = conf.Duration(time.Hour)
				_, stop := start(t, cfg, sink, log)
				time.Sleep(24 * time.Hour)
				stop()
				if len(offered) != c.offers || slices.Min(offered) < min(c.least, rest) {
					t.Errorf("%d records may be there, and %d are offered", min(c.least, rest), offered)
				}
				if twice := sink.inOrder(t, log, nil); twice != 0 || log.pending() != 0 {
					t.Errorf("%d twice, %d pending", twice, log.pending())
				}
			})
		})
	}
}

// The newest records do not come between a batch and its repetition where the
// target would then not know it.
func TestLiveRecordsWaitForWhatMayBeThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := &liveLog{memLog: newLog(t)}, newSink(t)
		c := log.classed("s", record.ClassTelemetry)
		c.put(1000, "k")
		c.age(time.Hour)
		var first, last uint64
		lost, repeated := 0, 0
		sink.act = func(b lane.Batch) lane.Outcome {
			from, to := b.Recs[0].Pos.Seq, b.Recs[len(b.Recs)-1].Pos.Seq
			switch {
			case first == from && last > 0:
				repeated++
			case last > 0 && repeated < 3:
				t.Errorf("%d to %d is sent before %d to %d again", from, to, first, last)
			}
			if lost < 3 && from < 1000 {
				if lost++; lost == 1 {
					first, last = from, to
				}
				c.put(10, "k")
				return lane.Outcome{Class: lane.Ambiguous, Err: errFake, Again: len(b.Recs)}
			}
			return lane.Outcome{Done: len(b.Recs)}
		}
		_, stop := start(t, liveConfig(), sink, log)
		time.Sleep(10 * time.Minute)
		stop()
		if repeated != 3 || log.pending() != 0 {
			t.Errorf("repeated %d times, %d pending", repeated, log.pending())
		}
	})
}
