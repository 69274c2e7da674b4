package uplink_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/kinesis"
	"forebay/uplink/lane"
)

// realPump runs a pump with the real Kinesis sink against a cloud.
func realPump(t *testing.T, c *cloud, log *memLog, k kinesis.Config) (p *uplink.Pump, stop func()) {
	t.Helper()
	cfg := uplink.Config{ID: "cloud", Linger: conf.Duration(time.Millisecond), RetryMax: conf.Duration(time.Second), Kinesis: kinesisConfig(c, k)}
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	sink, err := uplink.New(cfg, lane.Home{ID: identity, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	p = uplink.NewPump(cfg, sink, log, uplink.Options{Logger: quiet})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return p, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := sink.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// until polls for a condition with a deadline.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// checkArrived wants each lane's records, first occurrences in order, none
// missing but the refused; it gives how many came twice.
func checkArrived(t *testing.T, c *cloud, log *memLog, target string) (twice int) {
	t.Helper()
	next := make(map[string]uint64)
	refused := make(map[record.Pos]bool)
	for _, r := range log.refused {
		refused[r.rec.Pos] = true
	}
	skip := func(shard record.ShardID, n uint64) uint64 {
		for refused[record.Pos{Shard: shard, Seq: n}] {
			n++
		}
		return n
	}
	for _, r := range c.all(target) {
		var shard record.ShardID
		var seq uint64
		if _, err := fmt.Sscanf(r.ID, "edge-07/0000000000001234/%d/%d", &shard, &seq); err != nil {
			t.Fatalf("id %q: %v", r.ID, err)
		}
		lane := fmt.Sprint(shard)
		want := skip(shard, next[lane]+1)
		switch {
		case seq == want:
			next[lane] = seq
		case seq < want:
			twice++
		default:
			t.Fatalf("lane %s: record %d came before %d", lane, seq, want)
		}
	}
	for _, cur := range log.cursors {
		if got := skip(cur.lane.Shard, next[fmt.Sprint(cur.lane.Shard)]+1) - 1; got != uint64(len(cur.recs)) {
			t.Errorf("lane %d: %d of %d records arrived", cur.lane.Shard, got, len(cur.recs))
		}
	}
	return twice
}

// Sixty thousand records through a cloud that fails entries, answers 500
// after the commit, cuts before and after it, throttles, and shows a captive
// portal's page; two restarts of the pump in between.
func TestChaos(t *testing.T) {
	c, log := newCloud(t), newLog(t)
	c.add(3)
	for i := range 5 {
		log.shard([]string{"mqtt", "alarms"}[i%2]).put(12_000, fmt.Sprintf("press-%d/temp", i))
	}
	log.cursors[2].recs[1234].Data = []byte(`"<<invalid>>"`)
	log.cursors[3].recs[0].Data = make([]byte, 1<<20)
	rng := rand.New(rand.NewPCG(11, 12))
	faults := []string{"entries", "500 after", "cut after", "cut before", "throttle", "503", "html", "short answer", "busy shards", "redirect"}
	c.misbehave(func(op string) string {
		if rng.IntN(100) < 15 && op == "PutRecords" {
			return faults[rng.IntN(len(faults))]
		}
		return ""
	})
	for run := range 3 {
		_, stop := realPump(t, c, log, kinesis.Config{MaxRecord: 32 << 10})
		until(t, "records are still waiting", func() bool { return log.pending() <= uint64(40_000-20_000*run) })
		stop()
		for _, cur := range log.cursors {
			cur.restart()
		}
	}
	twice := checkArrived(t, c, log, "target")
	if log.pending() != 0 || len(log.refused) != 2 {
		t.Errorf("%d pending, %d refused; want 0 and 2", log.pending(), len(log.refused))
	}
	t.Logf("60000 records, %d came twice, %d PutRecords", twice, c.requests["PutRecords"])
}

// A wrong clock costs one request, and is shown.
func TestClockSkew(t *testing.T) {
	for _, skew := range []time.Duration{24 * time.Hour, -24 * time.Hour, 10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour} {
		c, log := newCloud(t), newLog(t)
		c.add(1)
		c.skew = skew
		log.shard("s").put(100, "k")
		p, stop := realPump(t, c, log, kinesis.Config{})
		until(t, "records are still waiting", func() bool { return log.pending() == 0 })
		if d := p.Status().ClockOffset - skew; d < -3*time.Second || d > 3*time.Second {
			t.Errorf("offset %v, want %v", p.Status().ClockOffset, skew)
		}
		stop()
		if twice := checkArrived(t, c, log, "target"); twice != 0 {
			t.Errorf("%d twice", twice)
		}
	}
}

// Each local stream may have a target of its own, created when it is missing.
func TestTargetPerStream(t *testing.T) {
	c, log := newCloud(t), newLog(t)
	log.shard("mqtt").put(10, "k")
	log.shard("alarms").put(20, "k")
	_, stop := realPump(t, c, log, kinesis.Config{Stream: "site-{stream}", CreateShards: 2})
	until(t, "records are still waiting", func() bool { return log.pending() == 0 })
	stop()
	if m, a := len(c.all("site-mqtt")), len(c.all("site-alarms")); m != 10 || a != 20 {
		t.Errorf("%d and %d records, want 10 and 20", m, a)
	}
	if c.requests["CreateStream"] != 2 {
		t.Errorf("%d CreateStream", c.requests["CreateStream"])
	}
}

// A current lane costs one PUT unit a record; a backlog travels in large ones.
func TestUnits(t *testing.T) {
	c, log := newCloud(t), newLog(t)
	c.add(1)
	cur := log.shard("s")
	cur.put(20_000, "press-1/temp")
	_, stop := realPump(t, c, log, kinesis.Config{})
	until(t, "records are still waiting", func() bool { return log.pending() == 0 })
	backlog := len(c.units)
	cur.put(40, "press-1/temp")
	until(t, "records are still waiting", func() bool { return log.pending() == 0 })
	stop()
	largest := 0
	for _, u := range c.units[:backlog] {
		largest = max(largest, u.size)
		if u.size > 1<<20 {
			t.Errorf("a record of %d bytes", u.size)
		}
	}
	if largest < 256<<10 {
		t.Errorf("the largest record of a backlog has %d bytes", largest)
	}
	for _, u := range c.units[backlog:] {
		if u.size >= 25_000 {
			t.Errorf("a current record of %d bytes", u.size)
		}
	}
}

func TestRefusesATargetWithoutOrder(t *testing.T) {
	c, log := newCloud(t), newLog(t)
	c.add(1)
	c.auto = true
	log.shard("s").put(10, "k")
	p, stop := realPump(t, c, log, kinesis.Config{})
	until(t, "no error is shown", func() bool { return strings.Contains(p.Status().Error, "USER_PARTITION_KEY") })
	s := p.Status()
	stop()
	if s.Class != "misconfigured" || log.pending() != 10 || c.requests["PutRecords"] != 0 {
		t.Errorf("status %+v, %d pending", s, log.pending())
	}
}
