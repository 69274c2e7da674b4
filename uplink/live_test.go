package uplink_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/aws"
	"forebay/uplink/kafka"
	"forebay/uplink/kinesis"
	"forebay/uplink/lane"
	"forebay/uplink/shape"
)

// A liveLog is a memLog whose newest records can be read first. What is saved
// goes through JSON, as in a file.
type liveLog struct {
	*memLog
	mu   sync.Mutex
	kept []byte
	fail error
}

// disk is what is kept now.
func (l *liveLog) disk() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.kept)
}

func (l *liveLog) Follow(ln lane.Lane, from uint64) (uplink.Follower, error) {
	for _, c := range l.cursors {
		if c.lane == ln {
			c.mu.Lock()
			defer c.mu.Unlock()
			if from == 0 {
				from = uint64(len(c.recs)) + 1
			}
			return &follower{c: c, pos: from}, nil
		}
	}
	return nil, record.ErrNoShard
}

func (l *liveLog) LoadAhead() (a []uplink.Ahead, err error) {
	if b := l.disk(); len(b) > 0 {
		err = json.Unmarshal(b, &a)
	}
	return a, err
}

func (l *liveLog) SaveAhead(a []uplink.Ahead) error {
	b, err := json.Marshal(a)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	l.kept = b
	return err
}

type follower struct {
	c   *memCursor
	pos uint64
}

func (f *follower) Pos() uint64  { return f.pos }
func (f *follower) Close() error { return nil }

func (f *follower) Poll(_ context.Context, most int) (b record.Batch, err error) {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	for f.pos <= uint64(len(f.c.recs)) && len(b.Recs) < most {
		if f.c.holes[f.pos] {
			if len(b.Recs) > 0 {
				break
			}
			f.pos++
			return b, &record.CorruptError{From: f.pos - 1, To: f.pos}
		}
		b.Recs = append(b.Recs, f.c.recs[f.pos-1])
		f.pos++
	}
	return b, nil
}

// damage makes the holes that the cursor has not passed be told, again.
func (c *memCursor) damage() {
	c.broken = map[uint64]error{}
	for seq := range c.holes {
		if seq > c.done {
			c.broken[seq] = &record.CorruptError{Shard: c.lane.Shard, From: seq, To: seq + 1}
		}
	}
}

// age makes what is in a shard as old as an outage.
func (c *memCursor) age(d time.Duration) {
	for i := range c.recs {
		c.recs[i].Arrived = c.recs[i].Arrived.Add(-d)
	}
}

func liveConfig() uplink.Config {
	cfg := config()
	cfg.Order = uplink.OrderLive
	return cfg
}

// The newest records are there within two seconds while a backlog drains
// behind them over a slow link; nothing comes twice, and in the end one cursor
// has counted everything.
func TestLiveFirst(t *testing.T) {
	for _, order := range []string{uplink.OrderLive, uplink.OrderOldest} {
		synctest.Test(t, func(t *testing.T) {
			log, sink := &liveLog{memLog: newLog(t)}, newPipe(800, 100*time.Millisecond)
			for range 3 {
				c := log.classed("s", record.ClassTelemetry)
				c.fat(5000, 1000)
				c.age(time.Hour)
			}
			cfg := liveConfig()
			cfg.Order = order
			p, stop := startWith(t, cfg, sink, log, uplink.Options{})
			time.Sleep(5 * time.Second)
			begin := time.Now()
			for range 100 {
				for _, c := range log.cursors {
					c.fat(1, 500)
				}
				time.Sleep(500 * time.Millisecond)
			}
			s := p.Status()
			if s.Waiting.Records > 14_000 || s.Waiting.Records < 5000 || s.Waiting.Oldest.After(begin) {
				t.Errorf("%s: while it drains: %+v", order, s.Waiting)
			}
			time.Sleep(5 * time.Second)
			late, all := 0, 0
			sink.mu.Lock()
			for pos, took := range sink.took {
				if pos.Seq > 5000 {
					if all++; took > 2*time.Second {
						late++
					}
				}
			}
			sink.mu.Unlock()
			if live := order == uplink.OrderLive; live && (all != 300 || late > 3) || !live && all != 0 {
				t.Errorf("%s: %d of 300 came before the backlog, %d of them after more than 2 s", order, all, late)
			}
			time.Sleep(5 * time.Minute)
			s = p.Status()
			stop()
			for _, c := range log.cursors {
				if n, tally := c.committed(); n != 5100 || tally.Delivered != 5100 || sink.done[c.lane.Shard] != 5100 {
					t.Errorf("%s: cursor at %d, %+v, %d came", order, n, tally, sink.done[c.lane.Shard])
				}
			}
			if s.Delivered != 15_300 || s.Waiting.Records != 0 {
				t.Errorf("%s: %+v", order, s)
			}
			if a, err := log.LoadAhead(); err != nil || len(a) != 0 {
				t.Errorf("%s: ahead in the end: %+v, %v", order, a, err)
			}
		})
	}
}

// Streams that keep their order do, whatever the uplink's order is; so does a
// stream that has not fallen behind.
func TestLiveFirstKeepsOrderOfAlarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := &liveLog{memLog: newLog(t)}, newSink(t)
		for _, c := range []record.Class{record.ClassAlarm, record.ClassEvidence, record.ClassAudit} {
			cur := log.classed(c.String(), c)
			cur.put(500, "k")
			cur.age(time.Hour)
		}
		log.classed("new", record.ClassTelemetry).put(500, "k")
		sink.act = func(b lane.Batch) lane.Outcome {
			return lane.Outcome{Done: min(len(b.Recs), 7), Class: lane.Transient, Err: errFake}
		}
		_, stop := startWith(t, liveConfig(), sink, log, uplink.Options{})
		for range 100 {
			for _, c := range log.cursors {
				c.put(1, "k")
			}
			time.Sleep(time.Second)
		}
		sink.set(nil, nil)
		time.Sleep(time.Minute)
		stop()
		sink.inOrder(t, log.memLog, nil)
	})
}

// parts checks what came of a lane: each part rises by itself, no record is
// missing. It gives how many came twice, and how many parts there were at most.
func parts(t *testing.T, took []uint64, n uint64, except map[uint64]bool) (twice, jumps int) {
	t.Helper()
	seen := map[uint64]bool{}
	last := uint64(0)
	for _, seq := range took {
		if seen[seq] {
			twice++
		}
		if seq < last {
			jumps++
		}
		seen[seq], last = true, seq
	}
	for seq := uint64(1); seq <= n; seq++ {
		if !seen[seq] && !except[seq] {
			t.Fatalf("record %d of %d did not come", seq, n)
		}
	}
	return twice, jumps
}

// Failures of every kind, poison, damage in the live part, outages during it,
// restarts in order and crashes: no record is lost, the tallies are right, and
// nothing comes twice but after a crash.
func TestLiveFirstThroughTrouble(t *testing.T) {
	for seed := range uint64(12) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 5))
			log, sink := &liveLog{memLog: newLog(t)}, newSink(t)
			for range 3 {
				c := log.classed("s", record.ClassTelemetry)
				c.put(3000, "k")
				c.age(time.Hour)
				c.holes = map[uint64]bool{3100: true, 3500: true}
				c.damage()
			}
			poison := func(seq uint64) bool { return seq%97 == 0 }
			down := false
			sink.act = func(b lane.Batch) lane.Outcome {
				if down {
					return lane.Outcome{Class: lane.Offline, Err: errFake}
				}
				n := min(len(b.Recs), 60) // a slow target
				out := lane.Outcome{Done: n}
				if n < len(b.Recs) {
					out.Class, out.Err = lane.Throttled, errFake
				}
				if rng.IntN(5) == 0 {
					out.Done = rng.IntN(n)
					out.Class, out.Err = []lane.Class{lane.Throttled, lane.Transient}[rng.IntN(2)], errFake
				}
				for i, r := range b.Recs[:out.Done] {
					if poison(r.Pos.Seq) {
						return lane.Outcome{Done: i, Class: lane.Poison, Err: errors.New("never")}
					}
				}
				return out
			}
			crashes := seed%2 == 1
			cfg := liveConfig()
			cfg.LiveAfter = conf.Duration(5 * time.Second)
			for range 6 {
				_, stop := startWith(t, cfg, sink, log, uplink.Options{})
				for i := range 20 {
					for _, c := range log.cursors {
						c.put(10, "k")
					}
					if i == 8 {
						sink.mu.Lock()
						down = true
						sink.mu.Unlock()
					}
					if i == 14 {
						sink.mu.Lock()
						down = false
						sink.mu.Unlock()
					}
					time.Sleep(time.Second)
				}
				kept := log.disk()
				stop()
				if crashes {
					log.kept = kept // what was on disk before
				}
				for _, c := range log.cursors {
					c.restart()
					c.damage()
				}
			}
			_, stop := startWith(t, cfg, sink, log, uplink.Options{})
			time.Sleep(20 * time.Minute)
			stop()
			for _, c := range log.cursors {
				n := uint64(len(c.recs))
				lost, refused := map[uint64]bool{3100: true, 3500: true}, uint64(0)
				for seq := uint64(1); seq <= n; seq++ {
					if poison(seq) {
						lost[seq] = true
						refused++
					}
				}
				twice, jumps := parts(t, sink.took[c.lane.Shard], n, lost)
				if twice > 0 && !crashes {
					t.Errorf("seed %d: %d came twice after stops in order", seed, twice)
				}
				if jumps == 0 {
					t.Errorf("seed %d: nothing went ahead", seed)
				}
				at, tally := c.committed()
				if at != n || tally.Refused != refused || tally.Delivered != n-refused-2 {
					t.Errorf("seed %d: cursor at %d of %d, %+v; %d are poison", seed, at, n, tally, refused)
				}
			}
			if a, err := log.LoadAhead(); err != nil || len(a) != 0 {
				t.Errorf("seed %d: ahead in the end: %+v, %v", seed, a, err)
			}
		})
	}
}

// What the reader of the newest records cannot read, and the cursor can, is
// delivered with the backlog: it does not count as delivered ahead.
func TestLiveFirstDeliversWhatItCouldNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := &liveLog{memLog: newLog(t)}, newSink(t)
		c := log.classed("s", record.ClassTelemetry)
		c.put(3000, "k")
		c.age(time.Hour)
		c.holes = map[uint64]bool{3025: true, 3026: true, 3050: true}
		sink.act = func(b lane.Batch) lane.Outcome { // a slow target
			if n := min(len(b.Recs), 60); n < len(b.Recs) {
				return lane.Outcome{Done: n, Class: lane.Throttled, Err: errFake}
			}
			return lane.Outcome{Done: len(b.Recs)}
		}
		_, stop := startWith(t, liveConfig(), sink, log, uplink.Options{})
		for range 20 {
			c.put(10, "k")
			time.Sleep(time.Second)
		}
		time.Sleep(20 * time.Minute)
		stop()
		if twice, jumps := parts(t, sink.took[c.lane.Shard], uint64(len(c.recs)), nil); twice != 0 || jumps == 0 {
			t.Errorf("%d came twice, %d jumps", twice, jumps)
		}
		if at, tally := c.committed(); at != uint64(len(c.recs)) || tally.Delivered != at {
			t.Errorf("cursor at %d of %d, %+v", at, len(c.recs), tally)
		}
	})
}

// Where what lies ahead cannot be kept, or is of another spool, nothing is
// lost: it goes out again.
func TestLiveFirstWithoutItsFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := &liveLog{memLog: newLog(t), fail: errFake}, newPipe(800, time.Millisecond)
		c := log.classed("s", record.ClassTelemetry)
		c.fat(3000, 1000)
		c.age(time.Hour)
		_, stop := startWith(t, liveConfig(), sink, log, uplink.Options{})
		for range 10 {
			c.fat(1, 500)
			time.Sleep(time.Second)
		}
		stop()
		c.restart()
		log.fail, log.kept = nil, nil
		_, stop = startWith(t, liveConfig(), sink, log, uplink.Options{})
		time.Sleep(5 * time.Minute)
		stop()
		if n, tally := c.committed(); n != 3010 || tally.Delivered != 3010 || sink.done[1] <= 3010 || sink.done[1] > 3020 {
			t.Errorf("cursor at %d, %+v, %d came; want 3010 and up to 10 of them twice", n, tally, sink.done[1])
		}
	})
}

// A log that cannot be read so goes on with the oldest.
func TestLiveFirstNeedsALog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.classed("s", record.ClassTelemetry)
		c.put(1000, "k")
		c.age(time.Hour)
		var said strings.Builder
		p := uplink.NewPump(liveConfig(), sink, log, uplink.Options{Logger: slog.New(slog.NewTextHandler(&said, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		time.Sleep(time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		sink.inOrder(t, log, nil)
		if !strings.Contains(said.String(), "cannot be read live-first") {
			t.Error(said.String())
		}
	})
}

func TestOrderCheck(t *testing.T) {
	for order, ok := range map[string]bool{"": true, "oldest": true, "live-first": true, "newest": false} {
		cfg := uplink.Config{ID: "x", Order: order, Kinesis: &kinesis.Config{Stream: "s", Access: aws.Access{Region: "eu-central-1"}}}
		if err := cfg.Check(); (err == nil) != ok {
			t.Errorf("%q: %v", order, err)
		}
	}
	shaped := uplink.Config{ID: "x", Order: "live-first", Kinesis: &kinesis.Config{Stream: "s", Access: aws.Access{Region: "eu-central-1"}}, Shape: []shape.Config{{}}}
	if err := shaped.Check(); err == nil || !strings.HasPrefix(err.Error(), "order: ") {
		t.Errorf("with a shape: %v", err)
	}
	watermarks := uplink.Config{ID: "x", Order: "live-first", Kafka: &kafka.Config{Brokers: []string{"127.0.0.1:9092"}, Topic: "t"}}
	if err := watermarks.Check(); err == nil || !strings.HasPrefix(err.Error(), "order: ") {
		t.Errorf("to kafka: %v", err)
	}
	cfg := uplink.Config{ID: "x", LiveAfter: conf.Duration(time.Millisecond), Kinesis: &kinesis.Config{Stream: "s"}}
	if err := cfg.Check(); err == nil || !strings.HasPrefix(err.Error(), "live_after: ") {
		t.Error(fmt.Sprint(err))
	}
}
