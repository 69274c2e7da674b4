package nats_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
	"forebay/uplink/nats"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
)

var identity = record.Identity{Gateway: "edge-07", Epoch: 0x1234}

// options are those of a server with JetStream on disk that is kept small.
func options(dir string) *server.Options {
	return &server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true,
		JetStreamMaxMemory: 32 << 20, JetStreamMaxStore: 256 << 20,
	}
}

func start(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { stop(srv) })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	return srv
}

func stop(srv *server.Server) {
	srv.Shutdown()
	srv.WaitForShutdown()
}

// restart starts the server again, on its port and its disk.
func restart(t testing.TB, srv *server.Server, o *server.Options) *server.Server {
	t.Helper()
	port := srv.Addr().(*net.TCPAddr).Port
	stop(srv)
	again := *o
	again.Port = port
	return start(t, &again)
}

func client(t testing.TB, url string, opts ...natsgo.Option) *natsgo.Conn {
	t.Helper()
	nc, err := natsgo.Connect(url, append(opts, natsgo.MaxReconnects(-1), natsgo.ReconnectWait(20*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

const onDisk = `"storage":"file","retention":"limits","discard":"old"`

// create makes the stream TARGET; more are its other fields.
func create(t testing.TB, nc *natsgo.Conn, more string) {
	t.Helper()
	request(t, nc, "$JS.API.STREAM.CREATE.TARGET", `{"name":"TARGET","subjects":["forebay.>"],`+onDisk+`,`+more+`}`)
}

func request(t testing.TB, nc *natsgo.Conn, subject, body string) {
	t.Helper()
	until(t, subject+" is refused", func() bool {
		m, err := nc.Request(subject, []byte(body), 2*time.Second)
		if err == nil && strings.Contains(string(m.Data), `"error"`) && !strings.Contains(string(m.Data), "10008") {
			t.Fatalf("%s: %s", subject, m.Data)
		}
		return err == nil && !strings.Contains(string(m.Data), `"error"`)
	})
}

// until polls for a condition with a deadline.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func sink(t testing.TB, id record.Identity, cfg nats.Config, servers ...string) *nats.Sink {
	t.Helper()
	cfg.Servers = servers
	if cfg.Stream == "" {
		cfg.Stream = "TARGET"
	}
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = conf.Duration(2 * time.Second)
	}
	s, err := nats.New(cfg, lane.Home{Uplink: "cloud", ID: id, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func rec(shard record.ShardID, seq uint64) record.Record {
	return record.Record{
		Key: fmt.Sprintf("line/%d", seq%3), Source: "mqtt", Arrived: time.Unix(1763800000, 0),
		Data: fmt.Appendf(nil, `{"n":%d}`, seq), Pos: record.Pos{Shard: shard, Seq: seq},
	}
}

func batch(shard record.ShardID, from, n uint64) lane.Batch {
	b := lane.Batch{Lane: lane.Lane{Stream: "mqtt", Shard: shard}}
	for i := range n {
		b.Recs = append(b.Recs, rec(shard, from+i))
	}
	return b
}

func send(t testing.TB, s *nats.Sink, b lane.Batch) lane.Outcome {
	t.Helper()
	return s.Send(t.Context(), []lane.Batch{b})[0]
}

func wantDone(t testing.TB, o lane.Outcome, n int) {
	t.Helper()
	if o.Done != n || o.Class != lane.OK || o.Err != nil {
		t.Fatalf("%d done, %v, %v; want %d", o.Done, o.Class, o.Err, n)
	}
}

func wantClass(t testing.TB, o lane.Outcome, done int, class lane.Class, words string) {
	t.Helper()
	if o.Done != done || o.Class != class || o.Err == nil || !strings.Contains(o.Err.Error(), words) {
		t.Fatalf("%d done, %v, %v; want %d, %v and the words %q", o.Done, o.Class, o.Err, done, class, words)
	}
}

// A stored is one message as a consumer sees it.
type stored struct {
	subject, id string
	header      natsgo.Header
	data        []byte
}

// read reads what the stream TARGET holds on the subjects.
func read(t testing.TB, nc *natsgo.Conn, filter string) []stored {
	t.Helper()
	return readFrom(t, nc, "TARGET", filter)
}

func readFrom(t testing.TB, nc *natsgo.Conn, stream, filter string) []stored {
	t.Helper()
	if stream == "" {
		stream = "TARGET"
	}
	js, err := nc.JetStream(natsgo.MaxWait(10 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var out []stored
	last, err := js.GetLastMsg(stream, filter)
	if err != nil {
		if strings.Contains(err.Error(), "not found") {
			return nil
		}
		t.Fatal(err)
	}
	sub, err := js.SubscribeSync(filter, natsgo.OrderedConsumer(), natsgo.BindStream(stream))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	for {
		m, err := sub.NextMsg(20 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, stored{m.Subject, m.Header.Get("Nats-Msg-Id"), m.Header, m.Data})
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		if meta.Sequence.Stream >= last.Sequence {
			return out
		}
	}
}

// wantExactly wants the records 1 to n of a lane, each once, in order.
func wantExactly(t testing.TB, got []stored, id record.Identity, shard record.ShardID, n uint64) {
	t.Helper()
	for i, m := range got {
		want := id.ID(record.Pos{Shard: shard, Seq: uint64(i) + 1})
		if m.id != want {
			t.Fatalf("message %d of lane %d is %s, want %s", i+1, shard, m.id, want)
		}
		o, err := envelope.Open(m.data)
		if err != nil {
			t.Fatal(err)
		}
		var v struct{ N uint64 }
		if err := json.Unmarshal(o.Data, &v); err != nil || v.N != uint64(i)+1 {
			t.Fatalf("%s holds %s: %v", m.id, o.Data, err)
		}
	}
	if uint64(len(got)) != n {
		t.Fatalf("lane %d has %d messages, want %d", shard, len(got), n)
	}
}

// A cable leads to a server; it can be cut, or swallow what passes.
type cable struct {
	l     net.Listener
	to    string
	deaf  atomic.Bool   // answers are swallowed
	mute  atomic.Bool   // requests are swallowed
	full  chan struct{} // closed at the end; requests that come after stall wait for it
	held  atomic.Bool
	stuck chan struct{} // closed when one does
	once  sync.Once

	mu    sync.Mutex
	conns map[net.Conn]bool
	// up and down give how many bytes a new connection lives for; nil: for ever.
	up, down func() int64
}

func newCable(t testing.TB, to string) *cable {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{l: l, to: u.Host, full: make(chan struct{}), stuck: make(chan struct{}), conns: make(map[net.Conn]bool)}
	ctx := t.Context()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := new(net.Dialer).DialContext(ctx, "tcp", c.to)
			if err != nil {
				_ = near.Close()
				continue
			}
			c.mu.Lock()
			c.conns[near], c.conns[far] = true, true
			up, down := life(c.up), life(c.down)
			c.mu.Unlock()
			wg.Go(func() { pass(far, near, up, &c.mute, c.wait) })
			wg.Go(func() { pass(near, far, down, &c.deaf, nil) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		close(c.full)
		c.cut()
		wg.Wait()
	})
	return c
}

func (c *cable) url() string { return "nats://" + c.l.Addr().String() }

// stall makes the far side read nothing any more.
func (c *cable) stall() { c.held.Store(true) }

func (c *cable) wait() {
	if c.held.Load() {
		c.once.Do(func() { close(c.stuck) })
		<-c.full
	}
}

func (c *cable) lives(up, down func() int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up, c.down = up, down
}

func life(f func() int64) int64 {
	if f == nil {
		return 1 << 40
	}
	return f()
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for x := range c.conns {
		_ = x.Close()
		delete(c.conns, x)
	}
}

// pass copies until either end is closed or the life is over, and then closes
// both.
func pass(to, from net.Conn, left int64, swallow *atomic.Bool, wait func()) {
	buf := make([]byte, 4<<10)
	for left > 0 {
		if wait != nil {
			wait()
		}
		n, err := from.Read(buf[:min(int64(len(buf)), left)])
		left -= int64(n)
		if n > 0 && !swallow.Load() {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_, _ = to.Close(), from.Close()
}
