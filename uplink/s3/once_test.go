package s3_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
	"forebay/uplink/s3"
)

// TestExactlyOnceWhateverHappens sends lanes through everything that can
// happen to a request, with batches cut anew for each try, with restarts whose
// cursors lag behind, and with requests that arrive after they were given up.
func TestExactlyOnceWhateverHappens(t *testing.T) {
	for name, cfg := range map[string]s3.Config{
		"ndjson":  {},
		"gzip":    {Compression: "gzip"},
		"parquet": {Objects: "parquet"},
	} {
		t.Run(name, func(t *testing.T) {
			seeds := uint64(4)
			if testing.Short() {
				seeds = 1
			}
			for seed := range seeds {
				chaos(t, cfg, seed)
			}
		})
	}
}

func chaos(t *testing.T, cfg s3.Config, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 5))
	f := newFar(t)
	faults := []string{"", "", "", "", "500 after", "cut after", "cut before", "late", "503", "500", "html", "conflict"}
	dice := rand.New(rand.NewPCG(seed, 6))
	f.misbehave(func(op, _ string) string {
		fault := faults[dice.IntN(len(faults))]
		if fault == "late" && op != "PUT" {
			return ""
		}
		return fault
	})
	const lanes = 3
	n := uint64(4000) // the hour ends with 1799
	if testing.Short() {
		n = 2400
	}
	s := f.open(cfg)
	var done, committed [lanes]uint64
	for try := 0; ; try++ {
		if try == 3000 {
			t.Fatalf("seed %d: after %d tries: %v", seed, try, done)
		}
		var send []lane.Batch
		var which []int
		for i := range lanes {
			if done[i] < n {
				send = append(send, batchOf(laneOf(i+1), done[i]+1, min(done[i]+1+rng.Uint64N(400), n)))
				which = append(which, i)
			}
		}
		if len(send) == 0 {
			break
		}
		for k, o := range s.Send(t.Context(), send) {
			if o.Class == lane.Poison || o.Class == lane.Misconfigured || (o.Class == lane.OK) != (o.Done == len(send[k].Recs)) {
				t.Fatalf("seed %d: %+v", seed, o)
			}
			done[which[k]] += uint64(o.Done)
		}
		switch rng.IntN(12) {
		case 0: // what was put off happens now
			f.settle()
		case 1: // a kill -9: the cursors that were not synced yet are lost
			s = f.open(cfg)
			done = committed
		case 2, 3:
			committed = done
		}
	}
	f.misbehave(nil)
	f.settle()
	for i := range lanes {
		f.exactly(laneOf(i+1), n)
	}
}

// The same first record, another end: whichever arrives first stays, and the
// other is not taken.
func TestALateObjectAndAShorterOne(t *testing.T) {
	for _, early := range []bool{false, true} {
		f := newFar(t)
		l := laneOf(1)
		s := f.open(s3.Config{})
		if err := s.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.misbehave(func(op, key string) string {
			if op == "PUT" && strings.Contains(key, "/press/") {
				return "late"
			}
			return ""
		})
		if o := s.Send(t.Context(), []lane.Batch{batchOf(l, 1, 100)})[0]; o.Done != 0 || o.Class != lane.Ambiguous {
			t.Fatalf("%+v", o)
		}
		f.misbehave(nil)
		if early {
			f.settle()
		}
		sendAll(t, s, batchOf(l, 1, 60))
		f.settle()
		sendAll(t, s, batchOf(l, 61, 130))
		f.exactly(l, 130)
		want := 3 // the guard and two objects
		if got := len(f.keys()); got != want {
			t.Errorf("early %v: objects %v", early, f.keys())
		}
	}
}

// A cursor that begins within an object, or before one, sends what is missing.
func TestOtherBeginnings(t *testing.T) {
	f := newFar(t)
	l := laneOf(1)
	sendAll(t, f.open(s3.Config{}), batchOf(l, 101, 200))
	sendAll(t, f.open(s3.Config{}), batchOf(l, 1001, 1100))
	sendAll(t, f.open(s3.Config{}), batchOf(l, 150, 250))
	s := f.open(s3.Config{})
	sendAll(t, s, batchOf(l, 1, 700))
	sendAll(t, s, batchOf(l, 701, 1400))
	f.exactly(l, 1400)
}

// Records that are left out on purpose are neither held nor a wall: what comes
// behind them may lie in an object that is there, and they may come later.
func TestJumps(t *testing.T) {
	f := newFar(t)
	l := laneOf(1)
	sendAll(t, f.open(s3.Config{}), batchOf(l, 101, 200))
	sendAll(t, f.open(s3.Config{}), batchOf(l, 301, 400))
	s := f.open(s3.Config{})
	sendAll(t, s, batchOf(l, 1, 50))
	sendAll(t, s, batchOf(l, 150, 250))
	sendAll(t, s, batchOf(l, 501, 600))
	sendAll(t, s, batchOf(l, 251, 500))
	sendAll(t, s, batchOf(l, 51, 149))
	f.exactly(l, 600)
	other := f.open(s3.Config{})
	m := laneOf(2)
	sendAll(t, other, batchOf(m, 1, 50))
	sendAll(t, other, batchOf(m, 101, 150))
	sendAll(t, other, batchOf(m, 51, 100))
	f.exactly(m, 150)
}

// A link that breaks over and over gets smaller objects, and larger ones when
// it is well again.
func TestABadLinkGetsSmallerObjects(t *testing.T) {
	f := newFar(t)
	s := f.open(s3.Config{Compression: "none", ObjectSize: 256 << 10})
	l := laneOf(1)
	b := batchOf(l, 1, 40)
	for i := range b.Recs {
		b.Recs[i].Data = fmt.Appendf(nil, `"%d%s"`, i, strings.Repeat("x", 20_000))
	}
	f.limit(100_000)
	for try := 0; len(b.Recs) > 0; try++ {
		if try == 20 {
			t.Fatal("it never gets through")
		}
		o := s.Send(t.Context(), []lane.Batch{b})[0]
		b.Recs = b.Recs[o.Done:]
	}
	f.limit(0)
	b = batchOf(l, 41, 60)
	for i := range b.Recs {
		b.Recs[i].Data = fmt.Appendf(nil, `"%d%s"`, i, strings.Repeat("x", 10_000))
	}
	before := len(f.keys())
	sendAll(t, s, b)
	if n := len(f.keys()) - before; n > 2 {
		t.Errorf("200 kB go in %d objects when the link is well", n)
	}
}

// Newest first: two places of one lane in turn.
func TestTwoPlacesOfALane(t *testing.T) {
	f := newFar(t)
	l := laneOf(1)
	s := f.open(s3.Config{})
	for i := range uint64(5) {
		sendAll(t, s, batchOf(l, 1001+100*i, 1100+100*i))
		sendAll(t, s, batchOf(l, 1+200*i, 200+200*i))
	}
	f.exactly(l, 1500)
}

// More objects than a page lists, and than are remembered, ahead of a cursor
// that lost its place.
func TestManyObjectsAhead(t *testing.T) {
	f := newFar(t)
	l := laneOf(1)
	const n = 4500
	s := f.open(s3.Config{})
	same := func(b lane.Batch) lane.Batch {
		for i := range b.Recs {
			b.Recs[i].Arrived = noon
		}
		return b
	}
	for seq := uint64(1); seq <= n; seq++ {
		if seq%100 != 7 {
			sendAll(t, s, same(batchOf(l, seq, seq)))
		}
	}
	sendAll(t, f.open(s3.Config{}), same(batchOf(l, 1, n)))
	f.exactly(l, n)
}

// A clock that jumps puts records of a lane into hours of the past and the
// future, and whoever meets the lane anew finds them there.
func TestClockJumps(t *testing.T) {
	f := newFar(t)
	l := laneOf(1)
	whole := batchOf(l, 1, 90)
	for i := range whole.Recs {
		whole.Recs[i].Arrived = noon.Add(time.Duration(i/10%3-1) * 300 * 24 * time.Hour)
	}
	part := func(from, to int) lane.Batch { return lane.Batch{Lane: l, Recs: whole.Recs[from-1 : to]} }
	sendAll(t, f.open(s3.Config{}), part(1, 35))
	sendAll(t, f.open(s3.Config{}), part(6, 62))
	sendAll(t, f.open(s3.Config{}), part(1, 90))
	f.exactly(l, 90)
	var zero record.Record
	zero.Key, zero.Pos = "k", record.Pos{Shard: 1, Seq: 91}
	far := zero
	far.Pos.Seq, far.Arrived = 92, time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)
	before := zero
	before.Pos.Seq, before.Arrived = 93, time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC)
	sendAll(t, f.open(s3.Config{}), lane.Batch{Lane: l, Recs: []record.Record{zero, far, before}})
	hours := strings.Join(f.keys(), "\n")
	for _, want := range []string{"dt=2026-01-27", "dt=2027-09-19", "dt=0001-01-01/hr=00/", "dt=9999-12-31/hr=23/"} {
		if !strings.Contains(hours, want) {
			t.Errorf("no %s in\n%s", want, hours)
		}
	}
}

// A new epoch's records are never taken for those of an old one with the same
// numbers.
func TestEpochsAreApart(t *testing.T) {
	f := newFar(t)
	l := laneOf(1)
	sendAll(t, f.open(s3.Config{}), batchOf(l, 1, 50))
	home := lane.Home{ID: record.Identity{Gateway: "edge-07", Epoch: 0x99}}
	b := batchOf(l, 31, 60) // up to 40 from before the restore
	old := &record.Origin{Gateway: "edge-07", Epoch: 0x1234}
	for i := range 10 {
		b.Recs[i].Origin = old
	}
	sendAll(t, f.open(s3.Config{}, home), b)
	seen := make(map[string]int)
	for _, h := range f.all() {
		seen[h.id]++
	}
	for seq := 1; seq <= 60; seq++ {
		was, is := seen[fmt.Sprintf("edge-07/0000000000001234/1/%d", seq)], seen[fmt.Sprintf("edge-07/0000000000000099/1/%d", seq)]
		if was != btoi(seq <= 50) || is != btoi(seq > 40) {
			t.Errorf("%d: %d times of the old epoch, %d of the new", seq, was, is)
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Another kind of object from today on: what is there as the old kind is not
// sent again.
func TestAChangeOfKind(t *testing.T) {
	f := newFar(t)
	l := laneOf(1)
	sendAll(t, f.open(s3.Config{}), batchOf(l, 1, 50))
	sendAll(t, f.open(s3.Config{Objects: "parquet"}), batchOf(l, 1, 80))
	sendAll(t, f.open(s3.Config{Compression: "gzip"}), batchOf(l, 51, 120))
	f.exactly(l, 120)
}

// A target that overwrites is found out before the first record; off, it will do.
func TestATargetWithoutConditions(t *testing.T) {
	f := newFar(t)
	f.old = true
	l := laneOf(1)
	o := f.open(s3.Config{}).Send(t.Context(), []lane.Batch{batchOf(l, 1, 50)})[0]
	if o.Done != 0 || o.Class != lane.Misconfigured || !strings.Contains(o.Err.Error(), "conditional") {
		t.Fatalf("%+v", o)
	}
	s := f.open(s3.Config{Conditional: "off"})
	f.misbehave(func(op, _ string) string { return map[bool]string{true: "cut after"}[op == "PUT"] })
	if o := s.Send(t.Context(), []lane.Batch{batchOf(l, 1, 50)})[0]; o.Class != lane.Ambiguous {
		t.Fatalf("%+v", o)
	}
	f.misbehave(nil)
	asked := f.count("LIST")
	sendAll(t, s, batchOf(l, 1, 80))
	if f.count("LIST") == asked {
		t.Error("after a failure nobody asks what is there")
	}
	f.exactly(l, 80)
}

// An object that lost its metadata, and one that lies about itself, hold the
// lane up with words, and nothing is sent twice or passed over.
func TestStrangeObjects(t *testing.T) {
	for _, last := range []string{"", "x", "0"} {
		f := newFar(t)
		l := laneOf(1)
		sendAll(t, f.open(s3.Config{}), batchOf(l, 1, 50))
		key := f.keys()[1]
		f.objects[key].header.Set("X-Amz-Meta-Forebay-Last", last)
		o := f.open(s3.Config{}).Send(t.Context(), []lane.Batch{batchOf(l, 1, 50)})[0]
		if o.Done != 0 || o.Class != lane.Misconfigured || !strings.Contains(o.Err.Error(), key) {
			t.Errorf("last %q: %+v", last, o)
		}
	}
	f := newFar(t)
	l := laneOf(1)
	prefix := "forebay/press/dt=2026-11-23/hr=12/edge-07.0000000000001234.1."
	for _, name := range []string{"x", "fffffffffffffffe.2.ndjson", "fffffffffffffff0", "0000000000000000.1.parquet"} {
		f.objects[prefix+name] = object{}
	}
	sendAll(t, f.open(s3.Config{}), batchOf(l, 1, 50))
	if got := cmp.Or(len(f.read(prefix+"fffffffffffffffe.1.ndjson.zst")), -1); got != 50 {
		t.Errorf("%d records beside objects of others", got)
	}
}
