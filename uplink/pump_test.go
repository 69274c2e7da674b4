package uplink_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/aws"
	"forebay/uplink/kinesis"
	"forebay/uplink/lane"
)

func config() uplink.Config {
	return uplink.Config{ID: "cloud", Kinesis: &kinesis.Config{Stream: "s", Access: aws.Access{Endpoint: "http://127.0.0.1:1"}}}
}

// start runs a pump inside a synctest bubble; stop ends it.
func start(t *testing.T, cfg uplink.Config, sink uplink.Sink, log uplink.Log) (*uplink.Pump, func()) {
	t.Helper()
	p := uplink.NewPump(cfg, sink, log, uplink.Options{Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return p, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func TestDeliversInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		for i := range 6 {
			log.shard(fmt.Sprintf("s%d", i%2)).put(5000*i+1, "k")
		}
		p, stop := start(t, config(), sink, log)
		time.Sleep(5 * time.Second)
		log.cursors[0].put(3, "k")
		time.Sleep(time.Second)
		s := p.Status()
		stop()
		if twice := sink.inOrder(t, log, nil); twice != 0 || log.pending() != 0 {
			t.Errorf("%d twice, %d pending", twice, log.pending())
		}
		total := uint64(0)
		for _, c := range log.cursors {
			total += uint64(len(c.recs))
		}
		if s.State != "up" || s.Delivered != total || s.Waiting.Records != 0 || s.Error != "" || s.Lanes != 6 || !s.ETAKnown || s.WireBytes == 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// Lanes fail at random places, in every way; no record overtakes another, and
// what the far side acknowledged is committed.
func TestOrderThroughFailure(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			classes := []lane.Class{lane.Throttled, lane.Transient, lane.Auth, lane.ClockSkew, lane.Misconfigured, lane.Offline}
			log, sink := newLog(t), newSink(t)
			for i := range 5 {
				log.shard("s").put(4000+i, "k")
			}
			sink.act = func(b lane.Batch) lane.Outcome {
				if rng.IntN(3) > 0 {
					return lane.Outcome{Done: len(b.Recs)}
				}
				return lane.Outcome{Done: rng.IntN(len(b.Recs)), Class: classes[rng.IntN(len(classes))], Err: errFake}
			}
			_, stop := start(t, config(), sink, log)
			time.Sleep(10 * time.Minute)
			stop()
			if twice := sink.inOrder(t, log, nil); twice != 0 || log.pending() != 0 {
				t.Errorf("%d twice, %d pending", twice, log.pending())
			}
		})
	}
}

// What may have been committed goes out again, the same records, in order.
func TestAmbiguousIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		log.shard("s").put(100, "k")
		n := 0
		sink.act = func(b lane.Batch) lane.Outcome {
			if n++; n == 1 {
				for _, r := range b.Recs { // committed there, but the answer is lost
					sink.took[b.Lane.Shard] = append(sink.took[b.Lane.Shard], r.Pos.Seq)
					sink.data[r.Pos] = string(r.Data)
				}
				return lane.Outcome{Class: lane.Ambiguous, Err: errFake}
			}
			return lane.Outcome{Done: len(b.Recs)}
		}
		p, stop := start(t, config(), sink, log)
		time.Sleep(5 * time.Second)
		retries := p.Status().Retries
		stop()
		if twice := sink.inOrder(t, log, nil); twice != 100 || log.pending() != 0 || retries != 1 {
			t.Errorf("%d twice, %d pending, %d retries; want 100, 0, 1", twice, log.pending(), retries)
		}
	})
}

// One lane's trouble is not another's.
func TestLaneFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		bad, good := log.shard("bad"), log.shard("good")
		bad.put(100, "k")
		good.put(100, "k")
		sink.act = func(b lane.Batch) lane.Outcome {
			if b.Lane.Stream == "bad" {
				return lane.Outcome{Class: lane.Misconfigured, Err: errors.New("no such stream")}
			}
			return lane.Outcome{Done: len(b.Recs)}
		}
		p, stop := start(t, config(), sink, log)
		for range 60 {
			good.put(10, "k")
			time.Sleep(time.Second)
		}
		s := p.Status()
		if n, _ := good.committed(); n != 700 {
			t.Errorf("good lane at %d, want 700", n)
		}
		if n, _ := bad.committed(); n != 0 {
			t.Errorf("bad lane at %d, want 0", n)
		}
		if s.Error != "no such stream" || s.Class != "misconfigured" || s.Waiting.Records != 100 || s.RetryAt.IsZero() {
			t.Errorf("status %+v", s)
		}
		if n := s.Retries; n < 4 || n > 30 {
			t.Errorf("%d tries in a minute; the pauses should grow", n)
		}
		sink.set(nil, nil)
		p.RetryNow()
		time.Sleep(time.Second)
		stop()
		sink.inOrder(t, log, nil)
	})
}

func TestPoisonDoesNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard("s")
		c.put(1000, "k")
		poison := map[record.Pos]bool{{Shard: 1, Seq: 1}: true, {Shard: 1, Seq: 500}: true, {Shard: 1, Seq: 501}: true, {Shard: 1, Seq: 1000}: true}
		sink.act = func(b lane.Batch) lane.Outcome {
			for i, r := range b.Recs {
				if poison[r.Pos] {
					return lane.Outcome{Done: i, Class: lane.Poison, Err: errors.New("too large")}
				}
			}
			return lane.Outcome{Done: len(b.Recs)}
		}
		fails := 3
		log.refuse = func(record.Record) error {
			if fails--; fails >= 0 {
				return record.ErrFull // held back, never skipped
			}
			return nil
		}
		p, stop := start(t, config(), sink, log)
		time.Sleep(time.Minute)
		s := p.Status()
		stop()
		sink.inOrder(t, log, poison)
		if len(log.refused) != 4 || s.Refused != 4 || s.State != "up" || s.Error != "" {
			t.Fatalf("%d refused, status %+v", len(log.refused), s)
		}
		for i, want := range []uint64{1, 500, 501, 1000} {
			r := log.refused[i]
			if r.stream != "s" || r.reason != "too large" || r.rec.Pos.Seq != want || string(r.rec.Data) != fmt.Sprintf(`{"n":%d,"shard":1}`, want) {
				t.Errorf("refused %d: %+v", i, r)
			}
		}
		if n, tally := c.committed(); n != 1000 || tally.Delivered != 996 || tally.Refused != 4 {
			t.Errorf("committed %d, %+v", n, tally)
		}
	})
}

// A copy that the log can never take must not hold the lane up for ever: it is
// made without what may be left out, or not at all.
func TestPoisonThatCannotBeKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard("s")
		c.put(10, "k")
		sink.act = func(b lane.Batch) lane.Outcome {
			if first := b.Recs[0].Pos.Seq; first == 3 || first == 5 {
				return lane.Outcome{Class: lane.Poison, Err: errFake}
			}
			for i, r := range b.Recs {
				if r.Pos.Seq == 3 || r.Pos.Seq == 5 {
					return lane.Outcome{Done: i, Class: lane.Poison, Err: errFake}
				}
			}
			return lane.Outcome{Done: len(b.Recs)}
		}
		log.refuse = func(r record.Record) error {
			if r.Pos.Seq == 5 || r.Attrs != nil {
				return &record.InvalidError{Field: "attributes", Reason: "have too many bytes"}
			}
			return nil
		}
		for i := range c.recs {
			c.recs[i].Attrs = map[string]string{"topic": "long"}
		}
		p, stop := start(t, config(), sink, log)
		time.Sleep(time.Minute)
		s := p.Status()
		stop()
		if n, tally := c.committed(); n != 10 || tally.Delivered != 8 || tally.Refused != 2 {
			t.Errorf("committed %d, %+v", n, tally)
		}
		if len(log.refused) != 1 || log.refused[0].rec.Pos.Seq != 3 || log.refused[0].rec.Attrs != nil || s.State != "up" {
			t.Errorf("kept %+v, status %+v", log.refused, s)
		}
	})
}

// A record of the stream "refused" that is refused again is not copied into
// the stream it came from.
func TestRefusedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard(uplink.RefusedStream)
		c.put(3, "k")
		sink.act = func(lane.Batch) lane.Outcome { return lane.Outcome{Class: lane.Poison, Err: errFake} }
		cfg := config()
		cfg.Streams = []string{"refused"}
		_, stop := start(t, cfg, sink, log)
		time.Sleep(time.Second)
		stop()
		if n, tally := c.committed(); n != 3 || tally.Refused != 3 || len(log.refused) != 0 {
			t.Errorf("committed %d, %+v, %d copied", n, tally, len(log.refused))
		}
	})
}

func TestOfflineThenRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		for range 3 {
			log.shard("s").put(10, "k")
		}
		p, stop := start(t, config(), sink, log)
		time.Sleep(time.Second)
		if s := p.Status(); s.State != "up" {
			t.Fatalf("status %+v", s)
		}
		offline := errors.New("no route to host")
		sink.set(func(lane.Batch) lane.Outcome { return lane.Outcome{Class: lane.Offline, Err: offline} }, func() error { return offline })
		log.cursors[0].put(5, "k")
		time.Sleep(30 * time.Second)
		s := p.Status()
		if s.State != "down" || s.Error != "no route to host" || s.Class != "offline" || s.RetryAt.IsZero() || s.Waiting.Records != 5 || s.ETAKnown {
			t.Errorf("status %+v", s)
		}
		sends := sink.sent()
		for range 3600 {
			log.cursors[1].put(1, "k")
			time.Sleep(time.Second)
		}
		if n := sink.sent(); n != sends {
			t.Errorf("%d Sends into a dead link; a probe is cheaper", n-sends)
		}
		asked := sink.probes()
		for i, at := range asked[1:] {
			if gap := at.Sub(asked[i]); gap > time.Minute {
				t.Errorf("probe %d after %v, want at most 1m", i+1, gap)
			}
		}
		if n := len(sink.probes()); n > 400 {
			t.Errorf("%d probes in an hour", n)
		}
		if s := p.Status(); s.Waiting.Records != 3605 || s.Waiting.Oldest.IsZero() {
			t.Errorf("status %+v", s)
		}
		sink.set(nil, nil)
		up := time.Now()
		time.Sleep(time.Until(p.Status().RetryAt) + time.Second)
		if s := p.Status(); s.State != "up" || s.Waiting.Records != 0 || s.Since.Before(up) {
			t.Errorf("a second after the probe: %+v", s)
		}
		stop()
		if twice := sink.inOrder(t, log, nil); twice != 0 {
			t.Errorf("%d twice", twice)
		}
	})
}

func TestRetryNowAndCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		log.shard("s").put(10, "k")
		sink.set(nil, func() error { return errFake })
		cfg := config()
		cfg.RetryMax = conf.Duration(5 * time.Minute)
		p, stop := start(t, cfg, sink, log)
		time.Sleep(time.Hour)
		longest := time.Duration(0)
		asked := sink.probes()
		for i, at := range asked[1:] {
			longest = max(longest, at.Sub(asked[i]))
		}
		if longest < time.Minute || longest > 5*time.Minute {
			t.Errorf("longest pause %v, want between 1m and 5m", longest)
		}
		if sink.sent() != 0 {
			t.Errorf("%d Sends before the target was reached", sink.sent())
		}
		sink.set(nil, nil)
		p.RetryNow()
		time.Sleep(time.Second)
		stop()
		sink.inOrder(t, log, nil)
	})
}

// A target that takes a request and never answers is found out by a probe.
func TestSilentLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		log.shard("s").put(10, "k")
		sink.delay = 30 * time.Second
		silent := func(lane.Batch) lane.Outcome { return lane.Outcome{Class: lane.Ambiguous, Err: errFake} }
		sink.set(silent, nil)
		p, stop := start(t, config(), sink, log)
		time.Sleep(10 * time.Second)
		sink.set(silent, func() error { return &lane.Error{Class: lane.Ambiguous, Text: "no answer"} })
		time.Sleep(2 * time.Minute)
		if s := p.Status(); s.State != "down" || s.Class != "offline" {
			t.Errorf("status %+v", s)
		}
		if sink.sent() != 2 || len(sink.probes()) < 4 {
			t.Errorf("%d sends, %d probes", sink.sent(), len(sink.probes()))
		}
		stop()
	})
}

// Throttled lanes send less at a time, and more again later.
func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard("s")
		c.put(40_000, "k")
		const most = 2000 // bytes at a time
		limit := true
		sink.act = func(b lane.Batch) lane.Outcome {
			n := 0
			for _, r := range b.Recs {
				n += len(r.Data)
			}
			if limit && n > most {
				return lane.Outcome{Class: lane.Throttled, Err: errors.New("rate exceeded"), RetryAfter: 200 * time.Millisecond}
			}
			return lane.Outcome{Done: len(b.Recs)}
		}
		p, stop := start(t, config(), sink, log)
		time.Sleep(time.Minute)
		n, _ := c.committed()
		if s := p.Status(); n == 0 || (s.State == "throttled") != (s.Class == "throttled") {
			t.Errorf("%d committed, status %+v", n, s)
		}
		before := sink.sent()
		sink.mu.Lock()
		limit = false
		sink.mu.Unlock()
		time.Sleep(20 * time.Second)
		s := p.Status()
		stop()
		sink.inOrder(t, log, nil)
		if s.State != "up" {
			t.Errorf("status %+v", s)
		}
		if n := sink.sent() - before; n > 40 {
			t.Errorf("%d sends after the throttle ended; batches should have grown", n)
		}
	})
}

func TestLossIsPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard("s")
		c.put(1000, "k")
		c.first = 101
		c.broken = map[uint64]error{500: &record.CorruptError{File: "f", Shard: 1, From: 500, To: 501}}
		_, stop := start(t, config(), sink, log)
		time.Sleep(5 * time.Second)
		stop()
		gone := map[record.Pos]bool{{Shard: 1, Seq: 500}: true}
		for i := range uint64(100) {
			gone[record.Pos{Shard: 1, Seq: i + 1}] = true
		}
		sink.inOrder(t, log, gone)
		if n, tally := c.committed(); n != 1000 || tally.Delivered != 899 {
			t.Errorf("committed %d, %+v", n, tally)
		}
	})
}

func TestReadErrorsAndLostCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard("s")
		c.put(10, "k")
		c.noCmt = errFake
		_, stop := start(t, config(), sink, log)
		time.Sleep(time.Second)
		c.mu.Lock()
		c.readErr = errFake
		c.mu.Unlock()
		c.put(5, "k")
		time.Sleep(10 * time.Second)
		c.mu.Lock()
		c.readErr, c.noCmt = nil, nil
		c.mu.Unlock()
		time.Sleep(5 * time.Second)
		stop()
		sink.inOrder(t, log, nil)
		if n, tally := c.committed(); n != 15 || tally.Delivered != 15 {
			t.Errorf("committed %d, %+v; the lost Commit belongs to the next", n, tally)
		}
	})
}

// Streams that appear later are handed on; those the config leaves out, and
// shards that ended, are not asked again.
func TestLanesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		out := log.shard("debug-x")
		out.put(5, "k")
		ends := log.shard("line-1")
		ends.put(5, "k")
		ends.end()
		cfg := config()
		cfg.Streams = []string{"line-*", "mqtt"}
		p, stop := start(t, cfg, sink, log)
		time.Sleep(10 * time.Second)
		if s := p.Status(); s.Lanes != 0 || s.Delivered != 5 {
			t.Errorf("status %+v", s)
		}
		late := log.shard("mqtt")
		late.put(5, "k")
		time.Sleep(10 * time.Second)
		stop()
		if n, _ := late.committed(); n != 5 {
			t.Errorf("late stream at %d", n)
		}
		if n, _ := out.committed(); n != 0 {
			t.Errorf("stream outside the config at %d", n)
		}
	})
}

// What is under way at a stop is waited for; nothing goes twice at a restart.
func TestStopAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard("s")
		c.put(100_000, "k")
		sink.delay = time.Second
		for range 10 {
			_, stop := start(t, config(), sink, log)
			time.Sleep(1500 * time.Millisecond)
			stop()
			c.restart()
		}
		_, stop := start(t, config(), sink, log)
		time.Sleep(20 * time.Second)
		stop()
		if twice := sink.inOrder(t, log, nil); twice != 0 {
			t.Errorf("%d twice", twice)
		}
	})
}

// A Send that hangs does not hold up a stop for more than its grace.
func TestStopCutsAHangingSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		log.shard("s").put(1, "k")
		sink.delay = time.Hour
		_, stop := start(t, config(), sink, log)
		time.Sleep(time.Second)
		begin := time.Now()
		stop()
		if d := time.Since(begin); d > 6*time.Second {
			t.Errorf("stop took %v", d)
		}
	})
}

// A trickle on many lanes shares requests, and waits no longer than two lingers.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		for range 20 {
			log.shard("s")
		}
		_, stop := start(t, config(), sink, log)
		time.Sleep(time.Second)
		for range 1000 {
			for _, c := range log.cursors {
				c.put(1, "k")
				time.Sleep(time.Millisecond)
			}
		}
		time.Sleep(110 * time.Millisecond)
		if n := log.pending(); n != 0 {
			t.Errorf("%d records wait longer than the linger", n)
		}
		stop()
		sink.inOrder(t, log, nil)
		if n := sink.sent(); n > 300 {
			t.Errorf("%d sends in 20 s; lanes should share them", n)
		}
		for _, s := range sink.sends {
			for _, b := range s {
				if b.Backlog {
					t.Fatalf("a trickle of %d records is called a backlog", len(b.Recs))
				}
			}
		}
	})
}

func TestETA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard("s")
		sink.delay = time.Second
		sink.act = func(b lane.Batch) lane.Outcome { // takes 1000 records a second
			n := min(len(b.Recs), 1000)
			if n == len(b.Recs) {
				return lane.Outcome{Done: n}
			}
			return lane.Outcome{Done: n, Class: lane.Transient, Err: errFake}
		}
		c.put(100_000, "k")
		p, stop := start(t, config(), sink, log)
		stopArrivals := make(chan struct{})
		go func() {
			for {
				select {
				case <-stopArrivals:
					return
				case <-time.After(time.Second):
					c.put(200, "k")
				}
			}
		}()
		time.Sleep(40 * time.Second)
		s := p.Status()
		begin := time.Now()
		for log.pending() > 1000 {
			time.Sleep(time.Second)
		}
		took := time.Since(begin)
		close(stopArrivals)
		if !s.ETAKnown || math.Abs(s.ETA.Seconds()/took.Seconds()-1) > 0.2 {
			t.Errorf("said %v (%v), took %v", s.ETA, s.ETAKnown, took)
		}
		stop()
	})
}

func TestIdleProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newSink(t)
		p, stop := start(t, config(), sink, newLog(t))
		time.Sleep(10 * time.Minute)
		if n := len(sink.probes()); n < 9 || n > 12 {
			t.Errorf("%d probes of an idle link in 10 minutes", n)
		}
		sink.set(nil, func() error { return errFake })
		time.Sleep(2 * time.Minute)
		if s := p.Status(); s.State != "down" || !strings.Contains(s.Error, "fake") {
			t.Errorf("status %+v", s)
		}
		stop()
	})
}

// Refused credentials are shown, hold nothing back for good, and end for all
// lanes when they end for one.
func TestAuth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		refused := authError{}
		sink.set(func(lane.Batch) lane.Outcome { return lane.Outcome{Class: lane.Auth, Err: refused} }, func() error { return refused })
		p, stop := start(t, config(), sink, log)
		time.Sleep(time.Second)
		if s := p.Status(); s.State != "down" || s.Class != "auth" || sink.sent() != 0 {
			t.Errorf("idle: %+v", s)
		}
		for range 10 {
			log.shard("s").put(10, "k")
		}
		time.Sleep(time.Hour)
		if s := p.Status(); s.State != "down" || s.Class != "auth" || s.Error != refused.Error() || s.RetryAt.IsZero() {
			t.Errorf("busy: %+v", s)
		}
		if n := sink.sent(); n < 60 || n > 2000 {
			t.Errorf("%d sends in an hour", n)
		}
		sink.set(nil, nil)
		time.Sleep(time.Minute)
		if s := p.Status(); s.State != "up" || s.Error != "" || s.Waiting.Records != 0 {
			t.Errorf("after: %+v", s)
		}
		stop()
		sink.inOrder(t, log, nil)
	})
}

type authError struct{}

func (authError) Error() string         { return "credentials refused" }
func (authError) LaneClass() lane.Class { return lane.Auth }
