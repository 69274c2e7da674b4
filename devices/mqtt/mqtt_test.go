package mqtt_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"forebay/devices/broker"
	"forebay/devices/mqtt"
	"forebay/firmware-sim/mqttport"
	"forebay/gateway/conf"
	"forebay/spool/record"
)

const patience = 10 * time.Second

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("did not happen: %s", what)
		}
	}
}

// A memory is an inlet that keeps what it is given; fail may refuse.
type memory struct {
	mu   sync.Mutex
	recs []record.Record
	fail func(record.Record) error
	gate chan struct{} // if not nil, a commit waits for it
	wg   sync.WaitGroup
}

func (m *memory) Put(_ context.Context, recs []record.Record, done func([]record.Result)) error {
	m.wg.Go(func() {
		m.mu.Lock()
		gate, fail := m.gate, m.fail
		m.mu.Unlock()
		if gate != nil {
			<-gate
		}
		res := make([]record.Result, len(recs))
		m.mu.Lock()
		for i, r := range recs {
			if fail != nil {
				res[i].Err = fail(r)
			}
			if res[i].Err == nil {
				m.recs = append(m.recs, r)
			}
		}
		m.mu.Unlock()
		done(res)
	})
	return nil
}

func (m *memory) payloads() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, r := range m.recs {
		out = append(out, string(r.Data))
	}
	return out
}

func (m *memory) failWith(f func(record.Record) error) {
	m.mu.Lock()
	m.fail = f
	m.mu.Unlock()
}

// source runs a source until the test ends, or stop is called.
func source(tb testing.TB, cfg mqtt.Config, in mqtt.Inlet) (s *mqtt.Source, stop func()) {
	tb.Helper()
	s, err := mqtt.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, in) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				tb.Errorf("Run: %v", err)
			}
		case <-time.After(2 * patience):
			tb.Error("Run does not end")
		}
	})
	tb.Cleanup(stop)
	return s, stop
}

func up(tb testing.TB, s *mqtt.Source) {
	tb.Helper()
	eventually(tb, "source is up", func() bool { st, _ := s.Health(); return st == "up" })
}

// letIn lets everybody in.
type letIn struct{ mochi.HookBase }

func (*letIn) ID() string { return "let-in" }

func (*letIn) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}

func (*letIn) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

func (*letIn) OnACLCheck(*mochi.Client, string, bool) bool { return true }

// standing is a mochi broker as it stands in a plant.
func standing(tb testing.TB, addr string) (srv *mochi.Server, at string, stop func()) {
	tb.Helper()
	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	srv = mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler), InlineClient: true})
	if err := srv.AddHook(new(letIn), nil); err != nil {
		tb.Fatal(err)
	}
	if err := srv.AddListener(mqttport.New(ln)); err != nil {
		tb.Fatal(err)
	}
	if err := srv.Serve(); err != nil {
		tb.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		if err := srv.Close(); err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(stop)
	return srv, ln.Addr().String(), stop
}

func send(tb testing.TB, srv *mochi.Server, topic, payload string, qos byte) {
	tb.Helper()
	if err := srv.Publish(topic, []byte(payload), false, qos); err != nil {
		tb.Fatal(err)
	}
}

func TestReadsAStandingBroker(t *testing.T) {
	srv, at, _ := standing(t, "127.0.0.1:0")
	in := &memory{}
	s, _ := source(t, mqtt.Config{ID: "line1", Broker: "tcp://" + at}, in)
	up(t, s)
	for i := range 500 {
		send(t, srv, fmt.Sprint("plant/", i%7), fmt.Sprint(i), byte(i%2))
	}
	long := strings.Repeat("a/", 200)
	send(t, srv, long, "500", 1)
	eventually(t, "all is stored", func() bool { return len(in.payloads()) == 501 })
	for i, p := range in.payloads() {
		if p != fmt.Sprint(i) {
			t.Fatalf("record %d is %s", i, p)
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.recs[8].Key != "plant/1" || in.recs[8].Attrs != nil {
		t.Errorf("record %+v", in.recs[8])
	}
	if r := in.recs[500]; len(r.Key) != 32 || r.Attrs["topic"] != long {
		t.Errorf("long topic: %q, %v", r.Key, r.Attrs)
	}
}

// What is not on disk is not acknowledged, and what is not acknowledged comes
// again when the connection does.
func TestAckComesAfterTheCommit(t *testing.T) {
	srv, at, _ := standing(t, "127.0.0.1:0")
	gate := make(chan struct{})
	in := &memory{gate: gate}
	s, stop := source(t, mqtt.Config{ID: "a", Broker: "tcp://" + at, QoS: 1}, in)
	up(t, s)
	for i := range 10 {
		send(t, srv, "t", fmt.Sprint(i), 1)
	}
	unacked := func() int64 { return atomic.LoadInt64(&srv.Info.Inflight) }
	eventually(t, "ten are on their way", func() bool { return unacked() == 10 })
	in.mu.Lock()
	in.gate = nil
	in.mu.Unlock()
	close(gate)
	eventually(t, "all are acknowledged", func() bool { return unacked() == 0 })
	if n := len(in.payloads()); n != 10 {
		t.Errorf("%d records acknowledged, %d stored", 10, n)
	}
	stop()
	for i := 10; i < 15; i++ { // the session is persistent
		send(t, srv, "t", fmt.Sprint(i), 1)
	}
	s2, _ := source(t, mqtt.Config{ID: "a", Broker: "tcp://" + at}, in)
	up(t, s2)
	eventually(t, "what was queued has come", func() bool { return len(in.payloads()) == 15 })
	// This broker sends a queue of one second in any order.
	got := in.payloads()
	slices.SortFunc(got, func(a, b string) int { return len(a)*100 + int(a[len(a)-1]) - len(b)*100 - int(b[len(b)-1]) })
	for i, p := range got {
		if p != fmt.Sprint(i) {
			t.Fatalf("stored %q", got)
		}
	}
}

func TestFullLogHoldsTheBrokerBack(t *testing.T) {
	srv, at, _ := standing(t, "127.0.0.1:0")
	in := &memory{}
	var tries atomic.Int64
	in.failWith(func(record.Record) error { tries.Add(1); return record.ErrFull })
	s, _ := source(t, mqtt.Config{ID: "a", Broker: "tcp://" + at}, in)
	up(t, s)
	for i := range 30 {
		send(t, srv, "t", fmt.Sprint(i), 1)
	}
	eventually(t, "tried again", func() bool { return tries.Load() >= 2 && atomic.LoadInt64(&srv.Info.Inflight) == 30 })
	eventually(t, "it is degraded because the spool is full", func() bool {
		st, why := s.Health()
		return st == "degraded" && strings.Contains(why, "full")
	})
	in.failWith(nil)
	eventually(t, "all are acknowledged", func() bool { return atomic.LoadInt64(&srv.Info.Inflight) == 0 })
	for i, p := range in.payloads() {
		if p != fmt.Sprint(i) {
			t.Fatalf("record %d is %s", i, p)
		}
	}
	if n := len(in.payloads()); n != 30 {
		t.Errorf("%d records of 30", n)
	}
	up(t, s)
}

func TestMessageThatCanNeverBeStored(t *testing.T) {
	srv, at, _ := standing(t, "127.0.0.1:0")
	in := &memory{}
	in.failWith(func(r record.Record) error {
		if string(r.Data) == "bad" {
			return &record.InvalidError{Field: "data"}
		}
		return nil
	})
	s, _ := source(t, mqtt.Config{ID: "a", Broker: "tcp://" + at}, in)
	up(t, s)
	for _, p := range []string{"a", "bad", "b"} {
		send(t, srv, "t", p, 1)
	}
	eventually(t, "both good ones are stored", func() bool { return strings.Join(in.payloads(), "") == "ab" })
	eventually(t, "the broker is rid of all", func() bool { return atomic.LoadInt64(&srv.Info.Inflight) == 0 })
	if s.Refused() != 1 {
		t.Errorf("%d refused", s.Refused())
	}
}

func TestBrokerComesAndGoes(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := ln.Addr().String()
	_ = ln.Close()
	in := &memory{}
	s, _ := source(t, mqtt.Config{ID: "a", Broker: "tcp://" + at}, in)
	eventually(t, "source says the broker is not there", func() bool { st, _ := s.Health(); return st == "down" && s.Errors() > 0 })
	for round := range 3 {
		srv, _, stop := standing(t, at)
		up(t, s)
		send(t, srv, "t", strconv.Itoa(round), 1)
		eventually(t, "message is stored", func() bool { return len(in.payloads()) == round+1 })
		stop()
		eventually(t, "source sees the broker go", func() bool { st, _ := s.Health(); return st != "up" })
	}
}

// Against our own broker, the connection cut under load many times: nothing
// that the outer broker acknowledged is missing at the far end.
func TestReadsOurOwnBrokerThroughCuts(t *testing.T) {
	outer := &memory{}
	cfg := broker.Config{Listen: "127.0.0.1:0"}
	b, err := broker.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx, outer) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "broker listens", func() bool { return b.Addr() != nil })
	link := newLink(t, b.Addr().String())
	in := &memory{}
	s, _ := source(t, mqtt.Config{ID: "a", Broker: "tcp://" + link.addr(), Topics: []string{"plant/#"}}, in)
	up(t, s)
	dev := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + b.Addr().String()).SetClientID("dev"))
	if k := dev.Connect(); !k.WaitTimeout(patience) || k.Error() != nil {
		t.Fatal(k.Error())
	}
	defer dev.Disconnect(0)
	for i := range 300 {
		if k := dev.Publish("plant/x", 1, false, fmt.Sprint(i)); !k.WaitTimeout(patience) || k.Error() != nil {
			t.Fatal(k.Error())
		}
		if i%100 == 50 {
			link.cut()
		}
	}
	have := func() int {
		seen := map[string]bool{}
		for _, p := range in.payloads() {
			seen[p] = true
		}
		return len(seen)
	}
	eventually(t, "every message has come", func() bool { return have() == 300 })
}

func TestWatchesDropped(t *testing.T) {
	srv, at, _ := standing(t, "127.0.0.1:0")
	in := &memory{}
	s, _ := source(t, mqtt.Config{ID: "a", Broker: "tcp://" + at, WatchDropped: true, Topics: []string{"t"}}, in)
	up(t, s)
	for _, n := range []string{"100", "100", "nonsense", "5267", "10"} { // at last the broker was restarted
		send(t, srv, "$SYS/broker/publish/messages/dropped", n, 0)
	}
	send(t, srv, "t", "x", 1)
	eventually(t, "message is stored", func() bool { return len(in.payloads()) == 1 })
	eventually(t, "the number is exact", func() bool { return s.Dropped() == 5177 })
	if st, why := s.Health(); st != "degraded" || !strings.Contains(why, "5177") {
		t.Errorf("health is %s, %q", st, why)
	}
}

func TestNoGoroutineIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	// A listener that takes connections and never says a word.
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	s, stop := source(t, mqtt.Config{ID: "a", Broker: "tcp://" + ln.Addr().String()}, &memory{})
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if st, _ := s.Health(); st != "connecting" {
		t.Errorf("health is %s", st)
	}
	stop()
	_ = c.Close()
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}

func TestCheck(t *testing.T) {
	for want, cfg := range map[string]mqtt.Config{
		"":            {ID: "a", Broker: "tcp://h"},
		"id: ":        {Broker: "tcp://h"},
		"broker: \"":  {ID: "a"},
		"broker: \"h": {ID: "a", Broker: "http://h"},
		"topics: ":    {ID: "a", Broker: "tcp://h:1", Topics: []string{"a/#/b"}},
		"qos: ":       {ID: "a", Broker: "tcp://h:1", QoS: 3},
		"password: ":  {ID: "a", Broker: "tcp://h:1", Password: conf.NewSecret("x")},
	} {
		err := cfg.Check()
		switch {
		case want == "" && err != nil:
			t.Errorf("good config: %v", err)
		case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("error %v, want %s…", err, want)
		}
	}
	if _, err := mqtt.New(mqtt.Config{ID: "a", Broker: "ssl://h", CA: "/does/not/exist"}, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), "ca: ") {
		t.Errorf("missing CA file: %v", err)
	}
}

// A link is a TCP relay that can be cut.
type link struct {
	ln    net.Listener
	to    string
	mu    sync.Mutex
	conns []net.Conn
	wg    sync.WaitGroup
}

func newLink(tb testing.TB, to string) *link {
	tb.Helper()
	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	l := &link{ln: ln, to: to}
	l.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			o, err := new(net.Dialer).DialContext(tb.Context(), "tcp", to)
			if err != nil {
				_ = c.Close()
				continue
			}
			l.mu.Lock()
			l.conns = append(l.conns, c, o)
			l.mu.Unlock()
			for _, p := range [][2]net.Conn{{c, o}, {o, c}} {
				l.wg.Go(func() {
					_, _ = io.Copy(p[0], p[1])
					_ = p[0].Close()
					_ = p[1].Close()
				})
			}
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		l.cut()
		l.wg.Wait()
	})
	return l
}

func (l *link) addr() string { return l.ln.Addr().String() }

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}
