package kafka_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/kafka"
	"forebay/uplink/lane"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A badLink is a cluster's listeners, whose connections break: before a
// request is read, or after it was served and before the answer is written.
type badLink struct {
	on   atomic.Bool
	mute atomic.Bool // every answer breaks the connection
	cuts atomic.Int64
	mu   sync.Mutex
	rng  *rand.Rand
}

func (b *badLink) listen(network, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return &badListener{l, b}, nil
}

// breaks draws whether to break now.
func (b *badLink) breaks() bool {
	if !b.on.Load() {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rng.IntN(60) > 0 {
		return false
	}
	b.cuts.Add(1)
	return true
}

type badListener struct {
	net.Listener
	link *badLink
}

func (l *badListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &badConn{c, l.link}, nil
}

type badConn struct {
	net.Conn
	link *badLink
}

var errCut = errors.New("the link broke")

func (c *badConn) Read(p []byte) (int, error) {
	if c.link.breaks() {
		_ = c.Close()
		return 0, errCut
	}
	return c.Conn.Read(p)
}

func (c *badConn) Write(p []byte) (int, error) {
	if c.link.mute.Load() || c.link.breaks() {
		_ = c.Close()
		return 0, errCut
	}
	return c.Conn.Write(p)
}

// site is a gateway whose sink is killed now and then, in the middle of what it
// does, and begins again from a place that it had on disk.
type site struct {
	t     *testing.T
	make  func() *kafka.Sink
	sink  *kafka.Sink
	rng   *rand.Rand
	lanes int
	total int
	done  []int // per lane, what was acknowledged
	old   sync.WaitGroup
	kills int
	fails map[lane.Class]int
}

// step sends some of every lane. Now and then the gateway dies while
// the Send is under way, which goes on as a zombie's; nobody hears its outcome.
func (s *site) step(kill bool) {
	var in []lane.Batch
	var which []int
	for i := range s.lanes {
		if n := min(s.total-s.done[i], 1+s.rng.IntN(60)); n > 0 {
			in, which = append(in, batchOf(laneOf(i+1), s.done[i]+1, n)), append(which, i)
		}
	}
	if !kill {
		for k, o := range s.send(s.sink, in) {
			s.done[which[k]] += o.Done
			if o.Class == lane.Poison {
				s.t.Errorf("sound records are called poison: %v", o.Err)
			}
			s.fails[o.Class]++
		}
		return
	}
	zombie := s.sink
	s.old.Go(func() {
		s.send(zombie, in)
		if err := zombie.Close(); err != nil {
			s.t.Errorf("Close: %v", err)
		}
	})
	s.kills++
	s.sink = s.make()
	for i := range s.done {
		s.done[i] = max(0, s.done[i]-s.rng.IntN(100)) // the cursor was not quite on disk
	}
}

// send sends the lanes by two Sends at a time, as the pump does.
func (s *site) send(sink *kafka.Sink, in []lane.Batch) []lane.Outcome {
	half := len(in) / 2
	var a, b []lane.Outcome
	var wg sync.WaitGroup
	wg.Go(func() { a = sink.Send(s.t.Context(), in[:half]) })
	wg.Go(func() { b = sink.Send(s.t.Context(), in[half:]) })
	wg.Wait()
	return append(a, b...)
}

func (s *site) finished() bool {
	return !slices.ContainsFunc(s.done, func(n int) bool { return n < s.total })
}

// balance reads the topic with sarama and fails where a record is lost, comes
// twice, or stands behind a later one of its key.
func balance(t *testing.T, brokers []string, topic string, lanes, total int) {
	t.Helper()
	got := make([]map[int]int, lanes)
	for i := range got {
		got[i] = make(map[int]int)
	}
	where := make(map[string]int32)
	late := 0
	for part, msgs := range read(t, brokers, topic) {
		last := make(map[string]int)
		for _, m := range msgs {
			key := string(m.Key)
			if p, ok := where[key]; ok && p != part {
				t.Fatalf("key %q lies in partitions %d and %d", key, p, part)
			}
			where[key] = part
			var v struct{ Data struct{ Lane, N int } }
			if err := json.Unmarshal(m.Value, &v); err != nil || v.Data.Lane < 1 || v.Data.Lane > lanes {
				t.Fatalf("%q: %v", m.Value, err)
			}
			if v.Data.N <= last[key] {
				late++
			}
			last[key] = v.Data.N
			got[v.Data.Lane-1][v.Data.N]++
		}
	}
	lost, twice := 0, 0
	for i := range got {
		for n := 1; n <= total; n++ {
			switch got[i][n] {
			case 0:
				lost++
			case 1:
			default:
				twice++
			}
		}
		if len(got[i]) > total {
			t.Errorf("lane %d: %d records nobody sent", i+1, len(got[i])-total)
		}
	}
	if lost != 0 || twice != 0 || late != 0 {
		t.Errorf("lost %d, twice %d, out of order %d of %d", lost, twice, late, lanes*total)
	}
}

// Whatever breaks, whoever dies: readers of committed records see every record
// once, those of a key in order.
func TestExactlyOnce(t *testing.T) {
	t.Parallel()
	for name, seed := range map[string]uint64{"one": 1, "two": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			link := &badLink{rng: rand.New(rand.NewPCG(seed, 1))}
			c := newCluster(t, kfake.NumBrokers(3), kfake.ListenFn(link.listen), kfake.SeedTopics(4, "target"))
			s := &site{
				t: t, rng: rand.New(rand.NewPCG(seed, 2)), lanes: 6, total: 450, done: make([]int, 6), fails: make(map[lane.Class]int),
				make: func() *kafka.Sink {
					return newSink(t, c, kafka.Config{Topic: "target", RequestTimeout: conf.Duration(2 * time.Second)})
				},
			}
			s.sink = s.make()
			var set []*kfake.FaultHandle
			fault := func(key kmsg.Key, err *kerr.Error) {
				set = append(set, c.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: err, TopLevel: key == kmsg.EndTxn}))
			}
			faults := rand.New(rand.NewPCG(seed, 3))
			link.on.Store(true)
			for step := 0; !s.finished(); step++ {
				if step > 2000 {
					t.Fatalf("after %d steps: %v", step, s.done)
				}
				switch faults.IntN(8) {
				case 0: // stored, and said to be not
					fault(kmsg.Produce, kerr.NotEnoughReplicasAfterAppend)
				case 1:
					fault(kmsg.EndTxn, kerr.RequestTimedOut)
				case 2:
					fault(kmsg.EndTxn, kerr.UnknownServerError)
				case 3:
					c.ShufflePartitionLeaders()
				case 4:
					c.RehashCoordinators()
				}
				s.step(s.rng.IntN(4) == 0)
			}
			link.on.Store(false)
			s.old.Wait()
			for _, h := range set {
				h.Remove()
			}
			if err := s.sink.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			balance(t, c.ListenAddrs(), "target", s.lanes, s.total)
			if s.kills < 3 || link.cuts.Load() < 20 || s.fails[lane.OK] == 0 {
				t.Errorf("%d kills, %d cuts and outcomes %v try too little", s.kills, link.cuts.Load(), s.fails)
			}
			all := read(t, c.ListenAddrs(), "target", func(cfg *sarama.Config) { cfg.Consumer.IsolationLevel = sarama.ReadUncommitted })
			n := 0
			for _, msgs := range all {
				n += len(msgs)
			}
			t.Logf("%d kills, %d cuts, outcomes %v; %d records in the log, %d committed", s.kills, link.cuts.Load(), s.fails, n, s.lanes*s.total)
			if n <= s.lanes*s.total {
				t.Errorf("%d records in the log: no transaction was ever given up", n)
			}
		})
	}
}
