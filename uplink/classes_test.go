package uplink_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/lane"
)

func payload(b lane.Batch) (n int) {
	for _, r := range b.Recs {
		n += len(r.Key) + len(r.Data)
	}
	return n
}

// A throttled lane halves what it sends, and takes it up again step by step.
func TestThrottleIsAdditiveIncreaseMultiplicativeDecrease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard("s")
		const many = 400_000
		c.put(many, "k")
		const most = 40_000 // bytes at a time
		type try struct {
			size  int
			taken bool
		}
		var tries []try
		limit := true
		sink.act = func(b lane.Batch) lane.Outcome {
			n := payload(b)
			tries = append(tries, try{n, !limit || n <= most})
			if limit && n > most {
				return lane.Outcome{Class: lane.Throttled, Err: errors.New("rate exceeded")}
			}
			return lane.Outcome{Done: len(b.Recs)}
		}
		p, stop := start(t, config(), sink, log)
		time.Sleep(5 * time.Second)
		s := p.Status()
		refused, sent := 0, 0
		sink.mu.Lock()
		window := 1 << 20 // what a batch may have, were it nothing but additive increase and halves
		for i, x := range tries {
			sent += x.size
			if x.size > window+100 {
				t.Errorf("try %d has %d bytes, want at most %d", i, x.size, window)
			}
			if x.taken {
				window += 6 << 10
			} else {
				window = min(window, x.size) / 2
				refused++
			}
		}
		if len(tries) < 20 || refused == 0 || refused > len(tries)/3 || sent/len(tries) < most/2 {
			t.Errorf("%d tries, %d refused, %d bytes each; want few refused and the target well used", len(tries), refused, sent/len(tries))
		}
		limit = false
		sink.mu.Unlock()
		c.put(many, "k")
		if s.Retries == 0 {
			t.Errorf("status %+v", s)
		}
		time.Sleep(30 * time.Second)
		s = p.Status()
		stop()
		sink.inOrder(t, log, nil)
		largest := 0
		for _, x := range tries {
			largest = max(largest, x.size)
		}
		if s.State != "up" || s.Error != "" || largest < 5*most {
			t.Errorf("%+v; the largest batch has %d bytes, it should have grown", s, largest)
		}
	})
}

// A target that takes nothing does not get the whole backlog set aside: after
// a few refusals in a row the uplink stops and says so; a person's retry lets
// it go on.
func TestRefusalStormStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		bad, good := log.shard("bad"), log.shard("good")
		bad.put(5000, "k")
		sink.act = func(b lane.Batch) lane.Outcome {
			if b.Lane.Stream == "bad" {
				return lane.Outcome{Class: lane.Poison, Err: errors.New("schema 7 is unknown")}
			}
			return lane.Outcome{Done: len(b.Recs)}
		}
		cfg := config()
		cfg.RefuseMax = 5
		p, stop := start(t, cfg, sink, log)
		for range 60 {
			good.put(10, "k")
			time.Sleep(time.Minute)
		}
		if n, tally := bad.committed(); n != 5 || tally.Refused != 5 || len(log.refused) != 5 {
			t.Fatalf("after an hour: at %d, %+v, %d set aside; want 5", n, tally, len(log.refused))
		}
		s := p.Status()
		if s.Class != "misconfigured" || !strings.Contains(s.Error, "5 records of stream bad in a row") || !strings.Contains(s.Error, "schema 7 is unknown") || !strings.Contains(s.Error, "forebay uplink retry cloud") || s.Advice == "" {
			t.Errorf("status %+v", s)
		}
		if n, _ := good.committed(); n != 600 {
			t.Errorf("the other lane is at %d, want 600", n)
		}
		p.RetryNow()
		time.Sleep(time.Minute)
		if n, _ := bad.committed(); n != 10 {
			t.Errorf("after a retry at %d, want 10", n)
		}
		// The target comes to its senses: nothing but time is needed.
		sink.set(nil, nil)
		time.Sleep(2 * time.Minute)
		s = p.Status()
		stop()
		if n, tally := bad.committed(); n != 5000 || tally.Refused != 10 || tally.Delivered != 4990 || s.State != "up" || s.Error != "" {
			t.Errorf("at %d, %+v, status %+v", n, tally, s)
		}
	})
}

// The same over many lanes, none of which has many in a row.
func TestRefusalStormOverManyLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		for range 200 {
			log.shard("s").put(15, "k")
		}
		sink.act = func(lane.Batch) lane.Outcome { return lane.Outcome{Class: lane.Poison, Err: errFake} }
		p, stop := start(t, config(), sink, log)
		if testing.Short() {
			time.Sleep(5 * time.Minute)
		} else {
			time.Sleep(time.Hour)
		}
		s := p.Status()
		stop()
		if n := len(log.refused); n != 100 || s.Class != "misconfigured" || !strings.Contains(s.Error, "100 of the last 100 records") || s.State != "down" {
			t.Errorf("%d set aside, status %+v", n, s)
		}
	})
}

// A few records that can never be taken among many that can are no storm.
func TestScatteredPoisonIsNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		poison := map[record.Pos]bool{}
		for i := range 4 {
			log.shard("s").put(3000, "k")
			for seq := uint64(3); seq <= 3000; seq += 3 {
				poison[record.Pos{Shard: record.ShardID(i + 1), Seq: seq}] = true
			}
		}
		sink.act = func(b lane.Batch) lane.Outcome {
			for i, r := range b.Recs {
				if poison[r.Pos] {
					return lane.Outcome{Done: i, Class: lane.Poison, Err: errFake}
				}
			}
			return lane.Outcome{Done: len(b.Recs)}
		}
		_, stop := start(t, config(), sink, log)
		time.Sleep(10 * time.Minute)
		stop()
		sink.inOrder(t, log, poison)
		if len(log.refused) != 4000 || log.pending() != 0 {
			t.Errorf("%d set aside, %d pending; want 4000, 0", len(log.refused), log.pending())
		}
	})
}

// Every class has words for the operator, and pauses of its own kind.
func TestClassesPauseAndSpeak(t *testing.T) {
	for _, c := range []struct {
		class       lane.Class
		least, most int // tries within an hour
	}{
		{lane.Throttled, 1800, 20_000}, // pauses of 2 s at most
		{lane.Transient, 60, 2000},
		{lane.Ambiguous, 60, 2000},
		{lane.Auth, 60, 300},
		{lane.ClockSkew, 60, 300},
		{lane.Misconfigured, 60, 300},
	} {
		t.Run(c.class.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, sink := newLog(t), newSink(t)
				log.shard("s").put(10, "k")
				sink.set(func(lane.Batch) lane.Outcome {
					return lane.Outcome{Class: c.class, Err: fmt.Errorf("trouble: %s", c.class)}
				}, nil)
				p, stop := start(t, config(), sink, log)
				time.Sleep(time.Hour)
				s, n := p.Status(), sink.sent()
				stop()
				if s.Class != c.class.String() || s.Advice == "" || !strings.Contains(s.Error, "trouble") || s.State == "up" {
					t.Errorf("status %+v", s)
				}
				if n < c.least || n > c.most {
					t.Errorf("%d tries in an hour, want %d to %d", n, c.least, c.most)
				}
				if log.pending() != 10 || len(log.refused) != 0 {
					t.Errorf("%d pending, %d set aside", log.pending(), len(log.refused))
				}
			})
		})
	}
}

// An uplink that is throttled says so, also where another lane has had no
// answer; what no time mends is shown all the same.
func TestThrottledIsShownAsSuch(t *testing.T) {
	for other, want := range map[lane.Class]lane.Class{lane.Ambiguous: lane.Throttled, lane.Transient: lane.Throttled, lane.Auth: lane.Auth} {
		t.Run(other.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, sink := newLog(t), newSink(t)
				log.shard("busy").put(10, "k")
				log.shard("other").put(10, "k")
				sink.set(func(b lane.Batch) lane.Outcome {
					if b.Lane.Stream == "busy" {
						return lane.Outcome{Class: lane.Throttled, Err: errors.New("rate exceeded")}
					}
					return lane.Outcome{Class: other, Err: errFake}
				}, nil)
				p, stop := start(t, config(), sink, log)
				defer stop()
				time.Sleep(5 * time.Minute)
				if s := p.Status(); s.State != uplink.StateThrottled || s.Class != want.String() {
					t.Errorf("%s: %s, %s", s.State, s.Class, s.Error)
				}
			})
		})
	}
}

// The second error about the clock says that learning the target's has not
// helped: the uplink is down at once.
func TestClockThatIsNotLearnt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		log.shard("s").put(10, "k")
		sink.set(func(lane.Batch) lane.Outcome { return lane.Outcome{Class: lane.ClockSkew, Err: errFake} }, nil)
		p, stop := start(t, config(), sink, log)
		defer stop()
		time.Sleep(3 * time.Second)
		if s := p.Status(); s.State != uplink.StateDown || s.Class != "clock-skew" {
			t.Errorf("%s, %s", s.State, s.Class)
		}
	})
}
