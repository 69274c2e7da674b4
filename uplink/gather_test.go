package uplink_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

// gatherer is a sink that makes objects.
type gatherer struct{ *scripted }

func (gatherer) Prefers() (int, time.Duration) { return 4 << 20, time.Minute }

// A trickle waits for the sink's linger, a backlog goes in batches of its
// size, and alarms do not wait for either.
func TestAGathererGetsLargeBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), gatherer{newSink(t)}
		backlog, trickle, alarm := log.shard("backlog"), log.shard("trickle"), log.classed("alarms", record.ClassAlarm)
		backlog.put(300_000, "k")
		var mu sync.Mutex // of the times
		raised := map[uint64]time.Time{}
		began := map[uint64]time.Time{}
		var late, oldest time.Duration
		sink.set(func(b lane.Batch) lane.Outcome {
			mu.Lock()
			defer mu.Unlock()
			switch b.Lane.Shard {
			case alarm.lane.Shard:
				late = max(late, time.Since(raised[b.Recs[0].Pos.Seq]))
			case trickle.lane.Shard:
				oldest = max(oldest, time.Since(began[b.Recs[0].Pos.Seq]))
			}
			return lane.Outcome{Done: len(b.Recs)}
		}, nil)
		cfg := config()
		cfg.Linger = 0
		_, stop := start(t, cfg, sink, log)
		const minutes = 5
		for i := range uint64(minutes * 60) {
			mu.Lock()
			if began[i+1] = time.Now(); i%20 == 0 {
				raised[i/20+1] = time.Now()
			}
			mu.Unlock()
			trickle.put(1, "k")
			if i%20 == 0 {
				alarm.put(1, "a")
			}
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Minute)
		stop()
		if twice := sink.inOrder(t, log, nil); twice != 0 || log.pending() != 0 {
			t.Errorf("%d twice, %d pending", twice, log.pending())
		}
		sends := map[record.ShardID]int{}
		for _, s := range sink.sends {
			for _, b := range s {
				sends[b.Lane.Shard]++
			}
		}
		if n := sends[backlog.lane.Shard]; n > 5 {
			t.Errorf("7 MB of backlog in %d batches", n)
		}
		if n := sends[trickle.lane.Shard]; n < minutes || n > minutes+2 {
			t.Errorf("%d batches of a trickle in %d minutes", n, minutes)
		}
		if oldest > time.Minute+time.Second {
			t.Errorf("a record waited %v", oldest)
		}
		if late > 200*time.Millisecond {
			t.Errorf("an alarm waited %v", late)
		}
	})
}

// What comes while a lane gathers is counted as waiting within a second or so,
// not only when the object goes out.
func TestWhatIsGatheredWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), gatherer{newSink(t)}
		c := log.shard("s")
		cfg := config()
		cfg.Linger = 0
		p, stop := start(t, cfg, sink, log)
		for i := range uint64(50) {
			c.put(2, "k")
			time.Sleep(1100 * time.Millisecond)
			if n, want := p.Status().Waiting.Records, 2*(i+1); n != want {
				t.Fatalf("%d records wait, want %d", n, want)
			}
		}
		time.Sleep(time.Minute)
		if n := p.Status().Waiting.Records; n != 0 {
			t.Errorf("%d records wait after the object went out", n)
		}
		stop()
	})
}
