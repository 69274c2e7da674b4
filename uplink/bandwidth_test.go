package uplink_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/lane"
)

// A pipe is a far side behind a link of so many bytes a second and so long a
// way; Sends that are under way at the same time share it, one packet each by
// turns.
type pipe struct {
	rate   float64
	way    time.Duration // there and back
	packet int

	mu     sync.Mutex
	active int
	bytes  []int       // of each packet
	at     []time.Time // when it had passed
	took   map[record.Pos]time.Duration
	done   map[record.ShardID]uint64
}

func newPipe(kbit float64, way time.Duration) *pipe {
	return &pipe{rate: kbit * 125, way: way, packet: 1500, took: map[record.Pos]time.Duration{}, done: map[record.ShardID]uint64{}}
}

func (p *pipe) Send(_ context.Context, lanes []lane.Batch) []lane.Outcome {
	out := make([]lane.Outcome, len(lanes))
	p.mu.Lock()
	p.active++
	p.mu.Unlock()
	for i, b := range lanes {
		for _, r := range b.Recs {
			out[i].Bytes += len(r.Data)
		}
		for left := out[i].Bytes; left > 0; left -= p.packet {
			n := min(left, p.packet)
			p.mu.Lock()
			d := time.Duration(float64(n*p.active) / p.rate * float64(time.Second))
			p.mu.Unlock()
			time.Sleep(d)
			p.mu.Lock()
			p.bytes, p.at = append(p.bytes, n), append(p.at, time.Now())
			p.mu.Unlock()
		}
	}
	p.mu.Lock()
	p.active--
	p.mu.Unlock()
	p.mu.Lock()
	way := p.way
	p.mu.Unlock()
	time.Sleep(way)
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, b := range lanes {
		out[i].Done = len(b.Recs)
		for _, r := range b.Recs {
			p.took[r.Pos] = time.Since(r.Arrived)
		}
		p.done[b.Lane.Shard] += uint64(len(b.Recs))
	}
	return out
}

func (p *pipe) Close() error { return nil }

// between counts the bytes that passed in a span of time.
func (p *pipe) between(from, to time.Time) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, at := range p.at {
		if !at.Before(from) && at.Before(to) {
			n += p.bytes[i]
		}
	}
	return n
}

// late is how many of a shard's records took longer than d, and how many came.
func (p *pipe) late(shard record.ShardID, d time.Duration) (late, all int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pos, took := range p.took {
		if pos.Shard != shard {
			continue
		}
		if all++; took > d {
			late++
		}
	}
	return late, all
}

// fat makes a shard's records large.
func (c *memCursor) fat(n, size int) {
	data := []byte(strings.Repeat("x", size))
	c.mu.Lock()
	defer c.mu.Unlock()
	for range n {
		c.recs = append(c.recs, record.Record{Key: "k", Arrived: time.Now(), Pos: record.Pos{Shard: c.lane.Shard, Seq: uint64(len(c.recs) + 1)}, Data: data})
	}
	c.wakeUp()
}

func (l *memLog) classed(stream string, c record.Class) *memCursor {
	cur := l.shard(stream)
	cur.class = c
	return cur
}

// startWith is start with options.
func startWith(t *testing.T, cfg uplink.Config, sink uplink.Sink, log uplink.Log, opts uplink.Options) (*uplink.Pump, func()) {
	t.Helper()
	opts.Logger = slog.New(slog.DiscardHandler)
	p := uplink.NewPump(cfg, sink, log, opts)
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

// Alarms beside a backlog: 99 of 100 are there within two seconds, whether a
// cap or the link itself is what holds the backlog up; and the backlog uses
// what there is.
func TestAlarmsPassABacklog(t *testing.T) {
	for _, c := range []struct {
		name      string
		linkKbit  float64
		way       time.Duration
		limitKbit int
		lanes     int
		used      float64 // share of link or cap
		long      bool    // not in the short form
	}{
		{"cap of 8 Mbit/s", 100_000, 20 * time.Millisecond, 8000, 4, 0.95, true},
		{"cap of 8 Mbit/s, one lane", 100_000, 20 * time.Millisecond, 8000, 1, 0.95, false},
		{"cap of 256 kbit/s", 100_000, 20 * time.Millisecond, 256, 4, 0.95, false},
		{"link of 256 kbit/s", 256, 100 * time.Millisecond, 0, 4, 0.85, true},
		{"link of 8 Mbit/s", 8000, 50 * time.Millisecond, 0, 4, 0.9, false},
		{"link of 2 Mbit/s, 200 ms", 2000, 200 * time.Millisecond, 0, 4, 0.9, true},
		{"link of 2 Mbit/s, 600 ms", 2000, 600 * time.Millisecond, 0, 4, 0.6, true},
		{"link of 2 Mbit/s, 200 ms, 40 lanes", 2000, 200 * time.Millisecond, 0, 40, 0.9, false},
	} {
		if c.long && testing.Short() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, sink := newLog(t), newPipe(c.linkKbit, c.way)
				alarm := log.classed("alarms", record.ClassAlarm)
				for i := range c.lanes {
					log.classed(fmt.Sprint("s", i), record.ClassTelemetry).fat(120_000/c.lanes, 1000)
				}
				evidence := log.classed("evidence", record.ClassEvidence)
				evidence.fat(1000, 1000)
				cp, err := uplink.NewCap(uplink.Bandwidth{LimitKbit: c.limitKbit}, nil)
				if err != nil {
					t.Fatal(err)
				}
				p, stop := startWith(t, config(), sink, log, uplink.Options{Cap: cp})
				time.Sleep(10 * time.Second)
				from := time.Now()
				for range 100 {
					alarm.fat(1, 500)
					time.Sleep(300 * time.Millisecond)
				}
				to := time.Now()
				s := p.Status()
				rate := c.linkKbit
				if c.limitKbit > 0 {
					rate = float64(c.limitKbit)
				}
				whole := rate * 125 * to.Sub(from).Seconds()
				if n := float64(sink.between(from, to)); n < c.used*whole || n > 1.1*whole {
					t.Errorf("%.0f bytes in %v, want %.0f%% to 110%% of %.0f", n, to.Sub(from), 100*c.used, whole)
				}
				time.Sleep(5 * time.Second)
				if late, all := sink.late(alarm.lane.Shard, 2*time.Second); late > 1 || all != 100 {
					t.Errorf("%d of %d alarms took more than 2 s", late, all)
				}
				if s.State != "up" || s.Waiting.Records == 0 || s.Capped != (c.limitKbit > 0) || s.LimitKbit != c.limitKbit {
					t.Errorf("status %+v", s)
				}
				if n, _ := evidence.committed(); n != 1000 && c.limitKbit != 256 && c.linkKbit != 256 {
					t.Errorf("evidence is at %d of 1000; it goes before the rest", n)
				}
				stop()
			})
		})
	}
}

// A link whose way becomes longer while it is up is used again after a while.
func TestALongerWayIsLearnt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newPipe(2000, 50*time.Millisecond)
		for range 4 {
			log.classed("s", record.ClassTelemetry).fat(20_000, 1000)
		}
		_, stop := startWith(t, config(), sink, log, uplink.Options{})
		for _, c := range []struct {
			way  time.Duration
			used float64
		}{{50 * time.Millisecond, 0.9}, {900 * time.Millisecond, 0.5}, {50 * time.Millisecond, 0.9}} {
			sink.mu.Lock()
			sink.way = c.way
			sink.mu.Unlock()
			time.Sleep(time.Minute)
			from := time.Now()
			time.Sleep(30 * time.Second)
			if n := float64(sink.between(from, time.Now())) / (30 * 250_000); n < c.used {
				t.Errorf("%v there and back: %.0f%% of the link is used, want %.0f%%", c.way, 100*n, 100*c.used)
			}
		}
		stop()
	})
}

// Two uplinks share a cap half and half; alarms count; one of them alone has
// all of it.
func TestCapIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cp, err := uplink.NewCap(uplink.Bandwidth{LimitKbit: 800}, nil) // 100 kB/s
		if err != nil {
			t.Fatal(err)
		}
		var sinks [2]*pipe
		var stops [2]func()
		for i := range sinks {
			log := newLog(t)
			sinks[i] = newPipe(100_000, 10*time.Millisecond)
			for range 3 * (i + 1) {
				log.classed("s", record.ClassTelemetry).fat(10_000, 1000)
			}
			_, stops[i] = startWith(t, config(), sinks[i], log, uplink.Options{Cap: cp})
		}
		time.Sleep(5 * time.Second)
		from := time.Now()
		time.Sleep(time.Minute)
		a, b := sinks[0].between(from, time.Now()), sinks[1].between(from, time.Now())
		if a < 2_700_000 || b < 2_700_000 || a+b > 6_300_000 {
			t.Errorf("%d and %d bytes in a minute; want 3 MB each", a, b)
		}
		stops[1]()
		time.Sleep(5 * time.Second)
		from = time.Now()
		time.Sleep(time.Minute)
		if a := sinks[0].between(from, time.Now()); a < 5_700_000 || a > 6_300_000 {
			t.Errorf("%d bytes in a minute alone, want 6 MB", a)
		}
		stops[0]()
	})
}

// An uplink's own cap holds beside a shared one.
func TestOwnCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cp, err := uplink.NewCap(uplink.Bandwidth{LimitKbit: 8000}, nil)
		if err != nil {
			t.Fatal(err)
		}
		log, sink := newLog(t), newPipe(100_000, 10*time.Millisecond)
		log.classed("s", record.ClassTelemetry).fat(50_000, 1000)
		cfg := config()
		cfg.LimitKbit = 800
		p, stop := startWith(t, cfg, sink, log, uplink.Options{Cap: cp})
		time.Sleep(5 * time.Second)
		from := time.Now()
		time.Sleep(time.Minute)
		if n := sink.between(from, time.Now()); n < 5_700_000 || n > 6_300_000 {
			t.Errorf("%d bytes in a minute, want 6 MB", n)
		}
		if s := p.Status(); s.LimitKbit != 800 || !s.Capped {
			t.Errorf("status %+v", s)
		}
		stop()
	})
}

// The schedule goes by the clock on the wall, also where that is put forward
// and back.
func TestBandwidthSchedule(t *testing.T) {
	b := uplink.Bandwidth{
		LimitKbit: 100, Timezone: "Europe/Berlin",
		Schedule: []uplink.Hours{
			{Days: []string{"sat", "sun"}, LimitKbit: 500},
			{Days: []string{"fri"}, From: "22:00", To: "06:00", LimitKbit: 0},
			{From: "02:00", To: "03:00", LimitKbit: 200},
			{Days: []string{"mon"}, From: "12:00", To: "12:00", LimitKbit: 300}, // a whole day from noon
		},
	}
	if err := b.Check(); err != nil {
		t.Fatal(err)
	}
	var now time.Time
	cp, err := uplink.NewCap(b, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		utc  string
		kbit int
	}{
		{"2026-11-25T09:00:00Z", 100}, // Wednesday 10:00
		{"2026-11-25T01:00:00Z", 200}, // Wednesday 02:00
		{"2026-11-25T02:00:00Z", 100}, // Wednesday 03:00
		{"2026-11-27T20:59:59Z", 100}, // Friday 21:59
		{"2026-11-27T21:00:00Z", 0},   // Friday 22:00
		{"2026-11-28T01:00:00Z", 500}, // Saturday 02:00: the first entry counts
		{"2026-11-29T22:59:59Z", 500}, // Sunday 23:59
		{"2026-11-29T23:00:00Z", 100}, // Monday 00:00
		{"2026-11-30T11:00:00Z", 300}, // Monday noon
		{"2026-12-01T10:59:00Z", 300}, // Tuesday, before noon
		{"2026-12-01T11:00:00Z", 100},
	} {
		now = mustTime(t, c.utc)
		if got := cp.Rate() / 125; got != c.kbit {
			t.Errorf("%s: %d kbit/s, want %d", c.utc, got, c.kbit)
		}
	}
	night := uplink.Bandwidth{LimitKbit: 100, Timezone: "Europe/Berlin", Schedule: []uplink.Hours{{From: "02:00", To: "03:00", LimitKbit: 200}}}
	if cp, err = uplink.NewCap(night, func() time.Time { return now }); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		day     string
		minutes int // of the entry
	}{{"2026-03-28", 60}, {"2026-03-29", 0}, {"2026-03-30", 60}, {"2026-10-25", 120}} {
		n := 0
		for m := range 24 * 60 {
			now = mustTime(t, c.day+"T00:00:00Z").Add(time.Duration(m-120) * time.Minute)
			if cp.Rate() == 200*125 {
				n++
			}
		}
		if n != c.minutes {
			t.Errorf("%s: the entry holds for %d minutes, want %d", c.day, n, c.minutes)
		}
	}
}

func mustTime(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// A drain follows the schedule from one hour to the next.
func TestDrainFollowsTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// A bubble begins at midnight UTC, on a Saturday.
		cp, err := uplink.NewCap(uplink.Bandwidth{
			LimitKbit: 80, Timezone: "UTC",
			Schedule: []uplink.Hours{{From: "00:10", To: "00:20", LimitKbit: 800}},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		log, sink := newLog(t), newPipe(100_000, 10*time.Millisecond)
		log.classed("s", record.ClassTelemetry).fat(100_000, 1000)
		_, stop := startWith(t, config(), sink, log, uplink.Options{Cap: cp})
		begin := time.Now()
		time.Sleep(30 * time.Minute)
		stop()
		for _, c := range []struct{ from, to, want int }{{1, 10, 9 * 600_000}, {10, 20, 60_000_000}, {20, 30, 6_000_000}} {
			n := sink.between(begin.Add(time.Duration(c.from)*time.Minute), begin.Add(time.Duration(c.to)*time.Minute))
			if n < c.want*93/100 || n > c.want*107/100 {
				t.Errorf("minutes %d to %d: %d bytes, want %d", c.from, c.to, n, c.want)
			}
		}
	})
}

func TestBandwidthCheck(t *testing.T) {
	for _, c := range []struct {
		b    uplink.Bandwidth
		says string
	}{
		{uplink.Bandwidth{LimitKbit: -1}, "limit_kbit: "},
		{uplink.Bandwidth{Timezone: "Mars/Olympus"}, "timezone: "},
		{uplink.Bandwidth{Schedule: []uplink.Hours{{Days: []string{"monday"}}}}, "schedule[1].days: "},
		{uplink.Bandwidth{Schedule: []uplink.Hours{{Days: []string{"n m"}}}}, "schedule[1].days: "},
		{uplink.Bandwidth{Schedule: []uplink.Hours{{From: "25:00"}}}, "schedule[1].from: "},
		{uplink.Bandwidth{Schedule: []uplink.Hours{{To: "6"}}}, "schedule[1].to: "},
		{uplink.Bandwidth{Schedule: []uplink.Hours{{LimitKbit: -5}}}, "schedule[1].limit_kbit: "},
	} {
		if err := c.b.Check(); err == nil || !strings.HasPrefix(err.Error(), c.says) {
			t.Errorf("%+v: %v, want %q", c.b, err, c.says)
		}
	}
	if err := (uplink.Bandwidth{}).Check(); err != nil {
		t.Error(err)
	}
}
