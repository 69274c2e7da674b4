package nats_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
	"forebay/uplink/nats"

	natsgo "github.com/nats-io/nats.go"
)

// A drain is a pump in small: it sends lanes to sinks that come and go, with
// other bounds each time, and goes back a little whenever a new one starts, as a
// cursor does that was not committed.
type drain struct {
	t     testing.TB
	id    record.Identity
	cfg   nats.Config
	urls  []string
	rng   *rand.Rand
	lanes []record.ShardID
	n     uint64   // records of each lane; while more is open, without an end
	next  []uint64 // the sequence number to send next, of each lane
	most  int      // records of a batch
	seen  map[lane.Class]int
	moved *atomic.Uint64 // records done
	more  chan struct{}  // closed when the lanes are to end; nil: they end at n
}

// enough is how many records a drain without an end sends at full speed.
const enough = 20_000

func newDrain(t testing.TB, id record.Identity, seed, n uint64, lanes int, urls ...string) *drain {
	d := &drain{
		t: t, id: id, urls: urls, rng: rand.New(rand.NewPCG(seed, 1)), n: n, most: 300,
		seen: make(map[lane.Class]int), moved: new(atomic.Uint64),
	}
	for i := range lanes {
		d.lanes, d.next = append(d.lanes, record.ShardID(i+1)), append(d.next, 1)
	}
	return d
}

// over is for the goroutine that runs it.
func (d *drain) over() bool {
	select {
	case <-d.more:
		d.more = nil
		d.n = slices.Max(d.next) + 3000
	default:
	}
	for _, n := range d.next {
		if n <= d.n {
			return false
		}
	}
	return true
}

// run sends everything; a sink lives for some Sends. A test that has failed
// ends it.
func (d *drain) run(sends int) {
	for !d.over() && d.t.Context().Err() == nil {
		s := sink(d.t, d.id, d.cfg, d.urls...)
		for i := range d.next {
			d.next[i] -= min(d.next[i]-1, d.rng.Uint64N(400))
		}
		for k := 0; k < sends && !d.over() && d.t.Context().Err() == nil; k++ {
			d.send(s)
		}
		if err := s.Close(); err != nil {
			d.t.Errorf("Close: %v", err)
		}
	}
}

func (d *drain) send(s *nats.Sink) {
	var batches []lane.Batch
	var which []int
	for i, n := range d.next {
		if n > d.n {
			continue
		}
		batches = append(batches, batch(d.lanes[i], n, min(1+d.rng.Uint64N(uint64(d.most)), d.n-n+1)))
		which = append(which, i)
	}
	moved := false
	for k, o := range s.Send(d.t.Context(), batches) {
		if o.Class == lane.Poison || o.Class == lane.Misconfigured {
			d.t.Errorf("%v: %v", o.Class, o.Err)
		}
		d.seen[o.Class]++
		d.next[which[k]] += uint64(o.Done)
		d.moved.Add(uint64(o.Done))
		moved = moved || o.Done > 0
	}
	if !moved || d.more != nil && d.moved.Load() > enough {
		<-time.After(10 * time.Millisecond) // as a pump pauses
	}
}

// Two gateways write to one stream, each through a link that is cut every few
// thousand bytes, to a server that is restarted; their sinks are restarted with
// other bounds of batches and go back a little. The duplicate window is a tenth
// of a second. A consumer that knows nothing of ids gets every record once, in
// order.
func TestExactlyOnce(t *testing.T) {
	t.Parallel() // beside the cluster, which mostly waits
	for _, c := range []struct {
		name    string
		atomic  bool
		subject string
		n       uint64
	}{
		{"batches", true, "", 1500},
		{"key", true, "forebay.{gateway}.{shard}.{key}", 700},
		{"one at a time", false, "", 300},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t.TempDir())
			srv := start(t, o)
			nc := client(t, srv.ClientURL())
			create(t, nc, fmt.Sprintf(`"allow_atomic":%v,"duplicate_window":100000000`, c.atomic))
			cab := newCable(t, srv.ClientURL())
			rng := rand.New(rand.NewPCG(1, 2)) // under the cable's mutex
			cab.lives(func() int64 { return 2000 + rng.Int64N(200<<10) }, func() int64 { return 700 + rng.Int64N(12<<10) })
			ids := []record.Identity{identity, {Gateway: "edge-08", Epoch: 0x77}}
			var drains []*drain
			var wg sync.WaitGroup
			for i, id := range ids {
				d := newDrain(t, id, uint64(i), c.n, 3, cab.url())
				d.cfg.Subject = c.subject
				drains = append(drains, d)
				wg.Go(func() { d.run(20) })
			}
			total := 2 * 3 * c.n
			for k := range uint64(2) {
				until(t, "the drain stands still", func() bool {
					return drains[0].moved.Load()+drains[1].moved.Load() > total*(k+1)/4
				})
				srv = restart(t, srv, o)
			}
			wg.Wait()
			cuts := 0
			for i, d := range drains {
				cuts += d.seen[lane.Ambiguous]
				for _, shard := range d.lanes {
					filter := fmt.Sprintf("forebay.%s.mqtt.%d", ids[i].Gateway, shard)
					if c.subject != "" {
						filter = fmt.Sprintf("forebay.%s.%d.>", ids[i].Gateway, shard)
					}
					wantExactly(t, read(t, nc, filter), ids[i], shard, c.n)
				}
			}
			if cuts == 0 {
				t.Error("nothing was ever cut before its answer")
			}
			t.Logf("%v, %v", drains[0].seen, drains[1].seen)
		})
	}
}

// What was stored while its answer was lost is not sent again, although the
// duplicate window is long over and another sink goes on.
func TestOutageLongerThanTheDuplicateWindow(t *testing.T) {
	for _, atomic := range []bool{true, false} {
		srv := start(t, options(t.TempDir()))
		nc := client(t, srv.ClientURL())
		create(t, nc, fmt.Sprintf(`"allow_atomic":%v,"duplicate_window":100000000`, atomic))
		cab := newCable(t, srv.ClientURL())
		s := sink(t, identity, nats.Config{}, cab.url())
		wantDone(t, send(t, s, batch(1, 1, 10)), 10)

		cab.deaf.Store(true)
		done := make(chan lane.Outcome, 1)
		go func() { done <- send(t, s, batch(1, 11, 10)) }()
		js, err := nc.JetStream()
		if err != nil {
			t.Fatal(err)
		}
		until(t, "nothing is stored", func() bool {
			info, err := js.StreamInfo("TARGET")
			return err == nil && info.State.Msgs > 10
		})
		cab.cut()
		o := <-done
		wantClass(t, o, 0, lane.Ambiguous, "cut before the answer")
		waitOutWindow(t, js)

		cab.deaf.Store(false)
		if atomic {
			wantDone(t, send(t, s, batch(1, 11, 3)), 3)
		}
		wantDone(t, send(t, sink(t, identity, nats.Config{}, cab.url()), batch(1, 11, 25)), 25)
		wantExactly(t, read(t, nc, "forebay.edge-07.mqtt.1"), identity, 1, 35)
	}
}

// waitOutWindow waits until the server has forgotten an id that it takes now.
func waitOutWindow(t *testing.T, js natsgo.JetStreamContext) {
	t.Helper()
	for range 2 {
		until(t, "the duplicate window does not end", func() bool {
			ack, err := js.Publish("forebay.other", nil, natsgo.MsgId("probe"))
			return err == nil && !ack.Duplicate
		})
	}
}

// A sink that was taken for dead and comes back stores nothing that another one
// has stored meanwhile, and finds its way behind it.
func TestZombie(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	nc := client(t, srv.ClientURL())
	create(t, nc, `"allow_atomic":true,"duplicate_window":100000000`)
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	old, young := sink(t, identity, nats.Config{}, srv.ClientURL()), sink(t, identity, nats.Config{}, srv.ClientURL())
	wantDone(t, send(t, old, batch(1, 1, 10)), 10)
	wantDone(t, send(t, young, batch(1, 5, 16)), 16)
	waitOutWindow(t, js)
	wantDone(t, send(t, old, batch(1, 11, 5)), 5)
	wantDone(t, send(t, old, batch(1, 16, 10)), 10)
	wantDone(t, send(t, young, batch(1, 21, 10)), 10)
	wantExactly(t, read(t, nc, "forebay.edge-07.mqtt.1"), identity, 1, 30)
}

// The records of a new epoch are never taken for those of an old one that have
// the same numbers, and those of the old one are not sent again behind them.
func TestANewEpoch(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	nc := client(t, srv.ClientURL())
	create(t, nc, `"allow_atomic":true`)
	wantDone(t, send(t, sink(t, identity, nats.Config{}, srv.ClientURL()), batch(1, 1, 20)), 20)

	restored := record.Identity{Gateway: identity.Gateway, Epoch: 0x5678}
	b := batch(1, 5, 12) // a backup from when 10 records were there
	for i := range b.Recs[:6] {
		b.Recs[i].Origin = &record.Origin{Gateway: identity.Gateway, Epoch: identity.Epoch}
	}
	for range 2 {
		wantDone(t, send(t, sink(t, restored, nats.Config{}, srv.ClientURL()), b), 12)
	}
	got := read(t, nc, "forebay.edge-07.mqtt.1")
	wantExactly(t, got[:20], identity, 1, 20)
	if len(got) != 26 {
		t.Fatalf("%d messages, want 26", len(got))
	}
	for i, m := range got[20:] {
		if want := restored.ID(record.Pos{Shard: 1, Seq: uint64(11 + i)}); m.id != want {
			t.Errorf("%s, want %s", m.id, want)
		}
	}
}

// A batch that the server has begun to take when its gateway is cut off is
// dropped as a whole.
func TestHalfABatch(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	nc := client(t, srv.ClientURL())
	create(t, nc, `"allow_atomic":true`)
	cab := newCable(t, srv.ClientURL())
	cab.lives(func() int64 { return 60_000 }, nil) // of about 200,000
	s := sink(t, identity, nats.Config{}, cab.url())
	o := send(t, s, batch(1, 1, 900))
	if o.Done != 0 || o.Class != lane.Ambiguous && o.Class != lane.Offline {
		t.Fatalf("%+v", o)
	}
	if n := len(read(t, nc, "forebay.>")); n != 0 {
		t.Fatalf("%d messages of half a batch are stored", n)
	}
	wantDone(t, send(t, sink(t, identity, nats.Config{}, srv.ClientURL()), batch(1, 1, 900)), 900)
	wantExactly(t, read(t, nc, "forebay.edge-07.mqtt.1"), identity, 1, 900)
}
